//! What is downloaded, and how far that is. Only what the operator named at start: no request can
//! add to it. A model that is still to come is refused with "retry later" rather than "not
//! installed".

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::locate::{self, ModelSources, name_on_hub};
use super::warm_up::DefaultModel;
use crate::engine::Purpose;
use crate::hub::{Hub, HubError};

/// From where, and what besides the default models.
#[derive(Clone, Debug)]
pub struct DownloadPlan {
    /// Also says into which folder.
    pub hub: Hub,
    /// Full names on the hub.
    pub models: Vec<String>,
}

impl DownloadPlan {
    /// Whether a model on the hub can be called so.
    pub fn is_name(name: &str) -> bool {
        locate::is_plain(name)
    }
}

/// See the module.
pub(crate) struct Downloads {
    plan: Option<DownloadPlan>,
    /// What is still to be downloaded, or looked up, by its name on the hub.
    pending: Mutex<BTreeSet<String>>,
}

impl Downloads {
    /// Nothing has begun.
    pub(crate) fn new(plan: Option<DownloadPlan>, defaults: &[DefaultModel]) -> Self {
        let pending = plan.iter().flat_map(|plan| {
            let defaults = defaults.iter();
            let defaults = defaults.filter_map(|model| name_on_hub(&model.name, model.purpose));
            defaults.chain(plan.models.iter().cloned())
        });
        Self {
            pending: Mutex::new(pending.collect()),
            plan,
        }
    }

    /// Whether the model that requests call `name` is still to come.
    pub(crate) fn is_pending(&self, purpose: Purpose, name: &str) -> bool {
        let on_hub = name_on_hub(name, purpose);
        let pending = self.pending();
        on_hub.is_some_and(|on_hub| pending.contains(&on_hub)) || pending.contains(name)
    }

    /// Downloads a default model if it is not installed and may be. Blocks.
    pub(crate) fn obtain(
        &self,
        sources: &ModelSources,
        DefaultModel { purpose, name }: &DefaultModel,
    ) -> Result<(), HubError> {
        match (&self.plan, name_on_hub(name, *purpose)) {
            (Some(plan), Some(on_hub)) => {
                let installed = sources.has_whole(name, *purpose);
                self.settle(&plan.hub, &on_hub, installed)
            }
            _ => Ok(()),
        }
    }

    /// Downloads the other models of the plan that are not installed, and tells of each that fails.
    /// Blocks.
    pub(crate) fn obtain_others(
        &self,
        sources: &ModelSources,
        mut failed: impl FnMut(&str, &HubError),
    ) {
        let Some(plan) = &self.plan else { return };
        for name in &plan.models {
            // The purpose for which a name is taken as it is.
            let installed = sources.has_whole(name, Purpose::BertScore);
            if let Err(error) = self.settle(&plan.hub, name, installed) {
                failed(name, &error);
            }
        }
    }

    fn settle(&self, hub: &Hub, on_hub: &str, installed: bool) -> Result<(), HubError> {
        let result = if installed {
            Ok(())
        } else {
            hub.download(on_hub)
        };
        self.pending().remove(on_hub);
        result
    }

    fn pending(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // No panic can leave the set half-changed.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::hub::Retry;
    use crate::models::test_support::folder_with;

    /// A plan that nothing can be downloaded with: nobody listens there.
    fn downloads(cache: &Path, defaults: &[DefaultModel]) -> Downloads {
        let hub = Hub {
            endpoint: "http://127.0.0.1:1".parse().expect("a URL"),
            token: None,
            cache: cache.to_owned(),
            retry: Retry {
                attempts: 1,
                pause: Duration::ZERO,
            },
        };
        let models = vec!["org/other".to_owned()];
        Downloads::new(Some(DownloadPlan { hub, models }), defaults)
    }

    fn default_model(name: &str) -> DefaultModel {
        DefaultModel {
            purpose: Purpose::Embed,
            name: name.to_owned(),
        }
    }

    #[test]
    fn only_what_the_operator_named_is_ever_pending() {
        let cache = folder_with(&[]);
        let defaults = [default_model("mini"), default_model("/srv/folder")];
        let downloads = downloads(cache.path(), &defaults);
        for (purpose, name, pending) in [
            (Purpose::Embed, "mini", true),
            (Purpose::Embed, "sentence-transformers/mini", true),
            (Purpose::BertScore, "mini", false),
            (Purpose::BertScore, "org/other", true),
            (Purpose::Embed, "org/third", false),
            (Purpose::Embed, "/srv/folder", false),
            (Purpose::Embed, "../mini", false),
        ] {
            assert_eq!(downloads.is_pending(purpose, name), pending, "{name}");
        }
        let none = Downloads::new(None, &defaults);
        assert!(!none.is_pending(Purpose::Embed, "mini"));
    }

    #[test]
    fn a_download_that_failed_is_not_pending_any_more() {
        let cache = folder_with(&[]);
        let mini = default_model("mini");
        let downloads = downloads(cache.path(), std::slice::from_ref(&mini));
        let sources = ModelSources::default();
        assert!(downloads.obtain(&sources, &mini).is_err());
        assert!(!downloads.is_pending(Purpose::Embed, "mini"));
        let mut failed = Vec::new();
        downloads.obtain_others(&sources, |name, _| failed.push(name.to_owned()));
        assert_eq!(failed, ["org/other"]);
        assert!(!downloads.is_pending(Purpose::Embed, "org/other"));
    }

    #[test]
    fn what_is_installed_is_not_downloaded_and_what_lacks_its_weights_is() {
        let models = folder_with(&[("mini/config.json", "{}")]);
        let sources = ModelSources {
            models_dir: Some(models.path().to_owned()),
            ..ModelSources::default()
        };
        let mini = default_model("mini");
        let downloads = downloads(models.path(), std::slice::from_ref(&mini));
        let incomplete = downloads.obtain(&sources, &mini);
        assert!(incomplete.is_err(), "the download was tried");
        std::fs::write(models.path().join("mini/model.safetensors"), "").expect("write");
        downloads.obtain(&sources, &mini).expect("nothing to do");
        assert!(!downloads.is_pending(Purpose::Embed, "mini"));
    }
}
