//! One run: a schedule carried out on a stage, before a crowd, with the promises looked at all the while.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::crowd::Crowd;
use super::ledger::{Ledger, Who};
use super::schedule::{Entry, Event, Fault, Schedule};
use super::stage::{Stage, WORK};
use super::turns::out_of_turn;
use crate::harness::{Proxy, eventually};

/// A request that has been given its host is sent within so long.
const SENT: Duration = Duration::from_secs(1);
/// Between two looks at the promises.
const LOOK: Duration = Duration::from_millis(100);
/// So long after an event, what it makes inevitable may go on.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Files that a proxy may have open at the end beside those that it began with: connections to hosts and of
/// ours.
const FILES: usize = 60;

/// Plays `schedule`; returns what was promised and not kept.
pub(super) async fn play(schedule: Schedule) -> Vec<String> {
    let ledger = Arc::new(Ledger::default());
    let playing = AssertUnwindSafe(Play::run(schedule, Arc::clone(&ledger)));
    let played = playing.catch_unwind().await;
    let mut broken = ledger.all_broken();
    if let Err(panic) = played {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        broken.push(text.unwrap_or_else(|| "a panic without a text".to_owned()));
    }
    broken
}

pub(super) struct Play {
    pub(super) stage: Stage,
    ledger: Arc<Ledger>,
    /// Of each host, as of the last look.
    excess: Vec<(usize, usize)>,
    /// Requests that each had been sent by then.
    sent: Vec<usize>,
    /// Requests that it has turned away since, and nobody has left to account for it.
    owed: Vec<usize>,
    /// Whether a predecessor was still there then. It serves the next request of each idle connection.
    were_two: bool,
    began: Instant,
}

/// The beginning or the end of an entry.
struct Moment {
    at: Duration,
    begins: bool,
    entry: Entry,
}

impl Play {
    async fn run(schedule: Schedule, ledger: Arc<Ledger>) {
        let mut play = Self::set(&schedule, WORK, ledger).await;
        let files = play.stage.proxy.open_files();
        let slots = schedule.scene.hosts.iter().sum();
        let leave = play.stage.leave.subscribe();
        // Ends before the proxy does, whatever happens.
        let crowd = Crowd::start(
            schedule.seed,
            play.stage.address(),
            slots,
            &play.ledger,
            &leave,
        );
        play.act(&schedule).await;
        if !play.ledger.is_broken() {
            play.stage.is_well().await;
        }
        crowd.end().await;
        if !play.ledger.is_broken() {
            play.settles(files).await;
        }
        if play.ledger.is_broken() {
            let logs = play.stage.save_logs(schedule.seed);
            play.ledger
                .broken(format!("the logs are in {}", logs.display()));
        }
    }

    /// `work`: of a request of one item.
    pub(super) async fn set(schedule: &Schedule, work: Duration, ledger: Arc<Ledger>) -> Self {
        let stage = Stage::set(&schedule.scene, work).await;
        Self {
            excess: vec![(0, 0); stage.hosts.len()],
            owed: vec![0; stage.hosts.len()],
            sent: vec![0; stage.hosts.len()],
            stage,
            ledger,
            were_two: false,
            began: Instant::now(),
        }
    }

    /// All that is on the schedule, or until a promise is broken.
    pub(super) async fn act(&mut self, schedule: &Schedule) {
        // An upgrade takes its time, by which all that follows is later.
        let mut late = Duration::ZERO;
        for moment in moments(&schedule.entries) {
            if !self.watch_until(schedule, moment.at, late).await {
                return;
            }
            let before = Instant::now();
            if moment.begins {
                self.stage.begin(moment.entry.event).await;
            } else {
                self.stage.end(moment.entry.event).await;
            }
            late += before.elapsed();
        }
        self.watch_until(schedule, schedule.time, late).await;
    }

    /// Returns whether all promises are kept so far.
    async fn watch_until(&mut self, schedule: &Schedule, at: Duration, late: Duration) -> bool {
        while !self.ledger.is_broken() {
            let until = self.began + at + late;
            let next = (Instant::now() + LOOK).min(until);
            sleep_until(next).await;
            self.look(
                schedule,
                next.duration_since(self.began).saturating_sub(late),
            )
            .await;
            if next == until {
                return true;
            }
        }
        false
    }

    /// Has any host been sent more than its slots, but for what could not be known?
    async fn look(&mut self, schedule: &Schedule, now: Duration) {
        let is_recent = |entry: &&Entry| entry.at <= now && now <= entry.ends() + AFTERMATH;
        let recent: Vec<_> = schedule
            .entries
            .iter()
            .filter(is_recent)
            .map(|it| it.event)
            .collect();
        // Two processes know nothing of each other's leases.
        let predecessors = self.stage.predecessors.iter_mut();
        let are_two = predecessors
            .map(Proxy::has_ended)
            .filter(|ended| !ended)
            .count()
            > 0;
        let were_two = std::mem::replace(&mut self.were_two, are_two);
        let excuses = |event: &Event| matches!(event, Event::Upgrade | Event::Leaving);
        let all_excused = are_two || were_two || recent.iter().any(excuses);
        for (number, host) in self.stage.hosts.iter().enumerate() {
            let before = std::mem::replace(&mut self.excess[number], host.excess());
            let after = self.excess[number];
            let (turned_away, given_up) = (after.0 - before.0, after.1 - before.1);
            let ails = |event: &Event| matches!(event, Event::Host(host, _) if *host == number);
            // Who is given up has left when the next one comes, but the host may hear of it a while later.
            let owed = self.owed[number].saturating_sub(given_up);
            let is_excused = all_excused || recent.iter().any(ails);
            if !is_excused && owed > 0 {
                let (name, slots) = (host.name(), schedule.scene.hosts[number]);
                let how = format!("at {now:?}, {name} was sent more than its {slots} slots");
                self.ledger.broken(how);
            }
            let new = (self.owed[number] + turned_away).saturating_sub(given_up);
            self.owed[number] = if is_excused { 0 } else { new };
        }
        self.look_aside(schedule, now, all_excused);
        let metrics = self.stage.proxy.metrics().await;
        let resized =
            |event: &Event| matches!(event, Event::Host(_, Fault::FewerSlots | Fault::Removed));
        if recent.iter().any(resized) || all_excused {
            return;
        }
        for host in &self.stage.hosts {
            let of = |metric: &str| {
                metrics.count(
                    &format!("gpu_bridge_host_{metric}"),
                    &[("host", host.name())],
                )
            };
            if of("in_flight") > of("capacity") {
                let (ours, most) = (of("in_flight"), of("capacity"));
                self.ledger
                    .broken(format!("{} has {ours} attempts of {most}", host.name()));
            }
        }
    }

    /// Has a host been sent anything that is to get nothing?
    fn look_aside(&mut self, schedule: &Schedule, now: Duration, all_excused: bool) {
        for (number, host) in self.stage.hosts.iter().enumerate() {
            let sent = host.arrivals();
            let new = sent - std::mem::replace(&mut self.sent[number], sent);
            let is_aside = |entry: &Entry| {
                let Event::Host(of, Fault::Drained | Fault::Removed) = entry.event else {
                    return false;
                };
                of == number && entry.at + SENT + LOOK <= now && now < entry.ends()
            };
            if new > 0 && !all_excused && schedule.entries.iter().any(is_aside) {
                let how = format!("at {now:?}, {} was sent {new} requests", host.name());
                self.ledger.broken(how + ", though it is to get none");
            }
        }
    }

    /// Nobody asks any more: all comes back, and adds up.
    async fn settles(&mut self, files: usize) {
        let proxy = &self.stage.proxy;
        eventually("nothing waits, runs or is held", async || {
            let metrics = proxy.metrics().await;
            let sum = |name: &str| metrics.count(name, &[]);
            let left = [
                "queue_length",
                "queue_bytes",
                "host_in_flight",
                "buffered_bytes",
                "connections_open",
            ];
            left.iter()
                .all(|name| sum(&format!("gpu_bridge_{name}")) == 0)
        })
        .await;
        let metrics = proxy.metrics().await;
        for never in [
            "panics_total",
            "task_restarts_total",
            "log_lines_dropped_total",
        ] {
            let times = metrics.count(&format!("gpu_bridge_{never}"), &[]);
            assert_eq!(times, 0, "{never}");
        }
        let now = proxy.open_files();
        assert!(
            now <= files + FILES,
            "{now} files are open, and {files} were at the start"
        );
        if let Err(unfair) = self.ledger.is_fair()
            && !self.stage.scene.merge
        {
            self.ledger.broken(unfair);
        }
        self.adds_up().await;
    }

    /// Each request that was answered is in the log of one process, once, and nothing else is.
    async fn adds_up(&mut self) {
        self.stage.proxy.terminate().await;
        let (mut answered, mut left, mut other) = (0, 0, Vec::new());
        let last = std::iter::once(&mut self.stage.proxy);
        for proxy in self.stage.predecessors.iter_mut().chain(last) {
            assert_eq!(proxy.ended().await.code(), Some(0));
            let lines = requests(proxy);
            if let Some(overtaken) = out_of_turn(&lines) {
                self.ledger.broken(overtaken);
            }
            for line in lines {
                match (line["client"].as_str(), line["status"].as_u64()) {
                    (Some(client), _) if client == Who::Leaving.name() => left += 1,
                    (_, Some(200)) => answered += 1,
                    _ => other.push(line.to_string()),
                }
            }
        }
        let (right, gone) = self.ledger.counts();
        if answered != right || left > gone || !other.is_empty() {
            self.ledger.broken(format!(
                "{right} answered and {gone} left, but in the log {answered} and {left}, and {other:?}"
            ));
        }
    }
}

/// The log's lines about requests to clients' addresses.
fn requests(proxy: &Proxy) -> Vec<Value> {
    let log = proxy.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["route"].is_string()).collect()
}

/// In their order: what ends goes before what begins.
fn moments(entries: &[Entry]) -> Vec<Moment> {
    let of = |entry: &Entry| {
        let moment = |at, begins| Moment {
            at,
            begins,
            entry: *entry,
        };
        [moment(entry.at, true), moment(entry.ends(), false)]
    };
    let mut moments: Vec<_> = entries.iter().flat_map(of).collect();
    moments.sort_by_key(|moment| (moment.at, moment.begins));
    moments
}
