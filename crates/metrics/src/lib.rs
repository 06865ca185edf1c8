//! Makes metrics with a program's prefix and registers them. Which ones there are, each program knows
//! itself.

use prometheus::core::Collector;
use prometheus::{
    Counter, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, Result,
};

/// See the crate. All that it makes fails only if there is a metric of that name already.
#[derive(Clone, Copy, Debug)]
pub struct Maker<'a> {
    registry: &'a Registry,
    prefix: &'static str,
}

impl<'a> Maker<'a> {
    /// Makes metrics whose names begin with `prefix` and an underscore.
    pub fn new(registry: &'a Registry, prefix: &'static str) -> Self {
        Self { registry, prefix }
    }

    /// A counter without labels.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.register(IntCounter::with_opts(self.opts(name, help))?)
    }

    /// A counter of what comes in fractions, without labels.
    pub fn amount(&self, name: &str, help: &str) -> Result<Counter> {
        self.register(Counter::with_opts(self.opts(name, help))?)
    }

    /// Counters that differ in these labels.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.register(IntCounterVec::new(self.opts(name, help), labels)?)
    }

    /// A gauge without labels.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.register(IntGauge::with_opts(self.opts(name, help))?)
    }

    /// Gauges that differ in these labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(self.opts(name, help), labels)?)
    }

    /// A histogram without labels. `buckets`: their upper edges, ascending.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram> {
        self.register(Histogram::with_opts(self.buckets(name, help, buckets))?)
    }

    /// Histograms that differ in these labels. `buckets`: their upper edges, ascending.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec> {
        self.register(HistogramVec::new(
            self.buckets(name, help, buckets),
            labels,
        )?)
    }

    /// What the system tells of the process: its time, memory and files. Without a prefix of ours, as
    /// the names are the same for all programs.
    pub fn process(&self) -> Result<()> {
        #[cfg(target_os = "linux")]
        self.registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(())
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace(self.prefix)
    }

    fn buckets(&self, name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
        HistogramOpts::from(self.opts(name, help)).buckets(buckets.to_vec())
    }
}
