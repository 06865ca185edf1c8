//! What the registry decides: which model to load, which to drop, who has to wait. Pure: no I/O, no
//! locks, the time is passed in.
//!
//! ```text
//!            request                loaded
//! (absent) ──────────▶ Loading ─────────────▶ Ready ──▶ (absent)   evicted: least recently used,
//!     ▲                  │  ▲                                      and held by nobody
//!     │           failed ▼  │ request, once the time is over or the files have changed
//!     └ ─ ─ ─ ─ ─ ─ ─ Failed
//! ```
//!
//! A *hold* is the right to an entry: a request has one from the moment that it asks for a model
//! until it is done with it. What is held is not evicted, so that a model cannot vanish between the
//! end of its load and its use.
//!
//! Invariants:
//! - Memory in use (ready models, and what loading ones will need) exceeds the budget only if a
//!   model turned out larger than expected, and then no ready model is without a hold.
//! - A key is loaded by one loader at a time.
//! - An entry with holds stays.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::memory::{Memory, together};
use crate::engine::LoadFault;

/// State of what lay in a model's folder; another value means that something changed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Version(pub(crate) u64);

/// What is known of a model before it is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// What it will need.
    pub(crate) memory: Memory,
    pub(crate) version: Version,
}

/// Why a model is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Load(LoadFault),
    /// Even alone it needs more than the whole budget; both in bytes.
    TooLarge {
        needed: u64,
        budget: u64,
    },
}

/// What to do about a request for a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision<K, M> {
    /// Use it; the caller has a hold.
    Use(M),
    /// Drop `evicted`, then load it and report; memory is reserved and the caller has a hold.
    Load { evicted: Vec<(K, M)> },
    /// Another caller loads it; this one has a hold and asks [`Core::poll`].
    AwaitLoad,
    /// No memory is free now: ask again after a release.
    AwaitMemory,
    /// Ask again with [`Facts`].
    Inspect,
    /// There is no point in loading it now.
    Refuse(Failure),
}

/// How the load fares that the holder of an entry waits for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Poll<M> {
    Loading,
    Ready(M),
    Failed(Failure),
}

/// What a key is at, for those who only look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Absent,
    Loading,
    Ready,
    Failed(Failure),
}

/// See the module. `M` is a handle: cheap to clone.
pub(super) struct Core<K, M> {
    budget: u64,
    /// How long a failed load is not tried again.
    remember: Duration,
    /// Counts uses; orders entries by their last.
    uses: u64,
    entries: BTreeMap<K, Entry<M>>,
}

struct Entry<M> {
    holds: usize,
    last_use: u64,
    state: State<M>,
}

enum State<M> {
    Loading {
        reserved: Memory,
        version: Version,
    },
    Ready {
        model: M,
        memory: Memory,
    },
    Failed {
        failure: Failure,
        until: Instant,
        version: Version,
    },
}

impl<M> Entry<M> {
    fn memory(&self) -> Memory {
        match self.state {
            State::Loading { reserved, .. } => reserved,
            State::Ready { memory, .. } => memory,
            State::Failed { .. } => Memory::default(),
        }
    }

    fn is_evictable(&self) -> bool {
        self.holds == 0 && matches!(self.state, State::Ready { .. })
    }
}

impl<K: Ord + Clone, M: Clone> Core<K, M> {
    /// Nothing is loaded; `budget` in bytes.
    pub(super) fn new(budget: u64, remember: Duration) -> Self {
        Self {
            budget,
            remember,
            uses: 0,
            entries: BTreeMap::new(),
        }
    }

    /// Somebody wants the model of `key`. `facts` are needed only if it is not there.
    pub(super) fn request(
        &mut self,
        key: &K,
        facts: Option<Facts>,
        now: Instant,
    ) -> Decision<K, M> {
        match self.entries.get(key).map(|entry| &entry.state) {
            Some(State::Ready { model, .. }) => {
                let model = model.clone();
                self.hold(key);
                Decision::Use(model)
            }
            Some(State::Loading { .. }) => {
                self.hold(key);
                Decision::AwaitLoad
            }
            Some(State::Failed {
                failure,
                until,
                version,
            }) => match facts {
                None => Decision::Inspect,
                Some(facts) if now < *until && facts.version == *version => {
                    Decision::Refuse(failure.clone())
                }
                Some(facts) => self.begin(key, facts),
            },
            None => facts.map_or(Decision::Inspect, |facts| self.begin(key, facts)),
        }
    }

    /// Reserves memory and begins the load, if there is room or some can be made.
    fn begin(&mut self, key: &K, facts: Facts) -> Decision<K, M> {
        let (needed, budget) = (facts.memory.alone(), self.budget);
        if needed > budget {
            return Decision::Refuse(Failure::TooLarge { needed, budget });
        }
        let busy = self.entries.values().filter(|entry| !entry.is_evictable());
        if together(busy.map(Entry::memory).chain([facts.memory])) > budget {
            return Decision::AwaitMemory;
        }
        let evicted = self.evict_for(facts.memory);
        let loading = State::Loading {
            reserved: facts.memory,
            version: facts.version,
        };
        self.set(key, loading);
        self.hold(key);
        Decision::Load { evicted }
    }

    /// For a holder: what has become of the load.
    pub(super) fn poll(&self, key: &K) -> Poll<M> {
        match self.entries.get(key).map(|entry| &entry.state) {
            Some(State::Ready { model, .. }) => Poll::Ready(model.clone()),
            Some(State::Failed { failure, .. }) => Poll::Failed(failure.clone()),
            Some(State::Loading { .. }) | None => Poll::Loading,
        }
    }

    /// The load ended well; the model takes `memory`, or as much as expected. Gives what to drop to
    /// make room for one that is larger than expected.
    ///
    /// # Errors
    /// The model itself, if even alone it is too large; that counts as a failed load.
    pub(super) fn loaded(
        &mut self,
        key: &K,
        model: M,
        memory: Option<Memory>,
        now: Instant,
    ) -> Result<Vec<(K, M)>, M> {
        let reserved = self.entries.get(key).map(Entry::memory);
        let memory = memory.or(reserved).unwrap_or_default();
        let (needed, budget) = (memory.alone(), self.budget);
        if needed > budget {
            self.failed(key, Failure::TooLarge { needed, budget }, now);
            return Err(model);
        }
        self.set(key, State::Ready { model, memory });
        self.touch(key);
        Ok(self.evict_for(Memory::default()))
    }

    /// The load failed.
    pub(super) fn failed(&mut self, key: &K, failure: Failure, now: Instant) {
        let Some(State::Loading { version, .. }) = self.entries.get(key).map(|entry| &entry.state)
        else {
            return;
        };
        let failed = State::Failed {
            failure,
            until: now + self.remember,
            version: *version,
        };
        self.set(key, failed);
    }

    /// A hold ends. Gives what to drop if memory had been exceeded.
    pub(super) fn release(&mut self, key: &K) -> Vec<(K, M)> {
        self.touch(key);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.holds = entry.holds.saturating_sub(1);
        }
        self.evict_for(Memory::default())
    }

    /// Where `key` is at. A failure whose time is over is none any more.
    pub(super) fn stage(&self, key: &K, now: Instant) -> Stage {
        match self.entries.get(key).map(|entry| &entry.state) {
            Some(State::Loading { .. }) => Stage::Loading,
            Some(State::Ready { .. }) => Stage::Ready,
            Some(State::Failed { failure, until, .. }) if now < *until => {
                Stage::Failed(failure.clone())
            }
            Some(State::Failed { .. }) | None => Stage::Absent,
        }
    }

    /// Whether the model is known to fail with what lay in its folder at `version`, however long ago
    /// that was found. A fault that passes says nothing of later.
    pub(super) fn is_hopeless(&self, key: &K, version: Version) -> bool {
        match self.entries.get(key).map(|entry| &entry.state) {
            Some(State::Failed {
                failure,
                version: seen,
                ..
            }) if *seen == version => {
                !matches!(failure, Failure::Load(LoadFault { passing: true, .. }))
            }
            _ => false,
        }
    }

    /// Bytes that ready models take and loading ones have reserved.
    pub(super) fn used(&self) -> u64 {
        self.used_with(Memory::default())
    }

    fn used_with(&self, more: Memory) -> u64 {
        together(self.entries.values().map(Entry::memory).chain([more]))
    }

    /// How many models are ready.
    pub(super) fn loaded_models(&self) -> usize {
        let ready = |entry: &&Entry<M>| matches!(entry.state, State::Ready { .. });
        self.entries.values().filter(ready).count()
    }

    /// Evicts until `more` fits into the budget, least recently used first, as far as that goes.
    fn evict_for(&mut self, more: Memory) -> Vec<(K, M)> {
        let mut evicted = Vec::new();
        while self.used_with(more) > self.budget {
            let evictable = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.is_evictable());
            let oldest = evictable.min_by_key(|(_, entry)| entry.last_use);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            if let Some(Entry {
                state: State::Ready { model, .. },
                ..
            }) = self.entries.remove(&key)
            {
                evicted.push((key, model));
            }
        }
        evicted
    }

    fn set(&mut self, key: &K, state: State<M>) {
        let (holds, last_use) = self
            .entries
            .get(key)
            .map_or((0, self.uses), |entry| (entry.holds, entry.last_use));
        let entry = Entry {
            holds,
            last_use,
            state,
        };
        self.entries.insert(key.clone(), entry);
    }

    fn hold(&mut self, key: &K) {
        self.touch(key);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.holds += 1;
        }
    }

    fn touch(&mut self, key: &K) {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.last_use = self.uses;
        }
    }
}

#[cfg(test)]
mod tests;
