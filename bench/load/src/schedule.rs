//! What is asked for and when: drawn from a seed, so that everyone who is measured gets the same.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One request to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    /// Since the start.
    pub(crate) at: Duration,
    /// How long it occupies a slot of a host of speed 1.
    pub(crate) work: Duration,
    /// Texts in it.
    pub(crate) texts: usize,
}

/// The distribution of requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// How many.
    pub(crate) requests: usize,
    /// Poisson arrivals per second; none: all at once, for those who send one after the other.
    pub(crate) rate: Option<f64>,
    /// Mean of the lognormal work.
    pub(crate) mean: Duration,
    /// Its standard deviation as a share of the mean.
    pub(crate) variation: f64,
    /// Texts in a request: from 1, or all the same.
    pub(crate) texts: Texts,
}

/// How many texts a request has, and what that means for its work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Texts {
    /// The same number in each.
    Always(usize),
    /// Any number up to this; the work is proportional to it.
    UpTo(usize),
}

/// All requests, in order of their time.
pub(crate) fn draw(spec: &Spec, seed: u64) -> Vec<Job> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut at = 0.0;
    (0..spec.requests)
        .map(|_| {
            if let Some(rate) = spec.rate {
                at += exponential(&mut random) / rate;
            }
            let mean = spec.mean.as_secs_f64();
            let work = mean * lognormal(&mut random, spec.variation);
            let (texts, share) = spec.texts.draw(&mut random);
            Job {
                at: Duration::from_secs_f64(at),
                work: Duration::from_secs_f64(work * share),
                texts,
            }
        })
        .collect()
}

impl Texts {
    /// The number, and its share of the mean number.
    fn draw(self, random: &mut StdRng) -> (usize, f64) {
        match self {
            Self::Always(texts) => (texts, 1.0),
            Self::UpTo(most) => {
                let texts = random.random_range(1..=most.max(1));
                (texts, 2.0 * texts as f64 / (most.max(1) + 1) as f64)
            }
        }
    }
}

/// Mean 1.
fn exponential(random: &mut StdRng) -> f64 {
    -(1.0 - random.random::<f64>()).ln()
}

/// Mean 1, standard deviation `variation`.
fn lognormal(random: &mut StdRng, variation: f64) -> f64 {
    let variance = (1.0 + variation * variation).ln();
    (variance.sqrt() * normal(random) - variance / 2.0).exp()
}

/// Box and Muller's way.
fn normal(random: &mut StdRng) -> f64 {
    let radius = (2.0 * exponential(random)).sqrt();
    radius * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Spec = Spec {
        requests: 20_000,
        rate: Some(40.0),
        mean: Duration::from_millis(200),
        variation: 0.5,
        texts: Texts::Always(1),
    };

    fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = values.len() as f64;
        values.sum::<f64>() / count
    }

    #[test]
    fn the_seed_alone_decides() {
        assert_eq!(draw(&SPEC, 1), draw(&SPEC, 1));
        assert_ne!(draw(&SPEC, 1), draw(&SPEC, 2));
    }

    #[test]
    fn rate_mean_and_variation_are_those_asked_for() {
        let jobs = draw(&SPEC, 1);
        let last = jobs.last().unwrap().at.as_secs_f64();
        assert!((last - 500.0).abs() < 15.0, "took {last} s");
        let work = |job: &Job| job.work.as_secs_f64();
        let average = mean(jobs.iter().map(work));
        assert!((average - 0.2).abs() < 0.004, "mean {average} s");
        let variance = mean(jobs.iter().map(|job| (work(job) - average).powi(2)));
        let variation = variance.sqrt() / average;
        assert!((variation - 0.5).abs() < 0.03, "variation {variation}");
    }

    #[test]
    fn work_can_be_proportional_to_texts_with_the_same_mean() {
        let spec = Spec {
            texts: Texts::UpTo(9),
            variation: 0.0,
            ..SPEC
        };
        let jobs = draw(&spec, 1);
        for job in &jobs {
            let each = job.work.as_secs_f64() / job.texts as f64;
            assert!((each - 0.04).abs() < 1e-6, "{job:?}");
        }
        let average = mean(jobs.iter().map(|job| job.work.as_secs_f64()));
        assert!((average - 0.2).abs() < 0.004, "mean {average} s");
    }
}
