//! Requests that wait for a lease, first in first out.
//!
//! A request keeps its place in line ([`Ticket`]) through all its attempts: one that was turned away
//! by a busy host is served before those that came after it. A request never waits behind another
//! that cannot use the free slot (because it already failed on that host).

use std::collections::BTreeMap;

use super::avoid::Avoid;

/// A place in line. Smaller is earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

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
    use crate::pool::{HostId, Proof};

    const A: HostId = HostId(0);

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
