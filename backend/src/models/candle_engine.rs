//! The engine: has the [`Catalog`] find the model, runs it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use candle_core::Device;
use gpu_bridge_encoder::{ThreadPoolBuildError, Threads};
use thiserror::Error;
use tracing::{error, warn};

use super::baseline::Baselines;
use super::catalog::Catalog;
use super::downloads::{DownloadPlan, Downloads};
use super::encoder::Place;
use super::loader::Loader;
use super::locate::ModelSources;
use super::registry::{Policy, Stage};
use super::scheduler::Scheduler;
use super::warm_up::{DefaultModel, WarmUp};
use crate::device::Precision;
use crate::engine::{
    Cancellation, Embeddings, Engine, EngineError, LoadFault, ModelUsage, Progress, Purpose,
    Readiness, Scores, Scoring,
};
use crate::metrics::EngineMetrics;

/// Tokens of a batch for each thread: enough to keep it busy, few enough that a request which comes
/// in the meantime waits only briefly.
const TOKENS_PER_THREAD: usize = 512;
/// The same for a GPU. text-embeddings-inference takes as many (`--max-batch-tokens`).
const TOKENS_PER_GPU: usize = 16 * 1024;

/// How models are run.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where models run.
    pub device: Device,
    /// How precisely they are computed.
    pub precision: Precision,
    /// Threads that compute on the processor.
    pub threads: NonZeroUsize,
    /// Texts, or pairs, for each step of progress (`GPU_EMBED_BATCH`).
    pub embed_batch: NonZeroUsize,
    /// The most tokens of a text, special ones included, for models that would take more.
    pub max_tokens: usize,
    /// The hidden layer that `BERTScore` compares, by model name; for others the published one, else
    /// the last.
    pub bertscore_layers: BTreeMap<String, usize>,
    /// Counts batches and models.
    pub metrics: EngineMetrics,
    /// Memory for models, in bytes.
    pub model_memory: u64,
    /// What [`CandleEngine::warm_up`] loads, in this order.
    pub defaults: Vec<DefaultModel>,
    /// What [`CandleEngine::warm_up`] downloads first; `None`: nothing.
    pub downloads: Option<DownloadPlan>,
}

/// The engine cannot start.
#[derive(Debug, Error)]
#[error("cannot start the threads that compute: {0}")]
pub enum StartError {
    /// Those of a forward pass.
    Pool(#[from] ThreadPoolBuildError),
    /// The one that forms batches.
    Batches(#[from] std::io::Error),
}

impl Default for EngineOptions {
    /// On the processor, one thread for each that this process may use, 32 texts, published layers, as many
    /// models as come, none in advance.
    fn default() -> Self {
        const TEXTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);
        Self {
            device: Device::Cpu,
            precision: Precision::Auto,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            embed_batch: TEXTS,
            max_tokens: usize::MAX,
            bertscore_layers: BTreeMap::new(),
            metrics: EngineMetrics::default(),
            model_memory: u64::MAX,
            defaults: Vec::new(),
            downloads: None,
        }
    }
}

/// An [`Engine`] on candle. Models are loaded when they are first asked for, and stay as long as
/// memory lasts.
pub struct CandleEngine {
    catalog: Arc<Catalog>,
    baselines: Baselines,
    scheduler: Scheduler,
    embed_batch: NonZeroUsize,
    warm_up: WarmUp,
}

impl CandleEngine {
    /// An engine that has loaded nothing yet.
    ///
    /// # Errors
    /// The system refuses the threads.
    pub fn new(sources: ModelSources, options: EngineOptions) -> Result<Self, StartError> {
        let policy = Policy::with_budget(options.model_memory);
        let layers = options.bertscore_layers;
        let downloads = Downloads::new(options.downloads, &options.defaults);
        let threads = Threads::new(options.threads)?;
        let budget = match options.device {
            Device::Cpu => TOKENS_PER_THREAD * threads.count(),
            _ => TOKENS_PER_GPU,
        };
        let place = Place::new(options.device, options.precision, threads);
        let loader = Loader::new(place, options.max_tokens, options.metrics.clone());
        let baselines = Baselines::new(sources.baselines.clone());
        Ok(Self {
            catalog: Arc::new(Catalog::new(sources, downloads, layers, loader, policy)),
            baselines,
            scheduler: Scheduler::start(budget, options.metrics)?,
            embed_batch: options.embed_batch,
            warm_up: WarmUp::of(options.defaults),
        })
    }

    /// Loads the default models and computes something with each, so that the first request does
    /// not wait for it; downloads what is missing and may be. A host without one of them is of use
    /// all the same. Blocks; to be called once.
    pub fn warm_up(&self) {
        self.catalog.look();
        for model in self.warm_up.models() {
            // A panic over one model is that model's failure.
            let prepared = catch_unwind(AssertUnwindSafe(|| self.prepare(model)));
            let panicked = |_| {
                let fault = format!("model '{}': preparing it panicked", model.name);
                error!("default {fault}");
                Err(fault.into())
            };
            self.warm_up.done(prepared.unwrap_or_else(panicked));
        }
        self.catalog.obtain_others();
        self.catalog.look();
    }

    /// Tells the log what fails.
    fn prepare(&self, model: &DefaultModel) -> Result<(), LoadFault> {
        if let Err(fault) = self.catalog.obtain(model) {
            let fault = format!("model '{}' is not downloaded: {fault}", model.name);
            error!("default {fault}");
            return Err(fault.into());
        }
        let warm = self.warm(model);
        match &warm {
            Ok(()) => {}
            Err(fault @ (EngineError::NotInstalled { .. } | EngineError::Ambiguous { .. })) => {
                warn!("default {fault}");
            }
            Err(fault) => error!("default {fault}"),
        }
        warm.map_err(LoadFault::from)
    }

    fn warm(&self, DefaultModel { purpose, name }: &DefaultModel) -> Result<(), EngineError> {
        let text = ["ready".to_owned()];
        loop {
            let computed = match purpose {
                Purpose::Embed => self.embed(name, &text, &Nobody).map(drop),
                Purpose::BertScore => self
                    .bertscore(name, &text, &text, &Scoring::default(), &Nobody)
                    .map(drop),
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
        let (scheduler, step) = (&self.scheduler, self.embed_batch);
        self.catalog
            .embedder(model, progress)?
            .embed(scheduler, texts, step, progress)
    }

    fn bertscore(
        &self,
        model: &str,
        candidates: &[String],
        references: &[String],
        scoring: &Scoring,
        progress: &dyn Progress,
    ) -> Result<Scores, EngineError> {
        let (scheduler, step) = (&self.scheduler, self.embed_batch);
        let leased = self.catalog.scorer(model, progress)?;
        let find = |language: &String| self.baselines.find(model, language, leased.layer());
        let baseline = scoring.baseline.as_ref().map(find).transpose()?;
        let pairs = (candidates, references);
        let mut scores = leased.score(scheduler, pairs, scoring.idf, step, progress)?;
        if let Some(baseline) = baseline {
            baseline.rescale(&mut scores);
        }
        Ok(scores)
    }

    fn is_loaded(&self, purpose: Purpose, model: &str) -> bool {
        self.catalog.stage(purpose, model) == Stage::Ready
    }

    fn load(
        &self,
        purpose: Purpose,
        model: &str,
        progress: &dyn Progress,
    ) -> Result<(), EngineError> {
        match purpose {
            Purpose::Embed => self.catalog.embedder(model, progress).map(drop),
            Purpose::BertScore => self.catalog.scorer(model, progress).map(drop),
        }
    }

    fn loaded_models(&self) -> Vec<String> {
        self.catalog.loaded()
    }

    fn available_models(&self) -> Option<Vec<String>> {
        self.catalog.available()
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
pub(super) struct Nobody;

impl Progress for Nobody {
    fn finished(&self, _: usize) {}

    fn cancellation(&self) -> Cancellation {
        Cancellation::default()
    }
}
