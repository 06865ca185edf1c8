//! Logs on standard error: for humans on a terminal, JSON lines elsewhere.

use std::io::{IsTerminal, stderr};

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

/// Starts logging; call it once.
pub fn init(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let human = match format {
        LogFormat::Auto => stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    if human {
        let builder = builder.with_ansi(stderr().is_terminal());
        builder.event_format(Human).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
