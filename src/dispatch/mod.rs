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

mod history;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::history::History;
use crate::config::HostName;
use crate::message::{Answer, Call, Cut, Rest};
use crate::pool::{Lease, Outcome, Pool, Ticket};
use crate::telemetry::Metrics;
use crate::upstream::{Upstream, Verdict};

/// How long is tried.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bound on the time that a request waits for leases, in all.
    pub max_wait: Duration,
}

/// Sends requests to hosts until one delivers.
pub struct Dispatcher<U> {
    pool: Pool,
    upstream: Arc<U>,
    settings: Settings,
    metrics: Arc<Metrics>,
}

/// What happened to one request so far, for its log line. Kept by the caller, so that it outlives a
/// request whose client goes away.
#[derive(Debug, Default)]
pub struct Journal {
    /// Each attempt: the host, and one word for how it ended.
    pub attempts: Vec<(HostName, &'static str)>,
    /// Time spent waiting for leases.
    pub queued: Duration,
    /// Time spent in attempts.
    pub upstream: Duration,
}

/// A host's answer, on its way to the client.
pub struct Delivery {
    /// Who answered.
    pub host: HostName,
    /// The answer, as far as it is held.
    pub answer: Answer,
    /// The rest of an answer that is too large to hold.
    pub rest: Option<LeasedRest>,
}

/// The rest of a large answer, with the lease that it still uses.
pub struct LeasedRest {
    rest: Box<dyn Rest>,
    lease: Option<Lease>,
}

impl LeasedRest {
    /// The next chunk; `None` after the last.
    ///
    /// # Errors
    /// [`Cut`] if the host fails half-way; nobody can repeat the request by then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        let next = self.rest.next().await;
        let outcome = match &next {
            Ok(Some(_)) => return next,
            Ok(None) => Outcome::Answered,
            Err(Cut::Failed(_)) => Outcome::Broke,
            Err(Cut::TooSlow) => Outcome::Abandoned,
        };
        self.lease.take().map(|lease| lease.finish(outcome));
        next
    }
}

/// Why a request got no host's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many wait already.
    #[error("all hosts are busy and the queue is full; retry later")]
    QueueFull,
    /// No host became free in time.
    #[error("no host became free in time; retry later")]
    Deadline,
    /// The request was sent to several hosts and none gave a whole answer.
    #[error("the hosts that took this request failed to answer it")]
    HostsFailed,
}

impl<U: Upstream> Dispatcher<U> {
    /// Puts the parts together.
    pub fn new(pool: Pool, upstream: Arc<U>, settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self {
            pool,
            upstream,
            settings,
            metrics,
        }
    }

    /// Gets an answer for `call`. Dropping the future gives up the place in line or the lease.
    ///
    /// # Errors
    /// [`Refusal`] if no host delivered.
    pub async fn dispatch(&self, call: &Call, journal: &mut Journal) -> Result<Delivery, Refusal> {
        let ticket = self.pool.ticket();
        let mut history = History::default();
        loop {
            let lease = match self.acquire(ticket, &history, journal).await {
                Ok(lease) => lease,
                Err(refusal) => return history.conclude(refusal),
            };
            let verdict = match self.attempt(&lease, call, journal).await {
                Verdict::Deliver(answer) => return Ok(self.deliver(lease, answer, &history)),
                failure => failure,
            };
            let (host, name, reason) = (lease.host(), lease.name().clone(), verdict.as_str());
            let proof = lease.finish(verdict.outcome());
            history.record(host, &name, verdict, proof);
            if history.is_over(|avoid| self.pool.has_alternative(avoid)) {
                return history.conclude(Refusal::HostsFailed);
            }
            self.metrics.retries.with_label_values(&[reason]).inc();
        }
    }

    /// A lease, in the request's turn.
    async fn acquire(
        &self,
        ticket: Ticket,
        history: &History,
        journal: &mut Journal,
    ) -> Result<Lease, Refusal> {
        let newcomer = journal.attempts.is_empty();
        let mut waiting = self
            .pool
            .join(ticket, history.avoid(), newcomer)
            .map_err(|_| Refusal::QueueFull)?;
        if let Some(lease) = waiting.try_lease() {
            return Ok(lease);
        }
        let left = self.settings.max_wait.saturating_sub(journal.queued);
        let stopwatch = Stopwatch::start(&mut journal.queued);
        let lease = tokio::time::timeout(left, waiting.lease()).await;
        drop(stopwatch);
        lease.map_err(|_| Refusal::Deadline)
    }

    async fn attempt(&self, lease: &Lease, call: &Call, journal: &mut Journal) -> Verdict {
        journal.attempts.push((lease.name().clone(), "abandoned"));
        let stopwatch = Stopwatch::start(&mut journal.upstream);
        let verdict = tokio::select! {
            verdict = self.upstream.attempt(lease.host(), call) => verdict,
            () = lease.host_hangs() => Verdict::Fault {
                sent: true,
                reason: "its health checks get no answer any more".to_owned(),
            },
        };
        drop(stopwatch);
        let word = verdict.as_str();
        if let Some(last) = journal.attempts.last_mut() {
            last.1 = word;
        }
        self.metrics
            .attempts
            .with_label_values(&[lease.name().as_ref(), word])
            .inc();
        if let Verdict::Fault { sent, reason } = &verdict {
            tracing::warn!(host = %lease.name(), sent, reason, "attempt failed");
        }
        verdict
    }

    /// A sibling that answers well shows whose fault the server errors before were. Only a success
    /// shows it: a host that lacks a model may say 404 where another says 500.
    fn deliver(&self, lease: Lease, mut answer: Answer, history: &History) -> Delivery {
        if answer.status.is_success() {
            for host in history.accused() {
                self.pool.blame(*host);
            }
        }
        let host = lease.name().clone();
        let rest = if let Some(rest) = answer.rest.take() {
            Some(LeasedRest {
                rest,
                lease: Some(lease),
            })
        } else {
            lease.finish(Outcome::Answered);
            None
        };
        Delivery { host, answer, rest }
    }
}

/// Adds the time of its life to a sum, also when its future is dropped.
struct Stopwatch<'a> {
    sum: &'a mut Duration,
    started: Instant,
}

impl<'a> Stopwatch<'a> {
    fn start(sum: &'a mut Duration) -> Self {
        Self {
            sum,
            started: Instant::now(),
        }
    }
}

impl Drop for Stopwatch<'_> {
    fn drop(&mut self) {
        *self.sum += self.started.elapsed();
    }
}

#[cfg(test)]
mod tests;
