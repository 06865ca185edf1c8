//! The proxy while it serves, and the two ways in which that ends.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use gpu_bridge_places::Places;
use gpu_bridge_upkeep::StopSignals;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Parts;
use crate::admin;
use crate::config::Current;
use crate::pool::Pool;
use crate::restart::Sockets;
use crate::telemetry::{Metrics, Watched};

/// How long connections that idle have to close at the very end, and those to whom a request without an answer is
/// told to come again.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What stops when.
pub(super) struct Stopping {
    /// Nothing is accepted any more, and each answer ends its connection.
    pub(super) accepting: watch::Sender<bool>,
    /// Connections without a request are closed.
    pub(super) idle: watch::Sender<bool>,
    /// Requests without an answer are told to come again.
    pub(super) ending: watch::Sender<bool>,
    /// The admin address is not served any more.
    admin: watch::Sender<bool>,
}

impl Default for Stopping {
    fn default() -> Self {
        let sender = || watch::Sender::new(false);
        Self {
            accepting: sender(),
            idle: sender(),
            ending: sender(),
            admin: sender(),
        }
    }
}

/// The proxy while it serves.
pub(super) struct Running {
    pub(super) pool: Pool,
    stopping: Stopping,
    places: Places,
    config: Current,
    listeners: JoinSet<()>,
}

/// The sockets in the terms of those who serve on them: all that can fail, before anybody relies on
/// this process.
pub(super) struct Prepared {
    clients: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    admin: TcpListener,
    admin_address: SocketAddr,
}

impl Prepared {
    pub(super) fn new(sockets: &Sockets) -> Result<Self> {
        let (clients, addresses) = listening(sockets)?;
        let admin = sockets.admin().context("no admin address")?;
        let admin = admin.listener.try_clone()?;
        let admin_address = admin.local_addr()?;
        Ok(Self {
            clients,
            addresses,
            admin: TcpListener::from_std(admin)?,
            admin_address,
        })
    }
}

impl Running {
    pub(super) fn start(parts: &Parts, prepared: Prepared, stopping: Stopping) -> Self {
        let Prepared {
            clients,
            addresses,
            admin,
            admin_address,
        } = prepared;
        let admin_places = parts.admin_places.clone();
        let operators = parts.admin(stopping.admin.subscribe());
        let admin = Arc::new(admin);
        tokio::spawn(parts.observers.metrics.upkeep.keep("admin", move || {
            admin::serve(Arc::clone(&admin), operators.clone(), admin_places.clone())
        }));
        let pool = parts.pool.clone();
        let (places, config) = (parts.places.clone(), parts.config.clone());
        let mut listeners = JoinSet::new();
        for (position, socket) in clients.into_iter().enumerate() {
            let (listener, socket) = (parts.listener(position), Arc::new(socket));
            let accepting = stopping.accepting.subscribe();
            listeners.spawn(parts.observers.metrics.upkeep.keep("listen", move || {
                Arc::clone(&listener).run(Arc::clone(&socket), accepting.clone())
            }));
        }
        watch_certificates(&addresses, &config, &parts.observers.metrics);
        announce(&addresses, &config, admin_address);
        Self {
            pool,
            stopping,
            places,
            config,
            listeners,
        }
    }

    /// A signal said stop. New connections are refused, so nothing is to be gained from keeping idle
    /// ones.
    pub(super) async fn stop(self, signals: &mut StopSignals) {
        tracing::info!("stopping: finishing what runs and waits; a second signal ends it at once");
        self.stopping.accepting.send_replace(true);
        let time = self.shutdown_time();
        self.finish(time, signals).await;
    }

    /// A successor accepts what is new. Idle connections stay open until their next request, whose
    /// answer ends them: a client may be sending it at this very moment.
    pub(super) async fn retire(mut self, signals: &mut StopSignals) {
        tracing::info!("another process has taken over: finishing what runs and waits");
        self.stopping.accepting.send_replace(true);
        self.stopping.admin.send_replace(true);
        let shutdown_time = self.shutdown_time();
        self.accepts_no_more().await;
        let done = async { timeout(shutdown_time, self.places.emptied()).await.is_ok() };
        let time = tokio::select! {
            all_closed = done => if all_closed { LAST_WORDS } else { shutdown_time },
            // As when a service is stopped just after it was upgraded.
            () = signals.stop() => shutdown_time,
        };
        self.finish(time, signals).await;
    }

    /// As the configuration has it now.
    fn shutdown_time(&self) -> Duration {
        self.config.get().timeouts.shutdown
    }

    /// Waits until all that was accepted is counted, and nothing more will be.
    async fn accepts_no_more(&mut self) {
        while self.listeners.join_next().await.is_some() {}
    }

    /// Closes idle connections and waits for the others. Those that have no answer when the time is over are told so.
    async fn finish(mut self, time: Duration, signals: &mut StopSignals) {
        self.stopping.idle.send_replace(true);
        self.accepts_no_more().await;
        let why = tokio::select! {
            biased;
            closed = timeout(time, self.places.emptied()) => match closed {
                Ok(()) => return tracing::info!("stopped"),
                Err(_) => "timeouts.shutdown passed",
            },
            () = signals.stop() => "a second signal came",
        };
        self.stopping.ending.send_replace(true);
        // Those whose answers have begun are cut off.
        let _ = timeout(LAST_WORDS, self.places.emptied()).await;
        tracing::warn!("stopped with requests unfinished: {why}");
    }
}

/// The sockets for clients, and the addresses that they became (port 0).
fn listening(sockets: &Sockets) -> Result<(Vec<TcpListener>, Vec<SocketAddr>)> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for socket in sockets.clients() {
        let listener = socket.listener.try_clone()?;
        addresses.push(listener.local_addr()?);
        listeners.push(TcpListener::from_std(listener)?);
    }
    Ok((listeners, addresses))
}

fn watch_certificates(addresses: &[SocketAddr], config: &Current, metrics: &Metrics) {
    for (position, address) in addresses.iter().enumerate() {
        let config = config.clone();
        metrics.process.watch(Watched {
            address: address.to_string(),
            not_after: Box::new(move || {
                let config = config.get();
                let tls = config.listen.get(position)?.tls.as_ref()?;
                Some(tls.identity.not_after())
            }),
        });
    }
}

/// On standard output, for people and scripts. Nothing depends on whether it takes that.
fn announce(addresses: &[SocketAddr], config: &Current, admin: SocketAddr) {
    let mut text = String::new();
    for (address, listen) in std::iter::zip(addresses, &config.get().listen) {
        let scheme = if listen.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let _ = writeln!(text, "listening on {scheme}://{address}");
    }
    let _ = writeln!(text, "admin on http://{admin}");
    gpu_bridge_upkeep::announce(text);
}
