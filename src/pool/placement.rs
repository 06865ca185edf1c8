//! Which host a waiting request gets, now.
//!
//! 1. Hosts with a free slot that may have its model ([`Reach`]), and on which the request has not
//!    failed.
//! 2. Of these, the ones that have its model in memory, if there are any in the pool. If all of those
//!    are full, the request waits for one of them rather than have the model loaded on another, but
//!    only while that is quicker: until the first in line for the model has waited for as long as a
//!    load takes, or the line has grown longer than that.
//! 3. Of these, the policy's choice.

use std::time::Instant;

use super::HostId;
use super::estimate::{Estimator, seconds};
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
        let reach = Reach::new(self.hosts, model, &entry.avoid, self.now);
        let serves = |host: &Host| host.is_serving() && reach.includes(host);
        let desperate = !self.hosts.iter().any(serves);
        let nowhere_else = self
            .hosts
            .iter()
            .all(|host| entry.avoid.broken_on(host.id) || !serves(host));
        let allowed = |host: &Host| {
            reach.includes(host) && entry.avoid.allows(host.id, host.proof(), nowhere_else)
        };
        let mut warm = Vec::new();
        let mut cold = Vec::new();
        // Most hosts are full most of the time, so that is asked first.
        for host in self.hosts {
            let Some(slots) = host.can_take(model, desperate, self.now) else {
                continue;
            };
            if allowed(host) {
                let group = if has_model(host, entry) {
                    &mut warm
                } else {
                    &mut cold
                };
                group.push((host.id, load(host, slots, entry.seconds)));
            }
        }
        if let Some(host) = self.pick(&warm) {
            return Placement::On { host, cold: false };
        }
        let Some(host) = self.pick(&cold) else {
            return Placement::Nowhere;
        };
        let warm = self
            .hosts
            .iter()
            .filter(|host| host.is_serving() && has_model(host, entry) && allowed(host));
        match self.patience(entry, line, warm.map(Host::slots).sum()) {
            Some(until) if self.now < until => Placement::Later(until),
            _ => Placement::On { host, cold: true },
        }
    }

    fn pick(&self, hosts: &[(HostId, Load)]) -> Option<HostId> {
        let loads: Vec<Load> = hosts.iter().map(|(_, load)| *load).collect();
        let chosen = self.policy.pick(&loads)?;
        hosts.get(chosen).map(|(host, _)| *host)
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
