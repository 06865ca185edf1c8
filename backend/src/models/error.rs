//! Why a model cannot be loaded: sentences for the operator's log, which name the file and the key
//! to look at, and what of them clients may read.

use std::io;
use std::path::{Path, PathBuf};

use gpu_bridge_encoder::ops;
use thiserror::Error;

use crate::engine::{EngineError, LoadFault};

/// The longest reason that a client reads, in characters: what is quoted in it is somebody's file.
const LONGEST_REASON: usize = 400;

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
    /// What stands in a file is understood, and not supported.
    #[error("{}: '{key}' {problem}", path.display())]
    Setting {
        path: PathBuf,
        key: String,
        problem: String,
    },
    #[error("{}: '{key}' must be {expected}: {source}", path.display())]
    Value {
        path: PathBuf,
        key: String,
        expected: &'static str,
        source: serde_json::Error,
    },
    #[error("architecture '{found}' is not supported; supported: {supported}")]
    Architecture { found: String, supported: String },
    /// In our words.
    #[error("{}: {problem}", path.display())]
    Tokenizer { path: PathBuf, problem: String },
    /// In the words of the library that reads it.
    #[error("{}: {problem}", path.display())]
    TokenizerFile { path: PathBuf, problem: String },
    /// In our words.
    #[error("weights in {}: {problem}", path.display())]
    Weights { path: PathBuf, problem: String },
    /// In our words; its name may be anything.
    #[error("weights in {}: the tensor '{name}' {problem}", path.display())]
    Tensor {
        path: PathBuf,
        name: String,
        problem: String,
    },
    /// In the words of the library that reads them.
    #[error("weights in {}: {problem}", path.display())]
    Tensors { path: PathBuf, problem: String },
    #[error("layer {wanted} was asked for, but the model has {available}")]
    Layer { wanted: usize, available: usize },
    #[error("{}: no line 'layer,P,R,F' of numbers other than 1 for layer {layer}", path.display())]
    Baseline { path: PathBuf, layer: usize },
}

impl LoadError {
    /// What is told of it; the files that it names lie in `root`.
    pub(crate) fn fault(&self, root: &Path) -> LoadFault {
        LoadFault {
            reason: quotable(&self.reason(root)),
            details: self.to_string(),
            passing: self.is_passing(),
        }
    }

    /// Says nothing in the words of other libraries, which may quote anything.
    fn reason(&self, root: &Path) -> String {
        let file = |path: &Path| {
            let inside = path.strip_prefix(root).ok();
            let inside = inside.or(path.file_name().map(Path::new));
            inside.unwrap_or(Path::new("")).display().to_string()
        };
        match self {
            Self::Read { path, source } => {
                // Of its own making, or the system's word for it.
                let why = source
                    .get_ref()
                    .map_or(source.kind().to_string(), ToString::to_string);
                format!("{} cannot be read ({why})", file(path))
            }
            Self::Json { path, source } => {
                let (line, column) = (source.line(), source.column());
                format!(
                    "{} is not what it should be (line {line}, column {column})",
                    file(path)
                )
            }
            Self::Setting { path, key, problem } => format!("{}: '{key}' {problem}", file(path)),
            Self::Value {
                path,
                key,
                expected,
                ..
            } => format!("{}: '{key}' must be {expected}", file(path)),
            Self::Tokenizer { problem, .. } => format!("tokenizer: {problem}"),
            Self::TokenizerFile { .. } => "the tokenizer's files are broken".to_owned(),
            Self::Weights { problem, .. } => format!("weights: {problem}"),
            Self::Tensor { problem, .. } => format!("weights: a tensor {problem}"),
            Self::Tensors { .. } => "the weights are broken, or do not fit config.json".to_owned(),
            Self::Architecture { .. } | Self::Layer { .. } => self.to_string(),
            Self::Baseline { path, layer } => {
                format!("{} has no usable line for layer {layer}", file(path))
            }
        }
    }

    /// A file that is there could not be read for now.
    fn is_passing(&self) -> bool {
        use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, PermissionDenied};
        let lasting = [
            InvalidData,
            IsADirectory,
            NotADirectory,
            NotFound,
            PermissionDenied,
        ];
        matches!(self, Self::Read { source, .. } if !lasting.contains(&source.kind()))
    }
}

/// `text` on one line, and not too long.
fn quotable(text: &str) -> String {
    let visible = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    visible.take(LONGEST_REASON).collect()
}

/// What the client must not see, for the log.
pub(crate) fn inference(error: impl std::fmt::Display) -> EngineError {
    EngineError::Inference(error.to_string())
}

/// Refuses to answer with NaN or infinity, which an answer would hold as null.
pub(crate) fn check_finite(numbers: &[f32]) -> Result<(), EngineError> {
    if ops::are_finite(numbers) {
        return Ok(());
    }
    Err(inference(
        "the numbers overflow, and a text comes out as NaN or infinity",
    ))
}
