//! The proxy's program: parses the command line and calls the command.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    gpu_bridge::cli::Cli::parse().run()
}
