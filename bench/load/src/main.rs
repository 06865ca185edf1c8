//! Simulated GPU hosts and a load generator, for benchmarks of the proxy.
//!
//! Both sides of a benchmark share what makes it fair: the generator draws how long each request
//! occupies a slot and sends that along, so that every proxy gets the same work at the same times,
//! and what an ideal proxy would do with it can be computed (`ideal`).
//!
//! Each runs on one thread: it is cheap beside what it measures, and its timers stay exact.

#![expect(clippy::print_stdout, reason = "its results are for standard output")]

use clap::Parser;

mod body;
mod client;
mod computed;
mod fault;
mod host;
mod hosts;
mod ideal;
mod link;
mod load;
mod payload;
mod schedule;
mod summary;

/// Carries how long a request occupies a slot of a host of speed 1, in microseconds.
const WORK_HEADER: &str = "x-bench-work-us";
/// Carries how many bytes of the request arrived, back to the generator.
const RECEIVED_HEADER: &str = "x-bench-received";

/// Simulated GPU hosts, and load for what stands in front of them.
#[derive(Debug, Parser)]
#[command(version)]
enum Command {
    /// Run simulated hosts until standard input ends.
    ///
    /// Prints a JSON line with the address of each. A line `HOST FAULT` on standard input (`0 hang`,
    /// `0 none`) breaks or mends one, and is answered by a JSON line.
    Hosts(hosts::Arguments),
    /// Send requests and print a JSON object of how that went.
    Load(load::Arguments),
}

fn main() -> anyhow::Result<()> {
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            Command::Hosts(arguments) => hosts::run(arguments).await,
            Command::Load(arguments) => load::run(arguments).await,
        }
    })?;
    // A read of standard input that still waits is not worth waiting for.
    runtime.shutdown_background();
    Ok(())
}
