//! `/health`, `/info` and `/status` of the pool as a whole, in the shape of a single host's, so that
//! an unchanged client understands them; what is new stands under new keys.
//!
//! Made from what is known, never by asking a host, so that they are answered in microseconds however
//! the hosts are; and made once for each [`Pool::snapshot`], so that many who ask cost little more than
//! one, however many hosts there are. Only whether a host serves is asked of the pool each time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use gpu_bridge_wire::{ActiveJob, Health, Info, QueueStatus, openai};
use http::StatusCode;
use serde::Serialize;

use super::refusals;
use super::respond::{self, Reply};
use crate::pool::{Glance, HostView, Model, Pool, PoolView, Running};

/// Names of models that are looked at to see which there are in all: hosts mostly have the same …
const MOST_SEEN: usize = 65_536;
/// … and how many different ones are shown: as many as one host may tell of.
const MOST_MODELS: usize = 4096;
/// Hosts that are named when none serves.
const MOST_HOSTS: usize = 8;

/// See the module.
pub struct Aggregates {
    pool: Pool,
    made: Mutex<Option<Arc<Made>>>,
}

/// What has been made of one view of the pool, as far as somebody asked for it.
struct Made {
    view: Arc<PoolView>,
    health: OnceLock<Bytes>,
    info: OnceLock<Bytes>,
    status: OnceLock<Bytes>,
    models: OnceLock<Arc<BTreeSet<String>>>,
    list: OnceLock<Bytes>,
}

impl Aggregates {
    /// Of `pool`.
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            made: Mutex::default(),
        }
    }

    /// Anybody may ask. Which hosts there are is not for a stranger to know.
    pub(super) fn health(&self, is_stranger: bool) -> Reply {
        if !self.pool.is_serving() {
            let why = || why_down(&self.pool.glance(MOST_HOSTS));
            return refusals::down((!is_stranger).then(why));
        }
        let made = self.made();
        ok(&made.health, || health(&made.view))
    }

    pub(super) fn info(&self) -> Reply {
        let made = self.made();
        ok(&made.info, || info(&made.view))
    }

    pub(super) fn status(&self) -> Reply {
        let made = self.made();
        ok(&made.status, || status(&made.view, SystemTime::now()))
    }

    /// What hosts tell that they can serve, or have in memory; sorted.
    pub(super) fn models(&self) -> Arc<BTreeSet<String>> {
        Arc::clone(self.made().models())
    }

    /// The same as OpenAI's API lists them.
    pub(super) fn list(&self) -> Reply {
        let made = self.made();
        let list = || Bytes::from(openai::models(made.models().iter().map(String::as_str)));
        Reply::of_json(StatusCode::OK, made.list.get_or_init(list).clone())
    }

    fn made(&self) -> Arc<Made> {
        let view = self.pool.snapshot();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.as_ref().filter(|made| Arc::ptr_eq(&made.view, &view)) {
            return Arc::clone(made);
        }
        let new = Arc::new(Made {
            view,
            health: OnceLock::new(),
            info: OnceLock::new(),
            status: OnceLock::new(),
            models: OnceLock::new(),
            list: OnceLock::new(),
        });
        *made = Some(Arc::clone(&new));
        new
    }
}

impl Made {
    fn models(&self) -> &Arc<BTreeSet<String>> {
        self.models.get_or_init(|| Arc::new(models(&self.view)))
    }
}

/// 200 with what is kept in `body`, or is made now.
fn ok<T: Serialize>(body: &OnceLock<Bytes>, make: impl FnOnce() -> T) -> Reply {
    let body = body.get_or_init(|| respond::to_json(&make()));
    Reply::of_json(StatusCode::OK, body.clone())
}

fn health(pool: &PoolView) -> Health {
    Health {
        status: Health::OK.to_owned(),
        device: device(&infos(pool)),
        ready: None,
    }
}

/// Why no host can serve, for people.
fn why_down(pool: &Glance) -> String {
    let hosts = pool.told(|host| format!("{} ({})", host.name, host.condition().as_str()));
    format!("no host can serve: {hosts}")
}

/// What hosts tell that they can serve, or have in memory.
fn models(pool: &PoolView) -> BTreeSet<String> {
    let told = pool.hosts.iter().map(|host| {
        let info = host.info.iter();
        let available = info.clone().flat_map(|info| &info.available_models);
        info.flat_map(|info| &info.loaded_models)
            .chain(available.flatten())
    });
    union(pool, told).into_iter().cloned().collect()
}

/// The different ones of what each host tells.
fn union<'a, T: Iterator<Item = &'a String>>(
    pool: &PoolView,
    told: impl Iterator<Item = T>,
) -> BTreeSet<&'a String> {
    let share = MOST_SEEN / pool.hosts.len().max(1);
    let seen: HashSet<_> = told.flat_map(|told| told.take(share)).collect();
    let sorted = seen.into_iter().collect::<BTreeSet<_>>();
    sorted.into_iter().take(MOST_MODELS).collect()
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
pub(super) fn info(pool: &PoolView) -> PoolInfo {
    let infos = infos(pool);
    let most = pool.listed_models();
    let names: Vec<&str> = infos.iter().map(|info| info.device_name.as_str()).collect();
    let engines = infos.iter().map(|info| info.pytorch_version.as_str());
    let engines: BTreeSet<&str> = engines.filter(|engine| !engine.is_empty()).collect();
    let models = union(pool, infos.iter().map(|info| info.loaded_models.iter()));
    let sum = Info {
        device: device(&infos),
        device_name: format!("{}: {}", count(pool.hosts.len()), names.join(", ")),
        vram_total_mb: sum(infos.iter().map(|info| info.vram_total_mb)),
        vram_used_mb: sum(infos.iter().map(|info| info.vram_used_mb)),
        pytorch_version: engines.into_iter().collect::<Vec<_>>().join(", "),
        cuda_version: infos.iter().find_map(|info| info.cuda_version.clone()),
        loaded_models: models.into_iter().cloned().collect(),
        ..Info::default()
    };
    let hosts = pool.hosts.iter().map(|host| HostInfo {
        name: host.name.to_string(),
        state: host.condition().as_str(),
        in_flight: host.in_flight,
        max_concurrent: host.capacity,
        info: host.info.as_ref().map(|info| Info {
            loaded_models: info.loaded_models.iter().take(most).cloned().collect(),
            // Part of a list would be taken for all of it.
            available_models: info
                .available_models
                .clone()
                .filter(|all| all.len() <= most),
            ..Info::clone(info)
        }),
    });
    PoolInfo {
        sum,
        hosts: hosts.collect(),
    }
}

/// `/status` of the pool, all of it as of one moment: `in_flight` are the active jobs and those that
/// wait, and the slots that are free are those that a request would get now.
#[derive(Debug, Serialize)]
pub(super) struct PoolStatus {
    queue: QueueStatus,
    active_jobs: Vec<PoolJob>,
    waiting: usize,
    /// Requests of others that run on the hosts. They are in none of the other numbers, but take slots.
    foreign: u32,
}

#[derive(Debug, Serialize)]
struct PoolJob {
    host: String,
    #[serde(flatten)]
    job: ActiveJob,
}

/// Slots of the hosts that serve, and all of ours that runs and waits for them.
pub(super) fn status(pool: &PoolView, now: SystemTime) -> PoolStatus {
    let serving = || pool.hosts.iter().filter(|host| host.is_serving());
    let slots = sum_of(serving().map(|host| host.capacity));
    let ours = pool.running.len().saturating_add(pool.waiting);
    let ours = u32::try_from(ours).unwrap_or(u32::MAX);
    let queue = QueueStatus {
        available_slots: sum_of(serving().map(HostView::free)),
        ..QueueStatus::new(slots, ours)
    };
    PoolStatus {
        queue,
        active_jobs: jobs(&pool.running, now),
        waiting: pool.waiting,
        foreign: sum_of(serving().map(|host| host.foreign)),
    }
}

/// A job's id is its request's, and told apart where several are called the same: clients choose their
/// ids, and a request may run twice.
fn jobs(running: &[Running], now: SystemTime) -> Vec<PoolJob> {
    let mut ids = HashSet::new();
    // The next number to try for an id, so that thousands that are called the same are no work.
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let jobs = running.iter().map(|running| {
        let id = &*running.demand.label.id;
        let number = numbers.entry(id).or_default();
        let id = loop {
            *number += 1;
            let candidate = match number {
                1 => id.to_owned(),
                _ => format!("{id}/{number}"),
            };
            if ids.insert(candidate.clone()) {
                break candidate;
            }
        };
        PoolJob {
            host: running.host.to_string(),
            job: job(id, running, now),
        }
    });
    jobs.collect()
}

fn job(id: String, running: &Running, now: SystemTime) -> ActiveJob {
    let demand = &running.demand;
    let started = now.checked_sub(running.elapsed).unwrap_or(now);
    let name = demand.model.as_ref().map(Model::name);
    ActiveJob {
        id,
        kind: demand.label.route.to_owned(),
        started_at: humantime::format_rfc3339_millis(started).to_string(),
        items: demand.work.items.into(),
        // As in a request: the host's default.
        model: name.unwrap_or_default().to_owned(),
        progress: progress(running.elapsed, running.expected),
    }
}

/// An estimate: by the time that such a request takes there. Never done before it is done.
fn progress(elapsed: Duration, expected: Option<Duration>) -> f64 {
    let expected = expected.filter(|expected| !expected.is_zero());
    let share = expected.map_or(0.0, |expected| elapsed.div_duration_f64(expected));
    (share.min(0.99) * 100.0).round() / 100.0
}

fn sum_of(numbers: impl Iterator<Item = u32>) -> u32 {
    numbers.fold(0, u32::saturating_add)
}

/// What is known of the hosts, in their order.
fn infos(pool: &PoolView) -> Vec<&Info> {
    let told = pool.hosts.iter().filter_map(|host| host.info.as_deref());
    told.collect()
}

/// A GPU if any host has one.
fn device(infos: &[&Info]) -> String {
    let devices = || {
        infos
            .iter()
            .map(|info| &info.device)
            .filter(|it| !it.is_empty())
    };
    let gpu = devices().find(|device| *device != "cpu");
    gpu.or_else(|| devices().next())
        .cloned()
        .unwrap_or_else(|| "unknown".to_owned())
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

    use serde_json::{Value, json};

    use super::*;
    use std::num::NonZeroU32;

    use crate::config::{HostName, Policy};
    use crate::dispatch::shortage;
    use crate::pool::{
        Cause, Check, Demand, HostId, HostSpec, Label, Phase, Settings, Tells, Thresholds, Work,
    };

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

    fn report(position: usize, device: &str, vram: Option<u64>, models: &[&str]) -> Info {
        Info {
            device: device.to_owned(),
            device_name: format!("card {position}"),
            vram_total_mb: vram,
            vram_used_mb: vram.map(|mb| mb / 2),
            pytorch_version: "candle".to_owned(),
            loaded_models: models.iter().map(|model| (*model).to_owned()).collect(),
            ..Info::default()
        }
    }

    /// Hosts of these phases, which told this.
    fn telling<const N: usize>(phases: [Phase; N], told: [Info; N]) -> PoolView {
        let mut pool = view(&phases, 0);
        for (host, info) in std::iter::zip(&mut pool.hosts, told) {
            host.info = Some(Arc::new(info));
        }
        pool
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
        let told = [
            report(0, "cpu", None, &[]),
            report(1, "cuda", Some(10), &[]),
        ];
        let ok = health(&telling([out(), Phase::Up], told));
        assert_eq!((ok.status.as_str(), ok.device.as_str()), ("ok", "cuda"));
        let down = Glance {
            hosts: view(&[out(), Phase::Unknown], 0).hosts,
            more: 3,
        };
        assert_eq!(
            why_down(&down),
            "no host can serve: h0 (ejected), h1 (unknown), and 3 more"
        );
    }

    /// A pool of so many hosts of which each tells of a thousand models, up or down, and what speaks for it.
    fn large(hosts: usize, check: &Check) -> (Pool, Aggregates) {
        let settings = Settings {
            policy: Policy::LeastBusy,
            thresholds: Thresholds {
                healthy_after: NonZeroU32::MIN,
                unhealthy_after: NonZeroU32::MIN,
            },
            max_waiting: 0,
            max_waiting_bytes: 0,
            check_interval: Duration::from_secs(5),
        };
        let pool = Pool::new(settings, 1, Box::new(|_| ()));
        let spec = |number| HostSpec {
            endpoint: format!("http://10.0.0.1:{number}"),
            max_concurrent: Some(NonZeroU32::MIN),
            ..HostSpec::for_testing(&format!("h{number}"))
        };
        let ids = pool.set_hosts((0..hosts).map(spec).collect());
        let models = (0..1000).map(|number| format!("embed:{number}"));
        let info = Arc::new(Info {
            device: "cpu".to_owned(),
            loaded_models: models.collect(),
            ..Info::default()
        });
        for id in &ids {
            pool.checked(*id, check);
            pool.told(*id, Arc::clone(&info));
        }
        let aggregates = Aggregates::new(pool.clone());
        (pool, aggregates)
    }

    /// What a request pays for does not depend on how many hosts there are, nor on what these tell.
    #[tokio::test(start_paused = true)]
    async fn an_answer_of_ours_costs_the_same_with_a_thousand_hosts() {
        let (up, down) = (
            Check::Good {
                slots: Tells::NotNow,
            },
            Check::Failed {
                reason: "off".to_owned(),
                reachable: false,
            },
        );
        let cost = |work: &dyn Fn()| {
            // The view of the pool that all share for a while.
            work();
            allocation_counter::measure(work).bytes_total
        };
        let costs = [10, 1000].map(|hosts| {
            let (pool, aggregates) = large(hosts, &up);
            let demand = Demand::default();
            let leases: Vec<_> = (0..hosts)
                .map(|_| pool.join(pool.ticket(), &demand, Duration::MAX))
                .collect();
            let refusal = || {
                let refused = pool.join(pool.ticket(), &demand, Duration::MAX);
                assert!(refused.is_err());
                pool.limit_reached(None, false);
                pool.retry_after(None, None);
                shortage(&pool);
            };
            let (_pool, absent) = large(hosts, &down);
            let costs = [
                ("health", cost(&|| drop(aggregates.health(true)))),
                ("info", cost(&|| drop(aggregates.info()))),
                ("status", cost(&|| drop(aggregates.status()))),
                ("models", cost(&|| drop(aggregates.models()))),
                ("list", cost(&|| drop(aggregates.list()))),
                ("refusal", cost(&refusal)),
                ("health while down", cost(&|| drop(absent.health(false)))),
            ];
            drop(leases);
            costs
        });
        let [few, many] = costs;
        for ((what, few), (_, many)) in few.into_iter().zip(many) {
            assert!(
                many < few + 200 && many < 10_000,
                "{what}: {few} and {many} bytes"
            );
        }
    }

    /// One view for all who look within a moment; its answers are of bounded size.
    #[tokio::test(start_paused = true)]
    async fn those_who_look_share_what_is_made_once() {
        let (pool, aggregates) = large(
            1000,
            &Check::Good {
                slots: Tells::NotNow,
            },
        );
        let first = aggregates.info().body;
        assert!(first.len() < 2_000_000, "{}", first.len());
        assert_eq!(aggregates.models().len(), 65, "of each, as they tell");
        let seen = pool.snapshot();
        tokio::time::advance(Duration::from_millis(99)).await;
        assert!(Arc::ptr_eq(&seen, &pool.snapshot()));
        assert_eq!(first.as_ptr(), aggregates.info().body.as_ptr());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!Arc::ptr_eq(&seen, &pool.snapshot()));
        assert_ne!(first.as_ptr(), aggregates.info().body.as_ptr());
    }

    #[test]
    fn ids_by_the_thousand_are_little_work() {
        let same: Vec<_> = (0..5000).map(|_| running("same", "h0", None)).collect();
        let made = allocation_counter::measure(|| drop(jobs(&same, SystemTime::now())));
        assert!(
            made.count_total < 20 * 5000,
            "{} allocations",
            made.count_total
        );
    }

    #[test]
    fn info_sums_memory_and_unites_models() {
        let told = [
            report(0, "cuda", Some(11_000), &["embed:a", "embed:b"]),
            report(1, "cuda", Some(24_000), &["embed:b", "bertscore:c"]),
        ];
        let info = serde_json::to_value(info(&telling([Phase::Up, out()], told))).unwrap();
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
        let pool = view(&[Phase::Up, Phase::Unknown], 0);
        let info = serde_json::to_value(info(&pool)).unwrap();
        assert_eq!(info["vram_total_mb"], Value::Null);
        assert_eq!(info["device"], "unknown");
        assert_eq!(info["loaded_models"], json!([]));
        assert_eq!(info["hosts"][1]["state"], "unknown", "not even that");
    }

    #[test]
    fn what_hosts_told_goes_to_the_host_that_told_it() {
        let told = [
            report(0, "cpu", None, &[]),
            report(1, "cpu", None, &["embed:b"]),
        ];
        let mut pool = telling([Phase::Up, Phase::Up], told);
        pool.hosts[0].info = None;
        let info = serde_json::to_value(info(&pool)).unwrap();
        assert_eq!(info["hosts"][0].get("loaded_models"), None);
        assert_eq!(info["hosts"][1]["loaded_models"], json!(["embed:b"]));
    }

    fn running(id: &str, host: &str, model: Option<&str>) -> Running {
        Running {
            demand: Demand {
                label: Label {
                    id: id.into(),
                    route: "embed",
                },
                model: model.and_then(Model::new),
                work: Work { items: 7, bytes: 0 },
                ..Demand::default()
            },
            host: name(host),
            elapsed: Duration::from_secs(2),
            expected: Some(Duration::from_secs(8)),
        }
    }

    fn told(pool: &PoolView) -> Value {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        serde_json::to_value(status(pool, now)).unwrap()
    }

    #[test]
    fn status_counts_slots_of_serving_hosts_and_everything_that_waits() {
        let mut pool = view(&[Phase::Up, out()], 3);
        pool.running = vec![running("x", "h0", None), running("y", "h1", None)];
        let queue = json!({"max_concurrent": 2, "in_flight": 5, "available_slots": 1, "waiting_estimate": 3});
        assert_eq!(told(&pool)["queue"], queue);
        assert_eq!(told(&pool)["waiting"], 3);
    }

    #[test]
    fn slots_that_a_request_would_not_get_are_not_available() {
        let available = |change: fn(&mut HostView)| {
            let mut pool = view(&[Phase::Up, Phase::Up], 0);
            change(&mut pool.hosts[0]);
            told(&pool)["queue"]["available_slots"].clone()
        };
        assert_eq!(available(|_| {}), 2);
        assert_eq!(available(|host| (host.foreign, host.slots) = (1, 1)), 1);
        assert_eq!(available(|host| host.draining = true), 1);
        assert_eq!(available(|host| host.busy_for = Some(Duration::ZERO)), 1);
        assert_eq!(available(|host| host.phase = out()), 1);
        assert_eq!(available(|host| host.in_flight = 9), 1);
    }

    #[test]
    fn a_job_tells_all_that_is_known_of_it() {
        let mut pool = view(&[Phase::Up], 0);
        pool.running = vec![running("x", "h0", Some("embed:org/m"))];
        let job = json!({
            "id": "x", "host": "h0", "type": "embed", "started_at": "1970-01-01T00:01:38.000Z",
            "items": 7, "model": "org/m", "progress": 0.25,
        });
        assert_eq!(told(&pool)["active_jobs"], json!([job]));
    }

    #[test]
    fn jobs_have_ids_of_their_own() {
        let mut pool = view(&[Phase::Up], 0);
        let ids = ["same", "same/2", "same", "other", "same"];
        pool.running = ids.map(|id| running(id, "h0", None)).to_vec();
        let jobs = told(&pool)["active_jobs"].clone();
        let ids: Vec<_> = jobs
            .as_array()
            .unwrap()
            .iter()
            .map(|job| &job["id"])
            .collect();
        assert_eq!(ids, ["same", "same/2", "same/3", "other", "same/4"]);
    }

    #[test]
    fn nothing_is_done_before_it_is_done() {
        let seconds = Duration::from_secs;
        let table = [
            (1, None, 0.0),
            (1, Some(0), 0.0),
            (0, Some(3), 0.0),
            (1, Some(3), 0.33),
            (9, Some(3), 0.99),
        ];
        for (elapsed, expected, share) in table {
            let told = progress(seconds(elapsed), expected.map(seconds));
            assert!((told - share).abs() < 1e-9, "{told} for {share}");
        }
    }
}
