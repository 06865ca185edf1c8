//! The spans of a request, made from its record. Pure. Names and attributes follow the semantic
//! conventions for HTTP; what those don't know is below `gpu_bridge`.

use std::time::{Duration, SystemTime};

use gpu_bridge_upkeep::printable;
use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceId};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::super::request_record::{ABANDONED, CLIENT_GONE, RequestRecord, Tried, Wait};
use super::super::trace::{self, Trace};

/// One for the request, and one for each wait and attempt below it.
pub(super) fn spans(record: &RequestRecord, scope: &InstrumentationScope) -> Vec<SpanData> {
    let Some(trace) = record.trace else {
        return Vec::new();
    };
    let waits = record.waits.iter().map(|wait| queue(record, wait));
    let attempts = record.attempts.iter().enumerate();
    let attempts = attempts.map(|(number, tried)| attempt(record, number, tried));
    let all = std::iter::once(server(record, trace))
        .chain(waits)
        .chain(attempts);
    all.map(|span| span.data(trace, scope)).collect()
}

/// What is particular to one span.
struct Span {
    id: Option<trace::SpanId>,
    /// The span above is the client's.
    is_root: bool,
    kind: SpanKind,
    name: String,
    start: SystemTime,
    took: Duration,
    attributes: Vec<KeyValue>,
    error: Option<String>,
}

impl Span {
    fn data(self, trace: Trace, scope: &InstrumentationScope) -> SpanData {
        let own = trace.context();
        let id = self.id.unwrap_or_else(|| own.child().span);
        let above = if self.is_root {
            trace.parent_id
        } else {
            Some(trace.span_id)
        };
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(trace.trace_id.get()),
                SpanId::from(id.get()),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: above.map_or(SpanId::INVALID, |id| SpanId::from(id.get())),
            parent_span_is_remote: self.is_root && above.is_some(),
            span_kind: self.kind,
            name: self.name.into(),
            start_time: self.start,
            end_time: self.start + self.took,
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: self.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: scope.clone(),
        }
    }
}

fn server(record: &RequestRecord, trace: Trace) -> Span {
    let status = record.status.unwrap_or(CLIENT_GONE);
    let error = record.why.clone().unwrap_or_else(|| status.to_string());
    Span {
        id: Some(trace.span_id),
        is_root: true,
        kind: SpanKind::Server,
        name: format!("{} /{}", record.method, record.route),
        start: record.at,
        took: record.total,
        attributes: about(record, status),
        error: (status >= 500).then_some(error),
    }
}

fn about(record: &RequestRecord, status: u16) -> Vec<KeyValue> {
    let path = format!("/{}", record.route);
    let mut attributes = vec![
        KeyValue::new("http.request.method", record.method.to_string()),
        KeyValue::new("http.route", path.clone()),
        KeyValue::new("url.path", path),
        KeyValue::new("http.request.body.size", count(record.request_bytes)),
        KeyValue::new("http.response.body.size", count(record.response_bytes)),
        KeyValue::new("gpu_bridge.request.id", record.id.clone()),
        KeyValue::new("gpu_bridge.items", i64::from(record.items)),
    ];
    let answered = (status != CLIENT_GONE).then_some(i64::from(status));
    attributes.extend(answered.map(|code| KeyValue::new("http.response.status_code", code)));
    let texts = [
        ("error.type", (status >= 500).then(|| status.to_string())),
        (
            "client.address",
            record.address.map(|address| address.to_string()),
        ),
        ("gpu_bridge.client", record.client.clone()),
        ("gpu_bridge.model", record.model.clone()),
    ];
    let told = texts.into_iter();
    attributes.extend(told.filter_map(|(name, value)| {
        let value = value?;
        Some(KeyValue::new(name, printable(&value).into_owned()))
    }));
    attributes
}

fn queue(record: &RequestRecord, wait: &Wait) -> Span {
    let why = wait.why.clone();
    Span {
        id: None,
        is_root: false,
        kind: SpanKind::Internal,
        name: "queue".to_owned(),
        start: record.at + wait.after,
        took: wait.took.unwrap_or_default(),
        attributes: why
            .map(|why| KeyValue::new("gpu_bridge.queue.why", why))
            .into_iter()
            .collect(),
        error: None,
    }
}

fn attempt(record: &RequestRecord, number: usize, tried: &Tried) -> Span {
    let is_good = ["deliver", ABANDONED].contains(&&*tried.verdict);
    let mut attributes = vec![
        KeyValue::new("http.request.method", record.method.to_string()),
        KeyValue::new("url.path", format!("/{}", record.route)),
        KeyValue::new("gpu_bridge.host", tried.host.clone()),
        KeyValue::new("gpu_bridge.verdict", tried.verdict.to_string()),
    ];
    if let Some(others) = tried.others {
        attributes.push(KeyValue::new(
            "gpu_bridge.other_requests",
            i64::from(others),
        ));
    }
    if number > 0 {
        attributes.push(KeyValue::new("http.request.resend_count", count(number)));
    }
    if !is_good {
        attributes.push(KeyValue::new("error.type", tried.verdict.to_string()));
    }
    let reason = tried.reason.clone();
    Span {
        id: tried.span_id,
        is_root: false,
        kind: SpanKind::Client,
        name: record.method.to_string(),
        start: record.at + tried.after,
        took: tried.took.unwrap_or_default(),
        attributes,
        error: (!is_good).then(|| reason.unwrap_or_else(|| tried.verdict.to_string())),
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
