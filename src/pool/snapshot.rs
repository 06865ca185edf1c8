//! The pool at one moment, for metrics, operators, and the answers that the proxy makes itself.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use gpu_bridge_wire::Info;
use serde::{Deserialize, Serialize};

use super::HostId;
use super::audited::{Audits, Trust};
use super::demand::Demand;
use super::health::{Cause, Phase};
use super::origin::Origin;
use super::usage::Usage;
use crate::config::{HostName, Policy};

/// Models that are listed of all hosts together: sixteen of each of a thousand.
const MOST_LISTED: usize = 16_384;

/// See the module.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// Which host gets a request.
    pub policy: Policy,
    /// In the order of the configuration.
    pub hosts: Vec<HostView>,
    /// Each lease that is out, the oldest request first.
    pub running: Vec<Running>,
    /// Requests that wait for a lease.
    pub waiting: usize,
    /// Of these, how many wait for nothing but the limits of their own keys.
    pub held_back: usize,
    /// How many may wait.
    pub max_waiting: usize,
    /// Bytes that they hold.
    pub waiting_bytes: usize,
    /// How long the one that waits longest has waited since it joined the line.
    pub oldest_wait: Duration,
    /// How long those that wait will take to be served, as far as that is known.
    pub expected_wait: Duration,
}

/// Some of the hosts at one moment.
#[derive(Clone, Debug)]
pub struct Glance {
    /// The first of them, in the order of the configuration.
    pub hosts: Vec<HostView>,
    /// How many others there are.
    pub more: usize,
}

impl Glance {
    /// What is told of each of the first hosts, and how many there are more.
    pub fn told(&self, tell: impl Fn(&HostView) -> String) -> String {
        let mut told: Vec<String> = self.hosts.iter().map(tell).collect();
        if self.more > 0 {
            told.push(format!("and {} more", self.more));
        }
        told.join(", ")
    }
}

/// An attempt that runs.
#[derive(Clone, Debug)]
pub struct Running {
    /// What it is to answer.
    pub demand: Demand,
    /// Where.
    pub host: HostName,
    /// For how long.
    pub elapsed: Duration,
    /// How long it should take, if that is known.
    pub expected: Option<Duration>,
}

/// What a host is up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Not checked yet.
    #[default]
    Unknown,
    /// Takes requests.
    Up,
    /// Alive but full.
    Busy,
    /// Takes one request at a time.
    Trial,
    /// Well, but without a model that can be used.
    NotReady,
    /// Out.
    Ejected,
    /// Out until our key for it is corrected.
    Misconfigured,
    /// Finishes what it has, by order of an operator or because it is withdrawn.
    Draining,
    /// Has finished that.
    Drained,
}

impl Condition {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Up,
        Self::Busy,
        Self::Trial,
        Self::NotReady,
        Self::Ejected,
        Self::Misconfigured,
        Self::Draining,
        Self::Drained,
    ];

    /// As in JSON and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Busy => "busy",
            Self::Trial => "trial",
            Self::NotReady => "not_ready",
            Self::Ejected => "ejected",
            Self::Misconfigured => "misconfigured",
            Self::Draining => "draining",
            Self::Drained => "drained",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One host at one moment.
#[derive(Clone, Debug)]
pub struct HostView {
    /// Which it is.
    pub id: HostId,
    /// Its name in the configuration.
    pub name: HostName,
    /// Where it is.
    pub endpoint: String,
    /// Who told of it.
    pub origin: Origin,
    /// Its health.
    pub phase: Phase,
    /// How long it is not back yet whatever checks say, if it is ejected.
    pub hold_left: Duration,
    /// How long it is still left alone because it said that it is full.
    pub busy_for: Option<Duration>,
    /// When it is checked next, about; `None` before its first check has ended.
    pub next_check: Option<Duration>,
    /// What its last check found wrong, for people.
    pub problem: Option<String>,
    /// That is not the host's fault: it could not be asked.
    pub unasked: bool,
    /// It gets nothing new, by order of an operator.
    pub draining: bool,
    /// Leases that are out.
    pub in_flight: u32,
    /// What it has been used for so far.
    pub usage: Usage,
    /// Leases that may be out at once if nothing stands in the way.
    pub capacity: u32,
    /// Leases that may be out at once as things stand.
    pub slots: u32,
    /// Requests of others that run there.
    pub foreign: u32,
    /// It is back for a short time only: its slots are opened one by one.
    pub starting: bool,
    /// Its share of the work compared with others.
    pub weight: NonZeroU32,
    /// How many times as long as the median of the hosts that have served it takes for the same work;
    /// `None` before it has served, and in a [`Glance`].
    pub slowness: Option<f64>,
    /// What it last told of itself, if it ever told anything.
    pub info: Option<Arc<Info>>,
    /// What audits have shown of it.
    pub audits: Arc<Audits>,
}

impl PoolView {
    /// How many models of each host are listed where all hosts are.
    pub fn listed_models(&self) -> usize {
        MOST_LISTED / self.hosts.len().max(1)
    }

    /// A pool of these hosts, for which nothing waits.
    #[cfg(test)]
    pub(crate) fn for_testing(hosts: Vec<HostView>) -> Self {
        Self {
            policy: Policy::default(),
            hosts,
            running: Vec::new(),
            waiting: 0,
            held_back: 0,
            oldest_wait: Duration::ZERO,
            max_waiting: 512,
            waiting_bytes: 0,
            expected_wait: Duration::ZERO,
        }
    }
}

impl HostView {
    /// An idle host of two slots.
    #[cfg(test)]
    pub(crate) fn for_testing(name: HostName, phase: Phase) -> Self {
        Self {
            id: HostId(0),
            endpoint: format!("http://{name}:8765"),
            origin: Origin::Configured,
            name,
            phase,
            hold_left: Duration::ZERO,
            busy_for: None,
            next_check: None,
            problem: None,
            unasked: false,
            draining: false,
            in_flight: 0,
            usage: Usage::default(),
            capacity: 2,
            slots: 2,
            foreign: 0,
            starting: false,
            weight: NonZeroU32::MIN,
            slowness: None,
            info: None,
            audits: Arc::default(),
        }
    }

    /// With how many models audits have shown this of it.
    pub fn models_of(&self, trust: Trust) -> usize {
        let audits = self.audits.values();
        audits.filter(|audited| audited.trust == trust).count()
    }

    /// Is it left alone because it said that it is full?
    pub fn is_busy(&self) -> bool {
        self.busy_for.is_some()
    }

    /// Leases that it could be given at this moment.
    pub fn free(&self) -> u32 {
        if self.is_busy() {
            return 0;
        }
        self.slots.saturating_sub(self.in_flight)
    }

    /// What it is up to, in one word.
    pub fn condition(&self) -> Condition {
        match self.phase {
            _ if self.is_draining() && self.in_flight > 0 => Condition::Draining,
            _ if self.is_draining() => Condition::Drained,
            Phase::Unknown => Condition::Unknown,
            Phase::Up if self.is_busy() => Condition::Busy,
            Phase::Up => Condition::Up,
            Phase::Trial => Condition::Trial,
            Phase::NotReady { .. } => Condition::NotReady,
            Phase::Ejected {
                cause: Cause::Misconfigured,
                ..
            } => Condition::Misconfigured,
            Phase::Ejected { .. } => Condition::Ejected,
        }
    }

    /// Does it get nothing new, by order of an operator or because it is withdrawn?
    pub fn is_draining(&self) -> bool {
        self.draining || self.origin.withdrawn().is_some()
    }

    /// Could it serve, if not at this moment?
    pub fn is_serving(&self) -> bool {
        self.phase.is_serving() && !self.is_draining() && self.capacity > 0
    }
}
