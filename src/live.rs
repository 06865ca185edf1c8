//! What of a running proxy follows its configuration, and how.
//!
//! Each module has settings of its own; what they are made of is said here, once, for the start and
//! for every reload. What is not here takes effect at the next start.

use std::sync::Arc;

use crate::admin::access::Access;
use crate::config::Config;
use crate::gateway::{Certificates, Forwarding, Handler};
use crate::pool::{Pool, Thresholds};
use crate::upstream::{Hosts, Membership};
use crate::{dispatch, gateway, pool, upstream};

/// The parts that can change.
pub struct Live {
    /// What operators must know.
    pub access: Access,
    /// Health, policy, queue.
    pub pool: Pool,
    /// Timeouts towards hosts.
    pub hosts: Arc<Hosts>,
    /// Which hosts there are.
    pub membership: Membership,
    /// Of each address for clients, in the order of `listen`.
    pub certificates: Vec<Option<Arc<Certificates>>>,
    /// Clients: keys, limits, timeouts; how requests are dispatched.
    pub handler: Arc<Handler<Hosts>>,
}

impl Live {
    /// Follows `config` from now on, which has the addresses that it had at the start. Needs a runtime.
    pub fn apply(&self, config: &Config) {
        let members = &config.pool;
        self.membership.set(&members.hosts, members.resolver);
        for (listen, certificates) in std::iter::zip(&config.listen, &self.certificates) {
            if let (Some(tls), Some(certificates)) = (&listen.tls, certificates) {
                certificates.set(tls.clone());
            }
        }
        self.access.set(config.admin.key.clone());
        self.pool.set_settings(pool_settings(config));
        self.pool.set_limits(client_limits(config));
        self.hosts.set_settings(upstream_settings(config));
        self.handler.dispatcher.set(dispatch_settings(config));
        let clients = gateway_settings(config);
        self.handler.settings.store(Arc::new(clients));
        let forwarding = Forwarding::new(&config.headers);
        self.handler.forwarding.store(Arc::new(forwarding));
        self.handler.auth.set(config.auth.keys.clone());
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
        (key.name.as_str().into(), limits)
    });
    keys.collect()
}

/// For talking to hosts.
pub fn upstream_settings(config: &Config) -> upstream::Settings {
    upstream::Settings {
        connect: config.timeouts.connect,
        check: config.health.timeout,
        check_interval: config.health.interval,
    }
}

/// For the way of a request through attempts.
pub fn dispatch_settings(config: &Config) -> dispatch::Settings {
    dispatch::Settings {
        max_wait: config.queue.max_wait,
        attempt: config.timeouts.attempt,
        max_faulted_hosts: config.retries.max_faulted_hosts,
        retry_percent: config.retries.budget_percent,
        hedge: config.retries.hedge,
    }
}

/// For talking to clients.
pub fn gateway_settings(config: &Config) -> gateway::Settings {
    let most = config.limits.max_connections_per_client;
    gateway::Settings {
        max_body: config.limits.max_body,
        max_head: config.limits.max_head,
        max_headers: config.limits.max_headers,
        client_head: config.timeouts.client_head,
        client_read: config.timeouts.client_read,
        client_idle: config.timeouts.client_idle,
        max_connections_per_client: most.map(|most| most.get() as usize),
        served_by: config.headers.served_by,
    }
}
