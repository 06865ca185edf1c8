//! The commands that talk to a running proxy.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;

use super::client::{Client, Where};
use super::failure::Failure;
use super::{print, table};
use crate::admin::story;
use crate::admin::view::{Condition, HostState, PoolState, Reloaded};
use crate::gateway::is_request_id;

pub(super) const POOL: &str = "/api/v1/pool";
/// Between two looks.
const WATCH: Duration = Duration::from_secs(1);
/// Puts the cursor into the corner and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// How `status` shows what it shows.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Show {
    /// Show it again every second, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// As JSON, as the API gives it; with --watch one line each time.
    #[arg(long)]
    json: bool,
}

/// An order about one host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Drain,
    Undrain,
}

pub(super) async fn status(place: Where, show: Show) -> Result<(), Failure> {
    let client = Client::from_environment(place)?;
    if !show.watch {
        return print(&render(&client.get(POOL).await?, show)?);
    }
    loop {
        let text = match client.get(POOL).await {
            Ok(pool) => render(&pool, show)?,
            // It may be restarting: that is what is watched.
            Err(error @ Failure::Unreachable { .. }) if !show.json => format!("{error}\n"),
            Err(error) => return Err(error),
        };
        let clear = if io::stdout().is_terminal() && !show.json {
            CLEAR
        } else {
            ""
        };
        print(&format!("{clear}{text}"))?;
        tokio::time::sleep(WATCH).await;
    }
}

pub(super) async fn hosts(place: Where) -> Result<(), Failure> {
    let pool: PoolState = Client::from_environment(place)?.get(POOL).await?;
    let lines = pool
        .hosts
        .iter()
        .map(|host| format!("{}\t{}\n", host.name, host.state));
    print(&lines.collect::<String>())
}

pub(super) async fn health(place: Where, ready: bool) -> Result<(), Failure> {
    let path = if ready { "/readyz" } else { "/healthz" };
    let _: serde_json::Value = Client::from_environment(place)?.get(path).await?;
    Ok(())
}

pub(super) async fn order(place: Where, order: Order, host: &str) -> Result<(), Failure> {
    let client = Client::from_environment(place)?;
    let word = match order {
        Order::Drain => "drain",
        Order::Undrain => "undrain",
    };
    let path = format!("/api/v1/hosts/{}/{word}", in_path(host)?);
    print(&outcome(&client.post(&path).await?))
}

pub(super) async fn reload(place: Where) -> Result<(), Failure> {
    let client = Client::from_environment(place)?;
    let Reloaded {
        changes,
        needs_restart,
    } = client.post("/api/v1/reload").await?;
    let mut lines = changes;
    if lines.is_empty() {
        lines.push("nothing has changed".to_owned());
    }
    if needs_restart {
        lines.push("restart the proxy for what only a restart can change".to_owned());
    }
    print(&(lines.join("\n") + "\n"))
}

pub(super) async fn explain(place: Where, id: &str, json: bool) -> Result<(), Failure> {
    if !is_request_id(id) {
        let detail = format!("no request can have the id {id:?}");
        return Err(Failure::NoSuch { detail });
    }
    let client = Client::from_environment(place)?;
    // Clients may put slashes into theirs.
    let path = format!("/api/v1/requests/{}", id.replace('/', "%2F"));
    if json {
        return print(&pretty(&client.get::<serde_json::Value>(&path).await?)?);
    }
    print(&story::tell(&client.get(&path).await?))
}

fn pretty(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n")
        .map_err(|error| Failure::Failed(error.to_string()))
}

fn outcome(host: &HostState) -> String {
    let name = &host.name;
    match (host.state, host.in_flight) {
        (Condition::Drained, _) => format!("{name} is drained: nothing of ours runs there\n"),
        (Condition::Draining, running) => {
            format!("{name} gets nothing new; requests that still run there: {running}\n")
        }
        (state, _) => format!("{name} may get requests again; it is {state}\n"),
    }
}

/// Names of hosts need no escaping; what does is no name of a host.
pub(super) fn in_path(host: &str) -> Result<&str, Failure> {
    let name = host.parse::<crate::config::HostName>();
    name.map(|_| host).map_err(|bad| Failure::NoSuch {
        detail: format!("no host can be called {host:?}: {bad}"),
    })
}

fn render(pool: &PoolState, show: Show) -> Result<String, Failure> {
    let json = |json: serde_json::Result<String>| match json {
        Ok(text) => Ok(text + "\n"),
        Err(error) => Err(Failure::Failed(error.to_string())),
    };
    match show {
        Show { json: false, .. } => Ok(table::render(pool, colours(), width())),
        Show { watch: true, .. } => json(serde_json::to_string(pool)),
        Show { watch: false, .. } => json(serde_json::to_string_pretty(pool)),
    }
}

/// Of the terminal, if there is one.
fn width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let told = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok());
    told.or_else(|| terminal_size::terminal_size().map(|(width, _)| width.0.into()))
}

/// On terminals, unless the user said no (<https://no-color.org>).
fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !refused
}
