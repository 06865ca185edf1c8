//! What happens when: drawn from a seed, without I/O, so that the same seed gives the same run.
//!
//! At every moment at least one host is well, and has been for a while: so no request may fail.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// A host counts as well only so long after whatever was wrong with it: a check that it left unanswered takes two
/// seconds to fail, and the next good one comes a while later.
pub(super) const RECOVERY: Duration = Duration::from_secs(3);
/// Nothing begins before the load runs, and all is over so long before the end.
const MARGIN: Duration = Duration::from_secs(1);
const LASTS: Range<Duration> = Duration::from_millis(50)..Duration::from_millis(3500);

/// What is wrong with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its process is gone.
    Down,
    /// It takes everything and answers nothing, and what it computes is never sent.
    Frozen,
    /// The same, but its checks are answered.
    FrozenForWork,
    Errors,
    /// It dies in the middle of each answer, with a reset.
    Cut,
    /// The same in chunks, with an orderly end.
    CutChunks,
    /// Its answers come so slowly that no attempt lasts as long.
    Drip,
    /// It answers what is no HTTP.
    Garbage,
    /// It refuses the proxy's key.
    WrongKey,
    /// Others use all of its slots.
    Foreign,
    /// It refuses before it has read the request, and reads no more.
    Early,
    /// It stops sending, but keeps its connections.
    HalfClosed,
    Busy,
    NotReady,
    Slow,
    /// It hangs up after each answer, without having said so.
    HangsUp,
    /// It hangs up when a second request comes on a connection.
    OncePerConnection,
    /// Bytes follow each answer that nobody asked for.
    Afterthought,
    /// One slot is left to it.
    FewerSlots,
    /// An operator drains it.
    Drained,
    /// It is not in the configuration.
    Removed,
    /// It and the configuration get another key.
    Rekeyed,
}

impl Fault {
    const ALL: [Self; 22] = [
        Self::Down,
        Self::Frozen,
        Self::FrozenForWork,
        Self::Errors,
        Self::Cut,
        Self::CutChunks,
        Self::Drip,
        Self::Garbage,
        Self::WrongKey,
        Self::Foreign,
        Self::Early,
        Self::HalfClosed,
        Self::Busy,
        Self::NotReady,
        Self::Slow,
        Self::HangsUp,
        Self::OncePerConnection,
        Self::Afterthought,
        Self::FewerSlots,
        Self::Drained,
        Self::Removed,
        Self::Rekeyed,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// To the host of this number.
    Host(usize, Fault),
    /// Clients hang up before their answers.
    Leaving,
    /// The configuration has a mistake.
    BadConfig,
    /// A new process takes over; lasts no time of its own.
    Upgrade,
}

/// One event, from when and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its place in the whole schedule of its seed.
    pub(super) number: usize,
    pub(super) at: Duration,
    pub(super) lasts: Duration,
    pub(super) event: Event,
}

impl Entry {
    pub(super) fn ends(&self) -> Duration {
        self.at + self.lasts
    }

    fn ails(&self) -> Option<usize> {
        match self.event {
            Event::Host(host, _) => Some(host),
            _ => None,
        }
    }

    /// Is there a moment at which both go on, recovery included?
    fn meets(&self, other: &Self) -> bool {
        self.at <= other.ends() + RECOVERY && other.at <= self.ends() + RECOVERY
    }
}

/// What a run is played on.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// Slots of each host.
    pub(super) hosts: Vec<usize>,
    /// The last host speaks OpenAI's API.
    pub(super) openai: bool,
    pub(super) policy: &'static str,
    /// Of `batching.min_gain`.
    pub(super) min_gain: &'static str,
    /// Health checks as they are by default.
    pub(super) default_checks: bool,
    /// Requests may share attempts, so that hardly anybody is left whom others could overtake.
    pub(super) merge: bool,
}

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pub(super) seed: u64,
    pub(super) time: Duration,
    pub(super) scene: Scene,
    pub(super) entries: Vec<Entry>,
}

impl Schedule {
    /// That of `seed`, for a run of so long.
    pub(super) fn draw(seed: u64, time: Duration) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let scene = Scene {
            hosts: (0..rng.random_range(3..=5))
                .map(|_| rng.random_range(1..=3))
                .collect(),
            openai: rng.random(),
            policy: ["least-busy", "least-busy", "round-robin", "least-vram"]
                .choose(&mut rng)
                .copied()
                .unwrap_or("least-busy"),
            min_gain: if rng.random() { "1ms" } else { "20ms" },
            default_checks: rng.random_bool(0.3),
            merge: seed.is_multiple_of(2),
        };
        let mut schedule = Self {
            seed,
            time,
            scene,
            entries: Vec::new(),
        };
        for _ in 0..time.as_secs() * 6 {
            schedule.add(&mut rng);
        }
        schedule.entries.sort_by_key(|entry| entry.at);
        for (number, entry) in schedule.entries.iter_mut().enumerate() {
            entry.number = number;
        }
        schedule
    }

    /// Something more, unless it would leave no host well.
    fn add(&mut self, rng: &mut SmallRng) {
        let event = match rng.random_range(0..100) {
            0..5 => Event::Leaving,
            5..8 => Event::BadConfig,
            8..12 => Event::Upgrade,
            _ => {
                let host = rng.random_range(0..self.scene.hosts.len());
                Event::Host(host, *Fault::ALL.choose(rng).unwrap_or(&Fault::Down))
            }
        };
        let lasts = match event {
            Event::Upgrade => Duration::ZERO,
            _ => rng.random_range(LASTS),
        };
        let last = self.time.saturating_sub(lasts + MARGIN);
        if last <= MARGIN {
            return;
        }
        let at = rng.random_range(MARGIN..last);
        let entry = Entry {
            number: 0,
            at,
            lasts,
            event,
        };
        if self.admits(&entry) {
            self.entries.push(entry);
        }
    }

    fn admits(&self, new: &Entry) -> bool {
        let same = |other: &&Entry| match new.ails() {
            None => other.event == new.event,
            host => other.ails() == host,
        };
        let is_alone = !self
            .entries
            .iter()
            .filter(same)
            .any(|other| new.meets(other));
        is_alone && (new.ails().is_none() || self.leaves_one_well(new))
    }

    /// Of the hosts that can do all that is asked.
    fn leaves_one_well(&self, new: &Entry) -> bool {
        let all = self.scene.hosts.len() - usize::from(self.scene.openai);
        let ailing = self.entries.iter().filter(|other| new.meets(other));
        (0..all).any(|host| {
            new.ails() != Some(host) && !ailing.clone().any(|other| other.ails() == Some(host))
        })
    }

    /// Only these of its entries, by number.
    pub(super) fn only(&self, numbers: &[usize]) -> Self {
        let kept = self
            .entries
            .iter()
            .filter(|entry| numbers.contains(&entry.number));
        Self {
            entries: kept.copied().collect(),
            ..self.clone()
        }
    }

    /// All numbers.
    pub(super) fn numbers(&self) -> Vec<usize> {
        self.entries.iter().map(|entry| entry.number).collect()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {:?}, {:?}", self.seed, self.time, self.scene)?;
        for Entry {
            number,
            at,
            lasts,
            event,
        } in &self.entries
        {
            writeln!(f, "  {number:3}: at {at:?} for {lasts:?}: {event:?}")?;
        }
        let only: Vec<_> = self.numbers().iter().map(usize::to_string).collect();
        let (seed, time) = (self.seed, self.time.as_secs());
        write!(
            f,
            "again: make chaos SEED={seed} TIME={time} ONLY={}",
            only.join(",")
        )
    }
}

/// A shortest list that still fails, as far as halving finds one: parts are left out, smaller and smaller, as
/// long as what remains fails. Ends after `most` tries, since each takes a run.
pub(super) async fn shortest(
    whole: Vec<usize>,
    most: u64,
    mut fails: impl AsyncFnMut(&[usize]) -> bool,
) -> Vec<usize> {
    let (mut kept, mut tries) = (whole, 0);
    let mut size = kept.len().div_ceil(2);
    while size > 0 {
        let mut from = 0;
        while from < kept.len() && tries < most {
            let until = (from + size).min(kept.len());
            let less = [&kept[..from], &kept[until..]].concat();
            tries += 1;
            if fails(&less).await {
                kept = less;
            } else {
                from = until;
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    kept
}

#[test]
fn at_every_moment_a_host_is_well_that_can_do_everything() {
    for seed in 0..200 {
        let schedule = Schedule::draw(seed, Duration::from_secs(20));
        let hosts = schedule.scene.hosts.len() - usize::from(schedule.scene.openai);
        for at in (0..20_000).step_by(50).map(Duration::from_millis) {
            let ails = |host: &usize| {
                let mut all = schedule
                    .entries
                    .iter()
                    .filter(|it| it.ails() == Some(*host));
                all.any(|entry| entry.at <= at && at <= entry.ends() + RECOVERY)
            };
            assert!(
                !(0..hosts).all(|host| ails(&host)),
                "seed {seed}, at {at:?}"
            );
        }
    }
}

#[test]
fn every_event_occurs_and_the_same_seed_gives_the_same_schedule() {
    let all = |seed| Schedule::draw(seed, Duration::from_secs(20)).entries;
    assert_eq!(all(7), all(7));
    let seen: Vec<Event> = (0..100).flat_map(all).map(|entry| entry.event).collect();
    let kinds = Fault::ALL.map(|fault| Event::Host(0, fault));
    for event in kinds
        .into_iter()
        .chain([Event::Leaving, Event::BadConfig, Event::Upgrade])
    {
        assert!(seen.contains(&event), "{event:?}");
    }
}

#[tokio::test]
async fn a_schedule_is_cut_down_to_what_matters() {
    let mut tries = 0;
    let fails = async |kept: &[usize]| {
        tries += 1;
        kept.contains(&3) && kept.contains(&17)
    };
    assert_eq!(shortest((0..40).collect(), 100, fails).await, [3, 17]);
    assert!(tries < 40, "{tries} tries");
    assert_eq!(shortest(vec![1, 2], 100, async |_| true).await, [0; 0]);
}
