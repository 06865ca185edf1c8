//! What a run of the generator says of whom it measured.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::client::Outcome;
use crate::schedule::Job;

/// One request, when it is over.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) outcome: Outcome,
    pub(crate) work: Duration,
    /// From when it was due to its end.
    pub(crate) latency: Duration,
    /// Since the start.
    pub(crate) ended: Duration,
}

/// Printed as JSON; times are in seconds.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    requests: usize,
    ok: usize,
    ok_percent: f64,
    /// Requests by how they ended: `ok`, a status, `wrong`, `broken`, `timed-out`.
    outcomes: BTreeMap<String, usize>,
    /// Of good answers.
    latency: Latency,
    /// The longest that any request took, however it ended.
    worst: f64,
    /// From the first request to the end of the last.
    seconds: f64,
    /// Good answers per second.
    throughput: f64,
    /// See [`efficiency`].
    efficiency: Option<f64>,
}

#[derive(Debug, Default, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

/// `ideal`: how long the ideal proxy takes for all.
pub(crate) fn summarize(jobs: &[Job], answered: &[Answered], ideal: Option<Duration>) -> Summary {
    let good: Vec<&Answered> = answered
        .iter()
        .filter(|answered| answered.outcome == Outcome::Ok)
        .collect();
    let first = jobs.first().map_or(Duration::ZERO, |job| job.at);
    let end = answered.iter().map(|answered| answered.ended).max();
    let took = end.unwrap_or_default().saturating_sub(first);
    let worst = answered.iter().map(|answered| answered.latency).max();
    Summary {
        requests: answered.len(),
        ok: good.len(),
        ok_percent: 100.0 * good.len() as f64 / answered.len().max(1) as f64,
        outcomes: outcomes(answered),
        latency: Latency::of(good.iter().map(|answered| answered.latency)),
        worst: worst.unwrap_or_default().as_secs_f64(),
        seconds: took.as_secs_f64(),
        throughput: good.len() as f64 / took.as_secs_f64(),
        efficiency: ideal.and_then(|ideal| {
            let done = good.iter().map(|answered| answered.work).sum();
            let offered = jobs.iter().map(|job| job.work).sum();
            efficiency(
                Share {
                    work: done,
                    time: took,
                },
                Share {
                    work: offered,
                    time: ideal,
                },
            )
        }),
    }
}

/// Work that was done in a time.
#[derive(Clone, Copy, Debug)]
struct Share {
    work: Duration,
    time: Duration,
}

/// Work per second that ended in good answers, from the first request to the end of the last, as a
/// share of what the ideal proxy does with the same requests. It refuses none and so ends with slots
/// that find no more work; one that refuses many can pass 1.
fn efficiency(done: Share, ideal: Share) -> Option<f64> {
    let rate = |share: Share| share.work.as_secs_f64() / share.time.as_secs_f64();
    Some(rate(done) / rate(ideal)).filter(|share| share.is_finite())
}

fn outcomes(answered: &[Answered]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answered in answered {
        let name = match answered.outcome {
            Outcome::Ok => "ok".to_owned(),
            Outcome::Refused(status) => status.as_u16().to_string(),
            Outcome::Wrong => "wrong".to_owned(),
            Outcome::Broken => "broken".to_owned(),
            Outcome::TimedOut => "timed-out".to_owned(),
        };
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

impl Latency {
    fn of(latencies: impl Iterator<Item = Duration>) -> Self {
        let mut sorted: Vec<f64> = latencies.map(|latency| latency.as_secs_f64()).collect();
        sorted.sort_by(f64::total_cmp);
        let Some(max) = sorted.last().copied() else {
            return Self::default();
        };
        Self {
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            p50: percentile(&sorted, 50),
            p99: percentile(&sorted, 99),
            max,
        }
    }
}

/// The least value that `percent` of all do not pass.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn answered(outcome: Outcome, ended: u64) -> Answered {
        Answered {
            outcome,
            work: Duration::from_secs(1),
            latency: Duration::from_secs(ended),
            ended: Duration::from_secs(ended),
        }
    }

    fn jobs(count: usize) -> Vec<Job> {
        let job = Job {
            at: Duration::ZERO,
            work: Duration::from_secs(1),
            texts: 1,
        };
        vec![job; count]
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert!((percentile(&values, 50) - 100.0).abs() < f64::EPSILON);
        assert!((percentile(&values, 99) - 198.0).abs() < f64::EPSILON);
        assert!((percentile(&[7.0], 99) - 7.0).abs() < f64::EPSILON);
    }

    #[test]
    fn efficiency_counts_good_answers_only() {
        // One slot: the ideal does both in 2 s; this one refused one and took 4 s for the other.
        let refused = Outcome::Refused(StatusCode::SERVICE_UNAVAILABLE);
        let all = [answered(Outcome::Ok, 4), answered(refused, 1)];
        let summary = summarize(&jobs(2), &all, Some(Duration::from_secs(2)));
        assert_eq!((summary.ok, summary.requests), (1, 2));
        assert_eq!(summary.efficiency, Some(0.25));
        assert_eq!(summary.outcomes["503"], 1);
    }

    #[test]
    fn nothing_good_has_no_latency_but_a_worst_case() {
        let summary = summarize(&jobs(1), &[answered(Outcome::Broken, 3)], None);
        assert!((summary.worst - 3.0).abs() < f64::EPSILON);
        assert!(summary.latency.max.abs() < f64::EPSILON);
        assert_eq!(summary.efficiency, None);
    }
}
