//! Several devices in one process: an engine for each, and a choice for each request.
//!
//! A request runs on one device as a whole. It goes where the least work is, work being counted in
//! texts (or pairs) of the requests that run or wait there. A device that does not have the model
//! counts as if [`LOADING`] more were there, so that a second device loads a model once the first
//! has more to do than that, and not for a single text.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::candle_engine::CandleEngine;
use crate::engine::{
    Embeddings, Engine, EngineError, ModelUsage, Progress, Purpose, Readiness, Scores, Scoring,
};

/// What loading a model is worth, in texts: as many as the largest request has by default.
const LOADING: usize = 100;

/// Engines of several devices, as one.
pub struct Fleet {
    members: Vec<CandleEngine>,
    /// The work of each member, in texts.
    work: Mutex<Vec<usize>>,
}

/// A member in the eyes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    /// Texts of requests that it was given and that are not done.
    work: usize,
    /// Whether it has the model in memory.
    has_model: bool,
}

/// The best of the candidates; of equals one that has the model, then the first.
fn choose(candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
    let cost = |candidate: &Candidate| {
        let loading = if candidate.has_model { 0 } else { LOADING };
        (candidate.work + loading, !candidate.has_model)
    };
    let best = candidates.enumerate().min_by_key(|(_, each)| cost(each));
    best.map(|(place, _)| place)
}

impl Fleet {
    /// A fleet of one engine for each device.
    pub fn new(members: Vec<CandleEngine>) -> Self {
        Self {
            work: Mutex::new(vec![0; members.len()]),
            members,
        }
    }

    /// See [`CandleEngine::warm_up`]; one device after the other, so that a model is downloaded once.
    pub fn warm_up(&self) {
        self.members.iter().for_each(CandleEngine::warm_up);
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
        let candidates = work
            .iter()
            .zip(&self.members)
            .map(|(work, member)| Candidate {
                work: *work,
                has_model: member.is_loaded(purpose, model),
            });
        let member = choose(candidates);
        let assigned = member.and_then(|place| Some((place, self.members.get(place)?)));
        let Some((place, engine)) = assigned else {
            return Err(EngineError::Inference("there is no device".to_owned()));
        };
        work[place] += texts;
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
        let loaded = self.members.iter().flat_map(CandleEngine::loaded_models);
        loaded.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// That of the first device that is ready, else of the first: one is enough to be of use.
    fn readiness(&self) -> Readiness {
        let mut all = self.members.iter().map(CandleEngine::readiness);
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
        let usages = self.members.iter().map(CandleEngine::model_usage);
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

    fn chosen(candidates: &[(usize, bool)]) -> Option<usize> {
        let candidates = candidates.iter().map(|(work, has_model)| Candidate {
            work: *work,
            has_model: *has_model,
        });
        choose(candidates)
    }

    #[test]
    fn the_least_work_wins_unless_a_model_must_be_loaded_for_little() {
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&[(0, false)]), Some(0));
        assert_eq!(chosen(&[(3, true), (2, true)]), Some(1));
        assert_eq!(chosen(&[(2, true), (2, true)]), Some(0), "the first");
        assert_eq!(chosen(&[(5, false), (4, false)]), Some(1));
        let busy = |work| chosen(&[(0, false), (work, true)]);
        assert_eq!(busy(LOADING), Some(1), "loading is worth as much");
        assert_eq!(busy(LOADING + 1), Some(0));
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
    fn much_work_on_one_device_makes_another_load_the_model() {
        let fleet = fleet();
        let texts = ["one".to_owned()];
        let watching = Watching(&fleet, Mutex::default());
        fleet.embed("bert", &texts, &watching).expect("embeds");
        let busy = fleet.assign(Purpose::Embed, "bert", LOADING + 1);
        fleet.embed("bert", &texts, &watching).expect("embeds");
        drop(busy);
        let work = watching.1.into_inner().expect("lock");
        assert_eq!(work, [[1, 0], [LOADING + 1, 1]]);
        assert_eq!(fleet.loaded_models(), ["embed:bert"]);
        assert_eq!(fleet.model_usage().loads, 2);
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
