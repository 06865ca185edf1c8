//! The seam between the HTTP side (`api/`) and the models (`models/`): what the one may ask of the
//! other. Everything here is synchronous; the API calls it off the async threads and watches over
//! slots, deadlines and cancellation. Implementations never see HTTP, requests or slots.

use thiserror::Error;

/// Computes embeddings and scores with models found by name.
pub trait Engine: Send + Sync + 'static {
    /// Sentence embeddings of `texts`, one row each, in order. `texts` may be empty (the model's
    /// name is checked all the same).
    ///
    /// # Errors
    /// See [`EngineError`]; all or nothing.
    fn embed(
        &self,
        model: &str,
        texts: &[String],
        progress: &dyn Progress,
    ) -> Result<Embeddings, EngineError>;

    /// `BERTScore` of each `candidates[i]` against `references[i]`; both have the same length.
    ///
    /// # Errors
    /// See [`EngineError`]; all or nothing.
    fn bertscore(
        &self,
        model: &str,
        candidates: &[String],
        references: &[String],
        progress: &dyn Progress,
    ) -> Result<Scores, EngineError>;

    /// Models in memory, as `/info` lists them: `"bertscore:NAME"` first, then `"embed:NAME"`, each
    /// group sorted.
    fn loaded_models(&self) -> Vec<String>;
}

/// How the engine tells of its progress and learns that nobody waits for the result any more.
pub trait Progress: Sync {
    /// `done` of the request's items are finished.
    fn finished(&self, done: usize);
    /// True once the result is not wanted any more: stop before the next batch with
    /// [`EngineError::Cancelled`].
    fn is_cancelled(&self) -> bool;
}

/// Sentence embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// One vector for each text, all of `dimensions` numbers.
    pub rows: Vec<Vec<f32>>,
    /// Length of a vector; 0 if there are no rows.
    pub dimensions: usize,
}

/// `BERTScore` of each pair. NaN where the reference implementation has NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Mean best match over the candidate's tokens.
    pub precision: Vec<f32>,
    /// Mean best match over the reference's tokens.
    pub recall: Vec<f32>,
    /// Harmonic mean of the two; NaN becomes 0.
    pub f1: Vec<f32>,
}

/// Why the engine could not answer.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The name is unknown, or looks like a path. The text is what the client reads.
    #[error("model '{name}' is not installed on this host; installed: {}", list(.installed))]
    NotInstalled {
        /// The name as the request gave it.
        name: String,
        /// Names that would have worked, sorted.
        installed: Vec<String>,
    },
    /// The model is there but this program cannot run it (architecture, missing or broken file).
    /// The text goes to the log; it may name paths.
    #[error("model '{name}' cannot be loaded: {reason}")]
    Load {
        /// The name as the request gave it.
        name: String,
        /// What is wrong, for the operator.
        reason: String,
    },
    /// [`Progress::is_cancelled`] said so.
    #[error("cancelled")]
    Cancelled,
    /// The device has no memory for the smallest piece of this request. What runs beside it may be
    /// the reason, so that the request is worth repeating.
    #[error("the device has too little free memory for this request")]
    OutOfMemory,
    /// The computation failed. The text goes to the log.
    #[error("inference failed: {0}")]
    Inference(String),
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
