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
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod host;
mod names;
mod network;
mod origin;
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

use std::path::Path;

use serde_yaml::Value;

pub use change::{Change, Difference, Happened};
pub use current::Current;
pub(crate) use excerpt::is_no_secret;
pub use host::{HostName, HostUrl};
pub use network::Network;
pub use origin::PageOrigin;
pub use problem::{ConfigError, Problem};
pub use secret::Secret;
pub use sections::{
    Admin, Api, Audit, Auth, Batching, ClientKey, ClientTls, Cors, Discover, Headers, Health, Host,
    Limits, Listen, MinCosine, NOT_BUILT, OpenAi, Pinned, Policy, Pool, Queue, Retries, ServerTls,
    Service, Timeouts,
};
pub use sources::Sources;
pub(crate) use text::no_file;

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
    /// How batches are reshaped.
    pub batching: Batching,
    /// Bounds on time.
    pub timeouts: Timeouts,
    /// Bounds on size and number.
    pub limits: Limits,
    /// What is said of a request to hosts and clients.
    pub headers: Headers,
    /// Which pages may use it.
    pub cors: Cors,
    /// Whether hosts answer right.
    pub audit: Audit,
    /// What can be used, but is perhaps not what is meant; to be shown to the operator.
    pub warnings: Vec<Problem>,
    /// The files that it was made of, and that a change of makes it out of date.
    pub sources: Sources,
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

/// Reads the section `admin` of a file, whatever the others say.
///
/// # Errors
/// All that is wrong with it, or that makes the file no YAML.
pub fn load_admin(
    file: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Admin, ConfigError> {
    let mut sources = Sources::default();
    let read = sources.read(file);
    let folder = file.parent().unwrap_or(Path::new(""));
    let surroundings = Surroundings { variable, folder };
    let parsed = text_of(read).and_then(|text| {
        let (admin, problems, _) = reading(&text, &mut sources, |value, report| {
            sections::read_admin(value, &surroundings, report)
        })?;
        admin.filter(|_| problems.is_empty()).ok_or(problems)
    });
    parsed.map_err(|problems| ConfigError {
        file: file.to_owned(),
        problems,
        sources,
    })
}

/// What to say of the value at `path` in a `file` that was read: `FILE:LINE:COLUMN: TEXT`.
pub fn in_file(file: &Path, path: &str, text: &str) -> String {
    let read = Sources::default().read(file);
    let place = text_of(read).map(|text| places::Places::find(&text).of_value(path));
    let problem = Problem::at(place.ok().flatten(), text.to_owned());
    problem.in_file(file).to_string()
}

fn load_from(
    file: &Path,
    read: std::io::Result<Vec<u8>>,
    mut sources: Sources,
    surroundings: &Surroundings<'_>,
) -> Result<Config, ConfigError> {
    let parsed = text_of(read).and_then(|text| parse_noting(&text, surroundings, &mut sources));
    match parsed {
        Ok(config) => Ok(Config { sources, ..config }),
        Err(problems) => Err(ConfigError {
            file: file.to_owned(),
            problems,
            sources,
        }),
    }
}

fn text_of(read: std::io::Result<Vec<u8>>) -> Result<String, Vec<Problem>> {
    let text = read.and_then(|bytes| text::decode(bytes).map_err(std::io::Error::other));
    text.map_err(|error| vec![Problem::of_file(text::why_unreadable(&error))])
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
    let (config, problems, warnings) = reading(text, sources, |value, report| {
        sections::read(value, surroundings, report)
    })?;
    match config {
        Some(config) if problems.is_empty() => Ok(Config { warnings, ..config }),
        _ => Err(problems),
    }
}

/// What `read` makes of a text, with its problems and warnings.
fn reading<T>(
    text: &str,
    sources: &mut Sources,
    read: impl FnOnce(&Value, &report::Report) -> T,
) -> Result<(T, Vec<Problem>, Vec<Problem>), Vec<Problem>> {
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
    let found = read(&value, &report);
    sources.extend(report.take_sources());
    let (problems, warnings) = report.into_parts(&places);
    Ok((found, quoting(problems), quoting(warnings)))
}

#[cfg(test)]
mod tests;
