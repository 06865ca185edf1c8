//! Guards: a place in line and a slot in use. Dropping either gives it back.

use std::time::Instant;

use tokio::sync::{oneshot, watch};

use super::{HostId, Outcome, Pool, Proof, Ticket};
use crate::config::HostName;

/// A request's place in line; dropping it leaves the line.
#[must_use = "dropping it leaves the line"]
pub struct Waiting {
    pool: Pool,
    ticket: Ticket,
    receiver: oneshot::Receiver<Lease>,
}

impl Waiting {
    pub(super) fn new(pool: Pool, ticket: Ticket, receiver: oneshot::Receiver<Lease>) -> Self {
        Self {
            pool,
            ticket,
            receiver,
        }
    }

    /// The lease, if there is one already.
    pub fn try_lease(&mut self) -> Option<Lease> {
        self.receiver.try_recv().ok()
    }

    /// Waits for the lease. Can be cancelled and called again.
    pub async fn lease(&mut self) -> Lease {
        match (&mut self.receiver).await {
            Ok(lease) => lease,
            // The pool drops a sender only when it is told to forget the ticket, which is this
            // guard's own doing.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.leave(self.ticket);
        // A lease that arrived unseen is dropped with the receiver, after the pool was unlocked.
    }
}

/// The right of one attempt to use one slot of one host.
#[must_use = "dropping it gives the slot back"]
pub struct Lease {
    pool: Pool,
    host: HostId,
    name: HostName,
    hung: watch::Receiver<()>,
    granted: Instant,
    finished: bool,
}

impl Lease {
    pub(super) fn new(pool: Pool, host: HostId, name: HostName, hung: watch::Receiver<()>) -> Self {
        Self {
            pool,
            host,
            name,
            hung,
            granted: super::now(),
            finished: false,
        }
    }

    /// The host to use.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// Its name.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// Ends when the host is found to hang, so that what runs on it should be tried elsewhere.
    pub async fn host_hangs(&self) {
        let mut hung = self.hung.clone();
        if hung.changed().await.is_err() {
            // Only a pool that is gone closes it, and this lease holds the pool.
            std::future::pending::<()>().await;
        }
    }

    /// Gives the slot back and tells how the attempt ended. Returns the host's last sign of life,
    /// for [`super::Avoid::add`].
    pub fn finish(mut self, outcome: Outcome) -> Proof {
        self.finished = true;
        self.pool.finish(self.host, outcome, self.granted)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.finished {
            self.pool
                .finish(self.host, Outcome::Abandoned, self.granted);
        }
    }
}
