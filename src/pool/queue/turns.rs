//! Whose turn it is.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt as _};

use super::{Client, Entry, Flow, Level, Line, Queue, Queued, Ticket};
use crate::pool::demand::{Demand, Model, Question};

impl Queue {
    /// Takes out the first request for which `place` finds a host. If it finds none for one that has not failed
    /// anywhere, it must find none for others of that model with as many items, or more.
    pub(in crate::pool) fn take_first<T>(
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
    pub(in crate::pool) fn take(&mut self, ticket: Ticket, now: Instant) -> Option<Entry> {
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
    pub(in crate::pool) fn may_go(&self, ticket: Ticket, now: Instant) -> bool {
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
    pub(in crate::pool) fn with_question(&self, question: &Question) -> Vec<Queued> {
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
        // From so many items on, requests for a model that have not failed anywhere.
        let mut hopeless: HashMap<&Option<Model>, u32> = HashMap::new();
        let mut ask = |ticket: Ticket| {
            let entry = self.entries.get(&ticket)?;
            let Demand { model, work, .. } = &entry.demand;
            let known = hopeless.get(model).copied();
            if entry.avoid.is_none() && known.is_some_and(|least| work.items >= least) {
                return None;
            }
            let found = place(entry, self.line_of(entry));
            if entry.avoid.is_none() && found.is_none() {
                hopeless.insert(model, work.items);
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
    pub(super) fn charge(&mut self, entry: &Entry, now: Instant) {
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
