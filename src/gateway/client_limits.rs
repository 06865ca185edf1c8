//! How much one client may ask for: so many requests at once, and so many each second.
//!
//! The rate is a token bucket: it holds as many tokens as the client may send each second, starts
//! full, is refilled evenly, and each request takes one. The clock is passed in.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What a client may do; `None`: without bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Requests at once.
    pub max_concurrent: Option<NonZeroU32>,
    /// Requests each second, and at most as many in a burst.
    pub max_per_second: Option<NonZeroU32>,
}

/// The limit that stands in the way of a request. Its text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reached {
    /// Too many at once.
    #[error("this key may have {0} requests at once (max_concurrent); retry when one has ended")]
    Concurrent(NonZeroU32),
    /// Too many each second.
    #[error("this key may send {limit} requests each second (max_per_second); retry later")]
    PerSecond {
        /// The limit.
        limit: NonZeroU32,
        /// When the next one is admitted.
        wait: Duration,
    },
}

/// What a client uses now.
#[derive(Debug, Default)]
pub struct Usage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: u32,
    bucket: Option<Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// A request that counts until this is dropped.
#[derive(Debug)]
pub struct Admission(Arc<Usage>);

impl Reached {
    /// When it is worth trying again.
    pub fn wait(self) -> Duration {
        match self {
            // Unknown: whenever one of the client's own requests ends.
            Self::Concurrent(_) => Duration::from_secs(1),
            Self::PerSecond { wait, .. } => wait,
        }
    }
}

impl Usage {
    /// Counts a request, if `limits` allow it.
    ///
    /// # Errors
    /// The limit that does not.
    pub fn admit(self: &Arc<Self>, limits: Limits, now: Instant) -> Result<Admission, Reached> {
        let mut state = self.0.lock();
        if let Some(limit) = limits.max_concurrent
            && state.running >= limit.get()
        {
            return Err(Reached::Concurrent(limit));
        }
        match limits.max_per_second {
            Some(limit) => state.take_token(limit, now)?,
            // A limit that comes back later starts with a full bucket.
            None => state.bucket = None,
        }
        state.running += 1;
        Ok(Admission(Arc::clone(self)))
    }
}

impl State {
    fn take_token(&mut self, limit: NonZeroU32, now: Instant) -> Result<(), Reached> {
        let size = f64::from(limit.get());
        let bucket = self.bucket.get_or_insert(Bucket {
            tokens: size,
            filled: now,
        });
        let passed = now.saturating_duration_since(bucket.filled);
        bucket.tokens = (bucket.tokens + passed.as_secs_f64() * size).min(size);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            let wait = Duration::from_secs_f64((1.0 - bucket.tokens) / size);
            return Err(Reached::PerSecond { limit, wait });
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.0.lock().running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_concurrent: u32, max_per_second: u32) -> Limits {
        Limits {
            max_concurrent: NonZeroU32::new(max_concurrent),
            max_per_second: NonZeroU32::new(max_per_second),
        }
    }

    fn admitted(usage: &Arc<Usage>, limits: Limits, now: Instant) -> usize {
        (0..100)
            .take_while(|_| usage.admit(limits, now).is_ok())
            .count()
    }

    #[test]
    fn a_place_is_given_back_when_its_request_ends() {
        let (usage, now) = (Arc::<Usage>::default(), Instant::now());
        let two = limits(2, 0);
        let running = [usage.admit(two, now), usage.admit(two, now)];
        let reached = usage.admit(two, now).unwrap_err();
        assert!(matches!(reached, Reached::Concurrent(limit) if limit.get() == 2));
        assert!(reached.to_string().contains("max_concurrent"));
        drop(running);
        assert_eq!(admitted(&usage, two, now), 100);
    }

    #[test]
    fn a_burst_is_admitted_and_then_the_rate() {
        let (usage, start) = (Arc::<Usage>::default(), Instant::now());
        let ten = limits(0, 10);
        assert_eq!(admitted(&usage, ten, start), 10);
        let reached = usage.admit(ten, start).unwrap_err();
        assert_eq!(reached.wait(), Duration::from_millis(100));
        assert!(reached.to_string().contains("max_per_second"));
        let later = start + Duration::from_millis(350);
        assert_eq!(admitted(&usage, ten, later), 3);
        let much_later = start + Duration::from_hours(1);
        assert_eq!(admitted(&usage, ten, much_later), 10);
    }

    #[test]
    fn a_refused_request_takes_no_token() {
        let (usage, now) = (Arc::<Usage>::default(), Instant::now());
        let tight = limits(1, 2);
        let running = usage.admit(tight, now).unwrap();
        assert_eq!(admitted(&usage, tight, now), 0);
        drop(running);
        assert_eq!(admitted(&usage, tight, now), 1);
    }

    #[test]
    fn a_limit_that_is_raised_or_lowered_holds_at_once() {
        let (usage, now) = (Arc::<Usage>::default(), Instant::now());
        assert_eq!(admitted(&usage, limits(0, 5), now), 5);
        assert_eq!(admitted(&usage, limits(0, 0), now), 100);
        assert_eq!(admitted(&usage, limits(0, 5), now), 5);
        let later = now + Duration::from_secs(1);
        assert_eq!(admitted(&usage, limits(0, 2), later), 2);
    }
}
