//! The pool's state machine: what happened goes in, grants and events come out.
//!
//! No I/O, no clock, no locks: time is passed in, so that every history can be replayed in a test.
//! Invariants (tested with random histories below):
//! - a host never has more leases out than slots;
//! - after [`State::grant`] no request waits that an eligible slot could serve;
//! - equals are served in order of arrival;
//! - being busy never ejects a host.

use std::time::{Duration, Instant};

use super::avoid::{Avoid, Proof};
use super::health::{Cause, Thresholds, Transition};
use super::host::{Host, HostSpec};
use super::queue::{Queue, Ticket};
use super::service_time::ServiceTime;
use super::snapshot::{HostView, PoolView};
use super::{Check, HostId, Outcome, QueueFull};
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
    /// Time between two checks of a host that is well.
    pub check_interval: Duration,
}

/// Checks of a busy host follow this fast on each other while requests wait.
const POLL_WHILE_WAITING: Duration = Duration::from_millis(200);
/// Checks of a doubtful host start this fast and slow down to the interval.
const FIRST_RECHECK: Duration = Duration::from_millis(200);
/// … but no slower than this while requests wait.
const RECHECK_WHILE_WAITING: Duration = Duration::from_secs(1);

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
}

/// A lease to be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) ticket: Ticket,
    pub(super) host: HostId,
}

#[derive(Debug)]
pub(super) struct State {
    settings: Settings,
    hosts: Vec<Host>,
    queue: Queue,
    service_time: ServiceTime,
    grants: u64,
    events: Vec<Event>,
}

impl State {
    pub(super) fn new(settings: Settings, hosts: Vec<HostSpec>) -> Self {
        let hosts = hosts
            .into_iter()
            .map(|spec| Host::new(spec, settings.thresholds))
            .collect();
        Self {
            settings,
            hosts,
            queue: Queue::default(),
            service_time: ServiceTime::default(),
            grants: 0,
            events: Vec::new(),
        }
    }

    /// What happened since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.queue.next_ticket()
    }

    /// Puts a request in line. Call [`Self::grant`] next, then, for a newcomer,
    /// [`Self::turn_away_if_full`].
    pub(super) fn join(&mut self, ticket: Ticket, avoid: Avoid) {
        self.queue.join(ticket, avoid);
    }

    /// Removes the newcomer from the line again if that has grown too long. Requests that were let
    /// in once are never turned away.
    pub(super) fn turn_away_if_full(&mut self, ticket: Ticket) -> Result<(), QueueFull> {
        if self.queue.len() > self.settings.max_waiting && self.queue.leave(ticket) {
            return Err(QueueFull);
        }
        Ok(())
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.queue.leave(ticket);
    }

    /// Hands free slots to waiting requests.
    pub(super) fn grant(&mut self, now: Instant) -> Vec<Grant> {
        let mut grants = Vec::new();
        while !self.queue.is_empty() && self.hosts.iter().any(|host| host.can_take(now).is_some()) {
            let (hosts, policy) = (&self.hosts, self.settings.policy);
            let Some((ticket, host)) = self
                .queue
                .take_first(|avoid| place(hosts, policy, avoid, now))
            else {
                break;
            };
            self.grants += 1;
            let chosen = &mut self.hosts[host.0];
            chosen.in_flight += 1;
            chosen.last_granted = self.grants;
            grants.push(Grant { ticket, host });
        }
        grants
    }

    /// An attempt has ended and its slot is free. Returns the host's last sign of life.
    pub(super) fn finish(&mut self, id: HostId, outcome: Outcome, now: Instant) -> Proof {
        let host = &mut self.hosts[id.0];
        host.in_flight = host.in_flight.saturating_sub(1);
        match outcome {
            Outcome::Answered => {
                host.sign_of_life();
                let transition = host.health.good_answer();
                self.note_health(id, transition);
                self.note_slot_free(id, now);
            }
            Outcome::Busy { retry_after } => self.note_busy(id, retry_after, now),
            Outcome::Refused => self.fault(id, Cause::Connect, now),
            Outcome::Broke => {
                self.fault(id, Cause::Answers, now);
                self.note_slot_free(id, now);
            }
            // Perhaps it refuses this request only; the check that follows at once will tell.
            Outcome::Misconfigured => self.fault(id, Cause::Misconfigured, now),
            Outcome::ServerError | Outcome::Abandoned => self.note_slot_free(id, now),
        }
        self.hosts[id.0].proof
    }

    /// A sibling answered well what `id` had answered with a server error: it was the host's fault.
    pub(super) fn blame(&mut self, id: HostId, now: Instant) {
        self.fault(id, Cause::Answers, now);
    }

    /// A health check of `id` has ended. Returns whether the host is out and silent, whatever it was
    /// ejected for, so that what runs on it is lost.
    pub(super) fn checked(&mut self, id: HostId, check: &Check, now: Instant) -> bool {
        let host = &mut self.hosts[id.0];
        host.suspect = false;
        let transition = match check {
            Check::Good { .. } | Check::Busy { .. } => {
                host.sign_of_life();
                host.health.good_check(now)
            }
            Check::Failed { .. } => host.health.failed_check(Cause::Checks, now),
            Check::NoAnswer { .. } => host.health.failed_check(Cause::Hung, now),
            Check::Misconfigured { .. } => host.health.misconfigured(now),
        };
        self.note_health(id, transition);
        match check {
            Check::Busy { retry_after } => self.note_busy(id, *retry_after, now),
            Check::Good { slots: Some(slots) } => {
                if self.hosts[id.0].learn_capacity(slots.max_concurrent) {
                    self.note(id, EventKind::Capacity(slots.max_concurrent));
                }
                if slots.available > 0 {
                    self.note_slot_free(id, now);
                }
            }
            Check::Good { slots: None }
            | Check::Failed { .. }
            | Check::NoAnswer { .. }
            | Check::Misconfigured { .. } => {}
        }
        matches!(check, Check::NoAnswer { .. }) && !self.hosts[id.0].health.phase().is_serving()
    }

    /// How long to wait before the next check of `id`, after the last one.
    pub(super) fn check_delay(&self, id: HostId, now: Instant) -> Duration {
        let host = &self.hosts[id.0];
        let interval = self.settings.check_interval;
        let waiting = !self.queue.is_empty();
        let delay = if host.suspect {
            FIRST_RECHECK
        } else if host.health.is_well() {
            let full = host.is_busy(now) || host.capacity() == 0;
            if waiting && full {
                POLL_WHILE_WAITING
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
        self.ids().filter(move |id| {
            let host = &self.hosts[id.0];
            host.is_busy(now) || !host.is_serving()
        })
    }

    /// When time alone will make a host eligible again.
    pub(super) fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        let ends = self.hosts.iter().filter_map(|host| host.busy_until);
        ends.filter(|until| *until > now).min()
    }

    /// Could a host other than those that broke the request serve it, now or when it is less busy?
    pub(super) fn has_alternative(&self, avoid: &Avoid) -> bool {
        self.ids()
            .any(|id| self.hosts[id.0].is_serving() && !avoid.broken_on(id))
    }

    /// A request held a lease that long and was answered.
    pub(super) fn served(&mut self, took: Duration) {
        self.service_time.record(took);
    }

    /// How long a refused client should wait before it asks again: until those that wait now are
    /// served, but at least until the first busy host is free. If nobody serves, the next checks may
    /// tell.
    pub(super) fn retry_after(&self, now: Instant) -> Duration {
        let serving = || self.hosts.iter().filter(|host| host.is_serving());
        let busy_for = |host: &Host| {
            let until = host.busy_until.unwrap_or(now);
            until.saturating_duration_since(now)
        };
        let Some(first_free) = serving().map(busy_for).min() else {
            return self.settings.check_interval;
        };
        let slots = serving().map(Host::capacity).fold(0, u32::saturating_add);
        first_free.max(self.service_time.to_serve(self.queue.len(), slots))
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn view(&self, now: Instant) -> PoolView {
        let hosts = self.hosts.iter().map(|host| HostView {
            name: host.spec.name.clone(),
            phase: host.health.phase(),
            busy: host.is_busy(now),
            in_flight: host.in_flight,
            capacity: host.capacity(),
        });
        PoolView {
            hosts: hosts.collect(),
            waiting: self.queue.len(),
        }
    }

    pub(super) fn name(&self, id: HostId) -> &HostName {
        &self.hosts[id.0].spec.name
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.hosts.len()).map(HostId)
    }

    fn fault(&mut self, id: HostId, cause: Cause, now: Instant) {
        self.hosts[id.0].suspect = true;
        let transition = self.hosts[id.0].health.fault(cause, now);
        self.note_health(id, transition);
    }

    fn note_busy(&mut self, id: HostId, retry_after: Duration, now: Instant) {
        if self.hosts[id.0].set_busy(retry_after, now) {
            self.note(id, EventKind::Busy(retry_after));
        }
    }

    fn note_slot_free(&mut self, id: HostId, now: Instant) {
        if self.hosts[id.0].clear_busy(now) {
            self.note(id, EventKind::NotBusy);
        }
    }

    fn note_health(&mut self, id: HostId, transition: Option<Transition>) {
        if let Some(transition) = transition {
            self.note(id, EventKind::Health(transition));
        }
    }

    fn note(&mut self, id: HostId, kind: EventKind) {
        self.events.push(Event {
            host: self.hosts[id.0].spec.name.clone(),
            kind,
        });
    }
}

/// The host for a request with these failures, if one can take it now.
fn place(hosts: &[Host], policy: Policy, avoid: &Avoid, now: Instant) -> Option<HostId> {
    let nowhere_else = hosts
        .iter()
        .enumerate()
        .all(|(position, host)| avoid.broken_on(HostId(position)) || !host.is_serving());
    let eligible: Vec<_> = hosts
        .iter()
        .enumerate()
        .filter(|(position, host)| avoid.allows(HostId(*position), host.proof, nowhere_else))
        .filter_map(|(position, host)| Some((HostId(position), host.can_take(now)?)))
        .collect();
    let chosen = policy.pick(eligible.iter().map(|(_, load)| *load))?;
    eligible.get(chosen).map(|(host, _)| *host)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
