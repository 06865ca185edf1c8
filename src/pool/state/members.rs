//! Which hosts there are, and which of them operators keep out.

use std::collections::{HashMap, HashSet};

use super::{EventKind, State};
use crate::config::HostName;
use crate::pool::HostId;
use crate::pool::estimate::Slowness;
use crate::pool::host::{Host, HostSpec};

impl State {
    /// See [`super::Pool::set_hosts`].
    pub(in crate::pool) fn set_hosts(&mut self, specs: Vec<HostSpec>) -> Vec<HostId> {
        let first_time = self.hosts.is_empty();
        let known = self.hosts().map(|host| {
            let HostSpec { name, endpoint, .. } = &host.spec;
            ((name.clone(), endpoint.clone()), host.id)
        });
        let known: HashMap<_, _> = known.collect();
        let slowness = Slowness::like(self.hosts.iter().map(|host| host.slowness));
        let ids: Vec<HostId> = specs
            .into_iter()
            .map(|spec| {
                let same = known.get(&(spec.name.clone(), spec.endpoint.clone()));
                self.set_host(spec, same.copied(), slowness, first_time)
            })
            .collect();
        let listed: HashSet<HostId> = ids.iter().copied().collect();
        let gone = |host: &Host| !host.removed && !listed.contains(&host.id);
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
        self.reach_changed = true;
        ids
    }

    /// `same`: the host that it is already. `slowness`: of one that is new.
    fn set_host(
        &mut self,
        spec: HostSpec,
        same: Option<HostId>,
        slowness: Slowness,
        first_time: bool,
    ) -> HostId {
        if let Some(host) = same.and_then(|id| self.host_mut(id)) {
            host.capacity.configured = spec.max_concurrent;
            let before = host.is_draining();
            host.spec = spec;
            let (id, is_draining) = (host.id, host.is_draining());
            self.note_draining(id, before, is_draining);
            return id;
        }
        let id = HostId(self.next_host);
        self.next_host += 1;
        let mut host = Host::new(id, spec, self.settings.thresholds, slowness);
        if !first_time {
            host.capacity.start_slowly();
        }
        host.draining = self.drained.contains(&host.spec.name);
        self.hosts.push(host);
        if !first_time {
            self.note(id, EventKind::Added);
        }
        id
    }

    pub(super) fn forget_removed(&mut self) {
        self.hosts
            .retain(|host| !host.removed || host.in_flight > 0);
    }

    /// The orders of operators to drain, also of hosts that are not there at the moment: one that is
    /// found again by its name, or at another address, is still not to be used.
    pub(in crate::pool) fn drained(&self) -> impl Iterator<Item = &HostName> {
        self.drained.iter()
    }

    /// Takes over orders that were given elsewhere.
    pub(in crate::pool) fn keep_drained(&mut self, names: Vec<HostName>) {
        for name in names {
            self.set_draining(&name, true);
            self.drained.insert(name);
        }
    }

    /// Returns whether there is such a host, or an order to take back.
    pub(in crate::pool) fn set_draining(&mut self, name: &HostName, draining: bool) -> bool {
        let taken_back = !draining && self.drained.remove(name);
        let known = |host: &&mut Host| !host.removed && host.spec.name == *name;
        let Some(host) = self.hosts.iter_mut().find(known) else {
            return taken_back;
        };
        if draining {
            self.drained.insert(name.clone());
        }
        let before = host.is_draining();
        host.draining = draining;
        let (id, is_draining) = (host.id, host.is_draining());
        self.note_draining(id, before, is_draining);
        true
    }

    fn note_draining(&mut self, host: HostId, before: bool, now: bool) {
        self.reach_changed |= before != now;
        match (before, now) {
            (false, true) => self.note(host, EventKind::Draining),
            (true, false) => self.note(host, EventKind::Undrained),
            _ => {}
        }
    }
}
