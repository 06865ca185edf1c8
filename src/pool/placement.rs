//! Which host a waiting request gets, now.
//!
//! 1. Hosts with a free slot that may have its model ([`Reach`]), and on which the request has not
//!    failed.
//! 2. Of these, the ones that have its model in memory, if there are any in the pool. If all of those
//!    are full, the request waits for one of them rather than have the model loaded on another, but
//!    only while that is quicker: until the first in line for the model has waited for as long as a
//!    load takes, or the line has grown longer than that.
//! 3. Of these, the ones that take all its items at once; else it is cut for one that takes fewer ([`Fit`]).
//! 4. Of these, the policy's choice.
//!
//! If all are full, and some only of others' requests, one request waits behind them on such a host, since a free slot
//! there is seen only at the next look, when somebody else may have it.

use std::time::Instant;

use super::HostId;
use super::avoid::Extent;
use super::estimate::{Estimator, seconds};
use super::fit::Fit;
use super::host::Host;
use super::policy::Load;
use super::queue::{Entry, Line};
use super::reach::Reach;
use crate::config::Policy;

/// Everything that a placement depends on beside the request.
pub(super) struct Scene<'a> {
    pub(super) hosts: &'a [Host],
    pub(super) policy: Policy,
    pub(super) estimator: &'a Estimator,
    pub(super) now: Instant,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// This one. `cold`: it has to load the model.
    On { host: HostId, cold: bool },
    /// None can take it at all.
    Nowhere,
    /// One could, but it is quicker to wait for another, until then at the latest.
    Later(Instant),
}

impl Scene<'_> {
    /// `line`: those that wait for the same model.
    pub(super) fn place(&self, entry: &Entry, line: Line) -> Placement {
        let model = entry.demand.model.as_ref();
        let choice = Choice::new(self, entry);
        let (mut warm, mut in_parts, mut cold) = (Vec::new(), Vec::new(), Vec::new());
        // Most hosts are full most of the time, so that is asked first.
        for host in self.hosts {
            let Some(slots) = host.can_take(model, choice.is_desperate, self.now) else {
                continue;
            };
            if choice.allows(host) {
                let group = match (has_model(host, entry), choice.fit(host)) {
                    (true, Fit::InParts) => &mut in_parts,
                    (true, _) => &mut warm,
                    (false, _) => &mut cold,
                };
                group.push((host.id, load(host, slots, entry.seconds)));
            }
        }
        if let Some(host) = self.pick(&warm).or_else(|| self.pick(&in_parts)) {
            return Placement::On { host, cold: false };
        }
        let Some(host) = self.pick(&cold) else {
            return self.behind_others(&choice);
        };
        let warm = self
            .hosts
            .iter()
            .filter(|host| host.is_serving() && has_model(host, entry) && choice.allows(host));
        let warm = warm.map(Host::slots).fold(0, u32::saturating_add);
        match self.patience(entry, line, warm) {
            Some(until) if self.now < until => Placement::Later(until),
            _ => Placement::On { host, cold: true },
        }
    }

    fn pick(&self, hosts: &[(HostId, Load)]) -> Option<HostId> {
        let loads: Vec<Load> = hosts.iter().map(|(_, load)| *load).collect();
        let chosen = self.policy.pick(&loads)?;
        hosts.get(chosen).map(|(host, _)| *host)
    }

    /// On a host that is full of others' requests, where the fewest are in the way.
    fn behind_others(&self, choice: &Choice<'_>) -> Placement {
        let crowds = self.hosts.iter().filter_map(|host| {
            let others = host.crowd(self.now).filter(|_| choice.allows(host))?;
            let crowd = f64::from(others) / f64::from(host.capacity.nominal());
            Some((host, !has_model(host, choice.entry), crowd))
        });
        let first = crowds.min_by(|(a, a_cold, a_crowd), (b, b_cold, b_crowd)| {
            let order = a_cold.cmp(b_cold).then(a_crowd.total_cmp(b_crowd));
            order.then(a.last_granted.cmp(&b.last_granted))
        });
        first.map_or(Placement::Nowhere, |(host, cold, _)| Placement::On {
            host: host.id,
            cold,
        })
    }

    /// Until when a request waits for a host that has its model; `None`: no host has, or it would
    /// take longer than to load the model elsewhere.
    fn patience(&self, entry: &Entry, line: Line, warm_slots: u32) -> Option<Instant> {
        let model = entry.demand.model.as_ref()?;
        if warm_slots == 0 {
            return None;
        }
        let load_time = self.estimator.load_time(model);
        let wait = seconds(line.seconds / f64::from(warm_slots));
        (wait < load_time).then(|| line.since + load_time)
    }
}

/// Which hosts a request may get, full or not.
struct Choice<'a> {
    entry: &'a Entry,
    reach: Reach<'a>,
    now: Instant,
    /// None of those that could serve it serves.
    is_desperate: bool,
    /// Every other host has broken it, or does not serve.
    is_nowhere_else: bool,
    /// It is more than any of them takes, and can't be cut: one of them has to say so.
    fits_none: bool,
}

impl<'a> Choice<'a> {
    fn new(scene: &Scene<'_>, entry: &'a Entry) -> Self {
        let (hosts, avoid) = (scene.hosts, &entry.avoid);
        let mut choice = Self {
            entry,
            reach: Reach::new(hosts, entry.demand.model.as_ref(), avoid, scene.now),
            now: scene.now,
            is_desperate: true,
            is_nowhere_else: true,
            // A part that fits none is no use to anybody.
            fits_none: avoid.extent() != Extent::Part,
        };
        for host in hosts {
            if host.is_serving() && choice.reach.includes(host) {
                let is_open = !avoid.is_closed(host.id);
                choice.is_desperate = false;
                choice.is_nowhere_else &= !is_open;
                choice.fits_none &= !is_open || choice.fit(host) == Fit::Not;
            }
        }
        choice
    }

    fn fit(&self, host: &Host) -> Fit {
        let Entry { demand, avoid, .. } = self.entry;
        host.fit(demand, avoid.extent(), self.now)
    }

    fn allows(&self, host: &Host) -> bool {
        let avoid = &self.entry.avoid;
        self.reach.includes(host)
            && avoid.allows(host.id, host.proof(), self.is_nowhere_else)
            && (self.fits_none || self.fit(host) != Fit::Not)
    }
}

fn has_model(host: &Host, entry: &Entry) -> bool {
    let model = entry.demand.model.as_ref();
    model.is_none_or(|model| host.models.is_loaded(model))
}

/// Does no host serve?
pub(super) fn is_desperate(hosts: &[Host]) -> bool {
    !hosts.iter().any(Host::is_serving)
}

fn load(host: &Host, slots: std::num::NonZeroU32, seconds: f64) -> Load {
    Load {
        in_flight: host.in_flight,
        slots,
        seconds: host.outstanding.total() + seconds,
        slowness: host.slowness.factor(),
        weight: host.spec.weight,
        memory_used: host.memory_used(),
        turn: host.turn,
        last_granted: host.last_granted,
    }
}
