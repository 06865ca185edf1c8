//! How much waits, ahead of whom, and who gives way when that is too much.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use super::{Client, Entry, Flow, Line, ModelLine, Queue, Ticket, Wanted, share_left, wanted};
use crate::pool::demand::{Demand, Model};

impl Queue {
    /// When the one that waits longest joined. Of each client it is the first in line, so that a long
    /// line costs no more than a short one; those that return may have any order.
    pub(in crate::pool) fn oldest(&self) -> Option<Instant> {
        let flows = self.levels.values().flat_map(|level| level.flows.values());
        let heads = flows.filter_map(Flow::head);
        let returning = self.returning.iter().map(|(_, ticket)| *ticket);
        let candidates = heads.chain(returning);
        let joined = candidates.filter_map(|ticket| Some(self.entries.get(&ticket)?.joined));
        joined.min()
    }

    /// Those that wait for the model of `entry`, which waits.
    pub(in crate::pool) fn line_of(&self, entry: &Entry) -> Line {
        let model = entry.demand.model.as_ref();
        let line = model.and_then(|model| self.models.get(model));
        let oldest = line.and_then(|line| line.by_age.first());
        Line {
            seconds: line.map_or(entry.sure, ModelLine::shared_seconds),
            since: oldest.map_or(entry.joined, |(joined, _)| *joined),
        }
    }

    /// All that wait for `model`; for `None`, all that wait.
    pub(in crate::pool) fn tickets(&self, model: Option<&Model>) -> Vec<Ticket> {
        let Some(model) = model else {
            return self.entries.keys().copied().collect();
        };
        let line = self.models.get(model).into_iter();
        line.flat_map(|line| line.by_age.iter().map(|(_, ticket)| *ticket))
            .collect()
    }

    /// The models that are waited for, and what the requests for each are expected to take in all, in
    /// seconds of an average host, as far as is known with what attempts they share.
    pub(in crate::pool) fn by_model(&self) -> impl Iterator<Item = (&Model, f64)> {
        let lines = self.models.iter();
        lines.map(|(model, line)| (model, line.shared_seconds()))
    }

    /// The same for one model.
    pub(in crate::pool) fn seconds_for(&self, model: &Model) -> f64 {
        let line = self.models.get(model);
        line.map_or(0.0, ModelLine::shared_seconds)
    }

    /// What of all that waits is left to do, since attempts are shared.
    pub(super) fn share_left(&self) -> f64 {
        share_left(self.seconds, self.saved)
    }

    /// What is expected to be served before `newcomer`, the last of its client's requests in line, in
    /// seconds of an average host: what comes first anyway, and of each equal client no more than the
    /// newcomer's own gets.
    pub(in crate::pool) fn seconds_ahead_of(&self, newcomer: &Entry, now: Instant) -> f64 {
        let Demand {
            priority, client, ..
        } = &newcomer.demand;
        let mine = Reverse(*priority);
        let own = self.flow(newcomer);
        let own_share = own.map_or(0.0, |flow| self.share(client, flow, now));
        let own = own.map_or(0.0, |flow| flow.seconds.total());
        let higher = self
            .levels
            .range(..mine)
            .flat_map(|(_, level)| &level.flows);
        let higher: f64 = higher
            .map(|(client, flow)| self.due(client, flow, now))
            .sum();
        let equals = self.levels.get(&mine).into_iter();
        let equals = equals.flat_map(|level| &level.flows);
        let others = equals.filter(|(name, _)| *name != client);
        let equals: f64 = others
            .map(|(name, flow)| self.due(name, flow, now).min(own))
            .sum();
        let before = (own - newcomer.sure) * own_share;
        (self.returning_seconds.total() + higher + equals + before) * self.share_left()
    }

    /// What of a client's requests stands in the way of others, in seconds of an average host: those
    /// that it may have running beside what it has.
    fn due(&self, client: &Client, flow: &Flow, now: Instant) -> f64 {
        flow.seconds.total() * self.share(client, flow, now)
    }

    fn share(&self, client: &Client, flow: &Flow, now: Instant) -> f64 {
        let permits = self.clients.permits(client.as_ref(), now);
        (f64::from(permits) / flow.len().max(1) as f64).min(1.0)
    }

    /// The line of its client that a request stands in, if it has not held a lease yet.
    pub(super) fn flow(&self, entry: &Entry) -> Option<&Flow> {
        let level = self.levels.get(&Reverse(entry.demand.priority))?;
        level.flows.get(&entry.demand.client)
    }

    /// How many requests of the client of `entry` wait for their first lease, and what they are
    /// expected to take together, in seconds of an average host.
    pub(in crate::pool) fn own(&self, entry: &Entry) -> (usize, f64) {
        let flow = self.flow(entry);
        flow.map_or((0, 0.0), |flow| (flow.len(), flow.seconds.total()))
    }

    /// The same for a client by its name.
    pub(in crate::pool) fn of_client(&self, client: Option<&Arc<str>>) -> (usize, f64) {
        let flows = self.levels.values();
        let flows = flows.filter_map(|level| level.flows.get(&client.cloned()));
        flows.fold((0, 0.0), |(requests, seconds), flow| {
            (requests + flow.len(), seconds + flow.seconds.total())
        })
    }

    /// For how many models requests of the client of `entry` wait for their first lease, if `entry` is the
    /// first of them to wait for its own.
    pub(in crate::pool) fn models_with(&self, entry: &Entry) -> Option<usize> {
        let flow = self.flow(entry)?;
        let own = wanted(&entry.demand);
        let is_like =
            |one: &Wanted, other: &Wanted| (&one.model, one.space) == (&other.model, other.space);
        let alike = flow.lines.iter().filter(|(it, _)| is_like(it, &own));
        let first = alike.map(|(_, line)| line.len()).sum::<usize>() == 1;
        // Those that are alike stand together.
        let lines: Vec<_> = flow.lines.keys().collect();
        let models = lines.chunk_by(|one, other| is_like(one, other)).count();
        first.then_some(models)
    }

    /// Requests that wait for nothing but their client's own limits.
    pub(in crate::pool) fn held_back(&self, now: Instant) -> usize {
        let flows = self.levels.values().flat_map(|level| &level.flows);
        flows
            .map(|(client, flow)| self.surplus(client, flow, now))
            .sum()
    }

    /// By how many requests a client is beyond its limits.
    fn surplus(&self, client: &Client, flow: &Flow, now: Instant) -> usize {
        let permits = self.clients.permits(client.as_ref(), now);
        flow.len().saturating_sub(permits as usize)
    }

    /// Could anybody use a slot now, as far as limits go?
    pub(in crate::pool) fn wants_slots(&self, now: Instant) -> bool {
        let mut returning = self.returning.iter();
        let mut flows = self.levels.values().flat_map(|level| &level.flows);
        returning.any(|(_, ticket)| self.may_return(*ticket))
            || flows.any(|(client, flow)| {
                flow.len() > 0 && self.clients.permits(client.as_ref(), now) > 0
            })
    }

    pub(super) fn may_return(&self, ticket: Ticket) -> bool {
        let entry = self.entries.get(&ticket);
        entry.is_some_and(|entry| self.clients.may_return(entry.demand.client.as_ref()))
    }

    /// When time alone lets a client have more.
    pub(in crate::pool) fn refill(&self, now: Instant) -> Option<Instant> {
        let flows = self.levels.values().flat_map(|level| &level.flows);
        let waiting = flows.filter(|(_, flow)| flow.len() > 0);
        let refills = waiting.filter_map(|(client, _)| self.clients.refill(client.as_ref(), now));
        refills.min()
    }

    /// All that waits for slots, in seconds of an average host.
    pub(in crate::pool) fn seconds(&self, now: Instant) -> f64 {
        let flows = self.levels.values().flat_map(|level| &level.flows);
        let flows: f64 = flows
            .map(|(client, flow)| self.due(client, flow, now))
            .sum();
        (self.returning_seconds.total() + flows) * self.share_left()
    }

    /// The request to give way to `newcomer`, which waits too: the newest one of the client that is
    /// furthest beyond its limits, else of the one that waits with the most, at the lowest priority.
    /// `None` if that would be no fairer than to turn the newcomer away.
    pub(in crate::pool) fn to_give_way(&self, newcomer: Ticket, now: Instant) -> Option<Ticket> {
        let entry = self.entries.get(&newcomer)?;
        let demand = &entry.demand;
        let own = self.flow(entry);
        let own_surplus = own.map_or(0, |flow| self.surplus(&demand.client, flow, now));
        let flows = self.levels.values().flat_map(|level| &level.flows);
        let surplus = flows.map(|(client, flow)| (self.surplus(client, flow, now), flow));
        let (surplus, furthest) = surplus.max_by_key(|(surplus, _)| *surplus)?;
        if surplus > 0 {
            return furthest.newest().filter(|_| surplus > own_surplus);
        }
        let (priority, longest) = self.levels.iter().rev().find_map(|(priority, level)| {
            let longest = level.flows.values().max_by_key(|flow| flow.len())?;
            (longest.len() > 0).then_some((priority, longest))
        })?;
        let mine = Reverse(demand.priority);
        let own = own?;
        let fairer = mine < *priority || (mine == *priority && longest.len() > own.len());
        longest.newest().filter(|_| fairer)
    }
}
