//! One attempt on the host of a lease, and what its end means for lease, host and metrics.

use std::sync::Arc;
use std::time::Duration;

use gpu_bridge_wire::items::{Cut, Kind};
use http::StatusCode;
use tokio::time::Instant;

use super::Dispatcher;
use super::itinerary::{Itinerary, Mode};
use super::merge::Rerun;
use crate::budget::Exhausted;
use crate::message::{Answer, Call};
use crate::pool::{Cause, Lease, Proof};
use crate::telemetry::trace::TraceContext;
use crate::telemetry::{self, ABANDONED, Metrics, Share};
use crate::upstream::{Doubt, Terms, Upstream, Verdict};

/// A request is given up on a host only after this much time, however little it should take …
const LEAST_LIMIT: Duration = Duration::from_secs(10);
/// … and after this many times what it should take.
const PATIENCE: u32 = 20;

/// For which a host gets nothing where a request has waited behind others in vain.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// How an attempt ended.
pub(super) enum End {
    /// With the client's answer, and where its items stand, if it was asked for to be cut and can be.
    Delivered(Answer, Option<Cut>),
    /// Otherwise; its lease is given back.
    Failed {
        verdict: Verdict,
        /// The host's last sign of life.
        proof: Proof,
    },
    /// It was for several requests and no answer for each; its lease is given back. They run again.
    Apart(Rerun),
}

/// Makes attempts, and counts them.
#[derive(Clone)]
pub(super) struct Attempts {
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) metrics: Arc<Metrics>,
}

impl Attempts {
    /// One attempt on the host of `lease`. `to_cut`: what it is, if the answer is to be cut. Returns where its items
    /// stand, too, if it can be.
    pub(super) async fn make(
        &self,
        lease: &Lease,
        call: &Call,
        terms: Terms,
        to_cut: Option<Kind>,
    ) -> (Verdict, Option<Cut>) {
        let mut counted = Counted {
            metrics: &self.metrics,
            lease,
            items: call.demand.work.items,
            started: Instant::now(),
            ended: None,
        };
        let verdict = tokio::select! {
            verdict = self.upstream.attempt(lease.host(), call, terms) => verdict,
            cause = lease.host_is_lost() => Verdict::Moved { hung: cause == Cause::Hung },
            // The host has let it wait, and not said so.
            () = lease.is_free_elsewhere(), if terms.may_move => Verdict::Busy { retry_after: LEFT_ALONE },
        };
        let verdict = match verdict {
            Verdict::Deliver(_) if lease.is_discredited() => Verdict::Wrong,
            verdict => verdict,
        };
        let took = counted.started.elapsed();
        let (verdict, cut) = match (to_cut, verdict) {
            (Some(kind), Verdict::Deliver(answer)) => cut(kind, answer).await,
            (_, verdict) => (verdict, None),
        };
        counted.ended = Some((verdict.as_str(), took));
        self.note(lease, &verdict, took);
        (verdict, cut)
    }

    fn note(&self, lease: &Lease, verdict: &Verdict, took: Duration) {
        let metrics = &self.metrics;
        if let Some((ended, took)) = account(verdict, took) {
            metrics.activity.attempt(lease.name(), ended, took);
        }
        match verdict {
            Verdict::Fault { sent, reason } => {
                tracing::warn!(host = %lease.name(), sent, reason, "attempt failed");
            }
            Verdict::Sibling {
                why: Doubt::Unusable,
                ..
            } => {
                let reason = verdict.reason();
                tracing::warn!(host = %lease.name(), reason, "its answer can be no result");
            }
            Verdict::Moved { .. } => {
                tracing::warn!(host = %lease.name(), "attempt given up: its host is ejected");
            }
            Verdict::Misconfigured { .. } => {
                let reason = verdict.reason();
                tracing::warn!(host = %lease.name(), reason, "attempt refused");
            }
            _ => {}
        }
    }
}

/// Counts an attempt when it is dropped, as one that nobody waits for any more has no other end.
struct Counted<'a> {
    metrics: &'a Metrics,
    lease: &'a Lease,
    items: u32,
    started: Instant,
    /// In one word, and after what time.
    ended: Option<(&'static str, Duration)>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let abandoned = || (ABANDONED, self.started.elapsed());
        let (verdict, took) = self.ended.unwrap_or_else(abandoned);
        self.metrics.requests.attempted(self.items);
        let hosts = &self.metrics.hosts;
        hosts.attempted(self.lease.name(), verdict, took);
    }
}

impl Dispatcher {
    /// One attempt on the host of `lease`, which is given back at once if it fails.
    pub(super) async fn attempt(&self, lease: &Lease, way: &Itinerary<'_>) -> End {
        let (call, history, longest) = (way.call, &way.history, way.longest);
        let trace = call.trace.map(TraceContext::child);
        let note = way.journal.attempt(
            lease.name().as_ref(),
            trace.map(|trace| trace.span),
            if way.mode == Mode::Part {
                Share::Part(call.demand.work.items)
            } else {
                Share::Whole
            },
        );
        let terms = Terms {
            limit: limit(lease, longest),
            longest,
            fresh: history.is_broken(),
            may_move: way.may_move(),
            trace,
        };
        let made = self.attempts.make(lease, call, terms, way.to_cut).await;
        let (verdict, cut) = made;
        note.end(verdict.as_str(), verdict.reason());
        // Once for each request: such a shortage hits all that wait.
        if let Verdict::Ours { reason } = &verdict
            && !history.has_paused()
        {
            tracing::warn!(host = %lease.name(), reason, "attempt failed here, not on the host");
        }
        conclude(verdict, cut, lease)
    }
}

/// Where the items of an answer stand; `None`: it can't be cut. Its body is in one piece then.
async fn cut(kind: Kind, answer: Answer) -> (Verdict, Option<Cut>) {
    if answer.status != StatusCode::OK || answer.rest.is_some() {
        return (Verdict::Deliver(answer), None);
    }
    let Ok(body) = answer.body.in_one_piece() else {
        return (Exhausted.into(), None);
    };
    let view = body.view(body.chunks().to_vec());
    let cut = view.through(move |body| Cut::read(kind.answer(), body));
    let cut = cut.await.flatten();
    (Verdict::Deliver(Answer { body, ..answer }), cut)
}

fn conclude(verdict: Verdict, cut: Option<Cut>, lease: &Lease) -> End {
    let outcome = match verdict {
        Verdict::Deliver(answer) => return End::Delivered(answer, cut),
        ref failure => failure.outcome(),
    };
    let proof = lease.finish(outcome);
    End::Failed { verdict, proof }
}

/// How an attempt counts for its host if it does, and with which time if that says how fast it is.
fn account(verdict: &Verdict, took: Duration) -> Option<(telemetry::End, Option<Duration>)> {
    use telemetry::End;

    match verdict {
        Verdict::Deliver(answer) => Some((End::Well, answer.status.is_success().then_some(took))),
        Verdict::Busy { .. } => Some((End::Full, None)),
        // Hosts may differ in models and limits: it is as well as any other that says so.
        Verdict::Sibling {
            why: Doubt::NoModel | Doubt::Limit | Doubt::TooMany { .. },
            ..
        } => Some((End::Well, None)),
        Verdict::Sibling { .. }
        | Verdict::Fault { .. }
        | Verdict::Moved { .. }
        | Verdict::Wrong
        | Verdict::Misconfigured { .. } => Some((End::Badly, None)),
        Verdict::Ours { .. } => None,
    }
}

/// How long an attempt may take: many times what it should, but never more than the operator says.
pub(super) fn limit(lease: &Lease, longest: Duration) -> Duration {
    lease.expected().map_or(longest, |expected| {
        let adapted = expected.saturating_mul(PATIENCE).max(LEAST_LIMIT);
        adapted.min(longest)
    })
}
