//! How far one request has come, and how much longer it may wait.

use std::sync::Arc;
use std::time::Duration;

use gpu_bridge_wire::items::Kind;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::history::{Common, History};
use super::merge::{Group, Rerun, Seat, Suspect};
use super::{NoHost, Refusal};
use crate::config::{Batching, Config};
use crate::message::Call;
use crate::pool::{HostId, Model, Pool, Ticket};
use crate::telemetry::Journal;

/// With whom attempts of a request are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// With others, where that pays off: nothing has come in its way but busy hosts, and answers that one of those
    /// others may have caused.
    Together,
    /// With nobody.
    Alone,
    /// It is a part of a batch itself.
    Part,
}

/// See the module.
pub(super) struct Itinerary<'a> {
    pub(super) call: &'a Call,
    /// For which it may wait for leases, in all.
    max_wait: Duration,
    /// For which one attempt may last.
    pub(super) longest: Duration,
    /// How batches are reshaped.
    pub(super) batching: Batching,
    /// Its place in line.
    pub(super) ticket: Ticket,
    pub(super) history: History,
    /// Is told of each step; nothing is asked of it.
    pub(super) journal: &'a Journal,
    /// In line, until it was there last.
    pub(super) queued: Duration,
    /// It has had a lease.
    pub(super) returning: bool,
    /// With whom its attempts are made.
    pub(super) mode: Mode,
    /// What it is, if its answers are to be cut.
    pub(super) to_cut: Option<Kind>,
    /// It may be cut for the mere sake of time: where it begins, but not after a failure.
    pub(super) may_spread: bool,
    /// How often it has run in parts in vain.
    in_vain: u32,
    /// Its place in an attempt that it may share, from when it waits.
    pub(super) seat: Option<Seat>,
    /// Those with whom alone it may share one, after one that was no answer for each.
    pub(super) group: Option<Group>,
    /// It may be to blame for attempts that it shared.
    pub(super) suspects: Vec<Suspect>,
    /// The share of a retry that its next attempt costs, after one that it shared.
    owes: f64,
    /// How often a host was full that it had been on in vain before.
    refused_again: u32,
    /// How often it has waited for long on a host that was full.
    waits_on_hosts: u32,
    /// It is on a host, or was when it was given up.
    is_on_host: bool,
}

/// A request that waits behind others at a host is moved so often at most; the work of one that runs is lost.
const MOST_MOVES: u32 = 3;
/// Hosts say sooner that they are full.
const LONG: Duration = Duration::from_secs(2);

impl<'a> Itinerary<'a> {
    pub(super) fn new(
        call: &'a Call,
        config: &Config,
        ticket: Ticket,
        journal: &'a Journal,
    ) -> Self {
        Self {
            call,
            ticket,
            history: History::new(config.retries.max_faulted_hosts, call.demand.space),
            max_wait: config.queue.max_wait,
            longest: config.timeouts.attempt,
            batching: config.batching,
            journal,
            queued: Duration::ZERO,
            returning: false,
            mode: Mode::Together,
            to_cut: None,
            may_spread: true,
            in_vain: 0,
            seat: None,
            group: None,
            suspects: Vec::new(),
            owes: 0.0,
            refused_again: 0,
            waits_on_hosts: 0,
            is_on_host: false,
        }
    }

    /// Of one of its parts, which has a lease, or waits for one as those do that have had one.
    pub(super) fn part<'b>(
        &'b self,
        call: &'b Call,
        ticket: Ticket,
        common: &Arc<Mutex<Common>>,
        kind: Kind,
    ) -> Itinerary<'b> {
        Itinerary {
            call,
            ticket,
            history: self.history.of_part(common),
            returning: true,
            mode: Mode::Part,
            to_cut: Some(kind),
            seat: None,
            suspects: Vec::new(),
            ..*self
        }
    }

    pub(super) fn model(&self) -> Option<&'a Model> {
        self.call.demand.model.as_ref()
    }

    /// How much longer it may wait, as long as it is not in line.
    pub(super) fn left(&self) -> Duration {
        let left = self.max_wait.saturating_sub(self.queued);
        let client = self.call.deadline.left();
        client.map_or(left, |client| client.min(left))
    }

    /// It has been in line since then, and has a lease.
    pub(super) fn sets_off(&mut self, joined: Instant) {
        self.queued += joined.elapsed();
        self.returning = true;
        self.is_on_host = true;
    }

    /// It has been on `host` since then, and only waited there: the host was full.
    pub(super) fn was_refused(&mut self, host: HostId, since: Instant) {
        self.queued += since.elapsed();
        self.waits_on_hosts += u32::from(since.elapsed() >= LONG);
        let is_again = self.history.avoid().has_failed_on(host);
        self.refused_again = self.refused_again.saturating_add(u32::from(is_again));
        // An attempt that is shared is moved whatever its requests have been through.
        if !self.may_move() {
            self.stays_alone();
        }
    }

    /// May it be moved from a host where it waits behind others?
    pub(super) fn may_move(&self) -> bool {
        self.waits_on_hosts < MOST_MOVES
    }

    /// Has it waited for as long as it may, and asked in vain where it had been refused before? A host that says that
    /// it is free and is not would be asked for ever.
    pub(super) fn is_late(&self) -> bool {
        self.refused_again > 0 && self.left().is_zero()
    }

    /// It can't be cut.
    pub(super) fn stays_whole(&mut self) {
        self.comes_back();
        self.history.stays_whole();
    }

    /// It has run in parts in vain. Returns whether that has been no more often than `most` times.
    pub(super) fn goes_on(&mut self, most: u32) -> bool {
        self.in_vain += 1;
        self.in_vain <= most
    }

    /// Its attempts have ended.
    pub(super) fn comes_back(&mut self) {
        self.is_on_host = false;
    }

    /// Shares no attempt any more.
    pub(super) fn stays_alone(&mut self) {
        if self.mode == Mode::Together {
            self.mode = Mode::Alone;
        }
    }

    /// The share of a retry that its next attempt costs.
    pub(super) fn takes_what_it_owes(&mut self) -> f64 {
        let own = if self.history.broke_last() { 1.0 } else { 0.0 };
        std::mem::take(&mut self.owes).max(own)
    }

    /// Runs again after an attempt that it shared and that was no answer to it.
    pub(super) fn runs_again(&mut self, rerun: Rerun) {
        (self.group, self.owes) = (rerun.group, rerun.owes);
        if rerun.group.is_none() {
            self.stays_alone();
        }
        if let Some((host, proof)) = rerun.avoid {
            self.history.avoid_for_now(host, proof);
        }
    }

    /// It ends without a host's answer.
    pub(super) fn give_up(&self, refusal: Refusal, pool: &Pool) -> NoHost {
        // The place of what ran may be taken already, by the next request of the same client.
        let may_be_held = !self.is_on_host && refusal != Refusal::HostsFailed;
        let client = self.call.demand.client.as_ref();
        let limit = may_be_held.then(|| pool.limit_reached(client, self.returning));
        NoHost {
            refusal,
            limit: limit.flatten(),
        }
    }
}
