//! What is left be for a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Each until its time is over. There must not be many.
#[derive(Debug)]
pub(super) struct Lately<T>(Mutex<HashMap<T, Instant>>);

impl<T> Default for Lately<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Eq + Hash> Lately<T> {
    pub(super) fn add(&self, what: T, period: Duration) {
        let (now, mut known) = (Instant::now(), self.0.lock());
        known.retain(|_, until| now < *until);
        known.insert(what, now + period);
    }

    pub(super) fn includes(&self, what: &T) -> bool {
        let until = self.0.lock().get(what).copied();
        until.is_some_and(|until| Instant::now() < until)
    }
}
