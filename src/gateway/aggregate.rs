//! `/health`, `/info` and `/status` of the pool as a whole, in the shape of a single host's, so that
//! an unchanged client understands them; what is new stands under new keys.
//!
//! Pure: made from what is known, never by asking a host, so that they are answered in microseconds
//! however the hosts are.

use std::collections::BTreeSet;

use gpu_bridge_wire::{ActiveJob, Health, Info, QueueStatus};
use serde::Serialize;

use crate::message::{HostReport, Reports};
use crate::pool::{HostView, Phase, PoolView};

/// `/health`. `None`: no host can serve.
pub(super) fn health(pool: &PoolView, reports: &Reports) -> Option<Health> {
    let serving = pool.hosts.iter().any(HostView::is_serving);
    serving.then(|| Health {
        status: Health::OK.to_owned(),
        device: device(&infos(pool, reports)),
        ready: None,
    })
}

/// Why no host can serve, for people.
pub(super) fn why_down(pool: &PoolView) -> String {
    let hosts: Vec<_> = pool
        .hosts
        .iter()
        .map(|host| format!("{} ({})", host.name, state(host)))
        .collect();
    format!("no host can serve: {}", hosts.join(", "))
}

/// `/info` of the pool.
#[derive(Debug, Serialize)]
pub(super) struct PoolInfo {
    #[serde(flatten)]
    sum: Info,
    hosts: Vec<HostInfo>,
}

#[derive(Debug, Serialize)]
struct HostInfo {
    name: String,
    state: &'static str,
    in_flight: u32,
    max_concurrent: u32,
    #[serde(flatten)]
    info: Option<Info>,
}

/// Sums up what the hosts told of themselves.
pub(super) fn info(pool: &PoolView, reports: &Reports) -> PoolInfo {
    let infos = infos(pool, reports);
    let names: Vec<&str> = infos.iter().map(|info| info.device_name.as_str()).collect();
    let engines: BTreeSet<&str> = infos
        .iter()
        .map(|info| info.pytorch_version.as_str())
        .collect();
    let models: BTreeSet<&String> = infos.iter().flat_map(|info| &info.loaded_models).collect();
    let sum = Info {
        device: device(&infos),
        device_name: format!("{}: {}", count(pool.hosts.len()), names.join(", ")),
        vram_total_mb: sum(infos.iter().map(|info| info.vram_total_mb)),
        vram_used_mb: sum(infos.iter().map(|info| info.vram_used_mb)),
        pytorch_version: engines.into_iter().collect::<Vec<_>>().join(", "),
        cuda_version: infos.iter().find_map(|info| info.cuda_version.clone()),
        loaded_models: models.into_iter().cloned().collect(),
        available_models: None,
    };
    let hosts = joined(pool, reports).map(|(host, report)| HostInfo {
        name: host.name.to_string(),
        state: state(host),
        in_flight: host.in_flight,
        max_concurrent: host.capacity,
        info: report.and_then(|report| report.info.clone()),
    });
    PoolInfo {
        sum,
        hosts: hosts.collect(),
    }
}

/// `/status` of the pool.
#[derive(Debug, Serialize)]
pub(super) struct PoolStatus {
    queue: QueueStatus,
    active_jobs: Vec<HostJob>,
    waiting: usize,
}

#[derive(Debug, Serialize)]
struct HostJob {
    host: String,
    #[serde(flatten)]
    job: ActiveJob,
}

/// Slots of the hosts that serve, and all that runs and waits for them.
pub(super) fn status(pool: &PoolView, reports: &Reports) -> PoolStatus {
    let serving = pool.hosts.iter().filter(|host| host.is_serving());
    let slots = serving
        .map(|host| host.capacity)
        .fold(0, u32::saturating_add);
    let running = pool
        .hosts
        .iter()
        .map(|host| host.in_flight)
        .fold(0, u32::saturating_add);
    let waiting = u32::try_from(pool.waiting).unwrap_or(u32::MAX);
    let alive = joined(pool, reports).filter(|(host, _)| host.is_serving());
    let jobs = alive.flat_map(|(host, report)| {
        let status = report.and_then(|report| report.status.as_ref());
        let jobs = status.into_iter().flat_map(|status| &status.active_jobs);
        jobs.map(|job| HostJob {
            host: host.name.to_string(),
            job: job.clone(),
        })
    });
    PoolStatus {
        queue: QueueStatus::new(slots, running.saturating_add(waiting)),
        active_jobs: jobs.collect(),
        waiting: pool.waiting,
    }
}

/// Each host with what it last told, if it ever told anything.
fn joined<'a>(
    pool: &'a PoolView,
    reports: &'a Reports,
) -> impl Iterator<Item = (&'a HostView, Option<&'a HostReport>)> {
    let hosts = pool.hosts.iter();
    hosts.map(|host| (host, reports.get(&host.id)))
}

/// What is known of the hosts, in their order.
fn infos<'a>(pool: &'a PoolView, reports: &'a Reports) -> Vec<&'a Info> {
    joined(pool, reports)
        .filter_map(|(_, report)| report?.info.as_ref())
        .collect()
}

/// A GPU if any host has one.
fn device(infos: &[&Info]) -> String {
    let devices = || infos.iter().map(|info| &info.device);
    let gpu = devices().find(|device| *device != "cpu");
    gpu.or_else(|| devices().next())
        .cloned()
        .unwrap_or_else(|| "unknown".to_owned())
}

fn state(host: &HostView) -> &'static str {
    match host.phase {
        Phase::Unknown => "unknown",
        _ if host.draining => "draining",
        Phase::Up if host.is_busy() => "busy",
        Phase::Up => "up",
        Phase::Trial => "trial",
        Phase::NotReady { .. } => "not_ready",
        Phase::Ejected { cause, .. } => match cause {
            crate::pool::Cause::Misconfigured => "misconfigured",
            _ => "ejected",
        },
    }
}

fn count(hosts: usize) -> String {
    if hosts == 1 {
        "1 host".to_owned()
    } else {
        format!("{hosts} hosts")
    }
}

/// The sum of what is known; `None` if nothing is.
fn sum(values: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    values.flatten().reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use gpu_bridge_wire::Status;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::HostName;
    use crate::pool::{Cause, HostId};

    fn name(name: &str) -> HostName {
        name.parse().unwrap()
    }

    fn id(position: usize) -> HostId {
        HostId::for_testing(position as u64)
    }

    fn view(phases: &[Phase], waiting: usize) -> PoolView {
        let hosts = phases.iter().enumerate().map(|(position, phase)| HostView {
            id: id(position),
            in_flight: 1,
            ..HostView::for_testing(name(&format!("h{position}")), *phase)
        });
        PoolView {
            waiting,
            ..PoolView::for_testing(hosts.collect())
        }
    }

    fn report(position: usize, device: &str, vram: Option<u64>, models: &[&str]) -> HostReport {
        let info = Info {
            device: device.to_owned(),
            device_name: format!("card {position}"),
            vram_total_mb: vram,
            vram_used_mb: vram.map(|mb| mb / 2),
            pytorch_version: "candle".to_owned(),
            cuda_version: None,
            loaded_models: models.iter().map(|model| (*model).to_owned()).collect(),
            available_models: None,
        };
        let job = ActiveJob {
            id: "j".to_owned(),
            kind: "embed".to_owned(),
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            items: 1,
            model: "m".to_owned(),
            progress: 0.0,
        };
        let status = Status {
            queue: QueueStatus::new(2, 1),
            active_jobs: vec![job],
        };
        HostReport {
            info: Some(info),
            status: Some(status),
        }
    }

    fn reports<const N: usize>(reports: [HostReport; N]) -> Reports {
        let numbered = reports.into_iter().enumerate();
        numbered
            .map(|(position, report)| (id(position), report))
            .collect()
    }

    fn out() -> Phase {
        Phase::Ejected {
            cause: Cause::Connect,
            hold_until: Instant::now(),
            good_checks: 0,
        }
    }

    #[test]
    fn health_is_ok_while_one_host_serves() {
        let reports = reports([
            report(0, "cpu", None, &[]),
            report(1, "cuda", Some(10), &[]),
        ]);
        let ok = health(&view(&[out(), Phase::Up], 0), &reports).unwrap();
        assert_eq!((ok.status.as_str(), ok.device.as_str()), ("ok", "cuda"));
        let down = view(&[out(), Phase::Unknown], 0);
        assert_eq!(health(&down, &reports), None);
        assert_eq!(
            why_down(&down),
            "no host can serve: h0 (ejected), h1 (unknown)"
        );
    }

    #[test]
    fn info_sums_memory_and_unites_models() {
        let reports = reports([
            report(0, "cuda", Some(11_000), &["embed:a", "embed:b"]),
            report(1, "cuda", Some(24_000), &["embed:b", "bertscore:c"]),
        ]);
        let info = serde_json::to_value(info(&view(&[Phase::Up, out()], 0), &reports)).unwrap();
        assert_eq!(info["device_name"], "2 hosts: card 0, card 1");
        assert_eq!(
            (&info["vram_total_mb"], &info["vram_used_mb"]),
            (&json!(35_000), &json!(17_500))
        );
        assert_eq!(
            info["loaded_models"],
            json!(["bertscore:c", "embed:a", "embed:b"])
        );
        assert_eq!(info["pytorch_version"], "candle");
        assert_eq!(info["hosts"][1]["state"], "ejected");
        assert_eq!(info["hosts"][1]["vram_total_mb"], 24_000);
    }

    #[test]
    fn info_of_hosts_that_told_nothing_has_all_keys() {
        let silent = HostReport {
            info: None,
            status: None,
        };
        let pool = view(&[Phase::Up, Phase::Unknown], 0);
        let info = serde_json::to_value(info(&pool, &reports([silent]))).unwrap();
        assert_eq!(info["vram_total_mb"], Value::Null);
        assert_eq!(info["device"], "unknown");
        assert_eq!(info["loaded_models"], json!([]));
        assert_eq!(info["hosts"][1]["state"], "unknown", "not even that");
    }

    #[test]
    fn what_hosts_told_goes_to_the_host_that_told_it() {
        let mut reports = reports([
            report(0, "cpu", None, &[]),
            report(1, "cpu", None, &["embed:b"]),
        ]);
        reports.remove(&id(0));
        let pool = view(&[Phase::Up, Phase::Up], 0);
        let info = serde_json::to_value(info(&pool, &reports)).unwrap();
        assert_eq!(info["hosts"][0].get("loaded_models"), None);
        assert_eq!(info["hosts"][1]["loaded_models"], json!(["embed:b"]));
        let status = serde_json::to_value(status(&pool, &reports)).unwrap();
        assert_eq!(status["active_jobs"][0]["host"], "h1");
    }

    #[test]
    fn status_counts_slots_of_serving_hosts_and_everything_that_waits() {
        let reports = reports([report(0, "cpu", None, &[]), report(1, "cpu", None, &[])]);
        let status = serde_json::to_value(status(&view(&[Phase::Up, out()], 3), &reports)).unwrap();
        let queue = json!({"max_concurrent": 2, "in_flight": 5, "available_slots": 0, "waiting_estimate": 3});
        assert_eq!(status["queue"], queue);
        assert_eq!(status["waiting"], 3);
        let jobs = status["active_jobs"].as_array().unwrap();
        assert_eq!(
            jobs.len(),
            1,
            "what a host ran before it was ejected is history"
        );
        assert_eq!(
            (&jobs[0]["host"], &jobs[0]["type"]),
            (&json!("h0"), &json!("embed"))
        );
    }
}
