//! Which lines are logged: those of our own programs, and no library's.
//!
//! A library may log whatever passes through it: heads with keys, bodies with texts, the bytes that it
//! could not read. Ours say what happened, in words of their own.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// All crates of both programs begin so.
const OURS: &str = "gpu_bridge";

/// It is no list of levels and `TARGET=LEVEL`.
#[derive(Clone, Copy, Debug)]
pub struct BadFilter;

/// See the module.
#[derive(Clone, Debug)]
pub struct Filter {
    pub(super) targets: Targets,
    /// Libraries are asked for as well.
    pub(super) asks_for_others: bool,
}

impl Filter {
    /// As `RUST_LOG` says it: a level, or `gpu_bridge…=LEVEL`, or several with commas between them.
    /// `info` unless it says otherwise.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn new(wanted: &str) -> Result<Self, BadFilter> {
        let mut filter = Self::default();
        let parts = wanted.split(',').map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            if let Ok(level) = part.parse::<LevelFilter>() {
                filter.targets = filter.targets.with_target(OURS, level);
                continue;
            }
            let parsed: Targets = part.parse().map_err(|_| BadFilter)?;
            if !parsed.iter().all(|(target, _)| is_target(target)) {
                return Err(BadFilter);
            }
            let (ours, others): (Vec<_>, Vec<_>) = parsed
                .into_iter()
                .partition(|(target, _)| target.starts_with(OURS));
            filter.targets = filter.targets.with_targets(ours);
            filter.asks_for_others |= !others.is_empty();
        }
        Ok(filter)
    }
}

/// A path of modules; what else filters elsewhere may say is not understood here.
fn is_target(text: &str) -> bool {
    let fits = |char: char| char.is_ascii_alphanumeric() || "_-:".contains(char);
    !text.is_empty() && text.chars().all(fits)
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            targets: Targets::new().with_target(OURS, LevelFilter::INFO),
            asks_for_others: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn only_our_own_lines_can_be_asked_for() {
        let ours = "gpu_bridge::upstream";
        for (wanted, level, others) in [
            ("", Some(Level::INFO), false),
            ("debug, h2=trace", Some(Level::DEBUG), true),
            ("trace", Some(Level::TRACE), false),
            ("gpu_bridge=debug", Some(Level::DEBUG), false),
            ("warn,gpu_bridge::upstream=trace", Some(Level::TRACE), false),
            ("off", None, false),
            ("hyper", Some(Level::INFO), true),
        ] {
            let filter = Filter::new(wanted).unwrap();
            let levels = [
                Level::TRACE,
                Level::DEBUG,
                Level::INFO,
                Level::WARN,
                Level::ERROR,
            ];
            let is_logged = |target: &str| {
                let logged = |level: &&Level| filter.targets.would_enable(target, level);
                levels.iter().find(logged).copied()
            };
            assert_eq!(is_logged(ours), level, "{wanted}");
            assert_eq!(filter.asks_for_others, others, "{wanted}");
            for library in [
                "pingora_core::protocols",
                "h2",
                "hyper",
                "rustls",
                "log",
                "",
            ] {
                assert_eq!(is_logged(library), None, "{wanted}");
            }
        }
        for odd in ["info,[", "gpu_bridge=loud", "=", "a=b=c"] {
            assert!(Filter::new(odd).is_err(), "{odd}");
        }
    }
}
