//! A bound on the connections of clients, and the way to know when the last one is done.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts the open connections; cheap to clone.
#[derive(Clone)]
pub struct Connections {
    free: Arc<Semaphore>,
    limit: u32,
}

/// One open connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Open(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Connections {
    /// At most `limit` at once.
    pub fn new(limit: usize) -> Self {
        let limit = u32::try_from(limit.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(limit as usize)),
            limit,
        }
    }

    /// Counts a new one; `None` if there are too many already.
    pub(super) fn open(&self) -> Option<Open> {
        let permit = Arc::clone(&self.free).try_acquire_owned();
        permit.ok().map(Open)
    }

    /// Waits until no connection is open; false if that takes longer than `timeout`.
    pub async fn closed(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.free.acquire_many(self.limit))
            .await
            .is_ok()
    }
}
