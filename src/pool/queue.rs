//! Requests that wait for a lease, and who is next.
//!
//! - Requests that have held a lease before (a busy host turned them away, or a host broke) come
//!   first, by priority, then by age: they were served once already, as far as fairness goes.
//! - Then higher priorities before lower ones.
//! - Then clients by turns, so that one that sends much can't starve another: start-time fair queueing
//!   (Goyal, Vin and Cheng, 1996). A client's virtual time grows with the work that it was given; the
//!   one that is behind is next. A client that was idle starts at the time of the others, so that
//!   idling earns no credit.
//! - Then first in, first out.
//!
//! Clients that may have no more for now ([`limits`](super::limits)) are passed over. That is as if they
//! were idle: it earns no credit either, and others are next as if these were not there.
//!
//! A request never waits behind another that can't use the free slot. Those of one client for one
//! model, in one space if that matters, can all use the same hosts, so only the first of them is asked.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};

use super::alike::{Alike, Sharing};
use super::avoid::Avoid;
use super::demand::{Demand, Model, Offer, Question, Work};
use super::limits::{Clients, Limits};
use super::sum::Sum;
use crate::embedding::Space;

/// A request's place in line. Smaller is earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// The most that is counted on: estimates are no more exact than that.
const MOST_SAVED: f64 = 0.99;

type Client = Option<Arc<str>>;

/// A request that waits.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) demand: Demand,
    pub(super) avoid: Avoid,
    /// When it joined the line, this time.
    pub(super) joined: Instant,
    /// What it is expected to take, on an average host: to compare hosts.
    pub(super) seconds: f64,
    /// The same where that is known well, else 0: to sum up.
    pub(super) sure: f64,
    /// It has held a lease before.
    pub(super) returning: bool,
    /// It may share an attempt.
    pub(super) offer: Option<Offer>,
    /// How that will be, if it is counted on.
    pub(super) sharing: Option<Sharing>,
}

/// What one that waits needs of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    pub(super) ticket: Ticket,
    pub(super) work: Work,
    /// Its client is told its tokens.
    pub(super) counted: bool,
    /// Until when its client wants the answer.
    pub(super) until: Option<Instant>,
}

/// Those that wait for the same model as a request, itself included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    /// What they are expected to take together, on an average host.
    pub(super) seconds: f64,
    /// When the oldest of them joined.
    pub(super) since: Instant,
}

/// The waiting line.
#[derive(Debug, Default)]
pub(super) struct Queue {
    next: u64,
    /// What each client may have.
    pub(super) clients: Clients,
    entries: HashMap<Ticket, Entry>,
    returning: BTreeSet<(Reverse<u8>, Ticket)>,
    levels: BTreeMap<Reverse<u8>, Level>,
    models: HashMap<Model, ModelLine>,
    /// Those that may share an attempt.
    offers: HashMap<Question, Alike>,
    bytes: usize,
    returning_seconds: Sum,
    /// What all are expected to take, each alone.
    seconds: Sum,
    /// What is saved of that by attempts that are shared, question by question.
    saved: Sum,
}

/// The requests for one model.
#[derive(Debug, Default)]
struct ModelLine {
    by_age: BTreeSet<(Instant, Ticket)>,
    seconds: Sum,
    saved: Sum,
}

impl ModelLine {
    /// In seconds of an average host.
    fn shared_seconds(&self) -> f64 {
        self.seconds.total() * share_left(self.seconds, self.saved)
    }
}

/// Which share of `seconds` remains where so many are saved.
fn share_left(seconds: Sum, saved: Sum) -> f64 {
    let saved = saved.total() / seconds.total().max(f64::MIN_POSITIVE);
    1.0 - saved.clamp(0.0, MOST_SAVED)
}

/// The clients of one priority.
#[derive(Debug, Default)]
struct Level {
    /// Where the client that was served last began.
    time: f64,
    flows: BTreeMap<Client, Flow>,
}

/// One client's requests.
#[derive(Debug, Default)]
struct Flow {
    time: f64,
    /// Those of each can all use the same hosts, unless they have failed somewhere.
    lines: BTreeMap<(Option<Model>, Option<Space>), BTreeSet<Ticket>>,
    seconds: Sum,
}

/// What decides which hosts it can use.
fn wanted(demand: &Demand) -> (Option<Model>, Option<Space>) {
    (demand.model.clone(), demand.space)
}

impl Flow {
    fn len(&self) -> usize {
        self.seconds.terms()
    }

    fn head(&self) -> Option<Ticket> {
        self.lines
            .values()
            .filter_map(BTreeSet::first)
            .min()
            .copied()
    }

    fn newest(&self) -> Option<Ticket> {
        self.lines
            .values()
            .filter_map(BTreeSet::last)
            .max()
            .copied()
    }

    fn remove(&mut self, ticket: Ticket, entry: &Entry) {
        let wanted = wanted(&entry.demand);
        if let Some(line) = self.lines.get_mut(&wanted) {
            line.remove(&ticket);
            if line.is_empty() {
                self.lines.remove(&wanted);
            }
        }
        self.seconds.remove(entry.sure);
    }
}

impl Level {
    /// Drops idle clients that are not ahead of the others: they would start anew anyway.
    fn prune(&mut self) {
        let time = self.time;
        self.flows
            .retain(|_, flow| flow.len() > 0 || flow.time > time);
    }
}

impl Queue {
    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    pub(super) fn join(&mut self, ticket: Ticket, mut entry: Entry) {
        self.leave(ticket);
        self.bytes += entry.demand.bytes;
        self.seconds.add(entry.sure);
        if let Some(model) = &entry.demand.model {
            let line = self.models.entry(model.clone()).or_default();
            line.by_age.insert((entry.joined, ticket));
            line.seconds.add(entry.sure);
        }
        let priority = Reverse(entry.demand.priority);
        if entry.returning {
            self.returning.insert((priority, ticket));
            self.returning_seconds.add(entry.sure);
        } else {
            let flow = self.enter(&entry.demand);
            let line = flow.lines.entry(wanted(&entry.demand)).or_default();
            line.insert(ticket);
            flow.seconds.add(entry.sure);
        }
        let (offer, sharing) = (entry.offer.take(), entry.sharing);
        self.entries.insert(ticket, entry);
        if let Some(offer) = offer {
            self.offer(ticket, offer, sharing);
        }
    }

    /// A request that waits may share an attempt; each says so once. `sharing`: `None` if it is not counted on.
    pub(super) fn offer(&mut self, ticket: Ticket, offer: Offer, sharing: Option<Sharing>) {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return;
        };
        let question = offer.question.clone();
        (entry.offer, entry.sharing) = (Some(offer), sharing);
        let (work, model) = (entry.demand.work, entry.demand.model.clone());
        self.change_alike(&question, model.as_ref(), |it| {
            it.add(ticket, work, sharing);
        });
    }

    /// Changes who waits with `question`, and what that saves.
    fn change_alike(
        &mut self,
        question: &Question,
        model: Option<&Model>,
        change: impl FnOnce(&mut Alike),
    ) {
        let alike = self.offers.entry(question.clone()).or_default();
        let saves = |alike: &Alike| (!alike.tickets.is_empty()).then(|| alike.saved());
        let before = saves(alike);
        change(alike);
        let after = saves(alike);
        if after.is_none() {
            self.offers.remove(question);
        }
        let of_model = model.and_then(|model| self.models.get_mut(model));
        let of_model = of_model.map(|line| &mut line.saved);
        for saved in of_model.into_iter().chain([&mut self.saved]) {
            if let Some(before) = before {
                saved.remove(before);
            }
            if let Some(after) = after {
                saved.add(after);
            }
        }
    }

    /// The requests of its client, which does not start before the time of the others.
    fn enter(&mut self, demand: &Demand) -> &mut Flow {
        let level = self.levels.entry(Reverse(demand.priority)).or_default();
        let time = level.time;
        let flow = level.flows.entry(demand.client.clone()).or_default();
        if flow.len() == 0 {
            flow.time = flow.time.max(time);
        }
        flow
    }

    /// The same as for one that joins and is taken out at once, where nobody waits.
    pub(super) fn pass(&mut self, entry: &Entry, now: Instant) {
        self.enter(&entry.demand);
        self.charge(entry, now);
        let client = entry.demand.client.as_ref();
        self.clients.lease(client, entry.returning, now);
    }

    /// What each client may have from now on.
    pub(super) fn set_limits(&mut self, clients: Vec<(Arc<str>, Limits)>) {
        let entries = self.entries.values();
        let waiting: HashSet<_> = entries
            .filter_map(|entry| entry.demand.client.clone())
            .collect();
        self.clients.set(clients, |name| waiting.contains(name));
    }

    /// Takes a request out of the line, if it is there.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Entry> {
        let entry = self.entries.remove(&ticket)?;
        self.bytes -= entry.demand.bytes;
        self.seconds.remove(entry.sure);
        if let Some(offer) = &entry.offer {
            let Demand { work, model, .. } = &entry.demand;
            self.change_alike(&offer.question, model.as_ref(), |alike| {
                alike.remove(ticket, *work);
            });
        }
        if let Some(model) = &entry.demand.model
            && let Some(line) = self.models.get_mut(model)
        {
            line.by_age.remove(&(entry.joined, ticket));
            line.seconds.remove(entry.sure);
            if line.by_age.is_empty() {
                self.models.remove(model);
            }
        }
        let priority = Reverse(entry.demand.priority);
        if entry.returning {
            self.returning.remove(&(priority, ticket));
            self.returning_seconds.remove(entry.sure);
        } else if let Some(level) = self.levels.get_mut(&priority)
            && let Some(flow) = level.flows.get_mut(&entry.demand.client)
        {
            flow.remove(ticket, &entry);
        }
        Some(entry)
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&Entry> {
        self.entries.get(&ticket)
    }

    /// Nothing waits and nothing runs: virtual time goes on to where the furthest client is, so that
    /// what one was given while it was alone is not held against it later.
    pub(super) fn rest(&mut self) {
        for level in self.levels.values_mut() {
            let furthest = level.flows.values().map(|flow| flow.time);
            level.time = furthest.fold(level.time, f64::max);
            level.prune();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the one that waits longest joined. Of each client it is the first in line, so that a long
    /// line costs no more than a short one; those that return may have any order.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let flows = self.levels.values().flat_map(|level| level.flows.values());
        let heads = flows.filter_map(Flow::head);
        let returning = self.returning.iter().map(|(_, ticket)| *ticket);
        let candidates = heads.chain(returning);
        let joined = candidates.filter_map(|ticket| Some(self.entries.get(&ticket)?.joined));
        joined.min()
    }

    /// Those that wait for the model of `entry`, which waits.
    pub(super) fn line_of(&self, entry: &Entry) -> Line {
        let model = entry.demand.model.as_ref();
        let line = model.and_then(|model| self.models.get(model));
        let oldest = line.and_then(|line| line.by_age.first());
        Line {
            seconds: line.map_or(entry.sure, ModelLine::shared_seconds),
            since: oldest.map_or(entry.joined, |(joined, _)| *joined),
        }
    }

    /// All that wait for `model`; for `None`, all that wait.
    pub(super) fn tickets(&self, model: Option<&Model>) -> Vec<Ticket> {
        let Some(model) = model else {
            return self.entries.keys().copied().collect();
        };
        let line = self.models.get(model).into_iter();
        line.flat_map(|line| line.by_age.iter().map(|(_, ticket)| *ticket))
            .collect()
    }

    /// The models that are waited for, and what the requests for each are expected to take in all, in
    /// seconds of an average host, as far as is known with what attempts they share.
    pub(super) fn by_model(&self) -> impl Iterator<Item = (&Model, f64)> {
        let lines = self.models.iter();
        lines.map(|(model, line)| (model, line.shared_seconds()))
    }

    /// The same for one model.
    pub(super) fn seconds_for(&self, model: &Model) -> f64 {
        let line = self.models.get(model);
        line.map_or(0.0, ModelLine::shared_seconds)
    }

    /// What of all that waits is left to do, since attempts are shared.
    fn share_left(&self) -> f64 {
        share_left(self.seconds, self.saved)
    }

    /// What is expected to be served before `newcomer`, the last of its client's requests in line, in
    /// seconds of an average host: what comes first anyway, and of each equal client no more than the
    /// newcomer's own gets.
    pub(super) fn seconds_ahead_of(&self, newcomer: &Entry, now: Instant) -> f64 {
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
    fn flow(&self, entry: &Entry) -> Option<&Flow> {
        let level = self.levels.get(&Reverse(entry.demand.priority))?;
        level.flows.get(&entry.demand.client)
    }

    /// How many requests of the client of `entry` wait for their first lease, and what they are
    /// expected to take together, in seconds of an average host.
    pub(super) fn own(&self, entry: &Entry) -> (usize, f64) {
        let flow = self.flow(entry);
        flow.map_or((0, 0.0), |flow| (flow.len(), flow.seconds.total()))
    }

    /// The same for a client by its name.
    pub(super) fn of_client(&self, client: Option<&Arc<str>>) -> (usize, f64) {
        let flows = self.levels.values();
        let flows = flows.filter_map(|level| level.flows.get(&client.cloned()));
        flows.fold((0, 0.0), |(requests, seconds), flow| {
            (requests + flow.len(), seconds + flow.seconds.total())
        })
    }

    /// For how many models requests of the client of `entry` wait for their first lease, if `entry` is the
    /// first of them to wait for its own.
    pub(super) fn models_with(&self, entry: &Entry) -> Option<usize> {
        let flow = self.flow(entry)?;
        let line = flow.lines.get(&wanted(&entry.demand))?;
        (line.len() == 1).then_some(flow.lines.len())
    }

    /// Requests that wait for nothing but their client's own limits.
    pub(super) fn held_back(&self, now: Instant) -> usize {
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
    pub(super) fn wants_slots(&self, now: Instant) -> bool {
        let mut returning = self.returning.iter();
        let mut flows = self.levels.values().flat_map(|level| &level.flows);
        returning.any(|(_, ticket)| self.may_return(*ticket))
            || flows.any(|(client, flow)| {
                flow.len() > 0 && self.clients.permits(client.as_ref(), now) > 0
            })
    }

    fn may_return(&self, ticket: Ticket) -> bool {
        let entry = self.entries.get(&ticket);
        entry.is_some_and(|entry| self.clients.may_return(entry.demand.client.as_ref()))
    }

    /// When time alone lets a client have more.
    pub(super) fn refill(&self, now: Instant) -> Option<Instant> {
        let flows = self.levels.values().flat_map(|level| &level.flows);
        let waiting = flows.filter(|(_, flow)| flow.len() > 0);
        let refills = waiting.filter_map(|(client, _)| self.clients.refill(client.as_ref(), now));
        refills.min()
    }

    /// All that waits for slots, in seconds of an average host.
    pub(super) fn seconds(&self, now: Instant) -> f64 {
        let flows = self.levels.values().flat_map(|level| &level.flows);
        let flows: f64 = flows
            .map(|(client, flow)| self.due(client, flow, now))
            .sum();
        (self.returning_seconds.total() + flows) * self.share_left()
    }

    /// The request to give way to `newcomer`, which waits too: the newest one of the client that is
    /// furthest beyond its limits, else of the one that waits with the most, at the lowest priority.
    /// `None` if that would be no fairer than to turn the newcomer away.
    pub(super) fn to_give_way(&self, newcomer: Ticket, now: Instant) -> Option<Ticket> {
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

    /// Takes out the first request for which `place` finds a host. It must answer alike for all
    /// requests of one model that have not failed anywhere.
    pub(super) fn take_first<T>(
        &mut self,
        now: Instant,
        mut place: impl FnMut(&Entry, Line) -> Option<T>,
    ) -> Option<(Ticket, Entry, T)> {
        let (ticket, found) = self.first(now, &mut place)?;
        let entry = self.leave(ticket)?;
        if !entry.returning {
            self.charge(&entry, now);
        }
        let client = entry.demand.client.as_ref();
        self.clients.lease(client, entry.returning, now);
        Some((ticket, entry, found))
    }

    /// Takes out one that waits, in the company of the first. It is charged as if it had been that, but virtual
    /// time stays: nobody was passed over for it.
    pub(super) fn take(&mut self, ticket: Ticket, now: Instant) -> Option<Entry> {
        let entry = self.leave(ticket)?;
        let Demand {
            client, priority, ..
        } = &entry.demand;
        let level = self.levels.get_mut(&Reverse(*priority));
        if let Some(flow) = level.and_then(|it| it.flows.get_mut(client))
            && !entry.returning
        {
            flow.time += entry.demand.work.units();
        }
        self.clients.lease(client.as_ref(), entry.returning, now);
        Some(entry)
    }

    /// May one that waits get a lease, as far as limits go?
    pub(super) fn may_go(&self, ticket: Ticket, now: Instant) -> bool {
        self.entries.get(&ticket).is_some_and(|entry| {
            let client = entry.demand.client.as_ref();
            if entry.returning {
                self.clients.may_return(client)
            } else {
                self.clients.permits(client, now) > 0
            }
        })
    }

    /// Those that may share an attempt in which this is asked, in the order in which they are going to be
    /// served if nobody joins: start-time fair queueing serves by the virtual time at which each begins.
    pub(super) fn with_question(&self, question: &Question) -> Vec<Queued> {
        let mut times: HashMap<(u8, &Client), f64> = HashMap::new();
        let mut turns = Vec::new();
        // The older ones of a client come first.
        let alike = self.offers.get(question);
        for ticket in alike.into_iter().flat_map(|it| &it.tickets) {
            let Some(entry) = self.entries.get(ticket) else {
                continue;
            };
            let demand = &entry.demand;
            let mut begins = 0.0;
            if !entry.returning {
                let time = times.entry((demand.priority, &demand.client));
                let time = time.or_insert_with(|| self.flow(entry).map_or(0.0, |flow| flow.time));
                begins = *time;
                *time += demand.work.units();
            }
            let queued = Queued {
                ticket: *ticket,
                work: demand.work,
                counted: demand.counted,
                until: entry.offer.as_ref().and_then(|offer| offer.until),
            };
            let rank = (!entry.returning, Reverse(demand.priority));
            turns.push((rank, begins, queued));
        }
        turns.sort_by(|a, b| {
            let by_time = a.0.cmp(&b.0).then(a.1.total_cmp(&b.1));
            by_time.then(a.2.ticket.cmp(&b.2.ticket))
        });
        turns.into_iter().map(|(.., queued)| queued).collect()
    }

    fn first<T>(
        &self,
        now: Instant,
        place: &mut impl FnMut(&Entry, Line) -> Option<T>,
    ) -> Option<(Ticket, T)> {
        // One answer for each model holds for all that have not failed anywhere.
        let mut hopeless: HashSet<&Option<Model>> = HashSet::new();
        let mut ask = |ticket: Ticket| {
            let entry = self.entries.get(&ticket)?;
            let model = &entry.demand.model;
            if entry.avoid.is_none() && hopeless.contains(model) {
                return None;
            }
            let found = place(entry, self.line_of(entry));
            if entry.avoid.is_none() && found.is_none() {
                hopeless.insert(model);
            }
            Some((ticket, found?))
        };
        let returning = self.returning.iter().map(|(_, ticket)| *ticket);
        let mut returning = returning.filter(|ticket| self.may_return(*ticket));
        let found = returning.find_map(&mut ask);
        found.or_else(|| {
            let may = |client: &Client| self.clients.permits(client.as_ref(), now) > 0;
            let flows = self.levels.values().flat_map(|level| level.in_turn(may));
            flows.flat_map(Flow::heads).find_map(ask)
        })
    }

    /// Moves the client's virtual time on by what it is given, and that of those that were passed over
    /// up to where it was.
    fn charge(&mut self, entry: &Entry, now: Instant) {
        let priority = Reverse(entry.demand.priority);
        if let Some(level) = self.levels.get_mut(&priority) {
            if let Some(flow) = level.flows.get_mut(&entry.demand.client) {
                level.time = level.time.max(flow.time);
                flow.time += entry.demand.work.units();
            }
            let passed_over = level.flows.iter_mut();
            for (client, flow) in passed_over.filter(|(_, flow)| flow.time < level.time) {
                if self.clients.permits(client.as_ref(), now) == 0 {
                    flow.time = level.time;
                }
            }
            level.prune();
        }
    }
}

impl Level {
    /// Those of its clients that `may`, the one that is behind first; equals by the age of their first
    /// request.
    fn in_turn(&self, may: impl Fn(&Client) -> bool) -> Vec<&Flow> {
        let mut flows: Vec<(f64, Ticket, &Flow)> = self
            .flows
            .iter()
            .filter(|(client, _)| may(client))
            .filter_map(|(_, flow)| Some((flow.time, flow.head()?, flow)))
            .collect();
        flows.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        flows.into_iter().map(|(.., flow)| flow).collect()
    }
}

impl Flow {
    /// The first request for each model, the oldest first.
    fn heads(&self) -> Vec<Ticket> {
        let heads = self.lines.values().filter_map(BTreeSet::first);
        let mut heads: Vec<_> = heads.copied().collect();
        heads.sort_unstable();
        heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{HostId, Proof, Work};

    const A: HostId = HostId(0);

    fn demand(client: &str, priority: u8, bytes: u64) -> Demand {
        Demand {
            client: Some(client.into()),
            priority,
            work: Work { items: 0, bytes },
            ..Demand::default()
        }
    }

    fn entry(demand: Demand) -> Entry {
        Entry {
            seconds: demand.work.units(),
            sure: demand.work.units(),
            demand,
            avoid: Avoid::default(),
            joined: Instant::now(),
            returning: false,
            offer: None,
            sharing: None,
        }
    }

    fn join(queue: &mut Queue, demand: Demand) -> Ticket {
        let ticket = queue.next_ticket();
        queue.join(ticket, entry(demand));
        ticket
    }

    /// The clients of all that waits, in the order in which they are served.
    fn serve(queue: &mut Queue) -> String {
        std::iter::from_fn(|| queue.take_first(Instant::now(), |_, _| Some(())))
            .filter_map(|(_, entry, ())| entry.demand.client)
            .map(|client| client.to_string())
            .collect()
    }

    #[test]
    fn one_client_is_served_in_order_of_arrival() {
        let mut queue = Queue::default();
        let joined: Vec<_> = (0..5)
            .map(|_| join(&mut queue, demand("a", 0, 9)))
            .collect();
        let served: Vec<_> =
            std::iter::from_fn(|| queue.take_first(Instant::now(), |_, _| Some(())))
                .map(|(ticket, ..)| ticket)
                .collect();
        assert_eq!(served, joined);
    }

    #[test]
    fn clients_take_turns_whatever_one_of_them_sends() {
        let mut queue = Queue::default();
        for _ in 0..6 {
            join(&mut queue, demand("a", 0, 10));
        }
        for _ in 0..2 {
            join(&mut queue, demand("b", 0, 10));
        }
        assert_eq!(serve(&mut queue), "ababaaaa");
    }

    #[test]
    fn shares_are_counted_in_work() {
        let mut queue = Queue::default();
        for _ in 0..3 {
            join(&mut queue, demand("L", 0, 30));
        }
        for _ in 0..9 {
            join(&mut queue, demand("s", 0, 10));
        }
        assert_eq!(serve(&mut queue), "LsssLsssLsss");
    }

    #[test]
    fn one_that_sends_again_and_again_has_no_advantage() {
        let mut queue = Queue::default();
        for _ in 0..4 {
            join(&mut queue, demand("a", 0, 10));
        }
        let mut served = String::new();
        for _ in 0..8 {
            // b asks anew all the time.
            join(&mut queue, demand("b", 0, 10));
            let (_, entry, ()) = queue.take_first(Instant::now(), |_, _| Some(())).unwrap();
            served.push_str(&entry.demand.client.unwrap());
        }
        assert_eq!(served.matches('a').count(), 4, "{served}");
    }

    #[test]
    fn idling_earns_no_credit() {
        let mut queue = Queue::default();
        join(&mut queue, demand("b", 0, 10));
        for _ in 0..20 {
            join(&mut queue, demand("a", 0, 10));
        }
        for _ in 0..15 {
            queue.take_first(Instant::now(), |_, _| Some(()));
        }
        for _ in 0..4 {
            join(&mut queue, demand("b", 0, 10));
        }
        let served = serve(&mut queue);
        assert!(!served.contains("bbb"), "{served}");
    }

    #[test]
    fn being_held_back_earns_no_credit() {
        let mut queue = Queue::default();
        let limits = |max_concurrent| Limits {
            max_concurrent: std::num::NonZeroU32::new(max_concurrent),
            max_per_second: None,
        };
        queue.set_limits(vec![("a".into(), limits(1))]);
        for _ in 0..20 {
            join(&mut queue, demand("a", 0, 10));
            join(&mut queue, demand("b", 0, 10));
        }
        let take = |queue: &mut Queue| {
            let (_, entry, ()) = queue.take_first(Instant::now(), |_, _| Some(()))?;
            entry.demand.client
        };
        let held: String = (0..11)
            .filter_map(|_| take(&mut queue))
            .map(|c| c.to_string())
            .collect();
        assert_eq!(held, "abbbbbbbbbb");

        queue.set_limits(vec![("a".into(), limits(0))]);

        let served = serve(&mut queue);
        assert!(served.starts_with("aabab"), "{served}");
    }

    #[test]
    fn others_do_not_wait_for_what_is_held_back() {
        let mut queue = Queue::default();
        let limits = Limits {
            max_concurrent: std::num::NonZeroU32::new(2),
            max_per_second: None,
        };
        queue.set_limits(vec![("h".into(), limits)]);
        for _ in 0..10 {
            join(&mut queue, demand("h", 9, 10));
        }
        let ticket = join(&mut queue, demand("b", 0, 10));
        let now = Instant::now();
        let ahead = |queue: &Queue| queue.seconds_ahead_of(queue.get(ticket).unwrap(), now);
        assert!((ahead(&queue) - 20.0).abs() < 1e-9, "what may run");
        for _ in 0..2 {
            queue.take_first(now, |_, _| Some(()));
        }
        assert!(ahead(&queue).abs() < 1e-9);
        assert!((queue.seconds(now) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn what_one_was_given_while_it_was_alone_is_not_held_against_it() {
        let mut queue = Queue::default();
        join(&mut queue, demand("a", 0, 1_000_000));
        serve(&mut queue);
        queue.rest();
        for _ in 0..3 {
            join(&mut queue, demand("b", 0, 10));
        }
        join(&mut queue, demand("a", 0, 10));
        assert_eq!(serve(&mut queue), "babb");
    }

    #[test]
    fn higher_priorities_and_those_that_return_come_first() {
        let mut queue = Queue::default();
        join(&mut queue, demand("l", 0, 1));
        join(&mut queue, demand("h", 5, 1));
        let returns = queue.next_ticket();
        queue.join(
            returns,
            Entry {
                returning: true,
                ..entry(demand("r", 0, 1))
            },
        );
        assert_eq!(serve(&mut queue), "rhl");
    }

    #[test]
    fn takes_the_first_that_fits_and_skips_those_that_do_not() {
        let mut queue = Queue::default();
        let mut avoid = Avoid::default();
        avoid.add(A, true, Proof::default());
        let first = queue.next_ticket();
        queue.join(
            first,
            Entry {
                avoid,
                returning: true,
                ..entry(demand("a", 0, 1))
            },
        );
        let second = join(&mut queue, demand("a", 0, 1));
        let newer = Proof {
            life: 1,
            ..Proof::default()
        };
        let only_a = |entry: &Entry, _| entry.avoid.allows(A, newer, false).then_some(A);
        assert_eq!(
            queue
                .take_first(Instant::now(), only_a)
                .map(|taken| taken.0),
            Some(second)
        );
        assert!(queue.take_first(Instant::now(), only_a).is_none());
        assert!(queue.leave(first).is_some());
        assert!(queue.leave(first).is_none());
        assert!(queue.is_empty());
    }

    #[test]
    fn asks_once_for_each_model() {
        let mut queue = Queue::default();
        for number in 0..1000 {
            let model = Model::new(if number % 2 == 0 { "x" } else { "y" });
            let client = number.to_string();
            join(
                &mut queue,
                Demand {
                    model,
                    ..demand(&client, 0, 1)
                },
            );
        }
        let mut asked = 0;
        let none = queue.take_first(Instant::now(), |_, line| {
            asked += 1;
            assert!((line.seconds - 500.0).abs() < 1e-9);
            None::<()>
        });
        assert!(none.is_none());
        assert_eq!((asked, queue.len()), (2, 1000));
    }

    #[test]
    fn the_one_that_waits_with_the_most_gives_way() {
        let mut queue = Queue::default();
        for _ in 0..3 {
            join(&mut queue, demand("a", 0, 1));
        }
        let newest = join(&mut queue, demand("a", 0, 1));
        assert_eq!(
            queue.to_give_way(newest, Instant::now()),
            None,
            "not for more of its own"
        );
        let quiet = join(&mut queue, demand("b", 0, 1));
        assert_eq!(queue.to_give_way(quiet, Instant::now()), Some(newest));
        let low = join(&mut queue, demand("c", 0, 1));
        let high = join(&mut queue, demand("b", 1, 1));
        assert_eq!(queue.to_give_way(high, Instant::now()), Some(newest));
        assert_eq!(queue.to_give_way(low, Instant::now()), Some(newest));
    }

    #[test]
    fn what_is_ahead_of_a_newcomer_is_bounded_by_its_own_share() {
        let mut queue = Queue::default();
        for _ in 0..10 {
            join(&mut queue, demand("a", 0, 10));
        }
        join(&mut queue, demand("h", 1, 5));
        let mut ahead = |client, priority, expected: f64| {
            let ticket = join(&mut queue, demand(client, priority, 10));
            let ahead = queue.seconds_ahead_of(queue.get(ticket).unwrap(), Instant::now());
            assert!(
                (ahead - expected).abs() < 1e-9,
                "{client} {priority}: {ahead}"
            );
            queue.leave(ticket);
        };
        ahead("a", 0, 105.0);
        ahead("b", 0, 15.0);
        ahead("b", 1, 5.0);
        assert!((queue.seconds(Instant::now()) - 105.0).abs() < 1e-9);
    }

    #[test]
    fn sums_return_to_nothing() {
        let mut queue = Queue::default();
        let mut tickets = Vec::new();
        for number in 0..50 {
            let demand = Demand {
                model: Model::new(&(number % 3).to_string()),
                bytes: 7,
                ..demand("a", number % 2, 3)
            };
            tickets.push(join(&mut queue, demand));
        }
        assert_eq!(queue.bytes(), 350);
        for ticket in tickets {
            queue.leave(ticket);
        }
        assert_eq!((queue.bytes(), queue.len(), queue.models.len()), (0, 0, 0));
        assert!(queue.seconds(Instant::now()).abs() < f64::EPSILON);
    }
}
