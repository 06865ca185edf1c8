//! The default models, loaded at start, and whether that is over. Pure: the engine does the loading
//! and tells what it came to.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::registry::Stage;
use crate::engine::{LoadFault, ModelReadiness, ModelState, Purpose, Readiness};

/// A model that is loaded at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultModel {
    /// What it is for.
    pub purpose: Purpose,
    /// A name or a folder's path.
    pub name: String,
}

impl From<(Purpose, &String)> for DefaultModel {
    fn from((purpose, name): (Purpose, &String)) -> Self {
        let name = name.clone();
        Self { purpose, name }
    }
}

/// What loading a model and a first inference came to.
type Outcome = Result<(), LoadFault>;

/// How the warm-up fares.
pub(crate) struct WarmUp {
    models: Vec<DefaultModel>,
    /// Of the first so many models; the others wait for their turn.
    outcomes: Mutex<Vec<Outcome>>,
}

impl WarmUp {
    /// It has not begun.
    pub(crate) fn of(models: Vec<DefaultModel>) -> Self {
        Self {
            models,
            outcomes: Mutex::default(),
        }
    }

    /// In the order in which they are to be loaded.
    pub(crate) fn models(&self) -> &[DefaultModel] {
        &self.models
    }

    /// The next model is done.
    pub(crate) fn done(&self, outcome: Outcome) {
        self.outcomes().push(outcome);
    }

    /// Where the default models are at; `look` says where one of them is at in the registry.
    pub(crate) fn readiness(&self, look: impl Fn(&DefaultModel) -> Stage) -> Readiness {
        let outcomes = self.outcomes().clone();
        let mut usable = false;
        let mut models = Vec::with_capacity(self.models.len());
        for (index, model) in self.models.iter().enumerate() {
            let outcome = outcomes.get(index);
            let state = state(outcome, look(model));
            usable |= is_usable(outcome, &state);
            models.push(ModelReadiness {
                name: model.name.clone(),
                purpose: model.purpose,
                state,
            });
        }
        let over = outcomes.len() >= self.models.len();
        Readiness {
            ready: over && (usable || models.is_empty()),
            models,
        }
    }

    fn outcomes(&self) -> MutexGuard<'_, Vec<Outcome>> {
        // No panic can leave the list half-changed.
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the registry says goes; where it has nothing to say, what the warm-up came to.
fn state(outcome: Option<&Outcome>, stage: Stage) -> ModelState {
    match (stage, outcome) {
        (Stage::Loading, _) | (Stage::Absent, None) => ModelState::Loading,
        (Stage::Ready, _) => ModelState::Ready,
        (Stage::Failed(failure), _) => ModelState::Failed(failure.into()),
        (Stage::Absent, Some(Ok(()))) => ModelState::Unloaded,
        (Stage::Absent, Some(Err(reason))) => ModelState::Failed(reason.clone()),
    }
}

/// A request for the model would be answered, be it after loading the model again.
fn is_usable(outcome: Option<&Outcome>, state: &ModelState) -> bool {
    match state {
        ModelState::Ready | ModelState::Unloaded => true,
        ModelState::Loading => matches!(outcome, Some(Ok(()))),
        ModelState::Failed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::registry::Failure;

    fn two() -> WarmUp {
        let model = |purpose: Purpose| DefaultModel {
            purpose,
            name: purpose.name().to_owned(),
        };
        WarmUp::of(vec![model(Purpose::Embed), model(Purpose::BertScore)])
    }

    /// Ready or not, and the states, where the two models are at this in the registry.
    fn told(warm_up: &WarmUp, [embed, bertscore]: [Stage; 2]) -> (bool, Vec<ModelState>) {
        let readiness = warm_up.readiness(|model| match model.purpose {
            Purpose::Embed => embed.clone(),
            Purpose::BertScore => bertscore.clone(),
        });
        let states = readiness.models.into_iter().map(|model| model.state);
        (readiness.ready, states.collect())
    }

    fn failed(reason: &str) -> ModelState {
        ModelState::Failed(reason.to_owned().into())
    }

    #[test]
    fn it_is_ready_when_both_had_their_turn() {
        let warm_up = two();
        let loading = ModelState::Loading;
        let states = vec![loading.clone(), loading.clone()];
        assert_eq!(
            told(&warm_up, [Stage::Loading, Stage::Absent]),
            (false, states)
        );
        warm_up.done(Ok(()));
        let states = vec![ModelState::Ready, loading];
        assert_eq!(
            told(&warm_up, [Stage::Ready, Stage::Loading]),
            (false, states)
        );
        warm_up.done(Ok(()));
        let states = vec![ModelState::Ready, ModelState::Ready];
        assert_eq!(told(&warm_up, [Stage::Ready, Stage::Ready]), (true, states));
    }

    #[test]
    fn one_usable_model_is_enough_and_none_is_not() {
        let warm_up = two();
        warm_up.done(Ok(()));
        warm_up.done(Err("not installed".to_owned().into()));
        let states = vec![ModelState::Unloaded, failed("not installed")];
        assert_eq!(
            told(&warm_up, [Stage::Absent, Stage::Absent]),
            (true, states)
        );
        let broken = Stage::Failed(Failure::Load("broken now".to_owned().into()));
        let states = vec![failed("broken now"), failed("not installed")];
        assert_eq!(told(&warm_up, [broken, Stage::Absent]), (false, states));
    }

    #[test]
    fn a_model_that_makes_room_and_comes_back_is_usable_all_the_time() {
        let warm_up = two();
        warm_up.done(Ok(()));
        warm_up.done(Ok(()));
        for stage in [Stage::Ready, Stage::Absent, Stage::Loading] {
            let (ready, _) = told(&warm_up, [stage, Stage::Absent]);
            assert!(ready);
        }
    }

    #[test]
    fn a_model_that_was_repaired_counts() {
        let warm_up = two();
        warm_up.done(Err("broken".to_owned().into()));
        warm_up.done(Err("broken".to_owned().into()));
        assert!(!told(&warm_up, [Stage::Absent, Stage::Loading]).0);
        assert!(told(&warm_up, [Stage::Absent, Stage::Ready]).0);
    }
}
