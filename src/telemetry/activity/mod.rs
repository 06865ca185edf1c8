//! What happened lately, for people who look at it live: how fast and how well hosts answer, a sample
//! of each second of the last minutes, what befell hosts, and which requests did not go smoothly.
//!
//! ```text
//! attempts, requests ─▶ meters ──(a tick a second)──▶ samples ─┐
//! events of the pool ──────────────────────────────▶ events  ─┼─▶ news since …
//! refusals, faults ────────────────────────────────▶ incidents ┘
//! ```
//!
//! In memory, bounded, and gone with the process; Prometheus keeps the long run. Refusals and faults
//! are kept apart, since an overload must not wash away the few requests that tell of a broken host;
//! and events that repeat are one.

mod events;
mod meter;
mod ring;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use foldhash::{HashMap, HashMapExt as _, HashSet};
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use self::events::Events;
pub use self::events::{Group, Happened};
use self::meter::Meter;
pub(super) use self::meter::Shape;
pub use self::meter::{Counts, End, Rates};
use self::ring::Ring;
use super::finished::Finished;
use super::request_record::RequestRecord;
use crate::config::HostName;
use crate::pool::{Event, PoolView};

/// Samples kept: five minutes of seconds.
const SAMPLES: usize = 300;
/// Refused requests kept, and as many that met a fault.
const INCIDENTS: usize = 50;

/// See the module.
pub struct Activity {
    started: Instant,
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

struct Inner {
    requests: Meter,
    hosts: HashMap<HostName, Meter>,
    /// As of the last tick, so that however many look, quantiles are found once a second.
    lately: Arc<Lately>,
    /// Of the next thing to be remembered, whatever it is.
    next: u64,
    samples: Ring<Arc<Sample>>,
    events: Events,
    refused: Ring<Arc<RequestRecord>>,
    faults: Ring<Arc<RequestRecord>>,
}

/// One second, as the live page gets it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Its end.
    #[serde(rename = "at_ms", serialize_with = "as_since_1970")]
    pub at: SystemTime,
    /// Requests that were answered.
    pub answered: u32,
    /// Requests that were turned away.
    pub refused: u32,
    /// Requests that failed.
    pub failed: u32,
    /// Requests that wait.
    pub waiting: usize,
    /// By name.
    pub hosts: BTreeMap<HostName, HostSample>,
}

/// One second of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct HostSample {
    /// Attempts that were answered.
    pub answered: u32,
    /// Attempts that it turned away.
    pub busy: u32,
    /// Attempts that failed.
    pub failed: u32,
    /// Attempts of ours that run there.
    pub in_flight: u32,
    /// Requests of others that run there.
    pub foreign: u32,
    /// Over the last minute.
    #[serde(rename = "p50_ms", serialize_with = "as_millis")]
    pub p50: Option<Duration>,
    /// Over the last minute.
    #[serde(rename = "p99_ms", serialize_with = "as_millis")]
    pub p99: Option<Duration>,
}

/// How the last minute went.
#[derive(Clone, Debug, Default)]
pub struct Lately {
    /// Requests.
    pub requests: Rates,
    /// Attempts on each host.
    pub hosts: HashMap<HostName, Rates>,
}

/// What there is to tell somebody who knows everything before some number.
#[derive(Clone, Debug)]
pub struct News {
    /// The number to ask with next time.
    pub next: u64,
    /// Oldest first.
    pub samples: Vec<Arc<Sample>>,
    /// Oldest first, each with its number.
    pub events: Vec<(u64, Happened)>,
    /// Requests that were refused or met a fault, which may have been hidden from their clients. Oldest
    /// first, each with its number.
    pub incidents: Vec<(u64, Arc<RequestRecord>)>,
}

/// For pages: milliseconds since 1970.
pub fn since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    millis(since.unwrap_or_default())
}

/// For pages: whole milliseconds.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn as_since_1970<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(since_1970(*time))
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn as_millis<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(millis).serialize(to)
}

impl Default for Activity {
    fn default() -> Self {
        let inner = Inner {
            requests: Meter::default(),
            hosts: HashMap::new(),
            lately: Arc::default(),
            next: 0,
            samples: Ring::new(SAMPLES),
            events: Events::default(),
            refused: Ring::new(INCIDENTS),
            faults: Ring::new(INCIDENTS),
        };
        Self {
            started: Instant::now(),
            inner: Mutex::new(inner),
            changed: watch::Sender::new(()),
        }
    }
}

impl Activity {
    /// An attempt on `host` ended. `took`: unless that says nothing of the host.
    pub fn attempt(&self, host: &HostName, ended: End, took: Option<Duration>) {
        let mut inner = self.inner.lock();
        if let Some(meter) = inner.hosts.get_mut(host) {
            meter.record(ended, took);
            return;
        }
        let mut meter = Meter::default();
        meter.record(ended, took);
        inner.hosts.insert(host.clone(), meter);
    }

    /// A request is over. What asks for no computation is not worth the while of those who watch.
    pub fn finished(&self, finished: &Finished) {
        if !finished.computes {
            return;
        }
        let mut inner = self.inner.lock();
        let record = &finished.record;
        if let Some(ended) = finished.end() {
            inner.requests.record(ended, Some(record.total));
            if ended == End::Well {
                inner.requests.record_shape(finished.shape());
            }
        }
        if finished.is_incident() {
            let number = inner.number();
            // Turned away, or harmed by a host?
            let ring = match finished.status() {
                429 | 503 => &mut inner.refused,
                _ => &mut inner.faults,
            };
            ring.push(number, Arc::clone(record));
        }
    }

    /// Something happened to a host.
    pub fn event(&self, event: &Event, at: SystemTime) {
        let mut inner = self.inner.lock();
        let number = inner.number();
        inner.events.push(number, event, at);
        drop(inner);
        self.changed.send_replace(());
    }

    /// How long it has been kept: as long as the process runs.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// How the last minute went.
    pub fn lately(&self) -> Arc<Lately> {
        Arc::clone(&self.inner.lock().lately)
    }

    /// What is remembered from number `since` on; 0 for everything.
    pub fn news(&self, since: u64) -> News {
        let inner = self.inner.lock();
        let refused = inner.refused.since(since);
        let mut incidents: Vec<_> = refused
            .chain(inner.faults.since(since))
            .map(|(number, incident)| (number, Arc::clone(incident)))
            .collect();
        incidents.sort_by_key(|(number, _)| *number);
        let samples = inner.samples.since(since);
        News {
            next: inner.next,
            samples: samples.map(|(_, sample)| Arc::clone(sample)).collect(),
            events: inner.events.since(since),
            incidents,
        }
    }

    /// Changes whenever a second is over or something happened to a host.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A second is over.
    pub(super) fn tick(&self, pool: &PoolView, at: SystemTime) {
        self.inner.lock().tick(pool, at);
        self.changed.send_replace(());
    }
}

impl Inner {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn tick(&mut self, pool: &PoolView, at: SystemTime) {
        // Hosts that are gone take their numbers with them.
        let present: HashSet<&HostName> = pool.hosts.iter().map(|host| &host.name).collect();
        self.hosts.retain(|name, _| present.contains(name));
        let mut hosts = BTreeMap::new();
        let mut lately = Lately::default();
        for host in &pool.hosts {
            let meter = self.hosts.entry(host.name.clone()).or_default();
            let counts = meter.tick();
            let rates = meter.rates();
            lately.hosts.insert(host.name.clone(), rates);
            let sample = HostSample {
                answered: counts.well,
                busy: counts.full,
                failed: counts.badly,
                in_flight: host.in_flight,
                foreign: host.foreign,
                p50: rates.p50,
                p99: rates.p99,
            };
            hosts.insert(host.name.clone(), sample);
        }
        let counts = self.requests.tick();
        lately.requests = self.requests.rates();
        self.lately = Arc::new(lately);
        let sample = Sample {
            at,
            answered: counts.well,
            refused: counts.full,
            failed: counts.badly,
            waiting: pool.waiting,
            hosts,
        };
        let number = self.number();
        self.samples.push(number, Arc::new(sample));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{EventKind, HostView, Phase};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn name() -> HostName {
        "a".parse().unwrap()
    }

    fn pool() -> PoolView {
        let mut host = HostView::for_testing(name(), Phase::Up);
        host.in_flight = 1;
        PoolView::for_testing(vec![host])
    }

    fn finished(id: &str, status: u16) -> Finished {
        let mut record = RequestRecord::new(id.to_owned());
        record.status = Some(status);
        record.total = Duration::from_millis(50);
        Finished {
            record: Arc::new(record),
            refused: None,
            computes: true,
            queued: true,
        }
    }

    #[test]
    fn each_second_becomes_a_sample() {
        let activity = Activity::default();
        activity.attempt(&name(), End::Well, Some(Duration::from_millis(40)));
        activity.attempt(&name(), End::Full, None);
        activity.finished(&finished("id", 200));
        activity.tick(&pool(), NOW);
        activity.tick(&pool(), NOW);

        let samples = activity.news(0).samples;

        assert_eq!((samples[0].answered, samples[1].answered), (1, 0));
        let host = samples[0].hosts[&name()];
        assert_eq!((host.answered, host.busy, host.in_flight), (1, 1, 1));
        assert_eq!(host.p99, Some(Duration::from_millis(40)));
        let lately = activity.lately();
        assert_eq!(lately.hosts[&name()].minute.full, 1);
        assert!((lately.requests.per_second - 0.5).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_told_twice() {
        let activity = Activity::default();
        let event = Event {
            host: name(),
            kind: EventKind::Draining,
            problem: None,
        };
        activity.event(&event, NOW);
        activity.finished(&finished("first", 502));
        let news = activity.news(0);
        assert_eq!((news.events.len(), news.incidents.len()), (1, 1));

        activity.finished(&finished("second", 500));

        let news = activity.news(news.next);
        assert!(news.events.is_empty() && news.samples.is_empty());
        assert_eq!(news.incidents[0].1.id, "second");
        assert!(activity.news(news.next).incidents.is_empty());
    }

    #[test]
    fn an_overload_does_not_wash_faults_away() {
        let activity = Activity::default();
        activity.finished(&finished("broken", 502));
        for _ in 0..1000 {
            activity.finished(&finished("refused", 503));
        }
        let incidents = activity.news(0).incidents;
        assert_eq!(incidents[0].1.id, "broken");
        assert_eq!(incidents.len(), 1 + INCIDENTS);
    }

    #[test]
    fn memory_is_bounded_and_hosts_that_are_gone_are_forgotten() {
        let activity = Activity::default();
        activity.attempt(&"gone".parse().unwrap(), End::Well, None);
        for _ in 0..2 * SAMPLES {
            activity.tick(&pool(), NOW);
        }
        assert_eq!(activity.news(0).samples.len(), SAMPLES);
        assert_eq!(activity.lately().hosts.len(), 1);
    }

    #[tokio::test]
    async fn changes_wake_those_who_watch() {
        let activity = Activity::default();
        let mut changes = activity.changes();
        assert!(!changes.has_changed().unwrap());
        activity.tick(&pool(), NOW);
        changes.changed().await.unwrap();
    }
}
