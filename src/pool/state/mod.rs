//! The pool's state machine: what happened goes in, grants and events come out.
//!
//! No I/O, no clock, no locks, and chance from a seed: every history can be replayed in a test.
//! Invariants (tested with random histories):
//! - a host never gets a lease beyond its slots, but one where others' requests fill all of them;
//! - after [`State::grant`] no request waits that a free slot could serve, but for those that wait
//!   until a host with their model is free, and these not for longer than a load takes;
//! - equals are served in order of arrival;
//! - being busy never ejects a host;
//! - a lease is given back once, and the counts agree with what is out.

mod audits;
mod line;
mod members;
mod merge;
mod outcomes;
mod split;
mod timing;

pub(super) use timing::OVERDUE;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::avoid::Avoid;
use super::demand::{Demand, Model};
use super::estimate::{Estimator, median};
use super::health::{Cause, Circumstances, Phase, Thresholds, Transition};
use super::host::Host;
use super::limits::{LimitReached, Limits};
use super::placement::is_desperate;
use super::queue::{Queue, Ticket};
use super::reach::Reach;
use super::snapshot::{Glance, HostView, PoolView, Running};
use super::{HostId, Trust, TurnedAway};
use crate::config::{HostName, Policy};
use crate::embedding::Space;

/// Of a request that has failed nowhere.
static NOWHERE: Avoid = Avoid::none();

/// How the pool behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which host gets a request.
    pub policy: Policy,
    /// When hosts are ejected and brought back.
    pub thresholds: Thresholds,
    /// Requests that may wait at once.
    pub max_waiting: usize,
    /// Bytes that they may hold together.
    pub max_waiting_bytes: usize,
    /// Time between two checks of a host that is well.
    pub check_interval: Duration,
}

/// Something that happened to a host and that an operator may want to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To whom.
    pub host: HostName,
    /// What.
    pub kind: EventKind,
    /// What its last check found wrong, if it is ejected; which model was audited, and what was wrong.
    pub problem: Option<String>,
}

/// See [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Its health changed.
    Health(Transition),
    /// It is full and asked to be left alone for that long.
    Busy(Duration),
    /// It has a free slot again, earlier than it said.
    NotBusy,
    /// It said that it has this many slots.
    Capacity(u32),
    /// It is new in the pool.
    Added,
    /// It is no longer part of the pool.
    Removed,
    /// It gets nothing new from now on.
    Draining,
    /// It gets requests again.
    Undrained,
    /// An audit has shown that it stands otherwise with a model than before.
    Audited(Trust),
}

/// A lease to be handed out.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) ticket: Ticket,
    pub(super) host: HostId,
    pub(super) demand: Demand,
    /// What it is expected to take on an average host.
    pub(super) seconds: f64,
    /// The host has to load the model first.
    pub(super) cold: bool,
    /// How long it should take there, if that is known.
    pub(super) expected: Option<Duration>,
    /// The same by what little has been seen, to find out whether a batch had better be cut.
    pub(super) guess: Option<Duration>,
    /// Items that the host takes at once, as far as is known.
    pub(super) most: Option<NonZeroU32>,
    /// The host told, or has shown, that it has the model in memory.
    pub(super) is_surely_warm: bool,
    /// The host was ejected, but no other served.
    pub(super) is_last_resort: bool,
    /// The host was full of so many requests of others, and this waits behind them.
    pub(super) behind: Option<u32>,
    /// Where the host's vectors lie, if that is known.
    pub(super) space: Option<Space>,
    pub(super) granted: Instant,
    /// The requests that it is for, if these are several; what all of them take together is `demand` then.
    pub(super) company: Vec<Member>,
    /// By how much less time of hosts it should take than attempts for each.
    pub(super) saves: Duration,
}

/// A request that shares an attempt with others.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) ticket: Ticket,
    pub(super) demand: Demand,
}

impl Grant {
    /// Does the host take all of it at once?
    pub(super) fn fits(&self) -> bool {
        let items = self.demand.work.items;
        self.most.is_none_or(|most| items <= most.get())
    }

    /// What the requests ask for that it is for.
    pub(super) fn demands(&self) -> impl Iterator<Item = &Demand> {
        let alone = self.company.is_empty().then_some(&self.demand);
        alone
            .into_iter()
            .chain(self.company.iter().map(|it| &it.demand))
    }

    /// Their places in line.
    pub(super) fn tickets(&self) -> impl Iterator<Item = Ticket> {
        let alone = self.company.is_empty().then_some(self.ticket);
        alone
            .into_iter()
            .chain(self.company.iter().map(|it| it.ticket))
    }
}

#[derive(Debug)]
pub(super) struct State {
    settings: Settings,
    /// Sorted by id.
    hosts: Vec<Host>,
    next_host: u64,
    /// By order of operators.
    drained: BTreeSet<HostName>,
    queue: Queue,
    /// The leases that are out.
    running: BTreeMap<(Ticket, HostId), Grant>,
    estimator: Estimator,
    rng: SmallRng,
    grants: u64,
    /// When time alone will find a host for one that waits for its model.
    reconsider: Option<Instant>,
    events: Vec<Event>,
    lost: Vec<(HostId, Cause)>,
    /// Since the last grant hosts have come, gone or changed their state, or tell of other models: who waits may have
    /// nothing to wait for.
    reach_changed: bool,
    dismissed: Vec<(Ticket, TurnedAway)>,
}

impl EventKind {
    /// Was it taken out?
    pub fn is_ejection(self) -> bool {
        matches!(self, Self::Health(Transition::Ejected(_)))
    }
}

impl State {
    /// A pool without hosts.
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            hosts: Vec::new(),
            next_host: 0,
            drained: BTreeSet::new(),
            queue: Queue::default(),
            running: BTreeMap::new(),
            estimator: Estimator::default(),
            rng: SmallRng::seed_from_u64(seed),
            grants: 0,
            reconsider: None,
            events: Vec::new(),
            lost: Vec::new(),
            reach_changed: false,
            dismissed: Vec::new(),
        }
    }

    pub(super) fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
        for host in &mut self.hosts {
            host.health.set_thresholds(settings.thresholds);
        }
    }

    /// What happened since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Hosts of which, since the last call, it turned out that what runs there is lost.
    pub(super) fn take_lost(&mut self) -> Vec<(HostId, Cause)> {
        std::mem::take(&mut self.lost)
    }

    /// Requests that have been taken out of the line since the last call because no host will serve
    /// them, and why.
    pub(super) fn take_dismissed(&mut self) -> Vec<(Ticket, TurnedAway)> {
        std::mem::take(&mut self.dismissed)
    }

    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.queue.next_ticket()
    }

    /// Could a host other than those that broke the request serve it, now or when it is less busy? Or
    /// `later`, when it is back?
    pub(super) fn has_alternative(
        &self,
        model: Option<&Model>,
        avoid: &Avoid,
        later: bool,
        now: Instant,
    ) -> bool {
        let reach = Reach::new(&self.hosts, model, avoid, now);
        self.hosts.iter().any(|host| {
            let is_there = host.is_serving() || (later && !host.removed);
            is_there && !avoid.is_closed(host.id) && reach.includes(host)
        })
    }

    /// Is a host known to have `model`, or to have had it when it was last there?
    pub(super) fn is_known(&self, model: &Model) -> bool {
        self.hosts().any(|host| host.models.was_known(model))
    }

    /// Hosts that are out and not known to lack `model`.
    pub(super) fn unasked(&self, model: &Model, now: Instant) -> Vec<HostName> {
        let out = self.hosts().filter(|host| !host.is_in_rotation());
        let may_have = out.filter(|host| host.models.lack(model, now).is_none());
        may_have.map(|host| host.spec.name.clone()).collect()
    }

    /// Those that are part of the pool.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| !host.removed)
    }

    /// Does a request wait for a slot, rather than for its client's own limits?
    pub(super) fn wants_slots(&self, now: Instant) -> bool {
        self.queue.wants_slots(now)
    }

    /// What each client may have from now on.
    pub(super) fn set_limits(&mut self, clients: Vec<(Arc<str>, Limits)>) {
        self.queue.set_limits(clients);
    }

    /// The limit of its own that stands in the way of a client. `returning`: of a request that has held
    /// a lease before.
    pub(super) fn limit_reached(
        &self,
        client: Option<&Arc<str>>,
        returning: bool,
        now: Instant,
    ) -> Option<LimitReached> {
        self.queue.clients.reached(client, returning, now)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn view(&self, now: Instant) -> PoolView {
        let median = median(self.hosts().filter_map(|host| host.slowness.measured()));
        let hosts = self
            .hosts()
            .map(|host| self.view_of(host, Some(median), now));
        PoolView {
            hosts: hosts.collect(),
            policy: self.settings.policy,
            running: self.running(now),
            waiting: self.queue.len(),
            max_waiting: self.settings.max_waiting,
            waiting_bytes: self.queue.bytes(),
            oldest_wait: self.queue.oldest().map_or(Duration::ZERO, |joined| {
                now.saturating_duration_since(joined)
            }),
            held_back: self.queue.held_back(now),
            expected_wait: self.wait_of_all(now),
        }
    }

    fn running(&self, now: Instant) -> Vec<Running> {
        let running = self.running.values().filter_map(|grant| {
            let host = self.host(grant.host)?;
            Some(grant.demands().map(|demand| Running {
                demand: demand.clone(),
                host: host.spec.name.clone(),
                elapsed: now.saturating_duration_since(grant.granted),
                expected: grant.expected,
            }))
        });
        running.flatten().collect()
    }

    /// The first hosts, up to so many.
    pub(super) fn glance(&self, most: usize, now: Instant) -> Glance {
        let first = self.hosts().take(most);
        let hosts: Vec<_> = first.map(|host| self.view_of(host, None, now)).collect();
        Glance {
            more: self.hosts().count() - hosts.len(),
            hosts,
        }
    }

    /// `median`: of the hosts' slowness, if anybody asks.
    fn view_of(&self, host: &Host, median: Option<f64>, now: Instant) -> HostView {
        let left = |until: Instant| until.saturating_duration_since(now);
        let busy_for = host.busy_until.map(left);
        let next_check = host
            .last_check
            .map(|last| left(last + self.check_delay(host.id, now)));
        // A look changes nothing: what is read here is read again later.
        let mut meter = host.meter;
        HostView {
            id: host.id,
            name: host.spec.name.clone(),
            endpoint: host.spec.endpoint.clone(),
            origin: host.spec.origin.clone(),
            phase: host.health.phase(),
            hold_left: host.health.hold_left(now),
            busy_for: busy_for.filter(|left| !left.is_zero()),
            next_check,
            problem: host.problem.clone(),
            unasked: host.unasked > 0,
            draining: host.draining,
            in_flight: host.in_flight,
            usage: meter.read(host.in_flight, now),
            capacity: host.capacity.nominal(),
            slots: host.slots(),
            foreign: host.capacity.foreign(),
            starting: host.capacity.is_starting(),
            weight: host.spec.weight,
            slowness: median.and_then(|median| Some(host.slowness.measured()? / median)),
            info: host.info.clone(),
            audits: Arc::clone(host.models.audits()),
        }
    }

    /// Those that are part of the pool, and those that still finish something.
    #[cfg(test)]
    pub(super) fn ids(&self) -> impl Iterator<Item = HostId> {
        self.hosts.iter().map(|host| host.id)
    }

    pub(super) fn host(&self, id: HostId) -> Option<&Host> {
        find(&self.hosts, id).and_then(|position| self.hosts.get(position))
    }

    fn host_mut(&mut self, id: HostId) -> Option<&mut Host> {
        find(&self.hosts, id).and_then(|position| self.hosts.get_mut(position))
    }

    fn context(&mut self, id: HostId, now: Instant) -> Circumstances {
        let others = self.hosts.iter().filter(|host| host.id != id);
        Circumstances {
            now,
            jitter: self.rng.random(),
            is_last: !others.into_iter().any(Host::is_serving),
        }
    }

    fn fault(&mut self, id: HostId, cause: Cause, now: Instant) {
        let context = self.context(id, now);
        if let Some(host) = self.host_mut(id) {
            host.suspect = true;
            let before = host.health.phase();
            let transition = host.health.fault(cause, context);
            self.note_health(id, before, transition);
        }
    }

    fn note_busy(&mut self, id: HostId, retry_after: Duration, now: Instant) {
        if let Some(host) = self.host_mut(id)
            && host.set_busy(retry_after, now)
        {
            self.note(id, EventKind::Busy(retry_after));
        }
    }

    fn note_slot_free(&mut self, id: HostId, now: Instant) {
        if let Some(host) = self.host_mut(id)
            && host.clear_busy(now)
        {
            self.note(id, EventKind::NotBusy);
        }
    }

    /// `before`: a host that was out for bad answers, and may have been asked all the same, may not answer at all now.
    /// That is no transition, but who waits for it has less to wait for.
    fn note_health(&mut self, id: HostId, before: Phase, transition: Option<Transition>) {
        let now = self.host(id).map(|host| host.health.phase());
        self.reach_changed |= now != Some(before);
        let Some(transition) = transition else {
            return;
        };
        match transition {
            // Where there is nowhere else to go, what runs there had better end there.
            Transition::Ejected(cause)
                if cause.loses_requests() && !(cause.is_soft() && is_desperate(&self.hosts)) =>
            {
                self.lost.push((id, cause));
            }
            // What runs there may end.
            Transition::Ejected(_) | Transition::NotReady => {}
            Transition::Up | Transition::Trial => self.welcome_back(id),
        }
        // Behind a front that accepts for it, another process may take its place unseen.
        if let Transition::Ejected(Cause::Checks | Cause::Answers) = transition
            && let Some(host) = self.host_mut(id)
        {
            host.models.forget();
        }
        self.note(id, EventKind::Health(transition));
    }

    /// A host that was out takes its place in rotation as it is now, not where it was.
    fn welcome_back(&mut self, id: HostId) {
        let others = self
            .hosts
            .iter()
            .filter(|host| host.id != id && host.is_serving());
        let turn = others.map(|host| host.turn).fold(f64::INFINITY, f64::min);
        if let Some(host) = self.host_mut(id)
            && turn.is_finite()
        {
            host.turn = host.turn.max(turn);
        }
    }

    fn note(&mut self, id: HostId, kind: EventKind) {
        let event = self.host(id).map(|host| Event {
            host: host.spec.name.clone(),
            kind,
            problem: host.problem.clone().filter(|_| kind.is_ejection()),
        });
        self.events.extend(event);
    }
}

/// The position of a host among `hosts`, which are sorted by id.
fn find(hosts: &[Host], id: HostId) -> Option<usize> {
    hosts.binary_search_by_key(&id, |host| host.id).ok()
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod several;
#[cfg(test)]
mod tests;
