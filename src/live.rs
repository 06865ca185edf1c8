//! What has a state of its own, and must be told of a new configuration. All else reads
//! [`config::Current`] whenever it needs it. What [`Config::taken_over`] leaves as it was takes effect at
//! the next start.

use std::sync::Arc;

use crate::config::{self, Config};
use crate::pool::{self, Pool, Thresholds};
use crate::upstream::Membership;

/// See the module.
pub struct Live {
    /// What all others read.
    pub config: config::Current,
    /// Health, policy, queue, and what each client may have.
    pub pool: Pool,
    /// Which hosts there are.
    pub membership: Membership,
}

impl Live {
    /// Follows `config` from now on. Needs a runtime.
    pub fn apply(&self, config: Arc<Config>) {
        let members = &config.pool;
        self.membership.set(&members.hosts, members.resolver);
        self.pool.set_settings(pool_settings(&config));
        self.pool.set_limits(client_limits(&config));
        self.config.set(config);
    }
}

/// For the pool.
pub fn pool_settings(config: &Config) -> pool::Settings {
    pool::Settings {
        policy: config.pool.policy,
        thresholds: Thresholds {
            healthy_after: config.health.healthy_after,
            unhealthy_after: config.health.unhealthy_after,
        },
        max_waiting: config.queue.max_waiting,
        max_waiting_bytes: config.queue.max_bytes,
        check_interval: config.health.interval,
    }
}

/// What each client may have of the pool.
fn client_limits(config: &Config) -> Vec<(Arc<str>, pool::Limits)> {
    let keys = config.auth.keys.iter().map(|key| {
        let limits = pool::Limits {
            max_concurrent: key.max_concurrent,
            max_per_second: key.max_per_second,
        };
        (Arc::clone(&key.name), limits)
    });
    keys.collect()
}
