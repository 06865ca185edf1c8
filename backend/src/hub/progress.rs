//! How far a download is: a bar on a terminal, lines in the log elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use gpu_bridge_upkeep::printable;
use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

/// What the bar looks like; if the library refuses it, its own default.
const BAR: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// Of one model.
pub(super) struct Progress {
    model: String,
    total: u64,
    done: u64,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines(Milestones),
}

impl Progress {
    /// Nothing of `total` bytes is there yet.
    pub(super) fn new(model: &str, total: u64) -> Self {
        let display = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(total).with_message(printable(model).into_owned());
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style);
            }
            Display::Bar(bar)
        } else {
            Display::Lines(Milestones::new(Instant::now()))
        };
        Self {
            model: model.to_owned(),
            total,
            done: 0,
            display,
        }
    }

    /// Bytes that are there.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// So many bytes are there.
    pub(super) fn reach(&mut self, done: u64) {
        self.done = done;
        let percent = percent(done, self.total);
        match &mut self.display {
            Display::Bar(bar) => bar.set_position(done),
            Display::Lines(milestones) => {
                if milestones.is_due(percent, Instant::now()) {
                    let (model, total) = (&self.model, self.total);
                    info!(model, percent, bytes = done, total, "downloading");
                }
            }
        }
    }

    /// Everything is there.
    pub(super) fn end(self) {
        if let Display::Bar(bar) = self.display {
            bar.finish_and_clear();
        }
    }
}

fn percent(done: u64, total: u64) -> u64 {
    done.saturating_mul(100).checked_div(total).unwrap_or(100)
}

/// When a line is due: at each tenth, and when the last one is some time ago.
struct Milestones {
    tenth: u64,
    last: Instant,
}

impl Milestones {
    const SILENCE: Duration = Duration::from_secs(10);

    fn new(now: Instant) -> Self {
        Self {
            tenth: 0,
            last: now,
        }
    }

    fn is_due(&mut self, percent: u64, now: Instant) -> bool {
        let tenth = percent / 10;
        let due = tenth > self.tenth || now.duration_since(self.last) >= Self::SILENCE;
        if due {
            *self = Self { tenth, last: now };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_at_each_tenth_and_after_a_silence() {
        let start = Instant::now();
        let mut milestones = Milestones::new(start);
        let mut due =
            |percent, seconds| milestones.is_due(percent, start + Duration::from_secs(seconds));
        assert!(!due(9, 1));
        assert!(due(10, 1));
        assert!(!due(19, 10));
        assert!(due(19, 11));
        assert!(!due(19, 20));
        assert!(due(100, 20));
    }

    #[test]
    fn nothing_of_nothing_is_all() {
        assert_eq!(percent(0, 0), 100);
        assert_eq!(percent(1, 3), 33);
    }
}
