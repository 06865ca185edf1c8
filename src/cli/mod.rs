//! The command line: what can be said, and who does it.

mod address;
mod audit;
mod client;
mod embed;
mod failure;
mod generate;
mod given;
mod init;
mod operate;
mod table;

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use tokio::runtime::Runtime;

use self::client::Where;
use self::embed::Embed;
use self::failure::{EXIT_CODES, Failure};
use self::init::Init;
use self::operate::{Order, Show};
use crate::authorities;
use crate::config::{self, Config, ConfigError, Host, schema};
use crate::serve::Options;
use crate::telemetry::{self, Exporter, LogFormat, Metrics};

/// Exit code for a configuration that can't be used.
const BAD_CONFIG: u8 = 2;
/// More threads than the largest machines have processors serve nobody.
const MOST_THREADS: usize = 1024;

/// One stable URL in front of a pool of GPU hosts.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy.
    Serve {
        /// The YAML configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Relieve the proxy that runs with the same PATH, if there is one, and be relieved through it
        /// later: an upgrade without a break. SIGUSR2 starts such a successor.
        #[arg(long, value_name = "PATH", env = "GPU_BRIDGE_UPGRADE_SOCKET")]
        upgrade_socket: Option<PathBuf>,
        /// How log lines look (on standard error). `RUST_LOG` sets what is logged.
        #[arg(long, value_enum, default_value = "auto")]
        log_format: LogFormat,
    },
    /// Write a first configuration, with comments. Keys are not copied: it refers to environment
    /// variables, and which is told.
    Init(Init),
    /// Check a configuration without running it: exit code 0 if it is good, 2 if not. Problems and
    /// warnings are told on standard error, each with file, line and column.
    Check {
        /// The YAML configuration; `-` reads standard input, and paths in it start from the working
        /// folder.
        #[arg(value_name = "FILE", required_unless_present = "config")]
        file: Option<PathBuf>,
        /// The same, as `serve` takes it.
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
    },
    /// Print what a configuration may say: as a JSON Schema, for editors, or as a page to read.
    Schema {
        /// The reference of all keys, in Markdown.
        #[arg(long)]
        markdown: bool,
    },
    /// Show the hosts of the running proxy, what each is up to and why, and the queue. SPEED compares a
    /// host with the median of those that have served.
    #[command(after_help = EXIT_CODES)]
    Status {
        #[command(flatten)]
        place: Where,
        #[command(flatten)]
        show: Show,
    },
    /// List the hosts of the running proxy for scripts: name, tab, state.
    #[command(after_help = EXIT_CODES)]
    Hosts {
        #[command(flatten)]
        place: Where,
    },
    /// Tell the story of a request of late: when, who, what it waited for, each host it was tried on,
    /// and how it ended. The running proxy remembers about the last 1000, and those that run.
    #[command(after_help = EXIT_CODES)]
    Explain {
        /// From the answer's `X-Request-Id`, or from the log; its beginning will do if no other begins so.
        #[arg(value_name = "REQUEST_ID")]
        id: String,
        /// As JSON, as the API gives it.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Where,
    },
    /// Ask the running proxy whether it lives: exit code 0 if so. For probes of containers.
    #[command(after_help = EXIT_CODES)]
    Health {
        /// Ask whether a host can serve instead; not for what restarts the proxy, which mends no host.
        #[arg(long)]
        ready: bool,
        #[command(flatten)]
        place: Where,
    },
    /// Show what audits have shown of each host and model, or write what is right into a file for
    /// `audit.reference`.
    #[command(after_help = EXIT_CODES)]
    Audit {
        /// Write what the hosts say that agree.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
        /// Write what this host says instead, whether others agree or not.
        #[arg(long, value_name = "HOST", requires = "write")]
        from: Option<String>,
        #[command(flatten)]
        place: Where,
    },
    /// Let a host finish what it has and send it nothing new. Lasts until `undrain` or a restart.
    #[command(after_help = EXIT_CODES)]
    Drain {
        /// Its name in the configuration.
        host: String,
        #[command(flatten)]
        place: Where,
    },
    /// Let a drained host have requests again.
    #[command(after_help = EXIT_CODES)]
    Undrain {
        /// Its name in the configuration.
        host: String,
        #[command(flatten)]
        place: Where,
    },
    /// Let the proxy read its configuration again at once; it does so by itself within a second.
    #[command(after_help = EXIT_CODES)]
    Reload {
        #[command(flatten)]
        place: Where,
    },
    /// Embed the texts of a JSONL file through a running proxy, in the background of others' requests. If it is
    /// interrupted, the same command goes on where it was.
    #[command(after_help = EXIT_CODES)]
    Embed(Embed),
    /// Print completions for a shell, e.g. `gpu-bridge completions bash > /etc/bash_completion.d/gpu-bridge`.
    Completions {
        /// Which.
        shell: Shell,
    },
    /// Print the manual page, or write those of all commands into a folder.
    Man {
        /// Where to.
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

impl Cli {
    /// What the command line of this process says. If that is nothing, the process ends, and says so.
    pub fn given() -> Self {
        let command = given::without_empty(Self::command(), |name| std::env::var_os(name));
        let found = command.try_get_matches();
        let found = found.and_then(|found| Self::from_arg_matches(&found));
        found.unwrap_or_else(|error| given::without_secrets(error).exit())
    }

    /// Carries out the command. Failures are told on standard error and by the exit code.
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Serve {
                config,
                upgrade_socket,
                log_format,
            } => return serve(&config, upgrade_socket, log_format),
            Command::Init(order) => init::init(&order),
            Command::Check { file, config } => check(&file.or(config).unwrap_or_default()),
            Command::Schema { markdown } => print_schema(markdown),
            Command::Status { place, show } => ask(operate::status(place, show)),
            Command::Hosts { place } => ask(operate::hosts(place)),
            Command::Explain { id, json, place } => ask(operate::explain(place, &id, json)),
            Command::Health { ready, place } => ask(operate::health(place, ready)),
            Command::Audit { write, from, place } => match write {
                Some(file) => ask(audit::write(place, &file, from.as_deref())),
                None => ask(audit::show(place)),
            },
            Command::Drain { host, place } => ask(operate::order(place, Order::Drain, &host)),
            Command::Undrain { host, place } => ask(operate::order(place, Order::Undrain, &host)),
            Command::Reload { place } => ask(operate::reload(place)),
            Command::Embed(order) => ask(embed::embed(&order)),
            Command::Completions { shell } => generate::completions(Self::command(), shell),
            Command::Man { folder } => generate::man(Self::command(), folder.as_deref()),
        };
        done.map_or_else(|failure| failure.tell(), |()| ExitCode::SUCCESS)
    }
}

/// What it says goes through the log, which never holds it up.
fn serve(path: &Path, upgrade_socket: Option<PathBuf>, format: LogFormat) -> ExitCode {
    let metrics = match Metrics::new() {
        Ok(metrics) => Arc::new(metrics),
        Err(error) => return Failure::Failed(error.to_string()).tell(),
    };
    let log = telemetry::init_logs(format, &metrics.upkeep);
    let config = match load(path) {
        Ok(config) => config,
        Err(error) => {
            log.say(&format!("{error}\n"));
            return ExitCode::from(BAD_CONFIG);
        }
    };
    match run(path, config, metrics, upgrade_socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    path: &Path,
    config: Config,
    metrics: Arc<Metrics>,
    upgrade_socket: Option<PathBuf>,
) -> Result<()> {
    for warning in &config.warnings {
        tracing::warn!("{}", warning.in_file(path));
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime.worker_threads(threads()).enable_all() }.build()?;
    let exporter = exporter(&runtime)?;
    let options = Options {
        upgrade_socket,
        exporter: exporter.clone(),
    };
    let served = crate::serve::serve(path.to_owned(), config, metrics, options);
    let served = runtime.block_on(served);
    if let Some(exporter) = exporter {
        exporter.finish();
    }
    // Reads and look-ups that hang are not waited for.
    runtime.shutdown_background();
    served
}

/// Threads that serve: as many as processors, or as tokio's variable says, over odd values of which tokio itself
/// panics.
fn threads() -> usize {
    const VARIABLE: &str = "TOKIO_WORKER_THREADS";
    let usual = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let told = std::env::var_os(VARIABLE);
    let Some(told) = told.filter(|told| !told.is_empty()) else {
        return usual;
    };
    let told = told
        .to_str()
        .and_then(|told| told.parse::<NonZeroUsize>().ok());
    let told = told.filter(|told| told.get() <= MOST_THREADS);
    if told.is_none() {
        tracing::warn!(
            "{VARIABLE} is passed over: it must be a whole number from 1 to {MOST_THREADS}"
        );
    }
    told.map_or(usual, NonZeroUsize::get)
}

/// Where the environment wants traces to go.
#[cfg(feature = "otlp")]
fn exporter(runtime: &Runtime) -> Result<Option<Arc<dyn Exporter>>> {
    let _here = runtime.enter();
    Ok(telemetry::otlp::exporter()?)
}

#[cfg(not(feature = "otlp"))]
#[expect(
    clippy::unnecessary_wraps,
    reason = "with the feature otlp it can fail"
)]
fn exporter(_: &Runtime) -> Result<Option<Arc<dyn Exporter>>> {
    if telemetry::TRACES_WANTED
        .iter()
        .any(|name| std::env::var_os(name).is_some())
    {
        tracing::warn!("traces are not exported: this program was built without the feature otlp");
    }
    Ok(None)
}

fn check(path: &Path) -> Result<(), Failure> {
    let (path, config) = if path == Path::new("-") {
        let path = Path::new("standard input");
        (path, config::load_stdin(&variable)?)
    } else {
        (path, load(path)?)
    };
    for warning in &config.warnings {
        failure::tell(format_args!("warning: {}", warning.explained(path)));
    }
    if let Some(warning) = unverified(&config.pool.hosts) {
        failure::tell(format_args!("warning: {warning}"));
    }
    let hosts = match config.pool.hosts.len() {
        1 => "1 host".to_owned(),
        hosts => format!("{hosts} hosts"),
    };
    print(&format!("{}: good, {hosts}\n", path.display()))
}

/// Said of the first host that only the system's authorities vouch for, if they can't.
fn unverified(hosts: &[Host]) -> Option<String> {
    let host = hosts.iter().find(|host| host.trusts_the_system())?;
    let why = authorities::trouble()?;
    Some(format!(
        "{} can't be verified: {why}; set its tls.ca",
        host.name
    ))
}

fn print_schema(markdown: bool) -> Result<(), Failure> {
    if !markdown {
        return print(schema::SCHEMA);
    }
    let reference = schema::reference();
    print(&reference.map_err(|error| Failure::Failed(error.to_string()))?)
}

fn load(path: &Path) -> Result<Config, ConfigError> {
    config::load(path, &variable)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// On standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// One thread is plenty to ask a question.
fn ask(question: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(question)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_consistent() {
        Cli::command().debug_assert();
    }
}
