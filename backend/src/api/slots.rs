//! How many computations may run at once.
//!
//! A request waits a little for one of the slots, first come first served, and is told to come back
//! later if none gets free: the waiting belongs to the proxy or the client, which know other hosts.
//! A [`Slot`] gives itself back when dropped.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a request waits for a slot.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The slots of this host.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    total: u32,
}

/// The right to compute; dropping it wakes the next in line.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// No slot got free in time.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no slot got free in time")]
pub(super) struct Busy;

impl Slots {
    /// With 0 slots every request is refused after its wait.
    pub(super) fn new(total: u32) -> Self {
        Self {
            free: Arc::new(Semaphore::new(total as usize)),
            total,
        }
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    /// Waits up to 1 s for a slot. Dropping the future gives up the place in line.
    pub(super) async fn acquire(&self) -> Result<Slot, Busy> {
        match timeout(PATIENCE, Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Slot { _permit: permit }),
            Ok(Err(_)) | Err(_) => Err(Busy),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_free_slot_is_had_at_once_and_a_taken_one_is_waited_for_one_second() {
        let slots = Slots::new(1);
        let begin = Instant::now();
        let held = slots.acquire().await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(slots.acquire().await.unwrap_err(), Busy);
        assert_eq!(begin.elapsed().as_secs(), 1);
        drop(held);
        assert!(slots.acquire().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn without_slots_the_host_is_always_busy() {
        assert_eq!(Slots::new(0).acquire().await.unwrap_err(), Busy);
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_handed_on_in_order_and_the_impatient_lose_their_place() {
        let slots = Slots::new(1);
        let held = slots.acquire().await.unwrap();
        let mut gone = Box::pin(slots.acquire());
        let mut first = Box::pin(slots.acquire());
        let mut second = Box::pin(slots.acquire());
        for waiting in [&mut gone, &mut first, &mut second] {
            assert!(waiting.now_or_never().is_none());
        }
        drop(gone);
        drop(held);
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut first).now_or_never().is_some());
        assert!((&mut second).now_or_never().is_some());
    }
}
