//! A bound on the bytes of requests and answers that are in memory at once.
//!
//! Whoever keeps bytes holds a [`Reservation`] for them, which moves along with them (also onto the
//! blocking threads, so that a request whose client has gone counts until its bytes are freed) and
//! gives them back when it is dropped. Requests wait their turn, first come first served, as long as
//! for a slot; half-way, those whose bodies come slowly are asked to make room. Answers never wait:
//! throwing a computed answer away helps nobody, so they may overdraw the budget, and no request
//! comes in until that is made good.
//!
//! Counted is what came and what goes over the wire; parsing takes a small multiple of it.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};

use super::slots::PATIENCE;

/// Bytes in a unit of account, so that a `u32` of them is enough for 4 TiB.
const UNIT: usize = 1024;

/// The bytes of this host; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total: u32,
    free: Semaphore,
    /// Units held beyond the total. While there are any, none are free.
    overdrawn: Mutex<u32>,
    /// Told when somebody has waited for some for a while.
    needed: Notify,
}

/// Some bytes of a [`Budget`].
#[derive(Debug)]
pub(super) struct Reservation {
    shared: Arc<Shared>,
    units: u32,
}

/// The budget is used up, and stayed so.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("too many bytes are in memory")]
pub(super) struct Exhausted;

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX);
        let total = total.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Self(Arc::new(Shared {
            total,
            free: Semaphore::new(total as usize),
            overdrawn: Mutex::new(0),
            needed: Notify::new(),
        }))
    }

    /// The most bytes that one reservation may ever have.
    pub(super) fn total(&self) -> usize {
        (self.0.total as usize).saturating_mul(UNIT)
    }

    /// Bytes that are held now.
    pub(super) fn held(&self) -> u64 {
        let overdrawn = u64::from(*self.0.overdrawn());
        let taken = (self.0.total as usize).saturating_sub(self.0.free.available_permits());
        (taken as u64 + overdrawn) * UNIT as u64
    }

    /// A reservation of nothing yet.
    pub(super) fn open(&self) -> Reservation {
        Reservation {
            shared: Arc::clone(&self.0),
            units: 0,
        }
    }
}

impl Reservation {
    /// Waits until `bytes` in all are reserved, up to 1 s. Dropping the future gives up the place in
    /// line.
    ///
    /// # Errors
    /// [`Exhausted`]; what was reserved before stays.
    pub(super) async fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let more = units(bytes).saturating_sub(self.units);
        if more == 0 {
            return Ok(());
        }
        let shared = &*self.shared;
        let mut acquired = pin!(shared.free.acquire_many(more));
        let mut found = timeout(PATIENCE / 2, &mut acquired).await;
        if found.is_err() {
            shared.needed.notify_waiters();
            found = timeout(PATIENCE / 2, acquired).await;
        }
        match found {
            Ok(Ok(permits)) => permits.forget(),
            Ok(Err(_)) | Err(_) => return Err(Exhausted),
        }
        self.units += more;
        Ok(())
    }

    /// Returns once somebody has waited in vain for a while, but not before `grace` from now.
    pub(super) fn needed_by_others(&self, grace: Duration) -> impl Future<Output = ()> + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            sleep(grace).await;
            shared.needed.notified().await;
        }
    }

    /// Accounts for the bytes of an answer instead of what was reserved, without waiting, until the
    /// last of them is freed.
    pub(super) fn keep(mut self, answer: Bytes) -> Bytes {
        let wanted = units(answer.len());
        self.shared.overdraw(wanted.saturating_sub(self.units));
        self.shared.give_back(self.units.saturating_sub(wanted));
        self.units = wanted;
        Bytes::from_owner(Kept {
            bytes: answer,
            _reservation: self,
        })
    }

    /// The reservation, leaving one of nothing.
    pub(super) fn take(&mut self) -> Self {
        let nothing = Self {
            shared: Arc::clone(&self.shared),
            units: 0,
        };
        std::mem::replace(self, nothing)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.give_back(self.units);
    }
}

impl Shared {
    fn overdrawn(&self) -> MutexGuard<'_, u32> {
        // A number is never half-changed.
        self.overdrawn
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn overdraw(&self, units: u32) {
        let mut overdrawn = self.overdrawn();
        let free = self.free.forget_permits(units as usize);
        *overdrawn += units.saturating_sub(u32::try_from(free).unwrap_or(u32::MAX));
    }

    fn give_back(&self, units: u32) {
        let mut overdrawn = self.overdrawn();
        let repaid = units.min(*overdrawn);
        *overdrawn -= repaid;
        self.free.add_permits((units - repaid) as usize);
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// Bytes that are accounted for as long as they live.
struct Kept {
    bytes: Bytes,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_are_waited_for_one_second_in_order_and_come_back_on_drop() {
        let budget = Budget::new(10 * UNIT);
        let mut first = budget.open();
        assert_eq!(first.grow_to(8 * UNIT - 1).await, Ok(()));
        assert_eq!(first.grow_to(5).await, Ok(()), "it has more already");
        assert_eq!(budget.held(), 8 * 1024);

        let begin = Instant::now();
        let mut second = budget.open();
        assert_eq!(second.grow_to(3 * UNIT).await, Err(Exhausted));
        assert_eq!(begin.elapsed().as_secs(), 1);

        let mut waiting = Box::pin(second.grow_to(3 * UNIT));
        assert!((&mut waiting).now_or_never().is_none());
        drop(first);
        assert_eq!((&mut waiting).now_or_never(), Some(Ok(())));
        drop(waiting);
        drop(second);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_never_waits_and_lets_nobody_in_until_it_is_gone() {
        let budget = Budget::new(4 * UNIT);
        let mut request = budget.open();
        request.grow_to(UNIT).await.unwrap();
        let answer = request.keep(Bytes::from(vec![7; 6 * UNIT]));
        let copy = answer.slice(1..2);
        assert_eq!((answer.len(), budget.held()), (6 * UNIT, 6 * 1024));

        let mut next = budget.open();
        assert_eq!(next.grow_to(1).await, Err(Exhausted));
        drop(answer);
        assert_eq!(
            next.grow_to(1).await,
            Err(Exhausted),
            "a part is held still"
        );
        drop(copy);
        assert_eq!(next.grow_to(4 * UNIT).await, Ok(()));
        assert_eq!(budget.held(), 4 * 1024);
        let answer = next.keep(Bytes::from_static(b"short"));
        assert_eq!(budget.held(), 1024);
        drop(answer);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_exceeds_the_whole_is_refused() {
        let budget = Budget::new(2 * UNIT);
        assert_eq!(budget.open().grow_to(usize::MAX).await, Err(Exhausted));
        assert_eq!((budget.total(), budget.held()), (2 * UNIT, 0));
    }

    #[tokio::test]
    async fn a_reservation_that_moves_on_is_counted_once() {
        let budget = Budget::new(4 * UNIT);
        let mut held = budget.open();
        held.grow_to(3 * UNIT).await.unwrap();
        let moved = held.take();
        drop(held);
        assert_eq!(budget.held(), 3 * 1024);
        drop(moved);
        assert_eq!(budget.held(), 0);
    }
}
