//! The pool as operators see it: what `GET /api/v1/pool`, the command line and the live page show.
//!
//! Pure, and typed on both ends: the command line reads what the API writes.

use serde::{Deserialize, Serialize};

use super::{summary, words};
use crate::config::Change;
pub use crate::pool::Condition;
use crate::pool::{Audited, HostView, Model, PoolView, Trust};
use crate::reload::Standing;
use crate::telemetry::{Counts, Lately, Rates};

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct PoolState {
    /// Of the proxy.
    pub version: String,
    /// Of the process that answers.
    #[serde(default)]
    pub uptime_seconds: u64,
    /// Which host gets a request: `pool.policy`.
    #[serde(default)]
    pub policy: String,
    /// Can a host serve?
    pub ready: bool,
    /// How it is, in a sentence or two.
    #[serde(default)]
    pub summary: Summary,
    /// What waits.
    pub queue: QueueState,
    /// How the last minute's requests went.
    #[serde(default)]
    pub requests: RatesState,
    /// Requests that were not run as they came, in the last minute.
    #[serde(default)]
    pub reshaped: ReshapedState,
    /// Are hosts audited (`audit.enabled`)?
    #[serde(default)]
    pub audits: bool,
    /// How what runs stands to the configuration's file.
    #[serde(default)]
    pub configuration: ConfigurationState,
    /// In the order of the configuration.
    pub hosts: Vec<HostState>,
}

/// How what runs stands to the configuration's file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ConfigurationState {
    /// What is wrong with the file, so that the configuration before it goes on; none: it runs.
    pub refused: Vec<String>,
    /// What the file says otherwise, but only a restart changes.
    pub needs_restart: Vec<String>,
}

impl ConfigurationState {
    /// A sentence for each of the two that there is.
    fn told(&self) -> impl Iterator<Item = String> {
        let refused = self.refused.first().map(|first| {
            let more = match self.refused.len() {
                1 => String::new(),
                all => format!(" (and {} more)", all - 1),
            };
            format!(
                "The configuration's file is refused and the one before goes on: {first}{more}."
            )
        });
        let restart = (!self.needs_restart.is_empty()).then(|| {
            format!(
                "A restart is needed for: {}.",
                self.needs_restart.join("; ")
            )
        });
        refused.into_iter().chain(restart)
    }
}

/// The pool in a sentence or two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Summary {
    /// How bad it is.
    pub level: Level,
    /// For people.
    pub text: String,
}

/// How much an operator should care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Not at all.
    #[default]
    Good,
    /// Clients are served, but something is not as it should be.
    Attention,
    /// Nobody is served.
    Down,
}

/// The requests that wait for a host.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct QueueState {
    /// How many.
    pub waiting: usize,
    /// Of these, how many wait for nothing but the limits of their own keys.
    #[serde(default)]
    pub held_back: usize,
    /// Bytes that they hold.
    pub bytes: usize,
    /// How long they will take to be served, as far as that is known.
    pub expected_wait_seconds: f64,
    /// How long the one that waits for longest has waited.
    #[serde(default)]
    pub oldest_wait_seconds: Option<f64>,
    /// How many may wait.
    #[serde(default)]
    pub max_waiting: usize,
}

/// What a reload of the configuration brought.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reloaded {
    /// A sentence for each difference.
    pub changes: Vec<String>,
    /// Some of them take effect after a restart only.
    pub needs_restart: bool,
}

impl From<&Change> for Reloaded {
    fn from(change: &Change) -> Self {
        let differences = change.differences().iter();
        Self {
            changes: differences.map(ToString::to_string).collect(),
            needs_restart: change.needs_restart().next().is_some(),
        }
    }
}

/// One host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct HostState {
    /// Its name in the configuration.
    pub name: String,
    /// Where it is.
    #[serde(default)]
    pub url: String,
    /// What computes there, as it last told.
    #[serde(default)]
    pub device: Option<String>,
    /// In one word.
    pub state: Condition,
    /// Why it gets less than it could; `None` if nothing stands in the way.
    pub why: Option<String>,
    /// When the state may end by itself, if that is known.
    pub until_seconds: Option<f64>,
    /// It gets nothing new, by order of an operator.
    pub draining: bool,
    /// Attempts of ours that run there.
    pub in_flight: u32,
    /// Attempts that may run as things stand.
    pub slots: u32,
    /// Attempts that may run if nothing stands in the way.
    pub capacity: u32,
    /// Requests of others that run there.
    pub foreign: u32,
    /// Its share of the work compared with others.
    pub weight: u32,
    /// How many times as fast as the median of the hosts that have served it is; `None` before it has
    /// served.
    pub speed: Option<f64>,
    /// Models in its memory.
    pub models: Vec<String>,
    /// How many more there are, in a pool of many hosts and models.
    #[serde(default)]
    pub more_models: usize,
    /// Device memory in MB.
    pub vram_total_mb: Option<u64>,
    /// Device memory in use in MB.
    pub vram_used_mb: Option<u64>,
    /// What its last check found wrong, if `why` doesn't say it.
    #[serde(default)]
    pub problem: Option<String>,
    /// How the last minute's attempts went.
    #[serde(default)]
    pub attempts: RatesState,
    /// What audits have shown.
    #[serde(default)]
    pub audits: Vec<AuditState>,
}

/// What the last audit of a model on a host has shown.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct AuditState {
    /// Which.
    pub model: String,
    /// In one word.
    pub trust: Trust,
    /// With what its vectors were compared with; `None`: with nothing.
    pub cosine: Option<f64>,
    /// Where they lie, as `X-Embedding-Space` has it.
    pub space: Option<String>,
    /// What is wrong, if anything is.
    pub why: Option<String>,
}

/// How the last minute went, for one host's attempts or for all requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct RatesState {
    /// Answers a second, over the last ten seconds.
    pub per_second: f64,
    /// How many ended in the last minute, but for those that their clients did wrong or gave up.
    #[serde(default)]
    pub ended: u32,
    /// Turned away, of all, from 0 to 1.
    pub refused: f64,
    /// Failed, of all, from 0 to 1.
    pub failed: f64,
    /// Half of the good answers took no longer.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 good answers took no longer.
    pub p99_seconds: Option<f64>,
}

/// How many of the last minute's requests were run otherwise than as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct ReshapedState {
    /// In parts on several hosts, or one after the other: of all, from 0 to 1.
    pub in_parts: f64,
    /// In one attempt with others: of all, from 0 to 1.
    pub together: f64,
}

impl PoolState {
    /// The pool at a moment, and how the minute before it went.
    pub(super) fn new(pool: &PoolView, lately: &Lately) -> Self {
        let host = |host: &HostView| {
            let rates = lately.hosts.get(&host.name).copied();
            HostState::new(host, rates.unwrap_or_default(), pool.listed_models())
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: 0,
            policy: pool.policy.to_string(),
            ready: pool.hosts.iter().any(HostView::is_serving),
            summary: summary::summary(pool, lately),
            queue: QueueState::from(pool),
            requests: lately.requests.into(),
            reshaped: lately.requests.minute.into(),
            audits: false,
            configuration: ConfigurationState::default(),
            hosts: pool.hosts.iter().map(host).collect(),
        }
    }

    /// With how it stands to the configuration's file, which its summary then tells as well.
    pub(super) fn with_configuration(mut self, standing: Standing) -> Self {
        self.configuration = ConfigurationState {
            refused: standing.refused,
            needs_restart: standing.needs_restart,
        };
        for sentence in self.configuration.told() {
            self.summary.level = self.summary.level.max(Level::Attention);
            let text = &mut self.summary.text;
            text.extend([if text.is_empty() { "" } else { " " }, &sentence]);
        }
        self
    }

    /// The names of all hosts, for people.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        names.join(", ")
    }
}

impl From<&PoolView> for QueueState {
    fn from(pool: &PoolView) -> Self {
        Self {
            waiting: pool.waiting,
            held_back: pool.held_back,
            bytes: pool.waiting_bytes,
            expected_wait_seconds: rounded(pool.expected_wait.as_secs_f64()),
            oldest_wait_seconds: (pool.waiting > 0)
                .then(|| rounded(pool.oldest_wait.as_secs_f64())),
            max_waiting: pool.max_waiting,
        }
    }
}

impl HostState {
    fn new(host: &HostView, rates: Rates, models: usize) -> Self {
        let info = host.info.as_deref();
        let loaded = info.map_or(&[][..], |info| &info.loaded_models);
        let device = info.map(|info| &info.device_name);
        let until = words::until(host).map(|time| rounded(time.as_secs_f64()));
        Self {
            name: host.name.to_string(),
            url: host.endpoint.clone(),
            device: device.filter(|name| !name.is_empty()).cloned(),
            state: host.condition(),
            why: words::why(host, rates.minute),
            until_seconds: until,
            draining: host.draining,
            in_flight: host.in_flight,
            slots: host.slots,
            capacity: host.capacity,
            foreign: host.foreign,
            weight: host.weight.get(),
            speed: host
                .slowness
                .map(|slowness| rounded(slowness.max(f64::MIN_POSITIVE).recip())),
            models: loaded.iter().take(models).cloned().collect(),
            more_models: loaded.len().saturating_sub(models),
            vram_total_mb: info.and_then(|info| info.vram_total_mb),
            vram_used_mb: info.and_then(|info| info.vram_used_mb),
            problem: (host.condition() != Condition::NotReady)
                .then(|| host.problem.clone())
                .flatten(),
            attempts: rates.into(),
            audits: host.audits.iter().map(AuditState::from).collect(),
        }
    }
}

impl From<(&Model, &Audited)> for AuditState {
    fn from((model, audited): (&Model, &Audited)) -> Self {
        Self {
            model: model.name().to_owned(),
            trust: audited.trust,
            cosine: audited.cosine,
            space: audited.space.map(|space| space.to_string()),
            why: audited.why.as_deref().map(str::to_owned),
        }
    }
}

impl From<Rates> for RatesState {
    fn from(rates: Rates) -> Self {
        let minute = rates.minute;
        Self {
            per_second: rounded(rates.per_second),
            ended: minute.all(),
            refused: rounded(minute.share(minute.full)),
            failed: rounded(minute.share(minute.badly)),
            p50_seconds: rates.p50.map(|time| rounded(time.as_secs_f64())),
            p99_seconds: rates.p99.map(|time| rounded(time.as_secs_f64())),
        }
    }
}

impl From<Counts> for ReshapedState {
    fn from(minute: Counts) -> Self {
        Self {
            in_parts: rounded(minute.share(minute.in_parts)),
            together: rounded(minute.share(minute.together)),
        }
    }
}

/// To thousandths, for people who read the JSON.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::pool::{Cause, Phase};

    fn host(phase: Phase) -> HostView {
        HostView::for_testing("a".parse().unwrap(), phase)
    }

    #[test]
    fn the_json_can_be_read_back() {
        let ejected = Phase::Ejected {
            cause: Cause::Hung,
            hold_until: Instant::now(),
            good_checks: 0,
        };
        let pool = PoolView {
            waiting: 3,
            waiting_bytes: 12,
            oldest_wait: Duration::from_millis(2500),
            expected_wait: Duration::from_millis(1500),
            ..PoolView::for_testing(vec![host(Phase::Up), host(ejected)])
        };
        let state = PoolState::new(&pool, &Lately::default());
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["hosts"][1]["state"], "ejected");
        assert_eq!(json["queue"]["expected_wait_seconds"], 1.5);
        assert_eq!(json["queue"]["oldest_wait_seconds"], 2.5);
        assert_eq!(json["summary"]["level"], "attention");
        assert!(state.ready);
        assert_eq!(serde_json::from_value::<PoolState>(json).unwrap(), state);
    }

    #[test]
    fn what_an_older_proxy_says_can_be_read() {
        let state = PoolState::new(
            &PoolView::for_testing(vec![host(Phase::Up)]),
            &Lately::default(),
        );
        let mut json = serde_json::to_value(&state).unwrap();
        for key in ["summary", "requests", "configuration"] {
            json.as_object_mut().unwrap().remove(key);
        }
        let old = json["hosts"][0].as_object_mut().unwrap();
        old.remove("attempts");
        old.remove("problem");
        let read: PoolState = serde_json::from_value(json).unwrap();
        assert_eq!(read.hosts[0].name, "a");
    }

    #[test]
    fn a_file_that_does_not_run_as_it_is_asks_for_attention() {
        let view = PoolView::for_testing(vec![host(Phase::Up)]);
        let state = |refused: &[&str], needs_restart: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
            let standing = Standing {
                refused: owned(refused),
                needs_restart: owned(needs_restart),
            };
            PoolState::new(&view, &Lately::default()).with_configuration(standing)
        };
        assert_eq!(state(&[], &[]).summary.level, Level::Good);
        let both = state(&["f:1:1: one", "f:2:1: two"], &["listen: a → b"]);
        assert_eq!(both.summary.level, Level::Attention);
        assert!(
            both.summary
                .text
                .contains("goes on: f:1:1: one (and 1 more).")
        );
        assert!(
            both.summary
                .text
                .contains("A restart is needed for: listen: a → b.")
        );
        assert_eq!(both.configuration.refused.len(), 2);
    }

    #[test]
    fn a_pool_of_drained_hosts_is_not_ready() {
        let mut drained = host(Phase::Up);
        drained.draining = true;
        let pool = PoolView::for_testing(vec![drained]);
        assert!(!PoolState::new(&pool, &Lately::default()).ready);
    }
}
