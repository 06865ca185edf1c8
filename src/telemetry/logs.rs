//! Logs on standard error: for humans on a terminal, JSON lines elsewhere.

use std::io::{IsTerminal, stderr};

use gpu_bridge_upkeep::{Log, Upkeep};
use tracing_subscriber::EnvFilter;

use super::human::Human;

/// Shown unless `RUST_LOG` says otherwise. pingora logs each connection that a client drops, and each
/// kept-alive one that a host drops, as an error; our own lines say more.
const DEFAULT_FILTER: &str =
    "info,pingora=warn,pingora_core=warn,pingora_core::connectors=off,pingora_proxy=off";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    /// For reading.
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging, and noting panics; call it once. What is still to be written when the log is dropped
/// has a moment for that.
pub fn init(format: LogFormat, upkeep: &Upkeep) -> Log {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let human = match format {
        LogFormat::Auto => stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let log = Log::start(upkeep);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log.lines())
        // These go to standard error by a macro that panics.
        .log_internal_errors(false);
    if human {
        let builder = builder.with_ansi(stderr().is_terminal());
        builder.event_format(Human).init();
    } else {
        builder.json().flatten_event(true).init();
    }
    upkeep.note_panics();
    log
}
