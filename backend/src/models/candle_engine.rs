//! The engine: finds the model, loads it if need be, runs it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use gpu_bridge_encoder::{ThreadPoolBuildError, Threads};
use thiserror::Error;
use tracing::info;

use super::embed::Embedder;
use super::error::LoadError;
use super::locate::{ModelSources, Purpose};
use super::registry::Registry;
use super::scorer::Scorer;
use crate::engine::{Embeddings, Engine, EngineError, Progress, Scores};

/// How models are run.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Texts, or pairs, for each step of progress (`GPU_EMBED_BATCH`).
    pub embed_batch: NonZeroUsize,
    /// The hidden layer that `BERTScore` compares, by model name; for others the published one, else
    /// the last.
    pub bertscore_layers: BTreeMap<String, usize>,
}

/// The engine cannot start.
#[derive(Debug, Error)]
#[error("cannot start the threads that compute: {0}")]
pub struct StartError(#[from] ThreadPoolBuildError);

impl Default for EngineOptions {
    /// One thread for each processor that this process may use, 32 texts, published layers.
    fn default() -> Self {
        const TEXTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);
        Self {
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            embed_batch: TEXTS,
            bertscore_layers: BTreeMap::new(),
        }
    }
}

/// An [`Engine`] on candle. Models are loaded when they are first asked for and stay.
pub struct CandleEngine {
    sources: ModelSources,
    options: EngineOptions,
    threads: Threads,
    embedders: Registry<Embedder>,
    scorers: Registry<Scorer>,
}

impl CandleEngine {
    /// An engine that has loaded nothing yet.
    ///
    /// # Errors
    /// The system refuses the threads.
    pub fn new(sources: ModelSources, options: EngineOptions) -> Result<Self, StartError> {
        Ok(Self {
            threads: Threads::new(options.threads)?,
            sources,
            options,
            embedders: Registry::new(),
            scorers: Registry::new(),
        })
    }

    fn embedder(&self, name: &str) -> Result<Arc<Embedder>, EngineError> {
        self.model(&self.embedders, name, Purpose::Embed, |folder| {
            Embedder::load(folder, &self.threads)
        })
    }

    fn scorer(&self, name: &str) -> Result<Arc<Scorer>, EngineError> {
        self.model(&self.scorers, name, Purpose::BertScore, |folder| {
            Scorer::load(name, folder, &self.options.bertscore_layers, &self.threads)
        })
    }

    /// The model from the registry; if it is not there, from its folder.
    fn model<M>(
        &self,
        registry: &Registry<M>,
        name: &str,
        purpose: Purpose,
        load: impl FnOnce(&PathBuf) -> Result<M, LoadError>,
    ) -> Result<Arc<M>, EngineError> {
        if let Some(model) = registry.get(name) {
            return Ok(model);
        }
        let Some(folder) = self.sources.find(name, purpose) else {
            let installed = self.sources.installed();
            return Err(EngineError::NotInstalled {
                name: name.to_owned(),
                installed,
            });
        };
        registry.get_or_load(name, || {
            let start = Instant::now();
            let model = load(&folder).map_err(|error| EngineError::Load {
                name: name.to_owned(),
                reason: error.to_string(),
            })?;
            info!(model = name, ?purpose, folder = %folder.display(), took = ?start.elapsed(), "model loaded");
            Ok(model)
        })
    }
}

impl Engine for CandleEngine {
    fn embed(
        &self,
        model: &str,
        texts: &[String],
        progress: &dyn Progress,
    ) -> Result<Embeddings, EngineError> {
        self.embedder(model)?
            .embed(texts, self.options.embed_batch, progress)
    }

    fn bertscore(
        &self,
        model: &str,
        candidates: &[String],
        references: &[String],
        progress: &dyn Progress,
    ) -> Result<Scores, EngineError> {
        let step = self.options.embed_batch;
        self.scorer(model)?
            .score(candidates, references, step, progress)
    }

    fn loaded_models(&self) -> Vec<String> {
        let scorers = self
            .scorers
            .loaded()
            .into_iter()
            .map(|name| format!("bertscore:{name}"));
        let embedders = self
            .embedders
            .loaded()
            .into_iter()
            .map(|name| format!("embed:{name}"));
        scorers.chain(embedders).collect()
    }
}
