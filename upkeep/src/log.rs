//! Standard error and standard output of a program that serves.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::{Lines, Upkeep};

/// What is left to be written at the end has so long.
const FAREWELL: Duration = Duration::from_secs(1);

/// The log, on standard error. Dropping it at the end of the program lets what waits go out, for a
/// second at most.
#[derive(Debug)]
pub struct Log(Arc<Lines>);

impl Log {
    /// Once for the program.
    pub fn start(upkeep: &Upkeep) -> Self {
        let tell = |dropped: u64| {
            tracing::warn!(
                dropped,
                "log lines were dropped: standard error did not take them"
            );
        };
        let dropped = upkeep.dropped_lines.clone();
        Self(Lines::start(io::stderr(), dropped, tell))
    }

    /// For `tracing`.
    pub fn lines(&self) -> Arc<Lines> {
        Arc::clone(&self.0)
    }

    /// Writes `text`, which ends with a newline, as it is.
    pub fn say(&self, text: &str) {
        // It never fails.
        let _ = (&*self.0).write_all(text.as_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush_within(FAREWELL);
    }
}

/// Writes `text` to standard output, for people and scripts that wait for it. Nobody need read it: a
/// thread of its own waits for whoever does.
pub fn announce(text: String) {
    let write = move || {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    let thread = thread::Builder::new().name("announce".to_owned());
    drop(thread.spawn(write));
}
