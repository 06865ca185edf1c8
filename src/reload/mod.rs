//! A new configuration for a proxy that runs.
//!
//! ```text
//! watch (files) ─┐                ┌─ bad ─▶ refused whole: logged, counted; the old one stays
//! SIGHUP         ├─▶ Reloader ────┤
//! operator ──────┘   (one at a    └─ good ─▶ what changed is logged; Apply takes it over
//!                       time)
//! ```
//!
//! Nothing here knows what a setting does. Requests are not touched: those that run end as they
//! began, and those that wait find the new hosts and limits.

mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::config::{self, Change, Config, ConfigError, Current, Sources};
use crate::telemetry::Metrics;

/// Makes a good configuration the current one.
pub type Apply = Box<dyn Fn(Arc<Config>) + Send + Sync>;

/// How what runs stands to the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What was wrong with the file when it was last read; none: it was taken over.
    pub refused: Vec<String>,
    /// What the file says otherwise than what runs, and only a restart applies.
    pub needs_restart: Vec<String>,
}

/// The one way to a new configuration; cheap to clone.
#[derive(Clone)]
pub struct Reloader(Arc<Shared>);

struct Shared {
    file: PathBuf,
    /// What runs.
    config: Current,
    apply: Apply,
    metrics: Arc<Metrics>,
    /// Held through a reload, which may have to wait for files.
    turn: tokio::sync::Mutex<()>,
    /// Never held for long.
    last_read: Mutex<LastRead>,
}

struct LastRead {
    standing: Standing,
    /// What was looked into last, for a configuration that was taken over or refused.
    sources: Sources,
}

impl Reloader {
    /// `config` runs; it was read from `file`.
    pub fn new(file: PathBuf, config: Current, apply: Apply, metrics: Arc<Metrics>) -> Self {
        metrics.reloads.started(SystemTime::now());
        let sources = config.get().sources.clone();
        Self(Arc::new(Shared {
            file,
            config,
            apply,
            metrics,
            turn: tokio::sync::Mutex::default(),
            last_read: Mutex::new(LastRead {
                standing: Standing::default(),
                sources,
            }),
        }))
    }

    /// Reads the file again and takes over what it says; returns what is different.
    ///
    /// # Errors
    /// All that is wrong with it; what runs stays as it is then.
    pub async fn reload(&self) -> Result<Change, ConfigError> {
        let _turn = self.0.turn.lock().await;
        let loaded = self.load().await;
        let taken_over = loaded.map(|config| self.take_over(&config));
        if let Err(error) = &taken_over {
            self.refuse(error);
        }
        taken_over
    }

    /// How what runs stands to the file.
    pub fn standing(&self) -> Standing {
        self.0.last_read.lock().standing.clone()
    }

    /// Reloads whenever one of the files is changed, for ever.
    pub async fn watch(&self) {
        watch::run(self).await;
    }

    async fn load(&self) -> Result<Config, ConfigError> {
        let file = self.0.file.clone();
        // Files may be on a slow network; one that hangs is given up in time.
        let load = move || config::load(&file, &|name| std::env::var(name).ok());
        match tokio::task::spawn_blocking(load).await {
            Ok(loaded) => loaded,
            Err(_) => Err(ConfigError::unreadable(&self.0.file)),
        }
    }

    /// Only by who has the turn: nobody else changes what is known meanwhile, and those who look at it need
    /// not wait.
    fn take_over(&self, config: &Config) -> Change {
        let before = self.0.config.snapshot();
        let change = Change::between(&before, config);
        (self.0.apply)(Arc::new(config.taken_over(&before)));
        self.0.metrics.reloads.succeeded(SystemTime::now());
        for warning in &config.warnings {
            tracing::warn!("{}", warning.in_file(&self.0.file));
        }
        tell(&change);
        *self.0.last_read.lock() = LastRead {
            standing: Standing {
                refused: Vec::new(),
                needs_restart: change.needs_restart().map(ToString::to_string).collect(),
            },
            sources: config.sources.clone(),
        };
        change
    }

    fn refuse(&self, error: &ConfigError) {
        self.0.metrics.reloads.failed();
        for problem in error.lines() {
            tracing::error!("{problem}");
        }
        tracing::error!("the new configuration is refused; the old one goes on");
        let mut last_read = self.0.last_read.lock();
        last_read.standing.refused = error.lines().collect();
        last_read.sources = error.sources().clone();
    }

    /// The files that the last configuration was made of, as they were then.
    fn sources(&self) -> Sources {
        self.0.last_read.lock().sources.clone()
    }
}

fn tell(change: &Change) {
    for difference in change.differences() {
        tracing::info!("configuration: {difference}");
    }
    if change.needs_restart().next().is_some() {
        tracing::warn!("a part of the new configuration takes effect after a restart only");
    }
    tracing::info!("the configuration was reloaded");
}
