//! Logs on standard error: for humans on a terminal, JSON lines elsewhere.

use std::io::{IsTerminal, stderr};

use gpu_bridge_upkeep::{Log, Upkeep};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::human::Human;

/// Of the libraries: errors. pingora calls it one when a client drops its connection, or a host one that
/// was kept; our own lines say more.
const LIBRARIES: &str = "error,pingora=off";
const OURS: &str = "gpu_bridge";

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
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let (filter, problem) = match filter(&wanted).parse::<EnvFilter>() {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(filter("")), Some(error)),
    };
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
    if let Some(error) = problem {
        tracing::warn!(%error, "RUST_LOG is ignored");
    }
    upkeep.note_panics();
    log
}

/// A level by itself is meant for what this program says; libraries are asked for by name.
fn filter(wanted: &str) -> String {
    let parts = wanted
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let own = parts.map(|part| match part.parse::<LevelFilter>() {
        Ok(level) => format!("{OURS}={level}"),
        Err(_) => part.to_owned(),
    });
    let default = [LIBRARIES.to_owned(), format!("{OURS}=info")];
    default.into_iter().chain(own).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_for_this_program() {
        let default = "error,pingora=off,gpu_bridge=info";
        for (wanted, more) in [
            ("", ""),
            ("info", ",gpu_bridge=info"),
            ("debug, h2=trace", ",gpu_bridge=debug,h2=trace"),
            ("off", ",gpu_bridge=off"),
        ] {
            assert_eq!(filter(wanted), format!("{default}{more}"));
            assert!(filter(wanted).parse::<EnvFilter>().is_ok());
        }
    }
}
