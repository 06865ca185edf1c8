//! What a host that freezes costs a request with the default settings: suspicion, checks, the move to
//! a sibling, in every phase of the checks. Hosts and checks are simulated, the rest is real.

use super::*;
use crate::upstream::while_alive;

/// The defaults of `health.interval` and `health.timeout`.
const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);
/// The promise.
const MOST: Duration = Duration::from_secs(3);
/// As late as jitter makes a check.
const LATEST: f64 = 1.1;

/// One that freezes at some time, then one that answers at once.
struct Freezing {
    at: Instant,
    /// How long the first takes for a request, and for a check.
    work: Duration,
    check: Duration,
    first: HostId,
    /// When the sibling was asked.
    moved: Mutex<Option<Instant>>,
}

impl Freezing {
    /// Ends when the first host has worked for so long, unless it freezes before.
    async fn worked(&self, time: Duration) {
        tokio::time::sleep(time).await;
        if Instant::now() >= self.at {
            std::future::pending::<()>().await;
        }
    }

    /// As `upstream::check`: `/health` for as long as it may take, the rest while that is answered.
    async fn check(&self) -> Check {
        let told = async {
            self.is_heard().await?;
            let patience = crate::upstream::patience(self.check, TIMEOUT);
            let told = tokio::time::timeout(patience, self.worked(self.check));
            while_alive(told, || self.is_heard()).await
        };
        told.await.map_or_else(
            |silent| silent,
            |_| Check::Good {
                slots: Tells::Nothing,
            },
        )
    }

    async fn is_heard(&self) -> Result<(), Check> {
        let health = tokio::time::timeout(TIMEOUT, self.worked(self.check));
        health.await.map_err(|_| Check::NoAnswer {
            reason: String::new(),
            silent_for: TIMEOUT,
        })
    }
}

#[async_trait]
impl Upstream for Freezing {
    async fn attempt(&self, host: HostId, _call: &Call, _terms: Terms) -> Verdict {
        if host == self.first {
            self.worked(self.work).await;
        } else {
            *self.moved.lock().unwrap() = Some(Instant::now());
        }
        Verdict::Deliver(answer(StatusCode::OK))
    }
}

/// A request that comes at `comes`, to hosts of which the first, busy for `work` with it, freezes at
/// `freezes`: when the sibling got it, counted from the start.
async fn moved(
    comes: Duration,
    freezes: Duration,
    work: Duration,
    check: Duration,
) -> Option<Duration> {
    moved_among(2, comes, freezes, work, check).await
}

/// The same in a pool of so many hosts.
async fn moved_among(
    hosts: usize,
    comes: Duration,
    freezes: Duration,
    work: Duration,
    check: Duration,
) -> Option<Duration> {
    let start = Instant::now();
    let (dispatcher, upstream, pool) = scene(hosts, start + freezes, work, check);
    let first = upstream.first;
    let checks = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        async move {
            loop {
                pool.checked(first, &upstream.check().await);
                pool.check_due(first, LATEST).await;
            }
        }
    });
    tokio::time::sleep(comes).await;
    let answered = dispatcher.dispatch(&call(), &Journal::default()).await;
    assert!(answered.is_ok());
    checks.abort();
    let moved = *upstream.moved.lock().unwrap();
    moved.map(|moved| moved - start)
}

fn scene(
    hosts: usize,
    at: Instant,
    work: Duration,
    check: Duration,
) -> (Dispatcher, Arc<Freezing>, Pool) {
    let pool_settings = pool::Settings {
        thresholds: Thresholds {
            healthy_after: NonZeroU32::MIN,
            unhealthy_after: NonZeroU32::new(2).unwrap(),
        },
        ..pool_settings()
    };
    let pool = Pool::new(pool_settings, 1, Box::new(|_| ()));
    let ids = pool.set_hosts((0..hosts).map(spec).collect());
    for id in &ids {
        pool.checked(
            *id,
            &Check::Good {
                slots: Tells::Nothing,
            },
        );
    }
    let upstream = Arc::new(Freezing {
        at,
        work,
        check,
        first: ids[0],
        moved: Mutex::default(),
    });
    let metrics = Arc::new(Metrics::new().unwrap());
    let dispatcher = Dispatcher::new(
        pool.clone(),
        upstream.clone(),
        Current::for_testing(""),
        metrics,
    );
    (dispatcher, upstream, pool)
}

/// Every moment of more than one interval.
fn phases() -> impl Iterator<Item = Duration> {
    (0..)
        .map(|step| Duration::from_millis(61) * step)
        .take_while(|at| *at < INTERVAL * 3 / 2)
}

const QUICK: Duration = Duration::from_millis(20);
/// How long a host that is alive takes for a check: one that idles, and others under load …
const CHECKS: [Duration; 3] = [QUICK, Duration::from_millis(250), SECOND];
/// … or under far too much.
const SLOW: [Duration; 3] = [
    Duration::from_millis(1200),
    Duration::from_millis(1500),
    Duration::from_millis(1900),
];

/// Moments, each with how long checks take.
fn scenes() -> impl Iterator<Item = (Duration, Duration)> {
    let usual = phases().flat_map(|phase| CHECKS.map(|check| (phase, check)));
    usual.chain(few_scenes(&SLOW))
}

/// The same of fewer moments.
fn few_scenes(checks: &[Duration]) -> impl Iterator<Item = (Duration, Duration)> {
    let phases = phases().step_by(7);
    phases.flat_map(|phase| checks.iter().map(move |check| (phase, *check)))
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_to_a_frozen_host_is_with_a_sibling_within_three_seconds() {
    for (phase, check) in scenes() {
        for after in [0, 1, 700, 1900, 3000] {
            let comes = phase + Duration::from_millis(after);
            let moved = moved(comes, phase, SECOND, check).await;
            // A host that was found out before the request came is not asked at all.
            let cost = moved.unwrap().saturating_sub(comes);
            assert!(
                cost <= MOST,
                "{cost:?} for one at {comes:?}, frozen at {phase:?}, with checks of {check:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_its_host_freezes_under_is_with_a_sibling_within_three_seconds() {
    for (freezes, check) in scenes() {
        let moved = moved(SECOND / 10, freezes, 60 * SECOND, check).await;
        let cost = moved.unwrap().saturating_sub(freezes);
        assert!(
            cost <= MOST,
            "{cost:?} for one at {freezes:?}, with checks of {check:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_host_costs_no_more_in_a_large_pool() {
    for (freezes, check) in few_scenes(&[QUICK, SECOND, SLOW[1]]) {
        for comes in [freezes + SECOND / 1000, SECOND / 10] {
            let moved = moved_among(500, comes, freezes, 60 * SECOND, check).await;
            let cost = moved.unwrap().saturating_sub(comes.max(freezes));
            assert!(
                cost <= MOST,
                "{cost:?} for one at {comes:?}, frozen at {freezes:?}, with checks of {check:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_request_stays_on_a_host_that_answers_its_checks_however_slowly() {
    let never = Duration::from_hours(1);
    for check in [QUICK, TIMEOUT * 9 / 10] {
        assert_eq!(moved(SECOND, never, 120 * SECOND, check).await, None);
    }
}
