//! Talking to hosts: attempts, what their outcome means, and health checks.
//!
//! Knows sockets and HTTP; knows neither clients nor which host is used for what. It tells the pool
//! what checks found and answers [`Upstream::attempt`] with a [`Verdict`].

mod attempt;
mod check;
mod exchange;
mod target;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::http::Connector;

pub use target::Target;
pub use verdict::Verdict;

use crate::budget::Budget;
use crate::config;
use crate::message::{Call, HostReport};
use crate::pool::{HostId, Pool};

/// What can be asked of hosts; a seam for tests.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Tries `call` once on `host`. Dropping the future closes the connection.
    async fn attempt(&self, host: HostId, call: &Call) -> Verdict;
}

/// How hosts are talked to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bound on making a connection.
    pub connect: Duration,
    /// Bound on one whole attempt.
    pub attempt: Duration,
    /// Bound on each request of a health check.
    pub check: Duration,
    /// Time between two checks of a host that is well; how old its `/info` may get.
    pub check_interval: Duration,
}

/// All hosts of the pool, over the network.
pub struct Hosts {
    targets: Vec<Arc<Target>>,
    connector: Arc<Connector>,
    settings: Settings,
    budget: Budget,
}

impl Hosts {
    /// Hosts as configured. `budget` bounds the answers that are held.
    pub fn new(hosts: &[config::Host], settings: Settings, budget: Budget) -> Self {
        Self {
            targets: hosts
                .iter()
                .map(|host| Arc::new(Target::new(host)))
                .collect(),
            connector: Arc::new(Connector::new(None)),
            settings,
            budget,
        }
    }

    /// What each host last told of itself, in the order of the configuration.
    pub fn reports(&self) -> Vec<HostReport> {
        self.targets.iter().map(|target| target.report()).collect()
    }

    /// Checks one host for ever, telling the pool what was found.
    pub async fn keep_checking(&self, host: HostId, pool: Pool) {
        if let Some(target) = self.targets.get(host.position()) {
            check::Checker::new(target, &self.connector, self.settings)
                .run(host, &pool)
                .await;
        }
    }
}

#[async_trait]
impl Upstream for Hosts {
    async fn attempt(&self, host: HostId, call: &Call) -> Verdict {
        let Some(target) = self.targets.get(host.position()) else {
            return Verdict::Fault {
                sent: false,
                reason: "no such host".to_owned(),
            };
        };
        let attempt = attempt::Attempt {
            connector: &self.connector,
            target,
            settings: self.settings,
            budget: &self.budget,
        };
        attempt.run(call).await
    }
}
