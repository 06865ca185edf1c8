//! What the HTTP side counts.

use std::time::Duration;

use gpu_bridge_metrics::Maker;
use gpu_bridge_places::Places;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::SECONDS;

/// Requests, refusals and waits. Clones count together.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    rejected: IntCounterVec,
    slot_wait: Histogram,
    connections: IntGauge,
    displaced_connections: IntCounter,
    refused_connections: IntCounter,
}

/// Why a request was told to come back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No slot got free in time.
    Slots,
    /// Too many bytes are held.
    Memory,
    /// The device had no memory for it.
    DeviceMemory,
}

impl Rejection {
    const ALL: [Self; 3] = [Self::Slots, Self::Memory, Self::DeviceMemory];

    fn label(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Memory => "memory",
            Self::DeviceMemory => "device_memory",
        }
    }
}

impl HttpMetrics {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        let rejected = make.counters(
            "rejected_requests_total",
            "Requests that were told to come back later, by what there was too little of.",
            &["reason"],
        )?;
        // A rate needs a zero to start from.
        for reason in Rejection::ALL {
            rejected.with_label_values(&[reason.label()]).reset();
        }
        Ok(Self {
            rejected,
            requests: make.counters(
                "requests_total",
                "Requests by route and status code (499: the client went away).",
                &["route", "code"],
            )?,
            duration: make.histograms(
                "request_duration_seconds",
                "Time from a request's head to its answer's, by route.",
                &SECONDS,
                &["route"],
            )?,
            slot_wait: make.histogram(
                "slot_wait_seconds",
                "Time that valid requests waited for a slot, with or without success.",
                &SECONDS,
            )?,
            connections: make.gauge("connections", "Open connections.")?,
            displaced_connections: make.counter(
                "connections_displaced_total",
                "Connections that were closed to make room for others.",
            )?,
            refused_connections: make.counter(
                "connections_refused_total",
                "Connections refused because as many as may be, of all or of one address, were in use.",
            )?,
        })
    }

    /// A request ended; `route` is one of a fixed set.
    pub fn request(&self, route: &'static str, code: u16, took: Duration) {
        self.requests
            .with_label_values(&[route, &code.to_string()])
            .inc();
        self.duration
            .with_label_values(&[route])
            .observe(took.as_secs_f64());
    }

    /// A request was told to come back later.
    pub fn rejected(&self, reason: Rejection) {
        self.rejected.with_label_values(&[reason.label()]).inc();
    }

    /// A request got a slot, or gave up waiting for one.
    pub fn waited_for_slot(&self, took: Duration) {
        self.slot_wait.observe(took.as_secs_f64());
    }

    /// So many places for connections.
    pub fn places(&self, limit: usize) -> Places {
        Places::new("clients", limit, self.displaced_connections.clone())
    }

    /// There was no place for a connection.
    pub fn refused_connection(&self) {
        self.refused_connections.inc();
    }

    /// A connection was opened; it counts until the guard is dropped.
    pub fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }
}

/// An open connection.
#[derive(Debug)]
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
