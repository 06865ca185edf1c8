//! Each host: what it did, and how it stands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foldhash::HashSet;
use gpu_bridge_metrics::Maker;
use parking_lot::Mutex;
use prometheus::core::{Collector as _, MetricVec, MetricVecBuilder};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramVec, IntCounterVec};

use super::SECONDS;
use super::reading::{Kind, Reading, family};
use crate::config::HostName;
use crate::pool::{Cause, Condition, HostView, Phase, PoolView, Trust};

const HOST: &str = "host";
const BYTES_OF_A_MB: f64 = 1024.0 * 1024.0;

/// What hosts did. How they stand is read from the pool: [`read`].
pub struct HostMetrics {
    attempts: IntCounterVec,
    durations: HistogramVec,
    ejections: IntCounterVec,
    known: Mutex<HashSet<HostName>>,
    /// Something has been counted of a host that is not, or not yet, known.
    strays: AtomicBool,
}

impl HostMetrics {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            attempts: make.counters(
                "attempts_total",
                "Attempts by host and verdict.",
                &[HOST, "verdict"],
            )?,
            durations: make.histograms(
                "attempt_duration_seconds",
                "Time that attempts on a host took, whatever their verdict.",
                &SECONDS,
                &[HOST],
            )?,
            ejections: make.counters(
                "host_ejections_total",
                "Ejections by host and cause.",
                &[HOST, "cause"],
            )?,
            known: Mutex::default(),
            strays: AtomicBool::new(false),
        })
    }

    /// An attempt on `host` has ended.
    pub fn attempted(&self, host: &HostName, verdict: &str, took: Duration) {
        self.note_stray(host);
        let host = host.as_ref();
        self.attempts.with_label_values(&[host, verdict]).inc();
        self.durations
            .with_label_values(&[host])
            .observe(took.as_secs_f64());
    }

    pub(super) fn ejected(&self, host: &HostName, cause: Cause) {
        self.note_stray(host);
        let labels = [host.as_ref(), cause.as_str()];
        self.ejections.with_label_values(&labels).inc();
    }

    /// What runs on a host may end after the host is gone, and begins its series anew.
    fn note_stray(&self, host: &HostName) {
        if !self.known.lock().contains(host) {
            self.strays.store(true, Ordering::Relaxed);
        }
    }

    /// Starts the series of new hosts at 0, so that `rate()` sees their first step, and ends those of
    /// hosts that are gone, which would show their last value for ever.
    pub(super) fn follow(&self, pool: &PoolView) {
        let present: HashSet<HostName> = pool.hosts.iter().map(|host| host.name.clone()).collect();
        let mut known = self.known.lock();
        if !self.strays.swap(false, Ordering::Relaxed) && present == *known {
            return;
        }
        for host in present.difference(&known) {
            self.durations.with_label_values(&[host.as_ref()]);
            for cause in Cause::ALL {
                let labels = [host.as_ref(), cause.as_str()];
                self.ejections.with_label_values(&labels);
            }
        }
        *known = present;
        let present: HashSet<&str> = known.iter().map(AsRef::as_ref).collect();
        forget_others(&self.attempts, &present);
        forget_others(&self.durations, &present);
        forget_others(&self.ejections, &present);
    }
}

/// Looks at all series rather than at the names that have gone: an attempt on a host may end after
/// the host is gone.
fn forget_others<T: MetricVecBuilder>(metrics: &MetricVec<T>, present: &HashSet<&str>) {
    for family in metrics.collect() {
        for metric in family.get_metric() {
            let labels = metric.get_label().iter();
            let labels: HashMap<&str, &str> =
                labels.map(|label| (label.name(), label.value())).collect();
            if labels.get(HOST).is_some_and(|host| !present.contains(host)) {
                // Fails only for a series that is gone already.
                let _ = metrics.remove(&labels);
            }
        }
    }
}

/// How the hosts stand.
pub(super) fn read(pool: &PoolView) -> impl Iterator<Item = MetricFamily> {
    let of_all = READINGS.iter().filter_map(|reading| {
        let hosts = pool.hosts.iter();
        reading.of(hosts.map(|host| (vec![(HOST, host.name.as_ref())], host)))
    });
    of_all
        .chain(states(pool))
        .chain(cosines(pool))
        .chain(origins(pool))
}

fn origins(pool: &PoolView) -> Option<MetricFamily> {
    let samples = pool.hosts.iter().map(|host| {
        let pod = host.origin.pod().map_or("", AsRef::as_ref);
        let found = host.origin.as_str();
        let labels = vec![(HOST, host.name.as_ref()), ("found", found), ("pod", pod)];
        (labels, 1.0)
    });
    let help = "1, with who told of a host (configuration, dns or kubernetes), and its pod.";
    family(Kind::Gauge, "host_info", help, samples)
}

fn cosines(pool: &PoolView) -> Option<MetricFamily> {
    let samples = pool.hosts.iter().flat_map(|host| {
        host.audits.iter().filter_map(|(model, audited)| {
            let labels = vec![(HOST, host.name.as_ref()), ("model", model.name())];
            Some((labels, audited.cosine?))
        })
    });
    let help = "The lowest cosine of a host's vectors of the fixed texts with what they were compared with.";
    family(Kind::Gauge, "host_audit_cosine", help, samples)
}

fn states(pool: &PoolView) -> Option<MetricFamily> {
    let samples = pool.hosts.iter().flat_map(|host| {
        let current = host.condition();
        Condition::ALL.into_iter().map(move |state| {
            let labels = vec![(HOST, host.name.as_ref()), ("state", state.as_str())];
            (labels, truth(state == current))
        })
    });
    let help = "1 for the state that a host is in, 0 for the others.";
    family(Kind::Gauge, "host_state", help, samples)
}

const READINGS: [Reading<HostView>; 19] = [
    Reading {
        kind: Kind::Gauge,
        name: "host_healthy",
        help: "1 while a host may get requests.",
        read: |host| Some(truth(host.is_serving())),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_busy",
        help: "1 while a host is left alone because it said that it is full.",
        read: |host| Some(truth(host.is_busy())),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_draining",
        help: "1 while a host gets nothing new by order of an operator.",
        read: |host| Some(truth(host.draining)),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_misconfigured",
        help: "1 while a host is out because it refuses the proxy's API key.",
        read: |host| Some(truth(is_misconfigured(host.phase))),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_unasked",
        help: "1 while a host can't be checked for reasons that are not its own: the proxy is short of something, or its name can't be resolved.",
        read: |host| Some(truth(host.unasked)),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_in_flight",
        help: "Attempts that run on a host.",
        read: |host| Some(host.in_flight.into()),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_capacity",
        help: "Attempts that a host may run at once if nothing stands in the way.",
        read: |host| Some(host.capacity.into()),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_slots",
        help: "Attempts that a host may run at once as things stand.",
        read: |host| Some(host.slots.into()),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_foreign_in_flight",
        help: "Requests of others that run on a host.",
        read: |host| Some(host.foreign.into()),
    },
    Reading {
        kind: Kind::Counter,
        name: "host_busy_seconds_total",
        help: "Time during which at least one attempt of ours ran on a host.",
        read: |host| Some(host.usage.busy.as_secs_f64()),
    },
    Reading {
        kind: Kind::Counter,
        name: "host_slot_seconds_total",
        help: "Time that attempts of ours used slots of a host, each slot for itself.",
        read: |host| Some(host.usage.leased.as_secs_f64()),
    },
    Reading {
        kind: Kind::Counter,
        name: "host_items_total",
        help: "Texts, or pairs of texts, that a host has computed for us.",
        read: |host| Some(host.usage.items as f64),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_slowness_ratio",
        help: "How many times as long as the median of the hosts that have served a host takes for the same work (1 before it has served).",
        read: |host| Some(host.slowness.unwrap_or(1.0)),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_loaded_models",
        help: "Models in a host's memory, as it last told.",
        read: |host| {
            Some(
                host.info
                    .as_ref()
                    .map_or(0, |info| info.loaded_models.len()) as f64,
            )
        },
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_deviating_models",
        help: "Models for which a host gets no requests, because audits have shown that it answers wrong.",
        read: |host| Some(host.models_of(Trust::Deviates) as f64),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_disputed_models",
        help: "Models for which a host says something else than another, while nobody knows which is right.",
        read: |host| Some(host.models_of(Trust::Disputed) as f64),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_unaudited_models",
        help: "Models of which nobody knows whether a host answers right, because it gives audits no answer that can be judged.",
        read: |host| Some(host.models_of(Trust::Unknown) as f64),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_vram_total_bytes",
        help: "Device memory of a host, if it tells.",
        read: |host| host.info.as_ref()?.vram_total_mb.map(bytes),
    },
    Reading {
        kind: Kind::Gauge,
        name: "host_vram_used_bytes",
        help: "Device memory of a host that is in use, if it tells.",
        read: |host| host.info.as_ref()?.vram_used_mb.map(bytes),
    },
];

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn bytes(mb: u64) -> f64 {
    mb as f64 * BYTES_OF_A_MB
}

fn is_misconfigured(phase: Phase) -> bool {
    let cause = Cause::Misconfigured;
    matches!(phase, Phase::Ejected { cause: found, .. } if found == cause)
}
