use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::models::registry::memory::Common;

const REMEMBER: Duration = Duration::from_secs(30);
const V1: Version = Version(1);
const V2: Version = Version(2);

type Test = Core<&'static str, &'static str>;

/// A model that has nothing in common with others.
fn own(own: u64) -> Memory {
    let common = None;
    Memory { own, common }
}

#[expect(clippy::unnecessary_wraps, reason = "as `request` takes it")]
fn facts(bytes: u64) -> Option<Facts> {
    let (memory, version) = (own(bytes), V1);
    Some(Facts { memory, version })
}

fn core(budget: u64) -> Test {
    Core::new(budget, REMEMBER)
}

/// Loads `key` and gives the hold back.
fn load_and_release(core: &mut Test, key: &'static str, bytes: u64) -> Vec<&'static str> {
    let now = Instant::now();
    let Decision::Load { evicted } = core.request(&key, facts(bytes), now) else {
        panic!("{key} is not to be loaded");
    };
    assert_eq!(core.loaded(&key, key, None, now), Ok(Vec::new()));
    assert!(core.release(&key).is_empty());
    evicted.into_iter().map(|(key, _)| key).collect()
}

#[test]
fn facts_are_asked_for_only_when_they_matter() {
    let (mut core, now) = (core(10), Instant::now());
    assert_eq!(core.request(&"a", None, now), Decision::Inspect);
    load_and_release(&mut core, "a", 4);
    assert_eq!(core.request(&"a", None, now), Decision::Use("a"));
}

#[test]
fn the_least_recently_used_goes_first_and_no_more_than_needed() {
    let (mut core, now) = (core(10), Instant::now());
    for key in ["a", "b", "c"] {
        load_and_release(&mut core, key, 3);
    }
    assert_eq!(core.request(&"a", None, now), Decision::Use("a"));
    core.release(&"a");
    assert_eq!(load_and_release(&mut core, "d", 4), ["b"]);
    assert_eq!(core.used(), 10);
}

#[test]
fn what_is_held_stays_and_who_needs_its_memory_waits() {
    let (mut core, now) = (core(10), Instant::now());
    load_and_release(&mut core, "a", 4);
    load_and_release(&mut core, "b", 4);
    assert_eq!(core.request(&"a", None, now), Decision::Use("a"));
    let decision = core.request(&"c", facts(8), now);
    assert_eq!(decision, Decision::AwaitMemory);
    assert_eq!(
        core.stage(&"b", now),
        Stage::Ready,
        "evicting b would not do"
    );
    core.release(&"a");
    let decision = core.request(&"c", facts(8), now);
    let evicted = vec![("b", "b"), ("a", "a")];
    assert_eq!(decision, Decision::Load { evicted });
}

#[test]
fn a_load_reserves_its_memory() {
    let (mut core, now) = (core(10), Instant::now());
    let evicted = Vec::new();
    assert_eq!(
        core.request(&"a", facts(6), now),
        Decision::Load { evicted }
    );
    assert_eq!(core.request(&"b", facts(5), now), Decision::AwaitMemory);
    assert_eq!(core.request(&"a", None, now), Decision::AwaitLoad);
    core.failed(&"a", Failure::Load("broken".to_owned().into()), now);
    assert!(matches!(
        core.request(&"b", facts(5), now),
        Decision::Load { .. }
    ));
}

#[test]
fn a_model_stays_for_those_who_waited_for_it() {
    let (mut core, now) = (core(10), Instant::now());
    core.request(&"a", facts(6), now);
    assert_eq!(core.request(&"a", None, now), Decision::AwaitLoad);
    core.release(&"a");
    assert_eq!(core.loaded(&"a", "a", None, now), Ok(Vec::new()));
    assert_eq!(core.request(&"b", facts(6), now), Decision::AwaitMemory);
    assert_eq!(core.poll(&"a"), Poll::Ready("a"));
}

#[test]
fn the_real_size_counts_once_it_is_known() {
    let (mut core, now) = (core(10), Instant::now());
    load_and_release(&mut core, "a", 4);
    core.request(&"b", facts(3), now);
    let evicted = core.loaded(&"b", "b", Some(own(7)), now);
    assert_eq!(evicted, Ok(vec![("a", "a")]));
    assert_eq!(core.used(), 7);
}

#[test]
fn memory_that_was_exceeded_is_made_good_at_the_next_release() {
    let (mut core, now) = (core(10), Instant::now());
    load_and_release(&mut core, "a", 4);
    core.request(&"a", None, now);
    core.request(&"b", facts(3), now);
    assert_eq!(core.loaded(&"b", "b", Some(own(7)), now), Ok(Vec::new()));
    assert_eq!(core.used(), 11);
    assert_eq!(core.release(&"a"), [("a", "a")]);
}

#[test]
fn weights_in_common_are_counted_once_and_stay_with_the_last_model_that_uses_them() {
    let (mut core, now) = (core(10), Instant::now());
    let facts = |bytes| {
        let common = Some(Common { weights: 1, bytes });
        let (memory, version) = (Memory { own: 1, common }, V1);
        Some(Facts { memory, version })
    };
    for (key, bytes) in [("lower", 3), ("whole", 6)] {
        let loads = core.request(&key, facts(bytes), now);
        assert_eq!(loads, Decision::Load { evicted: vec![] }, "{key}");
        assert_eq!(core.loaded(&key, key, None, now), Ok(vec![]));
        core.release(&key);
    }
    assert_eq!(core.used(), 8);
    assert_eq!(load_and_release(&mut core, "other", 3), ["lower"]);
    assert_eq!(core.used(), 10, "7 of the whole, 3 of the other");
    assert_eq!(load_and_release(&mut core, "last", 7), ["whole"]);
    assert_eq!(core.used(), 10);
}

#[test]
fn what_can_never_fit_is_refused_with_both_figures() {
    let (mut core, now) = (core(10), Instant::now());
    let too_large = |needed| Failure::TooLarge { needed, budget: 10 };
    assert_eq!(
        core.request(&"a", facts(11), now),
        Decision::Refuse(too_large(11))
    );
    core.request(&"b", facts(3), now);
    assert_eq!(core.loaded(&"b", "b", Some(own(12)), now), Err("b"));
    assert_eq!(core.poll(&"b"), Poll::Failed(too_large(12)));
    assert_eq!(core.used(), 0);
}

#[test]
fn a_failure_is_remembered_until_its_time_is_over_or_the_files_change() {
    let (mut core, now) = (core(10), Instant::now());
    let failure = Failure::Load("broken".to_owned().into());
    core.request(&"a", facts(1), now);
    core.failed(&"a", failure.clone(), now);
    let almost = now + REMEMBER.saturating_sub(Duration::from_nanos(1));
    assert_eq!(core.request(&"a", None, almost), Decision::Inspect);
    let refused = core.request(&"a", facts(1), almost);
    assert_eq!(refused, Decision::Refuse(failure.clone()));
    assert_eq!(core.stage(&"a", almost), Stage::Failed(failure.clone()));
    assert_eq!(core.stage(&"a", now + REMEMBER), Stage::Absent);

    let (memory, version) = (own(1), V2);
    let changed = Some(Facts { memory, version });
    assert!(matches!(
        core.request(&"a", changed, almost),
        Decision::Load { .. }
    ));
    core.failed(&"a", failure, almost);
    assert!(matches!(
        core.request(&"a", changed, almost + REMEMBER),
        Decision::Load { .. }
    ));
}

// --- any order of events ----------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Event {
    /// Somebody asks for the model; it is expected to take this much.
    Request(u8, u64),
    /// The load ends, with the real size or without success.
    EndLoad(u8, Option<u64>),
    /// A request that has a hold is done.
    Release(u8),
    /// Seconds pass.
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let key = 0..5_u8;
    let event = prop_oneof![
        4 => (key.clone(), 0..130_u64).prop_map(|(key, bytes)| Event::Request(key, bytes)),
        3 => (key.clone(), prop::option::weighted(0.8, 0..130_u64))
            .prop_map(|(key, bytes)| Event::EndLoad(key, bytes)),
        4 => key.prop_map(Event::Release),
        1 => (1..40_u64).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 0..120)
}

/// What an onlooker knows from the decisions alone.
struct Onlooker {
    core: Core<u8, u8>,
    now: Instant,
    holds: BTreeMap<u8, usize>,
    loading: BTreeSet<u8>,
    resident: BTreeMap<u8, Memory>,
}

const BUDGET: u64 = 100;

/// Two of the models have weights in common.
fn memory_of(key: u8, bytes: u64) -> Memory {
    if key > 1 {
        return own(bytes);
    }
    let common = Common {
        weights: 7,
        bytes: bytes - bytes / 3,
    };
    Memory {
        own: bytes / 3,
        common: Some(common),
    }
}

impl Onlooker {
    fn new() -> Self {
        Self {
            core: Core::new(BUDGET, REMEMBER),
            now: Instant::now(),
            holds: BTreeMap::new(),
            loading: BTreeSet::new(),
            resident: BTreeMap::new(),
        }
    }

    fn holds(&self, key: u8) -> usize {
        self.holds.get(&key).copied().unwrap_or(0)
    }

    fn goes(&mut self, evicted: Vec<(u8, u8)>) -> Result<(), TestCaseError> {
        for (key, model) in evicted {
            prop_assert_eq!(key, model);
            prop_assert_eq!(self.holds(key), 0, "{} was in use", key);
            prop_assert!(
                self.resident.remove(&key).is_some(),
                "{} was not there",
                key
            );
        }
        Ok(())
    }

    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Pass(seconds) => self.now += Duration::from_secs(seconds),
            Event::Request(key, bytes) => self.request(key, bytes)?,
            Event::EndLoad(key, size) => self.end_load(key, size)?,
            Event::Release(key) if self.holds(key) > 0 => {
                *self.holds.entry(key).or_default() -= 1;
                let evicted = self.core.release(&key);
                self.goes(evicted)?;
            }
            Event::Release(_) => {}
        }
        self.check()
    }

    fn request(&mut self, key: u8, bytes: u64) -> Result<(), TestCaseError> {
        let (memory, version) = (memory_of(key, bytes), V1);
        let facts = Some(Facts { memory, version });
        match self.core.request(&key, facts, self.now) {
            Decision::Use(model) => {
                prop_assert_eq!(model, key);
                prop_assert!(self.resident.contains_key(&key));
                *self.holds.entry(key).or_default() += 1;
            }
            Decision::AwaitLoad => {
                prop_assert!(self.loading.contains(&key));
                *self.holds.entry(key).or_default() += 1;
            }
            Decision::Load { evicted } => {
                prop_assert!(self.loading.insert(key), "loaded twice");
                prop_assert!(!self.resident.contains_key(&key));
                *self.holds.entry(key).or_default() += 1;
                self.goes(evicted)?;
                prop_assert!(self.core.used() <= BUDGET, "over budget for a load");
            }
            Decision::AwaitMemory => {
                let in_use = self.resident.keys().any(|key| self.holds(*key) > 0);
                prop_assert!(in_use || !self.loading.is_empty(), "waits for nobody");
            }
            Decision::Inspect => prop_assert!(false, "the facts were there"),
            Decision::Refuse(_) => prop_assert!(!self.resident.contains_key(&key)),
        }
        Ok(())
    }

    fn end_load(&mut self, key: u8, size: Option<u64>) -> Result<(), TestCaseError> {
        if !self.loading.remove(&key) {
            return Ok(());
        }
        let Some(size) = size else {
            let broken = Failure::Load("broken".to_owned().into());
            self.core.failed(&key, broken, self.now);
            return Ok(());
        };
        let memory = memory_of(key, size);
        match self.core.loaded(&key, key, Some(memory), self.now) {
            Ok(evicted) => {
                prop_assert!(size <= BUDGET);
                self.resident.insert(key, memory);
                self.goes(evicted)
            }
            Err(model) => {
                prop_assert!(size > BUDGET && model == key);
                Ok(())
            }
        }
    }

    /// Holds between any two events.
    fn check(&self) -> Result<(), TestCaseError> {
        for key in 0..5 {
            let stage = self.core.stage(&key, self.now);
            prop_assert_eq!(stage == Stage::Ready, self.resident.contains_key(&key));
            prop_assert_eq!(stage == Stage::Loading, self.loading.contains(&key));
        }
        let idle = self.resident.keys().any(|key| self.holds(*key) == 0);
        prop_assert!(
            self.core.used() <= BUDGET || !idle,
            "over budget with an idle model"
        );
        prop_assert!(together(self.resident.values().copied()) <= self.core.used());
        Ok(())
    }

    /// Every load ends and every hold is given back.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        for key in 0..5 {
            self.apply(&Event::EndLoad(key, Some(1)))?;
            if self.holds(key) > 0 {
                prop_assert!(
                    self.core.poll(&key) != Poll::Loading,
                    "a waiter is left behind"
                );
            }
        }
        for key in 0..5 {
            while self.holds(key) > 0 {
                self.apply(&Event::Release(key))?;
            }
        }
        prop_assert!(self.core.used() <= BUDGET);
        Ok(())
    }
}

proptest! {
    #[test]
    fn in_any_order_of_events_the_invariants_hold(events in events()) {
        let mut onlooker = Onlooker::new();
        for event in events {
            onlooker.apply(&event)?;
        }
        onlooker.finish()?;
    }
}
