//! Which hosts a request should not be tried on again.
//!
//! - After a failure to connect, the host may be tried again once it has shown a sign of life.
//! - After it broke the request, it may be tried again only if there is nowhere else to go (a pool of
//!   one host that restarts), and only after a sign of life.

use super::HostId;

/// Counts the signs of life of a host: good checks and good answers. A larger number is newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proof(pub(super) u64);

/// The hosts on which a request has failed; see the module.
#[derive(Clone, Debug, Default)]
pub struct Avoid(Vec<Failure>);

#[derive(Clone, Copy, Debug)]
struct Failure {
    host: HostId,
    broke_request: bool,
    proof: Proof,
}

impl Avoid {
    /// The request failed on `host`, whose last sign of life was `proof`. `broke_request`: it had
    /// been sent.
    pub fn add(&mut self, host: HostId, broke_request: bool, proof: Proof) {
        self.0
            .retain(|failure| failure.host != host || failure.broke_request);
        self.0.push(Failure {
            host,
            broke_request,
            proof,
        });
    }

    /// Did the request break on `host`?
    pub(super) fn broken_on(&self, host: HostId) -> bool {
        self.0
            .iter()
            .any(|failure| failure.host == host && failure.broke_request)
    }

    /// May the request go to `host`, whose last sign of life is `proof`? `nowhere_else`: every other
    /// host has broken it too, or does not serve.
    pub(super) fn allows(&self, host: HostId, proof: Proof, nowhere_else: bool) -> bool {
        self.0
            .iter()
            .filter(|failure| failure.host == host)
            .all(|failure| proof > failure.proof && (nowhere_else || !failure.broke_request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HostId = HostId(0);
    const B: HostId = HostId(1);

    #[test]
    fn avoid_rules() {
        let (old, new) = (Proof(1), Proof(2));
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
    fn a_later_refusal_does_not_forgive_a_broken_request() {
        let mut avoid = Avoid::default();
        avoid.add(A, true, Proof(1));
        avoid.add(A, false, Proof(2));
        assert!(avoid.broken_on(A));
        assert!(!avoid.allows(A, Proof(3), false));
    }
}
