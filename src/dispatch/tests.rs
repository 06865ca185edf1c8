//! The loop against scripted hosts, on a paused clock.

mod batches;
mod churn;
mod doubts;
mod freezing;
mod limits;

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Mutex;

use async_trait::async_trait;
use gpu_bridge_wire::Info;
use http::{HeaderMap, Method, StatusCode};

use super::*;
use crate::budget::Budget;
use crate::config::{Current, Policy};
use crate::message::{Answer, Deadline, Payload};
use crate::pool::{self, Check, Demand, HostId, HostSpec, Model, Tells, Thresholds};
use crate::upstream::{Doubt, Terms, Verdict};

const SECOND: Duration = Duration::from_secs(1);

/// Hosts that end their attempts as told, one after the other, and then serve well.
#[derive(Default)]
struct Scripted {
    scripts: Mutex<HashMap<HostId, VecDeque<Verdict>>>,
    calls: Mutex<Vec<HostId>>,
}

#[async_trait]
impl Upstream for Scripted {
    async fn attempt(&self, host: HostId, _call: &Call, _terms: Terms) -> Verdict {
        self.calls.lock().unwrap().push(host);
        tokio::time::sleep(SECOND).await;
        let mut scripts = self.scripts.lock().unwrap();
        let next = scripts.get_mut(&host).and_then(VecDeque::pop_front);
        next.unwrap_or_else(|| Verdict::Deliver(answer(StatusCode::OK)))
    }
}

/// Runs it with a clock that stands still while there is something to do.
fn paused(scene: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(scene);
}

fn payload() -> Payload {
    Payload::empty(Budget::new(1024).open())
}

fn answer(status: StatusCode) -> Answer {
    Answer {
        status,
        headers: HeaderMap::new(),
        body: payload(),
        rest: None,
    }
}

fn call() -> Call {
    Call {
        method: Method::POST,
        path: "/embed".to_owned(),
        headers: HeaderMap::new(),
        body: payload(),
        demand: Demand {
            model: Model::new("embed:m"),
            ..Demand::default()
        },
        deadline: Deadline::default(),
        trace: None,
    }
}

fn busy(seconds: u64) -> Verdict {
    Verdict::Busy {
        retry_after: Duration::from_secs(seconds),
    }
}

fn doubtful(status: StatusCode, why: Doubt) -> Verdict {
    let answer = answer(status);
    Verdict::Sibling { answer, why }
}

fn server_error() -> Verdict {
    doubtful(StatusCode::INTERNAL_SERVER_ERROR, Doubt::ServerError)
}

fn not_found() -> Verdict {
    doubtful(StatusCode::NOT_FOUND, Doubt::NoModel)
}

fn reset() -> Verdict {
    Verdict::Fault {
        sent: true,
        reason: "reset".to_owned(),
    }
}

fn refused() -> Verdict {
    Verdict::Fault {
        sent: false,
        reason: "refused".to_owned(),
    }
}

/// How each attempt ended.
fn words(journal: &Journal) -> Vec<String> {
    let attempts = journal.story().attempts;
    attempts
        .iter()
        .map(|tried| tried.verdict.to_string())
        .collect()
}

fn pool_settings() -> pool::Settings {
    pool::Settings {
        policy: Policy::LeastBusy,
        thresholds: Thresholds {
            healthy_after: NonZeroU32::MIN,
            unhealthy_after: NonZeroU32::MIN,
        },
        max_waiting: 1,
        max_waiting_bytes: 1 << 20,
        check_interval: 5 * SECOND,
    }
}

/// A host with one slot.
fn spec(position: usize) -> HostSpec {
    HostSpec {
        max_concurrent: Some(NonZeroU32::MIN),
        ..HostSpec::for_testing(&format!("h{position}"))
    }
}

struct Scene {
    pool: Pool,
    upstream: Arc<Scripted>,
    dispatcher: Dispatcher,
    pool_settings: pool::Settings,
}

impl Scene {
    /// Hosts with one slot each, all up, and what they do first.
    fn new(scripts: Vec<Vec<Verdict>>) -> Self {
        let pool_settings = pool_settings();
        let pool = Pool::new(pool_settings, 1, Box::new(|_| ()));
        let ids = pool.set_hosts((0..scripts.len()).map(spec).collect());
        tokio::spawn({
            let pool = pool.clone();
            async move { pool.keep_time().await }
        });
        let scripts = scripts.into_iter().map(VecDeque::from);
        let scripts = ids.into_iter().zip(scripts).collect();
        let upstream = Arc::new(Scripted {
            scripts: Mutex::new(scripts),
            calls: Mutex::default(),
        });
        let metrics = Arc::new(Metrics::new().unwrap());
        let config = Current::for_testing("");
        let dispatcher = Dispatcher::new(pool.clone(), upstream.clone(), config, metrics);
        let scene = Self {
            pool,
            upstream,
            dispatcher,
            pool_settings,
        };
        scene.sign_of_life();
        scene
    }

    fn sign_of_life(&self) {
        for (id, _) in self.pool.hosts() {
            self.pool.checked(
                id,
                &Check::Good {
                    slots: Tells::Nothing,
                },
            );
            let info = Info {
                loaded_models: vec!["embed:m".to_owned()],
                ..Info::default()
            };
            self.pool.told(id, info);
        }
    }

    /// Hosts tell that nothing is in their memory.
    fn forget_models(&self) {
        for (id, _) in self.pool.hosts() {
            self.pool.told(id, Info::default());
        }
    }

    async fn run(&self) -> (Result<StatusCode, Refusal>, Journal) {
        let journal = Journal::default();
        let result = self.dispatcher.dispatch(&call(), &journal).await;
        let status = result.map(|delivery| delivery.answer.status);
        (status.map_err(|it| it.refusal), journal)
    }

    /// The positions of the hosts that were tried.
    fn calls(&self) -> Vec<usize> {
        let hosts = self.pool.hosts();
        let position = |call: &HostId| hosts.iter().position(|(id, _)| id == call).unwrap();
        self.upstream
            .calls
            .lock()
            .unwrap()
            .iter()
            .map(position)
            .collect()
    }

    fn serving(&self) -> Vec<bool> {
        self.pool
            .view()
            .hosts
            .iter()
            .map(|host| host.phase.is_serving())
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_host_costs_a_step_to_its_sibling() {
    let scene = Scene::new(vec![vec![busy(5)], vec![]]);
    let (result, journal) = scene.run().await;
    assert_eq!(result, Ok(StatusCode::OK));
    assert_eq!(scene.calls(), [0, 1]);
    assert_eq!(journal.queued(), Duration::ZERO);
    assert_eq!(journal.upstream(), 2 * SECOND);
    let words = words(&journal);
    assert_eq!(words, ["busy", "deliver"]);
    assert_eq!(scene.serving(), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn all_busy_waits_for_the_first_to_be_free() {
    let scene = Scene::new(vec![vec![busy(20)], vec![busy(5)]]);
    let (result, journal) = scene.run().await;
    assert_eq!(result, Ok(StatusCode::OK));
    assert_eq!(scene.calls(), [0, 1, 1]);
    assert!(
        journal.queued() >= 5 * SECOND && journal.queued() < 6 * SECOND,
        "{journal:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn busy_until_the_deadline_is_a_refusal() {
    let scene = Scene::new(vec![(0..20).map(|_| busy(20)).collect()]);
    let (result, journal) = scene.run().await;
    assert_eq!(result, Err(Refusal::Deadline));
    assert_eq!(scene.calls(), [0, 0], "at the start and after 20 s");
    assert!(
        journal.queued() >= 28 * SECOND && journal.queued() < 29 * SECOND,
        "each attempt was a second of waiting: {journal:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_that_lets_requests_wait_and_refuses_them_then_keeps_none_for_ever() {
    let scene = Scene::new(vec![(0..400).map(|_| busy(0)).collect()]);
    let started = Instant::now();
    let (result, _) = scene.run().await;
    assert_eq!(result, Err(Refusal::Deadline));
    let took = started.elapsed();
    assert!(took >= 30 * SECOND && took < 32 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_error_that_a_sibling_does_not_make_is_the_hosts_fault() {
    let scene = Scene::new(vec![vec![server_error()], vec![]]);
    assert_eq!(scene.run().await.0, Ok(StatusCode::OK));
    assert_eq!(scene.serving(), [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_server_error_that_two_hosts_make_is_the_requests() {
    let scene = Scene::new(vec![vec![server_error()], vec![server_error()], vec![]]);
    assert_eq!(scene.run().await.0, Ok(StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(scene.calls(), [0, 1], "the third host is spared");
    assert_eq!(scene.serving(), [true, true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_siblings_404_blames_nobody() {
    let scene = Scene::new(vec![vec![server_error()], vec![not_found()]]);
    assert_eq!(scene.run().await.0, Ok(StatusCode::NOT_FOUND));
    assert_eq!(scene.serving(), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn the_only_hosts_server_error_is_delivered_at_once() {
    let scene = Scene::new(vec![vec![server_error()]]);
    let (result, journal) = scene.run().await;
    assert_eq!(result, Ok(StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(journal.queued(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_server_error_in_hand_is_delivered_when_no_sibling_becomes_free() {
    let always_busy = (0..20).map(|_| busy(20)).collect();
    let scene = Scene::new(vec![vec![server_error()], always_busy]);
    let (result, journal) = scene.run().await;
    assert_eq!(result, Ok(StatusCode::INTERNAL_SERVER_ERROR));
    assert!(journal.queued() >= 28 * SECOND, "{journal:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_broke_two_hosts_ends() {
    let scene = Scene::new(vec![vec![reset()], vec![reset()], vec![]]);
    assert_eq!(scene.run().await.0, Err(Refusal::HostsFailed));
    assert_eq!(scene.calls(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn refused_connections_do_not_count() {
    let scene = Scene::new(vec![
        vec![refused()],
        vec![refused()],
        vec![refused()],
        vec![],
    ]);
    assert_eq!(scene.run().await.0, Ok(StatusCode::OK));
    assert_eq!(scene.calls(), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_is_never_the_clients_problem() {
    let wrong = Verdict::Misconfigured {
        status: StatusCode::UNAUTHORIZED,
    };
    let scene = Scene::new(vec![vec![wrong], vec![]]);
    assert_eq!(scene.run().await.0, Ok(StatusCode::OK));
    assert_eq!(scene.serving(), [false, true]);
}

#[tokio::test(start_paused = true)]
async fn the_last_host_is_waited_for() {
    let scene = Scene::new(vec![vec![reset()]]);
    let pool = scene.pool.clone();
    tokio::spawn(async move {
        tokio::time::sleep(10 * SECOND).await;
        for (id, _) in pool.hosts() {
            pool.checked(
                id,
                &Check::Good {
                    slots: Tells::Nothing,
                },
            );
        }
    });
    let (result, journal) = scene.run().await;
    assert_eq!(result, Ok(StatusCode::OK));
    assert_eq!(scene.calls(), [0, 0]);
    assert_eq!(journal.queued(), 9 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_runs_on_a_host_that_hangs_moves_to_a_sibling_at_once() {
    let scene = Scene::new(vec![vec![], vec![]]);
    let pool = scene.pool.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SECOND / 4).await;
        let reason = String::new();
        pool.checked(
            pool.hosts()[0].0,
            &Check::NoAnswer {
                reason,
                silent_for: 2 * SECOND,
            },
        );
    });
    let (result, journal) = scene.run().await;
    assert_eq!(result, Ok(StatusCode::OK));
    assert_eq!(scene.calls(), [0, 1]);
    assert_eq!(journal.upstream(), SECOND / 4 + SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_runs_on_a_host_that_only_fails_its_checks_may_end_there() {
    let scene = Scene::new(vec![vec![], vec![]]);
    let pool = scene.pool.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SECOND / 4).await;
        let reason = "it stops gracefully and accepts no more connections".to_owned();
        let reachable = false;
        pool.checked(pool.hosts()[0].0, &Check::Failed { reason, reachable });
    });
    assert_eq!(scene.run().await.0, Ok(StatusCode::OK));
    assert_eq!(scene.calls(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_newcomers_at_once() {
    let scene = Arc::new(Scene::new(vec![vec![]]));
    let running: Vec<_> = (0..3)
        .map(|_| {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move { scene.run().await.0 })
        })
        .collect();
    let mut results = Vec::new();
    for task in running {
        results.push(task.await.unwrap());
    }
    let ok = Ok(StatusCode::OK);
    assert_eq!(results, [ok, ok, Err(Refusal::QueueFull)]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_gives_everything_back() {
    let scene = Scene::new(vec![vec![]]);
    let journal = Journal::default();
    let call = call();
    let attempt = scene.dispatcher.dispatch(&call, &journal);
    assert!(tokio::time::timeout(SECOND / 2, attempt).await.is_err());
    assert_eq!(scene.pool.view().hosts[0].in_flight, 0);
    assert_eq!(journal.story().attempts[0].verdict, "abandoned");
    assert_eq!(journal.upstream(), SECOND / 2);
}

#[tokio::test(start_paused = true)]
async fn what_runs_on_a_host_that_says_it_is_unwell_moves_and_that_does_not_count() {
    let scene = Scene::new(vec![vec![], vec![reset()], vec![]]);
    let pool = scene.pool.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SECOND / 4).await;
        let reason = "/health says \"dying\"".to_owned();
        let reachable = true;
        pool.checked(pool.hosts()[0].0, &Check::Failed { reason, reachable });
    });
    let (result, journal) = scene.run().await;
    assert_eq!(result, Ok(StatusCode::OK));
    let words = words(&journal);
    assert_eq!(words, ["moved", "fault", "deliver"]);
    assert_eq!(journal.upstream(), SECOND / 4 + 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_client_in_a_hurry_waits_no_longer_than_it_said() {
    let scene = Scene::new(vec![vec![busy(20)]]);
    let call = Call {
        deadline: Deadline::after(Instant::now(), Some(3 * SECOND)),
        ..call()
    };
    let journal = Journal::default();
    let result = scene.dispatcher.dispatch(&call, &journal).await;
    assert_eq!(result.err().map(|it| it.refusal), Some(Refusal::TooLate));
    assert_eq!(
        journal.queued(),
        2 * SECOND,
        "one second went to the attempt"
    );
}

#[tokio::test(start_paused = true)]
async fn in_lasting_overload_a_request_is_refused_before_it_waits_in_vain() {
    let scene = Arc::new(Scene::new(vec![vec![]]));
    for _ in 0..20 {
        scene.run().await.0.unwrap();
    }
    let mut settings = scene.pool_settings;
    settings.max_waiting = 100;
    scene.pool.set_settings(settings);
    let waiting: Vec<_> = (0..32)
        .map(|_| {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move { scene.run().await })
        })
        .collect();
    while scene.pool.view().waiting < 30 {
        tokio::task::yield_now().await;
    }
    let (result, journal) = scene.run().await;
    assert_eq!(result, Err(Refusal::QueueTooLong));
    assert_eq!(journal.queued(), Duration::ZERO);
    for task in waiting {
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_retries_is_slowed_down_and_not_failed() {
    let hosts = 60;
    let broken = |_| (0..2).map(|_| reset()).collect();
    let mut scripts: Vec<Vec<Verdict>> = (0..hosts / 2).map(broken).collect();
    scripts.resize_with(hosts, Vec::new);
    let scene = Arc::new(Scene::new(scripts));
    let started = Instant::now();
    let running: Vec<_> = (0..hosts / 2)
        .map(|_| {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move { scene.run().await.0 })
        })
        .collect();
    for task in running {
        assert_eq!(task.await.unwrap(), Ok(StatusCode::OK));
    }
    assert!(started.elapsed() > 2 * SECOND, "{:?}", started.elapsed());
}
