//! The pool: which hosts there are, which may get requests, and who is next in line.
//!
//! [`Pool`] is a thin, thread-safe handle around a pure state machine ([`state`]) behind one short
//! lock. It hands out [`Lease`]s: the right of one attempt to use one slot of one host. Dropping a
//! lease gives the slot back and serves the next in line, so that no path through the program can
//! lose one.
//!
//! ```text
//! join ──▶ Waiting ──(a slot is free)──▶ Lease ──finish(outcome)/drop──▶ next in line
//!             └─ drop: leaves the line
//! checks, answers ──▶ State ──▶ grants, events
//! ```
//!
//! The pool knows nothing of HTTP or sockets; it never talks to a host.

mod avoid;
mod health;
mod host;
mod lease;
mod policy;
mod queue;
mod service_time;
mod snapshot;
mod state;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant as Clock;

pub use avoid::{Avoid, Proof};
pub use health::{Cause, Phase, Thresholds, Transition};
pub use host::HostSpec;
pub use lease::{Lease, Waiting};
pub use queue::Ticket;
pub use snapshot::{HostView, PoolView};
pub use state::{Event, EventKind, Settings};

use crate::config::HostName;
use state::{Grant, State};

/// A host of this pool, by its position in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(usize);

impl HostId {
    /// The position in the configuration.
    pub fn position(self) -> usize {
        self.0
    }
}

/// How an attempt ended, as far as its host is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host answered as it should.
    Answered,
    /// The host is alive but full; leave it alone that long.
    Busy {
        /// What it asked for.
        retry_after: Duration,
    },
    /// No connection could be made: nothing was sent.
    Refused,
    /// The request was sent and no whole answer came back.
    Broke,
    /// The host answered with a server error. Says nothing of the host until a sibling has answered
    /// the same request; see [`Pool::blame`].
    ServerError,
    /// The host refuses our key.
    Misconfigured,
    /// Nobody waits for the answer any more.
    Abandoned,
}

/// What a health check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The host is well.
    Good {
        /// What it says of its slots, if it says anything.
        slots: Option<Slots>,
    },
    /// The host is alive but too full even for a check.
    Busy {
        /// What it asked for.
        retry_after: Duration,
    },
    /// No connection, or a bad answer.
    Failed {
        /// For the log.
        reason: String,
    },
    /// A connection but no answer in time.
    NoAnswer {
        /// For the log.
        reason: String,
    },
    /// The host refuses our key.
    Misconfigured {
        /// For the log.
        reason: String,
    },
}

impl Check {
    /// What is wrong, for people; `None` if nothing is.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Good { .. } | Self::Busy { .. } => None,
            Self::Failed { reason }
            | Self::NoAnswer { reason }
            | Self::Misconfigured { reason } => Some(reason),
        }
    }
}

/// What a host says of its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Requests that it runs at once; 0 = it calls itself always busy.
    pub max_concurrent: u32,
    /// Slots that are free now.
    pub available: u32,
}

/// Why there is no place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub struct QueueFull;

/// Is told of each [`Event`], outside the pool's lock.
pub type Observer = Box<dyn Fn(&Event) + Send + Sync>;

/// The handle; cheap to clone.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    observer: Observer,
    /// The time of the next wake-up may have changed.
    timer_changed: Notify,
    /// One for each host: its next check may be due sooner.
    check_sooner: Vec<Notify>,
    /// One for each host: it hangs, and with it all that runs on it.
    hung: Vec<watch::Sender<()>>,
}

struct Inner {
    state: State,
    receivers: HashMap<Ticket, oneshot::Sender<Lease>>,
}

impl Pool {
    /// A pool of hosts that are all still unknown: none serves before its first good check.
    pub fn new(settings: Settings, hosts: Vec<HostSpec>, observer: Observer) -> Self {
        let check_sooner = hosts.iter().map(|_| Notify::new()).collect();
        let hung = hosts.iter().map(|_| watch::Sender::new(())).collect();
        let inner = Inner {
            state: State::new(settings, hosts),
            receivers: HashMap::new(),
        };
        let shared = Shared {
            inner: Mutex::new(inner),
            observer,
            timer_changed: Notify::new(),
            check_sooner,
            hung,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Draws a place in line. A request keeps it through all its attempts.
    pub fn ticket(&self) -> Ticket {
        self.lock().state.next_ticket()
    }

    /// Waits for a lease. `newcomer`: may be turned away if the line is too long.
    ///
    /// # Errors
    /// [`QueueFull`], for newcomers only.
    pub fn join(
        &self,
        ticket: Ticket,
        avoid: &Avoid,
        newcomer: bool,
    ) -> Result<Waiting, QueueFull> {
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting::new(self.clone(), ticket, receiver);
        self.update(|inner, now| {
            inner.receivers.insert(ticket, sender);
            inner.state.join(ticket, avoid.clone());
            let grants = inner.state.grant(now);
            let turned_away = newcomer && inner.state.turn_away_if_full(ticket).is_err();
            if turned_away {
                inner.receivers.remove(&ticket);
            }
            (if turned_away { Err(QueueFull) } else { Ok(()) }, grants)
        })?;
        Ok(waiting)
    }

    /// A sibling answered well what `host` had answered with a server error.
    pub fn blame(&self, host: HostId) {
        self.update_and_grant(|state, now| state.blame(host, now));
    }

    /// Takes in the result of a health check.
    pub fn checked(&self, host: HostId, check: &Check) {
        let hangs = self.update_and_grant(|state, now| state.checked(host, check, now));
        if hangs {
            self.shared.hung[host.0].send_replace(());
        }
    }

    /// Waits until the next check of `host` is due: after the time that its condition calls for,
    /// which may change while waiting, times `jitter` (near 1; keeps checks of many hosts apart).
    pub async fn check_due(&self, host: HostId, jitter: f64) {
        let last_check = Clock::now();
        loop {
            let delay = self.lock().state.check_delay(host, now());
            tokio::select! {
                () = tokio::time::sleep_until(last_check + delay.mul_f64(jitter)) => return,
                () = self.shared.check_sooner[host.0].notified() => {}
            }
        }
    }

    /// Could a host other than those that broke the request still serve it?
    pub fn has_alternative(&self, avoid: &Avoid) -> bool {
        self.lock().state.has_alternative(avoid)
    }

    /// How long a refused client should wait before it asks again.
    pub fn retry_after(&self) -> Duration {
        self.lock().state.retry_after(now())
    }

    /// The pool at this moment.
    pub fn view(&self) -> PoolView {
        self.lock().state.view(now())
    }

    /// All hosts, in the order of the configuration.
    pub fn hosts(&self) -> Vec<(HostId, HostName)> {
        let inner = self.lock();
        inner
            .state
            .ids()
            .map(|id| (id, inner.state.name(id).clone()))
            .collect()
    }

    /// Serves the line when time alone makes a host eligible again (its `Retry-After` has passed).
    /// Must run for as long as the pool is used.
    pub async fn keep_time(&self) {
        loop {
            let wakeup = self.lock().state.next_wakeup(now());
            let due = async {
                match wakeup {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.update_and_grant(|_, _| ()),
                () = self.shared.timer_changed.notified() => {}
            }
        }
    }

    /// `granted`: when the lease was handed out.
    fn finish(&self, host: HostId, outcome: Outcome, granted: Instant) -> Proof {
        let proof = self.update_and_grant(|state, now| {
            if outcome == Outcome::Answered {
                state.served(now.saturating_duration_since(granted));
            }
            state.finish(host, outcome, now)
        });
        if !matches!(outcome, Outcome::Answered | Outcome::Abandoned) {
            self.shared.check_sooner[host.0].notify_one();
        }
        proof
    }

    fn leave(&self, ticket: Ticket) {
        let mut inner = self.lock();
        inner.receivers.remove(&ticket);
        inner.state.leave(ticket);
    }

    fn update_and_grant<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        self.update(|inner, now| {
            let result = change(&mut inner.state, now);
            (result, inner.state.grant(now))
        })
    }

    /// The one way to change the state: under the lock, then everything that follows from the change
    /// outside of it.
    fn update<T>(&self, change: impl FnOnce(&mut Inner, Instant) -> (T, Vec<Grant>)) -> T {
        let now = now();
        let mut inner = self.lock();
        let before = Glance::at(&inner.state, now);
        let (result, grants) = change(&mut inner, now);
        let deliveries: Vec<_> = grants
            .into_iter()
            .map(|grant| {
                (
                    inner.receivers.remove(&grant.ticket),
                    self.lease(&inner.state, grant),
                )
            })
            .collect();
        let events = inner.state.take_events();
        let after = Glance::at(&inner.state, now);
        let wait_begins = after.anybody_waits && !before.anybody_waits;
        let poll: Vec<HostId> = if wait_begins {
            inner.state.worth_polling(now).collect()
        } else {
            Vec::new()
        };
        drop(inner);

        for event in &events {
            (self.shared.observer)(event);
        }
        for (receiver, lease) in deliveries {
            // A receiver that is gone drops the lease, which serves the next in line.
            let _ = receiver.map(|receiver| receiver.send(lease));
        }
        for host in poll {
            self.shared.check_sooner[host.0].notify_one();
        }
        if after.wakeup != before.wakeup {
            self.shared.timer_changed.notify_one();
        }
        result
    }

    fn lease(&self, state: &State, grant: Grant) -> Lease {
        let hung = self.shared.hung[grant.host.0].subscribe();
        Lease::new(
            self.clone(),
            grant.host,
            state.name(grant.host).clone(),
            hung,
        )
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock panics half-way through a change; carrying on beats going down.
        self.shared
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has to be told of if a change changes it.
struct Glance {
    anybody_waits: bool,
    wakeup: Option<Instant>,
}

impl Glance {
    fn at(state: &State, now: Instant) -> Self {
        Self {
            anybody_waits: state.waiting() > 0,
            wakeup: state.next_wakeup(now),
        }
    }
}

/// Tokio's clock, so that tests can pause it.
fn now() -> Instant {
    Clock::now().into_std()
}

#[cfg(test)]
mod tests;
