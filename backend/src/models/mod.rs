//! Models: from a name to numbers. [`CandleEngine`] is the [`Engine`](crate::engine::Engine) that
//! the HTTP side calls.
//!
//! The way of a request:
//!
//! ```text
//! name ─ locate ─ registry (load once) ─┬─ embed:  tokenizer ─ batch ─ encoder ─ pooling ─ row
//!                                       └─ scorer: tokenizer ─ batch ─ encoder ─ bertscore ─ P/R/F
//! ```
//!
//! What a model does is read from its own files (`config`, `pipeline`, `layers`), never assumed. An
//! architecture is one implementation of `encoder::Encoder`.

mod batch;
mod bertscore;
mod candle_engine;
mod config;
mod embed;
mod encoder;
mod error;
mod layers;
mod locate;
mod pipeline;
mod registry;
mod scorer;
mod settings_file;
mod tokenizer;
mod weights;

#[cfg(test)]
mod test_support;

pub use candle_engine::{CandleEngine, EngineOptions, StartError};
pub use locate::ModelSources;
