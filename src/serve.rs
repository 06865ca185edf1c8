//! Wires the modules together and runs them until a signal says stop.
//!
//! pingora's listening service runs on our own runtime instead of in pingora's `Server`: its graceful
//! stop sleeps for a fixed time, while ours ends as soon as the last connection is done.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use pingora::server::{Fds, ListenFds};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, Admin};
use crate::budget::Budget;
use crate::config::{self, Config, Host};
use crate::dispatch::{self, Dispatcher};
use crate::gateway::{self, Auth, Certificates, Connections, Forwarding, Handler, Listener};
use crate::pool::{self, Event, EventKind, HostId, HostSpec, Pool, Thresholds, Transition};
use crate::telemetry::Metrics;
use crate::upstream::{self, Hosts};

/// Serves until SIGTERM or SIGINT, then finishes what runs and waits.
///
/// # Errors
/// If an address can't be listened on.
pub async fn serve(config: Config) -> Result<()> {
    let admin_listener = tokio::net::TcpListener::bind(config.admin.address)
        .await
        .with_context(|| format!("admin.address: can't listen on {}", config.admin.address))?;
    let admin_address = admin_listener.local_addr()?;
    let (fds, addresses) = listen(&config.listen)?;
    let certificates = certificates(&config.listen)?;
    let mut signals = Signals::new()?;
    raise_file_limit(config.limits.max_connections);

    let (stop, stopped) = watch::channel(false);
    let parts = Parts::new(config, stopped.clone())?;
    parts.spawn_checks();
    tokio::spawn({
        let pool = parts.pool.clone();
        async move { pool.keep_time().await }
    });
    let admin = admin::serve(admin_listener, parts.admin());
    tokio::spawn(async move {
        if let Err(error) = admin.await {
            tracing::error!(%error, "the admin address is not served any more");
        }
    });

    let (connections, shutdown_time) = (parts.connections.clone(), parts.shutdown);
    let mut accepting = JoinSet::new();
    for (address, certificates) in std::iter::zip(&addresses, &certificates) {
        let mut service = parts.service(*address, certificates.clone());
        let (fds, stopped) = (Arc::clone(&fds), stopped.clone());
        accepting.spawn(async move { service.start_service(Some(fds), stopped, 1).await });
    }
    announce(&addresses, &certificates, admin_address);

    signals.stop().await;
    tracing::info!("stopping: finishing what runs and waits; a second signal ends it at once");
    stop.send_replace(true);
    accepting.join_all().await;
    finish(&connections, shutdown_time, &mut signals).await;
    Ok(())
}

/// Waits for the open connections, each with a request that runs or waits.
async fn finish(connections: &Connections, shutdown_time: Duration, signals: &mut Signals) {
    tokio::select! {
        closed = connections.closed(shutdown_time) => if closed {
            tracing::info!("stopped");
        } else {
            tracing::warn!(?shutdown_time, "stopped with requests unfinished: timeouts.shutdown passed");
        },
        () = signals.stop() => tracing::warn!("stopped with requests unfinished: a second signal came"),
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
    pool: Pool,
    hosts: Arc<Hosts>,
    metrics: Arc<Metrics>,
    budget: Budget,
    connections: Connections,
    shutdown: Duration,
    handler: Arc<Handler<Hosts>>,
}

impl Parts {
    fn new(config: Config, stopping: watch::Receiver<bool>) -> Result<Self> {
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
        let auth = Arc::new(Auth::new(config.auth.keys));
        if auth.is_open() {
            tracing::warn!("auth.keys is empty: everybody who can connect may use the hosts");
        }
        let reports = Arc::clone(&hosts);
        let handler = Handler {
            auth,
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
            stopping,
        };
        let connections = Connections::new(config.limits.max_connections);
        let shutdown = config.timeouts.shutdown;
        Ok(Self {
            pool,
            hosts,
            metrics,
            budget,
            connections,
            shutdown,
            handler: Arc::new(handler),
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
        let (handler, connections) = (Arc::clone(&self.handler), self.connections.clone());
        let listener = Listener::new(handler, connections, certificates);
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

/// Binds all addresses before anything is served, and tells which ones they became (port 0).
fn listen(wanted: &[config::Listen]) -> Result<(ListenFds, Vec<SocketAddr>)> {
    let mut fds = Fds::new();
    let mut addresses = Vec::new();
    for config::Listen { address, .. } in wanted {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("listen: can't listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        fds.add(address.to_string(), listener.into_raw_fd());
        addresses.push(address);
    }
    Ok((Arc::new(Mutex::new(fds)), addresses))
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

/// On standard output, for people and scripts.
fn announce(
    addresses: &[SocketAddr],
    certificates: &[Option<Arc<Certificates>>],
    admin: SocketAddr,
) {
    for (address, certificates) in std::iter::zip(addresses, certificates) {
        let scheme = if certificates.is_some() {
            "https"
        } else {
            "http"
        };
        println!("listening on {scheme}://{address}");
    }
    println!("admin on http://{admin}");
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
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
