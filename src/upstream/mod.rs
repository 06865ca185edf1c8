//! Talking to hosts: attempts, what their outcome means, and health checks.
//!
//! Knows sockets and HTTP; knows neither clients nor which host is used for what. It tells the pool
//! what checks found and answers [`Upstream::attempt`] with a [`Verdict`].

mod attempt;
mod check;
mod exchange;
mod target;
mod tls;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::connectors::http::Connector;

pub use target::Target;
pub use tls::TlsError;
pub use verdict::Verdict;

use crate::budget::Budget;
use crate::config::{self, HostName};
use crate::message::{Call, HostReport};
use crate::pool::{HostId, Pool};

/// What can be asked of hosts; a seam for tests.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Tries `call` once on `host`, for up to `limit` in all. Dropping the future closes the connection.
    async fn attempt(&self, host: HostId, call: &Call, limit: Duration) -> Verdict;
}

/// How hosts are talked to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bound on making a connection.
    pub connect: Duration,
    /// Bound on each request of a health check.
    pub check: Duration,
    /// Time between two checks of a host that is well; how old its `/info` may get.
    pub check_interval: Duration,
}

/// A host can't be connected to as configured.
#[derive(Debug, thiserror::Error)]
#[error("pool.hosts: {host}: {problem}")]
pub struct UnusableHost {
    host: HostName,
    problem: TlsError,
}

/// All hosts of the pool, over the network.
pub struct Hosts {
    targets: ArcSwap<Vec<(HostId, Arc<Target>)>>,
    connector: Arc<Connector>,
    settings: Settings,
    budget: Budget,
}

impl Hosts {
    /// Hosts as configured, by their ids. `budget` bounds the answers that are held.
    ///
    /// # Errors
    /// The first host whose certificates or keys can't be used.
    pub fn new<'a>(
        hosts: impl Iterator<Item = (HostId, &'a config::Host)>,
        settings: Settings,
        budget: Budget,
    ) -> Result<Self, UnusableHost> {
        let target = |(id, host): (HostId, &config::Host)| match Target::new(host) {
            Ok(target) => Ok((id, Arc::new(target))),
            Err(problem) => Err(UnusableHost {
                host: host.name.clone(),
                problem,
            }),
        };
        let targets = hosts.map(target).collect::<Result<_, _>>()?;
        Ok(Self {
            targets: ArcSwap::from_pointee(targets),
            connector: Arc::new(Connector::new(None)),
            settings,
            budget,
        })
    }

    /// What each host last told of itself, in the order of the configuration.
    pub fn reports(&self) -> Vec<HostReport> {
        let targets = self.targets.load();
        targets.iter().map(|(_, target)| target.report()).collect()
    }

    fn target(&self, host: HostId) -> Option<Arc<Target>> {
        let targets = self.targets.load();
        let found = targets.iter().find(|(id, _)| *id == host);
        found.map(|(_, target)| Arc::clone(target))
    }

    /// Checks one host for ever, telling the pool what was found.
    pub async fn keep_checking(&self, host: HostId, pool: Pool) {
        if let Some(target) = self.target(host) {
            check::Checker::new(&target, &self.connector, self.settings)
                .run(host, &pool)
                .await;
        }
    }
}

#[async_trait]
impl Upstream for Hosts {
    async fn attempt(&self, host: HostId, call: &Call, limit: Duration) -> Verdict {
        let Some(target) = self.target(host) else {
            return Verdict::Fault {
                sent: false,
                reason: "no such host".to_owned(),
            };
        };
        let attempt = attempt::Attempt {
            connector: &self.connector,
            target: &target,
            limit,
            settings: self.settings,
            budget: &self.budget,
        };
        attempt.run(call).await
    }
}
