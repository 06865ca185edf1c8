//! Which hosts a request should not be tried on again.
//!
//! - After a failure to connect, the host may be tried again once it has shown a sign of life.
//! - After it said that it lacks the model, it may be tried again once it may have other models.
//! - After it broke the request, it may be tried again only if there is nowhere else to go (a pool of
//!   one host that restarts), and only after a sign of life.
//! - A request that wants vectors of one space is for hosts of that space only.
//! - One that can't be cut is for hosts that take all of it, and a part of a batch for those that take parts; for one
//!   host only, where those of others would not fit.

use super::HostId;
use crate::embedding::Space;

/// What a host was like at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Its signs of life so far: good checks and good answers.
    pub(super) life: u64,
    /// Of its models.
    pub(super) generation: u64,
}

impl Proof {
    /// Has the host shown a sign of life since `other`?
    fn is_newer_than(self, other: Self) -> bool {
        self.life > other.life
    }
}

/// What of a request one host has to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// All of it, but if that is more than the host takes, it may be cut.
    #[default]
    Batch,
    /// All of it.
    Whole,
    /// It is a part itself.
    Part,
}

/// The hosts on which a request has failed; see the module.
#[derive(Clone, Debug, Default)]
pub struct Avoid {
    failures: Vec<Failure>,
    lacked: Vec<Lacked>,
    /// The only one that will do, if it matters.
    space: Option<Space>,
    /// The same.
    only: Option<HostId>,
    extent: Extent,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    host: HostId,
    broke_request: bool,
    proof: Proof,
}

/// `host` lacked the model, as of this generation of its models.
#[derive(Clone, Copy, Debug)]
struct Lacked {
    host: HostId,
    generation: u64,
}

impl Avoid {
    /// None.
    pub(super) const fn none() -> Self {
        Self {
            failures: Vec::new(),
            lacked: Vec::new(),
            space: None,
            only: None,
            extent: Extent::Batch,
        }
    }

    /// None, but for hosts outside of that space, if it matters.
    pub fn outside(space: Option<Space>) -> Self {
        Self {
            space,
            ..Self::none()
        }
    }

    /// The only space that will do, if it matters.
    pub(super) fn space(&self) -> Option<Space> {
        self.space
    }

    /// What of the request one host has to take.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// From now on one host has to take so much of the request.
    pub fn set_extent(&mut self, extent: Extent) {
        self.extent = extent;
    }

    /// From now on no other host will do.
    pub fn set_only(&mut self, host: HostId) {
        self.only = Some(host);
    }

    /// Will any host do?
    pub(super) fn is_none(&self) -> bool {
        let has_failed = !self.failures.is_empty() || !self.lacked.is_empty();
        let is_for_any = self.space.is_none() && self.only.is_none();
        !has_failed && is_for_any && self.extent == Extent::Batch
    }

    fn is_for(&self, host: HostId) -> bool {
        self.only.is_none_or(|only| only == host)
    }

    /// Nor those to avoid of `other`, which was a part of this request.
    pub fn add_all(&mut self, other: Self) {
        self.failures.extend(other.failures);
        self.lacked.extend(other.lacked);
    }

    /// The request failed on `host`, whose last sign of life was `proof`. `broke_request`: it had
    /// been sent.
    pub fn add(&mut self, host: HostId, broke_request: bool, proof: Proof) {
        self.failures
            .retain(|failure| failure.host != host || failure.broke_request);
        self.failures.push(Failure {
            host,
            broke_request,
            proof,
        });
    }

    /// `host` has said that it lacks the model, with `proof` as of its answer.
    pub fn add_lack(&mut self, host: HostId, proof: Proof) {
        self.lacked.retain(|lacked| lacked.host != host);
        self.lacked.push(Lacked {
            host,
            generation: proof.generation,
        });
    }

    /// Has `host` said that it lacks the model, and may it have no others since? `generation`: of its
    /// models.
    pub(super) fn lacked_on(&self, host: HostId, generation: u64) -> bool {
        let same = |lacked: &Lacked| lacked.host == host && lacked.generation == generation;
        self.lacked.iter().any(same)
    }

    /// Has it been on `host` in vain?
    pub fn has_failed_on(&self, host: HostId) -> bool {
        self.failures.iter().any(|failure| failure.host == host)
    }

    /// Did the request break on `host`, or is it for another one only?
    pub(super) fn is_closed(&self, host: HostId) -> bool {
        let mut failures = self.failures.iter();
        !self.is_for(host) || failures.any(|failure| failure.host == host && failure.broke_request)
    }

    /// May the request go to `host`, whose last sign of life is `proof`? `nowhere_else`: every other
    /// host has broken it too, or does not serve.
    pub(super) fn allows(&self, host: HostId, proof: Proof, nowhere_else: bool) -> bool {
        let mut failures = self.failures.iter().filter(|failure| failure.host == host);
        self.is_for(host)
            && failures.all(|failure| {
                proof.is_newer_than(failure.proof) && (nowhere_else || !failure.broke_request)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HostId = HostId(0);
    const B: HostId = HostId(1);

    fn alive(life: u64) -> Proof {
        Proof {
            life,
            ..Proof::default()
        }
    }

    #[test]
    fn avoid_rules() {
        let (old, new) = (alive(1), alive(2));
        let mut refused = Avoid::default();
        refused.add(A, false, old);
        let mut broken = Avoid::default();
        broken.add(A, true, old);
        let table = [
            (
                "refused, no sign of life since",
                &refused,
                A,
                old,
                false,
                false,
            ),
            ("refused, alive since", &refused, A, new, false, true),
            ("another host", &refused, B, old, false, true),
            ("broken, alive since", &broken, A, new, false, false),
            (
                "broken everywhere, alive since",
                &broken,
                A,
                new,
                true,
                true,
            ),
            (
                "broken everywhere, not alive since",
                &broken,
                A,
                old,
                true,
                false,
            ),
        ];
        for (what, avoid, host, proof, nowhere_else, expected) in table {
            assert_eq!(avoid.allows(host, proof, nowhere_else), expected, "{what}");
        }
    }

    #[test]
    fn what_is_for_one_host_goes_nowhere_else() {
        let mut avoid = Avoid::default();
        avoid.set_only(A);
        assert!(avoid.allows(A, alive(1), false) && !avoid.is_closed(A));
        assert!(!avoid.allows(B, alive(1), true) && avoid.is_closed(B));
        assert!(!avoid.is_none());
    }

    #[test]
    fn a_later_refusal_does_not_forgive_a_broken_request() {
        let mut avoid = Avoid::default();
        avoid.add(A, true, alive(1));
        avoid.add(A, false, alive(2));
        assert!(avoid.is_closed(A));
        assert!(!avoid.allows(A, alive(3), false));
    }
}
