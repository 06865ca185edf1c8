//! One attempt, or two where the first straggles and a sibling idles (hedging: Dean and Barroso, "The
//! Tail at Scale", 2013).

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, Settings};
use crate::message::Call;
use crate::pool::{Avoid, Cause, Lease, Proof};
use crate::telemetry::trace::Context;
use crate::telemetry::{End, Journal};
use crate::upstream::{Terms, Upstream, Verdict};

/// A request is given up on a host only after this much time, however little it should take …
const LEAST_LIMIT: Duration = Duration::from_secs(10);
/// … and after this many times what it should take.
const PATIENCE: u32 = 20;

/// An attempt that has ended.
pub(super) struct Ended {
    pub(super) lease: Lease,
    pub(super) verdict: Verdict,
    /// The host's last sign of life, if the lease has been given back already.
    pub(super) proof: Option<Proof>,
}

impl<U: Upstream> Dispatcher<U> {
    /// Runs `call` on the host of `lease`. Returns one attempt, or two of which at most the last
    /// delivers.
    pub(super) async fn run(
        &self,
        lease: Lease,
        call: &Call,
        avoid: &Avoid,
        settings: Settings,
        journal: &Journal,
    ) -> Vec<Ended> {
        let hedge_after = lease.straggles_after().filter(|_| settings.hedge);
        let hedge;
        let (first, second) = {
            let mut running = pin!(self.attempt(&lease, call, settings, journal));
            let in_time = match hedge_after {
                None => Some(running.as_mut().await),
                Some(after) => tokio::select! {
                    verdict = &mut running => Some(verdict),
                    () = tokio::time::sleep(after) => None,
                },
            };
            hedge = match in_time {
                Some(_) => None,
                None => lease.hedge(avoid),
            };
            match (in_time, &hedge) {
                (Some(verdict), _) => (Some((verdict, None)), None),
                (None, None) => (Some((running.await, None)), None),
                (None, Some(other)) => {
                    self.metrics.requests.hedged();
                    let hedge = self.attempt(other, call, settings, journal);
                    race((&lease, running), (other, hedge)).await
                }
            }
        };
        let leases = std::iter::once(lease).chain(hedge);
        let mut ended = Vec::new();
        for (lease, end) in leases.zip([first, second]) {
            let Some((verdict, proof)) = end else {
                continue;
            };
            ended.push(Ended {
                lease,
                verdict,
                proof,
            });
        }
        ended.sort_by_key(|ended| matches!(ended.verdict, Verdict::Deliver(_)));
        ended
    }

    async fn attempt(
        &self,
        lease: &Lease,
        call: &Call,
        settings: Settings,
        journal: &Journal,
    ) -> Verdict {
        let started = Instant::now();
        let trace = call.trace.map(Context::child);
        let note = journal.attempt(lease.name().as_ref(), trace.map(|trace| trace.span));
        let terms = Terms {
            limit: limit(lease, settings),
            longest: settings.attempt,
            trace,
        };
        let verdict = tokio::select! {
            verdict = self.upstream.attempt(lease.host(), call, terms) => verdict,
            cause = lease.host_is_lost() => Verdict::Moved { hung: cause == Cause::Hung },
        };
        note.end(verdict.as_str(), verdict.reason());
        self.metrics
            .hosts
            .attempted(lease.name(), verdict.as_str(), started.elapsed());
        let (ended, took) = account(&verdict, started.elapsed());
        self.metrics.activity.attempt(lease.name(), ended, took);
        match &verdict {
            Verdict::Fault { sent, reason } => {
                tracing::warn!(host = %lease.name(), sent, reason, "attempt failed");
            }
            Verdict::Moved { .. } => {
                tracing::warn!(host = %lease.name(), "attempt given up: its host is ejected");
            }
            _ => {}
        }
        verdict
    }
}

/// How an attempt counts for its host, and with which time if that says how fast it is.
fn account(verdict: &Verdict, took: Duration) -> (End, Option<Duration>) {
    match verdict {
        Verdict::Deliver(answer) => (End::Well, answer.status.is_success().then_some(took)),
        Verdict::Busy { .. } => (End::Full, None),
        Verdict::ServerError(_)
        | Verdict::Fault { .. }
        | Verdict::Moved { .. }
        | Verdict::Misconfigured { .. } => (End::Badly, None),
    }
}

/// How an attempt ended, and the host's last sign of life if its lease has been given back.
type Conclusion = Option<(Verdict, Option<Proof>)>;

/// How both ended, unless the one that ends first delivers: then the other is given up. One that fails
/// first gives its lease back at once.
async fn race(
    (first_lease, first): (&Lease, impl Future<Output = Verdict>),
    (second_lease, second): (&Lease, impl Future<Output = Verdict>),
) -> (Conclusion, Conclusion) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    tokio::select! {
        verdict = &mut first => match verdict {
            Verdict::Deliver(_) => (Some((verdict, None)), None),
            failure => {
                let proof = first_lease.give_back(failure.outcome());
                (Some((failure, proof)), Some((second.await, None)))
            }
        },
        verdict = &mut second => match verdict {
            Verdict::Deliver(_) => (None, Some((verdict, None))),
            failure => {
                let proof = second_lease.give_back(failure.outcome());
                (Some((first.await, None)), Some((failure, proof)))
            }
        },
    }
}

/// How long an attempt may take: many times what it should, but never more than the operator says.
fn limit(lease: &Lease, settings: Settings) -> Duration {
    lease.expected().map_or(settings.attempt, |expected| {
        let adapted = expected.saturating_mul(PATIENCE).max(LEAST_LIMIT);
        adapted.min(settings.attempt)
    })
}
