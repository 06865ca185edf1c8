//! Models in memory. Each is loaded when it is first asked for, once however many ask, on a thread
//! of its own; who asked waits for that load, and nobody waits for the load of another model. What
//! is loaded stays within a budget of memory: the model that was not used for longest makes room,
//! but never one in use. Memory is not reserved for a waiter: while overlapping requests keep all of
//! it in use, a request for another model is refused when its patience ends, however often it comes.
//!
//! [`core`] decides; this file holds the one lock around it, waits, and calls the [`Source`], which
//! does the reading. The lock is held for decisions only, never while a file is read or a model is
//! loaded or dropped. There is one condition variable: whatever may help a waiter (a load that
//! ended, a hold given back) wakes all of them, and each asks again.

mod core;
mod lease;
mod memory;

use std::fmt::Display;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::info;

use self::core::{Core, Decision};
pub(crate) use self::core::{Facts, Failure, Stage, Version};
use self::lease::Hold;
pub(crate) use self::lease::Lease;
pub(crate) use self::memory::{Common, Memory};
use crate::engine::{LoadFault, ModelUsage, Progress};

/// How often a waiter looks whether it is still wanted; nothing else tells it.
const LOOK_AROUND: Duration = Duration::from_millis(100);

/// Where models come from.
pub(crate) trait Source: Send + Sync + 'static {
    /// What tells models apart.
    type Key: Ord + Clone + Display + Send + Sync + 'static;
    type Model: Resident;

    /// What can be said of a model without loading it. For one that cannot be read 0 bytes do: its
    /// load says what is wrong.
    fn inspect(&self, key: &Self::Key) -> Facts;

    /// Loads a model; takes as long as it takes.
    fn load(&self, key: &Self::Key) -> Result<Self::Model, LoadFault>;
}

/// Something that takes memory.
pub(crate) trait Resident: Send + Sync + 'static {
    /// What it really takes, if it knows.
    fn memory(&self) -> Option<Memory>;
}

/// How models are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Memory for models, in bytes.
    pub(crate) budget: u64,
    /// How long a request waits for memory that is in use.
    pub(crate) memory_patience: Duration,
    /// How long a request waits for a load. The load goes on without it.
    pub(crate) load_patience: Duration,
    /// How long a failed load is not tried again, unless the folder changes.
    pub(crate) remember_failures: Duration,
}

impl Policy {
    /// The times fit a client that gives up after 45 s: it reads "retry later" before that.
    pub(crate) const fn with_budget(budget: u64) -> Self {
        Self {
            budget,
            memory_patience: Duration::from_secs(10),
            load_patience: Duration::from_secs(20),
            remember_failures: Duration::from_secs(30),
        }
    }
}

/// Why there is no model.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Refusal {
    #[error("nobody waits for it any more")]
    Cancelled,
    /// Everything in the budget stayed in use.
    #[error("no memory got free in time")]
    NoMemory,
    /// The load goes on; a later request will find the model.
    #[error("it is still loading")]
    StillLoading,
    #[error("it cannot be loaded")]
    Failed(Failure),
}

/// See the module.
pub(crate) struct Registry<S: Source> {
    shared: Arc<Shared<S>>,
}

struct Shared<S: Source> {
    source: S,
    policy: Policy,
    guarded: Mutex<Guarded<S>>,
    /// Something changed that a waiter may wait for.
    changed: Condvar,
}

struct Guarded<S: Source> {
    core: Core<S::Key, Arc<S::Model>>,
    counts: Counts,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    loads: u64,
    failed_loads: u64,
    evictions: u64,
}

type Evicted<S> = Vec<(<S as Source>::Key, Arc<<S as Source>::Model>)>;

impl<S: Source> Registry<S> {
    pub(crate) fn new(source: S, policy: Policy) -> Self {
        let guarded = Guarded {
            core: Core::new(policy.budget, policy.remember_failures),
            counts: Counts::default(),
        };
        let shared = Shared {
            source,
            policy,
            guarded: Mutex::new(guarded),
            changed: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The model of `key`, loaded if need be. Blocks; `progress` says whether anybody still waits.
    pub(crate) fn acquire(
        &self,
        key: &S::Key,
        progress: &dyn Progress,
    ) -> Result<Lease<S>, Refusal> {
        match self.claim(key, progress)? {
            Claim::Ready(lease) => Ok(lease),
            Claim::Awaited(hold) => hold.await_load(progress),
        }
    }

    /// Where models come from.
    pub(crate) fn source(&self) -> &S {
        &self.shared.source
    }

    /// Where `key` is at. Never waits for a load.
    pub(crate) fn stage(&self, key: &S::Key) -> Stage {
        self.shared.lock().core.stage(key, Instant::now())
    }

    /// See [`Core::is_hopeless`]; a model that is larger than the budget is hopeless, too.
    pub(crate) fn is_hopeless(&self, key: &S::Key, facts: Facts) -> bool {
        facts.memory.alone() > self.shared.policy.budget
            || self.shared.lock().core.is_hopeless(key, facts.version)
    }

    pub(crate) fn usage(&self) -> ModelUsage {
        let guarded = self.shared.lock();
        let Counts {
            loads,
            failed_loads,
            evictions,
        } = guarded.counts;
        ModelUsage {
            budget: self.shared.policy.budget,
            loaded: guarded.core.loaded_models(),
            used: guarded.core.used(),
            loads,
            failed_loads,
            evictions,
        }
    }

    /// A hold on the entry of `key`, after waiting for memory where it takes that.
    fn claim(&self, key: &S::Key, progress: &dyn Progress) -> Result<Claim<S>, Refusal> {
        let shared = &self.shared;
        let mut facts = None;
        let mut give_up = None;
        let mut guarded = shared.lock();
        loop {
            let now = Instant::now();
            match guarded.core.request(key, facts, now) {
                Decision::Use(model) => {
                    let hold = shared.hold(key);
                    return Ok(Claim::Ready(Lease::new(model, hold)));
                }
                Decision::AwaitLoad => return Ok(Claim::Awaited(shared.hold(key))),
                Decision::Load { evicted } => {
                    let hold = shared.hold(key);
                    guarded.counts.evictions += evicted.len() as u64;
                    drop(guarded);
                    forget::<S>(evicted);
                    shared.start_load(key);
                    return Ok(Claim::Awaited(hold));
                }
                Decision::Inspect => {
                    drop(guarded);
                    facts = Some(shared.source.inspect(key));
                    guarded = shared.lock();
                }
                Decision::AwaitMemory => {
                    let give_up = *give_up.get_or_insert(now + shared.policy.memory_patience);
                    guarded = shared.wait(guarded, progress, give_up, Refusal::NoMemory)?;
                }
                Decision::Refuse(failure) => return Err(Refusal::Failed(failure)),
            }
        }
    }
}

/// What a request has got.
enum Claim<S: Source> {
    Ready(Lease<S>),
    /// The model is being loaded.
    Awaited(Hold<S>),
}

impl<S: Source> Shared<S> {
    /// Nothing under the lock leaves the state half-changed if it panics: go on.
    fn lock(&self) -> MutexGuard<'_, Guarded<S>> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change. An error, `late` at `give_up`, if waiting has become pointless.
    fn wait<'a>(
        &'a self,
        guarded: MutexGuard<'a, Guarded<S>>,
        progress: &dyn Progress,
        give_up: Instant,
        late: Refusal,
    ) -> Result<MutexGuard<'a, Guarded<S>>, Refusal> {
        if progress.is_cancelled() {
            return Err(Refusal::Cancelled);
        }
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late);
        }
        let woken = self.changed.wait_timeout(guarded, left.min(LOOK_AROUND));
        Ok(woken.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The guard of a hold that the core has just granted.
    fn hold(self: &Arc<Self>, key: &S::Key) -> Hold<S> {
        Hold::new(Arc::clone(self), key.clone())
    }

    /// Loads the model on a thread of its own, which reports whatever becomes of it.
    fn start_load(self: &Arc<Self>, key: &S::Key) {
        let load = Load {
            shared: Arc::clone(self),
            key: key.clone(),
            outcome: None,
        };
        // If there is no thread, the closure is dropped, and `load` with it, which reports that.
        let thread = thread::Builder::new().name("model-load".to_owned());
        drop(thread.spawn(move || load.run()));
    }

    fn finish(&self, key: &S::Key, outcome: Result<Arc<S::Model>, LoadFault>) {
        let outcome = outcome.map(|model| (model.memory(), model));
        let mut guarded = self.lock();
        let dropped = guarded.finish(key, outcome, Instant::now());
        drop(guarded);
        forget::<S>(dropped.evicted);
        drop(dropped.too_large);
        self.changed.notify_all();
    }
}

/// What a load leaves to be dropped, once the lock is given back.
struct Dropped<S: Source> {
    evicted: Evicted<S>,
    too_large: Option<Arc<S::Model>>,
}

impl<S: Source> Guarded<S> {
    fn finish(
        &mut self,
        key: &S::Key,
        outcome: Result<(Option<Memory>, Arc<S::Model>), LoadFault>,
        now: Instant,
    ) -> Dropped<S> {
        let loaded = match outcome {
            Ok((memory, model)) => self.core.loaded(key, model, memory, now).map_err(Some),
            Err(fault) => {
                self.core.failed(key, Failure::Load(fault), now);
                Err(None)
            }
        };
        let (evicted, too_large) = match loaded {
            Ok(evicted) => {
                self.counts.loads += 1;
                self.counts.evictions += evicted.len() as u64;
                (evicted, None)
            }
            Err(too_large) => {
                self.counts.failed_loads += 1;
                (Vec::new(), too_large)
            }
        };
        Dropped { evicted, too_large }
    }
}

/// Says what goes, and lets it go.
fn forget<S: Source>(evicted: Evicted<S>) {
    for (key, model) in evicted {
        info!(model = %key, "model dropped to make room");
        drop(model);
    }
}

/// The fault of a load that came to no end: files that make a library panic do so again.
fn broken_off() -> LoadFault {
    let fault = LoadFault::from("its load ended before its time".to_owned());
    if !thread::panicking() {
        return fault;
    }
    LoadFault {
        reason: "its files broke off the program that read them (panic)".to_owned(),
        passing: false,
        ..fault
    }
}

/// A load under way. Its end is reported even if the loader panics.
struct Load<S: Source> {
    shared: Arc<Shared<S>>,
    key: S::Key,
    outcome: Option<Result<Arc<S::Model>, LoadFault>>,
}

impl<S: Source> Load<S> {
    fn run(mut self) {
        let loaded = self.shared.source.load(&self.key);
        self.outcome = Some(loaded.map(Arc::new));
    }
}

impl<S: Source> Drop for Load<S> {
    fn drop(&mut self) {
        let outcome = self.outcome.take();
        let outcome = outcome.unwrap_or_else(|| Err(broken_off()));
        self.shared.finish(&self.key, outcome);
    }
}

#[cfg(test)]
mod tests;
