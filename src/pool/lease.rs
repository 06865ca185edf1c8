//! Guards: a place in line and a slot in use. Dropping either gives it back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::demand::Offer;
use super::state::{Grant, OVERDUE};
use super::{
    Cause, Demand, HostId, Outcome, Plan, Pool, Proof, Receiver, Ticket, TurnedAway, Wish, Work,
    now,
};
use crate::config::HostName;
use crate::embedding::Space;

/// Time between two looks for a free slot for a request that waits behind others at its host.
const LOOK: Duration = Duration::from_millis(500);

/// A request's place in line; dropping it leaves the line.
#[must_use = "dropping it leaves the line"]
pub struct Waiting {
    pool: Pool,
    ticket: Ticket,
    turn: Turn,
}

/// Whether the lease is there already.
pub(super) enum Turn {
    /// It is, until it is taken; the request is not in line.
    Come(Option<Lease>),
    ToCome(Receiver),
}

impl Waiting {
    pub(super) fn new(pool: Pool, ticket: Ticket, turn: Turn) -> Self {
        Self { pool, ticket, turn }
    }

    /// The lease, or [`TurnedAway`], if it is there already.
    pub fn try_lease(&mut self) -> Option<Result<Lease, TurnedAway>> {
        match &mut self.turn {
            Turn::Come(lease) => lease.take().map(Ok),
            Turn::ToCome(receiver) => receiver.try_recv().ok(),
        }
    }

    /// Waits for the lease. Can be cancelled and called again.
    ///
    /// # Errors
    /// [`TurnedAway`] if the place in line went to another request, which is possible only before the
    /// first lease.
    pub async fn lease(&mut self) -> Result<Lease, TurnedAway> {
        let told = match &mut self.turn {
            Turn::Come(lease) => lease.take().map(Ok),
            // The pool drops a sender only when it is told to forget the ticket, which is this guard's
            // own doing.
            Turn::ToCome(receiver) => receiver.await.ok(),
        };
        match told {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }
}

impl Waiting {
    /// Says with which others it may share an attempt; without effect if it does not wait any more. Its lease
    /// may be [for several](Lease::is_shared) then.
    pub fn offer(&self, offer: Offer) {
        if let Turn::ToCome(_) = self.turn {
            self.pool.lock().state.offer(self.ticket, offer);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Turn::ToCome(_) = self.turn {
            self.pool.leave(self.ticket);
            // A lease that arrived unseen is dropped with the receiver, after the pool was unlocked.
        }
    }
}

/// What a lease and the task that checks a host tell each other.
#[derive(Debug)]
pub(super) struct Signals {
    /// The next check may be due sooner.
    pub(super) check_sooner: Notify,
    /// What ran on the host when this changed is lost.
    pub(super) lost: watch::Sender<Option<Cause>>,
    /// The host answers wrong with some model.
    pub(super) discredited: AtomicBool,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            check_sooner: Notify::new(),
            lost: watch::Sender::new(None),
            discredited: AtomicBool::new(false),
        }
    }
}

/// Counts a request among those that take long on its host.
struct Overdue<'a>(&'a Lease);

impl<'a> Overdue<'a> {
    fn new(lease: &'a Lease) -> Self {
        lease.held.pool.lock().state.overdue(lease.host());
        Self(lease)
    }
}

impl Drop for Overdue<'_> {
    fn drop(&mut self) {
        let pool = &self.0.held.pool;
        pool.lock().state.not_overdue(self.0.host());
    }
}

/// The right of one attempt to use one slot of one host. An attempt may be for several requests: each of them has a
/// clone, and the slot is given back with the last of these.
#[derive(Clone)]
#[must_use = "dropping it gives the slot back"]
pub struct Lease {
    held: Arc<Held>,
}

/// What all clones of a lease share.
struct Held {
    pool: Pool,
    grant: Grant,
    /// What became of the grant, if it was found later for how much it is.
    resized: OnceLock<Grant>,
    name: HostName,
    signals: Arc<Signals>,
    lost: watch::Receiver<Option<Cause>>,
    begun: AtomicBool,
    finished: AtomicBool,
}

impl Lease {
    pub(super) fn new(pool: Pool, grant: Grant, name: HostName, signals: Arc<Signals>) -> Self {
        let held = Held {
            pool,
            grant,
            resized: OnceLock::new(),
            name,
            lost: signals.lost.subscribe(),
            signals,
            begun: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        };
        Self { held: held.into() }
    }

    fn grant(&self) -> &Grant {
        self.held.grant()
    }

    /// Is the attempt for several requests?
    pub fn is_shared(&self) -> bool {
        !self.grant().company.is_empty()
    }

    /// The requests that it is for, by their places in line.
    pub fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.grant().tickets()
    }

    /// What it is for.
    pub fn demand(&self) -> &Demand {
        &self.grant().demand
    }

    /// What each of them asks for.
    pub fn demands(&self) -> impl Iterator<Item = &Demand> {
        self.grant().demands()
    }

    /// True for the first who asks: it makes the attempt, for all.
    pub fn begins(&self) -> bool {
        !self.held.begun.swap(true, Ordering::Relaxed)
    }

    /// By how much less time of hosts it should take than attempts for each of its requests.
    pub fn saves(&self) -> Duration {
        self.grant().saves
    }

    /// The host to use.
    pub fn host(&self) -> HostId {
        self.grant().host
    }

    /// Its name.
    pub fn name(&self) -> &HostName {
        &self.held.name
    }

    /// Where its vectors lie, if that is known.
    pub fn space(&self) -> Option<Space> {
        self.grant().space
    }

    /// Has an audit shown meanwhile that the host answers wrong?
    pub fn is_discredited(&self) -> bool {
        let Held { pool, signals, .. } = &*self.held;
        signals.discredited.load(Ordering::Relaxed)
            && pool.lock().state.is_discredited(self.grant())
    }

    /// How long the request should take there; `None` if that is not known, or if the host may have
    /// to load the model first.
    pub fn expected(&self) -> Option<Duration> {
        let grant = self.grant();
        grant.expected.filter(|_| grant.is_surely_warm)
    }

    /// Ends when the host is found to be such that what runs on it should be tried elsewhere. Has it
    /// checked more often once the request has taken a while.
    pub async fn host_is_lost(&self) -> Cause {
        let mut lost = self.held.lost.clone();
        let worry = async {
            tokio::time::sleep(OVERDUE).await;
            let _counted = Overdue::new(self);
            self.held.signals.check_sooner.notify_one();
            std::future::pending::<()>().await;
        };
        let told = async {
            if lost.changed().await.is_err() {
                // This lease holds the sender.
                std::future::pending::<()>().await;
            }
            *lost.borrow_and_update()
        };
        tokio::select! {
            () = worry => Cause::Hung,
            cause = told => cause.unwrap_or(Cause::Hung),
        }
    }

    /// Ends once the request has waited behind others for too long, and need not.
    pub async fn is_free_elsewhere(&self) {
        if self.grant().behind.is_none() {
            std::future::pending::<()>().await;
        }
        let is_free = || {
            let state = &self.held.pool.lock().state;
            state.is_free_elsewhere(self.grant(), now())
        };
        while !is_free() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How long that may be by what little has been seen; `None` if that is next to nothing.
    pub fn guess(&self) -> Option<Duration> {
        self.grant().guess
    }

    /// Does the host take all of it at once, as far as is known?
    pub fn fits(&self) -> bool {
        self.grant().fits()
    }

    /// How the batch that this is for had better be cut for this host and those that idle; `None`: not at all,
    /// since it would not be done notably sooner, or since it can't be, where the host [takes less](Self::fits).
    pub fn plan_parts(&self, wish: Wish) -> Option<Plan> {
        self.held.pool.plan_parts(self.grant(), wish)
    }

    /// Is for `own` only from now on. Returns leases for the other parts; `None` for one that can't begin where it
    /// was planned. Takes effect once, as does [`Self::resize`].
    pub fn share_out(&self, own: Demand, others: Vec<(HostId, Demand)>) -> Vec<Option<Lease>> {
        let mut grant = self.grant().clone();
        let leases = self.held.pool.share_out(&mut grant, own, others);
        _ = self.held.resized.set(grant);
        leases
    }

    /// Is for so much from now on.
    pub fn resize(&self, work: Work) {
        let mut grant = self.grant().clone();
        self.held.pool.lock().state.resize(&mut grant, work);
        _ = self.held.resized.set(grant);
    }

    /// Gives the slot back and tells how the attempt ended. Returns the host's last sign of life,
    /// for [`super::Avoid::add`]. Only the first call counts.
    pub fn finish(&self, outcome: Outcome) -> Proof {
        self.held.finish(outcome)
    }
}

impl Held {
    fn grant(&self) -> &Grant {
        self.resized.get().unwrap_or(&self.grant)
    }

    fn finish(&self, outcome: Outcome) -> Proof {
        if self.finished.swap(true, Ordering::Relaxed) {
            return Proof::default();
        }
        self.pool.finish(self.grant(), outcome)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.finish(Outcome::Abandoned);
    }
}
