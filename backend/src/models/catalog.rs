//! From a model's name to the loaded model: [`ModelSources`] finds the folder, the [`Registry`]
//! holds what was loaded from it.
//!
//! A model is told apart by what is loaded, not by its name: purpose, folder (links resolved) and,
//! for `BERTScore`, the layer. So a folder under two names is loaded once, and under two layers twice.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::error;

use super::availability::{Availability, Offer};
use super::config::EncoderConfig;
use super::downloads::Downloads;
use super::embed::Embedder;
use super::error::LoadError;
use super::layers::layer_for;
use super::loader::{Loader, Model, ModelKey};
use super::locate::{Found, Missing, ModelSources};
use super::registry::{Facts, Failure, Lease, Policy, Refusal, Registry, Stage};
use super::scorer::Scorer;
use super::settings_file::quietly;
use super::warm_up::DefaultModel;
use crate::engine::{EngineError, LoadFault, ModelUsage, Progress, Purpose};
use crate::hub::HubError;

const MIB: u64 = 1 << 20;

/// All models that can be asked for.
pub(crate) struct Catalog {
    sources: ModelSources,
    downloads: Downloads,
    bertscore_layers: BTreeMap<String, usize>,
    registry: Registry<Loader>,
    /// What each name that was asked for led to. Only names of models that exist get in.
    names: Mutex<BTreeMap<(Purpose, String), ModelKey>>,
    availability: Availability,
}

impl Catalog {
    /// Nothing is loaded yet.
    pub(crate) fn new(
        sources: ModelSources,
        downloads: Downloads,
        bertscore_layers: BTreeMap<String, usize>,
        loader: Loader,
        policy: Policy,
    ) -> Self {
        Self {
            sources,
            downloads,
            bertscore_layers,
            registry: Registry::new(loader, policy),
            names: Mutex::default(),
            availability: Availability::default(),
        }
    }

    /// The model for embeddings called `name`, loaded if need be. Blocks.
    pub(crate) fn embedder(
        &self,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<Leased<Embedder>, EngineError> {
        let lease = self.lease(Purpose::Embed, name, progress)?;
        let Model::Embedder(model) = &*lease else {
            return Err(mixed_up(name));
        };
        let model = Arc::clone(model);
        Ok(Leased { model, lease })
    }

    /// The model for `BERTScore` called `name`, loaded if need be. Blocks.
    pub(crate) fn scorer(
        &self,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<Leased<Scorer>, EngineError> {
        let lease = self.lease(Purpose::BertScore, name, progress)?;
        let Model::Scorer(model) = &*lease else {
            return Err(mixed_up(name));
        };
        let model = Arc::clone(model);
        Ok(Leased { model, lease })
    }

    /// Downloads a default model if it is missing and may be. Blocks.
    pub(crate) fn obtain(&self, model: &DefaultModel) -> Result<(), HubError> {
        self.downloads.obtain(&self.sources, model)
    }

    /// Downloads what else the operator wants and is missing. Blocks.
    pub(crate) fn obtain_others(&self) {
        self.downloads.obtain_others(&self.sources, |name, fault| {
            error!(model = name, "not downloaded: {fault}");
        });
    }

    /// Names of loaded models as `/info` lists them, sorted: `"bertscore:NAME"`, `"embed:NAME"`.
    pub(crate) fn loaded(&self) -> Vec<String> {
        let names = self.names();
        let loaded = names
            .iter()
            .filter(|(_, key)| self.registry.stage(key) == Stage::Ready);
        let mut loaded: Vec<String> = loaded
            .map(|((purpose, name), _)| format!("{}:{name}", purpose.name()))
            .collect();
        loaded.sort_unstable();
        loaded
    }

    /// All that can be served, as `/info` lists it; `None`: not known. Never waits.
    pub(crate) fn available(self: &Arc<Self>) -> Option<Vec<String>> {
        let catalog = Arc::clone(self);
        let offers = self.availability.latest(move || catalog.look())?;
        let offers = offers
            .iter()
            .filter(|offer| !self.registry.is_hopeless(&offer.key, offer.facts));
        Some(offers.map(|offer| offer.name.clone()).collect())
    }

    /// Looks at the folders for what can be served. Blocks.
    pub(crate) fn look(&self) {
        let last = self.availability.last();
        let known: BTreeMap<&ModelKey, Facts> = last
            .iter()
            .flat_map(|offers| offers.iter())
            .map(|offer| (&offer.key, offer.facts))
            .collect();
        let mut checked = BTreeMap::new();
        let mut offers = Vec::new();
        for ((purpose, name), found) in self.sources.all_names() {
            let Ok(key) = self.key_of(purpose, &name, &found) else {
                continue;
            };
            let source = self.registry.source();
            let facts = checked
                .entry(key.clone())
                .or_insert_with(|| source.offer(&key, known.get(&key).copied()));
            if let Some(facts) = *facts {
                let name = format!("{}:{name}", purpose.name());
                offers.push(Offer { name, key, facts });
            }
        }
        self.availability.found(offers);
    }

    /// Where the model is at, as far as it was asked for. Never waits.
    pub(crate) fn stage(&self, purpose: Purpose, name: &str) -> Stage {
        let key = self.names().get(&(purpose, name.to_owned())).cloned();
        key.map_or(Stage::Absent, |key| self.registry.stage(&key))
    }

    pub(crate) fn usage(&self) -> ModelUsage {
        self.registry.usage()
    }

    fn lease(
        &self,
        purpose: Purpose,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<Lease<Loader>, EngineError> {
        let key = self.key(purpose, name)?;
        self.registry.acquire(&key, progress).map_err(|refusal| {
            let name = name.to_owned();
            match refusal {
                Refusal::Cancelled => EngineError::Cancelled,
                Refusal::NoMemory => EngineError::NoMemory { name },
                Refusal::StillLoading => EngineError::Loading { name },
                Refusal::Failed(failure) => EngineError::Load {
                    name,
                    fault: failure.into(),
                },
            }
        })
    }

    /// What `name` stands for. While that is loaded, the file system is not asked again.
    fn key(&self, purpose: Purpose, name: &str) -> Result<ModelKey, EngineError> {
        let known = self.names().get(&(purpose, name.to_owned())).cloned();
        if let Some(key) = known.filter(|key| self.registry.stage(key) == Stage::Ready) {
            return Ok(key);
        }
        let found = self.sources.find(name, purpose);
        let found = found.map_err(|missing| self.not_there(purpose, name, missing))?;
        let key = self.key_of(purpose, name, &found);
        let key = key.map_err(|error| EngineError::Load {
            name: name.to_owned(),
            fault: error.fault(&found.folder),
        })?;
        self.names().insert((purpose, name.to_owned()), key.clone());
        Ok(key)
    }

    fn not_there(&self, purpose: Purpose, name: &str, missing: Missing) -> EngineError {
        let name = name.to_owned();
        if let Missing::Ambiguous(candidates) = missing {
            return EngineError::Ambiguous { name, candidates };
        }
        if self.downloads.is_pending(purpose, &name) {
            return EngineError::Loading { name };
        }
        let installed = self.sources.installed();
        EngineError::NotInstalled { name, installed }
    }

    fn key_of(&self, purpose: Purpose, name: &str, found: &Found) -> Result<ModelKey, LoadError> {
        let path = &found.folder;
        let layer = match purpose {
            Purpose::Embed => None,
            Purpose::BertScore => {
                let available = quietly(|| EncoderConfig::read(path))?.layers;
                let names = [name, found.name.as_str()];
                Some(layer_for(names, &self.bertscore_layers, available)?)
            }
        };
        match path.canonicalize() {
            Ok(folder) => Ok(ModelKey { folder, layer }),
            Err(source) => Err(LoadError::Read {
                path: path.clone(),
                source,
            }),
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<(Purpose, String), ModelKey>> {
        // No panic can leave the map half-changed.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registry keeps models under keys of their purpose, so that this does not happen.
fn mixed_up(name: &str) -> EngineError {
    EngineError::Inference(format!("model '{name}' is loaded for another purpose"))
}

/// A model in use; it stays in memory as long as this lives.
pub(crate) struct Leased<M> {
    model: Arc<M>,
    #[expect(dead_code, reason = "held for what its end does")]
    lease: Lease<Loader>,
}

impl<M> Deref for Leased<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.model
    }
}

impl From<Failure> for LoadFault {
    fn from(failure: Failure) -> Self {
        let (needed, budget) = match failure {
            Failure::Load(fault) => return fault,
            Failure::TooLarge { needed, budget } => (needed, budget),
        };
        let reason = format!(
            "it needs {} MiB of memory, more than the {} MiB that all models together may take",
            needed.div_ceil(MIB),
            budget / MIB
        );
        Self {
            details: format!("{reason}; GPU_MODEL_MEMORY_MB (--model-memory-mb) sets that"),
            reason,
            passing: false,
        }
    }
}

#[cfg(test)]
mod tests;
