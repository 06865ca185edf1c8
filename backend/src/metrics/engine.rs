//! What the engine counts: models, queue, batches. Knows nothing of HTTP.

use std::sync::Arc;
use std::time::Duration;

use gpu_bridge_metrics::Maker;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::{SECONDS, to_i64};

/// Texts of a batch.
const TEXTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Tokens of a batch.
const TOKENS: [f64; 11] = [
    16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];
/// Seconds that a load takes: from a tiny model in the page cache to a large one on a slow disk.
const LOAD_SECONDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// Models, queue and batches. Clones count together; the default counts nothing.
#[derive(Clone, Debug, Default)]
pub struct EngineMetrics(Option<Arc<Inner>>);

/// One batch that was computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStats {
    /// Texts in it.
    pub texts: usize,
    /// Their tokens, special ones included.
    pub tokens: usize,
    /// Tokens of the same batch padded to its longest text: texts × longest.
    pub padded_tokens: usize,
    /// How long the forward pass took.
    pub took: Duration,
}

#[derive(Debug)]
struct Inner {
    queue_texts: IntGauge,
    queue_tokens: IntGauge,
    batch_texts: Histogram,
    batch_tokens: Histogram,
    padding_saved: IntCounter,
    inference: Histogram,
    out_of_memory: IntCounter,
    loads: IntCounterVec,
    load_duration: HistogramVec,
}

impl EngineMetrics {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Inner::new(make).map(|inner| Self(Some(Arc::new(inner))))
    }

    /// Texts wait to be computed, until the guard is dropped.
    pub fn queued(&self, texts: usize, tokens: usize) -> Queued {
        if let Some(inner) = &self.0 {
            inner.queue_texts.add(to_i64(texts));
            inner.queue_tokens.add(to_i64(tokens));
        }
        Queued {
            metrics: self.clone(),
            texts,
            tokens,
        }
    }

    /// A batch was computed.
    pub fn batch(&self, batch: &BatchStats) {
        let Some(inner) = &self.0 else { return };
        inner.batch_texts.observe(batch.texts as f64);
        inner.batch_tokens.observe(batch.tokens as f64);
        let saved = batch.padded_tokens.saturating_sub(batch.tokens);
        inner.padding_saved.inc_by(saved as u64);
        inner.inference.observe(batch.took.as_secs_f64());
    }

    /// The device had no memory for a batch.
    pub fn out_of_memory(&self) {
        if let Some(inner) = &self.0 {
            inner.out_of_memory.inc();
        }
    }

    /// A load ended, well or not; `purpose` is one of a fixed set, such as `embed`.
    pub fn model_loaded(&self, purpose: &'static str, took: Duration, ok: bool) {
        let Some(inner) = &self.0 else { return };
        let outcome = if ok { "ok" } else { "failed" };
        inner.loads.with_label_values(&[purpose, outcome]).inc();
        inner
            .load_duration
            .with_label_values(&[purpose])
            .observe(took.as_secs_f64());
    }
}

/// Texts that wait to be computed.
#[derive(Debug)]
pub struct Queued {
    metrics: EngineMetrics,
    texts: usize,
    tokens: usize,
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(inner) = &self.metrics.0 {
            inner.queue_texts.sub(to_i64(self.texts));
            inner.queue_tokens.sub(to_i64(self.tokens));
        }
    }
}

impl Inner {
    fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            queue_texts: make.gauge("queue_texts", "Texts that wait to be computed.")?,
            queue_tokens: make.gauge("queue_tokens", "Tokens that wait to be computed.")?,
            batch_texts: make.histogram("batch_texts", "Texts of a batch.", &TEXTS)?,
            batch_tokens: make.histogram("batch_tokens", "Tokens of a batch.", &TOKENS)?,
            padding_saved: make.counter(
                "padding_saved_tokens_total",
                "Tokens that batches padded to their longest text would have computed in addition.",
            )?,
            inference: make.histogram(
                "inference_duration_seconds",
                "Time that a batch took to compute.",
                &SECONDS,
            )?,
            out_of_memory: make.counter(
                "out_of_memory_total",
                "Batches that the device had no memory for.",
            )?,
            loads: make.counters(
                "model_loads_total",
                "Loads of models, by purpose and outcome.",
                &["purpose", "outcome"],
            )?,
            load_duration: make.histograms(
                "model_load_duration_seconds",
                "Time that loads took, good or failed, by purpose.",
                &LOAD_SECONDS,
                &["purpose"],
            )?,
        })
    }
}
