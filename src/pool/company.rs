//! Whom of those that wait with the same question a request takes along to its host. Pure.
//!
//! A host takes `(fixed + each × units) × slowness` seconds for an attempt, whose items these are does not
//! matter. One attempt for several requests saves `fixed` for each but the first. It costs time, too: each
//! request that comes along makes all others wait longer, those in the attempt and those in line behind it.
//!
//! Nobody is overtaken without right. A slot still goes to whoever is next, and who comes along is charged to
//! its client like everybody. But one with another question that stands before a companion waits longer for
//! it. That is bounded: all companions together make an attempt longer by no more than `fixed`, so by no
//! more than their next attempt would have cost for nothing, and no slot is held for twice as long as
//! without them. There are as many attempts fewer in the line for it. Only where nobody waits with another
//! question may it be more: up to one host's share of what waits, so that the other hosts get theirs.

use super::demand::Work;
use super::estimate::Cost;

/// Who comes along must save this share of what its own part costs; else it only makes others wait.
const WORTH: f64 = 0.1;
/// Of the time for which a client still wants its answer, an attempt may be expected to take this share: the
/// estimate may be wrong.
const SURE: f64 = 0.5;

/// How much one attempt may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Items in all.
    pub(super) items: u32,
    /// Bytes in all.
    pub(super) bytes: u64,
    /// The share of all that waits with the same question that its host would get; in units.
    pub(super) share: f64,
    /// Somebody waits with another question.
    pub(super) others_wait: bool,
}

/// One attempt, as it fills up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Company {
    cost: Cost,
    slowness: f64,
    /// In units.
    work: f64,
    /// Units that may still be added.
    left: f64,
    items: u32,
    bytes: u64,
    /// Seconds for which everybody in it still wants an answer.
    patience: f64,
}

impl Company {
    /// So far there is only the `first`, which wants its answer within `patience` seconds.
    pub(super) fn of(first: Work, patience: f64, cost: Cost, slowness: f64, room: Room) -> Self {
        // Where an item costs nothing, there is no bound but the others.
        let doubled = cost.fixed / cost.each.max(f64::MIN_POSITIVE);
        let work = first.units();
        let left = if room.others_wait {
            doubled
        } else {
            doubled.max(room.share - work)
        };
        Self {
            cost,
            slowness,
            work,
            left,
            items: room.items.saturating_sub(first.items),
            bytes: room.bytes.saturating_sub(first.bytes),
            patience,
        }
    }

    /// Takes one along, if that is right.
    pub(super) fn admits(&mut self, work: Work, patience: f64) -> bool {
        let units = work.units();
        let is_worth_it = self.cost.fixed >= WORTH * self.cost.each * units;
        let fits = work.items <= self.items && work.bytes <= self.bytes && units <= self.left;
        let patience = patience.min(self.patience);
        let takes = (self.cost.fixed + self.cost.each * (self.work + units)) * self.slowness;
        if !is_worth_it || !fits || takes > patience * SURE {
            return false;
        }
        self.work += units;
        self.left -= units;
        self.items -= work.items;
        self.bytes -= work.bytes;
        self.patience = patience;
        true
    }

    /// Can nobody come along any more?
    pub(super) fn is_full(&self) -> bool {
        self.items == 0 || self.left < 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One text of 68 characters: a hundred units.
    const ONE: Work = Work {
        items: 1,
        bytes: 68,
    };
    const ROOM: Room = Room {
        items: 100,
        bytes: 1 << 20,
        share: 0.0,
        others_wait: false,
    };

    /// How many of these the first takes along, if each text costs a hundredth of a second.
    fn companions(fixed: f64, waiting: &[Work], room: Room) -> usize {
        let cost = Cost {
            fixed,
            each: 0.0001,
        };
        let mut company = Company::of(ONE, f64::INFINITY, cost, 1.0, room);
        let waiting = waiting.iter();
        waiting
            .filter(|work| company.admits(**work, f64::INFINITY))
            .count()
    }

    fn times(work: Work, times: u32) -> Work {
        Work {
            items: work.items * times,
            bytes: work.bytes * u64::from(times),
        }
    }

    #[test]
    fn an_attempt_takes_as_many_as_pay_off() {
        let share = |requests: f64| Room {
            share: requests * 100.0,
            ..ROOM
        };
        let others = |room| Room {
            others_wait: true,
            ..room
        };
        let items = |items| Room { items, ..ROOM };
        let bytes = |bytes| Room { bytes, ..ROOM };
        let batch = times(ONE, 11);
        let table: [(&str, f64, Vec<Work>, Room, usize); 9] = [
            (
                "until it takes twice as long",
                0.301,
                vec![ONE; 99],
                ROOM,
                30,
            ),
            ("its host's share", 0.3, vec![ONE; 99], share(60.0), 59),
            (
                "not if others wait",
                0.301,
                vec![ONE; 99],
                others(share(60.0)),
                30,
            ),
            ("no more items", 0.3, vec![ONE; 99], items(20), 19),
            ("no more bytes", 0.3, vec![ONE; 99], bytes(68 * 11), 10),
            ("nothing to be saved", 0.0, vec![ONE; 99], share(60.0), 0),
            (
                "too little to be saved",
                0.0009,
                vec![ONE; 99],
                share(60.0),
                0,
            ),
            (
                "a batch costs more than it saves",
                0.01,
                vec![batch; 9],
                share(60.0),
                0,
            ),
            (
                "smaller ones after it",
                0.01,
                vec![batch, ONE, ONE],
                share(60.0),
                2,
            ),
        ];
        for (what, fixed, waiting, room, expected) in table {
            assert_eq!(companions(fixed, &waiting, room), expected, "{what}");
        }
    }

    #[test]
    fn nobody_misses_a_deadline_for_company() {
        let cost = Cost {
            fixed: 0.3,
            each: 0.0001,
        };
        let of = |patience| Company::of(ONE, patience, cost, 2.0, ROOM);
        let forever = f64::INFINITY;
        assert!(!of(1.2).admits(ONE, forever), "the first one's");
        assert!(!of(forever).admits(ONE, 1.2), "its own");
        assert!(of(1.3).admits(ONE, forever));
        let mut company = of(forever);
        assert!(company.admits(ONE, 1.3));
        assert!(!company.admits(ONE, forever), "another companion's");
    }

    #[test]
    fn where_an_item_costs_nothing_all_may_come() {
        let cost = Cost {
            fixed: 0.3,
            each: 0.0,
        };
        let mut company = Company::of(ONE, f64::INFINITY, cost, 1.0, ROOM);
        let admitted = (0..200).filter(|_| company.admits(ONE, f64::INFINITY));
        assert_eq!(admitted.count(), 99);
        assert!(company.is_full());
    }
}
