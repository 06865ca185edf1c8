//! The engine: has the [`Catalog`] find the model, runs it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use candle_core::Device;
use tracing::{error, warn};

use super::catalog::Catalog;
use super::downloads::{DownloadPlan, Downloads};
use super::locate::ModelSources;
use super::registry::{Policy, Stage};
use super::warm_up::{DefaultModel, WarmUp};
use crate::engine::{
    Embeddings, Engine, EngineError, ModelUsage, Progress, Purpose, Readiness, Scores,
};

/// How models are run.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where they run.
    pub device: Device,
    /// Texts, or pairs, for each step of progress (`GPU_EMBED_BATCH`).
    pub embed_batch: NonZeroUsize,
    /// The hidden layer that `BERTScore` compares, by model name; for others the published one, else
    /// the last.
    pub bertscore_layers: BTreeMap<String, usize>,
    /// Memory for models, in bytes.
    pub model_memory: u64,
    /// What [`CandleEngine::warm_up`] loads, in this order.
    pub defaults: Vec<DefaultModel>,
    /// What [`CandleEngine::warm_up`] downloads first; `None`: nothing.
    pub downloads: Option<DownloadPlan>,
}

impl Default for EngineOptions {
    /// The processor, 32 texts, published layers, as many models as come, none in advance.
    fn default() -> Self {
        const TEXTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);
        Self {
            device: Device::Cpu,
            embed_batch: TEXTS,
            bertscore_layers: BTreeMap::new(),
            model_memory: u64::MAX,
            defaults: Vec::new(),
            downloads: None,
        }
    }
}

/// An [`Engine`] on candle. Models are loaded when they are first asked for, and stay as long as
/// memory lasts.
pub struct CandleEngine {
    catalog: Catalog,
    embed_batch: NonZeroUsize,
    warm_up: WarmUp,
}

impl CandleEngine {
    /// An engine that has loaded nothing yet.
    pub fn new(sources: ModelSources, options: EngineOptions) -> Self {
        let policy = Policy::with_budget(options.model_memory);
        let layers = options.bertscore_layers;
        let downloads = Downloads::new(options.downloads, &options.defaults);
        Self {
            catalog: Catalog::new(sources, downloads, layers, options.device, policy),
            embed_batch: options.embed_batch,
            warm_up: WarmUp::of(options.defaults),
        }
    }

    /// Loads the default models and computes something with each, so that the first request does
    /// not wait for it; downloads what is missing and may be. A host without one of them is of use
    /// all the same. Blocks; to be called once.
    pub fn warm_up(&self) {
        for model in self.warm_up.models() {
            self.warm_up.done(self.prepare(model));
        }
        self.catalog.obtain_others();
    }

    /// Tells the log what fails; the error is the same text.
    fn prepare(&self, model: &DefaultModel) -> Result<(), String> {
        if let Err(fault) = self.catalog.obtain(model) {
            let fault = format!("model '{}' is not downloaded: {fault}", model.name);
            error!("default {fault}");
            return Err(fault);
        }
        let warm = self.warm(model);
        match &warm {
            Ok(()) => {}
            Err(fault @ EngineError::NotInstalled { .. }) => warn!("default {fault}"),
            Err(fault) => error!("default {fault}"),
        }
        warm.map_err(|fault| fault.to_string())
    }

    fn warm(&self, DefaultModel { purpose, name }: &DefaultModel) -> Result<(), EngineError> {
        let text = ["ready".to_owned()];
        loop {
            let computed = match purpose {
                Purpose::Embed => self.embed(name, &text, &Nobody).map(drop),
                Purpose::BertScore => self.bertscore(name, &text, &text, &Nobody).map(drop),
            };
            // Unlike a request, this has the time.
            let loads = self.catalog.stage(*purpose, name) != Stage::Absent;
            if !(loads && matches!(computed, Err(EngineError::Loading { .. }))) {
                return computed;
            }
        }
    }
}

impl Engine for CandleEngine {
    fn embed(
        &self,
        model: &str,
        texts: &[String],
        progress: &dyn Progress,
    ) -> Result<Embeddings, EngineError> {
        self.catalog
            .embedder(model, progress)?
            .embed(texts, self.embed_batch, progress)
    }

    fn bertscore(
        &self,
        model: &str,
        candidates: &[String],
        references: &[String],
        progress: &dyn Progress,
    ) -> Result<Scores, EngineError> {
        self.catalog.scorer(model, progress)?.score(
            candidates,
            references,
            self.embed_batch,
            progress,
        )
    }

    fn loaded_models(&self) -> Vec<String> {
        self.catalog.loaded()
    }

    fn readiness(&self) -> Readiness {
        self.warm_up
            .readiness(|model| self.catalog.stage(model.purpose, &model.name))
    }

    fn model_usage(&self) -> ModelUsage {
        self.catalog.usage()
    }
}

/// Nobody watches the progress.
struct Nobody;

impl Progress for Nobody {
    fn finished(&self, _: usize) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}
