//! Into which parts a batch is cut, and how large each is. Pure.
//!
//! It is cut for hosts that idle, where that is sooner, or since it has more items than a host takes.
//!
//! A host takes `(fixed + each × units) × slowness` seconds for a part. Parts that end together do so after
//!
//! ```text
//! seconds = (units × each + parts × fixed) ÷ Σ 1 / slowness
//! ```
//!
//! Hosts are added, the fastest first, as long as that makes it notably shorter. What is cut off last is
//! not given to a host in advance but to whoever is done first, in small parts: so a wrong estimate evens
//! out. So is what exceeds the limits of the hosts that begin.

use std::ops::{Range, RangeInclusive};
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

/// What whoever asks for a cut is after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Parts on hosts that idle; otherwise one after the other, and only if it has to be.
    pub spread: bool,
    /// A batch that a host takes is cut only if it is done so much sooner.
    pub min_gain: Duration,
}

/// A batch that may be cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    /// Units of work.
    pub(super) units: f64,
    /// So many hosts may have a part of it at once.
    pub(super) hosts: usize,
    pub(super) cost: Cost,
    /// By how much sooner it has to be done; `None`: it has to be cut in any case.
    pub(super) min_gain: Option<Duration>,
}

/// A host that may have parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) host: HostId,
    /// How many times as long as the average one it takes.
    pub(super) slowness: f64,
    /// Items that it takes at once; at least one.
    pub(super) most: usize,
}

/// How a batch is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What each host begins with.
    first: Vec<Share>,
    /// As many parts, or more, begin when one of those is done.
    later: usize,
    /// Items that each of the latter may have.
    most: usize,
    /// By how much sooner the whole should be done.
    pub saves: Duration,
}

/// A host's share of the work, and the most items that this may be.
#[derive(Clone, Debug, PartialEq)]
struct Share {
    host: HostId,
    of_work: f64,
    most: usize,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins at once; `None`: later, and anywhere.
    pub host: Option<HostId>,
    /// Its items; never none.
    pub items: Range<usize>,
}

/// For the host that has the lease, and those that `idle`, which may have some. `None`: it is not worth it.
pub(super) fn plan(batch: Batch, first: Candidate, idle: Vec<Candidate>) -> Option<Plan> {
    let cost = batch.cost;
    let work = batch.units * cost.each;
    let alone = (work + cost.fixed) * first.slowness;
    let (hosts, whole) = worthwhile(batch, first, idle);
    let saves = seconds((alone - whole).max(0.0));
    let share = |slowness: f64| (whole / slowness - cost.fixed) / work;
    let gains = batch.min_gain.is_none_or(|gain| saves >= gain);
    if hosts.len() < 2 || !gains || share(first.slowness) <= 0.0 {
        return batch.min_gain.is_none().then(|| Plan::of_one(first));
    }
    let is_cheap = hosts
        .iter()
        .all(|host| cost.fixed * host.slowness <= CHEAP * whole);
    let kept = if is_cheap { LATER } else { 0.0 };
    let shares = hosts.iter().map(|it| Share {
        host: it.host,
        of_work: share(it.slowness) * (1.0 - kept),
        most: it.most,
    });
    Some(Plan {
        later: if is_cheap { hosts.len() } else { 0 },
        first: shares.collect(),
        most: first.most,
        saves,
    })
}

/// Those of the hosts that make it notably shorter, and how long it takes then, in seconds.
fn worthwhile(batch: Batch, first: Candidate, mut idle: Vec<Candidate>) -> (Vec<Candidate>, f64) {
    let cost = batch.cost;
    let work = batch.units * cost.each;
    idle.sort_by(|a, b| {
        let by_speed = a.slowness.total_cmp(&b.slowness);
        by_speed.then(a.host.cmp(&b.host))
    });
    let mut whole = (work + cost.fixed) * first.slowness;
    let (mut hosts, mut rate) = (vec![first], 1.0 / first.slowness);
    for candidate in idle
        .into_iter()
        .take(MOST.min(batch.hosts).saturating_sub(1))
    {
        let faster = rate + 1.0 / candidate.slowness;
        let parts = hosts.len() as f64 + 1.0;
        let shorter = (work + parts * cost.fixed) / faster;
        if shorter > whole * (1.0 - NOTABLE) {
            break;
        }
        hosts.push(candidate);
        (rate, whole) = (faster, shorter);
    }
    (hosts, whole)
}

impl Plan {
    /// As much as the host takes at once, and then the rest.
    fn of_one(first: Candidate) -> Self {
        let Candidate { host, most, .. } = first;
        let all = Share {
            host,
            of_work: 1.0,
            most,
        };
        Self {
            first: vec![all],
            later: 0,
            most,
            saves: Duration::ZERO,
        }
    }

    /// Cuts a batch whose items are of these sizes. The parts are in order of their items, and the first is for the
    /// host that has the lease.
    pub fn parts(&self, sizes: &[usize]) -> Vec<Part> {
        let total = sizes.iter().sum::<usize>() as f64;
        let mut cutter = Cutter::new(sizes);
        let (mut due, mut leaves_some) = (0.0, self.later > 0);
        for (at, share) in self.first.iter().enumerate() {
            due += share.of_work * total;
            // Rounding must not leave the last one out.
            let is_last = !leaves_some && at + 1 == self.first.len();
            let until = if is_last { f64::INFINITY } else { due };
            let least = usize::from(at == 0);
            if cutter.cut(Some(share.host), until, least..=share.most) == share.most {
                (due, leaves_some) = (cutter.done, true);
            }
        }
        let mut wanted = self.later;
        while !cutter.rest.is_empty() {
            let parts = wanted.max(cutter.rest.len().div_ceil(self.most));
            let until = match parts {
                0 | 1 => f64::INFINITY,
                _ => cutter.done + (total - cutter.done) / parts as f64,
            };
            cutter.cut(None, until, 1..=self.most);
            wanted = wanted.saturating_sub(1);
        }
        cutter.parts
    }
}

/// Cuts part after part off a batch.
struct Cutter<'a> {
    /// Sizes of the items that are left …
    rest: &'a [usize],
    /// … and of all others together.
    done: f64,
    parts: Vec<Part>,
}

impl<'a> Cutter<'a> {
    fn new(sizes: &'a [usize]) -> Self {
        Self {
            rest: sizes,
            done: 0.0,
            parts: Vec::new(),
        }
    }

    /// Cuts off what is due `until` so much is done; an item belongs where its middle is. Returns how many items that
    /// is.
    fn cut(&mut self, host: Option<HostId>, until: f64, items: RangeInclusive<usize>) -> usize {
        let start = self.parts.last().map_or(0, |part| part.items.end);
        let mut taken = 0;
        while let Some((size, rest)) = self.rest.split_first()
            && taken < *items.end()
            && (taken < *items.start() || self.done + *size as f64 / 2.0 <= until)
        {
            self.done += *size as f64;
            self.rest = rest;
            taken += 1;
        }
        if taken > 0 {
            let items = start..start + taken;
            self.parts.push(Part { host, items });
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GAIN: Duration = Duration::from_millis(20);

    /// Hosts that take so many items.
    fn candidates(slowness: &[f64], most: usize) -> Vec<Candidate> {
        let hosts = (0..).map(HostId::for_testing);
        let hosts = hosts.zip(slowness);
        hosts
            .map(|(host, slowness)| Candidate {
                host,
                slowness: *slowness,
                most,
            })
            .collect()
    }

    /// For a hundred items of one unit each.
    fn planned(fixed: f64, each: f64, slowness: &[f64]) -> Option<Plan> {
        let mut all = candidates(slowness, usize::MAX);
        let first = all.remove(0);
        let batch = Batch {
            units: 100.0,
            hosts: 100,
            cost: Cost { fixed, each },
            min_gain: Some(GAIN),
        };
        plan(batch, first, all)
    }

    /// The same where it has to be cut, since hosts take this many.
    fn bound(fixed: f64, slowness: &[f64], most: &[usize]) -> Vec<(Option<u64>, usize)> {
        let mut all = candidates(slowness, 0);
        for (candidate, most) in all.iter_mut().zip(most) {
            candidate.most = *most;
        }
        let first = all.remove(0);
        let batch = Batch {
            units: 100.0,
            hosts: 100,
            cost: Cost { fixed, each: 0.01 },
            min_gain: None,
        };
        let parts = plan(batch, first, all).unwrap().parts(&[1; 100]);
        let number = |host| (0..9).find(|number| HostId::for_testing(*number) == host);
        let parts = parts.into_iter();
        parts
            .map(|part| (part.host.and_then(number), part.items.len()))
            .collect()
    }

    #[test]
    fn no_host_gets_more_items_than_it_takes() {
        type Parts<'a> = &'a [(Option<u64>, usize)];

        let (a, b) = (Some(0), Some(1));
        let table: [(f64, &[f64], &[usize], Parts<'_>); 6] = [
            // One after the other, all of about the same size.
            (
                0.1,
                &[1.0],
                &[32],
                &[(a, 32), (None, 23), (None, 23), (None, 22)],
            ),
            (0.1, &[1.0], &[99], &[(a, 99), (None, 1)]),
            // Both at once.
            (
                0.1,
                &[1.0; 2],
                &[32; 2],
                &[(a, 32), (b, 32), (None, 18), (None, 18)],
            ),
            (0.1, &[1.0; 2], &[60, 60], &[(a, 50), (b, 50)]),
            // What one does not take the other may.
            (
                0.1,
                &[1.0; 2],
                &[20, 80],
                &[(a, 20), (b, 50), (None, 15), (None, 15)],
            ),
            // It has to be cut, though another host makes it no shorter.
            (20.0, &[1.0; 2], &[50; 2], &[(a, 50), (None, 50)]),
        ];
        for (fixed, slowness, most, expected) in table {
            assert_eq!(bound(fixed, slowness, most), expected, "{most:?}");
        }
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
            most in prop::option::of(1..50usize),
        ) {
            let mut all = candidates(&slowness, most.unwrap_or(usize::MAX));
            let first = all.remove(0);
            let units = sizes.iter().sum::<usize>() as f64 / 100.0;
            let batch = Batch {
                units,
                hosts: sizes.len(),
                cost: Cost { fixed, each },
                min_gain: most.is_none().then_some(GAIN),
            };
            let Some(plan) = plan(batch, first, all) else {
                prop_assert!(most.is_none());
                return Ok(());
            };
            let parts = plan.parts(&sizes);
            let longest = parts.iter().map(|part| part.items.len()).max();
            prop_assert!(most.is_none_or(|most| longest <= Some(most)));
            prop_assert_eq!(parts[0].host, Some(first.host));
            let mut next = 0;
            for part in &parts {
                prop_assert_eq!(part.items.start, next);
                prop_assert!(!part.items.is_empty());
                next = part.items.end;
            }
            prop_assert_eq!(next, sizes.len());
            let shares: f64 = plan.first.iter().map(|it| it.of_work).sum();
            let kept = if plan.later > 0 { LATER } else { 0.0 };
            prop_assert!((shares + kept - 1.0).abs() < 1e-6);
            let alone = (fixed + each * units) * first.slowness;
            prop_assert!(plan.saves.is_zero() || plan.saves.as_secs_f64() < alone);
            prop_assert!(most.is_some() || plan.saves >= GAIN);
        }
    }
}
