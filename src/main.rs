//! The proxy's program: parses the command line and calls the command.

use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;

/// Gives memory back to the system after a burst, also when nothing is asked any more.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    gpu_bridge::cli::Cli::parse().run()
}
