//! Which hosts could serve a request, now or later, as far as models go.
//!
//! 1. Those that may have its model. While there is one, it is waited for, whatever it is up to; but not, where others
//!    serve, for the sake of hosts that are out and were never seen with that model.
//! 2. If every host tells that it lacks the model, but none was asked: all, since lists may be
//!    incomplete, and a host says best what is wrong.
//! 3. Else nobody: those that have it answer wrong, or in another space than the request wants.

use std::time::Instant;

use super::TurnedAway;
use super::avoid::Avoid;
use super::demand::Model;
use super::health::Phase;
use super::host::Host;
use super::models::Lack;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach<'a> {
    model: Option<&'a Model>,
    avoid: &'a Avoid,
    now: Instant,
    group: Group,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    MayHave,
    Told,
    Nobody(TurnedAway),
}

impl Group {
    /// Of hosts that lack the model, and another one that does.
    fn joined_by(self, lack: Lack) -> Self {
        match (lack, self) {
            (Lack::OtherSpace, _) => Self::Nobody(TurnedAway::OtherSpace),
            (Lack::Deviates, Self::Told | Self::Nobody(TurnedAway::NoModel)) => {
                Self::Nobody(TurnedAway::Deviating)
            }
            (Lack::Shown, Self::Told) => Self::Nobody(TurnedAway::NoModel),
            (_, group) => group,
        }
    }
}

/// What is to be gained by waiting for a host that is not known to lack a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Prospect {
    /// It may be asked, or is about to say what it has, or was seen with the model before it went out.
    Good,
    /// It is out, and as long as it was there it was seen with other models only.
    Poor,
    /// It is out, and has never been heard.
    Unheard,
}

impl<'a> Reach<'a> {
    /// Of a request for `model` that has failed on the hosts to `avoid`.
    pub(super) fn new(
        hosts: &[Host],
        model: Option<&'a Model>,
        avoid: &'a Avoid,
        now: Instant,
    ) -> Self {
        let mut reach = Self {
            model,
            avoid,
            now,
            group: Group::MayHave,
        };
        reach.group = reach.grouped(hosts);
        reach
    }

    /// Ends at the first host that may have it and is worth waiting for, which is mostly the first.
    fn grouped(&self, hosts: &[Host]) -> Group {
        let mut lacking = None;
        let mut out = None;
        let mut is_asked = false;
        for host in hosts.iter().filter(|host| !host.removed) {
            match self.lack(host) {
                None => match self.prospect(host) {
                    Prospect::Good => return Group::MayHave,
                    worse => out = out.max(Some(worse)),
                },
                Some(Lack::UnknownSpace) => return Group::MayHave,
                Some(lack) => {
                    is_asked |= host.is_in_rotation();
                    lacking = Some(lacking.unwrap_or(Group::Told).joined_by(lack));
                }
            }
        }
        match (lacking, out) {
            (Some(group), None) => group,
            (Some(Group::Told), Some(_)) if is_asked => Group::Told,
            (Some(Group::Nobody(TurnedAway::NoModel)), Some(out)) if is_asked => {
                Group::Nobody(match out {
                    Prospect::Unheard => TurnedAway::Unheard,
                    Prospect::Good | Prospect::Poor => TurnedAway::NoModel,
                })
            }
            _ => Group::MayHave,
        }
    }

    /// What is to be expected of `host`, which is not known to lack the model.
    fn prospect(&self, host: &Host) -> Prospect {
        let named = self.model.filter(|model| !model.is_default());
        let Some(model) = named.filter(|_| !host.is_in_rotation()) else {
            return Prospect::Good;
        };
        let is_heard = host.models.is_heard();
        let is_about_to_tell = match host.health.phase() {
            Phase::Unknown => true,
            Phase::NotReady { .. } => !is_heard,
            Phase::Up | Phase::Trial | Phase::Ejected { .. } => false,
        };
        let was_there = host.models.was_known(model) || self.avoid.has_failed_on(host.id);
        if is_about_to_tell || was_there || host.last_slots(self.model) > 0 {
            Prospect::Good
        } else if is_heard {
            Prospect::Poor
        } else {
            Prospect::Unheard
        }
    }

    /// Could `host` serve it?
    pub(super) fn includes(&self, host: &Host) -> bool {
        match self.group {
            Group::MayHave => self.lack(host).is_none(),
            Group::Told => true,
            Group::Nobody(_) => false,
        }
    }

    /// Why no host will do; `None` if one may.
    pub(super) fn withheld(&self) -> Option<TurnedAway> {
        match self.group {
            Group::Nobody(why) => Some(why),
            Group::MayHave | Group::Told => None,
        }
    }

    fn lack(&self, host: &Host) -> Option<Lack> {
        if self.avoid.lacked_on(host.id, host.models.generation()) {
            return Some(Lack::Shown);
        }
        let model = self.model?;
        if model.is_default() && host.spec.tells_less {
            return Some(Lack::Told);
        }
        let lack = host.models.lack(model, self.now);
        lack.or_else(|| {
            let wanted = self.avoid.space()?;
            match host.models.audit(model).and_then(|audited| audited.space) {
                None => Some(Lack::UnknownSpace),
                Some(space) => (!space.is_like(wanted)).then_some(Lack::OtherSpace),
            }
        })
    }
}
