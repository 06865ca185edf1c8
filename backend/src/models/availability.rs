//! What this host can serve, under each name by which a request finds it: for those who choose
//! between hosts, to whom a list that lacks a name says that a request for it fails here.
//!
//! The answer is kept in memory. Whoever asks starts a new look at the folders, on a thread of its
//! own, if the last one was long ago; a model that has failed since is left out at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use super::loader::ModelKey;
use super::registry::Facts;

/// How old a look at the folders may be.
const FRESH: Duration = Duration::from_secs(5);
/// More names than this are not told: a part of the list would be taken for all of it.
const MOST_NAMES: usize = 2000;

/// A model that is there, as its files are.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// `embed:NAME` or `bertscore:NAME`.
    pub(crate) name: String,
    pub(crate) key: ModelKey,
    pub(crate) facts: Facts,
}

/// What the last look at the folders found.
#[derive(Default)]
pub(crate) struct Availability(Mutex<State>);

#[derive(Default)]
struct State {
    /// `None`: there was no look yet, or it found too much to tell.
    offers: Option<Arc<[Offer]>>,
    /// The last look found too much to tell.
    too_many: bool,
    /// When the last look began.
    looked: Option<Instant>,
}

impl State {
    /// Whether it is time to look again; if so, the look is taken to begin now.
    fn begin_look(&mut self, now: Instant) -> bool {
        let due = self.looked.is_none_or(|looked| now - looked >= FRESH);
        if due {
            self.looked = Some(now);
        }
        due
    }
}

impl Availability {
    /// What the last look found, sorted by name. Has `look` look again, in the background, if it is
    /// time. Never waits.
    pub(crate) fn latest(&self, look: impl FnOnce() + Send + 'static) -> Option<Arc<[Offer]>> {
        let mut state = self.lock();
        let due = state.begin_look(Instant::now());
        let offers = state.offers.clone();
        drop(state);
        if due {
            let thread = thread::Builder::new().name("look-for-models".to_owned());
            if let Err(fault) = thread.spawn(look) {
                warn!("no thread to look for models: {fault}");
            }
        }
        offers
    }

    /// What the last look found.
    pub(crate) fn last(&self) -> Option<Arc<[Offer]>> {
        self.lock().offers.clone()
    }

    /// A look has found these.
    pub(crate) fn found(&self, mut offers: Vec<Offer>) {
        offers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let names = offers.len();
        let too_many = names > MOST_NAMES;
        let mut state = self.lock();
        state.offers = (!too_many).then(|| offers.into());
        state.looked = Some(Instant::now());
        let is_news = too_many && !state.too_many;
        state.too_many = too_many;
        drop(state);
        if is_news {
            warn!(names, most = MOST_NAMES, "too many models to tell of");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic can leave the state half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_looked_at_every_few_seconds_at_most() {
        let mut state = State::default();
        let begin = Instant::now();
        let asked = [0, 1, 4999, 5000, 5001, 10_000].map(|ms| begin + Duration::from_millis(ms));
        let looks = asked.map(|now| state.begin_look(now));
        assert_eq!(looks, [true, false, false, true, false, true]);
    }
}
