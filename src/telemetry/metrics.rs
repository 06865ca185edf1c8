//! The metrics that Prometheus scrapes; see the naming guide
//! <https://prometheus.io/docs/practices/naming/>.
//!
//! Label values are bounded: routes, status codes, and names from the configuration, never anything
//! that a client makes up.

use std::collections::HashSet;

use parking_lot::Mutex;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::reloads::Reloads;
use super::series;
use crate::config::HostName;
use crate::pool::{Event, EventKind, PoolView, Transition};

/// Seconds. From a cached answer to the longest wait in a queue plus an attempt.
const BUCKETS: [f64; 13] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// All metrics of one proxy.
pub struct Metrics {
    registry: Registry,
    /// Requests by route and status code; code 499 = the client went away.
    pub requests: IntCounterVec,
    /// Time from the head of a request to the end of its answer, by route.
    pub request_duration: HistogramVec,
    /// Attempts by host and verdict.
    pub attempts: IntCounterVec,
    /// Attempts that were followed by another, by the verdict that was the reason.
    pub retries: IntCounterVec,
    /// Attempts that were made beside one that took long.
    pub hedges: IntCounter,
    /// Time that requests waited for leases.
    pub queue_wait: Histogram,
    /// Reloads of the configuration.
    pub reloads: Reloads,
    ejections: IntCounterVec,
    queue_length: IntGauge,
    held_bytes: IntGauge,
    host_in_flight: IntGaugeVec,
    host_capacity: IntGaugeVec,
    host_foreign: IntGaugeVec,
    host_healthy: IntGaugeVec,
    host_busy: IntGaugeVec,
    /// The hosts that the gauges tell of.
    hosts: Mutex<HashSet<HostName>>,
}

impl Metrics {
    /// A fresh set in a registry of its own.
    ///
    /// # Errors
    /// If two metrics have the same name, which would be a mistake in this file.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let make = Maker(&registry);
        Ok(Self {
            requests: make.counters(
                "requests_total",
                "Requests by route and status code (499: the client went away).",
                &["route", "code"],
            )?,
            request_duration: make.histograms(
                "request_duration_seconds",
                "Time from a request's head to the end of its answer.",
                &["route"],
            )?,
            attempts: make.counters(
                "attempts_total",
                "Attempts by host and verdict.",
                &["host", "verdict"],
            )?,
            retries: make.counters(
                "retries_total",
                "Attempts that were followed by another, by the verdict that was the reason.",
                &["reason"],
            )?,
            hedges: make.counter(
                "hedges_total",
                "Attempts made beside another one that took long.",
            )?,
            queue_wait: make.histogram(
                "queue_wait_seconds",
                "Time that requests waited for a free slot.",
            )?,
            reloads: Reloads::new(&make)?,
            ejections: make.counters(
                "host_ejections_total",
                "Ejections by host and cause.",
                &["host", "cause"],
            )?,
            queue_length: make.gauge("queue_length", "Requests that wait for a free slot.")?,
            held_bytes: make.gauge(
                "held_bytes",
                "Bytes of requests and answers held in memory.",
            )?,
            host_in_flight: make.gauges(
                "host_in_flight",
                "Attempts that run on a host.",
                &["host"],
            )?,
            host_capacity: make.gauges(
                "host_capacity",
                "Attempts that a host may run at once.",
                &["host"],
            )?,
            host_foreign: make.gauges(
                "host_foreign_in_flight",
                "Requests of others that run on a host.",
                &["host"],
            )?,
            host_healthy: make.gauges(
                "host_healthy",
                "1 while a host may get requests.",
                &["host"],
            )?,
            host_busy: make.gauges(
                "host_busy",
                "1 while a host is left alone because it said that it is full.",
                &["host"],
            )?,
            hosts: Mutex::default(),
            registry,
        })
    }

    /// Counts what happened to a host.
    pub fn count(&self, event: &Event) {
        if let EventKind::Health(Transition::Ejected(cause)) = event.kind {
            self.ejections
                .with_label_values(&[event.host.as_ref(), cause.as_str()])
                .inc();
        }
    }

    /// All metrics in Prometheus' text format, with those of the pool as it is now.
    ///
    /// # Errors
    /// If the encoder fails.
    pub fn render(&self, pool: &PoolView, held_bytes: usize) -> prometheus::Result<String> {
        self.queue_length.set(to_i64(pool.waiting));
        self.held_bytes.set(to_i64(held_bytes));
        self.forget_others(pool);
        for host in &pool.hosts {
            let name = &[host.name.as_ref()];
            self.host_in_flight
                .with_label_values(name)
                .set(host.in_flight.into());
            self.host_capacity
                .with_label_values(name)
                .set(host.capacity.into());
            self.host_foreign
                .with_label_values(name)
                .set(host.foreign.into());
            self.host_healthy
                .with_label_values(name)
                .set(host.is_serving().into());
            self.host_busy
                .with_label_values(name)
                .set(host.is_busy().into());
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Metrics {
    /// Ends the series of hosts that are gone.
    fn forget_others(&self, pool: &PoolView) {
        let now = pool.hosts.iter().map(|host| host.name.clone()).collect();
        let mut known = self.hosts.lock();
        for gone in known.difference(&now) {
            for gauge in [
                &self.host_in_flight,
                &self.host_capacity,
                &self.host_healthy,
                &self.host_busy,
            ] {
                series::end(gauge, "host", gone.as_ref());
            }
            for counter in [&self.attempts, &self.ejections] {
                series::end(counter, "host", gone.as_ref());
            }
        }
        *known = now;
    }
}

fn to_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Makes metrics with our prefix and registers them.
pub(super) struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::with_opts(Self::opts(name, help))?)
    }

    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Self::opts(name, help), labels)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Self::opts(name, help), labels)?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::with_opts(Self::opts(name, help))?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(BUCKETS.to_vec());
        self.register(HistogramVec::new(opts, labels)?)
    }

    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(BUCKETS.to_vec());
        self.register(Histogram::with_opts(opts)?)
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("gpu_bridge")
    }

    fn register<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: C,
    ) -> prometheus::Result<C> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}
