//! Sends the traces of requests to a collector of OpenTelemetry (OTLP over HTTP, protobuf), set up by
//! the usual variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and others).
//!
//! ```text
//! request (server) ─┬─ queue
//!                   ├─ attempt (client) ─ the host's own spans
//!                   └─ …
//! ```
//!
//! Spans are made from a request's record once it has ended: nothing is paid while it runs. Names and
//! attributes follow the semantic conventions for HTTP. The SDK's batch processor drops spans rather
//! than hold up requests, on a thread of its own; the sending itself is done on our runtime, without
//! TLS: the collector is to be near, and passes traces on to where they are kept.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceId};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _,
};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::observers::{Exporter, TRACES_WANTED};
use super::request_record::{ABANDONED, Attempt, CLIENT_GONE, RequestRecord, Wait};
use super::trace::{self, Trace};

/// What the proxy is called, unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "gpu-bridge";
/// For one batch of spans.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of what the collector answers.
const MAX_ANSWER: usize = 1 << 20;
/// At the end, for spans that are still to be sent.
const FAREWELL: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub struct Otlp {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

/// Traces can't be exported as the environment wants.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is no TLS here.
    #[error(
        "{variable} must begin with http://: traces are sent to a collector near by, without TLS"
    )]
    NotHttp {
        /// Which.
        variable: &'static str,
    },
    /// The SDK says no.
    #[error("traces can't be exported: {0}")]
    Refused(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl Otlp {
    /// `None`: the environment does not ask for it. Must be called on the runtime that is to send.
    ///
    /// # Errors
    /// [`Unusable`] if what it asks for can't be had.
    pub fn from_environment() -> Result<Option<Self>, Unusable> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let is_disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value == "true");
        let endpoints = TRACES_WANTED.map(|variable| Some((variable, set(variable)?)));
        if is_disabled || endpoints.iter().all(Option::is_none) {
            return Ok(None);
        }
        for (variable, endpoint) in endpoints.into_iter().flatten() {
            if !endpoint.starts_with("http://") {
                return Err(Unusable::NotHttp { variable });
            }
        }
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Sender {
                runtime: Handle::current(),
                is_failing: AtomicBool::new(false),
            })
            .build()?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource(set("OTEL_SERVICE_NAME")));
        let scope = InstrumentationScope::builder(SERVICE).with_version(env!("CARGO_PKG_VERSION"));
        Ok(Some(Self {
            processor,
            scope: scope.build(),
        }))
    }
}

fn resource(name: Option<String>) -> Resource {
    Resource::builder()
        .with_service_name(name.unwrap_or_else(|| SERVICE.to_owned()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

impl Exporter for Otlp {
    fn export(&self, record: &RequestRecord) {
        for span in spans(record, &self.scope) {
            self.processor.on_end(span);
        }
    }

    fn finish(&self) {
        // A collector that does not take them in time goes without.
        if let Err(error) = self.processor.shutdown_with_timeout(FAREWELL) {
            tracing::warn!(%error, "the last traces could not be exported");
        }
    }
}

/// One for the request, and one for each wait and attempt below it.
fn spans(record: &RequestRecord, scope: &InstrumentationScope) -> Vec<SpanData> {
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
    let mut attributes = vec![
        KeyValue::new("http.request.method", record.method.to_string()),
        KeyValue::new("http.route", format!("/{}", record.route)),
        KeyValue::new("url.path", format!("/{}", record.route)),
        KeyValue::new("url.scheme", "http"),
        KeyValue::new("http.request.body.size", count(record.request_bytes)),
        KeyValue::new("http.response.body.size", count(record.response_bytes)),
        KeyValue::new("gpu_bridge.request.id", record.id.clone()),
        KeyValue::new("gpu_bridge.items", i64::from(record.items)),
    ];
    if status != CLIENT_GONE {
        attributes.push(KeyValue::new(
            "http.response.status_code",
            i64::from(status),
        ));
    }
    if status >= 500 {
        attributes.push(KeyValue::new("error.type", status.to_string()));
    }
    let address = record.address.map(|address| address.to_string());
    let texts = [
        ("client.address", &address),
        ("gpu_bridge.client", &record.client),
        ("gpu_bridge.model", &record.model),
    ];
    for (name, value) in texts {
        attributes.extend(value.clone().map(|value| KeyValue::new(name, value)));
    }
    let error = record.why.clone().unwrap_or_else(|| status.to_string());
    Span {
        id: Some(trace.span_id),
        is_root: true,
        kind: SpanKind::Server,
        name: format!("{} /{}", record.method, record.route),
        start: record.at,
        took: record.total,
        attributes,
        error: (status >= 500).then_some(error),
    }
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

fn attempt(record: &RequestRecord, number: usize, tried: &Attempt) -> Span {
    let is_good = ["deliver", ABANDONED].contains(&&*tried.verdict);
    let mut attributes = vec![
        KeyValue::new("http.request.method", record.method.to_string()),
        KeyValue::new("url.path", format!("/{}", record.route)),
        KeyValue::new("gpu_bridge.host", tried.host.clone()),
        KeyValue::new("gpu_bridge.verdict", tried.verdict.to_string()),
    ];
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

/// Sends on our runtime, which the SDK's thread knows nothing of.
struct Sender {
    runtime: Handle,
    /// The collector did not take the last batch.
    is_failing: AtomicBool,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    /// Logs changes only: a collector may be away for long.
    fn note(&self, answer: &Result<Response<Bytes>, HttpError>) {
        let problem = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        let was_failing = self.is_failing.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(problem) if !was_failing => {
                tracing::warn!(problem, "the collector does not take our traces");
            }
            None if was_failing => tracing::info!("the collector takes our traces again"),
            _ => {}
        }
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sending = async { tokio::time::timeout(PATIENCE, exchange(request)).await };
        let sent = match self.runtime.spawn(sending).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(late)) => Err(late.into()),
            Err(cancelled) => Err(cancelled.into()),
        };
        self.note(&sent);
        sent
    }
}

async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let authority = request.uri().authority().ok_or("no host in the address")?;
    let address = (
        authority.host().to_owned(),
        authority.port_u16().unwrap_or(80),
    );
    let host = http::HeaderValue::from_str(authority.as_str())?;
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map_or_else(http::Uri::default, http::Uri::from);
    parts.headers.insert(http::header::HOST, host);
    let request = http::Request::from_parts(parts, Full::new(body));
    let answer = async move {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

/// The exporter that the environment asks for, ready to be handed around.
///
/// # Errors
/// As [`Otlp::from_environment`].
pub fn exporter() -> Result<Option<Arc<dyn Exporter>>, Unusable> {
    let otlp = Otlp::from_environment()?;
    Ok(otlp.map(|otlp| Arc::new(otlp) as Arc<dyn Exporter>))
}
