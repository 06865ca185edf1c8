//! Requests that wait for a lease, first in first out.
//!
//! A request keeps its place in line ([`Ticket`]) through all its attempts: one that was turned away
//! by a busy host is served before those that came after it. A request never waits behind another
//! that cannot use the free slot (because it already failed on that host).

use std::collections::BTreeMap;

use super::HostId;

/// A place in line. Smaller is earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// Counts the signs of life of a host: good checks and good answers. A larger number is newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proof(pub(super) u64);

/// The hosts on which a request has failed, and hence should not be tried again.
///
/// - After a failure to connect, the host may be tried again once it has shown a sign of life.
/// - After it broke the request, it may be tried again only if every host of the pool did so (a pool
///   of one host that restarts), and only after a sign of life.
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

    /// Hosts that broke the request.
    pub(super) fn broken_on(&self, host: HostId) -> bool {
        self.0
            .iter()
            .any(|failure| failure.host == host && failure.broke_request)
    }

    /// May the request go to `host`, whose last sign of life is `proof`? `nowhere_else`: every host
    /// of the pool has broken it.
    pub(super) fn allows(&self, host: HostId, proof: Proof, nowhere_else: bool) -> bool {
        self.0
            .iter()
            .filter(|failure| failure.host == host)
            .all(|failure| proof > failure.proof && (nowhere_else || !failure.broke_request))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The waiting line.
#[derive(Debug, Default)]
pub(super) struct Queue {
    next: u64,
    waiting: BTreeMap<Ticket, Avoid>,
}

impl Queue {
    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }

    pub(super) fn join(&mut self, ticket: Ticket, avoid: Avoid) {
        self.waiting.insert(ticket, avoid);
    }

    /// Returns whether the ticket was waiting.
    pub(super) fn leave(&mut self, ticket: Ticket) -> bool {
        self.waiting.remove(&ticket).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes out the first request for which `place` finds a host. `place` must answer alike for all
    /// requests without failures, so that only the first of those is asked.
    pub(super) fn take_first<T>(
        &mut self,
        mut place: impl FnMut(&Avoid) -> Option<T>,
    ) -> Option<(Ticket, T)> {
        let mut unrestricted_failed = false;
        let (ticket, found) = self.waiting.iter().find_map(|(ticket, avoid)| {
            if avoid.is_empty() && unrestricted_failed {
                return None;
            }
            unrestricted_failed |= avoid.is_empty();
            place(avoid).map(|found| (*ticket, found))
        })?;
        self.waiting.remove(&ticket);
        Some((ticket, found))
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

    #[test]
    fn takes_the_first_that_fits_and_skips_those_that_do_not() {
        let mut queue = Queue::default();
        let (first, second, third) = (
            queue.next_ticket(),
            queue.next_ticket(),
            queue.next_ticket(),
        );
        let mut avoid_a = Avoid::default();
        avoid_a.add(A, true, Proof(0));
        queue.join(third, Avoid::default());
        queue.join(second, Avoid::default());
        queue.join(first, avoid_a);
        let only_a = |avoid: &Avoid| avoid.allows(A, Proof(1), false).then_some(A);
        assert_eq!(queue.take_first(only_a), Some((second, A)));
        assert_eq!(queue.take_first(only_a), Some((third, A)));
        assert_eq!(queue.take_first(only_a), None);
        assert!(queue.leave(first));
        assert!(!queue.leave(first));
        assert!(queue.is_empty());
    }

    #[test]
    fn asks_only_one_of_the_requests_without_failures() {
        let mut queue = Queue::default();
        for _ in 0..1000 {
            let ticket = queue.next_ticket();
            queue.join(ticket, Avoid::default());
        }
        let mut asked = 0;
        let none: Option<(Ticket, ())> = queue.take_first(|_| {
            asked += 1;
            None
        });
        assert_eq!((none, asked, queue.len()), (None, 1, 1000));
    }
}
