//! How much of the pool each client may use: so many leases at once, and so many requests begun each
//! second.
//!
//! A client that may have no more for now is passed over: its requests keep their places, and nobody
//! else waits for them. One that has held a lease before (a retry) was counted then, and needs no more
//! than a lease that is free.
//!
//! The rate is a token bucket: it holds as many tokens as requests may begin each second, starts full,
//! is refilled evenly, and each request takes one with its first lease. The clock is passed in.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::estimate::seconds;

/// Timers are no finer; more than one token may come in that time.
const TICK: Duration = Duration::from_millis(1);
/// What rounding may take from a token.
const ROUNDING: f64 = 1e-6;

/// What a client may do; `None`: without bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests that run at once.
    pub max_concurrent: Option<NonZeroU32>,
    /// Requests that begin to run each second, and at most as many in a burst.
    pub max_per_second: Option<NonZeroU32>,
}

/// The limit that holds a client's requests back. Its text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// Too many run.
    #[error("this key may have {0} requests running at once (max_concurrent)")]
    Concurrent(NonZeroU32),
    /// Too many began lately.
    #[error("this key may have {0} requests begun each second (max_per_second)")]
    PerSecond(NonZeroU32),
}

/// All clients that have limits or leases. Others have neither.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_name: HashMap<Arc<str>, Client>,
    /// So that where no key has limits nobody is looked up for them.
    any_limits: bool,
}

#[derive(Debug, Default)]
struct Client {
    limits: Limits,
    /// Leases that are out.
    out: u32,
    /// As of when; `None`: full.
    bucket: Option<(f64, Instant)>,
}

impl Clients {
    /// These are the clients from now on. What others still have running, or `waits`, stays bounded as
    /// it was.
    pub(super) fn set(
        &mut self,
        clients: Vec<(Arc<str>, Limits)>,
        waits: impl Fn(&Arc<str>) -> bool,
    ) {
        let listed: HashMap<_, _> = clients.into_iter().collect();
        self.by_name
            .retain(|name, client| client.out > 0 || listed.contains_key(name) || waits(name));
        for (name, limits) in listed {
            if limits == Limits::default() {
                if let Some(client) = self.by_name.get_mut(&name) {
                    client.limits = limits;
                }
            } else {
                self.by_name.entry(name).or_default().limits = limits;
            }
        }
        let mut all = self.by_name.values();
        self.any_limits = all.any(|client| client.limits != Limits::default());
    }

    /// How many of a client's requests may get their first lease now.
    pub(super) fn permits(&self, client: Option<&Arc<str>>, now: Instant) -> u32 {
        self.get(client).map_or(u32::MAX, |client| {
            client.free_leases().min(client.whole_tokens(now))
        })
    }

    /// How many leases more a client may have for what has begun.
    pub(super) fn spare(&self, client: Option<&Arc<str>>) -> u32 {
        self.get(client).map_or(u32::MAX, Client::free_leases)
    }

    /// May a request that has held a lease before get another one?
    pub(super) fn may_return(&self, client: Option<&Arc<str>>) -> bool {
        self.get(client)
            .is_none_or(|client| client.free_leases() > 0)
    }

    /// What stands in the way of a request, if it is its client's own limit.
    pub(super) fn reached(
        &self,
        client: Option<&Arc<str>>,
        returning: bool,
        now: Instant,
    ) -> Option<LimitReached> {
        let client = self.get(client)?;
        if client.free_leases() == 0 {
            return client.limits.max_concurrent.map(LimitReached::Concurrent);
        }
        let is_spent = !returning && client.whole_tokens(now) == 0;
        let rate = client.limits.max_per_second.filter(|_| is_spent);
        rate.map(LimitReached::PerSecond)
    }

    /// How many requests of a client may run at once, if that is bounded.
    pub(super) fn max_concurrent(&self, client: Option<&Arc<str>>) -> Option<NonZeroU32> {
        self.get(client)?.limits.max_concurrent
    }

    /// When its rate alone lets the last of so many requests of a client begin, from now.
    pub(super) fn wait(
        &self,
        client: Option<&Arc<str>>,
        requests: usize,
        now: Instant,
    ) -> Duration {
        let Some(client) = self.get(client) else {
            return Duration::ZERO;
        };
        let missing = requests as f64 - client.tokens(now);
        let rate = client.limits.max_per_second.filter(|_| missing > 0.0);
        rate.map_or(Duration::ZERO, |rate| {
            seconds(missing / f64::from(rate.get()))
        })
    }

    /// When the bucket of a client will let a request begin that it does not let begin now.
    pub(super) fn refill(&self, client: Option<&Arc<str>>, now: Instant) -> Option<Instant> {
        let wait = self.wait(client, 1, now);
        let is_spent = self.get(client)?.whole_tokens(now) == 0;
        now.checked_add(wait.max(TICK)).filter(|_| is_spent)
    }

    /// A lease goes to a client.
    pub(super) fn lease(&mut self, client: Option<&Arc<str>>, returning: bool, now: Instant) {
        let Some(name) = client else {
            return;
        };
        let client = self.by_name.entry(Arc::clone(name)).or_default();
        client.out += 1;
        if client.limits.max_per_second.is_some() && !returning {
            client.bucket = Some((client.tokens(now) - 1.0, now));
        }
    }

    /// A lease comes back.
    pub(super) fn give_back(&mut self, client: Option<&Arc<str>>) {
        let Some(name) = client else {
            return;
        };
        if let Some(client) = self.by_name.get_mut(name) {
            client.out = client.out.saturating_sub(1);
            if client.out == 0 && client.limits == Limits::default() {
                self.by_name.remove(name);
            }
        }
    }

    fn get(&self, client: Option<&Arc<str>>) -> Option<&Client> {
        client
            .filter(|_| self.any_limits)
            .and_then(|name| self.by_name.get(name))
    }
}

impl Client {
    fn free_leases(&self) -> u32 {
        let limit = self.limits.max_concurrent;
        limit.map_or(u32::MAX, |limit| limit.get().saturating_sub(self.out))
    }

    /// Never below zero, whatever the rate was before.
    fn tokens(&self, now: Instant) -> f64 {
        let Some(rate) = self.limits.max_per_second else {
            return f64::INFINITY;
        };
        let size = f64::from(rate.get());
        self.bucket.map_or(size, |(tokens, as_of)| {
            let passed = now.saturating_duration_since(as_of);
            (tokens + passed.as_secs_f64() * size).clamp(0.0, size)
        })
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "never negative, and what is too large is as many as can be"
    )]
    fn whole_tokens(&self, now: Instant) -> u32 {
        (self.tokens(now) + ROUNDING) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(max_concurrent: u32, max_per_second: u32) -> Limits {
        Limits {
            max_concurrent: NonZeroU32::new(max_concurrent),
            max_per_second: NonZeroU32::new(max_per_second),
        }
    }

    /// Of one client, `a`, that waits for nothing.
    struct One {
        clients: Clients,
        name: Arc<str>,
    }

    impl One {
        fn new(limits: Limits) -> Self {
            let mut one = Self {
                clients: Clients::default(),
                name: "a".into(),
            };
            one.set(limits);
            one
        }

        fn set(&mut self, limits: Limits) {
            self.clients
                .set(vec![(self.name.clone(), limits)], |_| false);
        }

        fn permits(&self, now: Instant) -> u32 {
            self.clients.permits(Some(&self.name), now)
        }

        fn lease(&mut self, returning: bool, now: Instant) {
            self.clients.lease(Some(&self.name), returning, now);
        }

        fn give_back(&mut self) {
            self.clients.give_back(Some(&self.name));
        }
    }

    #[test]
    fn leases_are_counted_until_they_come_back() {
        let now = Instant::now();
        let mut one = One::new(limits(2, 0));
        one.lease(false, now);
        one.lease(true, now);
        assert_eq!(one.permits(now), 0);
        assert!(!one.clients.may_return(Some(&one.name)));
        let reached = one.clients.reached(Some(&one.name), true, now).unwrap();
        assert!(reached.to_string().contains("max_concurrent"));
        one.give_back();
        assert_eq!(one.permits(now), 1);
        assert_eq!(one.clients.permits(None, now), u32::MAX);
    }

    #[test]
    fn a_burst_begins_and_then_the_rate() {
        let start = Instant::now();
        let mut one = One::new(limits(0, 10));
        for _ in 0..10 {
            one.lease(false, start);
        }
        assert_eq!(one.permits(start), 0);
        let reached = one.clients.reached(Some(&one.name), false, start).unwrap();
        assert!(reached.to_string().contains("max_per_second"));
        assert_eq!(one.clients.reached(Some(&one.name), true, start), None);
        one.lease(true, start);
        let refill = one.clients.refill(Some(&one.name), start).unwrap();
        assert_eq!(one.permits(refill), 1);
        assert_eq!(one.permits(start + SECOND * 35 / 100), 3);
        assert_eq!(one.permits(start + 3600 * SECOND), 10);
        let wait = one.clients.wait(Some(&one.name), 100, start);
        assert!((wait.as_secs_f64() - 10.0).abs() < 0.01, "{wait:?}");
    }

    #[test]
    fn a_limit_that_is_raised_or_lowered_holds_at_once() {
        let now = Instant::now();
        let mut one = One::new(limits(0, 0));
        for _ in 0..3 {
            one.lease(false, now);
        }
        one.set(limits(4, 0));
        assert_eq!(one.permits(now), 1, "what ran before counts");
        one.set(limits(2, 5));
        assert_eq!(one.permits(now), 0);
        one.set(limits(0, 5));
        assert_eq!(one.permits(now), 5);
        one.set(limits(0, 0));
        assert_eq!(one.permits(now), u32::MAX);
    }

    #[test]
    fn what_a_client_leaves_behind_stays_bounded_and_is_forgotten_in_the_end() {
        let now = Instant::now();
        let mut one = One::new(limits(1, 0));
        one.lease(false, now);
        one.clients.set(Vec::new(), |_| false);
        assert_eq!(one.permits(now), 0, "it still runs");
        one.give_back();
        one.clients.set(Vec::new(), |_| true);
        assert_eq!(one.permits(now), 1, "it still waits");
        one.clients.set(Vec::new(), |_| false);
        assert!(one.clients.by_name.is_empty());
        one.lease(false, now);
        one.give_back();
        assert!(
            one.clients.by_name.is_empty(),
            "nobody is kept without limits"
        );
    }
}
