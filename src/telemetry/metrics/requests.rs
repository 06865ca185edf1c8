//! What clients ask for and get.

use std::time::Duration;

use gpu_bridge_metrics::Maker;
use prometheus::{Counter, Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::SECONDS;
use crate::telemetry::Finished;

/// See the module.
pub struct RequestMetrics {
    all: IntCounterVec,
    refusals: IntCounterVec,
    limited: IntCounterVec,
    duration: HistogramVec,
    first_byte: HistogramVec,
    received: IntCounter,
    sent: IntCounter,
    queue_wait: Histogram,
    retries: IntCounterVec,
    attempt_items: Histogram,
    splits: IntCounter,
    parts: IntCounter,
    split_saved: Counter,
    merged_attempts: IntCounter,
    merged_requests: IntCounter,
    merge_saved: Counter,
}

/// Texts, or pairs: from one to more than hosts usually take at once.
const ITEMS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];

/// Why the proxy itself refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its head is malformed, too large or too slow.
    BadHead,
    /// Its connection had to make room for another one.
    NoPlace,
    /// It shows no key that we know.
    Unauthorized,
    /// There is nothing at its path, or not with its method.
    NoRoute,
    /// A header of it says what can't be.
    BadHeader,
    /// Its client has as many at once as it may.
    MaxConcurrent,
    /// Its client sends as many each second as it may.
    MaxPerSecond,
    /// Its body is too large.
    BodyTooLarge,
    /// Its body does not come in time.
    BodyTooSlow,
    /// Its body is malformed.
    BadBody,
    /// Its body is compressed.
    BodyCoded,
    /// Too many bytes are held already.
    Memory,
    /// Too many wait already.
    QueueFull,
    /// Too much is ahead of it in the queue.
    QueueTooLong,
    /// Every host lacks its model.
    NoModel,
    /// Every host that has its model answers wrong.
    WrongAnswers,
    /// No host has its model in the space that it names.
    OtherSpace,
    /// No host became free in time.
    Deadline,
    /// The hosts that took it failed to answer it.
    HostsFailed,
    /// The proxy ended before it was answered.
    Stopping,
}

impl Reason {
    /// Every one.
    pub const ALL: [Self; 20] = [
        Self::BadHead,
        Self::NoPlace,
        Self::Unauthorized,
        Self::NoRoute,
        Self::BadHeader,
        Self::MaxConcurrent,
        Self::MaxPerSecond,
        Self::BodyTooLarge,
        Self::BodyTooSlow,
        Self::BadBody,
        Self::BodyCoded,
        Self::Memory,
        Self::QueueFull,
        Self::QueueTooLong,
        Self::NoModel,
        Self::WrongAnswers,
        Self::OtherSpace,
        Self::Deadline,
        Self::HostsFailed,
        Self::Stopping,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadHead => "bad_head",
            Self::NoPlace => "no_place",
            Self::Unauthorized => "unauthorized",
            Self::NoRoute => "no_route",
            Self::BadHeader => "bad_header",
            Self::MaxConcurrent => "max_concurrent",
            Self::MaxPerSecond => "max_per_second",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTooSlow => "body_too_slow",
            Self::BadBody => "bad_body",
            Self::BodyCoded => "body_coded",
            Self::Memory => "memory",
            Self::QueueFull => "queue_full",
            Self::QueueTooLong => "queue_too_long",
            Self::NoModel => "no_model",
            Self::WrongAnswers => "wrong_answers",
            Self::OtherSpace => "other_space",
            Self::Deadline => "deadline",
            Self::HostsFailed => "hosts_failed",
            Self::Stopping => "stopping",
        }
    }

    fn is_limit_of_client(self) -> bool {
        matches!(self, Self::MaxConcurrent | Self::MaxPerSecond)
    }
}

impl RequestMetrics {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        let refusals = make.counters(
            "refusals_total",
            "Requests that the proxy itself refused, by reason.",
            &["reason"],
        )?;
        for reason in Reason::ALL {
            // A counter that starts at 1 hides its first step from rate().
            refusals.with_label_values(&[reason.as_str()]);
        }
        Ok(Self {
            all: make.counters(
                "requests_total",
                "Requests by route, status code (499: the client went away) and name of the client's key.",
                &["route", "code", "client"],
            )?,
            refusals,
            limited: make.counters(
                "client_limit_refusals_total",
                "Requests refused because of a limit of their client's key, by that limit.",
                &["client", "limit"],
            )?,
            duration: make.histograms(
                "request_duration_seconds",
                "Time from a request's head to the end of its answer.",
                &SECONDS,
                &["route"],
            )?,
            first_byte: make.histograms(
                "time_to_first_byte_seconds",
                "Time from a request's head to the start of its answer.",
                &SECONDS,
                &["route"],
            )?,
            received: make.counter(
                "request_body_bytes_total",
                "Bytes of the bodies of requests for hosts.",
            )?,
            sent: make.counter("response_body_bytes_total", "Bytes of the bodies of answers.")?,
            queue_wait: make.histogram(
                "queue_wait_seconds",
                "Time that requests for hosts waited for a free slot, in all their attempts.",
                &SECONDS,
            )?,
            retries: make.counters(
                "retries_total",
                "Attempts that did not end the request, by the verdict that was the reason.",
                &["reason"],
            )?,
            attempt_items: make.histogram(
                "attempt_items",
                "Texts, or pairs of texts, that hosts were asked for in one attempt.",
                &ITEMS,
            )?,
            splits: make.counter(
                "split_requests_total",
                "Requests that were answered in parts, by several hosts at once.",
            )?,
            parts: make.counter(
                "split_parts_total",
                "Parts of requests that were answered in parts.",
            )?,
            split_saved: make.amount(
                "split_saved_seconds_total",
                "By how much sooner requests in parts should have been answered, by estimate.",
            )?,
            merged_attempts: make.counter(
                "merged_attempts_total",
                "Attempts that answered several requests.",
            )?,
            merged_requests: make.counter(
                "merged_requests_total",
                "Requests that were answered together with others, by one attempt.",
            )?,
            merge_saved: make.amount(
                "merge_saved_seconds_total",
                "Time of hosts that attempts for several requests should have saved, by estimate.",
            )?,
        })
    }

    /// A request is over.
    pub fn finished(&self, finished: &Finished) {
        let record = &*finished.record;
        let route = &*record.route;
        let client = record.client.as_deref().unwrap_or_default();
        let code = finished.status().to_string();
        self.all.with_label_values(&[route, &code, client]).inc();
        self.duration
            .with_label_values(&[route])
            .observe(record.total.as_secs_f64());
        if let Some(first_byte) = record.first_byte {
            self.first_byte
                .with_label_values(&[route])
                .observe(first_byte.as_secs_f64());
        }
        if finished.queued {
            self.queue_wait.observe(record.queued.as_secs_f64());
        }
        self.received.inc_by(record.request_bytes as u64);
        self.sent.inc_by(record.response_bytes as u64);
        if let Some(reason) = finished.refused {
            self.refused(reason, client);
        }
    }

    fn refused(&self, reason: Reason, client: &str) {
        let reason_label = reason.as_str();
        self.refusals.with_label_values(&[reason_label]).inc();
        if reason.is_limit_of_client() {
            self.limited
                .with_label_values(&[client, reason_label])
                .inc();
        }
    }

    /// An attempt did not end its request.
    pub fn retried(&self, verdict: &str) {
        self.retries.with_label_values(&[verdict]).inc();
    }

    /// An attempt has ended that was for so many items.
    pub fn attempted(&self, items: u32) {
        self.attempt_items.observe(items.into());
    }

    /// A request was answered in so many parts, which should have saved so much time.
    pub fn split(&self, parts: usize, saved: Duration) {
        self.splits.inc();
        self.parts.inc_by(parts as u64);
        self.split_saved.inc_by(saved.as_secs_f64());
    }

    /// An attempt has answered so many requests, which should have saved so much time of its host.
    pub fn merged(&self, requests: usize, saved: Duration) {
        self.merged_attempts.inc();
        self.merged_requests.inc_by(requests as u64);
        self.merge_saved.inc_by(saved.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not the client's own, nor of connections, which have an alert of their own.
    fn is_alarming(reason: Reason) -> bool {
        match reason {
            Reason::BadHead
            | Reason::NoPlace
            | Reason::Unauthorized
            | Reason::NoRoute
            | Reason::BadHeader
            | Reason::MaxConcurrent
            | Reason::MaxPerSecond
            | Reason::BodyTooLarge
            | Reason::BodyTooSlow
            | Reason::BadBody
            | Reason::BodyCoded
            | Reason::NoModel
            | Reason::OtherSpace => false,
            Reason::Memory
            | Reason::QueueFull
            | Reason::QueueTooLong
            | Reason::WrongAnswers
            | Reason::Deadline
            | Reason::HostsFailed
            | Reason::Stopping => true,
        }
    }

    #[test]
    fn alert_dashboard_and_runbook_count_the_same_reasons() {
        let alarming = || Reason::ALL.into_iter().filter(|it| is_alarming(*it));
        let names: Vec<&str> = alarming().map(Reason::as_str).collect();
        let alerts = include_str!("../../../config/monitoring/alerts.yml");
        let dashboard = include_str!("../../../config/monitoring/grafana-dashboard.json");
        let names = names.join("|");
        assert!(alerts.contains(&format!("reason=~\"{names}\"")), "{names}");
        assert!(
            dashboard.contains(&format!("reason=~\\\"{names}\\\"")),
            "{names}"
        );
        let runbook = include_str!("../../../docs/operations.md");
        for reason in alarming() {
            let row = format!("\n  | `{}` |", reason.as_str());
            assert!(runbook.contains(&row), "{reason:?}");
        }
    }
}
