//! How much was done in the last minute, how well, and how fast: of one host, or of the whole proxy.
//!
//! Pure. A tick ends a second; who calls it decides what a second is. Only what went well counts for
//! how long things take: a host that fails at once must not look fast.

use std::collections::VecDeque;
use std::time::Duration;

/// Seconds that shares and quantiles are taken over …
const WINDOW: usize = 60;
/// … and those that rates are taken over.
const RATE_WINDOW: usize = 10;
/// Times that are kept, newest first to stay: more would not make a quantile better.
const MAX_TIMES: usize = 1024;

/// How something ended, if that tells of hosts or of the pool: what clients do wrong does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer.
    Well,
    /// It was turned away: nothing is broken, but there was no room.
    Full,
    /// It failed.
    Badly,
}

/// How a request was run, if not as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::telemetry) struct Shape {
    /// In parts.
    pub(in crate::telemetry) in_parts: bool,
    /// With others.
    pub(in crate::telemetry) together: bool,
}

/// What ended within a second, or several, by [`End`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered.
    pub well: u32,
    /// Turned away.
    pub full: u32,
    /// Failed.
    pub badly: u32,
    /// Answered from parts that ran by themselves.
    pub in_parts: u32,
    /// Answered by an attempt for several.
    pub together: u32,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.well += other.well;
        self.full += other.full;
        self.badly += other.badly;
        self.in_parts += other.in_parts;
        self.together += other.together;
    }

    /// All of them.
    pub fn all(self) -> u32 {
        self.well + self.full + self.badly
    }

    /// How much `part` is of all, from 0 to 1.
    pub fn share(self, part: u32) -> f64 {
        f64::from(part) / f64::from(self.all().max(1))
    }
}

/// What there is to say of the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Answers a second, over the last ten.
    pub per_second: f64,
    /// What ended in the last minute.
    pub minute: Counts,
    /// Half of the answers took no longer.
    pub p50: Option<Duration>,
    /// 99 of 100 answers took no longer.
    pub p99: Option<Duration>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Meter {
    current: Counts,
    /// Oldest first.
    seconds: VecDeque<Counts>,
    ticks: u64,
    times: VecDeque<(u64, Duration)>,
}

impl Meter {
    /// Something ended. `took`: unless that says nothing.
    pub(super) fn record(&mut self, ended: End, took: Option<Duration>) {
        match ended {
            End::Well => self.current.well += 1,
            End::Full => self.current.full += 1,
            End::Badly => self.current.badly += 1,
        }
        if let Some(took) = took.filter(|_| ended == End::Well) {
            if self.times.len() == MAX_TIMES {
                self.times.pop_front();
            }
            self.times.push_back((self.ticks, took));
        }
    }

    /// What has just ended well was reshaped like that.
    pub(super) fn record_shape(&mut self, shape: Shape) {
        self.current.in_parts += u32::from(shape.in_parts);
        self.current.together += u32::from(shape.together);
    }

    /// A second is over; returns what it held.
    pub(super) fn tick(&mut self) -> Counts {
        let over = std::mem::take(&mut self.current);
        if self.seconds.len() == WINDOW {
            self.seconds.pop_front();
        }
        self.seconds.push_back(over);
        self.ticks += 1;
        let first = self.ticks.saturating_sub(WINDOW as u64);
        while self.times.front().is_some_and(|(tick, _)| *tick < first) {
            self.times.pop_front();
        }
        over
    }

    pub(super) fn rates(&self) -> Rates {
        let sum = |seconds: usize| {
            let mut sum = Counts::default();
            for second in self.seconds.iter().rev().take(seconds) {
                sum.add(*second);
            }
            sum
        };
        let mut times: Vec<Duration> = self.times.iter().map(|(_, took)| *took).collect();
        let elapsed = self.seconds.len().clamp(1, RATE_WINDOW);
        Rates {
            per_second: f64::from(sum(RATE_WINDOW).well) / elapsed as f64,
            minute: sum(WINDOW),
            p50: quantile(&mut times, 50),
            p99: quantile(&mut times, 99),
        }
    }
}

/// The smallest of `times` that so many percent of them do not exceed (nearest rank). Changes their
/// order.
fn quantile(times: &mut [Duration], percent: usize) -> Option<Duration> {
    let rank = (times.len() * percent).div_ceil(100);
    let (_, found, _) = times.select_nth_unstable(rank.checked_sub(1)?);
    Some(*found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn rates_are_those_of_the_last_ten_seconds() {
        let mut meter = Meter::default();
        assert_eq!(meter.rates(), Rates::default());
        for _ in 0..20 {
            meter.record(End::Well, None);
        }
        meter.tick();
        assert!((meter.rates().per_second - 20.0).abs() < 1e-9, "one second");
        for _ in 0..9 {
            meter.tick();
        }
        assert!((meter.rates().per_second - 2.0).abs() < 1e-9, "ten seconds");
        meter.tick();
        assert!(meter.rates().per_second.abs() < 1e-9, "long ago");
    }

    #[test]
    fn shares_are_of_the_last_minute() {
        let mut meter = Meter::default();
        for ended in [End::Well, End::Well, End::Full, End::Badly] {
            meter.record(ended, None);
        }
        assert_eq!(meter.rates().minute.all(), 0, "the second is not over");
        assert_eq!((meter.tick().well, meter.tick().well), (2, 0));
        let minute = meter.rates().minute;
        assert_eq!((minute.well, minute.full, minute.badly), (2, 1, 1));
        assert!((minute.share(minute.full) - 0.25).abs() < 1e-9);
        let shape = Shape {
            in_parts: true,
            together: false,
        };
        meter.record_shape(shape);
        meter.tick();
        let minute = meter.rates().minute;
        assert_eq!((minute.in_parts, minute.together, minute.all()), (1, 0, 4));
        for _ in 0..WINDOW {
            meter.tick();
        }
        assert_eq!(meter.rates(), Rates::default());
    }

    #[test]
    fn quantiles_are_of_good_answers_only_and_forget() {
        let mut meter = Meter::default();
        for time in 1..=100 {
            meter.record(End::Well, Some(millis(time)));
        }
        meter.record(End::Badly, Some(millis(9_000)));
        let rates = meter.rates();
        assert_eq!((rates.p50, rates.p99), (Some(millis(50)), Some(millis(99))));
        for _ in 0..=WINDOW {
            meter.tick();
        }
        assert_eq!(meter.rates().p50, None);
        meter.record(End::Well, Some(millis(7)));
        assert_eq!(
            (meter.rates().p50, meter.rates().p99),
            (Some(millis(7)), Some(millis(7)))
        );
    }

    #[test]
    fn a_busy_minute_keeps_the_newest_times() {
        let mut meter = Meter::default();
        for _ in 0..MAX_TIMES {
            meter.record(End::Well, Some(millis(1)));
        }
        for _ in 0..MAX_TIMES {
            meter.record(End::Well, Some(millis(2)));
        }
        assert_eq!(meter.times.len(), MAX_TIMES);
        assert_eq!(meter.rates().p50, Some(millis(2)));
    }
}
