//! Which of several hosts that could take a request gets it.
//!
//! A policy sees loads, not hosts: it has no state of its own and never decides whether a host *may*
//! be used.

use std::cmp::Ordering;
use std::num::NonZeroU32;

use crate::config::Policy;

/// What a policy may know of a host that has a free slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Leases that are out.
    pub in_flight: u32,
    /// Leases that may be out at once.
    pub slots: NonZeroU32,
    /// When the host last got a lease, as a running number; 0 = never.
    pub last_granted: u64,
}

impl Policy {
    /// The position in `loads` of the host to use; `None` if there is none.
    pub(super) fn pick(self, loads: impl Iterator<Item = Load>) -> Option<usize> {
        loads
            .enumerate()
            .min_by(|(_, a), (_, b)| self.compare(a, b))
            .map(|(position, _)| position)
    }

    fn compare(self, a: &Load, b: &Load) -> Ordering {
        let rotation = a.last_granted.cmp(&b.last_granted);
        match self {
            Self::RoundRobin => rotation,
            Self::LeastBusy | Self::PowerOfTwo | Self::LeastVram => share(a, b)
                .then(a.in_flight.cmp(&b.in_flight))
                .then(rotation),
        }
    }
}

/// Compares `in_flight / slots` without dividing.
fn share(a: &Load, b: &Load) -> Ordering {
    let left = u64::from(a.in_flight) * u64::from(b.slots.get());
    let right = u64::from(b.in_flight) * u64::from(a.slots.get());
    left.cmp(&right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(in_flight: u32, slots: u32, last_granted: u64) -> Load {
        Load {
            in_flight,
            slots: NonZeroU32::new(slots).unwrap(),
            last_granted,
        }
    }

    #[test]
    fn picks() {
        use Policy::{LeastBusy, RoundRobin};
        let table = [
            ("nobody", LeastBusy, vec![], None),
            (
                "lowest share of its slots",
                LeastBusy,
                vec![load(1, 2, 0), load(1, 4, 9)],
                Some(1),
            ),
            (
                "equal share: fewer in flight",
                LeastBusy,
                vec![load(2, 4, 0), load(1, 2, 9)],
                Some(1),
            ),
            (
                "equal load: the one that rested longest",
                LeastBusy,
                vec![load(0, 2, 7), load(0, 2, 3)],
                Some(1),
            ),
            (
                "rotation alone",
                RoundRobin,
                vec![load(0, 8, 5), load(7, 8, 4)],
                Some(1),
            ),
            (
                "a host that never served",
                RoundRobin,
                vec![load(0, 8, 5), load(0, 8, 0)],
                Some(1),
            ),
        ];
        for (what, policy, loads, expected) in table {
            assert_eq!(policy.pick(loads.into_iter()), expected, "{what}");
        }
    }
}
