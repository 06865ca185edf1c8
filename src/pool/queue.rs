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
//! model, in one space if that matters, can all use the same hosts, so only the first of them is asked; of pairs,
//! the first of each size.

mod length;
mod turns;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use foldhash::{HashMap, HashSet};

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
    /// Those of each can all use the same hosts, or nearly so, unless they have failed somewhere.
    lines: BTreeMap<Wanted, BTreeSet<Ticket>>,
    seconds: Sum,
}

/// What decides which hosts a request can use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    model: Option<Model>,
    space: Option<Space>,
    /// Of how many pairs there are, the binary order: more than a host takes are not for every host.
    size: u32,
}

fn wanted(demand: &Demand) -> Wanted {
    let Demand {
        model, space, work, ..
    } = demand;
    let is_for_pairs = model.as_ref().is_some_and(Model::is_for_pairs);
    Wanted {
        model: model.clone(),
        space: *space,
        size: if is_for_pairs {
            work.items.max(1).ilog2()
        } else {
            0
        },
    }
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
}

#[cfg(test)]
mod tests;
