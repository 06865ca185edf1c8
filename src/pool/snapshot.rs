//! The pool at one moment, for metrics and the answers that the proxy makes itself.

use super::health::Phase;
use crate::config::HostName;

/// See the module.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// In the order of the configuration.
    pub hosts: Vec<HostView>,
    /// Requests that wait for a lease.
    pub waiting: usize,
}

/// One host at one moment.
#[derive(Clone, Debug)]
pub struct HostView {
    /// Its name in the configuration.
    pub name: HostName,
    /// Its health.
    pub phase: Phase,
    /// Whether it is left alone for a while because it said that it is full.
    pub busy: bool,
    /// Leases that are out.
    pub in_flight: u32,
    /// Leases that may be out at once.
    pub capacity: u32,
}
