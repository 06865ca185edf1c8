//! The metrics that Prometheus scrapes; see the naming guide
//! <https://prometheus.io/docs/practices/naming/>.
//!
//! | file | tells of |
//! | --- | --- |
//! | `requests` | clients: requests, refusals, retries |
//! | `hosts` | each host: attempts, ejections, and how it stands |
//! | `queue` | what waits |
//! | `reloads` | the configuration |
//! | `process` | the proxy itself: connections, memory, certificates |
//!
//! What happens is counted when it happens. What *is* (the state of hosts, the queue) is read from the
//! pool's own view at each scrape, so that it can't be stale. Series of hosts that are gone end within a
//! second, whether anybody scrapes or not.
//!
//! Label values are bounded: routes, status codes, and names from the configuration, never anything
//! that a client makes up.

mod hosts;
mod process;
mod queue;
mod reading;
mod reloads;
mod requests;

use std::time::{Duration, SystemTime};

use gpu_bridge_metrics::Maker;
use gpu_bridge_upkeep::Upkeep;
use prometheus::{Registry, TextEncoder};
use tokio::time::MissedTickBehavior;

pub use self::hosts::HostMetrics;
pub use self::process::{OpenConnection, ProcessMetrics, Watched};
pub use self::reloads::Reloads;
pub use self::requests::{Reason, RequestMetrics};

use super::Activity;
use crate::budget::Budget;
use crate::pool::{Event, EventKind, Pool, PoolView, Transition};

const PREFIX: &str = "gpu_bridge";
const TICK: Duration = Duration::from_secs(1);

/// Seconds. From an answer that hardly takes work to the longest wait in a queue plus an attempt.
const SECONDS: [f64; 13] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// All metrics of one proxy.
pub struct Metrics {
    registry: Registry,
    /// What clients ask for and get.
    pub requests: RequestMetrics,
    /// What hosts do.
    pub hosts: HostMetrics,
    /// Reloads of the configuration.
    pub reloads: Reloads,
    /// The proxy itself.
    pub process: ProcessMetrics,
    /// What went wrong in it.
    pub upkeep: Upkeep,
    /// The last minutes in more detail, for those who look at them live.
    pub activity: Activity,
}

impl Metrics {
    /// A fresh set in a registry of its own.
    ///
    /// # Errors
    /// If two metrics have the same name, which would be a mistake in this module.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let make = Maker::new(&registry, PREFIX);
        Ok(Self {
            requests: RequestMetrics::new(&make)?,
            hosts: HostMetrics::new(&make)?,
            reloads: Reloads::new(&make)?,
            process: ProcessMetrics::new(&make)?,
            upkeep: Upkeep::new(&make)?,
            activity: Activity::default(),
            registry,
        })
    }

    /// Counts what happened to a host.
    pub fn count(&self, event: &Event) {
        if let EventKind::Health(Transition::Ejected(cause)) = event.kind {
            self.hosts.ejected(&event.host, cause);
        }
    }

    /// Ends each second, for what follows the pool. Must run for as long as anything is recorded.
    pub async fn keep_time(&self, pool: Pool) {
        let mut second = tokio::time::interval(TICK);
        second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            second.tick().await;
            let pool = pool.view();
            self.hosts.follow(&pool);
            self.activity.tick(&pool, SystemTime::now());
        }
    }

    /// All metrics in Prometheus' text format, with those of the pool and of memory as they are now.
    ///
    /// # Errors
    /// If the encoder fails.
    pub fn render(&self, pool: &PoolView, held: &Budget) -> prometheus::Result<String> {
        self.hosts.follow(pool);
        let mut families = self.registry.gather();
        families.extend(hosts::read(pool));
        families.extend(queue::read(pool));
        families.extend(self.process.read(held));
        TextEncoder::new().encode_to_string(&families)
    }
}

#[cfg(test)]
mod tests;
