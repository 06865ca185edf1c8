//! gpu-bridge: one stable URL in front of a pool of GPU hosts.
//!
//! A request flows through the modules in one direction:
//!
//! ```text
//! client ─▶ gateway ─▶ dispatch ─▶ upstream ─▶ host
//!                          │           │
//!                          └──▶ pool ◀─┘ checks
//! ```
//!
//! - [`config`]: the YAML file, validated.
//! - [`gateway`]: talking to clients.
//! - [`dispatch`]: one request's way through as many attempts as it takes.
//! - [`pool`]: who may get a request, and who is next in line; pure decisions.
//! - [`upstream`]: talking to hosts.
//! - [`audit`]: whether hosts answer right; [`embedding`]: what that is told by.
//! - [`admin`]: metrics for Prometheus.
//! - [`reload`], [`live`]: a new configuration for a proxy that runs.
//! - [`telemetry`]: logs and metrics.
//! - [`restart`]: the listening sockets, and their way from one process to the next.
//! - [`serve`]: wires all of them and runs until a signal says stop.

pub mod admin;
pub mod audit;
mod authorities;
pub mod budget;
pub mod cli;
pub mod config;
pub mod dispatch;
pub mod embedding;
mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gateway;
pub mod headers;
pub mod live;
pub mod message;
pub mod pool;
pub mod reload;
pub mod restart;
pub mod serve;
pub mod telemetry;
pub mod upstream;
