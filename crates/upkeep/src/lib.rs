//! What keeps both programs running whatever becomes of what they say and of their background tasks.
//!
//! - [`Log`]: log lines go out through a bounded queue; whoever logs is never held up, and never
//!   learns of an error. [`printable`]: no line does anything to who reads it.
//! - [`Upkeep::note_panics`]: a bug costs the request or the task that hit it, and is told.
//! - [`Upkeep::keep`]: a task that must live is started again.
//! - [`StopSignals`]: who asks it to stop.
//! - [`no_log_files`]: who asks for log files to be opened again is told that there are none.
//!
//! What goes wrong is counted in [`Upkeep`], as metrics of the program.

mod lines;
mod log;
mod panics;
mod printable;
mod signals;
mod supervise;

use gpu_bridge_metrics::Maker;
use prometheus::{IntCounter, IntCounterVec};

pub use lines::Lines;
pub use log::{BadFilter, Filter, Log, announce};
pub use printable::{columns, cut, printable, printable_lines};
pub use signals::{StopSignals, no_log_files};

/// What went wrong so far; cheap to clone.
#[derive(Clone, Debug)]
pub struct Upkeep {
    dropped_lines: IntCounter,
    panics: IntCounter,
    restarts: IntCounterVec,
}

impl Upkeep {
    /// Nothing yet.
    ///
    /// # Errors
    /// If a metric has the name of another.
    pub fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            dropped_lines: make.counter(
                "log_lines_dropped_total",
                "Log lines that were dropped because standard error did not take them.",
            )?,
            panics: make.counter(
                "panics_total",
                "Bugs that broke off a request or a background task (panics).",
            )?,
            restarts: make.counters(
                "task_restarts_total",
                "Background tasks that were started again after a panic, by task.",
                &["task"],
            )?,
        })
    }
}
