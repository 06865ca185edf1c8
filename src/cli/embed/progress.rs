//! How far it is: a bar on a terminal, else a line now and then.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::rows::Origin;

/// Between two lines, where there is no bar.
pub(super) const TOLD_EVERY: Duration = Duration::from_secs(10);
const BAR: &str = "{wide_bar} {percent} %  {msg}  {eta} left";

/// See the module.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    size: u64,
    rows: u64,
    since: Instant,
    told: Instant,
}

impl Progress {
    /// Of an input of `size` bytes, of which so many were done `before`.
    pub(super) fn new(size: u64, before: u64) -> Self {
        let style = ProgressStyle::with_template(BAR).ok();
        let bar = style.filter(|_| stderr().is_terminal()).map(|style| {
            let bar = ProgressBar::new(size).with_style(style);
            bar.set_position(before);
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            size,
            rows: 0,
            since: now,
            told: now,
        }
    }

    /// Another row is done.
    pub(super) fn row(&mut self) {
        self.rows += 1;
    }

    /// So many bytes are.
    pub(super) fn read(&mut self, end: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(self.words());
            bar.set_position(end);
        } else if self.told.elapsed() >= TOLD_EVERY {
            self.told = Instant::now();
            let percent = end.saturating_mul(100) / self.size.max(1);
            tell(&format!("{percent} %, {}", self.words()));
        }
    }

    /// All are; their vectors are of this `origin`, if there are any.
    pub(super) fn done(&self, origin: Option<&Origin>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        tell(&match self.rows {
            0 => match origin {
                Some(origin) => format!("nothing is left to do; the vectors are of {origin}"),
                None => "nothing is left to do".to_owned(),
            },
            _ => format!("done: {}", self.words()),
        });
    }

    fn words(&self) -> String {
        let rate = self.rows as f64 / self.since.elapsed().as_secs_f64().max(1e-3);
        format!("{} rows, {rate:.0}/s", self.rows)
    }
}

fn tell(line: &str) {
    // If standard error is closed, nobody wants to know.
    let _ = writeln!(stderr(), "{line}");
}
