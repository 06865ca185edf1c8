//! Sends the traces of requests to a collector of OpenTelemetry (OTLP over HTTP, protobuf), set up by
//! the usual variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and others).
//!
//! ```text
//! request (server) ─┬─ queue
//!                   ├─ attempt (client) ─ the host's own spans
//!                   └─ …
//! ```
//!
//! Spans are made from a request's record once it has ended: nothing is paid while it runs. The SDK's
//! batch processor, on a thread of its own, drops spans rather than hold up requests. There is no TLS:
//! the collector is to be near, and passes traces on to where they are kept.

mod sender;
mod spans;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanProcessor as _};

use self::sender::Sender;
use self::spans::spans;
use super::observers::{Exporter, TRACES_WANTED};
use super::request_record::RequestRecord;

/// What the proxy is called, unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "gpu-bridge";
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
    #[error("traces can't be exported: a variable OTEL_EXPORTER_OTLP_… can't be used")]
    Refused,
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
            .with_http_client(Sender::here())
            .build()
            // Its text may quote an address or headers, and those a key.
            .map_err(|_| Unusable::Refused)?;
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
        if self.processor.shutdown_with_timeout(FAREWELL).is_err() {
            tracing::warn!("the last traces could not be exported");
        }
    }
}

/// The exporter that the environment asks for, ready to be handed around.
///
/// # Errors
/// As [`Otlp::from_environment`].
pub fn exporter() -> Result<Option<Arc<dyn Exporter>>, Unusable> {
    let otlp = Otlp::from_environment()?;
    Ok(otlp.map(|otlp| Arc::new(otlp) as Arc<dyn Exporter>))
}
