//! From a place in line to a lease.

use std::time::{Duration, Instant};

use super::{Grant, State};
use crate::pool::avoid::Avoid;
use crate::pool::demand::Demand;
use crate::pool::host::Host;
use crate::pool::placement::{Placement, Scene};
use crate::pool::queue::{Entry, Ticket};
use crate::pool::reach::Reach;
use crate::pool::{HostId, TurnedAway};

/// A request that waits behind others at its host is moved after this much time at the earliest, …
const LEAST_PATIENCE: Duration = Duration::from_secs(2);
/// … and after this many times what it should take there: by then it may well run.
const PATIENCE: u32 = 2;

/// Models for which requests of one client may wait at once, beside those that some host tells of: names that
/// may be invented. All hosts together hold fewer in memory, and each step looks at the first request for
/// each model on each host.
const MOST_MODELS: usize = 64;

impl State {
    /// Puts a request in line. Call [`Self::grant`] next, then, for a newcomer, [`Self::admit`].
    /// `returning`: it has held a lease before.
    pub(in crate::pool) fn join(
        &mut self,
        ticket: Ticket,
        demand: Demand,
        avoid: Avoid,
        returning: bool,
        now: Instant,
    ) {
        let entry = self.entry(demand, avoid, returning, now);
        self.queue.join(ticket, entry);
        self.dismiss(vec![ticket], now);
    }

    fn entry(&self, demand: Demand, avoid: Avoid, returning: bool, now: Instant) -> Entry {
        Entry {
            seconds: self.estimator.seconds(&demand),
            sure: self.estimator.sure_seconds(&demand),
            demand,
            avoid,
            joined: now,
            returning,
            offer: None,
            sharing: None,
        }
    }

    /// A lease for a newcomer, if nobody waits and there is a host for it: the one that it would get if it
    /// joined the line, for much less. `None`: it has to join.
    pub(in crate::pool) fn lease_at_once(
        &mut self,
        ticket: Ticket,
        demand: &Demand,
        now: Instant,
    ) -> Option<Grant> {
        let is_clear = self.queue.is_empty() && !self.reach_changed;
        let may = || self.queue.clients.permits(demand.client.as_ref(), now) > 0;
        let is_free = || self.has_room(now);
        if !is_clear || !may() || !is_free() {
            return None;
        }
        let avoid = Avoid::outside(demand.space);
        let entry = self.entry(demand.clone(), avoid, false, now);
        let Placement::On { host, cold } =
            self.scene(now).place(&entry, self.queue.line_of(&entry))
        else {
            return None;
        };
        self.reconsider = None;
        self.queue.pass(&entry, now);
        let Entry {
            demand, seconds, ..
        } = entry;
        Some(self.lease_out(ticket, demand, seconds, host, cold, now))
    }

    fn scene(&self, now: Instant) -> Scene<'_> {
        Scene {
            hosts: &self.hosts,
            policy: self.settings.policy,
            estimator: &self.estimator,
            now,
        }
    }

    /// Takes requests out of the line for which there is no host that might serve them: there is nothing
    /// to wait for.
    pub(super) fn dismiss(&mut self, tickets: Vec<Ticket>, now: Instant) {
        for ticket in tickets {
            let Some(entry) = self.queue.get(ticket) else {
                continue;
            };
            let model = entry.demand.model.as_ref();
            let reach = Reach::new(&self.hosts, model, &entry.avoid, now);
            if let Some(why) = reach.withheld() {
                self.queue.leave(ticket);
                self.dismissed.push((ticket, why));
            }
        }
    }

    /// May the newcomer stay in line, for up to `patience`? If the line is full, it may in the place
    /// of others, which are returned. Requests that have held a lease are never turned away.
    pub(in crate::pool) fn admit(
        &mut self,
        ticket: Ticket,
        patience: Duration,
        now: Instant,
    ) -> Result<Vec<Ticket>, TurnedAway> {
        let Some(newcomer) = self.queue.get(ticket) else {
            return Ok(Vec::new());
        };
        if self.is_of_too_many(newcomer) {
            self.queue.leave(ticket);
            return Err(TurnedAway::ManyModels);
        }
        let (requests, seconds) = self.queue.own(newcomer);
        let client = newcomer.demand.client.as_ref();
        let own = self.time_within_limits(client, requests, seconds - newcomer.sure, now);
        if self.wait_of(newcomer, now).max(own) > patience {
            self.queue.leave(ticket);
            return Err(TurnedAway::TooLong);
        }
        self.make_room_for(ticket, now)
    }

    /// Does its client wait for too many models already to wait for that of `newcomer`, too?
    fn is_of_too_many(&self, newcomer: &Entry) -> bool {
        let models = self.queue.models_with(newcomer);
        let Some(model) = &newcomer.demand.model else {
            return false;
        };
        let is_told = || self.hosts.iter().any(|host| host.models.is_told(model));
        // Spaces may be invented, too.
        let is_real = || newcomer.demand.space.is_none() && is_told();
        models.is_some_and(|models| models > MOST_MODELS) && !is_real()
    }

    /// Turns as many away as it takes; if that would have to be the newcomer in the end, only it.
    fn make_room_for(&mut self, newcomer: Ticket, now: Instant) -> Result<Vec<Ticket>, TurnedAway> {
        let mut turned_away = Vec::new();
        while self.is_overfull() {
            let yields = self.queue.to_give_way(newcomer, now);
            let left = yields.and_then(|ticket| Some((ticket, self.queue.leave(ticket)?)));
            let Some(left) = left else {
                self.queue.leave(newcomer);
                for (ticket, entry) in turned_away {
                    self.queue.join(ticket, entry);
                }
                return Err(TurnedAway::Full);
            };
            turned_away.push(left);
        }
        Ok(turned_away.into_iter().map(|(ticket, _)| ticket).collect())
    }

    fn is_overfull(&self) -> bool {
        let requests = self.queue.len();
        // One alone may wait whatever its size: what it holds is bounded elsewhere.
        let bytes = self.queue.bytes() > self.settings.max_waiting_bytes && requests > 1;
        requests > self.settings.max_waiting || bytes
    }

    pub(in crate::pool) fn leave(&mut self, ticket: Ticket) {
        self.queue.leave(ticket);
    }

    /// Hands free slots to waiting requests.
    pub(in crate::pool) fn grant(&mut self, now: Instant) -> Vec<Grant> {
        let mut grants = Vec::new();
        self.reconsider = None;
        if std::mem::take(&mut self.reach_changed) {
            let tickets = self.queue.tickets(None);
            self.dismiss(tickets, now);
        }
        while self.wants_slots(now) && self.has_room(now) {
            let Some((ticket, entry, (host, cold))) = self.take_next(now) else {
                break;
            };
            let Entry {
                demand,
                seconds,
                offer,
                ..
            } = entry;
            let mut grant = self.lease_out(ticket, demand, seconds, host, cold, now);
            if let Some(offer) = offer {
                self.merge(&mut grant, &offer, now);
            }
            grants.push(grant);
        }
        grants
    }

    /// Might some request be sent somewhere now?
    fn has_room(&self, now: Instant) -> bool {
        let takes = |host: &Host| host.has_free_slot(now) || host.crowd(now).is_some();
        self.hosts.iter().any(takes)
    }

    fn take_next(&mut self, now: Instant) -> Option<(Ticket, Entry, (HostId, bool))> {
        let scene = Scene {
            hosts: &self.hosts,
            policy: self.settings.policy,
            estimator: &self.estimator,
            now,
        };
        let reconsider = &mut self.reconsider;
        self.queue
            .take_first(now, |entry, line| match scene.place(entry, line) {
                Placement::On { host, cold } => Some((host, cold)),
                Placement::Nowhere => None,
                Placement::Later(until) => {
                    *reconsider = Some(reconsider.map_or(until, |earlier| earlier.min(until)));
                    None
                }
            })
    }

    /// Does a request wait behind others at its host for long, while a slot is free elsewhere for which nobody waits?
    pub(in crate::pool) fn is_free_elsewhere(&self, grant: &Grant, now: Instant) -> bool {
        let patience = grant.expected.unwrap_or_default() * PATIENCE;
        let is_due = now.duration_since(grant.granted) >= patience.max(LEAST_PATIENCE);
        if grant.behind.is_none() || !is_due || !self.queue.is_empty() {
            return false;
        }
        let avoid = Avoid::outside(grant.demand.space);
        let entry = self.entry(grant.demand.clone(), avoid, true, now);
        let placement = self.scene(now).place(&entry, self.queue.line_of(&entry));
        let Placement::On { host, .. } = placement else {
            return false;
        };
        let host = self.host(host).filter(|host| host.id != grant.host);
        host.is_some_and(|host| host.has_free_slot(now))
    }

    pub(super) fn lease_out(
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
        let mut grant = Grant {
            ticket,
            host: id,
            seconds,
            cold,
            expected: None,
            guess: None,
            most: None,
            is_surely_warm: false,
            is_last_resort: false,
            behind: None,
            space: None,
            granted: now,
            demand,
            company: Vec::new(),
            saves: Duration::ZERO,
        };
        let Some(host) = self.host_mut(id) else {
            return grant;
        };
        grant.behind = host.crowd(now);
        host.take(seconds, number, now);
        grant.is_last_resort = host.is_last_resort();
        let model = grant.demand.model.as_ref();
        grant.space = model.and_then(|model| host.models.audit(model)?.space);
        grant.is_surely_warm = model.is_some_and(|model| host.models.is_surely_loaded(model));
        grant.most = host.most_items(now);
        let slowness = host.slowness;
        if !cold {
            grant.expected = self.estimator.expected(&grant.demand, slowness);
            grant.guess = self.estimator.guess(&grant.demand, slowness);
        }
        self.running.insert((ticket, id), grant.clone());
        grant
    }
}
