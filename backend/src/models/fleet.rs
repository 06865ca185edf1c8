//! Several devices in one process: an engine for each, and a choice for each request.
//!
//! A request runs on one device as a whole, of those that have its model if any has it. It goes where
//! the least work is, work being counted in texts (or pairs) of the requests that run or wait there.
//! Once every device that has a model has much more to do than one that does not, that one loads the
//! model, too, in the background: no request waits for a load that another device can do without.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::candle_engine::{CandleEngine, Nobody};
use crate::engine::{
    Embeddings, Engine, EngineError, ModelUsage, Progress, Purpose, Readiness, Scores, Scoring,
};

/// What loading a model is worth, in texts: as many as the largest request has by default.
const LOADING: usize = 100;
/// A load in the background is not begun again for so long: it takes as long at most, and may fail.
const AGAIN: Duration = Duration::from_secs(30);

/// Engines of several devices, as one.
pub struct Fleet {
    members: Vec<Arc<CandleEngine>>,
    /// The work of each member, in texts.
    work: Mutex<Vec<usize>>,
    /// When a member last began to load a model in the background.
    begun: Mutex<BTreeMap<(usize, Purpose, String), Instant>>,
}

/// A member in the eyes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    /// Texts of requests that it was given and that are not done.
    work: usize,
    /// Whether it has the model in memory.
    has_model: bool,
}

/// What is to be done about one request; members by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    /// Which one computes.
    computes: usize,
    /// Which one is to load the model for later requests.
    loads: Option<usize>,
}

/// The candidate with the least work of those that have the model, or of all if none has; of equals
/// the first. `None`: there is no candidate.
fn choose(candidates: &[Candidate]) -> Option<Choice> {
    let least = |has_model| {
        let all = candidates.iter().enumerate();
        let such = all.filter(|(_, each)| each.has_model == has_model);
        such.min_by_key(|(_, each)| each.work)
    };
    let Some((computes, with)) = least(true) else {
        let choice = |(computes, _)| Choice {
            computes,
            loads: None,
        };
        return least(false).map(choice);
    };
    let loads = least(false).filter(|(_, without)| with.work > without.work + LOADING);
    let loads = loads.map(|(place, _)| place);
    Some(Choice { computes, loads })
}

impl Fleet {
    /// A fleet of one engine for each device.
    pub fn new(members: Vec<CandleEngine>) -> Self {
        Self {
            work: Mutex::new(vec![0; members.len()]),
            members: members.into_iter().map(Arc::new).collect(),
            begun: Mutex::default(),
        }
    }

    /// See [`CandleEngine::warm_up`]; one device after the other, so that a model is downloaded once.
    pub fn warm_up(&self) {
        self.members.iter().for_each(|member| member.warm_up());
    }

    /// The member that a request goes to, and the guard that counts its work there.
    fn assign(
        &self,
        purpose: Purpose,
        model: &str,
        texts: usize,
    ) -> Result<(&CandleEngine, Work<'_>), EngineError> {
        // Decided and noted under one lock: two requests at once don't choose the same idle device.
        let mut work = self.lock();
        let members = work.iter().zip(&self.members);
        let candidates = members.map(|(work, member)| Candidate {
            work: *work,
            has_model: member.is_loaded(purpose, model),
        });
        let choice = choose(&candidates.collect::<Vec<_>>());
        let engine = choice.and_then(|choice| self.members.get(choice.computes));
        let (Some(choice), Some(engine)) = (choice, engine) else {
            return Err(EngineError::Inference("there is no device".to_owned()));
        };
        let place = choice.computes;
        work[place] += texts;
        drop(work);
        if let Some(idle) = choice.loads {
            self.spread(idle, purpose, model);
        }
        let fleet = self;
        Ok((
            engine,
            Work {
                fleet,
                place,
                texts,
            },
        ))
    }

    /// Has the member at `place` load a model in the background, unless it has begun to a short while
    /// ago. If that fails, the others go on without it.
    fn spread(&self, place: usize, purpose: Purpose, model: &str) -> Option<JoinHandle<()>> {
        let member = Arc::clone(self.members.get(place)?);
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (place, purpose, model.to_owned());
        let now = Instant::now();
        if begun.get(&key).is_some_and(|last| now - *last < AGAIN) {
            return None;
        }
        begun.insert(key, now);
        drop(begun);
        let model = model.to_owned();
        let name = "load-elsewhere".to_owned();
        let thread = thread::Builder::new().name(name).spawn(move || {
            match member.load(purpose, &model, &Nobody) {
                Ok(()) => info!(model, device = place, "loaded on another device"),
                Err(fault) => warn!(model, device = place, "not on another device yet: {fault}"),
            }
        });
        thread
            .inspect_err(|fault: &io::Error| warn!("no thread to load a model: {fault}"))
            .ok()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        // A number is changed or not.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that a member has been given; dropped, it is done.
struct Work<'a> {
    fleet: &'a Fleet,
    place: usize,
    texts: usize,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.fleet.lock()[self.place] -= self.texts;
    }
}

impl Engine for Fleet {
    fn embed(
        &self,
        model: &str,
        texts: &[String],
        progress: &dyn Progress,
    ) -> Result<Embeddings, EngineError> {
        let (member, _work) = self.assign(Purpose::Embed, model, texts.len())?;
        member.embed(model, texts, progress)
    }

    fn bertscore(
        &self,
        model: &str,
        candidates: &[String],
        references: &[String],
        scoring: &Scoring,
        progress: &dyn Progress,
    ) -> Result<Scores, EngineError> {
        let (member, _work) = self.assign(Purpose::BertScore, model, candidates.len())?;
        member.bertscore(model, candidates, references, scoring, progress)
    }

    /// On any device.
    fn is_loaded(&self, purpose: Purpose, model: &str) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.is_loaded(purpose, model))
    }

    /// On one device; the request itself may go to another one.
    fn load(
        &self,
        purpose: Purpose,
        model: &str,
        progress: &dyn Progress,
    ) -> Result<(), EngineError> {
        let (member, _work) = self.assign(purpose, model, 0)?;
        member.load(purpose, model, progress)
    }

    /// What any device has.
    fn loaded_models(&self) -> Vec<String> {
        let loaded = self
            .members
            .iter()
            .flat_map(|member| member.loaded_models());
        loaded.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What any device can serve.
    fn available_models(&self) -> Option<Vec<String>> {
        let members = self.members.iter().map(|member| member.available_models());
        let known: Option<Vec<Vec<String>>> = members.collect();
        let all: BTreeSet<String> = known?.into_iter().flatten().collect();
        Some(all.into_iter().collect())
    }

    /// That of the first device that is ready, else of the first: one is enough to be of use.
    fn readiness(&self) -> Readiness {
        let mut all = self.members.iter().map(|member| member.readiness());
        let first = all.next().unwrap_or(Readiness {
            ready: false,
            models: Vec::new(),
        });
        if first.ready {
            return first;
        }
        all.find(|readiness| readiness.ready).unwrap_or(first)
    }

    /// Of all devices together.
    fn model_usage(&self) -> ModelUsage {
        let usages = self.members.iter().map(|member| member.model_usage());
        usages.fold(ModelUsage::default(), |sum, usage| ModelUsage {
            budget: sum.budget.saturating_add(usage.budget),
            loaded: sum.loaded + usage.loaded,
            used: sum.used + usage.used,
            loads: sum.loads + usage.loads,
            failed_loads: sum.failed_loads + usage.failed_loads,
            evictions: sum.evictions + usage.evictions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Cancellation;
    use crate::models::test_support::golden;
    use crate::models::{EngineOptions, ModelSources};

    /// Who computes, and who loads.
    fn chosen(candidates: &[(usize, bool)]) -> Option<(usize, Option<usize>)> {
        let candidates = candidates.iter().map(|(work, has_model)| Candidate {
            work: *work,
            has_model: *has_model,
        });
        let choice = choose(&candidates.collect::<Vec<_>>());
        choice.map(|Choice { computes, loads }| (computes, loads))
    }

    #[test]
    fn the_least_work_wins_among_those_that_have_the_model() {
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&[(0, false)]), Some((0, None)));
        assert_eq!(chosen(&[(3, true), (2, true)]), Some((1, None)));
        assert_eq!(chosen(&[(2, true), (2, true)]), Some((0, None)), "first");
        let nowhere = [(5, false), (4, false)];
        assert_eq!(chosen(&nowhere), Some((1, None)), "it loads as it computes");
        assert_eq!(chosen(&[(0, false), (9, true)]), Some((1, None)));
    }

    #[test]
    fn much_work_calls_for_another_device_but_does_not_wait_for_it() {
        let busy = |work| chosen(&[(0, false), (work, true)]);
        assert_eq!(busy(LOADING), Some((1, None)), "loading is worth as much");
        assert_eq!(busy(LOADING + 1), Some((1, Some(0))));
        let all = [(500, true), (7, false), (6, false), (400, true)];
        assert_eq!(chosen(&all), Some((3, Some(2))));
        let one_is_idle = [(500, true), (6, false), (0, true)];
        assert_eq!(chosen(&one_is_idle), Some((2, None)));
        assert_eq!(chosen(&[(500, true), (499, false)]), Some((0, None)));
    }

    fn fleet() -> Fleet {
        let engine = || {
            let sources = ModelSources {
                models_dir: Some(golden("tiny")),
                ..ModelSources::default()
            };
            CandleEngine::new(sources, EngineOptions::default()).expect("starts")
        };
        Fleet::new(vec![engine(), engine()])
    }

    /// Notes how much work each member had when something was finished.
    struct Watching<'a>(&'a Fleet, Mutex<Vec<Vec<usize>>>);

    impl Progress for Watching<'_> {
        fn finished(&self, _: usize) {
            let work = self.0.lock().clone();
            self.1.lock().expect("lock").push(work);
        }

        fn cancellation(&self) -> Cancellation {
            Cancellation::default()
        }
    }

    #[test]
    fn a_device_with_the_model_gets_the_request_and_gives_its_work_back() {
        let fleet = fleet();
        let texts = ["one".to_owned(), "two".to_owned()];
        let watching = Watching(&fleet, Mutex::default());
        // The second device alone has the model.
        let second = &fleet.members[1];
        let alone = second.embed("bert", &texts, &watching).expect("embeds");
        let together = fleet.embed("bert", &texts, &watching).expect("embeds");
        assert_eq!(together, alone);
        assert_eq!(watching.1.into_inner().expect("lock"), [[0, 0], [0, 2]]);
        assert_eq!(*fleet.lock(), [0, 0]);
        assert_eq!(fleet.loaded_models(), ["embed:bert"]);
        assert_eq!(fleet.model_usage().loads, 1);
    }

    #[test]
    fn much_work_on_one_device_has_another_load_the_model_in_the_background() {
        let fleet = fleet();
        let texts = ["one".to_owned()];
        let watching = Watching(&fleet, Mutex::default());
        fleet.embed("bert", &texts, &watching).expect("embeds");
        let busy = fleet.assign(Purpose::Embed, "bert", LOADING + 1);
        assert!(fleet.begun.lock().expect("lock").is_empty());
        fleet.embed("bert", &texts, &watching).expect("embeds");
        drop(busy);
        let work = watching.1.into_inner().expect("lock");
        assert_eq!(work, [[1, 0], [LOADING + 2, 0]], "the first computes both");
        let begun = fleet.begun.into_inner().expect("lock");
        let (place, purpose, model) = begun.into_keys().next().expect("a load");
        assert_eq!((place, purpose, &*model), (1, Purpose::Embed, "bert"));
    }

    #[test]
    fn a_load_in_the_background_is_begun_once() {
        let fleet = fleet();
        let begun = fleet.spread(1, Purpose::Embed, "bert");
        assert!(fleet.spread(1, Purpose::Embed, "bert").is_none());
        begun.expect("a thread").join().expect("no panic");
        assert!(fleet.members[1].is_loaded(Purpose::Embed, "bert"));
        assert!(!fleet.members[0].is_loaded(Purpose::Embed, "bert"));
    }

    #[test]
    fn a_load_that_fails_in_the_background_does_no_harm() {
        let fleet = fleet();
        let failing = fleet.spread(1, Purpose::Embed, "unknown");
        failing.expect("a thread").join().expect("no panic");
        assert!(fleet.loaded_models().is_empty());
        assert!(fleet.spread(2, Purpose::Embed, "bert").is_none(), "nobody");
    }

    #[test]
    fn a_request_that_fails_leaves_no_work_behind() {
        let fleet = fleet();
        let watching = Watching(&fleet, Mutex::default());
        let unknown = fleet.embed("unknown", &["a".to_owned()], &watching);
        assert!(matches!(unknown, Err(EngineError::NotInstalled { .. })));
        assert_eq!(*fleet.lock(), [0, 0]);
    }
}
