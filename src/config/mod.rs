//! The YAML configuration: what it may say, and what it says, validated.
//!
//! ```text
//! text ─ serde_yaml ─▶ values ─ sections (with reader, units, expand) ─▶ Config
//!   └─── saphyr-parser ─▶ places ─────────────┴─▶ problems, each with line and column
//! ```
//!
//! A configuration is taken whole or not at all: either every value is right, or all problems are
//! reported at once and nothing is used. What is not built yet is refused as such; nothing is
//! ignored. `serde_yaml` (deprecated upstream) is used here and nowhere else.

mod expand;
mod host;
mod places;
mod problem;
mod reader;
mod secret;
mod sections;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

pub use host::{HostName, HostUrl};
pub use problem::{ConfigError, Problem};
pub use secret::Secret;

/// A configuration that can be run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses for clients. Port 0: any free one.
    pub listen: Vec<SocketAddr>,
    /// The address for operators.
    pub admin: SocketAddr,
    /// Who may use the proxy.
    pub auth: Auth,
    /// The hosts.
    pub pool: Pool,
    /// How hosts are checked.
    pub health: Health,
    /// How requests wait.
    pub queue: Queue,
    /// Bounds on time.
    pub timeouts: Timeouts,
    /// Bounds on size and number.
    pub limits: Limits,
}

/// Section `auth`.
#[derive(Clone, Debug)]
pub struct Auth {
    /// None: everybody may.
    pub keys: Vec<ClientKey>,
}

/// A client that may use the proxy.
#[derive(Clone, Debug)]
pub struct ClientKey {
    /// Shown in logs.
    pub name: String,
    /// What the client sends.
    pub key: Secret,
}

/// Section `pool`.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Which host gets a request.
    pub policy: Policy,
    /// At least one; names and URLs are unique.
    pub hosts: Vec<Host>,
}

/// Which of the hosts that can take a request gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The one with the smallest share of its slots in use.
    #[default]
    LeastBusy,
    /// The one that rested longest.
    RoundRobin,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Unique in the pool.
    pub name: HostName,
    /// Where it is.
    pub url: HostUrl,
    /// Our key for it.
    pub api_key: Option<Secret>,
    /// Its slots, if the operator knows better than the host.
    pub max_concurrent: Option<NonZeroU32>,
}

/// Section `health`.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// Time between two checks of a host that is well.
    pub interval: Duration,
    /// Bound on each request of a check.
    pub timeout: Duration,
    /// Good checks that bring a host back.
    pub healthy_after: NonZeroU32,
    /// Failed checks, or faults, that eject a host.
    pub unhealthy_after: NonZeroU32,
}

/// Section `queue`.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// Requests that may wait at once.
    pub max_waiting: usize,
    /// Time that a request may wait.
    pub max_wait: Duration,
}

/// Section `timeouts`.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Bound on connecting to a host.
    pub connect: Duration,
    /// Bound on one attempt on a host.
    pub attempt: Duration,
    /// Bound on the arrival of a client's body.
    pub client_read: Duration,
    /// Bound on finishing what runs when the proxy stops.
    pub shutdown: Duration,
}

/// Section `limits`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one body.
    pub max_body: usize,
    /// Bytes of all bodies and answers together.
    pub max_buffered: usize,
    /// Connections of clients.
    pub max_connections: usize,
}

/// The world that a configuration refers to; given, so that tests can make one up.
pub struct Surroundings<'a> {
    /// Looks up an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The folder that relative paths in the configuration start from.
    pub folder: &'a Path,
}

/// Reads and validates a file.
///
/// # Errors
/// All that is wrong with it, ready to be printed.
pub fn load(path: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let fail = |problems| ConfigError {
        file: path.to_owned(),
        problems,
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| fail(vec![Problem::of_file(format!("can't be read: {error}"))]))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, &Surroundings { variable, folder }).map_err(fail)
}

/// Validates a text.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(text: &str, surroundings: &Surroundings<'_>) -> Result<Config, Vec<Problem>> {
    let value: serde_yaml::Value =
        serde_yaml::from_str(text).map_err(|error| vec![Problem::of_syntax(&error)])?;
    let report = reader::Report::default();
    let config = sections::read(&value, surroundings, &report);
    let problems = report.into_problems(&places::Places::find(text));
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

#[cfg(test)]
mod tests;
