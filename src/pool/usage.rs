//! What a host has been used for since it joined the pool. Only grows, as counters do.
//!
//! ```text
//! busy   = ∫ [leases > 0] dt      leased = ∫ leases dt
//! ```
//!
//! Both are exact, since the number of leases only changes in calls that tell the time: utilisation is
//! the growth of `leased` over capacity times the time between two looks.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time during which at least one lease was out.
    pub busy: Duration,
    /// The same, each lease counted for itself.
    pub leased: Duration,
    /// Texts, or pairs of texts, that it has computed.
    pub items: u64,
}

/// Keeps a [`Usage`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UsageMeter {
    usage: Usage,
    read: Option<Instant>,
}

impl UsageMeter {
    /// Up to `now`, since the last reading, so many leases were out.
    pub(super) fn read(&mut self, leases: u32, now: Instant) -> Usage {
        let last = self.read.replace(now).unwrap_or(now);
        let passed = now.saturating_duration_since(last);
        if leases > 0 {
            self.usage.busy += passed;
        }
        self.usage.leased += passed.saturating_mul(leases);
        self.usage
    }

    /// So many items have been answered well.
    pub(super) fn computed(&mut self, items: u32) {
        self.usage.items += u64::from(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_while_leases_are_out() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = UsageMeter::default();
        meter.read(0, at(0));
        meter.read(0, at(10));
        meter.read(1, at(11));
        meter.read(3, at(13));
        let usage = meter.read(0, at(20));
        assert_eq!(usage.busy, Duration::from_secs(3));
        assert_eq!(usage.leased, Duration::from_secs(7));
    }

    #[test]
    fn nothing_is_counted_before_the_first_reading() {
        let mut meter = UsageMeter::default();
        let usage = meter.read(2, Instant::now());
        assert_eq!(usage, Usage::default());
    }

    #[test]
    fn items_add_up() {
        let mut meter = UsageMeter::default();
        meter.computed(3);
        meter.computed(u32::MAX);
        let usage = meter.read(0, Instant::now());
        assert_eq!(usage.items, 3 + u64::from(u32::MAX));
    }
}
