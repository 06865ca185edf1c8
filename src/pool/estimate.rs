//! How long hosts take for requests, learned from those that were answered.
//!
//! ```text
//! expected seconds = (fixed + each × units of work) × slowness of the host
//! ```
//!
//! What a model costs, and how slow a host is: two factors instead of one for each pair, so that a host's
//! speed, learned with one model, holds for the others too, and a new host knows what each model costs. Each
//! answer moves both towards what was seen (an exponentially weighted moving average, after a plain average
//! of the first few; for the cost a line, by weighted least squares). What a request costs however small it
//! is shows only where sizes differ; until then all of it counts as if it grew with the work.
//! Only good answers count: a host that fails fast must not look fast.
//!
//! What is much larger than all that was seen so far is a guess: hosts cut long texts, so that one may take no
//! longer than a short one. Nobody is refused for such a guess, and no host looks fast or slow by it.

use std::time::Duration;

use foldhash::{HashMap, HashMapExt as _};

use super::demand::{Demand, Model};

/// The newest answer's share in an average: it follows a change within some dozen answers.
const WEIGHT: f64 = 1.0 / 16.0;
/// One answer that took absurdly long, or short, must not drown all that is known.
const RATIOS: std::ops::RangeInclusive<f64> = 0.05..=20.0;
/// Models that are told apart. Only names that a host answered for get here.
const MAX_MODELS: usize = 256;
/// Before anything is known. Only comparisons between hosts use it.
const FIRST_COST: f64 = 1e-4;
/// How long loading a model takes, before the first was seen.
const FIRST_LOAD: Duration = Duration::from_secs(5);
/// Answers after which expectations are good enough to act on …
const ENOUGH: u32 = 16;
/// … and after which they are where a mistake costs little: a batch that is cut in vain takes time of hosts that
/// idle, and no more of it than its parts cost however small they are. A host's own answers need not be among
/// them: until there are some, it counts as fast as its siblings.
const SOME: u32 = 4;
/// The newest answer's share in the line: it takes answers of several sizes to draw one.
const FIT_WEIGHT: f64 = 1.0 / 64.0;
/// Sizes differ enough to tell what is fixed if their standard deviation is this share of the mean.
const SPREAD: f64 = 0.25;

/// What is larger than the largest request so far by more than this is beyond what is known.
const BEYOND: f64 = 2.0;

/// Answers of a host after which its speed is shown.
const MEASURED: u32 = 4;

/// A moving average with a memory of how much it rests on.
#[derive(Clone, Copy, Debug)]
struct Average {
    value: f64,
    samples: u32,
}

impl Average {
    fn new(value: f64) -> Self {
        Self { value, samples: 0 }
    }

    /// The share that the next sample gets.
    fn weight(self) -> f64 {
        (1.0 / f64::from(self.samples.saturating_add(1))).max(WEIGHT)
    }

    fn record(&mut self, sample: f64) {
        self.value += self.weight() * (sample - self.value);
        self.samples = self.samples.saturating_add(1);
    }
}

/// How many times as long as the average host one host takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slowness(Average);

impl Slowness {
    /// Of a host of which nothing is known but what its siblings are like.
    pub(super) fn like(siblings: impl Iterator<Item = Slowness>) -> Self {
        let (sum, count) = siblings.fold((0.0, 0_u32), |(sum, count), sibling| {
            (sum + sibling.factor(), count + 1)
        });
        let mean = if count == 0 {
            1.0
        } else {
            sum / f64::from(count)
        };
        Self(Average::new(mean))
    }

    /// 1 = as fast as the average; 4 = takes four times as long. Only good to compare hosts: the
    /// average drifts with the costs that were learned beside it.
    pub(super) fn factor(self) -> f64 {
        self.0.value
    }

    /// The factor of a host that has served enough to tell.
    pub(super) fn measured(self) -> Option<f64> {
        (self.0.samples >= MEASURED).then(|| self.factor())
    }
}

/// The middle one of these; of two in the middle their geometric mean, so that of two hosts each is as
/// many times as fast as the other one is slow. 1 if there is none.
pub(super) fn median(factors: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = factors.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let (before, after) = sorted.split_at(middle);
    match (before.last(), after.first()) {
        (Some(lower), Some(upper)) if before.len() == after.len() => (lower * upper).sqrt(),
        (_, upper) => upper.copied().unwrap_or(1.0),
    }
}

/// What a request for a model takes on an average host, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    /// However small it is.
    pub(super) fixed: f64,
    /// For each unit of work.
    pub(super) each: f64,
}

impl Cost {
    fn seconds(self, units: f64) -> f64 {
        self.fixed + self.each * units
    }
}

/// The line through units of work and seconds, for one model.
#[derive(Clone, Copy, Debug)]
struct Fit {
    samples: u32,
    /// Means, of the usual request.
    units: f64,
    seconds: f64,
    variance: f64,
    covariance: f64,
    /// Units of work of the largest.
    largest: f64,
}

impl Fit {
    fn new(units: f64, seconds: f64) -> Self {
        Self {
            samples: 1,
            largest: units,
            units,
            seconds,
            variance: 0.0,
            covariance: 0.0,
        }
    }

    fn record(&mut self, units: f64, seconds: f64) {
        self.samples = self.samples.saturating_add(1);
        self.largest = self.largest.max(units);
        let weight = (1.0 / f64::from(self.samples)).max(FIT_WEIGHT);
        let (more_units, more_seconds) = (units - self.units, seconds - self.seconds);
        self.units += weight * more_units;
        self.seconds += weight * more_seconds;
        let old = 1.0 - weight;
        self.variance = old * (self.variance + weight * more_units * more_units);
        self.covariance = old * (self.covariance + weight * more_units * more_seconds);
    }

    fn is_known(&self) -> bool {
        self.samples >= ENOUGH
    }

    /// The line; `None` while sizes have hardly differed.
    fn line(&self) -> Option<Cost> {
        let (units, seconds) = (self.units, self.seconds);
        if !self.is_known() || self.variance.sqrt() < SPREAD * units {
            return None;
        }
        // Neither part of it can be negative.
        let each = (self.covariance / self.variance).clamp(0.0, seconds / units);
        let fixed = seconds - each * units;
        Some(Cost { fixed, each })
    }

    /// The line, or a guess: that half of what the usual request takes is fixed. Whoever acts on it finds out.
    fn guess(&self) -> Cost {
        self.line().unwrap_or(Cost {
            fixed: self.seconds / 2.0,
            each: self.seconds / 2.0 / self.units,
        })
    }

    /// Is so much work far from all that was seen?
    fn is_beyond(&self, units: f64) -> bool {
        units > self.largest * BEYOND
    }

    fn expected(&self, units: f64) -> f64 {
        let each = self.seconds / self.units;
        let line = self.line().unwrap_or(Cost { fixed: 0.0, each });
        line.seconds(units)
    }
}

/// What the pool has learned of models; see the module.
#[derive(Debug)]
pub(super) struct Estimator {
    costs: HashMap<Option<Model>, Fit>,
    loads: HashMap<Model, Average>,
    /// Over all models, for those not seen yet.
    cost: Average,
    answers: u32,
}

impl Default for Estimator {
    fn default() -> Self {
        Self {
            costs: HashMap::new(),
            loads: HashMap::new(),
            cost: Average::new(FIRST_COST),
            answers: 0,
        }
    }
}

impl Estimator {
    /// Seconds on a host of slowness 1. Use it to compare; whether it means anything yet tells
    /// [`Self::expected`].
    pub(super) fn seconds(&self, demand: &Demand) -> f64 {
        let units = demand.work.units();
        let cost = self.costs.get(&demand.model);
        cost.map_or(units * self.cost.value, |cost| cost.expected(units))
    }

    /// What it takes at least, where enough has been seen of the model, else nothing: to sum up.
    pub(super) fn sure_seconds(&self, demand: &Demand) -> f64 {
        let cost = self.costs.get(&demand.model);
        let known = cost.filter(|cost| cost.is_known());
        known.map_or(0.0, |cost| {
            cost.expected(demand.work.units().min(cost.largest))
        })
    }

    /// How long `demand` should take on a host like that; `None` while too little has been seen.
    pub(super) fn expected(&self, demand: &Demand, host: Slowness) -> Option<Duration> {
        let cost = self.costs.get(&demand.model)?;
        let known = cost.is_known() && host.0.samples >= ENOUGH;
        known.then(|| seconds(cost.expected(demand.work.units()) * host.factor()))
    }

    /// What requests like `demand` cost, as far as that is known by now; `None` while too little has been seen.
    pub(super) fn cost(&self, demand: &Demand) -> Option<Cost> {
        self.cost_after(ENOUGH, demand)
    }

    /// The same where [`SOME`] answers will do.
    pub(super) fn early_cost(&self, demand: &Demand) -> Option<Cost> {
        self.cost_after(SOME, demand)
    }

    fn cost_after(&self, answers: u32, demand: &Demand) -> Option<Cost> {
        let cost = self.costs.get(&demand.model)?;
        (cost.samples >= answers).then(|| cost.guess())
    }

    /// What a request like `demand` may cost though nothing has been seen: half of it is fixed. To share it out.
    pub(super) fn blind_cost(&self, demand: &Demand) -> Cost {
        let half = self.seconds(demand) / 2.0;
        Cost {
            fixed: half,
            each: half / demand.work.units(),
        }
    }

    /// How long `demand` may take on a host like that by this.
    pub(super) fn guess(&self, demand: &Demand, host: Slowness) -> Option<Duration> {
        let cost = self.early_cost(demand)?;
        Some(seconds(cost.seconds(demand.work.units()) * host.factor()))
    }

    /// Has a host answered with `model`?
    pub(super) fn knows(&self, model: &Model) -> bool {
        self.loads.contains_key(model) || self.costs.contains_key(&Some(model.clone()))
    }

    /// Has enough been seen to tell how long the queue will take?
    pub(super) fn is_trustworthy(&self) -> bool {
        self.answers >= ENOUGH
    }

    /// A host answered `demand` well, with its model loaded, after `took`.
    pub(super) fn record(&mut self, demand: &Demand, host: &mut Slowness, took: Duration) {
        let took = took.as_secs_f64().max(1e-6);
        let units = demand.work.units();
        let known = self.costs.get(&demand.model).copied();
        if let Some(cost) = known.filter(|cost| !cost.is_beyond(units)) {
            let ratio = took / (cost.expected(units) * host.factor());
            let ratio = ratio.clamp(*RATIOS.start(), *RATIOS.end());
            host.0.record(host.factor() * ratio);
        }
        let sample = took / host.factor();
        self.cost.record(sample / units);
        self.answers = self.answers.saturating_add(1);
        if let Some(cost) = self.costs.get_mut(&demand.model) {
            let (least, most) = (*RATIOS.start(), *RATIOS.end());
            let expected = cost.expected(units);
            // What is beyond what is known may take no longer, or as much longer as there is more of it.
            let known = if cost.is_beyond(units) {
                cost.expected(cost.largest)
            } else {
                expected
            };
            cost.record(units, sample.clamp(known * least, expected * most));
        } else if self.costs.len() < MAX_MODELS {
            let cost = Fit::new(units, sample);
            self.costs.insert(demand.model.clone(), cost);
        }
    }

    /// A host answered `demand` well and had to load `model` for it.
    pub(super) fn record_load(
        &mut self,
        model: &Model,
        demand: &Demand,
        host: Slowness,
        took: Duration,
    ) {
        let computing = match self.costs.get(&demand.model) {
            Some(cost) => cost.expected(demand.work.units()) * host.factor(),
            None => 0.0,
        };
        let loading = (took.as_secs_f64() - computing).max(0.0);
        if let Some(load) = self.loads.get_mut(model) {
            load.record(loading);
        } else if self.loads.len() < MAX_MODELS {
            let mut load = Average::new(loading);
            load.record(loading);
            self.loads.insert(model.clone(), load);
        }
    }

    /// How long a host takes to load `model`.
    pub(super) fn load_time(&self, model: &Model) -> Duration {
        self.loads
            .get(model)
            .map_or(FIRST_LOAD, |load| seconds(load.value))
    }
}

/// Tolerates nonsense, which would panic in `Duration::from_secs_f64`.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Work;

    fn demand(model: &str, items: u32) -> Demand {
        Demand {
            model: Model::new(model),
            work: Work {
                items,
                bytes: u64::from(items) * 68,
            },
            ..Demand::default()
        }
    }

    /// Answers that take `per_item` seconds for each item, times what the host is slower.
    fn teach(
        estimator: &mut Estimator,
        host: &mut Slowness,
        model: &str,
        per_item: f64,
        times: u32,
    ) {
        for items in (1..=times).map(|time| time % 7 + 1) {
            let took = seconds(per_item * f64::from(items));
            estimator.record(&demand(model, items), host, took);
        }
    }

    fn fresh() -> Slowness {
        Slowness::like(std::iter::empty())
    }

    #[test]
    fn what_is_larger_than_all_before_is_not_counted_on_until_it_was_seen() {
        let (mut estimator, mut host) = (Estimator::default(), Slowness::like([].into_iter()));
        teach(&mut estimator, &mut host, "a", 0.02, 100);
        let (usual, huge) = (demand("a", 7), demand("a", 7000));
        assert!(estimator.seconds(&huge) > 100.0, "a guess");
        assert!(estimator.sure_seconds(&huge) <= estimator.sure_seconds(&usual));

        // It takes no longer than a usual one.
        let before = (estimator.sure_seconds(&usual), host.factor());
        estimator.record(&huge, &mut host, seconds(0.14));

        assert!((host.factor() - before.1).abs() < f64::EPSILON);
        assert!(
            estimator.sure_seconds(&huge) < 1.0,
            "{}",
            estimator.sure_seconds(&huge)
        );
        let usual = estimator.sure_seconds(&usual);
        assert!(
            (0.5..2.0).contains(&(usual / before.0)),
            "{usual} s, {} s before",
            before.0
        );
    }

    #[test]
    fn knows_nothing_before_it_has_seen_enough() {
        let (mut estimator, mut host) = (Estimator::default(), fresh());
        assert_eq!(estimator.expected(&demand("m", 1), host), None);
        teach(&mut estimator, &mut host, "m", 0.01, 8);
        assert_eq!(estimator.expected(&demand("m", 1), host), None);
        assert!(!estimator.is_trustworthy());
    }

    #[test]
    fn scales_with_the_work_and_with_the_host() {
        let mut estimator = Estimator::default();
        let (mut fast, mut slow) = (fresh(), fresh());
        for _ in 0..40 {
            teach(&mut estimator, &mut fast, "m", 0.01, 5);
            teach(&mut estimator, &mut slow, "m", 0.04, 5);
        }
        let expect = |items, host, wanted: f64| {
            let got = estimator.expected(&demand("m", items), host).unwrap();
            let ratio = got.as_secs_f64() / wanted;
            assert!((0.9..1.1).contains(&ratio), "{got:?} for {wanted} s");
        };
        expect(1, fast, 0.01);
        expect(50, fast, 0.5);
        expect(50, slow, 2.0);
    }

    #[test]
    fn what_a_request_costs_however_small_it_is_shows_where_sizes_differ() {
        let (mut estimator, mut host) = (Estimator::default(), fresh());
        let teach = |estimator: &mut Estimator, host: &mut Slowness, items: u32| {
            let took = seconds(0.03 + 0.002 * f64::from(items));
            estimator.record(&demand("m", items), host, took);
        };
        for _ in 0..40 {
            teach(&mut estimator, &mut host, 10);
        }
        let guess = estimator.cost(&demand("m", 1)).unwrap();
        assert!(
            (guess.fixed / 0.05 - 0.5).abs() < 0.1,
            "half of it: {guess:?}"
        );
        for items in (0..400).map(|time| 1 + time * 7 % 100) {
            teach(&mut estimator, &mut host, items);
        }
        for items in [1, 10, 100] {
            let expected = 0.03 + 0.002 * f64::from(items);
            let told = estimator.expected(&demand("m", items), host).unwrap();
            let ratio = told.as_secs_f64() / expected;
            assert!((0.9..1.1).contains(&ratio), "{items}: {told:?}");
        }
        let learned = estimator.cost(&demand("m", 1)).unwrap();
        let fixed = learned.fixed * host.factor();
        assert!((0.025..0.035).contains(&fixed), "{learned:?}");
    }

    #[test]
    fn a_speed_learned_with_one_model_holds_for_another() {
        let mut estimator = Estimator::default();
        let (mut fast, mut slow) = (fresh(), fresh());
        for _ in 0..40 {
            teach(&mut estimator, &mut fast, "small", 0.01, 5);
            teach(&mut estimator, &mut slow, "small", 0.04, 5);
        }
        teach(&mut estimator, &mut fast, "large", 0.1, 40);
        let large = estimator.expected(&demand("large", 1), slow).unwrap();
        assert!((0.35..0.45).contains(&large.as_secs_f64()), "{large:?}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let median = |factors: &[f64]| median(factors.iter().copied());
        let table: [(&[f64], f64); 5] = [
            (&[], 1.0),
            (&[3.0], 3.0),
            (&[4.0, 1.0], 2.0),
            (&[9.0, 1.0, 2.0], 2.0),
            (&[8.0, 1.0, 2.0, 100.0], 4.0),
        ];
        for (factors, expected) in table {
            assert!((median(factors) - expected).abs() < 1e-9, "{factors:?}");
        }
    }

    #[test]
    fn loading_is_told_from_computing() {
        let (mut estimator, mut host) = (Estimator::default(), fresh());
        let model = Model::new("m").unwrap();
        assert_eq!(estimator.load_time(&model), FIRST_LOAD);
        teach(&mut estimator, &mut host, "m", 0.1, 40);
        estimator.record_load(&model, &demand("m", 10), host, Duration::from_secs(4));
        let load = estimator.load_time(&model).as_secs_f64();
        assert!((2.9..3.1).contains(&load), "{load}");
        estimator.record_load(&model, &demand("m", 10), host, Duration::ZERO);
        assert!(
            estimator.load_time(&model) < Duration::from_secs(2),
            "never negative"
        );
    }

    #[test]
    fn names_are_bounded_and_odd_samples_do_no_harm() {
        let (mut estimator, mut host) = (Estimator::default(), fresh());
        for number in 0..2 * MAX_MODELS {
            estimator.record(
                &demand(&number.to_string(), 1),
                &mut host,
                Duration::from_millis(10),
            );
        }
        assert_eq!(estimator.costs.len(), MAX_MODELS);
        for took in [Duration::ZERO, Duration::MAX] {
            estimator.record(&demand("1", 1), &mut host, took);
        }
        let expected = estimator.seconds(&demand("1", 1)) * host.factor();
        assert!(expected.is_finite() && expected > 0.0);
    }
}
