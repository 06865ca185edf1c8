//! Models: from a name to numbers. [`CandleEngine`] is the [`Engine`](crate::engine::Engine) that
//! the HTTP side calls.
//!
//! The way of a request:
//!
//! ```text
//! name ─ catalog ─ registry (load once) ─┬─ embed:  tokenizer ┐            ┌ pooling ─ row
//!                                        │                    ├ scheduler ─┤
//!                                        └─ scorer: tokenizer ┘  (encoder) └ bertscore ─ P, R, F
//! ```
//!
//! What a model does is read from its own files (`config`, `pipeline`, `layers`), never assumed.

mod availability;
mod baseline;
mod bertscore;
mod candle_engine;
mod catalog;
mod config;
mod downloads;
mod embed;
mod encoder;
mod error;
mod file;
mod fleet;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod layers;
mod loader;
mod locate;
mod pairs;
mod pipeline;
mod registry;
mod scheduler;
mod scorer;
mod settings_file;
mod size;
mod steps;
mod token_weights;
mod tokenizer;
mod warm_up;
mod weights;

#[cfg(test)]
mod test_support;

pub use candle_engine::{CandleEngine, EngineOptions, StartError};
pub use downloads::DownloadPlan;
pub use fleet::Fleet;
pub use locate::ModelSources;
pub use warm_up::DefaultModel;
