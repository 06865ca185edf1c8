//! Wires the modules together and runs them until a signal says stop or a successor takes over.
//!
//! pingora's listening service runs on our own runtime instead of in pingora's `Server`: its graceful
//! stop sleeps for a fixed time, while ours ends as soon as the last connection is done.

mod running;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use pingora::services::listening::Service;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::running::{Running, Stopping};
use crate::admin::Admin;
use crate::admin::access::Access;
use crate::budget::Budget;
use crate::config::{self, Config, Host};
use crate::dispatch::{self, Dispatcher};
use crate::gateway::{self, Auth, Certificates, Connections, Forwarding, Handler, Listener};
use crate::pool::{
    self, Event, EventKind, HostId, HostSpec, HostView, Pool, Thresholds, Transition,
};
use crate::restart::{self, Sockets, Standing, Upgrade};
use crate::telemetry::Metrics;
use crate::upstream::{self, Hosts};

/// How the proxy is run, beside its configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where processes of this proxy meet to relieve each other.
    pub upgrade_socket: Option<PathBuf>,
}

/// Serves until SIGTERM or SIGINT, or until a successor takes over; then finishes what runs and waits.
///
/// # Errors
/// If an address can't be listened on, or a running proxy can't be relieved.
pub async fn serve(config: Config, options: Options) -> Result<()> {
    let mut signals = Signals::new()?;
    let mut successor_wanted = signal(SignalKind::user_defined2())?;
    let mut upgrade = Upgrade::begin(options.upgrade_socket.as_deref()).await?;
    let sockets = Sockets::open(&config, upgrade.inherited())?;
    raise_file_limit(config.limits.max_connections);

    let stopping = Stopping::default();
    let parts = Parts::new(config, &stopping)?;
    keep_drained(&parts.pool, &upgrade.draining());
    parts.spawn_checks();
    tokio::spawn({
        let pool = parts.pool.clone();
        async move { pool.keep_time().await }
    });
    tokio::select! {
        relieved = upgrade.relieve_predecessor(|| is_serving(&parts.pool)) => relieved?,
        () = signals.stop() => return Ok(()),
    }
    let running = Running::start(parts, &sockets, stopping)?;
    restart::notify(restart::State::Serving);

    tokio::select! {
        () = signals.stop() => {
            restart::notify(restart::State::Stopping);
            drop((upgrade, sockets));
            running.stop(&mut signals).await;
        }
        () = upgrade.relieved(&sockets, || standing(&running.pool), &mut successor_wanted) => {
            drop((upgrade, sockets));
            running.retire(&mut signals).await;
        }
    }
    Ok(())
}

fn is_serving(pool: &Pool) -> bool {
    standing(pool).serving
}

/// What a successor must know of this process.
fn standing(pool: &Pool) -> Standing {
    let hosts = pool.view().hosts;
    let draining = hosts.iter().filter(|host| host.draining);
    Standing {
        serving: hosts.iter().any(HostView::is_serving),
        draining: draining.map(|host| host.name.to_string()).collect(),
    }
}

/// An operator's order outlives an upgrade.
fn keep_drained(pool: &Pool, draining: &[String]) {
    for name in draining.iter().filter_map(|name| name.parse().ok()) {
        // One that is not in this configuration gets nothing anyway.
        pool.drain(&name);
    }
}

/// Allows as many open files as the system lets us: each connection is one.
fn raise_file_limit(max_connections: usize) {
    // A client's connection and one to a host, and some more.
    let wanted = 2 * max_connections as u64 + 64;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit >= wanted => {}
        Ok(limit) => tracing::warn!(
            limit,
            wanted,
            "too few open files are allowed for limits.max_connections; raise it (ulimit -n)"
        ),
        Err(error) => tracing::warn!(%error, "the limit of open files can't be raised"),
    }
}

/// The wired modules.
struct Parts {
    access: Access,
    pool: Pool,
    hosts: Arc<Hosts>,
    metrics: Arc<Metrics>,
    budget: Budget,
    connections: Connections,
    close_idle: watch::Receiver<bool>,
    shutdown: Duration,
    handler: Arc<Handler<Hosts>>,
    /// In the order of `listen`.
    certificates: Vec<Option<Arc<Certificates>>>,
}

impl Parts {
    fn new(config: Config, stopping: &Stopping) -> Result<Self> {
        let certificates = certificates(&config.listen)?;
        let metrics = Arc::new(Metrics::new()?);
        let budget = Budget::new(config.limits.max_buffered);
        let pool = pool(&config, Arc::clone(&metrics));
        let ids = pool.set_hosts(config.pool.hosts.iter().map(spec).collect());
        let hosts = Arc::new(hosts(&config, &ids, budget.clone())?);
        let dispatch = dispatch::Settings {
            max_wait: config.queue.max_wait,
            attempt: config.timeouts.attempt,
            max_faulted_hosts: config.retries.max_faulted_hosts,
            retry_percent: config.retries.budget_percent,
            hedge: config.retries.hedge,
        };
        let settings = gateway::Settings {
            max_body: config.limits.max_body,
            max_head: config.limits.max_head,
            max_headers: config.limits.max_headers,
            client_head: config.timeouts.client_head,
            client_read: config.timeouts.client_read,
            client_idle: config.timeouts.client_idle,
            served_by: config.headers.served_by,
        };
        let access = Access::new(config.admin.key);
        let reports = Arc::clone(&hosts);
        let handler = Handler {
            auth: Arc::new(Auth::new(config.auth.keys)),
            settings,
            forwarding: Forwarding::new(&config.headers),
            pool: pool.clone(),
            reports: Box::new(move || reports.reports()),
            dispatcher: Dispatcher::new(
                pool.clone(),
                Arc::clone(&hosts),
                dispatch,
                Arc::clone(&metrics),
            ),
            budget: budget.clone(),
            metrics: Arc::clone(&metrics),
            stopping: stopping.accepting.subscribe(),
        };
        let connections = Connections::new(config.limits.max_connections);
        let shutdown = config.timeouts.shutdown;
        Ok(Self {
            access,
            pool,
            hosts,
            metrics,
            budget,
            connections,
            close_idle: stopping.idle.subscribe(),
            shutdown,
            handler: Arc::new(handler),
            certificates,
        })
    }

    fn spawn_checks(&self) {
        for (host, _) in self.pool.hosts() {
            let (hosts, pool) = (Arc::clone(&self.hosts), self.pool.clone());
            tokio::spawn(async move { hosts.keep_checking(host, pool).await });
        }
    }

    fn admin(&self) -> Admin {
        Admin {
            access: self.access.clone(),
            stopping: self.handler.stopping.clone(),
            pool: self.pool.clone(),
            metrics: Arc::clone(&self.metrics),
            budget: self.budget.clone(),
        }
    }

    fn service(
        &self,
        address: SocketAddr,
        certificates: Option<Arc<Certificates>>,
    ) -> Service<Listener<Hosts>> {
        let listener = Listener::new(
            Arc::clone(&self.handler),
            self.connections.clone(),
            certificates,
            self.close_idle.clone(),
        );
        let mut service = Service::new("gateway".to_owned(), listener);
        service.add_tcp(&address.to_string());
        service
    }
}

fn pool(config: &Config, metrics: Arc<Metrics>) -> Pool {
    let settings = pool::Settings {
        policy: config.pool.policy,
        thresholds: Thresholds {
            healthy_after: config.health.healthy_after,
            unhealthy_after: config.health.unhealthy_after,
        },
        max_waiting: config.queue.max_waiting,
        max_waiting_bytes: config.queue.max_bytes,
        check_interval: config.health.interval,
    };
    let observer = move |event: &Event| {
        metrics.count(event);
        log(event);
    };
    Pool::new(settings, rand::random(), Box::new(observer))
}

fn spec(host: &Host) -> HostSpec {
    HostSpec {
        name: host.name.clone(),
        endpoint: host.url.to_string(),
        max_concurrent: host.max_concurrent,
        weight: host.weight,
    }
}

fn hosts(config: &Config, ids: &[HostId], budget: Budget) -> Result<Hosts> {
    let settings = upstream::Settings {
        connect: config.timeouts.connect,
        check: config.health.timeout,
        check_interval: config.health.interval,
    };
    let hosts = ids.iter().copied().zip(&config.pool.hosts);
    Ok(Hosts::new(hosts, settings, budget)?)
}

fn log(event: &Event) {
    let host = &event.host;
    match event.kind {
        EventKind::Health(Transition::Up) => tracing::info!(%host, "host is up"),
        EventKind::Health(Transition::Trial) => tracing::info!(%host, "host is on trial"),
        EventKind::Health(Transition::Ejected(cause)) => {
            tracing::warn!(%host, cause = cause.as_str(), "host is ejected");
        }
        EventKind::Busy(retry_after) => tracing::info!(%host, ?retry_after, "host is busy"),
        EventKind::NotBusy => tracing::info!(%host, "host has a free slot again"),
        EventKind::Added => tracing::info!(%host, "host is added"),
        EventKind::Removed => tracing::info!(%host, "host is removed; it finishes what it has"),
        EventKind::Draining => tracing::info!(%host, "host is draining"),
        EventKind::Undrained => tracing::info!(%host, "host gets requests again"),
        EventKind::Capacity(slots) => tracing::info!(%host, slots, "host told its slots"),
    }
}

/// Reads the certificate of each address that has one, and goes on watching it.
fn certificates(wanted: &[config::Listen]) -> Result<Vec<Option<Arc<Certificates>>>> {
    let load = |listen: &config::Listen| {
        let Some(files) = listen.tls.clone() else {
            return Ok(None);
        };
        let certificates = Arc::new(Certificates::load(files).context("listen.tls")?);
        let watched = Arc::clone(&certificates);
        tokio::spawn(async move { watched.keep_fresh().await });
        Ok(Some(certificates))
    };
    wanted.iter().map(load).collect()
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
