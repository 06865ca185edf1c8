//! The pool at one moment, for metrics, operators, and the answers that the proxy makes itself.

use std::num::NonZeroU32;
use std::time::Duration;

use super::HostId;
use super::health::Phase;
use super::host::HostFacts;
use crate::config::HostName;

/// See the module.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// In the order of the configuration.
    pub hosts: Vec<HostView>,
    /// Requests that wait for a lease.
    pub waiting: usize,
    /// Bytes that they hold.
    pub waiting_bytes: usize,
    /// How long those that wait will take to be served, as far as that is known.
    pub expected_wait: Duration,
}

/// One host at one moment.
#[derive(Clone, Debug)]
pub struct HostView {
    /// Which it is.
    pub id: HostId,
    /// Its name in the configuration.
    pub name: HostName,
    /// Its health.
    pub phase: Phase,
    /// How long it is not back yet whatever checks say, if it is ejected.
    pub hold_left: Duration,
    /// How long it is still left alone because it said that it is full.
    pub busy_for: Option<Duration>,
    /// It gets nothing new, by order of an operator.
    pub draining: bool,
    /// Leases that are out.
    pub in_flight: u32,
    /// Leases that may be out at once if nothing stands in the way.
    pub capacity: u32,
    /// Leases that may be out at once as things stand.
    pub slots: u32,
    /// Requests of others that run there.
    pub foreign: u32,
    /// Its share of the work compared with others.
    pub weight: NonZeroU32,
    /// How many times as long as the average host it takes for the same work.
    pub slowness: f64,
    /// What it told of itself.
    pub facts: HostFacts,
}

impl HostView {
    /// An idle host of two slots.
    #[cfg(test)]
    pub(crate) fn for_testing(name: HostName, phase: Phase) -> Self {
        Self {
            id: HostId(0),
            name,
            phase,
            hold_left: Duration::ZERO,
            busy_for: None,
            draining: false,
            in_flight: 0,
            capacity: 2,
            slots: 2,
            foreign: 0,
            weight: NonZeroU32::MIN,
            slowness: 1.0,
            facts: HostFacts::default(),
        }
    }

    /// Is it left alone because it said that it is full?
    pub fn is_busy(&self) -> bool {
        self.busy_for.is_some()
    }

    /// Could it serve, if not at this moment?
    pub fn is_serving(&self) -> bool {
        self.phase.is_serving() && !self.draining
    }
}
