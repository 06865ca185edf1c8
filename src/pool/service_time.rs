//! How long hosts take to answer, on average: what the length of the queue means in time.

use std::time::Duration;

/// The newest answer's share of the mean: it follows a change of load within some dozen answers.
const WEIGHT: f64 = 1.0 / 16.0;

/// An exponentially weighted moving average.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServiceTime {
    mean: Option<Duration>,
}

impl ServiceTime {
    /// A lease was held that long by a request that was answered.
    pub(super) fn record(&mut self, took: Duration) {
        let mean = self.mean.unwrap_or(took);
        self.mean = Some(mean.mul_f64(1.0 - WEIGHT) + took.mul_f64(WEIGHT));
    }

    /// When `slots` slots will have served `waiting` requests. Zero before the first answer.
    pub(super) fn to_serve(self, waiting: usize, slots: u32) -> Duration {
        let rounds = waiting as f64 / f64::from(slots.max(1));
        self.mean.unwrap_or_default().mul_f64(rounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_what_it_is_told() {
        let mut time = ServiceTime::default();
        assert_eq!(time.to_serve(10, 2), Duration::ZERO);
        time.record(Duration::from_secs(4));
        assert_eq!(time.to_serve(10, 2), Duration::from_secs(20));
        for _ in 0..200 {
            time.record(Duration::from_secs(1));
        }
        let seconds = time.to_serve(10, 2).as_secs_f64();
        assert!((seconds - 5.0).abs() < 0.01, "{seconds}");
    }
}
