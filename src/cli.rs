//! The command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::config::{self, Config};
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
        /// How log lines look (on standard error). `RUST_LOG` sets what is logged.
        #[arg(long, value_enum, default_value = "auto")]
        log_format: LogFormat,
    },
    /// Check a configuration without running it: exit code 0 if it is good, 2 if not.
    Check {
        /// The YAML configuration.
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
}

impl Cli {
    /// Carries out the command.
    ///
    /// # Errors
    /// If the proxy can't run; a bad configuration is told on standard error instead.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Serve { config, log_format } => {
                telemetry::init_logs(log_format);
                match load(&config) {
                    Ok(config) => run(config).map(|()| ExitCode::SUCCESS),
                    Err(exit) => Ok(exit),
                }
            }
            Command::Check { config } => Ok(match load(&config) {
                Ok(found) => {
                    println!(
                        "{}: good, {} hosts",
                        config.display(),
                        found.pool.hosts.len()
                    );
                    ExitCode::SUCCESS
                }
                Err(exit) => exit,
            }),
        }
    }
}

fn load(path: &Path) -> Result<Config, ExitCode> {
    config::load(path, &|name| std::env::var(name).ok()).map_err(|error| {
        eprintln!("{error}");
        ExitCode::from(BAD_CONFIG)
    })
}

fn run(config: Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(crate::serve::serve(config))
}
