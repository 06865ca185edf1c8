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
    /// Of the input, if it is known.
    size: Option<u64>,
    rows: u64,
    since: Instant,
    told: Instant,
}

impl Progress {
    /// Of an input of `size` bytes, of which so many were done `before`.
    pub(super) fn new(size: Option<u64>, before: u64) -> Self {
        let style = ProgressStyle::with_template(BAR).ok();
        let style = style.filter(|_| stderr().is_terminal());
        let bar = size.zip(style).map(|(size, style)| {
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
            tell(&(share(end, self.size) + &self.words()));
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

/// How much of so many bytes is done, if that is known: in words before others.
fn share(end: u64, size: Option<u64>) -> String {
    let percent = size.map(|size| end.saturating_mul(100) / size.max(1));
    percent.map_or_else(String::new, |percent| format!("{percent} %, "))
}

fn tell(line: &str) {
    // If standard error is closed, nobody wants to know.
    let _ = writeln!(stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_knows_a_share_of_a_pipe() {
        assert_eq!(share(5, Some(10)), "50 %, ");
        assert_eq!(share(0, Some(0)), "0 %, ");
        assert_eq!(share(94_838, None), "");
    }
}
