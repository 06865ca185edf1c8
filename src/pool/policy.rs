//! Which of the hosts that could take a request gets it.
//!
//! A policy sees loads, not hosts: it has no state of its own and never decides whether a host *may*
//! be used.
//!
//! | policy | who |
//! | --- | --- |
//! | `least-busy` | least expected time to do what is outstanding and the request: seconds of work × slowness ÷ slots ÷ weight |
//! | `round-robin` | whose turn it is; turns are as frequent as weights say (stride scheduling, Waldspurger 1995) |
//! | `least-vram` | smallest share of memory in use, as the plugin's own choice |

use std::cmp::Ordering;
use std::num::NonZeroU32;

use crate::config::Policy;

/// What a policy may know of a host that has a free slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    /// Leases that are out.
    pub in_flight: u32,
    /// Leases that may be out at once.
    pub slots: NonZeroU32,
    /// What is outstanding plus the request, in seconds of an average host.
    pub seconds: f64,
    /// How many times as long as the average host it takes.
    pub slowness: f64,
    /// Its share of the work compared with others.
    pub weight: NonZeroU32,
    /// Share of its memory that is in use.
    pub memory_used: f64,
    /// Where it is in rotation.
    pub turn: f64,
    /// When the host last got a lease, as a running number; 0 = never.
    pub last_granted: u64,
}

impl Load {
    /// Expected seconds per slot until all that is outstanding, with the request, is done.
    fn expected(&self) -> f64 {
        let share = f64::from(self.slots.get()) * f64::from(self.weight.get());
        self.seconds * self.slowness / share
    }
}

impl Policy {
    /// The position in `loads` of the host to use; `None` if there is none.
    pub(super) fn pick(self, loads: &[Load]) -> Option<usize> {
        let compare = match self {
            Self::LeastBusy => busy,
            Self::RoundRobin => turn,
            Self::LeastVram => memory,
        };
        let best = loads.iter().enumerate();
        best.min_by(|(_, a), (_, b)| compare(a, b))
            .map(|(position, _)| position)
    }
}

fn busy(a: &Load, b: &Load) -> Ordering {
    a.expected()
        .total_cmp(&b.expected())
        .then(a.in_flight.cmp(&b.in_flight))
        .then(a.last_granted.cmp(&b.last_granted))
}

fn turn(a: &Load, b: &Load) -> Ordering {
    a.turn
        .total_cmp(&b.turn)
        .then(a.last_granted.cmp(&b.last_granted))
}

fn memory(a: &Load, b: &Load) -> Ordering {
    a.memory_used.total_cmp(&b.memory_used).then(busy(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that has `in_flight` requests of a second each, and is asked for another.
    fn load(in_flight: u32, slots: u32) -> Load {
        Load {
            in_flight,
            slots: NonZeroU32::new(slots).unwrap(),
            seconds: f64::from(in_flight + 1),
            slowness: 1.0,
            weight: NonZeroU32::MIN,
            memory_used: 0.5,
            turn: 0.0,
            last_granted: 0,
        }
    }

    #[test]
    fn picks() {
        use Policy::{LeastBusy, LeastVram, RoundRobin};
        let slow = Load {
            slowness: 4.0,
            ..load(0, 2)
        };
        let heavy = Load {
            weight: NonZeroU32::new(3).unwrap(),
            ..load(1, 2)
        };
        let turn = |turn, last_granted| Load {
            turn,
            last_granted,
            ..load(0, 2)
        };
        let memory = |memory_used, in_flight| Load {
            memory_used,
            ..load(in_flight, 2)
        };
        let table = [
            ("nobody", LeastBusy, vec![], None),
            (
                "least for each slot",
                LeastBusy,
                vec![load(1, 2), load(1, 4)],
                Some(1),
            ),
            (
                "an idle slow card",
                LeastBusy,
                vec![slow, load(1, 2)],
                Some(1),
            ),
            (
                "a slow card in the end",
                LeastBusy,
                vec![slow, load(5, 2)],
                Some(0),
            ),
            ("a heavier one", LeastBusy, vec![load(0, 2), heavy], Some(1)),
            (
                "the rested one",
                LeastBusy,
                vec![turn(0.0, 7), turn(0.0, 3)],
                Some(1),
            ),
            (
                "whose turn it is",
                RoundRobin,
                vec![turn(2.0, 1), turn(1.5, 9)],
                Some(1),
            ),
            (
                "one that never served",
                RoundRobin,
                vec![turn(0.0, 5), turn(0.0, 0)],
                Some(1),
            ),
            (
                "most free memory",
                LeastVram,
                vec![memory(0.9, 0), memory(0.2, 1)],
                Some(1),
            ),
            (
                "equal memory",
                LeastVram,
                vec![memory(0.2, 1), memory(0.2, 0)],
                Some(1),
            ),
        ];
        for (what, policy, loads, expected) in table {
            assert_eq!(policy.pick(&loads), expected, "{what}");
        }
    }
}
