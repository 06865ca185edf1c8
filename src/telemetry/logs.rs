//! Logs on standard error: for humans on a terminal, JSON lines elsewhere.

use std::io::{IsTerminal, stderr};

use gpu_bridge_upkeep::{Filter, Log, Upkeep};

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
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = Filter::new(&wanted);
    let is_ignored = filter.is_err();
    let for_people = match format {
        LogFormat::Auto => stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let log = Log::start(upkeep);
    log.listen(filter.unwrap_or_default(), for_people);
    if is_ignored {
        tracing::warn!("RUST_LOG is ignored: it is no list of levels and TARGET=LEVEL");
    }
    upkeep.note_panics();
    log
}
