//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::config::{self, Config, schema};
use crate::serve::Options;
use crate::telemetry::{self, LogFormat};

/// Exit code for a configuration that can't be used.
const BAD_CONFIG: u8 = 2;

/// One stable URL in front of a pool of GPU hosts.
#[derive(Debug, Parser)]
#[command(version, about)]
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
    /// Check a configuration without running it: exit code 0 if it is good, 2 if not. Problems and
    /// warnings are told on standard error, each with file, line and column.
    Check {
        /// The YAML configuration.
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Print what a configuration may say: as a JSON Schema, for editors, or as a page to read.
    Schema {
        /// The reference of all keys, in Markdown.
        #[arg(long)]
        markdown: bool,
    },
}

impl Cli {
    /// Carries out the command.
    ///
    /// # Errors
    /// If the proxy can't run; a bad configuration is told on standard error instead.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Serve {
                config,
                upgrade_socket,
                log_format,
            } => {
                telemetry::init_logs(log_format);
                serve(&config, Options { upgrade_socket })
            }
            Command::Check { config } => Ok(check(&config)),
            Command::Schema { markdown } => print_schema(markdown),
        }
    }
}

fn serve(path: &Path, options: Options) -> Result<ExitCode> {
    let config = match load(path) {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    for warning in &config.warnings {
        tracing::warn!("{}", warning.in_file(path));
    }
    run(config, options).map(|()| ExitCode::SUCCESS)
}

fn check(path: &Path) -> ExitCode {
    let config = match load(path) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    for warning in &config.warnings {
        eprintln!("warning: {}", warning.in_file(path));
    }
    let hosts = match config.pool.hosts.len() {
        1 => "1 host".to_owned(),
        hosts => format!("{hosts} hosts"),
    };
    println!("{}: good, {hosts}", path.display());
    ExitCode::SUCCESS
}

fn print_schema(markdown: bool) -> Result<ExitCode> {
    if markdown {
        print!("{}", schema::reference()?);
    } else {
        print!("{}", schema::SCHEMA);
    }
    Ok(ExitCode::SUCCESS)
}

fn load(path: &Path) -> Result<Config, ExitCode> {
    config::load(path, &|name| std::env::var(name).ok()).map_err(|error| {
        eprintln!("{error}");
        ExitCode::from(BAD_CONFIG)
    })
}

fn run(config: Config, options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(crate::serve::serve(config, options))
}
