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
//! | file | decides |
//! | --- | --- |
//! | `queue` | who is next: priorities, turns of clients, order of arrival |
//! | `placement`, `policy` | on which host |
//! | `capacity` | how many leases a host may have out |
//! | `health` | whether it gets any |
//! | `models`, `reach` | whether it may have the model |
//! | `audited` | nothing: what audits have shown |
//! | `estimate` | how long things take |
//! | `fit` | whether a host takes all items at once |
//! | `parts` | into which parts a batch is cut for idle hosts |
//! | `company` | whom a request takes along that waits with the same question |
//! | `alike` | what it saves that requests will share attempts |
//! | `limits` | how much of the pool each client may use |
//! | `avoid` | where a request has failed |
//! | `report` | nothing: what attempts and checks tell |
//! | `origin` | nothing: who told of a host, and whether they withdraw it |
//! | `usage` | what a host has been used for |
//! | `state` | all of it together |
//!
//! The pool knows nothing of HTTP or sockets; it never talks to a host.
//!
//! ```
//! use std::num::NonZeroU32;
//! use std::time::Duration;
//!
//! use gpu_bridge::config::Policy;
//! use gpu_bridge::pool::{
//!     Check, Demand, HostSpec, Origin, Outcome, Pool, Settings, Tells, Thresholds,
//! };
//!
//! let one = NonZeroU32::MIN;
//! let settings = Settings {
//!     policy: Policy::LeastBusy,
//!     thresholds: Thresholds { healthy_after: one, unhealthy_after: one },
//!     max_waiting: 10,
//!     max_waiting_bytes: 1 << 20,
//!     check_interval: Duration::from_secs(5),
//! };
//! let pool = Pool::new(settings, 1, Box::new(|event| println!("{event:?}")));
//! let host = HostSpec {
//!     name: "a".parse()?,
//!     endpoint: "http://a".to_owned(),
//!     max_concurrent: Some(one),
//!     weight: one,
//!     max_items: None,
//!     tells_less: false,
//!     origin: Origin::Configured,
//! };
//! let host = pool.set_hosts(vec![host])[0];
//! // None serves before its first good check.
//! pool.checked(host, &Check::Good { slots: Tells::Nothing });
//!
//! let join = || pool.join(pool.ticket(), &Demand::default(), Duration::from_secs(30));
//! let (mut first, mut second) = (join()?, join()?);
//! let lease = first.try_lease().expect("the slot is free")?;
//! assert!(second.try_lease().is_none(), "there is one slot");
//! lease.finish(Outcome::Answered { timed: true });
//! assert!(second.try_lease().is_some(), "it was next in line");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alike;
mod audited;
mod avoid;
mod capacity;
mod company;
mod demand;
mod estimate;
mod fit;
mod health;
mod host;
mod lease;
mod limits;
mod models;
mod origin;
mod parts;
mod placement;
mod policy;
mod queue;
mod reach;
mod report;
mod snapshot;
mod state;
mod sum;
mod usage;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt as _};
use gpu_bridge_wire::Info;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant as Clock;

pub use audited::{Auditable, Audited, Audits, Trust};
pub use avoid::{Avoid, Extent, Proof};
pub use demand::{Demand, Label, Model, Offer, Question, Work};
pub use health::{Cause, Phase, Thresholds, Transition};
pub use host::HostSpec;
pub use lease::{Lease, Waiting};
pub use limits::{LimitReached, Limits};
pub use origin::{Origin, Withdrawn};
pub use parts::{Part, Plan, Wish};
pub use queue::Ticket;
pub use report::{Check, Outcome, Slots, Tells};
pub use snapshot::{Condition, Glance, HostView, PoolView, Running};
pub use state::{Event, EventKind, Settings};
pub use usage::Usage;

use crate::config::HostName;
use host::Host;
use lease::{Signals, Turn};
use state::{Grant, State};

/// A host of this pool. Ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(u64);

#[cfg(test)]
impl HostId {
    /// Any id.
    pub(crate) fn for_testing(number: u64) -> Self {
        Self(number)
    }
}

/// Why there is no place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnedAway {
    /// The line is as long as it may be.
    #[error("the queue is full")]
    Full,
    /// Its client waits for as many models as it may, and no host tells of this one.
    #[error("requests of the client wait for too many different models")]
    ManyModels,
    /// Every host lacks the model.
    #[error("no host has the model")]
    NoModel,
    /// Every host that can be asked lacks the model, and of another nobody has ever heard what it has.
    #[error("no host that can be asked has the model")]
    Unheard,
    /// Every host that has the model answers wrong.
    #[error("the hosts that have the model answer wrong")]
    Deviating,
    /// No host that has the model has it in the space that the request wants.
    #[error("no host has the model in that space")]
    OtherSpace,
    /// The wait would be longer than the request has time for.
    #[error("the queue is too long for the time that the request has")]
    TooLong,
}

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
    /// What those who look see, and until when.
    seen: Mutex<Option<(Instant, Arc<PoolView>)>>,
    /// The time of the next wake-up may have changed.
    timer_changed: Notify,
}

/// How long a look at the whole pool holds, for each of its hosts, of which each takes less than a
/// microsecond: a pool of ten hosts is seen as of this millisecond, one of a thousand ten times a second.
const SEEN_FOR_EACH_HOST: Duration = Duration::from_micros(100);
/// However many hosts there are.
const SEEN_FOR: Duration = Duration::from_secs(1);

/// Somebody who waits for a lease.
type Waiter = oneshot::Sender<Result<Lease, TurnedAway>>;
/// What it waits with.
type Receiver = oneshot::Receiver<Result<Lease, TurnedAway>>;

struct Inner {
    state: State,
    /// When time alone will make a grant possible, as of the last change.
    wakeup: Option<Instant>,
    waiting: HashMap<Ticket, Waiter>,
    signals: HashMap<HostId, Arc<Signals>>,
}

impl Inner {
    /// Those who are turned away for `ticket`, or the reason why it is.
    fn admit(
        &mut self,
        ticket: Ticket,
        receiver: Receiver,
        admitted: Result<Vec<Ticket>, TurnedAway>,
    ) -> Result<(Turn, Vec<Waiter>), TurnedAway> {
        let others = admitted.inspect_err(|_| {
            self.waiting.remove(&ticket);
        })?;
        let others = others.iter().filter_map(|other| self.waiting.remove(other));
        let others = others.collect();
        Ok((Turn::ToCome(receiver), others))
    }
}

/// What follows from a change of the state.
struct Effects {
    events: Vec<Event>,
    /// Those who wait for what no host can serve, and why.
    dismissed: Vec<(Waiter, TurnedAway)>,
    /// Each with the one that it goes to. Never dropped under the lock, which giving a lease back takes.
    leases: Vec<(Lease, Option<Waiter>)>,
    /// Of hosts of which what runs there is lost, and why.
    lost: Vec<(Arc<Signals>, Cause)>,
    /// Of hosts whose next check should come sooner.
    poll: Vec<Arc<Signals>>,
    timer_changed: bool,
}

impl Pool {
    /// A pool of hosts that are all still unknown: none serves before its first good check. `seed`:
    /// for what is left to chance.
    pub fn new(settings: Settings, seed: u64, observer: Observer) -> Self {
        let inner = Inner {
            state: State::new(settings, seed),
            wakeup: None,
            waiting: HashMap::new(),
            signals: HashMap::new(),
        };
        let shared = Shared {
            inner: Mutex::new(inner),
            observer,
            seen: Mutex::default(),
            timer_changed: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Puts these hosts in the place of those there are, and returns their ids in the same order. A
    /// host with the same name and endpoint stays the same: its id, its health, what runs there and
    /// what was learned are kept; slots, weight and whether it is withdrawn are updated. Others are new. Those that are not
    /// listed get nothing new and are forgotten when their last lease is back.
    pub fn set_hosts(&self, specs: Vec<HostSpec>) -> Vec<HostId> {
        self.update(|inner, now| {
            let ids = inner.state.set_hosts(specs);
            for id in &ids {
                inner.signals.entry(*id).or_default();
            }
            let Inner { state, signals, .. } = inner;
            signals.retain(|id, _| state.host(*id).is_some());
            (ids, inner.state.grant(now))
        })
    }

    /// Changes how the pool behaves from now on.
    pub fn set_settings(&self, settings: Settings) {
        self.update_and_grant(|state, _| state.set_settings(settings));
    }

    /// These are the clients from now on, by name, and what each may have. Those that wait are held to it
    /// as well.
    pub fn set_limits(&self, clients: Vec<(Arc<str>, Limits)>) {
        self.update_and_grant(|state, _| state.set_limits(clients));
    }

    /// The limit of its own that stands in the way of a client at this moment, if one does. `returning`:
    /// of a request that has held a lease before.
    pub fn limit_reached(
        &self,
        client: Option<&Arc<str>>,
        returning: bool,
    ) -> Option<LimitReached> {
        self.lock().state.limit_reached(client, returning, now())
    }

    /// Gives a host nothing new; what it has is finished. False: there is no such host.
    pub fn drain(&self, name: &HostName) -> bool {
        self.update_and_grant(|state, _| state.set_draining(name, true))
    }

    /// Gives a host requests again. False: there is no such host.
    pub fn undrain(&self, name: &HostName) -> bool {
        self.update_and_grant(|state, _| state.set_draining(name, false))
    }

    /// The orders to drain that stand, also of hosts that are not there at the moment.
    pub fn drained(&self) -> Vec<HostName> {
        self.lock().state.drained().cloned().collect()
    }

    /// Takes over orders to drain that were given to another process.
    pub fn keep_drained(&self, names: Vec<HostName>) {
        self.update_and_grant(|state, _| state.keep_drained(names));
    }

    /// Draws a place in line. A request keeps it through all its attempts.
    pub fn ticket(&self) -> Ticket {
        self.lock().state.next_ticket()
    }

    /// Joins the line for the first time, to wait for up to `patience`.
    ///
    /// # Errors
    /// [`TurnedAway`] if the line is too long.
    pub fn join(
        &self,
        ticket: Ticket,
        demand: &Demand,
        patience: Duration,
    ) -> Result<Waiting, TurnedAway> {
        let (turn, turned_away) = self.update(|inner, now| {
            if let Some(grant) = inner.state.lease_at_once(ticket, demand, now) {
                let turn = Turn::Come(self.lease(inner, grant));
                return (Ok((turn, Vec::new())), Vec::new());
            }
            let (sender, receiver) = oneshot::channel();
            inner.waiting.insert(ticket, sender);
            let (demand, avoid) = (demand.clone(), Avoid::outside(demand.space));
            inner.state.join(ticket, demand, avoid, false, now);
            let grants = inner.state.grant(now);
            let admitted = inner.state.admit(ticket, patience, now);
            (inner.admit(ticket, receiver, admitted), grants)
        })?;
        for other in turned_away {
            // One that is gone needs no answer.
            let _ = other.send(Err(TurnedAway::Full));
        }
        Ok(Waiting::new(self.clone(), ticket, turn))
    }

    /// Joins the line again, after a lease on one of the hosts to `avoid` or on a busy one.
    pub fn rejoin(&self, ticket: Ticket, demand: &Demand, avoid: &Avoid) -> Waiting {
        let (sender, receiver) = oneshot::channel();
        self.update(|inner, now| {
            inner.waiting.insert(ticket, sender);
            let (demand, avoid) = (demand.clone(), avoid.clone());
            inner.state.join(ticket, demand, avoid, true, now);
            ((), inner.state.grant(now))
        });
        Waiting::new(self.clone(), ticket, Turn::ToCome(receiver))
    }

    /// A sibling answered well what `host` had not, or `host` broke an answer when its lease had been given
    /// back. `model`: what it perhaps lacks.
    pub fn blame(&self, host: HostId, model: Option<&Model>) {
        self.update_and_grant(|state, now| state.blame(host, model, now));
    }

    /// An answer of `host` that was too long to wait for has come whole, and is as it should be.
    pub fn credit(&self, host: HostId) {
        self.update_and_grant(|state, _| state.credit(host));
    }

    /// A health check of `host` begins: what it is suspected of from now on, only the next one can tell.
    pub fn check_begins(&self, host: HostId) {
        self.lock().state.check_begins(host);
    }

    /// Takes in the result of a health check.
    pub fn checked(&self, host: HostId, check: &Check) {
        self.update_and_grant(|state, now| state.checked(host, check, now));
    }

    /// Takes in what `host` tells of itself.
    pub fn told(&self, host: HostId, info: impl Into<Arc<Info>>) {
        let info = info.into();
        self.update_and_grant(|state, _| state.told(host, info));
    }

    /// Leases of `host` that are out.
    pub fn in_flight(&self, host: HostId) -> u32 {
        let inner = self.lock();
        inner.state.host(host).map_or(0, |host| host.in_flight)
    }

    /// Waits until the next check of `host` is due: after the time that its condition calls for,
    /// which may change while waiting, times `jitter` (near 1; keeps checks of many hosts apart).
    /// Never ends for a host that the pool has forgotten.
    pub async fn check_due(&self, host: HostId, jitter: f64) {
        let Some(signals) = self.lock().signals.get(&host).cloned() else {
            return std::future::pending().await;
        };
        let last_check = Clock::now();
        loop {
            let delay = self.lock().state.check_delay(host, now());
            tokio::select! {
                () = tokio::time::sleep_until(last_check + delay.mul_f64(jitter)) => return,
                () = signals.check_sooner.notified() => {}
            }
        }
    }

    /// Could a host other than those that broke the request serve it, now or when it is less busy? Or
    /// `later`, when it is back?
    pub fn has_alternative(&self, model: Option<&Model>, avoid: &Avoid, later: bool) -> bool {
        let inner = self.lock();
        inner.state.has_alternative(model, avoid, later, now())
    }

    /// Does a host serve that takes a part of a batch with this `demand`?
    pub fn takes_part(&self, demand: &Demand) -> bool {
        self.lock().state.takes_part(demand, now())
    }

    /// Why no host will serve a request that has failed on the hosts to `avoid`; `None` if one may.
    pub fn withheld(&self, model: Option<&Model>, avoid: &Avoid) -> Option<TurnedAway> {
        self.lock().state.withheld(model, avoid, now())
    }

    /// Which hosts there are, and what can be audited there now.
    pub fn auditable(&self) -> Vec<(HostId, Auditable)> {
        self.lock().state.auditable(now())
    }

    /// A slot of `host` that no request waits for, to audit a model that it has in memory. `None`: there
    /// is none to spare now.
    pub fn spare(&self, host: HostId, demand: &Demand) -> Option<Lease> {
        let mut inner = self.lock();
        let grant = inner.state.spare(host, demand, now())?;
        self.lease(&inner, grant)
    }

    /// An audit has shown how `host` stands with `model`; `None`: that is not known any more.
    pub fn audited(&self, host: HostId, model: &Model, audited: Option<Audited>) {
        self.update(|inner, now| {
            let is_out = inner.state.audited(host, model, audited);
            if let Some(signals) = inner.signals.get(&host) {
                signals.discredited.store(is_out, Ordering::Relaxed);
            }
            ((), inner.state.grant(now))
        });
    }

    /// Is a host known to have `model`, or to have had it when it was last there?
    pub fn is_known(&self, model: &Model) -> bool {
        self.lock().state.is_known(model)
    }

    /// Hosts that are out and not known to lack `model`.
    pub fn unasked(&self, model: &Model) -> Vec<HostName> {
        self.lock().state.unasked(model, now())
    }

    /// Is `host` known to have `model`, or to have had it when it was last asked?
    pub fn is_known_on(&self, host: HostId, model: &Model) -> bool {
        let inner = self.lock();
        let host = inner.state.host(host);
        host.is_some_and(|host| host.models.is_known(model))
    }

    /// Does a host serve?
    pub fn is_serving(&self) -> bool {
        self.lock().state.hosts().any(Host::is_serving)
    }

    /// Has it several hosts?
    pub fn is_shared(&self) -> bool {
        self.lock().state.hosts().nth(1).is_some()
    }

    /// How long a refused client should wait before it asks again. `None`: whoever it is, and whatever
    /// for.
    pub fn retry_after(&self, client: Option<&Arc<str>>, model: Option<&Model>) -> Duration {
        self.lock().state.retry_after(client, model, now())
    }

    /// Its first hosts at this moment, up to so many: enough to say what stands in the way.
    pub fn glance(&self, most: usize) -> Glance {
        self.lock().state.glance(most, now())
    }

    /// The pool at this moment: a copy of each host and each lease, made under the lock. For what comes
    /// once a second at most, or must not be old.
    pub fn view(&self) -> PoolView {
        self.lock().state.view(now())
    }

    /// The pool a moment ago at most, for those who only look: however many they are, and however often
    /// they do, the lock is held for them for less than a hundredth of the time.
    pub fn snapshot(&self) -> Arc<PoolView> {
        let now = now();
        // Others wait for the view that is being made, rather than make their own.
        let mut seen = self
            .shared
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((until, view)) = &*seen
            && now < *until
        {
            return Arc::clone(view);
        }
        let view = Arc::new(self.view());
        let hosts = u32::try_from(view.hosts.len()).unwrap_or(u32::MAX);
        let age = SEEN_FOR_EACH_HOST.saturating_mul(hosts).min(SEEN_FOR);
        *seen = Some((now + age, Arc::clone(&view)));
        view
    }

    /// All hosts, in the order in which they were added.
    #[cfg(test)]
    pub(crate) fn hosts(&self) -> Vec<(HostId, HostName)> {
        let hosts = self.view().hosts.into_iter();
        hosts.map(|host| (host.id, host.name)).collect()
    }

    /// Serves the line when time alone makes a host eligible again (its `Retry-After` has passed).
    /// Must run for as long as the pool is used.
    pub async fn keep_time(&self) {
        loop {
            // As of the last change: one that has passed meanwhile is due, not over.
            let wakeup = self.lock().wakeup;
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

    fn plan_parts(&self, first: &Grant, wish: Wish) -> Option<Plan> {
        self.lock().state.plan_parts(first, wish, now())
    }

    fn share_out(
        &self,
        first: &mut Grant,
        own: Demand,
        others: Vec<(HostId, Demand)>,
    ) -> Vec<Option<Lease>> {
        let mut inner = self.lock();
        let grants = inner.state.share_out(first, own, others, now());
        let leases = grants.into_iter();
        leases.map(|grant| self.lease(&inner, grant?)).collect()
    }

    fn finish(&self, grant: &Grant, outcome: Outcome) -> Proof {
        let host = grant.host;
        let (proof, signals) = self.update(|inner, now| {
            let proof = inner.state.finish(grant, outcome, now);
            let signals = inner.signals.get(&host).cloned();
            if inner.state.host(host).is_none() {
                inner.signals.remove(&host);
            }
            ((proof, signals), inner.state.grant(now))
        });
        if !matches!(outcome, Outcome::Answered { .. } | Outcome::Abandoned)
            && let Some(signals) = signals
        {
            signals.check_sooner.notify_one();
        }
        proof
    }

    fn leave(&self, ticket: Ticket) {
        let mut inner = self.lock();
        inner.waiting.remove(&ticket);
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
        let anybody_waited = inner.state.wants_slots(now);
        let (result, grants) = change(&mut inner, now);
        let effects = self.effects(&mut inner, grants, anybody_waited, now);
        drop(inner);
        self.carry_out(effects);
        result
    }

    fn effects(
        &self,
        inner: &mut Inner,
        grants: Vec<Grant>,
        anybody_waited: bool,
        now: Instant,
    ) -> Effects {
        let mut leases = Vec::new();
        for grant in grants {
            let tickets = grant.tickets();
            let waiting: Vec<_> = tickets.map(|it| inner.waiting.remove(&it)).collect();
            if let Some(lease) = self.lease(inner, grant) {
                leases.extend(waiting.into_iter().map(|it| (lease.clone(), it)));
            }
        }
        let Inner {
            state,
            signals,
            wakeup,
            waiting,
        } = inner;
        let next = state.next_wakeup(now);
        let poll = if !anybody_waited && state.wants_slots(now) {
            let hosts = state.worth_polling(now);
            hosts
                .filter_map(|host| signals.get(&host).cloned())
                .collect()
        } else {
            Vec::new()
        };
        let lost = state.take_lost().into_iter();
        let dismissed = state.take_dismissed().into_iter();
        Effects {
            dismissed: dismissed
                .filter_map(|(ticket, why)| Some((waiting.remove(&ticket)?, why)))
                .collect(),
            events: state.take_events(),
            leases,
            lost: lost
                .filter_map(|(host, cause)| Some((signals.get(&host)?.clone(), cause)))
                .collect(),
            poll,
            timer_changed: std::mem::replace(wakeup, next) != next,
        }
    }

    fn carry_out(&self, effects: Effects) {
        for event in &effects.events {
            (self.shared.observer)(event);
        }
        for (lease, waiting) in effects.leases {
            // One that is gone drops the lease, which serves the next in line.
            if let Some(waiting) = waiting {
                drop(waiting.send(Ok(lease)));
            }
        }
        for (waiting, why) in effects.dismissed {
            // One that is gone needs no answer.
            let _ = waiting.send(Err(why));
        }
        for (signals, cause) in effects.lost {
            signals.lost.send_replace(Some(cause));
        }
        for signals in effects.poll {
            signals.check_sooner.notify_one();
        }
        if effects.timer_changed {
            self.shared.timer_changed.notify_one();
        }
    }

    /// `None` only for a host that the pool has forgotten, which gets no leases.
    fn lease(&self, inner: &Inner, grant: Grant) -> Option<Lease> {
        let name = inner.state.host(grant.host)?.spec.name.clone();
        let signals = inner.signals.get(&grant.host)?.clone();
        Some(Lease::new(self.clone(), grant, name, signals))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock panics half-way through a change; carrying on beats going down.
        self.shared
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokio's clock, so that tests can pause it.
fn now() -> Instant {
    Clock::now().into_std()
}

#[cfg(test)]
mod tests;
