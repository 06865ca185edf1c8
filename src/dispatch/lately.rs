//! What is left be for a while, or done otherwise.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Beyond so many nothing is remembered: who has the time to make more had better not fill the memory.
const MOST: usize = 1024;

/// Each until its time is over, and what is to be known of it.
#[derive(Debug)]
pub(super) struct Lately<T, V = ()>(Mutex<HashMap<T, (V, Instant)>>);

impl<T, V> Default for Lately<T, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Eq + Hash> Lately<T> {
    pub(super) fn add(&self, what: T, period: Duration) {
        self.put(what, (), period);
    }

    pub(super) fn includes(&self, what: &T) -> bool {
        self.get(what).is_some()
    }
}

impl<T: Eq + Hash, V: Copy> Lately<T, V> {
    pub(super) fn put(&self, what: T, value: V, period: Duration) {
        let (now, mut known) = (Instant::now(), self.0.lock());
        known.retain(|_, (_, until)| now < *until);
        if known.len() < MOST || known.contains_key(&what) {
            known.insert(what, (value, now + period));
        }
    }

    pub(super) fn get(&self, what: &T) -> Option<V> {
        let (value, until) = *self.0.lock().get(what)?;
        (Instant::now() < until).then_some(value)
    }

    /// Nothing at all?
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_forgotten() {
        let (lately, period) = (Lately::default(), Duration::from_secs(1));
        for number in 0..2 * MOST {
            lately.put(number, number, period);
        }
        assert_eq!(lately.get(&0), Some(0));
        assert_eq!(lately.get(&MOST), None);
        lately.put(0, 7, 2 * period);
        tokio::time::advance(period).await;
        assert_eq!((lately.get(&0), lately.get(&1)), (Some(7), None));
        lately.put(MOST, MOST, period);
        assert_eq!(lately.get(&MOST), Some(MOST), "there is room again");
    }
}
