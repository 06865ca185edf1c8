//! What a request has of the registry: first a hold on a model's entry, then the model with it.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use super::core::Poll;
use super::{Refusal, Shared, Source, forget};
use crate::engine::Progress;

/// Keeps an entry in the registry; given back when dropped.
pub(super) struct Hold<S: Source> {
    shared: Arc<Shared<S>>,
    key: S::Key,
}

impl<S: Source> Hold<S> {
    /// The guard of a hold that the core has granted.
    pub(super) fn new(shared: Arc<Shared<S>>, key: S::Key) -> Self {
        Self { shared, key }
    }

    /// Waits for the end of the load.
    pub(super) fn await_load(self, progress: &dyn Progress) -> Result<Lease<S>, Refusal> {
        let give_up = Instant::now() + self.shared.policy.load_patience;
        let shared = Arc::clone(&self.shared);
        let mut guarded = shared.lock();
        loop {
            match guarded.core.poll(&self.key) {
                Poll::Ready(model) => {
                    drop(guarded);
                    return Ok(Lease::new(model, self));
                }
                Poll::Failed(failure) => {
                    // Before the hold is given back, which takes the lock.
                    drop(guarded);
                    return Err(Refusal::Failed(failure));
                }
                Poll::Loading => {
                    guarded = shared.wait(guarded, progress, give_up, Refusal::StillLoading)?;
                }
            }
        }
    }
}

impl<S: Source> Drop for Hold<S> {
    fn drop(&mut self) {
        let mut guarded = self.shared.lock();
        let evicted = guarded.core.release(&self.key);
        guarded.counts.evictions += evicted.len() as u64;
        drop(guarded);
        forget::<S>(evicted);
        self.shared.changed.notify_all();
    }
}

/// A model in use: not evicted as long as this lives.
pub(crate) struct Lease<S: Source> {
    // Fields are dropped in this order: what is not held any more must not be referred to.
    model: Arc<S::Model>,
    #[expect(dead_code, reason = "held for what its end does")]
    hold: Hold<S>,
}

impl<S: Source> Lease<S> {
    pub(super) fn new(model: Arc<S::Model>, hold: Hold<S>) -> Self {
        Self { model, hold }
    }
}

impl<S: Source> Deref for Lease<S> {
    type Target = S::Model;

    fn deref(&self) -> &S::Model {
        &self.model
    }
}
