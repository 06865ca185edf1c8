//! How often the configuration was read again, and how that went.

use std::time::SystemTime;

use gpu_bridge_metrics::Maker;
use prometheus::{IntCounterVec, IntGauge};

/// See the module.
pub struct Reloads {
    all: IntCounterVec,
    last_successful: IntGauge,
    last_success: IntGauge,
}

impl Reloads {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        let all = make.counters(
            "config_reloads_total",
            "Times that the configuration was read again while the proxy ran, by result.",
            &["result"],
        )?;
        for result in ["success", "failure"] {
            all.with_label_values(&[result]);
        }
        Ok(Self {
            all,
            last_successful: make.gauge(
                "config_last_reload_successful",
                "1 if the configuration that was read last is the one that runs, 0 if it was refused.",
            )?,
            last_success: make.gauge(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration that runs was taken over.",
            )?,
        })
    }

    /// The first configuration runs.
    pub fn started(&self, now: SystemTime) {
        self.last_successful.set(1);
        self.last_success.set(seconds(now));
    }

    /// Another one runs.
    pub fn succeeded(&self, now: SystemTime) {
        self.all.with_label_values(&["success"]).inc();
        self.started(now);
    }

    /// Another one was refused.
    pub fn failed(&self) {
        self.all.with_label_values(&["failure"]).inc();
        self.last_successful.set(0);
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
