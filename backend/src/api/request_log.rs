//! One log line for each request, and its place in the metrics: id, method, route, status, items,
//! model, milliseconds. Never texts, never keys, never a path as the client sent it.
//!
//! A request whose client goes away before the answer counts too, as status 499.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::request::Parts;
use http::{Method, StatusCode};
use jiff::Timestamp;
use tracing::{Level, error, event, warn};

use super::error::ApiError;
use super::route;
use crate::metrics::{HttpMetrics, Rejection};

/// Header with the id that log lines and error messages carry.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// What the log shows for "the client closed the connection".
const CLIENT_GONE: u16 = 499;

/// Makes ids that are unique on this host, also across restarts.
#[derive(Debug)]
pub(super) struct RequestIds {
    boot: i64,
    next: AtomicU64,
}

impl RequestIds {
    pub(super) fn new() -> Self {
        Self {
            boot: Timestamp::now().as_millisecond(),
            next: AtomicU64::new(0),
        }
    }

    /// The id that the caller gave if it is a plain short one, else a fresh one.
    fn id(&self, head: &Parts) -> String {
        let given = head.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
        if let Some(id) = given.filter(|id| is_plain(id)) {
            return id.to_owned();
        }
        format!(
            "{:x}-{}",
            self.boot,
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }
}

fn is_plain(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&id.len()) && id.chars().all(plain)
}

/// Gathers what the line says; writes it at the latest when dropped.
#[derive(Debug)]
pub(super) struct RequestLog {
    id: String,
    method: Method,
    route: &'static str,
    started: Instant,
    items: Option<usize>,
    model: Option<String>,
    status: u16,
    metrics: HttpMetrics,
}

impl RequestLog {
    pub(super) fn begin(ids: &RequestIds, metrics: &HttpMetrics, head: &Parts) -> Self {
        Self {
            id: ids.id(head),
            method: head.method.clone(),
            route: route::label(head.uri.path()),
            metrics: metrics.clone(),
            started: Instant::now(),
            items: None,
            model: None,
            status: CLIENT_GONE,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Adds what is computed.
    pub(super) fn about(&mut self, items: usize, model: &str) {
        self.items = Some(items);
        self.model = Some(model.to_owned());
    }

    /// Logs a fault of this host and gives the refusal that the client reads instead.
    pub(super) fn internal(&self, fault: &dyn Display) -> ApiError {
        error!(id = self.id, route = self.route, model = self.model, %fault, "request failed");
        ApiError::Internal {
            request_id: self.id.clone(),
        }
    }

    /// Logs that the device was too small for a request.
    pub(super) fn out_of_memory(&self) -> ApiError {
        warn!(
            id = self.id,
            route = self.route,
            model = self.model,
            items = self.items,
            "the device has too little free memory"
        );
        ApiError::Busy(Rejection::DeviceMemory)
    }

    /// Counts the request and writes the line.
    pub(super) fn finish(mut self, status: StatusCode) {
        self.status = status.as_u16();
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let Self {
            id,
            method,
            route,
            items,
            model,
            status,
            started,
            metrics,
        } = self;
        let took = started.elapsed();
        metrics.request(route, *status, took);
        macro_rules! line {
            ($level:expr) => {{
                let total_ms = took.as_micros() as f64 / 1e3;
                event!($level, id, %method, route, status, items, model, total_ms, "request");
            }};
        }
        // A host that idles, or is not ready, is asked for its health all day long.
        let is_expected = *status < 400 || *status == 503;
        if route::is_poll(route) && is_expected {
            line!(Level::DEBUG);
        } else {
            line!(Level::INFO);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(given: Option<&str>) -> String {
        let mut request = http::Request::get("/health");
        if let Some(given) = given {
            request = request.header(REQUEST_ID, given);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        RequestIds::new().id(&head)
    }

    #[test]
    fn a_plain_id_is_taken_over_and_any_other_replaced() {
        assert_eq!(id(Some("a1-B_2.c")), "a1-B_2.c");
        let long = "a".repeat(65);
        for odd in ["", "a b", "\"x\"", long.as_str()] {
            assert_ne!(id(Some(odd)), odd);
        }
        assert!(is_plain(&id(None)));
    }
}
