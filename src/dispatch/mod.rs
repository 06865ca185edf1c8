//! One request's way through as many attempts as it takes.
//!
//! ```text
//! join the line ─▶ lease ─▶ attempt ─▶ verdict ─▶ deliver
//!       ▲                                 │
//!       └──── busy, fault: a sibling ◀────┘
//! ```
//!
//! What a verdict means for the request is decided in [`history`], without I/O; this loop carries
//! it out.

mod attempt;
mod delivery;
mod history;
mod itinerary;
mod lately;
mod merge;
mod retry_budget;
mod shortage;
mod split;
mod waiting;

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::attempt::{Attempts, End};
pub use self::delivery::{Delivery, LongRest, NoHost, Refusal};
use self::history::History;
use self::itinerary::Itinerary;
use self::merge::{Apart, Members};
use self::retry_budget::RetryBudget;
pub use self::shortage::shortage;
use self::split::{Batch, Cutting, Errors, Misfits};
use crate::config::Current;
use crate::message::{Call, TooLate};
use crate::pool::{HostId, Lease, Model, Outcome, Pool, TurnedAway};
use crate::telemetry::{APART, Journal, Metrics};
use crate::upstream::{Upstream, Verdict};

/// Sends requests to hosts until one delivers.
pub struct Dispatcher {
    pool: Pool,
    attempts: Attempts,
    config: Current,
    budget: Mutex<RetryBudget>,
    misfits: Misfits,
    errors: Errors,
    members: Members,
    apart: Arc<Apart>,
}

/// Why a request has no answer yet.
enum Stop {
    Refused(Refusal),
    /// It has a lease, and is better cut.
    ToCut(Box<Batch>),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Dispatcher {
    /// Puts the parts together.
    pub fn new(
        pool: Pool,
        upstream: Arc<dyn Upstream>,
        config: Current,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            pool,
            attempts: Attempts { upstream, metrics },
            config,
            budget: Mutex::new(RetryBudget::new(Instant::now().into_std())),
            misfits: Misfits::default(),
            errors: Errors::default(),
            members: Members::default(),
            apart: Arc::default(),
        }
    }

    /// Gets an answer for `call`. Dropping the future gives up the place in line or the lease.
    ///
    /// # Errors
    /// [`NoHost`] if no host delivered.
    pub async fn dispatch(&self, call: &Call, journal: &Journal) -> Result<Delivery, NoHost> {
        let mut way = self.set_out(call, journal);
        let found = call.deadline.bound(pin!(self.find(&mut way))).await;
        match found {
            Ok(Ok(delivery)) => Ok(delivery),
            Ok(Err(Refusal::Deadline)) if call.deadline.left() == Some(Duration::ZERO) => {
                Err(way.give_up(Refusal::TooLate, &self.pool))
            }
            Ok(Err(refusal)) => Err(way.give_up(refusal, &self.pool)),
            Err(TooLate) => Err(way.give_up(Refusal::TooLate, &self.pool)),
        }
    }

    fn set_out<'a>(&self, call: &'a Call, journal: &'a Journal) -> Itinerary<'a> {
        let config = self.config.get();
        self.budget().deposit(config.retries.budget_percent);
        Itinerary::new(call, &config, self.pool.ticket(), journal)
    }

    /// From host to host, as a whole or in parts.
    async fn find(&self, way: &mut Itinerary<'_>) -> Result<Delivery, Refusal> {
        loop {
            let batch = match self.follow(None, way).await {
                Ok(delivery) => return Ok(delivery),
                Err(Stop::Refused(refusal)) => return Err(refusal),
                Err(Stop::ToCut(batch)) => batch,
            };
            // Boxed, so that requests that stay whole are not larger for it.
            let ended = Box::pin(self.run_parts(*batch, way)).await;
            way.comes_back();
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// From host to host, beginning with that of `lease` if it has one.
    async fn follow(
        &self,
        mut lease: Option<Lease>,
        way: &mut Itinerary<'_>,
    ) -> Result<Delivery, Stop> {
        let model = way.model();
        loop {
            let lease = match lease.take() {
                Some(lease) => lease,
                None => match self.set_off(way).await {
                    Ok(lease) => lease,
                    Err(refusal) => return Ok(self.conclude(way, refusal)?),
                },
            };
            match Cutting::of(&lease, way, &self.misfits, &self.errors) {
                Cutting::Needless => {}
                Cutting::Planned(planned) => {
                    return Err(Stop::ToCut(Box::new(planned.begin(lease))));
                }
                Cutting::Impossible => {
                    lease.finish(Outcome::Untried);
                    way.stays_whole();
                    continue;
                }
            }
            let set_off = Instant::now();
            let end = if lease.is_shared() {
                self.attempt_together(&lease, way).await
            } else {
                way.seat = None;
                self.attempt(&lease, way).await
            };
            way.comes_back();
            match end {
                End::Delivered(answer, cut) => {
                    return Ok(self.deliver(&lease, answer, cut, way));
                }
                End::Apart(rerun) => {
                    self.attempts.metrics.requests.retried(APART);
                    way.runs_again(rerun);
                }
                End::Failed { verdict, proof } => {
                    if matches!(verdict, Verdict::Busy { .. }) {
                        way.was_refused(lease.host(), set_off);
                    } else {
                        way.stays_alone();
                    }
                    self.attempts.metrics.requests.retried(verdict.as_str());
                    let may_lack = self.may_lack(model, lease.host());
                    way.history
                        .record(lease.host(), lease.name(), verdict, proof, may_lack);
                }
            }
            if self.is_over(model, &way.history) {
                return Ok(self.conclude(way, Refusal::HostsFailed)?);
            }
            if way.is_late() {
                return Ok(self.conclude(way, Refusal::Deadline)?);
            }
        }
    }

    /// The end without a good answer. Of a model that the whole pool lacks, more is known than what one
    /// host says. One that has waited in vain for a host that might have its model gets the answer of
    /// those that lack it, unless another is known to have it: then it is worth coming again.
    fn conclude(&self, way: &mut Itinerary<'_>, refusal: Refusal) -> Result<Delivery, Refusal> {
        let (model, history) = (way.model(), &mut way.history);
        let withheld = self.pool.withheld(model, history.avoid());
        let withheld = withheld.filter(|why| *why != TurnedAway::NoModel);
        if let Some(why) = withheld
            && (!history.has_answer() || history.lacks_model())
        {
            return Err(why.into());
        }
        if !history.lacks_model() {
            return history.conclude(refusal);
        }
        match (refusal, model) {
            (Refusal::Deadline, model) if model.is_some_and(|it| self.pool.is_known(it)) => {
                Err(refusal)
            }
            (Refusal::HostsFailed | Refusal::NoModel, Some(model))
                if history.accused().is_empty() && self.pool.is_shared() && !model.is_default() =>
            {
                Err(Refusal::NoModel)
            }
            _ => history.conclude(Refusal::NoModel),
        }
    }

    /// Is `host` not known to have `model`?
    fn may_lack(&self, model: Option<&Model>, host: HostId) -> bool {
        model.is_some_and(|model| !self.pool.is_known_on(host, model))
    }

    fn is_over(&self, model: Option<&Model>, history: &History) -> bool {
        history.is_over(|avoid, later| self.pool.has_alternative(model, avoid, later))
    }

    fn budget(&self) -> std::sync::MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
