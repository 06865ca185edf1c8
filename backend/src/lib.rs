//! A GPU host: text embeddings and `BERTScore` over HTTP.
//!
//! - [`cli`] reads flags and environment and wires the parts; [`settings`] is what it makes of them.
//! - [`api`] speaks HTTP: who may ask, what a valid request is, how many run at once.
//! - [`engine`] is the seam between the two halves; `models` is what computes behind it.
//!
//! The binary only calls [`cli::main`]; the library exists so that tests can drive the HTTP side
//! with an engine of their own.

pub mod api;
pub mod cli;
pub mod engine;
pub mod settings;
