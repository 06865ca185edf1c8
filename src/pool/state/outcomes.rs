//! What attempts and checks tell of hosts.

use std::sync::Arc;
use std::time::Instant;

use gpu_bridge_wire::Info;

use super::{EventKind, Grant, State, find};
use crate::pool::avoid::Proof;
use crate::pool::demand::Model;
use crate::pool::fit::Shown;
use crate::pool::health::{Cause, Phase};
use crate::pool::{Check, HostId, Outcome, Tells};

impl State {
    /// An attempt has ended and its slot is free. Returns the host's last sign of life.
    pub(in crate::pool) fn finish(
        &mut self,
        grant: &Grant,
        outcome: Outcome,
        now: Instant,
    ) -> Proof {
        for demand in grant.demands() {
            self.queue.clients.give_back(demand.client.as_ref());
        }
        let id = grant.host;
        self.running.remove(&(grant.ticket, id));
        let Some(host) = self.host_mut(id) else {
            return Proof::default();
        };
        let in_flight = host.in_flight;
        host.give_back(grant.seconds, now);
        if outcome.is_an_answer() {
            host.heard = Some(now);
        }
        match outcome {
            Outcome::Answered { timed } => {
                if timed {
                    host.meter.computed(grant.demand.work.items);
                    self.learn(grant, now);
                }
                self.answered_well(id, in_flight, grant.is_last_resort);
                self.note_slot_free(id, now);
            }
            Outcome::Busy { retry_after } => {
                host.capacity.refused(in_flight, grant.granted, now);
                self.note_busy(id, retry_after, now);
            }
            Outcome::Refused => {
                host.models.forget();
                self.fault(id, Cause::Connect, now);
            }
            Outcome::Broke => {
                self.fault(id, Cause::Answers, now);
                self.note_slot_free(id, now);
            }
            // Perhaps it refuses this request only; the check that follows at once will tell.
            Outcome::Misconfigured => self.fault(id, Cause::Misconfigured, now),
            Outcome::LacksModel => {
                host.sign_of_life();
                self.miss(id, grant.demand.model.as_ref(), now);
                self.note_slot_free(id, now);
            }
            Outcome::TooMany { most } => {
                host.sign_of_life();
                host.shown_most = Some(Shown::new(most, now));
                self.note_slot_free(id, now);
            }
            Outcome::Doubtful | Outcome::Abandoned => self.note_slot_free(id, now),
            Outcome::Untried => {}
        }
        let (proof, is_removed) = self
            .host(id)
            .map_or_else(Default::default, |host| (host.proof(), host.removed));
        if is_removed {
            self.forget_removed();
        }
        if self.queue.is_empty() && self.hosts.iter().all(|host| host.in_flight == 0) {
            self.queue.rest();
        }
        proof
    }

    fn learn(&mut self, grant: &Grant, now: Instant) {
        let took = now.saturating_duration_since(grant.granted);
        let position = find(&self.hosts, grant.host);
        let Some(host) = position.and_then(|position| self.hosts.get_mut(position)) else {
            return;
        };
        if let Some(model) = &grant.demand.model {
            // Who waited for it because all tell that they lack it may have nothing to wait for.
            self.reach_changed |= host.models.serve(model);
        }
        match &grant.demand.model {
            Some(model) if grant.cold => {
                let slowness = host.slowness;
                self.estimator
                    .record_load(model, &grant.demand, slowness, took);
            }
            _ => self
                .estimator
                .record(&grant.demand, &mut host.slowness, took),
        }
    }

    /// `id` has shown that it lacks `model`. Returns whether that is news.
    fn miss(&mut self, id: HostId, model: Option<&Model>, now: Instant) -> bool {
        let position = find(&self.hosts, id);
        let host = position.and_then(|position| self.hosts.get_mut(position));
        let Some((model, host)) = model.zip(host) else {
            return false;
        };
        let estimator = &self.estimator;
        let is_news = host.models.miss(model, |it| estimator.knows(it), now);
        let tickets = self.queue.tickets(Some(model));
        self.dismiss(tickets, now);
        is_news
    }

    /// A sibling answered well what `id` had not: it was the host's fault. `model`: what it perhaps
    /// lacks, since services say so with an error too; that is no fault, unless the host is known to
    /// have it, or has yet to show that it can do anything.
    pub(in crate::pool) fn blame(&mut self, id: HostId, model: Option<&Model>, now: Instant) {
        let Some(host) = self.host(id) else {
            return;
        };
        let may_lack = model.filter(|model| !host.models.is_known(model));
        let has_served = host.models.has_served();
        if may_lack.is_some() && (!self.miss(id, may_lack, now) || has_served) {
            return;
        }
        let lost = self.lost.len();
        self.fault(id, Cause::Answers, now);
        // What else runs there may well end: perhaps it was this request's model that it can't run.
        self.lost.truncate(lost);
    }

    /// An answer of `id` has come whole only after its lease was given back.
    pub(in crate::pool) fn credit(&mut self, id: HostId) {
        let Some(host) = self.host_mut(id) else {
            return;
        };
        let in_flight = host.in_flight.saturating_add(1);
        self.answered_well(id, in_flight, false);
    }

    /// `id` has answered one of `in_flight` requests as it should.
    fn answered_well(&mut self, id: HostId, in_flight: u32, as_last_resort: bool) {
        let Some(host) = self.host_mut(id) else {
            return;
        };
        host.sign_of_life();
        host.capacity.answered(in_flight);
        let before = host.health.phase();
        let transition = if as_last_resort {
            host.health.good_answer_as_last_resort()
        } else {
            host.health.good_answer()
        };
        if as_last_resort && transition.is_some() {
            host.capacity.start_slowly();
        }
        self.note_health(id, before, transition);
    }

    /// A request has been running on `id` for a while.
    pub(in crate::pool) fn overdue(&mut self, id: HostId) {
        if let Some(host) = self.host_mut(id) {
            host.overdue += 1;
        }
    }

    /// One of these has ended.
    pub(in crate::pool) fn not_overdue(&mut self, id: HostId) {
        if let Some(host) = self.host_mut(id) {
            host.overdue = host.overdue.saturating_sub(1);
        }
    }

    /// `id` told what it is.
    pub(in crate::pool) fn told(&mut self, id: HostId, info: impl Into<Arc<Info>>) {
        if let Some(host) = self.host_mut(id)
            && host.tell(info.into())
        {
            self.reach_changed = true;
        }
    }

    /// A health check of `id` begins.
    pub(in crate::pool) fn check_begins(&mut self, id: HostId) {
        if let Some(host) = self.host_mut(id) {
            host.suspect = false;
        }
    }

    /// A health check of `id` has ended.
    pub(in crate::pool) fn checked(&mut self, id: HostId, check: &Check, now: Instant) {
        let context = self.context(id, now);
        let Some(host) = self.host_mut(id) else {
            return;
        };
        host.last_check = Some(now);
        host.problem = check.problem().map(str::to_owned);
        host.unasked = match check {
            Check::Ours { .. } => host.unasked.saturating_add(1),
            _ => 0,
        };
        if check.is_an_answer() {
            host.heard = Some(now);
        }
        let before = host.health.phase();
        let was_out = matches!(before, Phase::Ejected { .. });
        let transition = match check {
            Check::Good { .. } | Check::Busy { .. } => {
                host.sign_of_life();
                host.health.good_check(now)
            }
            Check::NotReady { .. } => {
                host.sign_of_life();
                host.health.not_ready(now)
            }
            Check::Failed { reachable, .. } => {
                let cause = if *reachable {
                    Cause::Checks
                } else {
                    host.models.forget();
                    Cause::Connect
                };
                host.health.failed_check(cause, context)
            }
            Check::NoAnswer { silent_for, .. } => {
                host.models.forget();
                let confirmed = host.is_mute(*silent_for, now);
                host.health.silent_check(confirmed, context)
            }
            Check::Misconfigured { .. } => host.health.misconfigured(context),
            Check::Ours { .. } => None,
        };
        let is_out = matches!(host.health.phase(), Phase::Ejected { .. });
        if was_out && !is_out {
            host.capacity.start_slowly();
        }
        self.note_health(id, before, transition);
        match check {
            Check::Busy { retry_after } => self.note_busy(id, *retry_after, now),
            Check::Good { slots } | Check::NotReady { slots, .. } => {
                self.note_slots(id, *slots, now);
            }
            // Whatever it was ejected for: by now it is known to be silent.
            Check::NoAnswer { .. } if is_out => self.lost.push((id, Cause::Hung)),
            Check::Failed { .. }
            | Check::NoAnswer { .. }
            | Check::Misconfigured { .. }
            | Check::Ours { .. } => {}
        }
    }

    fn note_slots(&mut self, id: HostId, told: Tells, now: Instant) {
        let Some(host) = self.host_mut(id) else {
            return;
        };
        let slots = match told {
            Tells::Slots(slots) => slots,
            Tells::NotNow => return host.tells_no_slots(now),
            Tells::Nothing => return host.capacity.forget_foreign(),
        };
        host.slots_told = Some(now);
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
}
