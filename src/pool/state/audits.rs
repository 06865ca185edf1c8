//! Audits: slots for them, and what they show.

use std::time::Instant;

use super::{Event, EventKind, Grant, State};
use crate::pool::avoid::Avoid;
use crate::pool::demand::{Demand, Model};
use crate::pool::health::Phase;
use crate::pool::reach::Reach;
use crate::pool::{Auditable, Audited, HostId, TurnedAway};

impl State {
    /// See [`crate::pool::Pool::withheld`].
    pub(in crate::pool) fn withheld(
        &self,
        model: Option<&Model>,
        avoid: &Avoid,
        now: Instant,
    ) -> Option<TurnedAway> {
        Reach::new(&self.hosts, model, avoid, now).withheld()
    }

    /// See [`crate::pool::Pool::auditable`].
    pub(in crate::pool) fn auditable(&self, now: Instant) -> Vec<(HostId, Auditable)> {
        let hosts = self.hosts().map(|host| {
            let auditable = Auditable {
                most_items: host.most_items(now),
                generation: host.models.generation(),
                loaded: host.models.auditable(!host.spec.tells_less),
                is_serving: host.is_serving(),
            };
            (host.id, auditable)
        });
        hosts.collect()
    }

    /// A lease on this very host: a slot that is free after all were given out that somebody waits for
    /// ([`State::grant`]), so that it is taken from nobody.
    pub(in crate::pool) fn spare(
        &mut self,
        id: HostId,
        demand: &Demand,
        now: Instant,
    ) -> Option<Grant> {
        let model = demand.model.as_ref()?;
        let host = self.host(id)?;
        // On trial there is one slot, which is for a client's request.
        if host.health.phase() != Phase::Up || !host.models.is_surely_loaded(model) {
            return None;
        }
        host.can_take(Some(model), false, now)?;
        let ticket = self.next_ticket();
        let seconds = self.estimator.seconds(demand);
        self.queue.clients.lease(demand.client.as_ref(), true, now);
        Some(self.lease_out(ticket, demand.clone(), seconds, id, false, now))
    }

    /// See [`crate::pool::Pool::audited`]. Returns whether the host answers wrong with some model.
    pub(in crate::pool) fn audited(
        &mut self,
        id: HostId,
        model: &Model,
        audited: Option<Audited>,
    ) -> bool {
        let Some(host) = self.host_mut(id) else {
            return false;
        };
        let before = host.models.set_audit(model, audited.clone());
        let is_out = host.models.audits().values().any(Audited::is_out);
        let host = host.spec.name.clone();
        self.reach_changed = true;
        if let Some(audited) = audited.filter(|audited| Some(audited.trust) != before) {
            let why = audited.why.map(|why| format!(": {why}"));
            self.events.push(Event {
                host,
                kind: EventKind::Audited(audited.trust),
                problem: Some(format!("{}{}", model.as_str(), why.unwrap_or_default())),
            });
        }
        is_out
    }

    /// Has an audit shown, since the lease was given out, that its host answers wrong?
    pub(in crate::pool) fn is_discredited(&self, grant: &Grant) -> bool {
        let audit = self.host(grant.host).zip(grant.demand.model.as_ref());
        audit.is_some_and(|(host, model)| host.models.audit(model).is_some_and(Audited::is_out))
    }
}
