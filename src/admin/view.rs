//! The pool as operators see it: what `GET /api/v1/pool`, the command line and the live page show.
//!
//! Pure, and typed on both ends: the command line reads what the API writes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Change;
pub use crate::pool::Condition as State;
use crate::pool::{Cause, HostView, Phase, PoolView};

/// Everything at one moment.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct PoolState {
    /// Of the proxy.
    pub version: String,
    /// Can a host serve?
    pub ready: bool,
    /// What waits.
    pub queue: QueueState,
    /// In the order of the configuration.
    pub hosts: Vec<HostState>,
}

/// The requests that wait for a host.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct QueueState {
    /// How many.
    pub waiting: usize,
    /// Bytes that they hold.
    pub bytes: usize,
    /// How long they will take to be served, as far as that is known.
    pub expected_wait_seconds: f64,
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
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct HostState {
    /// Its name in the configuration.
    pub name: String,
    /// In one word.
    pub state: State,
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
    /// How many times as fast as the average host it is.
    pub speed: f64,
    /// Models in its memory.
    pub models: Vec<String>,
    /// Device memory in MB.
    pub vram_total_mb: Option<u64>,
    /// Device memory in use in MB.
    pub vram_used_mb: Option<u64>,
}

impl From<&PoolView> for PoolState {
    fn from(pool: &PoolView) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: pool.hosts.iter().any(HostView::is_serving),
            queue: QueueState {
                waiting: pool.waiting,
                bytes: pool.waiting_bytes,
                expected_wait_seconds: rounded(pool.expected_wait.as_secs_f64()),
            },
            hosts: pool.hosts.iter().map(HostState::from).collect(),
        }
    }
}

impl From<&HostView> for HostState {
    fn from(host: &HostView) -> Self {
        let until = until(host).map(|time| rounded(time.as_secs_f64()));
        Self {
            name: host.name.to_string(),
            state: host.condition(),
            why: why(host),
            until_seconds: until,
            draining: host.draining,
            in_flight: host.in_flight,
            slots: host.slots,
            capacity: host.capacity,
            foreign: host.foreign,
            weight: host.weight.get(),
            speed: rounded(host.slowness.max(f64::MIN_POSITIVE).recip()),
            models: host.facts.models.clone(),
            vram_total_mb: host.facts.vram_total_mb,
            vram_used_mb: host.facts.vram_used_mb,
        }
    }
}

impl PoolState {
    /// The names of all hosts, for people.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        names.join(", ")
    }
}

fn until(host: &HostView) -> Option<Duration> {
    match host.phase {
        _ if host.draining => None,
        Phase::Ejected { .. } => (!host.hold_left.is_zero()).then_some(host.hold_left),
        _ => host.busy_for,
    }
}

fn why(host: &HostView) -> Option<String> {
    let condition = match host.phase {
        Phase::Unknown => Some("not checked yet".to_owned()),
        Phase::Up => why_limited(host),
        Phase::Trial => {
            Some("on trial: one request at a time until one is answered well".to_owned())
        }
        Phase::Ejected { cause, .. } => Some(format!("{}; {}", why_ejected(cause), way_back(host))),
    };
    if !host.draining {
        return condition;
    }
    let order = match host.in_flight {
        0 => "drained by an operator".to_owned(),
        1 => "drained by an operator; 1 request still runs".to_owned(),
        running => format!("drained by an operator; {running} requests still run"),
    };
    match condition {
        Some(condition) => Some(format!("{order}; {condition}")),
        None => Some(order),
    }
}

/// Why a host that is up takes less than it could.
fn why_limited(host: &HostView) -> Option<String> {
    if let Some(busy_for) = host.busy_for {
        return Some(format!(
            "it said that it is full; it is asked again in {}",
            whole_seconds(busy_for)
        ));
    }
    if host.capacity == 0 {
        return Some("it says that it has no slots".to_owned());
    }
    if host.foreign > 0 {
        return Some(format!("others use {} of its slots", host.foreign));
    }
    (host.slots < host.capacity).then(|| "its slots are opened one by one".to_owned())
}

fn why_ejected(cause: Cause) -> &'static str {
    match cause {
        Cause::Checks => "its health checks fail",
        Cause::Hung => "its health checks get no answer",
        Cause::Connect => "it does not accept connections",
        Cause::Answers => "it broke requests (reset, cut, late, or with errors of its own)",
        Cause::Misconfigured => "it refuses the proxy's API key; correct its api_key",
    }
}

fn way_back(host: &HostView) -> String {
    if host.hold_left.is_zero() {
        "back after a good check".to_owned()
    } else {
        format!("not back before {}", whole_seconds(host.hold_left))
    }
}

/// Rounded up: "0 s" would look like now.
fn whole_seconds(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    format!("{seconds} s")
}

/// To thousandths, for people who read the JSON.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn ejected(cause: Cause) -> Phase {
        Phase::Ejected {
            cause,
            hold_until: Instant::now(),
            good_checks: 0,
        }
    }

    fn host(phase: Phase) -> HostView {
        HostView::for_testing("a".parse().unwrap(), phase)
    }

    #[test]
    fn each_state_says_why() {
        let busy = |mut host: HostView| {
            host.busy_for = Some(Duration::from_millis(3200));
            host
        };
        let draining = |mut host: HostView, in_flight| {
            host.draining = true;
            host.in_flight = in_flight;
            host
        };
        let held = |mut host: HostView| {
            host.hold_left = Duration::from_secs(8);
            host
        };
        let foreign = |mut host: HostView| {
            host.foreign = 1;
            host
        };
        let table = [
            (host(Phase::Up), "up", ""),
            (host(Phase::Unknown), "unknown", "not checked yet"),
            (
                host(Phase::Trial),
                "trial",
                "on trial: one request at a time until one is answered well",
            ),
            (
                busy(host(Phase::Up)),
                "busy",
                "it said that it is full; it is asked again in 4 s",
            ),
            (foreign(host(Phase::Up)), "up", "others use 1 of its slots"),
            (
                host(ejected(Cause::Connect)),
                "ejected",
                "it does not accept connections; back after a good check",
            ),
            (
                held(host(ejected(Cause::Answers))),
                "ejected",
                "it broke requests (reset, cut, late, or with errors of its own); not back before 8 s",
            ),
            (
                host(ejected(Cause::Misconfigured)),
                "misconfigured",
                "it refuses the proxy's API key; correct its api_key; back after a good check",
            ),
            (
                draining(host(Phase::Up), 2),
                "draining",
                "drained by an operator; 2 requests still run",
            ),
            (
                draining(busy(host(Phase::Up)), 0),
                "drained",
                "drained by an operator; it said that it is full; it is asked again in 4 s",
            ),
        ];
        for (host, state, why) in table {
            let shown = HostState::from(&host);
            assert_eq!(shown.state.as_str(), state);
            assert_eq!(shown.why.unwrap_or_default(), why);
        }
    }

    #[test]
    fn the_json_can_be_read_back() {
        let pool = PoolView {
            hosts: vec![host(Phase::Up), host(ejected(Cause::Hung))],
            waiting: 3,
            waiting_bytes: 12,
            oldest_wait: Duration::ZERO,
            expected_wait: Duration::from_millis(1500),
        };
        let state = PoolState::from(&pool);
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["hosts"][1]["state"], "ejected");
        assert_eq!(json["queue"]["expected_wait_seconds"], 1.5);
        assert!(state.ready);
        assert_eq!(serde_json::from_value::<PoolState>(json).unwrap(), state);
    }

    #[test]
    fn a_pool_of_drained_hosts_is_not_ready() {
        let mut drained = host(Phase::Up);
        drained.draining = true;
        let pool = PoolView {
            hosts: vec![drained],
            waiting: 0,
            waiting_bytes: 0,
            oldest_wait: Duration::ZERO,
            expected_wait: Duration::ZERO,
        };
        assert!(!PoolState::from(&pool).ready);
    }
}
