//! The YAML configuration: what it may say, and what it says, validated.
//!
//! ```text
//! text ─ serde_yaml ─▶ values ─ sections (with reader, units, expand) ─▶ Config
//!   └─── saphyr-parser ─▶ places ─────────────┴─▶ problems, each with line and column
//! ```
//!
//! A configuration is taken whole or not at all: either every value is right, or all problems are
//! reported at once and nothing is used; nothing is ignored. What can be used but is perhaps not
//! meant is a warning. `schema.json` says the same to editors and in `docs/configuration.md`; tests
//! hold the two together, defaults included. `serde_yaml` (deprecated upstream) is used here and nowhere else.

mod change;
mod current;
mod excerpt;
mod expand;
mod host;
mod names;
mod network;
mod places;
mod problem;
mod reader;
mod report;
pub mod schema;
mod secret;
mod sections;
mod sources;
mod syntax;
mod text;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use change::{Change, Difference, Happened};
pub use current::Current;
pub use host::{HostName, HostUrl};
pub use network::Network;
pub use problem::{ConfigError, Problem};
pub use secret::Secret;
pub use sources::Sources;

use crate::tls_files::{Authorities, Identity};

/// Problems, and warnings, that are told; nobody reads more at once.
const MOST_PROBLEMS: usize = 100;

/// A configuration that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect; at least one.
    pub listen: Vec<Listen>,
    /// Where operators connect.
    pub admin: Admin,
    /// Who may use the proxy.
    pub auth: Auth,
    /// The hosts.
    pub pool: Pool,
    /// How hosts are checked.
    pub health: Health,
    /// How requests wait.
    pub queue: Queue,
    /// How often a request is tried again.
    pub retries: Retries,
    /// Bounds on time.
    pub timeouts: Timeouts,
    /// Bounds on size and number.
    pub limits: Limits,
    /// What is said of a request to hosts and clients.
    pub headers: Headers,
    /// What can be used, but is perhaps not what is meant; to be shown to the operator.
    pub warnings: Vec<Problem>,
    /// The files that it was made of, and that a change of makes it out of date.
    pub sources: Sources,
}

/// An item of `listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Port 0: any free one.
    pub address: SocketAddr,
    /// HTTPS instead of HTTP.
    pub tls: Option<ServerTls>,
}

/// How the proxy proves itself to clients.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// Its certificate and key.
    pub identity: Identity,
    /// Clients must present a certificate signed by one of these.
    pub client_ca: Option<Authorities>,
    /// What follows from both.
    pub settings: Arc<rustls::ServerConfig>,
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        (&self.identity, &self.client_ca) == (&other.identity, &other.client_ca)
    }
}

impl Eq for ServerTls {}

/// Section `admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Port 0: any free one.
    pub address: SocketAddr,
    /// What operations ask for; `None`: they are open to everybody who can connect.
    pub key: Option<Secret>,
}

/// Section `auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// None: everybody may.
    pub keys: Vec<ClientKey>,
}

/// A client that may use the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientKey {
    /// Shown in logs.
    pub name: Arc<str>,
    /// What the client sends.
    pub key: Secret,
    /// Requests of a higher priority are served first; 0 unless set.
    pub priority: u8,
    /// Requests that it may have in the proxy at once.
    pub max_concurrent: Option<NonZeroU32>,
    /// Requests that it may send each second, on average; as many may come at once.
    pub max_per_second: Option<NonZeroU32>,
}

/// Section `pool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Which host gets a request.
    pub policy: Policy,
    /// At least one; names and URLs are unique.
    pub hosts: Vec<Host>,
    /// Whom to ask for the addresses of hosts' names; `None`: whom the system asks.
    pub resolver: Option<SocketAddr>,
}

/// Which of the hosts that can take a request gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The one with the least expected work outstanding.
    #[default]
    LeastBusy,
    /// The one that rested longest.
    RoundRobin,
    /// The one with the smallest share of its memory in use.
    LeastVram,
}

/// As in the file.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeastBusy => "least-busy",
            Self::RoundRobin => "round-robin",
            Self::LeastVram => "least-vram",
        })
    }
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Unique in the pool.
    pub name: HostName,
    /// Where it is.
    pub url: HostUrl,
    /// Our key for it.
    pub api_key: Option<Secret>,
    /// Its slots, if the operator knows better than the host.
    pub max_concurrent: Option<NonZeroU32>,
    /// Its share of the work compared with others; 1 unless set.
    pub weight: NonZeroU32,
    /// How to prove ourselves and whom to trust, for an `https` URL.
    pub tls: ClientTls,
    /// One host for each address that the name in its URL stands for.
    pub discover: Option<Discover>,
}

/// How the proxy connects to a host over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Whom to trust instead of the system's authorities.
    pub ca: Option<Authorities>,
    /// Our certificate and its key, for hosts that ask for one.
    pub identity: Option<Identity>,
    /// The name that the host's certificate must have, if it is not that of the URL.
    pub server_name: Option<String>,
    /// Accept any certificate.
    pub insecure: bool,
}

/// How the hosts behind a name are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discover {
    /// Time between two look-ups; `None`: as long as the answer says that it holds.
    pub interval: Option<Duration>,
}

/// Section `health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Time between two checks of a host that is well.
    pub interval: Duration,
    /// Bound on the answer to a check.
    pub timeout: Duration,
    /// Good checks that bring a host back.
    pub healthy_after: NonZeroU32,
    /// Failed checks, or faults, that eject a host.
    pub unhealthy_after: NonZeroU32,
}

/// Section `retries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Different hosts that may break one request before it is given up.
    pub max_faulted_hosts: NonZeroU32,
    /// Attempts after faults, as a share of all requests in percent; more are delayed.
    pub budget_percent: u32,
}

/// Section `headers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Name the host that answered in `X-Served-By`.
    pub served_by: bool,
    /// Send hosts `Forwarded` (RFC 7239) beside `X-Forwarded-For`.
    pub forwarded: bool,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
}

impl Headers {
    /// Is this a proxy whose word is taken?
    pub fn trusts(&self, address: IpAddr) -> bool {
        let mut trusted = self.trusted_proxies.iter();
        trusted.any(|range| range.contains(address))
    }
}

/// Section `queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Requests that may wait at once.
    pub max_waiting: usize,
    /// Bytes that they may hold together; half of `limits.max_buffered` unless set.
    pub max_bytes: usize,
    /// Time that a request may wait.
    pub max_wait: Duration,
}

/// Section `timeouts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Bound on connecting to a host.
    pub connect: Duration,
    /// Bound on one attempt on a host.
    pub attempt: Duration,
    /// Bound on the arrival of a request's head, from its first byte or the start of its connection.
    pub client_head: Duration,
    /// Bound on the arrival of a client's body.
    pub client_read: Duration,
    /// How long a client's connection may idle between two requests.
    pub client_idle: Duration,
    /// Bound on finishing what runs when the proxy stops.
    pub shutdown: Duration,
}

/// Section `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one body.
    pub max_body: usize,
    /// Bytes of all bodies and answers together.
    pub max_buffered: usize,
    /// Connections of clients.
    pub max_connections: usize,
    /// Of one address; none = three quarters of those that there may be.
    pub max_connections_per_client: Option<NonZeroU32>,
    /// Bytes of a request's head.
    pub max_head: usize,
    /// Headers of a request.
    pub max_headers: usize,
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
    let mut sources = Sources::default();
    let read = sources.read(path);
    let folder = path.parent().unwrap_or(Path::new(""));
    load_from(path, read, sources, &Surroundings { variable, folder })
}

/// Reads and validates standard input; relative paths start from the working folder.
///
/// # Errors
/// The same.
pub fn load_stdin(variable: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let read = crate::file::content(std::io::stdin());
    let folder = Path::new("");
    let surroundings = Surroundings { variable, folder };
    load_from(
        Path::new("standard input"),
        read,
        Sources::default(),
        &surroundings,
    )
}

fn load_from(
    file: &Path,
    read: std::io::Result<Vec<u8>>,
    mut sources: Sources,
    surroundings: &Surroundings<'_>,
) -> Result<Config, ConfigError> {
    let read = read.and_then(|bytes| text::decode(bytes).map_err(std::io::Error::other));
    let parsed = read
        .map_err(|error| vec![Problem::of_file(text::why_unreadable(&error))])
        .and_then(|text| parse_noting(&text, surroundings, &mut sources));
    match parsed {
        Ok(config) => Ok(Config { sources, ..config }),
        Err(problems) => Err(ConfigError {
            file: file.to_owned(),
            problems,
            sources,
        }),
    }
}

/// Validates a text.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(text: &str, surroundings: &Surroundings<'_>) -> Result<Config, Vec<Problem>> {
    parse_noting(text, surroundings, &mut Sources::default())
}

/// The same; adds the files that the text refers to to `sources`.
fn parse_noting(
    text: &str,
    surroundings: &Surroundings<'_>,
    sources: &mut Sources,
) -> Result<Config, Vec<Problem>> {
    let quoting = |problems: Vec<Problem>| -> Vec<Problem> {
        let more = problems.len().saturating_sub(MOST_PROBLEMS);
        let first = problems.into_iter().take(MOST_PROBLEMS);
        let mut told: Vec<_> = first.map(|problem| problem.quoting(text)).collect();
        if more > 0 {
            told.push(Problem::of_file(format!("and {more} more like these")));
        }
        told
    };
    let places = places::Places::find(text);
    let value = syntax::read(text, &places).map_err(quoting)?;
    let report = report::Report::default();
    let config = sections::read(&value, surroundings, &report);
    sources.extend(report.take_sources());
    let (problems, warnings) = report.into_parts(&places);
    let (problems, warnings) = (quoting(problems), quoting(warnings));
    match config {
        Some(config) if problems.is_empty() => Ok(Config { warnings, ..config }),
        _ => Err(problems),
    }
}

#[cfg(test)]
mod tests;
