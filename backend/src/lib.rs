//! A light GPU host: sentence embeddings and `BERTScore` over HTTP, computed with candle.
//!
//! - [`cli`] reads flags and environment and wires the parts; [`settings`] is what they come to.
//! - [`api`] speaks HTTP: who may ask, what a valid request is, how many run at once.
//! - [`server`] owns the socket and the end of the process.
//! - [`tls`] makes it HTTPS.
//! - `probe` asks a host that runs, for probes of containers.
//! - [`models`] computes. [`engine`] is the seam: the HTTP side calls it, `models` implements it,
//!   and neither knows the other. [`device`] says which processor the models run on, [`memory`] how
//!   much memory this machine gives us.
//! - [`hub`] downloads models where the operator allows it.
//! - [`metrics`] counts what both sides do; it is handed to them and knows neither.
//!
//! The binary only calls [`cli::main`]; the library exists so that tests can drive either side
//! without the other.

pub mod api;
pub mod cli;
pub mod device;
pub mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod hub;
pub mod memory;
pub mod metrics;
pub mod models;
mod probe;
pub mod server;
pub mod settings;
pub mod tls;
