//! Who is told of a request that has ended.

use std::sync::Arc;

use http::HeaderMap;

use super::finished::Finished;
use super::metrics::Metrics;
use super::recent::Recent;
use super::request_record::RequestRecord;
use super::trace::{Trace, TraceContext};

/// The variables that say where traces go; without one of them they go nowhere.
pub const TRACES_WANTED: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

/// Takes the records of requests whose traces are to be exported.
pub trait Exporter: std::fmt::Debug + Send + Sync {
    /// Must not block.
    fn export(&self, record: &RequestRecord);

    /// Sends what is left, and blocks until that is done.
    fn finish(&self);
}

/// See the module; cheap to clone.
#[derive(Clone)]
pub struct Observers {
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Remembers.
    pub recent: Arc<Recent>,
    /// Exports traces, if somebody wants them.
    pub exporter: Option<Arc<dyn Exporter>>,
}

impl Observers {
    /// The place of a request with these headers in its trace. Spans of ours are made only if they
    /// are going to be exported.
    pub fn trace(&self, headers: &HeaderMap) -> Option<Trace> {
        let client = TraceContext::of(headers);
        match self.exporter {
            Some(_) => Some(Trace::ours(client)),
            None => client.map(Trace::told),
        }
    }

    /// What hosts are told of the trace; `None`: what the client told.
    pub fn context(&self, trace: Option<Trace>) -> Option<TraceContext> {
        let is_ours = self.exporter.is_some();
        trace.filter(|_| is_ours).map(Trace::context)
    }

    /// A request is over.
    pub fn ended(&self, finished: &Finished) {
        let record = &finished.record;
        self.metrics.requests.finished(finished);
        self.metrics.activity.finished(finished);
        record.log();
        let is_sampled = record.trace.is_some_and(|trace| trace.sampled);
        if let Some(exporter) = self.exporter.as_ref().filter(|_| is_sampled) {
            exporter.export(record);
        }
        self.recent.push(Arc::clone(record));
    }
}
