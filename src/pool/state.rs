//! The pool's state machine: what happened goes in, grants and events come out.
//!
//! No I/O, no clock, no locks, and chance from a seed: every history can be replayed in a test.
//! Invariants (tested with random histories):
//! - a host never gets a lease beyond its slots;
//! - after [`State::grant`] no request waits that a free slot could serve, but for those that wait
//!   until a host with their model is free, and these not for longer than a load takes;
//! - equals are served in order of arrival;
//! - being busy never ejects a host;
//! - a lease is given back once, and the counts agree with what is out.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::avoid::{Avoid, Proof};
use super::demand::Demand;
use super::estimate::{Estimator, Slowness, seconds};
use super::health::{Cause, Context, Phase, Thresholds, Transition};
use super::host::{Host, HostFacts, HostSpec};
use super::placement::{Placement, Scene, is_desperate};
use super::queue::{Entry, Line, Queue, Ticket};
use super::snapshot::{HostView, PoolView};
use super::{Check, HostId, Outcome, TurnedAway};
use crate::config::{HostName, Policy};

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

/// Checks of a full host follow this fast on each other while requests wait …
const POLL_WHILE_WAITING: Duration = Duration::from_millis(200);
/// … but all hosts together are polled no more often than this, so that a large pool is not flooded.
const POLL_SPACING: Duration = Duration::from_millis(4);
/// Checks of a doubtful host start this fast and slow down to the interval.
const FIRST_RECHECK: Duration = Duration::from_millis(200);
/// … but no slower than this while requests wait.
const RECHECK_WHILE_WAITING: Duration = Duration::from_secs(1);
/// Hedges are at most one in so many leases.
const LEASES_FOR_A_HEDGE: u64 = 20;

/// Something that happened to a host and that an operator may want to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To whom.
    pub host: HostName,
    /// What.
    pub kind: EventKind,
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
    pub(super) granted: Instant,
}

#[derive(Debug)]
pub(super) struct State {
    settings: Settings,
    /// Sorted by id.
    hosts: Vec<Host>,
    next_host: u64,
    queue: Queue,
    estimator: Estimator,
    rng: SmallRng,
    grants: u64,
    hedges: u64,
    /// When time alone will find a host for one that waits for its model.
    reconsider: Option<Instant>,
    events: Vec<Event>,
    lost: Vec<(HostId, Cause)>,
}

impl State {
    /// A pool without hosts.
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            hosts: Vec::new(),
            next_host: 0,
            queue: Queue::default(),
            estimator: Estimator::default(),
            rng: SmallRng::seed_from_u64(seed),
            grants: 0,
            hedges: 0,
            reconsider: None,
            events: Vec::new(),
            lost: Vec::new(),
        }
    }

    pub(super) fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
        for host in &mut self.hosts {
            host.health.set_thresholds(settings.thresholds);
        }
    }

    /// See [`super::Pool::set_hosts`].
    pub(super) fn set_hosts(&mut self, specs: Vec<HostSpec>) -> Vec<HostId> {
        let first_time = self.hosts.is_empty();
        let ids: Vec<HostId> = specs
            .into_iter()
            .map(|spec| self.set_host(spec, first_time))
            .collect();
        let gone = |host: &Host| !host.removed && !ids.contains(&host.id);
        let gone: Vec<HostId> = self
            .hosts
            .iter()
            .filter(|h| gone(h))
            .map(|h| h.id)
            .collect();
        for id in gone {
            self.note(id, EventKind::Removed);
            if let Some(host) = self.host_mut(id) {
                host.removed = true;
            }
        }
        self.forget_removed();
        ids
    }

    fn set_host(&mut self, spec: HostSpec, first_time: bool) -> HostId {
        let same = |host: &&mut Host| {
            let known = &host.spec;
            !host.removed && known.name == spec.name && known.endpoint == spec.endpoint
        };
        if let Some(host) = self.hosts.iter_mut().find(same) {
            host.capacity.configured = spec.max_concurrent;
            host.spec = spec;
            return host.id;
        }
        let id = HostId(self.next_host);
        self.next_host += 1;
        let slowness = Slowness::like(self.hosts.iter().map(|host| host.slowness));
        let mut host = Host::new(id, spec, self.settings.thresholds, slowness);
        if !first_time {
            host.capacity.start_slowly();
        }
        self.hosts.push(host);
        if !first_time {
            self.note(id, EventKind::Added);
        }
        id
    }

    fn forget_removed(&mut self) {
        self.hosts
            .retain(|host| !host.removed || host.in_flight > 0);
    }

    /// Returns whether there is such a host.
    pub(super) fn set_draining(&mut self, name: &HostName, draining: bool) -> bool {
        let known = |host: &&mut Host| !host.removed && host.spec.name == *name;
        let Some(host) = self.hosts.iter_mut().find(known) else {
            return false;
        };
        let news = host.draining != draining;
        host.draining = draining;
        let id = host.id;
        if news {
            let kind = if draining {
                EventKind::Draining
            } else {
                EventKind::Undrained
            };
            self.note(id, kind);
        }
        true
    }

    /// What happened since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Hosts of which, since the last call, it turned out that what runs there is lost.
    pub(super) fn take_lost(&mut self) -> Vec<(HostId, Cause)> {
        std::mem::take(&mut self.lost)
    }

    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.queue.next_ticket()
    }

    /// Puts a request in line. Call [`Self::grant`] next, then, for a newcomer, [`Self::admit`].
    /// `returning`: it has held a lease before.
    pub(super) fn join(
        &mut self,
        ticket: Ticket,
        demand: Demand,
        avoid: Avoid,
        returning: bool,
        now: Instant,
    ) {
        let entry = Entry {
            seconds: self.estimator.seconds(&demand),
            demand,
            avoid,
            joined: now,
            returning,
        };
        self.queue.join(ticket, entry);
    }

    /// May the newcomer stay in line, for up to `patience`? If the line is full, it may in the place
    /// of others, which are returned. Requests that have held a lease are never turned away.
    pub(super) fn admit(
        &mut self,
        ticket: Ticket,
        patience: Duration,
    ) -> Result<Vec<Ticket>, TurnedAway> {
        let Some(newcomer) = self.queue.get(ticket) else {
            return Ok(Vec::new());
        };
        let ahead = self.time_for(self.queue.seconds_ahead_of(newcomer));
        if ahead > patience {
            self.queue.leave(ticket);
            return Err(TurnedAway::TooLong);
        }
        let mut turned_away = Vec::new();
        while self.is_overfull() {
            let yields = self.queue.to_give_way(ticket).unwrap_or(ticket);
            self.queue.leave(yields);
            if yields == ticket {
                return Err(TurnedAway::Full);
            }
            turned_away.push(yields);
        }
        Ok(turned_away)
    }

    fn is_overfull(&self) -> bool {
        let requests = self.queue.len();
        // One alone may wait whatever its size: what it holds is bounded elsewhere.
        let bytes = self.queue.bytes() > self.settings.max_waiting_bytes && requests > 1;
        requests > self.settings.max_waiting || bytes
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.queue.leave(ticket);
    }

    /// Hands free slots to waiting requests.
    pub(super) fn grant(&mut self, now: Instant) -> Vec<Grant> {
        let mut grants = Vec::new();
        self.reconsider = None;
        while self.has_free_slot(now) {
            let Some((ticket, entry, (host, cold))) = self.take_next(now) else {
                break;
            };
            let Entry {
                demand, seconds, ..
            } = entry;
            grants.push(self.lease_out(ticket, demand, seconds, host, cold, now));
        }
        grants
    }

    fn has_free_slot(&self, now: Instant) -> bool {
        if self.queue.is_empty() {
            return false;
        }
        let desperate = is_desperate(&self.hosts);
        self.hosts
            .iter()
            .any(|host| host.can_take(now, desperate).is_some())
    }

    fn take_next(&mut self, now: Instant) -> Option<(Ticket, Entry, (HostId, bool))> {
        let scene = Scene {
            hosts: &self.hosts,
            policy: self.settings.policy,
            estimator: &self.estimator,
            now,
        };
        let (rng, reconsider) = (&mut self.rng, &mut self.reconsider);
        self.queue
            .take_first(|entry, line| match scene.place(entry, line, rng) {
                Placement::On { host, cold } => Some((host, cold)),
                Placement::Nowhere => None,
                Placement::Later(until) => {
                    *reconsider = Some(reconsider.map_or(until, |earlier| earlier.min(until)));
                    None
                }
            })
    }

    fn lease_out(
        &mut self,
        ticket: Ticket,
        demand: Demand,
        seconds: f64,
        id: HostId,
        cold: bool,
        now: Instant,
    ) -> Grant {
        self.grants += 1;
        let number = self.grants;
        let slowness = self.host_mut(id).map(|host| {
            host.take(seconds, number, now);
            host.slowness
        });
        let expected = slowness
            .filter(|_| !cold)
            .and_then(|slowness| self.estimator.expected(&demand, slowness));
        Grant {
            ticket,
            host: id,
            demand,
            seconds,
            cold,
            expected,
            granted: now,
        }
    }

    /// A second lease, on another host, for a request that takes long on its first: only of a slot
    /// that nobody waits for, and only for one in [`LEASES_FOR_A_HEDGE`].
    pub(super) fn hedge(&mut self, first: &Grant, avoid: Avoid, now: Instant) -> Option<Grant> {
        if !self.queue.is_empty() || (self.hedges + 1) * LEASES_FOR_A_HEDGE > self.grants {
            return None;
        }
        let mut avoid = avoid;
        let proof = self
            .host(first.host)
            .map_or(Proof::default(), |host| host.proof);
        avoid.add(first.host, true, proof);
        let entry = Entry {
            demand: first.demand.clone(),
            avoid,
            joined: now,
            seconds: first.seconds,
            returning: true,
        };
        let scene = Scene {
            hosts: &self.hosts,
            policy: self.settings.policy,
            estimator: &self.estimator,
            now,
        };
        let line = Line {
            seconds: first.seconds,
            since: now,
        };
        let Placement::On { host, cold: false } = scene.place(&entry, line, &mut self.rng) else {
            return None;
        };
        self.hedges += 1;
        let Entry {
            demand, seconds, ..
        } = entry;
        Some(self.lease_out(first.ticket, demand, seconds, host, false, now))
    }

    /// When to hedge a request that should take that long.
    pub(super) fn straggles_after(&self, expected: Duration) -> Option<Duration> {
        let ratio = self.estimator.straggler_ratio()?;
        Some(seconds(expected.as_secs_f64() * ratio))
    }

    /// An attempt has ended and its slot is free. Returns the host's last sign of life.
    pub(super) fn finish(&mut self, grant: &Grant, outcome: Outcome, now: Instant) -> Proof {
        let id = grant.host;
        let Some(host) = self.host_mut(id) else {
            return Proof::default();
        };
        let in_flight = host.in_flight;
        host.give_back(grant.seconds, now);
        match outcome {
            Outcome::Answered { timed } => {
                host.sign_of_life();
                host.capacity.answered(in_flight);
                let transition = host.health.good_answer();
                if timed {
                    host.meter.computed(grant.demand.work.items);
                    self.learn(grant, now);
                }
                self.note_health(id, transition);
                self.note_slot_free(id, now);
            }
            Outcome::Busy { retry_after } => {
                host.capacity.refused(in_flight, grant.granted, now);
                self.note_busy(id, retry_after, now);
            }
            Outcome::Refused => self.fault(id, Cause::Connect, now),
            Outcome::Broke => {
                self.fault(id, Cause::Answers, now);
                self.note_slot_free(id, now);
            }
            // Perhaps it refuses this request only; the check that follows at once will tell.
            Outcome::Misconfigured => self.fault(id, Cause::Misconfigured, now),
            Outcome::ServerError | Outcome::Abandoned => self.note_slot_free(id, now),
        }
        let proof = self.host(id).map_or(Proof::default(), |host| host.proof);
        self.forget_removed();
        proof
    }

    fn learn(&mut self, grant: &Grant, now: Instant) {
        let took = now.saturating_duration_since(grant.granted);
        let Some(host) = self.hosts.iter_mut().find(|host| host.id == grant.host) else {
            return;
        };
        match &grant.demand.model {
            Some(model) if grant.cold => {
                host.loaded(model);
                let slowness = host.slowness;
                self.estimator
                    .record_load(model, &grant.demand, slowness, took);
            }
            _ => self
                .estimator
                .record(&grant.demand, &mut host.slowness, took),
        }
    }

    /// A sibling answered well what `id` had answered with a server error: it was the host's fault.
    pub(super) fn blame(&mut self, id: HostId, now: Instant) {
        self.fault(id, Cause::Answers, now);
    }

    /// What runs on `id` takes longer than it should.
    pub(super) fn suspect(&mut self, id: HostId) {
        if let Some(host) = self.host_mut(id) {
            host.suspect = true;
        }
    }

    /// `id` told what it is.
    pub(super) fn told(&mut self, id: HostId, facts: HostFacts) {
        if let Some(host) = self.host_mut(id) {
            host.tell(facts);
        }
    }

    /// A health check of `id` has ended.
    pub(super) fn checked(&mut self, id: HostId, check: &Check, now: Instant) {
        let context = self.context(id, now);
        let Some(host) = self.host_mut(id) else {
            return;
        };
        host.suspect = false;
        host.last_check = Some(now);
        host.problem = check.problem().map(str::to_owned);
        let was_out = matches!(host.health.phase(), Phase::Ejected { .. });
        let transition = match check {
            Check::Good { .. } | Check::Busy { .. } => {
                host.sign_of_life();
                host.health.good_check(now)
            }
            Check::Failed { reachable, .. } => {
                let cause = if *reachable {
                    Cause::Checks
                } else {
                    Cause::Connect
                };
                host.health.failed_check(cause, context)
            }
            Check::NoAnswer { .. } => host.health.failed_check(Cause::Hung, context),
            Check::Misconfigured { .. } => host.health.misconfigured(context),
        };
        let is_out = matches!(host.health.phase(), Phase::Ejected { .. });
        if was_out && !is_out {
            host.capacity.start_slowly();
        }
        self.note_health(id, transition);
        match check {
            Check::Busy { retry_after } => self.note_busy(id, *retry_after, now),
            Check::Good { slots } => self.note_slots(id, *slots, now),
            // Whatever it was ejected for: by now it is known to be silent.
            Check::NoAnswer { .. } if is_out => self.lost.push((id, Cause::Hung)),
            Check::Failed { .. } | Check::NoAnswer { .. } | Check::Misconfigured { .. } => {}
        }
    }

    fn note_slots(&mut self, id: HostId, slots: Option<super::Slots>, now: Instant) {
        let Some(host) = self.host_mut(id) else {
            return;
        };
        let Some(slots) = slots else {
            host.capacity.forget_foreign();
            return;
        };
        if host
            .capacity
            .tell(slots.max_concurrent, slots.in_flight, slots.ours)
        {
            self.note(id, EventKind::Capacity(slots.max_concurrent));
        }
        if slots.available > 0 {
            self.note_slot_free(id, now);
        }
    }

    /// How long to wait before the next check of `id`, after the last one.
    pub(super) fn check_delay(&self, id: HostId, now: Instant) -> Duration {
        let interval = self.settings.check_interval;
        let Some(host) = self.host(id) else {
            return interval;
        };
        let waiting = !self.queue.is_empty();
        let delay = if host.suspect {
            FIRST_RECHECK
        } else if host.health.is_well() {
            if waiting && is_full(host, now) {
                let hosts = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
                POLL_WHILE_WAITING.max(POLL_SPACING.saturating_mul(hosts))
            } else {
                interval
            }
        } else {
            let slower = FIRST_RECHECK * (1 << host.health.failed_checks().min(10));
            let slowest = if waiting {
                RECHECK_WHILE_WAITING
            } else {
                interval
            };
            slower.min(slowest).max(host.health.hold_left(now))
        };
        delay.min(interval)
    }

    /// Hosts whose check should come sooner now that requests wait.
    pub(super) fn worth_polling(&self, now: Instant) -> impl Iterator<Item = HostId> {
        let worth = move |host: &&Host| is_full(host, now) || !host.is_serving();
        self.hosts.iter().filter(worth).map(|host| host.id)
    }

    /// When time alone will make a grant possible.
    pub(super) fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        let ends = self.hosts.iter().filter_map(|host| host.busy_until);
        ends.chain(self.reconsider).filter(|at| *at > now).min()
    }

    /// Could a host other than those that broke the request serve it, now or when it is less busy?
    pub(super) fn has_alternative(&self, avoid: &Avoid) -> bool {
        self.hosts
            .iter()
            .any(|host| host.is_serving() && !avoid.broken_on(host.id))
    }

    /// How long a refused client should wait before it asks again: until those that wait now are
    /// served, but at least until the first busy host is free. If nobody serves, the next checks may
    /// tell.
    pub(super) fn retry_after(&self, now: Instant) -> Duration {
        let serving = self.hosts.iter().filter(|host| host.is_serving());
        let busy_for = |host: &Host| {
            let until = host.busy_until.unwrap_or(now);
            until.saturating_duration_since(now)
        };
        match serving.map(busy_for).min() {
            Some(first_free) => first_free.max(self.time_for(self.queue.seconds())),
            None => self.settings.check_interval,
        }
    }

    /// How long the hosts that serve take for that many seconds of work on an average host.
    fn time_for(&self, work: f64) -> Duration {
        if !self.estimator.is_trustworthy() {
            return Duration::ZERO;
        }
        let serving = self.hosts.iter().filter(|host| host.is_serving());
        let rate: f64 = serving
            .map(|host| f64::from(host.slots()) / host.slowness.factor())
            .sum();
        if rate > 0.0 {
            seconds(work.max(0.0) / rate)
        } else {
            Duration::ZERO
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn view(&self, now: Instant) -> PoolView {
        let hosts = self.hosts.iter().filter(|host| !host.removed);
        PoolView {
            hosts: hosts.map(|host| self.view_of(host, now)).collect(),
            waiting: self.queue.len(),
            max_waiting: self.settings.max_waiting,
            waiting_bytes: self.queue.bytes(),
            oldest_wait: self.queue.oldest().map_or(Duration::ZERO, |joined| {
                now.saturating_duration_since(joined)
            }),
            expected_wait: self.time_for(self.queue.seconds()),
        }
    }

    fn view_of(&self, host: &Host, now: Instant) -> HostView {
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
            phase: host.health.phase(),
            hold_left: host.health.hold_left(now),
            busy_for: busy_for.filter(|left| !left.is_zero()),
            next_check,
            problem: host.problem.clone(),
            draining: host.draining,
            in_flight: host.in_flight,
            usage: meter.read(host.in_flight, now),
            capacity: host.capacity.nominal(),
            slots: host.slots(),
            foreign: host.capacity.foreign(),
            starting: host.capacity.is_starting(),
            weight: host.spec.weight,
            slowness: host.slowness.factor(),
            facts: host.facts.clone(),
        }
    }

    /// Those that are part of the pool, and those that still finish something.
    #[cfg(test)]
    pub(super) fn ids(&self) -> impl Iterator<Item = HostId> {
        self.hosts.iter().map(|host| host.id)
    }

    /// Those that are part of the pool.
    pub(super) fn names(&self) -> impl Iterator<Item = (HostId, &HostName)> {
        let present = self.hosts.iter().filter(|host| !host.removed);
        present.map(|host| (host.id, &host.spec.name))
    }

    pub(super) fn host(&self, id: HostId) -> Option<&Host> {
        let position = self.hosts.binary_search_by_key(&id, |host| host.id).ok()?;
        self.hosts.get(position)
    }

    fn host_mut(&mut self, id: HostId) -> Option<&mut Host> {
        let position = self.hosts.binary_search_by_key(&id, |host| host.id).ok()?;
        self.hosts.get_mut(position)
    }

    fn context(&mut self, id: HostId, now: Instant) -> Context {
        let others = self.hosts.iter().filter(|host| host.id != id);
        Context {
            now,
            jitter: self.rng.random(),
            is_last: !others.into_iter().any(Host::is_serving),
        }
    }

    fn fault(&mut self, id: HostId, cause: Cause, now: Instant) {
        let context = self.context(id, now);
        if let Some(host) = self.host_mut(id) {
            host.suspect = true;
            let transition = host.health.fault(cause, context);
            self.note_health(id, transition);
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

    fn note_health(&mut self, id: HostId, transition: Option<Transition>) {
        let Some(transition) = transition else {
            return;
        };
        match transition {
            Transition::Ejected(cause) if cause.loses_requests() => self.lost.push((id, cause)),
            Transition::Ejected(_) => {}
            Transition::Up | Transition::Trial => self.welcome_back(id),
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
        let name = self.host(id).map(|host| host.spec.name.clone());
        self.events.extend(name.map(|host| Event { host, kind }));
    }
}

/// Can only a look at the host tell when it has a free slot?
fn is_full(host: &Host, now: Instant) -> bool {
    host.is_busy(now) || host.is_crowded() || host.capacity.nominal() == 0
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "state_properties.rs"]
mod properties;
