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
mod history;
mod itinerary;
mod lately;
mod merge;
mod retry_budget;
mod shortage;
mod split;
mod wanted;

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gpu_bridge_wire::items;
use tokio::time::Instant;

use self::attempt::{Attempts, End};
use self::history::History;
use self::itinerary::{Itinerary, Mode};
use self::merge::{Apart, Members, Suspect};
use self::retry_budget::RetryBudget;
pub use self::shortage::shortage;
use self::split::{Batch, Cutting, Errors, Misfits};
use crate::config::{Current, HostName};
use crate::embedding::Space;
use crate::message::{Answer, Call, Cut, Rest, TooLate};
use crate::pool::{HostId, Lease, LimitReached, Model, Outcome, Pool, TurnedAway};
use crate::telemetry::{APART, Journal, Metrics, NotedWait};
use crate::upstream::{Upstream, Verdict};

/// Only who waits for longer finds out what for: it costs a look at the pool.
const WORTH_ASKING: Duration = Duration::from_millis(100);

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

/// A host's answer, on its way to the client.
pub struct Delivery {
    /// Who answered.
    pub host: HostName,
    /// Where its vectors lie, if that is known.
    pub space: Option<Space>,
    /// Who else did, of a batch in parts.
    pub others: Vec<HostName>,
    /// The answer, as far as it is held.
    pub answer: Answer,
    /// Where its items stand, if it is that to a part of a batch.
    cut: Option<items::Cut>,
    /// The rest of an answer that is too large to hold.
    pub rest: Option<LongRest>,
}

/// The rest of a long answer. Its lease is given back already: hosts compute an answer before they send it,
/// so however slowly a client reads, it keeps no GPU from others.
pub struct LongRest {
    rest: Box<dyn Rest>,
    host: HostId,
    pool: Pool,
}

impl LongRest {
    /// The next chunk; `None` after the last.
    ///
    /// # Errors
    /// [`Cut`] if the host fails half-way; nobody can repeat the request by then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        let next = self.rest.next().await;
        if let Err(Cut::Failed(_)) = &next {
            self.pool.blame(self.host, None);
        }
        next
    }
}

/// A request got no host's answer.
#[derive(Clone, Copy, Debug)]
pub struct NoHost {
    /// Why.
    pub refusal: Refusal,
    /// The limit of its client's own that held it back, if one did.
    pub limit: Option<LimitReached>,
}

/// Why a request got no host's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many wait already.
    #[error("all hosts are busy and the queue is full")]
    QueueFull,
    /// Its client waits for too many models that no host tells of.
    #[error(
        "this client's requests already wait for as many different models as they may, and no host tells of this one"
    )]
    ManyModels,
    /// Too much is ahead of it in the queue.
    #[error("all hosts are busy and the queue is longer than this request may wait")]
    QueueTooLong,
    /// Every host lacks the model.
    #[error("no host of the pool has the model")]
    NoModel,
    /// Every host that has the model answers wrong.
    #[error("the hosts that have the model answer wrong, as an audit has shown")]
    Deviating,
    /// No host that has the model has it in the space that the client wants.
    #[error("no host serves the model in the space that X-Embedding-Space names")]
    OtherSpace,
    /// No host became free in time.
    #[error("no host became free in time")]
    Deadline,
    /// Its client does not want the answer any more.
    #[error("the time that the client gave this request (X-Request-Timeout) has passed")]
    TooLate,
    /// The request was sent to several hosts and none gave a whole answer.
    #[error("the hosts that took this request failed to answer it")]
    HostsFailed,
}

impl From<TurnedAway> for Refusal {
    fn from(turned_away: TurnedAway) -> Self {
        match turned_away {
            TurnedAway::Full => Self::QueueFull,
            TurnedAway::ManyModels => Self::ManyModels,
            TurnedAway::NoModel => Self::NoModel,
            TurnedAway::Deviating => Self::Deviating,
            TurnedAway::OtherSpace => Self::OtherSpace,
            TurnedAway::TooLong => Self::QueueTooLong,
        }
    }
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
                    if !matches!(verdict, Verdict::Busy { .. }) {
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
        }
    }

    /// Waits for a lease.
    async fn set_off(&self, way: &mut Itinerary<'_>) -> Result<Lease, Refusal> {
        let joined = Instant::now();
        let lease = self.acquire(way).await?;
        way.sets_off(joined);
        Ok(lease)
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

    /// A lease, in the request's turn.
    async fn acquire(&self, way: &mut Itinerary<'_>) -> Result<Lease, Refusal> {
        let left = way.left();
        let note = way.journal.wait();
        let demand = &way.call.demand;
        let mut waiting = if way.returning {
            let owed = way.takes_what_it_owes();
            if owed > 0.0 {
                // It slows retries down; it fails none.
                let _ = tokio::time::timeout(left / 2, self.budgeted(owed, &note)).await;
            }
            if let Some(lease) = self.elsewhere(way, left, &note).await {
                return lease;
            }
            self.pool.rejoin(way.ticket, demand, way.history.avoid())
        } else {
            self.pool.join(way.ticket, demand, left)?
        };
        if let Some(lease) = waiting.try_lease() {
            return Ok(lease?);
        }
        self.offer(way, &waiting);
        let leased = async {
            let mut leased = pin!(waiting.lease());
            if let Ok(lease) = tokio::time::timeout(WORTH_ASKING, leased.as_mut()).await {
                return lease;
            }
            let client = demand.client.as_ref();
            note.because(match self.pool.limit_reached(client, way.returning) {
                Some(limit) => limit.to_string(),
                None => shortage(&self.pool),
            });
            leased.await
        };
        tokio::select! {
            lease = tokio::time::timeout_at(note.started() + left, leased) => {
                Ok(lease.map_err(|_| Refusal::Deadline)??)
            }
            () = self.last_word(way.model(), &way.history) => Err(Refusal::HostsFailed),
            () = self.stranded(way) => Err(Refusal::HostsFailed),
        }
    }

    /// Ends when the request is a part of a batch that no host takes which serves.
    async fn stranded(&self, way: &Itinerary<'_>) {
        if way.mode != Mode::Part {
            std::future::pending::<()>().await;
        }
        while self.pool.takes_part(&way.call.demand) {
            tokio::time::sleep(WORTH_ASKING).await;
        }
    }

    /// Ends when no host is left that might know better than the answer in hand, if there is one.
    async fn last_word(&self, model: Option<&Model>, history: &History) {
        if !history.has_answer() {
            std::future::pending::<()>().await;
        }
        while !self.is_over(model, history) {
            tokio::time::sleep(WORTH_ASKING).await;
        }
    }

    /// Is `host` not known to have `model`?
    fn may_lack(&self, model: Option<&Model>, host: HostId) -> bool {
        model.is_some_and(|model| !self.pool.is_known_on(host, model))
    }

    fn is_over(&self, model: Option<&Model>, history: &History) -> bool {
        history.is_over(|avoid, later| self.pool.has_alternative(model, avoid, later))
    }

    /// After a failure of this machine: a lease on a host that did not meet it, or `None` when it is
    /// time to try all of them again.
    async fn elsewhere(
        &self,
        way: &mut Itinerary<'_>,
        left: Duration,
        note: &NotedWait,
    ) -> Option<Result<Lease, Refusal>> {
        let (avoid, pause) = way.history.pause()?;
        note.because("the proxy's machine is short of descriptors, ports or memory".to_owned());
        let mut waiting = self.pool.rejoin(way.ticket, &way.call.demand, avoid);
        // Those that wait together should not come together.
        let pause = pause.mul_f64(rand::random_range(1.0..1.5)).min(left);
        if let Ok(lease) = tokio::time::timeout(pause, waiting.lease()).await {
            return Some(lease.map_err(Refusal::from));
        }
        way.history.end_pause();
        (pause == left).then_some(Err(Refusal::Deadline))
    }

    /// Waits until the budget covers such a share of a retry.
    async fn budgeted(&self, share: f64, note: &NotedWait) {
        loop {
            let withdrawn = self.budget().withdraw(share, Instant::now().into_std());
            let Err(wait) = withdrawn else {
                return;
            };
            note.because("retries are held back, since many attempts fail".to_owned());
            // Those that wait together should not come together.
            tokio::time::sleep(wait.mul_f64(rand::random_range(1.0..2.0))).await;
        }
    }

    fn budget(&self) -> std::sync::MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sibling that answers well shows whose fault the doubtful answers before were. Only a success
    /// shows it: a host that lacks a model may say 404 where another says 500.
    fn deliver(
        &self,
        lease: &Lease,
        mut answer: Answer,
        cut: Option<items::Cut>,
        way: &mut Itinerary<'_>,
    ) -> Delivery {
        let success = answer.status.is_success();
        if success {
            way.suspects.drain(..).for_each(Suspect::clear);
            for accused in way.history.accused() {
                let lacks = way.model().filter(|_| accused.may_lack_model);
                self.pool.blame(accused.host, lacks);
            }
        }
        let host = lease.name().clone();
        let rest = answer.rest.take().map(|rest| LongRest {
            rest,
            host: lease.host(),
            pool: self.pool.clone(),
        });
        let timed = success && rest.is_none();
        lease.finish(Outcome::Answered { timed });
        Delivery {
            host,
            space: lease.space().filter(|_| success),
            others: Vec::new(),
            answer,
            cut,
            rest,
        }
    }
}

#[cfg(test)]
mod tests;
