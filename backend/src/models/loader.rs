//! What a model is told apart by, and how it is loaded.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tracing::info;

use super::embed::Embedder;
use super::encoder::{EncoderSource, Encoders, Place, WeightsKey};
use super::pipeline::Pipeline;
use super::registry::{Facts, Memory, Resident, Source, Version};
use super::scorer::Scorer;
use super::settings_file::quietly;
use super::size;
use super::weights;
use crate::engine::{LoadFault, Purpose};
use crate::metrics::EngineMetrics;

/// How deep below a model's folder its files lie: those of modules are in folders of their own.
const DEPTH: usize = 2;

/// How many files of a model's folder are watched for changes. Those on the hub have a few hundred at
/// most, in all formats together.
const MOST_FILES: usize = 10_000;

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ModelKey {
    /// Without links.
    pub(crate) folder: PathBuf,
    /// For `BERTScore`, the layer that is compared; for embeddings there is none.
    pub(crate) layer: Option<usize>,
}

impl ModelKey {
    fn purpose(&self) -> Purpose {
        match self.layer {
            Some(_) => Purpose::BertScore,
            None => Purpose::Embed,
        }
    }
}

impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.folder.display();
        match self.layer {
            Some(layer) => write!(f, "bertscore:{folder} (layer {layer})"),
            None => write!(f, "embed:{folder}"),
        }
    }
}

/// A loaded model.
pub(crate) enum Model {
    Embedder(Arc<Embedder>),
    Scorer(Arc<Scorer>),
}

impl Resident for Model {
    fn memory(&self) -> Option<Memory> {
        Some(match self {
            Self::Embedder(model) => model.memory(),
            Self::Scorer(model) => model.memory(),
        })
    }
}

/// Reads models from their folders.
pub(crate) struct Loader {
    place: Place,
    encoders: Encoders,
    max_tokens: usize,
    metrics: EngineMetrics,
}

impl Loader {
    /// Models will run in `place` and read at most `max_tokens` of a text.
    pub(crate) fn new(place: Place, max_tokens: usize, metrics: EngineMetrics) -> Self {
        Self {
            place,
            encoders: Encoders::default(),
            max_tokens,
            metrics,
        }
    }

    /// What is to be said of the model if it can be loaded, as far as [`Self::check`] tells. `known`:
    /// what was said of it last, which stands while its files stay as they are.
    pub(crate) fn offer(&self, key: &ModelKey, known: Option<Facts>) -> Option<Facts> {
        if let Some(facts) = known.filter(|facts| facts.version == version(&key.folder)) {
            return Some(facts);
        }
        let facts = self.inspect(key);
        Self::check(key).then_some(facts)
    }

    /// Whether the model can be loaded, as far as its settings tell and the presence of its files.
    pub(crate) fn check(key: &ModelKey) -> bool {
        let encoder = quietly(|| match key.layer {
            Some(_) => Scorer::check(&key.folder).map(|()| key.folder.clone()),
            None => Embedder::check(&key.folder),
        });
        encoder.is_ok_and(|folder| weights::check(&folder).is_ok())
    }
}

impl Source for Loader {
    type Key = ModelKey;
    type Model = Model;

    fn inspect(&self, key: &ModelKey) -> Facts {
        // First, so that a change from now on is seen by the next look.
        let version = version(&key.folder);
        let pipeline = || quietly(|| Pipeline::read(&key.folder));
        let (encoder, beside) = if key.layer.is_some() {
            (key.folder.clone(), size::tokenizer(&key.folder))
        } else if let Ok(pipeline) = pipeline() {
            (pipeline.encoder.clone(), size::beside(&pipeline))
        } else {
            let memory = Memory::default();
            return Facts { memory, version };
        };
        let numbers = quietly(|| size::encoder_numbers(&encoder, key.layer)).unwrap_or(0);
        let place = self.place.serving(key.purpose());
        let bytes = numbers.saturating_mul(place.bytes_per_number());
        let weights = WeightsKey::new(&encoder, version, &place);
        let memory = Memory {
            own: beside,
            common: Some(weights.common(bytes)),
        };
        Facts { memory, version }
    }

    fn load(&self, key: &ModelKey) -> Result<Model, LoadFault> {
        let start = Instant::now();
        let folder = &key.folder;
        let from = EncoderSource {
            encoders: &self.encoders,
            version: version(folder),
            place: &self.place.serving(key.purpose()),
        };
        let loaded = match key.layer {
            Some(layer) => Scorer::load(folder, layer, &from, self.max_tokens)
                .map(|model| Model::Scorer(Arc::new(model))),
            None => Embedder::load(folder, &from, self.max_tokens)
                .map(|model| Model::Embedder(Arc::new(model))),
        };
        let purpose = key.purpose().name();
        self.metrics
            .model_loaded(purpose, start.elapsed(), loaded.is_ok());
        let model = loaded.map_err(|error| error.fault(folder))?;
        let took_seconds = start.elapsed().as_secs_f64();
        info!(model = %key, took_seconds, "model loaded");
        Ok(model)
    }
}

/// The state of the files in `folder`: their names, sizes and times of change.
fn version(folder: &Path) -> Version {
    let mut files = Vec::new();
    list(folder, DEPTH, &mut files);
    files.sort_unstable();
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    Version(hasher.finish())
}

type FileState = (PathBuf, u64, Option<SystemTime>);

/// What cannot be read is left out: then its appearance is a change.
fn list(folder: &Path, depth: usize, files: &mut Vec<FileState>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if files.len() >= MOST_FILES {
            return;
        }
        // Links are followed: the hub's cache consists of them.
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() && depth > 1 => list(&path, depth - 1, files),
            Ok(found) if found.is_file() => files.push((path, found.len(), found.modified().ok())),
            _ => {}
        }
    }
}
