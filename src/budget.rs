//! A bound on the bytes that all requests and answers in the proxy may hold together.
//!
//! Bodies are kept until a request is done, so that any attempt can be repeated. Memory is therefore
//! the price of every promise the proxy makes, and this is where it is capped: whoever wants to hold
//! bytes reserves them first, and a [`Reservation`] gives them back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The common bound; cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    held: AtomicUsize,
    /// Told whenever it does not suffice.
    refuses: Notify,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                limit,
                held: AtomicUsize::new(0),
                refuses: Notify::new(),
            }),
        }
    }

    /// A reservation of no bytes yet.
    pub fn open(&self) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes: 0,
        }
    }

    /// Returns once somebody asks for bytes in vain.
    pub async fn refuses(&self) {
        self.shared.refuses.notified().await;
    }

    /// Bytes that may be reserved.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Bytes that are reserved at the moment.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }
}

/// Bytes of a [`Budget`]; dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    bytes: usize,
}

/// The budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many bytes are held")]
pub struct Exhausted;

impl Reservation {
    /// Reserves `bytes` more; all or nothing.
    ///
    /// # Errors
    /// [`Exhausted`]; what was reserved before stays.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let Shared {
            limit,
            held,
            refuses,
        } = &*self.budget.shared;
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|sum| sum <= limit)
        })
        .map_err(|_| {
            refuses.notify_waiters();
            Exhausted
        })?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Reservation {
    /// One of no bytes yet, of the same budget.
    #[must_use]
    pub fn sibling(&self) -> Self {
        self.budget.open()
    }

    /// Both, which are of the same budget.
    #[must_use]
    pub fn and(mut self, mut other: Self) -> Self {
        self.bytes += std::mem::take(&mut other.bytes);
        self
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget
            .shared
            .held
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserves_up_to_the_limit_and_gives_back_on_drop() {
        let budget = Budget::new(10);
        let mut first = budget.open();
        let mut second = budget.open();
        assert_eq!(first.grow(6), Ok(()));
        assert_eq!(second.grow(5), Err(Exhausted));
        assert_eq!(second.grow(4), Ok(()));
        assert_eq!(budget.held(), 10);
        drop(first);
        assert_eq!(budget.held(), 4);
        assert_eq!(second.grow(6), Ok(()));
        assert_eq!(second.grow(usize::MAX), Err(Exhausted));
    }
}
