//! The proxy itself: its build, connections, memory, certificates, and what the kernel says of it.

use gpu_bridge_metrics::Maker;
use gpu_bridge_places::Places;
use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge};

use super::reading::{Kind, Reading, family};
use crate::budget::Budget;

/// See the module.
pub struct ProcessMetrics {
    connections: IntGauge,
    connections_limit: IntGauge,
    displaced_connections: IntCounterVec,
    refused_connections: IntCounter,
    failed_handshakes: IntCounter,
    calmed_connections: IntCounter,
    certificates: Mutex<Vec<Watched>>,
}

/// The certificate of an address, which may be replaced at any time.
pub struct Watched {
    /// Where clients connect to.
    pub address: String,
    /// When it ends, in seconds since 1970; `None`: the address is one of plain HTTP.
    pub not_after: Box<dyn Fn() -> Option<i64> + Send>,
}

/// An open connection, until it is dropped.
#[must_use = "it counts until it is dropped"]
pub struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ProcessMetrics {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        make.process()?;
        let build = make.gauges("build_info", "1, with the version as label.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            connections: make.gauge("connections_open", "Connections of clients that are open.")?,
            connections_limit: make.gauge(
                "connections_limit",
                "Connections that clients may have open: limits.max_connections, or as many as the limit of open files leaves room for.",
            )?,
            displaced_connections: make.counters(
                "connections_displaced_total",
                "Connections that were closed to make room for others, by whose they were: clients or admin.",
                &["places"],
            )?,
            refused_connections: make.counter(
                "connections_refused_total",
                "Connections of clients refused because as many as may be, of all or of one address, were in use.",
            )?,
            failed_handshakes: make.counter(
                "tls_handshakes_failed_total",
                "TLS handshakes with clients that failed.",
            )?,
            calmed_connections: make.counter(
                "http2_connections_calmed_total",
                "Connections of HTTP/2 ended with ENHANCE_YOUR_CALM, since they brought little but frames that are no request, or many malformed requests.",
            )?,
            certificates: Mutex::default(),
        })
    }

    /// A client has connected.
    pub fn connected(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// So many places for connections; those who make room are counted under `name`.
    pub fn places(&self, name: &'static str, limit: usize) -> Places {
        let displaced = self.displaced_connections.with_label_values(&[name]);
        Places::new(name, limit, displaced)
    }

    /// Clients may have so many connections.
    pub fn limit_connections(&self, limit: usize) {
        self.connections_limit
            .set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// A client was turned away.
    pub fn refused_connection(&self) {
        self.refused_connections.inc();
    }

    /// A client could not agree with us on TLS.
    pub fn failed_handshake(&self) {
        self.failed_handshakes.inc();
    }

    /// A client of HTTP/2 was told to send less of what is no request.
    pub fn calmed_connection(&self) {
        self.calmed_connections.inc();
    }

    /// Tells of this certificate from now on.
    pub fn watch(&self, certificate: Watched) {
        self.certificates.lock().push(certificate);
    }

    /// What is not kept here.
    pub(super) fn read(&self, held: &Budget) -> impl Iterator<Item = MetricFamily> {
        let memory = MEMORY.iter();
        let memory =
            memory.filter_map(move |reading| reading.of(std::iter::once((Vec::new(), held))));
        memory.chain(self.read_certificates())
    }

    fn read_certificates(&self) -> Option<MetricFamily> {
        let certificates = self.certificates.lock();
        let samples = certificates.iter().filter_map(|certificate| {
            let labels = vec![("address", certificate.address.as_str())];
            Some((labels, (certificate.not_after)()? as f64))
        });
        let help = "When the certificate of an address ends, in seconds since 1970.";
        family(
            Kind::Gauge,
            "certificate_not_after_timestamp_seconds",
            help,
            samples,
        )
    }
}

const MEMORY: [Reading<Budget>; 2] = [
    Reading {
        kind: Kind::Gauge,
        name: "buffered_bytes",
        help: "Bytes of requests and answers held in memory.",
        read: |budget| Some(budget.held() as f64),
    },
    Reading {
        kind: Kind::Gauge,
        name: "buffered_limit_bytes",
        help: "Bytes of requests and answers that may be held in memory (limits.max_buffered).",
        read: |budget| Some(budget.limit() as f64),
    },
];
