//! Those that wait with the same question: how much time of hosts it saves that they will share attempts. Pure.
//!
//! An attempt takes along what makes it last about twice as long as the smallest does ([`super::company`]), and no
//! more items than it may. Where nobody waits with another question it takes more: then this is too little.

use std::collections::BTreeSet;

use super::demand::Work;
use super::estimate::Cost;
use super::queue::Ticket;
use super::sum::Sum;

/// How attempts are that those may share which wait with one question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharing {
    pub(super) cost: Cost,
    /// Items that one may be for.
    pub(super) most_items: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Alike {
    pub(super) tickets: BTreeSet<Ticket>,
    units: Sum,
    items: u64,
    /// As known when the last one came; `None`: they share none, or nobody knows what that saves.
    sharing: Option<Sharing>,
}

impl Alike {
    pub(super) fn add(&mut self, ticket: Ticket, work: Work, sharing: Option<Sharing>) {
        self.tickets.insert(ticket);
        self.units.add(work.units());
        self.items += u64::from(work.items);
        self.sharing = sharing;
    }

    pub(super) fn remove(&mut self, ticket: Ticket, work: Work) {
        if self.tickets.remove(&ticket) {
            self.units.remove(work.units());
            self.items = self.items.saturating_sub(u64::from(work.items));
        }
    }

    /// Seconds of an average host.
    pub(super) fn saved(&self) -> f64 {
        let Some(Sharing { cost, most_items }) = self.sharing else {
            return 0.0;
        };
        let requests = self.tickets.len() as f64;
        let units = self.units.total();
        // Where an item costs nothing, there is no bound but that of items.
        let doubled = cost.fixed / cost.each.max(f64::MIN_POSITIVE);
        let by_time = units / (doubled + units / requests.max(1.0));
        let by_items = self.items as f64 / f64::from(most_items.max(1));
        let attempts = by_time.max(by_items).max(1.0);
        cost.fixed * (requests - attempts).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred units.
    const ONE: Work = Work {
        items: 1,
        bytes: 68,
    };

    /// How many attempts are saved, if each text costs 10 ms.
    fn saved(requests: u64, fixed: f64, each: f64, most_items: u32) -> f64 {
        let cost = Cost { fixed, each };
        let mut alike = Alike::default();
        for number in 0..requests {
            let sharing = Sharing { cost, most_items };
            alike.add(Ticket(number), ONE, Some(sharing));
        }
        alike.saved() / fixed
    }

    #[test]
    fn as_many_attempts_are_saved_as_there_are_fewer() {
        let table = [
            ("alone", 1, 0.3, 0.0001, 100, 0.0),
            ("all in one", 20, 0.3, 0.0001, 100, 19.0),
            ("31 in each", 310, 0.3, 0.0001, 100, 300.0),
            (
                "20 in each, since there is a limit",
                310,
                0.3,
                0.0001,
                20,
                294.5,
            ),
            ("what costs nothing else", 300, 0.3, 0.0, 100, 297.0),
            (
                "hardly anything is fixed",
                300,
                0.0001,
                0.0001,
                100,
                300.0 / 101.0,
            ),
        ];
        for (what, requests, fixed, each, most_items, expected) in table {
            let found = saved(requests, fixed, each, most_items);
            assert!((found - expected).abs() < 0.01, "{what}: {found}");
        }
    }

    #[test]
    fn nothing_is_saved_by_those_that_are_gone_or_share_nothing() {
        let cost = Cost {
            fixed: 0.3,
            each: 0.0001,
        };
        let sharing = Some(Sharing {
            cost,
            most_items: 100,
        });
        let mut alike = Alike::default();
        alike.add(Ticket(1), ONE, sharing);
        alike.add(Ticket(2), ONE, sharing);
        assert!((alike.saved() - 0.3).abs() < 1e-9);
        alike.remove(Ticket(1), ONE);
        alike.remove(Ticket(1), ONE);
        assert!(alike.saved().abs() < 1e-9);
        alike.add(Ticket(3), ONE, None);
        assert!(alike.saved().abs() < 1e-9);
    }
}
