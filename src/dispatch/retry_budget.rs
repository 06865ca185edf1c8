//! A bound on attempts after faults, so that a broken pool is not also hit by a storm of retries.
//!
//! Each request adds a share of a retry to the budget, each retry takes one out (as Finagle's retry
//! budgets do); a trickle per second keeps a quiet proxy able to retry. A request whose retry the
//! budget does not cover is not failed but waits until it does.
//!
//! Busy hosts and refused connections cost no computation; going on to a sibling after those is free.

use std::time::{Duration, Instant};

/// A retry, in hundredths of one.
const RETRY: f64 = 100.0;
/// Retries that are allowed each second whatever the traffic.
const TRICKLE: f64 = 10.0 * RETRY;
/// Retries that a quiet time saves up at most.
const MOST: f64 = 100.0 * RETRY;

/// Timers are no finer than that; a shorter wait would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(super) struct RetryBudget {
    /// In hundredths of a retry.
    saved: f64,
    updated: Instant,
}

impl RetryBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            saved: TRICKLE,
            updated: now,
        }
    }

    /// A request has come.
    pub(super) fn deposit(&mut self, percent: u32) {
        self.saved = (self.saved + f64::from(percent)).min(MOST);
    }

    /// Takes a retry out, or such a share of one.
    ///
    /// # Errors
    /// How long to wait before there is as much.
    pub(super) fn withdraw(&mut self, share: f64, now: Instant) -> Result<(), Duration> {
        let wanted = RETRY * share.min(1.0);
        let passed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.saved = (self.saved + passed * TRICKLE).min(MOST);
        self.updated = now;
        if self.saved < wanted {
            let wait = Duration::from_secs_f64((wanted - self.saved) / TRICKLE);
            return Err(wait.max(SHORTEST));
        }
        self.saved -= wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_requests_may_be_retried_and_a_trickle() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(start);
        for _ in 0..10 {
            assert_eq!(budget.withdraw(1.0, start), Ok(()));
        }
        assert_eq!(budget.withdraw(1.0, start), Err(Duration::from_millis(100)));
        for _ in 0..10 {
            budget.deposit(20);
        }
        assert_eq!(budget.withdraw(1.0, start), Ok(()));
        assert_eq!(budget.withdraw(1.0, start), Ok(()));
        assert!(budget.withdraw(1.0, start).is_err());
        let later = start + Duration::from_secs(1);
        let saved = std::iter::from_fn(|| budget.withdraw(1.0, later).ok()).count();
        assert_eq!(saved, 10);
    }

    #[test]
    fn those_that_share_a_retry_pay_for_one_together() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(start);
        for _ in 0..10 * 32 {
            assert_eq!(budget.withdraw(1.0 / 32.0, start), Ok(()));
        }
        assert!(budget.withdraw(1.0 / 32.0, start).is_err());
    }

    #[test]
    fn what_is_saved_is_bounded() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(start);
        budget.deposit(u32::MAX);
        let later = start + Duration::from_hours(1);
        let saved = std::iter::from_fn(|| budget.withdraw(1.0, later).ok()).count();
        assert_eq!(saved, 100);
    }
}
