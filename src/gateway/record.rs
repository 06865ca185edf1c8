//! The record of one request: its line in the log and its place in the metrics, made when it ends,
//! however it ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::client_limits::Admission;
use super::route::Route;
use crate::dispatch::Journal;
use crate::telemetry::{End, Finished, Incident, Metrics, Reason};

/// What nginx, and many after it, write for a client that did not wait for its answer.
const CLIENT_GONE: u16 = 499;

/// Writes itself down when it is dropped.
pub(super) struct Record {
    metrics: Arc<Metrics>,
    started: Instant,
    pub(super) id: String,
    pub(super) route: Option<Route>,
    address: Option<IpAddr>,
    pub(super) client: Option<Arc<str>>,
    /// The request counts against its client's limits until it is written down.
    pub(super) admission: Option<Admission>,
    pub(super) status: Option<u16>,
    /// Why the proxy itself refused it, if it did.
    pub(super) refused: Option<Reason>,
    /// From its head to the start of its answer.
    first_byte: Option<Duration>,
    pub(super) request_bytes: usize,
    pub(super) response_bytes: usize,
    /// A host was looked for.
    pub(super) dispatched: bool,
    pub(super) journal: Journal,
}

impl Record {
    /// `address`: the client's.
    pub(super) fn new(metrics: Arc<Metrics>, id: String, address: Option<IpAddr>) -> Self {
        Self {
            metrics,
            started: Instant::now(),
            id,
            route: None,
            address,
            client: None,
            admission: None,
            status: None,
            refused: None,
            first_byte: None,
            request_bytes: 0,
            response_bytes: 0,
            dispatched: false,
            journal: Journal::default(),
        }
    }

    /// The answer is on its way.
    pub(super) fn answering(&mut self) {
        self.first_byte = Some(self.started.elapsed());
    }

    fn count(&self, route: &'static str, status: u16, duration: Duration) {
        self.metrics.requests.finished(&Finished {
            route,
            status,
            client: self.client.as_deref(),
            refused: self.refused,
            duration,
            first_byte: self.first_byte,
            queued: self.dispatched.then_some(self.journal.queued),
            received: self.request_bytes,
            sent: self.response_bytes,
        });
    }

    /// For those who watch live: what asks for no computation is not worth their while.
    fn remember(&self, status: u16, took: Duration) {
        let Some(route @ (Route::Embed | Route::Bertscore)) = self.route else {
            return;
        };
        let activity = &self.metrics.activity;
        let ended = match status {
            CLIENT_GONE => None,
            401 | 429 | 503 => Some(End::Full),
            500.. => Some(End::Badly),
            _ => Some(End::Well),
        };
        if let Some(ended) = ended {
            activity.request(ended, took);
        }
        let attempts = &self.journal.attempts;
        if matches!(status, 429 | 500..) || attempts.iter().any(|tried| is_fault(tried.verdict)) {
            let attempts = attempts
                .iter()
                .map(|tried| (tried.host.clone(), tried.verdict));
            activity.incident(Incident {
                at: SystemTime::now(),
                id: self.id.clone(),
                client: self.client.as_deref().map(str::to_owned),
                route: route.as_str(),
                status,
                attempts: attempts.collect(),
                took,
            });
        }
    }
}

/// Does this verdict tell of something that should not be, even if a sibling made up for it?
fn is_fault(verdict: &str) -> bool {
    !matches!(verdict, "deliver" | "busy" | "abandoned")
}

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        let route = self.route.map_or("other", Route::as_str);
        let status = self.status.unwrap_or(CLIENT_GONE);
        self.count(route, status, elapsed);
        self.remember(status, elapsed);
        let hosts: Vec<String> = self
            .journal
            .attempts
            .iter()
            .map(|tried| format!("{}:{}", tried.host, tried.verdict))
            .collect();
        tracing::info!(
            id = self.id,
            address = self.address.map(tracing::field::display),
            client = self.client.as_deref(),
            route,
            status,
            hosts = hosts.join(" "),
            queue_ms = millis(self.journal.queued),
            upstream_ms = millis(self.journal.upstream),
            total_ms = millis(elapsed),
            request_bytes = self.request_bytes,
            response_bytes = self.response_bytes,
            "request"
        );
    }
}

/// As a number that JSON logs print as one; a `u128` would become a string.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
