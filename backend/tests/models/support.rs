//! Engines over the golden files and over the real model, and what they report to.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use gpu_bridge_backend::device::Precision;
use gpu_bridge_backend::engine::{Cancellation, Progress};
use gpu_bridge_backend::models::{CandleEngine, EngineOptions, ModelSources};
use serde_json::Value;
use tempfile::TempDir;

/// The real model's name.
pub(crate) const MINILM: &str = "all-MiniLM-L6-v2";
/// The tiny model with random weights, in `tests/golden/tiny`.
pub(crate) const TINY: &str = "bert";

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A path under the repository's `tests/golden`.
pub(crate) fn golden(path: &str) -> PathBuf {
    repository().join("tests/golden").join(path)
}

/// A parsed JSON file under `tests/golden`.
pub(crate) fn golden_json(path: &str) -> Value {
    let text = std::fs::read(golden(path)).expect(path);
    serde_json::from_slice(&text).expect(path)
}

/// A models folder that holds a copy of `model` under its usual name.
pub(crate) fn copy_of(model: &str) -> TempDir {
    let folder = TempDir::new().expect("temporary folder");
    let (original, copy) = (golden("tiny").join(model), folder.path().join(model));
    std::fs::create_dir(&copy).expect("create folder");
    for file in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        std::fs::copy(original.join(file), copy.join(file)).expect("copy");
    }
    folder
}

/// Changes one setting of a JSON file.
pub(crate) fn change_setting(path: &Path, key: &str, value: Value) {
    let text = std::fs::read(path).expect("settings");
    let mut settings: Value = serde_json::from_slice(&text).expect("JSON");
    settings[key] = value;
    std::fs::write(path, settings.to_string()).expect("write");
}

/// An engine over one folder of models, and the baselines in `tests/golden`.
pub(crate) fn engine_over(models_dir: PathBuf, layers: &[(&str, usize)]) -> CandleEngine {
    engine_in(Precision::Auto, models_dir, layers)
}

fn engine_in(precision: Precision, models_dir: PathBuf, layers: &[(&str, usize)]) -> CandleEngine {
    let sources = ModelSources {
        models_dir: Some(models_dir),
        baselines: Some(golden("rescale_baseline")),
        ..ModelSources::default()
    };
    let layers = layers
        .iter()
        .map(|(name, layer)| ((*name).to_owned(), *layer));
    let bertscore_layers: BTreeMap<String, usize> = layers.collect();
    let embed_batch = NonZeroUsize::new(32).expect("not 0");
    let options = EngineOptions {
        precision,
        embed_batch,
        bertscore_layers,
        ..EngineOptions::default()
    };
    CandleEngine::new(sources, options).expect("starts")
}

/// An engine that has the tiny model.
pub(crate) fn tiny() -> CandleEngine {
    engine_over(golden("tiny"), &[])
}

/// An engine that has all-MiniLM-L6-v2, whose `BERTScore` compares `layer`.
pub(crate) fn minilm(layer: usize) -> CandleEngine {
    minilm_in(Precision::Auto, layer)
}

/// The same, in the given precision.
pub(crate) fn minilm_in(precision: Precision, layer: usize) -> CandleEngine {
    let folder = std::env::var_os("GPU_BRIDGE_TEST_MODELS");
    let folder = folder.map_or_else(|| repository().join(".models"), PathBuf::from);
    let weights = folder.join(MINILM).join("model.safetensors");
    assert!(
        weights.is_file(),
        "{} is missing: run `make model`",
        weights.display()
    );
    engine_in(precision, folder, &[(MINILM, layer)])
}

pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Notes what it is told, and wants no more once `enough` items are done.
pub(crate) struct Watcher {
    steps: Mutex<Vec<usize>>,
    enough: usize,
    cancellation: Cancellation,
}

impl Watcher {
    /// Waits for everything.
    pub(crate) fn patient() -> Self {
        Self::until(usize::MAX)
    }

    pub(crate) fn until(enough: usize) -> Self {
        Self {
            steps: Mutex::default(),
            enough,
            cancellation: Cancellation::default(),
        }
    }

    pub(crate) fn steps(&self) -> Vec<usize> {
        self.steps.lock().expect("lock").clone()
    }
}

impl Progress for Watcher {
    fn finished(&self, done: usize) {
        self.steps.lock().expect("lock").push(done);
        if done >= self.enough {
            self.cancellation.cancel();
        }
    }

    fn cancellation(&self) -> Cancellation {
        self.cancellation.clone()
    }
}
