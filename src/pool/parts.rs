//! Into which parts a batch is cut for idle hosts, and how large each is. Pure.
//!
//! A host takes `(fixed + each × units) × slowness` seconds for a part. Parts that end together do so after
//!
//! ```text
//! seconds = (units × each + parts × fixed) ÷ Σ 1 / slowness
//! ```
//!
//! Hosts are added, the fastest first, as long as that makes it notably shorter. What is cut off last is
//! not given to a host in advance but to whoever is done first, in small parts: so a wrong estimate evens
//! out.

use std::ops::Range;
use std::time::Duration;

use super::HostId;
use super::estimate::{Cost, seconds};

/// Parts that run at once. More would gain little, and one slow host among them spoils it.
const MOST: usize = 16;
/// A further host must shorten the whole by this share: it has the fixed cost, too.
const NOTABLE: f64 = 0.05;
/// What is kept for whoever is done first …
const LATER: f64 = 0.25;
/// … where a further part for each host costs no more than this share of the time.
const CHEAP: f64 = 0.1;

/// How a batch is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The share of the work that each host begins with.
    first: Vec<(HostId, f64)>,
    /// The share that each of as many parts has that begin when one of those is done; may be none.
    later: f64,
    /// By how much sooner the whole should be done.
    pub saves: Duration,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins at once; `None`: later, and anywhere.
    pub host: Option<HostId>,
    /// Its items; never none.
    pub items: Range<usize>,
}

/// A host, and how many times as long as the average one it takes.
pub(super) type Candidate = (HostId, f64);

/// For `units` of work on at most so many hosts, of which `first` has the lease, and the `idle` may have some.
/// `None`: it would save less than `min_gain`.
pub(super) fn plan(
    units: f64,
    most: usize,
    cost: Cost,
    first: Candidate,
    mut idle: Vec<Candidate>,
    min_gain: Duration,
) -> Option<Plan> {
    idle.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let work = units * cost.each;
    let alone = (work + cost.fixed) * first.1;
    let (mut hosts, mut rate, mut whole) = (vec![first], 1.0 / first.1, alone);
    for candidate in idle.into_iter().take(MOST.min(most).saturating_sub(1)) {
        let faster = rate + 1.0 / candidate.1;
        let parts = hosts.len() as f64 + 1.0;
        let shorter = (work + parts * cost.fixed) / faster;
        if shorter > whole * (1.0 - NOTABLE) {
            break;
        }
        hosts.push(candidate);
        (rate, whole) = (faster, shorter);
    }
    let saves = seconds((alone - whole).max(0.0));
    let share = |slowness: f64| (whole / slowness - cost.fixed) / work;
    let is_worth_it = hosts.len() > 1 && saves >= min_gain && share(first.1) > 0.0;
    if !is_worth_it {
        return None;
    }
    let is_cheap = hosts
        .iter()
        .all(|host| cost.fixed * host.1 <= CHEAP * whole);
    let later = if is_cheap { LATER } else { 0.0 };
    let shares = hosts
        .iter()
        .map(|(host, slowness)| (*host, share(*slowness) * (1.0 - later)));
    Some(Plan {
        later: later / hosts.len() as f64,
        first: shares.collect(),
        saves,
    })
}

impl Plan {
    /// Cuts a batch whose items are of these sizes. The parts are in order of their items.
    pub fn parts(&self, sizes: &[usize]) -> Vec<Part> {
        let first = self.first.iter().map(|(host, share)| (Some(*host), *share));
        let later = std::iter::repeat_n((None, self.later), self.first.len());
        let total = sizes.iter().sum::<usize>() as f64;
        let (mut parts, mut start, mut share_so_far, mut done) = (Vec::new(), 0, 0.0, 0.0);
        for (host, share) in first.chain(later) {
            share_so_far += share;
            let mut end = start;
            // An item goes where its middle is; rounding must not leave the last one out.
            while let Some(size) = sizes.get(end)
                && (done + *size as f64 / 2.0 <= share_so_far * total || share_so_far > 1.0 - 1e-9)
            {
                done += *size as f64;
                end += 1;
            }
            if end > start {
                let items = start..end;
                parts.push(Part { host, items });
                start = end;
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GAIN: Duration = Duration::from_millis(20);

    fn candidates(slowness: &[f64]) -> Vec<Candidate> {
        let hosts = (0..).map(HostId::for_testing);
        hosts.zip(slowness.iter().copied()).collect()
    }

    /// For a hundred items of one unit each.
    fn planned(fixed: f64, each: f64, slowness: &[f64]) -> Option<Plan> {
        let mut all = candidates(slowness);
        let first = all.remove(0);
        plan(100.0, 100, Cost { fixed, each }, first, all, GAIN)
    }

    fn counts(plan: &Plan) -> Vec<usize> {
        let parts = plan.parts(&[1; 100]);
        parts.iter().map(|part| part.items.len()).collect()
    }

    #[test]
    fn hosts_get_what_they_do_in_the_same_time() {
        let table: [(f64, f64, &[f64], &[usize]); 6] = [
            // Four equals, and four smaller parts for whoever is done first.
            (0.0, 0.01, &[1.0; 4], &[19, 19, 18, 19, 6, 7, 6, 6]),
            // Further parts would cost too much.
            (0.05, 0.01, &[1.0; 4], &[25; 4]),
            (0.05, 0.01, &[1.0, 1.0, 2.0, 4.0], &[39, 38, 17, 6]),
            // The slowest is not worth its fixed cost.
            (0.2, 0.01, &[1.0, 1.0, 30.0], &[50, 50]),
            // The one with the lease is the slow one.
            (0.05, 0.01, &[4.0, 1.0], &[17, 83]),
            (0.05, 0.001, &[1.0; 2], &[50, 50]),
        ];
        for (fixed, each, slowness, expected) in table {
            let plan = planned(fixed, each, slowness).unwrap();
            let counts = counts(&plan);
            assert_eq!(counts.iter().sum::<usize>(), 100);
            let near = counts
                .iter()
                .zip(expected)
                .all(|(a, b)| a.abs_diff(*b) <= 1);
            assert!(
                near && counts.len() == expected.len(),
                "{counts:?} for {expected:?}"
            );
        }
    }

    #[test]
    fn what_gains_little_stays_whole() {
        for (fixed, each, slowness) in [
            (0.0, 0.0002, &[1.0; 4][..]),
            (1.0, 0.001, &[1.0; 4]),
            (0.05, 0.01, &[1.0]),
            (0.05, 0.01, &[1.0, 100.0]),
            (0.05, 0.0, &[1.0; 4]),
        ] {
            assert_eq!(
                planned(fixed, each, slowness),
                None,
                "{fixed} {each} {slowness:?}"
            );
        }
    }

    #[test]
    fn few_of_many_hosts_are_enough() {
        let plan = planned(0.01, 0.01, &[1.0; 1000]).unwrap();
        assert!((8..=MOST).contains(&plan.first.len()), "{plan:?}");
    }

    proptest! {
        #[test]
        fn every_item_is_in_one_part_and_it_is_sooner(
            fixed in 0.0..0.5,
            each in 0.0..0.05,
            slowness in prop::collection::vec(0.05..20.0, 1..9),
            sizes in prop::collection::vec(1..10_000usize, 2..120),
        ) {
            let mut all = candidates(&slowness);
            let first = all.remove(0);
            let units = sizes.iter().sum::<usize>() as f64 / 100.0;
            let cost = Cost { fixed, each };
            let Some(plan) = plan(units, sizes.len(), cost, first, all, GAIN) else {
                return Ok(());
            };
            let parts = plan.parts(&sizes);
            let mut next = 0;
            for part in &parts {
                prop_assert_eq!(part.items.start, next);
                prop_assert!(!part.items.is_empty());
                next = part.items.end;
            }
            prop_assert_eq!(next, sizes.len());
            let shares: f64 = plan.first.iter().map(|(_, share)| *share).sum();
            prop_assert!((shares + plan.later * plan.first.len() as f64 - 1.0).abs() < 1e-6);
            let alone = (fixed + each * units) * first.1;
            prop_assert!(plan.saves >= GAIN && plan.saves.as_secs_f64() < alone);
        }
    }
}
