//! The metrics that Prometheus scrapes; see the naming guide
//! <https://prometheus.io/docs/practices/naming/>.
//!
//! Handed in where they are counted, never global. The two sides of the program each have their
//! part: [`HttpMetrics`] and [`EngineMetrics`], cheap to clone, with one method for each thing that
//! happens. What is a state rather than an event ([`State`]) is read when it is scraped.
//!
//! Label values are bounded: routes, status codes and fixed words, never anything that a client
//! makes up. Units are seconds and bytes.

mod engine;
mod http;

use std::sync::{Mutex, PoisonError};

use gpu_bridge_metrics::Maker;
use gpu_bridge_upkeep::Upkeep;
use prometheus::{Encoder, IntCounter, IntGauge, IntGaugeVec, Registry, TextEncoder};

pub use engine::{BatchStats, EngineMetrics, Queued};
pub use http::{HttpMetrics, OpenConnection, Rejection};

use crate::engine::ModelUsage;

/// Seconds, from one small batch on a GPU to the longest request.
const SECONDS: [f64; 15] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// All metrics of one host.
#[derive(Debug)]
pub struct Metrics {
    /// What the HTTP side counts.
    pub http: HttpMetrics,
    /// What the engine counts.
    pub engine: EngineMetrics,
    /// What went wrong in the program.
    pub upkeep: Upkeep,
    /// Locked while it is scraped.
    state: Mutex<StateGauges>,
    registry: Registry,
}

/// What is read when it is scraped.
#[derive(Clone, Copy, Debug, Default)]
pub struct State<'a> {
    /// The device, such as `cuda:0`.
    pub device: &'a str,
    /// Its memory in bytes, where it is known.
    pub device_memory: Option<u64>,
    /// What of it is in use, by whomever, where it is known.
    pub device_memory_used: Option<u64>,
    /// Requests that compute.
    pub in_flight: usize,
    /// Requests that may compute at once.
    pub slots: u32,
    /// Bytes of requests and answers that are held in memory.
    pub buffered: u64,
    /// Models in memory.
    pub models: ModelUsage,
}

impl Metrics {
    /// A fresh set in a registry of its own; `engine` names what computes, with its version.
    ///
    /// # Errors
    /// If two metrics have the same name, which would be a mistake in this module.
    pub fn new(engine: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let make = Maker::new(&registry, "gpu_bridge_backend");
        make.process()?;
        make.gauges(
            "build_info",
            "1; the labels say what is running.",
            &["version", "engine"],
        )?
        .with_label_values(&[env!("CARGO_PKG_VERSION"), engine])
        .set(1);
        Ok(Self {
            http: HttpMetrics::new(&make)?,
            engine: EngineMetrics::new(&make)?,
            upkeep: Upkeep::new(&make)?,
            state: Mutex::new(StateGauges::new(&make)?),
            registry,
        })
    }

    /// All metrics in Prometheus' text format, with the state as it is now.
    ///
    /// # Errors
    /// If the encoder fails.
    pub fn render(&self, state: &State<'_>) -> prometheus::Result<Vec<u8>> {
        // Nothing is half-done if a scrape panics: the next one sets all of it again.
        let gauges = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set(state);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct StateGauges {
    device_memory: IntGaugeVec,
    device_memory_used: IntGaugeVec,
    in_flight: IntGauge,
    slots: IntGauge,
    buffered: IntGauge,
    models: IntGauge,
    model_memory: IntGauge,
    model_memory_budget: IntGauge,
    evictions: IntCounter,
}

impl StateGauges {
    fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            device_memory: make.gauges(
                "device_memory_bytes",
                "Memory of the device; absent where it is not known, as on the processor.",
                &["device"],
            )?,
            device_memory_used: make.gauges(
                "device_memory_used_bytes",
                "Memory of the device in use by all programs; absent where it is not known.",
                &["device"],
            )?,
            in_flight: make.gauge("in_flight_requests", "Requests that compute.")?,
            slots: make.gauge("slots", "Requests that may compute at once.")?,
            buffered: make.gauge(
                "buffered_bytes",
                "Bytes of requests and answers held in memory.",
            )?,
            models: make.gauge("models_loaded", "Models in memory.")?,
            model_memory: make.gauge(
                "model_memory_bytes",
                "Memory that models take, those being loaded included.",
            )?,
            model_memory_budget: make.gauge(
                "model_memory_budget_bytes",
                "Memory that models may take together.",
            )?,
            evictions: make.counter(
                "model_evictions_total",
                "Models that were put out of memory to make room.",
            )?,
        })
    }

    fn set(&self, state: &State<'_>) {
        let memory = [
            (&self.device_memory, state.device_memory),
            (&self.device_memory_used, state.device_memory_used),
        ];
        for (gauge, bytes) in memory {
            match bytes {
                Some(bytes) => gauge.with_label_values(&[state.device]).set(to_i64(bytes)),
                None => gauge.reset(),
            }
        }
        self.in_flight.set(to_i64(state.in_flight));
        self.slots.set(state.slots.into());
        self.buffered.set(to_i64(state.buffered));
        let models = &state.models;
        self.models.set(to_i64(models.loaded));
        self.model_memory.set(to_i64(models.used));
        self.model_memory_budget.set(to_i64(models.budget));
        let seen = self.evictions.get();
        self.evictions.inc_by(models.evictions.saturating_sub(seen));
    }
}

/// A gauge's value; what does not fit is as good as the largest.
fn to_i64(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
