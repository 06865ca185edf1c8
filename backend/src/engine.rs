//! The seam between the HTTP side (`api/`) and the models (`models/`): what the one may ask of the
//! other. Everything here is synchronous; the API calls it off the async threads and watches over
//! slots, deadlines and cancellation. Implementations never see HTTP, requests or slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// `scoring` says how.
    ///
    /// # Errors
    /// See [`EngineError`]; all or nothing.
    fn bertscore(
        &self,
        model: &str,
        candidates: &[String],
        references: &[String],
        scoring: &Scoring,
        progress: &dyn Progress,
    ) -> Result<Scores, EngineError>;

    /// Whether a request for the model need not wait until it is loaded.
    fn is_loaded(&self, purpose: Purpose, model: &str) -> bool {
        let _ = (purpose, model);
        true
    }

    /// Loads the model if need be, so that a request for it will not wait. Blocks.
    ///
    /// # Errors
    /// See [`EngineError`].
    fn load(
        &self,
        purpose: Purpose,
        model: &str,
        progress: &dyn Progress,
    ) -> Result<(), EngineError> {
        let _ = (purpose, model, progress);
        Ok(())
    }

    /// Models in memory, as `/info` lists them: `"bertscore:NAME"` first, then `"embed:NAME"`, each
    /// group sorted.
    fn loaded_models(&self) -> Vec<String>;

    /// All that can be served now, loaded or not, in the form of `loaded_models` and under each name
    /// that leads to it, sorted. `None`: not known. Never waits.
    fn available_models(&self) -> Option<Vec<String>> {
        None
    }

    /// Whether the default models can be used by now. An engine that loads none in advance is
    /// always ready.
    fn readiness(&self) -> Readiness {
        Readiness {
            ready: true,
            models: Vec::new(),
        }
    }

    /// Memory for models and what came and went in it.
    fn model_usage(&self) -> ModelUsage {
        ModelUsage::default()
    }
}

/// How pairs are scored; the default is what the Python service does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scoring {
    /// Tokens weigh by their inverse document frequency among the request's references.
    pub idf: bool,
    /// Scores are rescaled with the model's baseline in this language; `None`: they stay as they are.
    pub baseline: Option<String>,
}

/// What models take of the memory that is theirs, and what came and went since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelUsage {
    /// Memory for models, in bytes.
    pub budget: u64,
    /// Models that are loaded.
    pub loaded: usize,
    /// Bytes that loaded models take and those being loaded will take.
    pub used: u64,
    /// Loads that ended well.
    pub loads: u64,
    /// Loads that failed.
    pub failed_loads: u64,
    /// Models that made room for others.
    pub evictions: u64,
}

/// What a model is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Sentence embeddings.
    Embed,
    /// `BERTScore`.
    BertScore,
}

impl Purpose {
    /// As `/info` and the log write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::BertScore => "bertscore",
        }
    }
}

/// Where the default models are at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The warm-up is over, and at least one default model can be used.
    pub ready: bool,
    /// Each default model, in the order in which they are loaded.
    pub models: Vec<ModelReadiness>,
}

/// Where one default model is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelReadiness {
    /// As the operator wrote it: a name or a folder's path.
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
    /// See [`ModelState`].
    pub state: ModelState,
}

/// Where a model is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Being loaded, or waiting for its turn at start.
    Loading,
    /// In memory.
    Ready,
    /// It could not be loaded, or its first inference failed.
    Failed(LoadFault),
    /// It was ready and made room for others; the next request loads it again.
    Unloaded,
}

/// How the engine tells of its progress and learns that nobody waits for the result any more.
pub trait Progress: Sync {
    /// `done` of the request's items are finished.
    fn finished(&self, done: usize);

    /// Cancelled once the result is not wanted any more: the engine then stops before the next batch,
    /// with [`EngineError::Cancelled`].
    fn cancellation(&self) -> Cancellation;

    /// Whether [`cancellation`](Self::cancellation) is cancelled.
    fn is_cancelled(&self) -> bool {
        self.cancellation().is_cancelled()
    }
}

/// Whether something is still wanted. Clones share the answer; it changes once.
#[derive(Clone, Debug, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// It is not wanted any more.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sentence embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// One vector for each text, all of `dimensions` numbers.
    pub rows: Vec<Vec<f32>>,
    /// Length of a vector; 0 if there are no rows.
    pub dimensions: usize,
    /// Tokens of each text that the model read, special ones included and those behind its limit not.
    pub tokens: Vec<usize>,
    /// To which lengths a vector may be cut.
    pub shortening: Shortening,
}

/// To which lengths embeddings may be cut: those of a model that was trained so that their beginnings
/// mean something by themselves (Matryoshka representation learning).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shortening {
    /// The model was not, as far as its files tell.
    #[default]
    No,
    /// To any.
    Any,
    /// To one of these.
    To(Vec<usize>),
}

impl Embeddings {
    /// The first `dimensions` numbers of each vector, scaled to a length of 1. Vectors that have as many
    /// stay as they are.
    ///
    /// # Errors
    /// [`EngineError::Dimensions`].
    pub fn shortened(mut self, dimensions: usize) -> Result<Self, EngineError> {
        if self.rows.is_empty() || dimensions == self.dimensions {
            return Ok(self);
        }
        let may = match &self.shortening {
            Shortening::No => false,
            Shortening::Any => (1..self.dimensions).contains(&dimensions),
            Shortening::To(lengths) => {
                lengths.contains(&dimensions) && dimensions < self.dimensions
            }
        };
        if !may {
            return Err(EngineError::Dimensions {
                full: self.dimensions,
                shortening: self.shortening,
            });
        }
        for row in &mut self.rows {
            row.truncate(dimensions);
            normalise(row);
        }
        Ok(Self { dimensions, ..self })
    }
}

/// A vector of nothing but zeros has no direction, and stays.
fn normalise(row: &mut [f32]) {
    let squares = row.iter().map(|number| f64::from(*number).powi(2));
    let length = squares.sum::<f64>().sqrt();
    if length > 0.0 {
        for number in row {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "rounded to the nearest f32"
            )]
            let scaled = (f64::from(*number) / length) as f32;
            *number = scaled;
        }
    }
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

/// What is wrong with a model that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFault {
    /// For clients: names the model's files and what stands in them, but no folder of this machine.
    pub reason: String,
    /// For the operator: the same with paths, and in the words of those who found it.
    pub details: String,
    /// It may be over soon, as a lack of memory is.
    pub passing: bool,
}

impl From<String> for LoadFault {
    /// A fault of which only the operator learns more.
    fn from(details: String) -> Self {
        let reason = "it could not be made ready".to_owned();
        Self {
            reason,
            details,
            passing: true,
        }
    }
}

impl From<EngineError> for LoadFault {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Load { fault, .. } => fault,
            EngineError::NotInstalled { .. } => Self {
                reason: "it is not installed".to_owned(),
                ..Self::from(error.to_string())
            },
            EngineError::Ambiguous { .. } => Self {
                reason: error.to_string(),
                ..Self::from(error.to_string())
            },
            other => Self::from(other.to_string()),
        }
    }
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
    /// Several models are called so, but for their organisations. The text is what the client reads.
    #[error(
        "model '{name}' may be one of several on this host; ask for one of them: {}",
        list(.candidates)
    )]
    Ambiguous {
        /// The name as the request gave it.
        name: String,
        /// Their full names, sorted.
        candidates: Vec<String>,
    },
    /// The model is there but this program cannot run it (architecture, missing or broken file).
    /// The text goes to the log; it may name paths.
    #[error("model '{name}' cannot be loaded: {}", .fault.details)]
    Load {
        /// The name as the request gave it.
        name: String,
        /// What is wrong.
        fault: LoadFault,
    },
    /// Scores cannot be rescaled. The text is what the client reads.
    #[error(
        "no baseline for model '{name}' and language '{language}' on this host; ask without \
         rescale_with_baseline, or have its operator add the file (--bertscore-baselines)"
    )]
    NoBaseline {
        /// The name as the request gave it.
        name: String,
        /// The language as the request gave it, in lower case.
        language: String,
    },
    /// Memory for models is in use up to the budget, and none of it got free in time. The text is
    /// what the client reads.
    #[error("model '{name}' does not fit beside the models in use now - retry later")]
    NoMemory {
        /// The name as the request gave it.
        name: String,
    },
    /// The model takes longer to load than a request waits. The text is what the client reads.
    #[error("model '{name}' is still loading - retry later")]
    Loading {
        /// The name as the request gave it.
        name: String,
    },
    /// The request's [`Cancellation`] said so.
    #[error("cancelled")]
    Cancelled,
    /// The device has no memory for the smallest piece of this request. What runs beside it may be
    /// the reason, so that the request is worth repeating.
    #[error("the device has too little free memory for this request")]
    OutOfMemory,
    /// The tokenizer makes a token of a text for which the weights have no vector. The text is what
    /// the client reads.
    #[error("a text has the token {id}, and the model has vectors for only {vocabulary} tokens")]
    UnknownToken {
        /// The token's id.
        id: u32,
        /// Ids are below this.
        vocabulary: usize,
    },
    /// The tokenizer makes nothing of a text, such as one with a character that it has no token for. The
    /// text is what the client reads.
    #[error("the model's tokenizer can't take a text: {0}")]
    Untokenizable(String),
    /// Embeddings can't be cut to the length that was asked for. The text is what the client reads.
    #[error(
        "embeddings of this model have {full} dimensions{}", shorter(.shortening)
    )]
    Dimensions {
        /// Numbers of a vector.
        full: usize,
        /// What is possible.
        shortening: Shortening,
    },
    /// The computation failed. The text goes to the log.
    #[error("inference failed: {0}")]
    Inference(String),
}

fn shorter(shortening: &Shortening) -> String {
    match shortening {
        Shortening::No => {
            " and can't be shortened: its config.json has neither matryoshka_dimensions nor \
             is_matryoshka"
                .to_owned()
        }
        Shortening::Any => " and can be cut to fewer, at least 1".to_owned(),
        Shortening::To(lengths) => {
            let lengths: Vec<_> = lengths.iter().map(usize::to_string).collect();
            format!(" and can be cut to one of {}", lengths.join(", "))
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embeddings(shortening: Shortening) -> Embeddings {
        Embeddings {
            rows: vec![vec![3.0, 4.0, 12.0], vec![0.0, 0.0, 1.0]],
            dimensions: 3,
            tokens: vec![4, 5],
            shortening,
        }
    }

    #[test]
    fn vectors_are_cut_and_scaled_where_the_model_is_made_for_it() {
        for shortening in [Shortening::Any, Shortening::To(vec![1, 2])] {
            let cut = embeddings(shortening).shortened(2).unwrap();
            assert_eq!(cut.rows, [[0.6, 0.8], [0.0, 0.0]]);
            assert_eq!((cut.dimensions, cut.tokens), (2, vec![4, 5]));
        }
        let whole = embeddings(Shortening::No).shortened(3).unwrap();
        assert_eq!(whole, embeddings(Shortening::No));
    }

    #[test]
    fn what_would_mean_nothing_is_refused() {
        let table = [
            (Shortening::No, 2, "neither matryoshka_dimensions nor"),
            (
                Shortening::Any,
                4,
                "have 3 dimensions and can be cut to fewer",
            ),
            (Shortening::To(vec![1, 2, 4]), 4, "cut to one of 1, 2, 4"),
            (Shortening::To(vec![1]), 2, "cut to one of 1"),
        ];
        for (shortening, dimensions, expected) in table {
            let refused = embeddings(shortening).shortened(dimensions);
            let told = refused.unwrap_err().to_string();
            assert!(told.contains(expected), "{told}");
        }
    }
}
