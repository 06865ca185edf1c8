//! Which hosts could serve a request, now or later, as far as models go.
//!
//! 1. Those that may have its model. While there is one, it is waited for, whatever it is up to.
//! 2. If every host tells that it lacks the model, but none was asked: all, since lists may be
//!    incomplete, and a host says best what is wrong.
//! 3. Else nobody: those that have it answer wrong, or in another space than the request wants.

use std::time::Instant;

use super::TurnedAway;
use super::avoid::Avoid;
use super::demand::Model;
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
        let present = hosts.iter().filter(|host| !host.removed);
        let mut lacks = present.map(|host| reach.lack(host)).peekable();
        if lacks.peek().is_none() {
            return reach;
        }
        // Until a host that may have it is found, which is mostly the first.
        let group = lacks.try_fold(Group::Told, |group, lack| {
            Some(match (lack?, group) {
                (Lack::UnknownSpace, _) => return None,
                (Lack::OtherSpace, _) => Group::Nobody(TurnedAway::OtherSpace),
                (Lack::Deviates, Group::Told | Group::Nobody(TurnedAway::NoModel)) => {
                    Group::Nobody(TurnedAway::Deviating)
                }
                (Lack::Shown, Group::Told) => Group::Nobody(TurnedAway::NoModel),
                (_, group) => group,
            })
        });
        reach.group = group.unwrap_or(Group::MayHave);
        reach
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
