//! The hosts of a benchmark, and the line-by-line way to break them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::net::TcpListener;

use crate::fault::Fault;
use crate::host::{Host, Spec};

/// Which hosts.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many.
    #[arg(long, default_value_t = 4)]
    hosts: usize,
    /// Port of each; of those without one, any that is free.
    #[arg(long, value_delimiter = ',')]
    ports: Vec<u16>,
    /// Requests that each runs at once.
    #[arg(long, default_value_t = 2)]
    slots: u32,
    /// Speed of each; of those without one, 1.
    #[arg(long, value_delimiter = ',')]
    speeds: Vec<f64>,
    /// How long a request waits for a slot before it is refused.
    #[arg(long, default_value_t = 1000)]
    patience_ms: u64,
    /// Work of a request that does not say.
    #[arg(long, default_value_t = 200)]
    work_ms: u64,
    /// Size of an answer.
    #[arg(long, default_value_t = 1024)]
    answer_bytes: usize,
    /// Has no `/status`: it tells nobody how full it is.
    #[arg(long)]
    without_status: bool,
    /// Computes instead: answers depend on the texts, and take so long, whatever is asked …
    #[arg(long, requires = "each_ms")]
    fixed_ms: Option<f64>,
    /// … and so much longer for each text.
    #[arg(long, requires = "fixed_ms")]
    each_ms: Option<f64>,
}

/// Runs them until standard input ends.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut hosts = Vec::new();
    for number in 0..arguments.hosts {
        let host = start(&arguments, number).await?;
        let address = host.address().to_string();
        println!(
            "{}",
            serde_json::json!({"host": number, "address": address})
        );
        hosts.push(host);
    }
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        obey(&hosts, &line).with_context(|| format!("can't understand '{line}'"))?;
    }
    Ok(())
}

async fn start(arguments: &Arguments, number: usize) -> anyhow::Result<Arc<Host>> {
    let time = |millis: f64| Duration::try_from_secs_f64(millis / 1e3);
    let cost = arguments.fixed_ms.zip(arguments.each_ms);
    let cost = cost.map(|(fixed, each)| anyhow::Ok((time(fixed)?, time(each)?)));
    let spec = Spec {
        slots: arguments.slots,
        speed: arguments.speeds.get(number).copied().unwrap_or(1.0),
        patience: Duration::from_millis(arguments.patience_ms),
        work: Duration::from_millis(arguments.work_ms),
        answer_bytes: arguments.answer_bytes,
        cost: cost.transpose()?,
        tells: !arguments.without_status,
    };
    let port = arguments.ports.get(number).copied().unwrap_or(0);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("can't listen on port {port}"))?;
    Host::start(spec, listener)
}

/// Carries out `HOST FAULT`.
fn obey(hosts: &[Arc<Host>], line: &str) -> anyhow::Result<()> {
    let (number, fault) = line.split_once(' ').context("write HOST FAULT")?;
    let number: usize = number.parse()?;
    let host = hosts.get(number).context("there is no such host")?;
    let fault = Fault::from_str(fault.trim(), false).map_err(|error| anyhow!(error))?;
    host.set_fault(fault);
    println!("{}", serde_json::json!({"host": number, "fault": fault}));
    Ok(())
}
