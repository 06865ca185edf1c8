//! Why a model cannot be loaded: sentences for the operator's log, which name the file and the key
//! to look at.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::engine::EngineError;

/// A model's folder is there, but this program cannot use it.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    #[error("{} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{}: '{key}' {problem}", path.display())]
    Setting {
        path: PathBuf,
        key: &'static str,
        problem: String,
    },
    #[error("architecture '{found}' is not supported; supported: {supported}")]
    Architecture { found: String, supported: String },
    #[error("{}: {problem}", path.display())]
    Tokenizer { path: PathBuf, problem: String },
    #[error("weights in {}: {problem}", path.display())]
    Weights { path: PathBuf, problem: String },
    #[error("layer {wanted} was asked for, but the model has {available}")]
    Layer { wanted: usize, available: usize },
    #[error("{}: no line 'layer,P,R,F' for layer {layer}", path.display())]
    Baseline { path: PathBuf, layer: usize },
    #[error("the list of published layers is broken: {0}")]
    PublishedLayers(serde_json::Error),
}

/// What the client must not see, for the log.
pub(crate) fn inference(error: impl std::fmt::Display) -> EngineError {
    EngineError::Inference(error.to_string())
}
