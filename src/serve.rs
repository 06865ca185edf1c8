//! Wires the modules together and runs them until a signal says stop or a successor takes over.
//!
//! The listeners are ours and run on our own runtime instead of in pingora's `Server`: its graceful
//! stop sleeps for a fixed time, while ours ends as soon as the last connection is done.

mod files;
mod running;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Result, anyhow};
use gpu_bridge_places::Places;
use gpu_bridge_upkeep::StopSignals;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, watch};

use self::files::Shares;
use self::running::{Prepared, Running, Stopping};
use crate::admin::{Admin, Streams};
use crate::audit::Auditor;
use crate::budget::Budget;
use crate::config::{self, Config, Current};
use crate::dispatch::Dispatcher;
use crate::gateway::{Aggregates, Handler, Listener};
use crate::live::{self, Live};
use crate::pool::{Event, EventKind, Pool, Transition, Trust};
use crate::reload::Reloader;
use crate::restart::{self, RestartError, Sockets, Standing, Upgrade};
use crate::telemetry::{Exporter, Metrics, Observers};
use crate::upstream::{Hosts, Membership};

/// How the proxy is run, beside its configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where processes of this proxy meet to relieve each other.
    pub upgrade_socket: Option<PathBuf>,
    /// Where traces go.
    pub exporter: Option<Arc<dyn Exporter>>,
}

/// Serves until SIGTERM, SIGINT or SIGQUIT, or until a successor takes over; then finishes what runs and waits.
/// `config` was read from `file`, which is watched, and read again at SIGHUP. `metrics` are shown.
///
/// # Errors
/// If an address can't be listened on, or a running proxy can't be relieved.
pub async fn serve(
    file: PathBuf,
    config: Config,
    metrics: Arc<Metrics>,
    options: Options,
) -> Result<()> {
    let mut signals = StopSignals::new()?;
    let mut successor_wanted = signal(SignalKind::user_defined2())?;
    // Taken note of from now on: one that nobody takes ends the process.
    let reload_wanted = signal(SignalKind::hangup())?;
    tokio::spawn(gpu_bridge_upkeep::no_log_files()?);
    let mut upgrade = tokio::select! {
        begun = Upgrade::begin(options.upgrade_socket.as_deref()) => begun?,
        () = signals.stop() => return Ok(()),
    };
    let sockets = Sockets::open(&config, upgrade.inherited(), restart::activated()?);
    let sockets = sockets.map_err(|error| placed(error, &file))?;
    let hosts = config.pool.hosts.len();
    let shares = files::share(config.limits.max_connections, hosts);

    let stopping = Stopping::default();
    let parts = Parts::new(file, config, metrics, options.exporter, shares, &stopping);
    keep_drained(&parts.pool, &upgrade.draining());
    keep_reloading(&parts, reload_wanted);
    keep_time(&parts);
    let prepared = Prepared::new(&sockets)?;
    tokio::select! {
        relieved = upgrade.relieve_predecessor(|| is_serving(&parts.pool)) => relieved?,
        () = signals.stop() => return Ok(()),
    }
    let running = Running::start(&parts, prepared, stopping);
    restart::notify(restart::Notice::Serving);

    tokio::select! {
        () = signals.stop() => {
            restart::notify(restart::Notice::Stopping);
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

/// With the place in the configuration that it is about.
fn placed(error: RestartError, file: &Path) -> anyhow::Error {
    match &error {
        RestartError::Listen { key, .. } => anyhow!(config::in_file(file, key, &error.to_string())),
        _ => error.into(),
    }
}

fn is_serving(pool: &Pool) -> bool {
    standing(pool).serving
}

/// What a successor must know of this process.
fn standing(pool: &Pool) -> Standing {
    let drained = pool.drained();
    Standing {
        serving: pool.is_serving(),
        draining: drained.iter().map(ToString::to_string).collect(),
    }
}

/// An operator's order outlives an upgrade.
fn keep_drained(pool: &Pool, draining: &[String]) {
    let names = draining.iter().filter_map(|name| name.parse().ok());
    pool.keep_drained(names.collect());
}

/// Reloads when a file changes and when SIGHUP asks for it.
fn keep_reloading(parts: &Parts, asked: Signal) {
    let upkeep = &parts.observers.metrics.upkeep;
    let reloader = parts.reloader.clone();
    tokio::spawn(upkeep.keep("watch-files", move || {
        let reloader = reloader.clone();
        async move { reloader.watch().await }
    }));
    let asked = Arc::new(Mutex::new(asked));
    let reloader = parts.reloader.clone();
    tokio::spawn(upkeep.keep("reload", move || {
        let (reloader, asked) = (reloader.clone(), Arc::clone(&asked));
        async move {
            while asked.lock().await.recv().await.is_some() {
                // It tells the log and the metrics what is wrong.
                let _ = reloader.reload().await;
            }
        }
    }));
}

fn keep_time(parts: &Parts) {
    let metrics = &parts.observers.metrics;
    let pool = parts.pool.clone();
    tokio::spawn(metrics.upkeep.keep("pool-time", move || {
        let pool = pool.clone();
        async move { pool.keep_time().await }
    }));
    let hosts = Arc::clone(&parts.hosts);
    tokio::spawn(metrics.upkeep.keep("kept-connections", move || {
        let hosts = Arc::clone(&hosts);
        async move { hosts.keep_time().await }
    }));
    let auditor = Arc::clone(&parts.auditor);
    tokio::spawn(metrics.upkeep.keep("audit", move || {
        let auditor = Arc::clone(&auditor);
        async move { auditor.run().await }
    }));
    let (pool, observed) = (parts.pool.clone(), Arc::clone(metrics));
    tokio::spawn(metrics.upkeep.keep("activity-time", move || {
        let (pool, metrics) = (pool.clone(), Arc::clone(&observed));
        async move { metrics.keep_time(pool).await }
    }));
}

/// The wired modules.
struct Parts {
    config: Current,
    pool: Pool,
    hosts: Arc<Hosts>,
    auditor: Arc<Auditor>,
    observers: Observers,
    budget: Budget,
    /// For clients.
    places: Places,
    /// For operators.
    admin_places: Places,
    close_idle: watch::Receiver<bool>,
    handler: Arc<Handler>,
    reloader: Reloader,
}

impl Parts {
    fn new(
        file: PathBuf,
        config: Config,
        metrics: Arc<Metrics>,
        exporter: Option<Arc<dyn Exporter>>,
        shares: Shares,
        stopping: &Stopping,
    ) -> Self {
        let observers = Observers {
            metrics: Arc::clone(&metrics),
            recent: Arc::default(),
            exporter,
        };
        let budget = Budget::new(config.limits.max_buffered);
        let pool = pool(&config, Arc::clone(&metrics));
        let config = Current::new(config);
        let hosts = Hosts::new(config.clone(), budget.clone(), metrics.upkeep.clone());
        let hosts = Arc::new(hosts);
        let handler = Arc::new(Handler {
            config: config.clone(),
            pool: pool.clone(),
            aggregates: Aggregates::new(pool.clone()),
            dispatcher: Dispatcher::new(
                pool.clone(),
                hosts.clone(),
                config.clone(),
                Arc::clone(&metrics),
            ),
            budget: budget.clone(),
            observers: observers.clone(),
            stopping: stopping.accepting.subscribe(),
            ending: stopping.ending.subscribe(),
        });
        let auditor = Auditor::new(pool.clone(), hosts.clone(), config.clone(), budget.clone());
        let auditor = Arc::new(auditor);
        let places = metrics.process.places("clients", shares.clients);
        let admin_places = metrics.process.places("admin", shares.operators);
        metrics.process.limit_connections(shares.clients);
        let live = Live {
            config: config.clone(),
            pool: pool.clone(),
            membership: Membership::new(pool.clone(), Arc::clone(&hosts)),
        };
        live.apply(config.snapshot());
        let apply = Box::new(move |config: Arc<Config>| live.apply(config));
        let reloader = Reloader::new(file, config.clone(), apply, metrics);
        Self {
            config,
            pool,
            hosts,
            auditor,
            observers,
            budget,
            places,
            admin_places,
            close_idle: stopping.idle.subscribe(),
            handler,
            reloader,
        }
    }

    fn admin(&self, closing: watch::Receiver<bool>) -> Admin {
        Admin {
            config: self.config.clone(),
            reloader: self.reloader.clone(),
            stopping: self.handler.stopping.clone(),
            closing,
            pool: self.pool.clone(),
            auditor: Arc::clone(&self.auditor),
            metrics: Arc::clone(&self.observers.metrics),
            recent: Arc::clone(&self.observers.recent),
            budget: self.budget.clone(),
            streams: Streams::default(),
        }
    }

    /// `position`: in `listen`.
    fn listener(&self, position: usize) -> Arc<Listener> {
        Arc::new(Listener::new(
            Arc::clone(&self.handler),
            self.places.clone(),
            position,
            self.close_idle.clone(),
        ))
    }
}

fn pool(config: &Config, metrics: Arc<Metrics>) -> Pool {
    let observer = move |event: &Event| {
        metrics.count(event);
        metrics.activity.event(event, SystemTime::now());
        log(event);
    };
    let settings = live::pool_settings(config);
    Pool::new(settings, rand::random(), Box::new(observer))
}

fn log(event: &Event) {
    let host = &event.host;
    match event.kind {
        EventKind::Health(Transition::Up) => tracing::info!(%host, "host is up"),
        EventKind::Health(Transition::Trial) => tracing::info!(%host, "host is on trial"),
        // Its check has told it, and why.
        EventKind::Health(Transition::NotReady) => {}
        EventKind::Health(Transition::Ejected(cause)) => {
            let (cause, problem) = (cause.as_str(), event.problem.as_deref());
            tracing::warn!(%host, cause, problem, "host is ejected");
        }
        EventKind::Busy(retry_after) => {
            let retry_after_seconds = retry_after.as_secs_f64();
            tracing::info!(%host, retry_after_seconds, "host is busy");
        }
        EventKind::NotBusy => tracing::info!(%host, "host has a free slot again"),
        EventKind::Added => tracing::info!(%host, "host is added"),
        EventKind::Removed => tracing::info!(%host, "host is removed; it finishes what it has"),
        EventKind::Draining => tracing::info!(%host, "host is draining"),
        EventKind::Undrained => tracing::info!(%host, "host gets requests again"),
        EventKind::Audited(trust) => {
            let what = event.problem.as_deref().unwrap_or_default();
            match trust {
                Trust::Unknown => {
                    tracing::warn!(%host, what, "host can't be audited: nobody knows whether it answers right");
                }
                Trust::Alone => {
                    tracing::info!(%host, what, "no other host tells whether this one answers right");
                }
                Trust::Agrees => tracing::info!(%host, what, "host answers right"),
                Trust::Disputed => {
                    tracing::warn!(%host, what, "hosts disagree, and nobody knows which is right");
                }
                Trust::Deviates => {
                    tracing::error!(%host, what, "host answers wrong: it gets no requests for this model");
                }
            }
        }
        EventKind::Capacity(slots) => tracing::info!(%host, slots, "host told its slots"),
    }
}
