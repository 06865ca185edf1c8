//! From a model's name to the loaded model: [`ModelSources`] finds the folder, the [`Registry`]
//! holds what was loaded from it.
//!
//! A model is told apart by what is loaded, not by its name: purpose, folder (links resolved) and,
//! for `BERTScore`, the layer. So a folder under two names is loaded once, and under two layers twice.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::error;

use super::config::EncoderConfig;
use super::downloads::Downloads;
use super::embed::Embedder;
use super::error::LoadError;
use super::layers::layer_for;
use super::loader::{Loader, Model, ModelKey};
use super::locate::ModelSources;
use super::registry::{Failure, Lease, Policy, Refusal, Registry, Stage};
use super::scorer::Scorer;
use super::warm_up::DefaultModel;
use crate::engine::{EngineError, ModelUsage, Progress, Purpose};
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
                    reason: failure.to_string(),
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
        let Some(folder) = self.sources.find(name, purpose) else {
            return Err(self.not_there(purpose, name));
        };
        let key = self.key_of(purpose, name, folder);
        let key = key.map_err(|error| EngineError::Load {
            name: name.to_owned(),
            reason: error.to_string(),
        })?;
        self.names().insert((purpose, name.to_owned()), key.clone());
        Ok(key)
    }

    fn not_there(&self, purpose: Purpose, name: &str) -> EngineError {
        let name = name.to_owned();
        if self.downloads.is_pending(purpose, &name) {
            return EngineError::Loading { name };
        }
        let installed = self.sources.installed();
        EngineError::NotInstalled { name, installed }
    }

    fn key_of(&self, purpose: Purpose, name: &str, path: PathBuf) -> Result<ModelKey, LoadError> {
        let layer = match purpose {
            Purpose::Embed => None,
            Purpose::BertScore => {
                let available = EncoderConfig::read(&path)?.layers;
                Some(layer_for(name, &self.bertscore_layers, available)?)
            }
        };
        match path.canonicalize() {
            Ok(folder) => Ok(ModelKey { folder, layer }),
            Err(source) => Err(LoadError::Read { path, source }),
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

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load(reason) => f.write_str(reason),
            Self::TooLarge { needed, budget } => write!(
                f,
                "it needs {} MiB of memory, more than the {} MiB that all models together may \
                 take; GPU_MODEL_MEMORY_MB (--model-memory-mb) sets that",
                needed.div_ceil(MIB),
                budget / MIB
            ),
        }
    }
}

#[cfg(test)]
mod tests;
