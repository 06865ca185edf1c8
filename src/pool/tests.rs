//! The handle: that guards give back, that waiting ends, that time alone serves the line.

use std::num::NonZeroU32;
use std::sync::Mutex;

use super::*;
use crate::config::Policy;

const A: HostId = HostId(0);

fn pool(slots: &[u32], max_waiting: usize) -> Pool {
    let hosts = slots.iter().enumerate().map(|(position, slots)| HostSpec {
        name: format!("h{position}").parse().unwrap(),
        max_concurrent: NonZeroU32::new(*slots),
    });
    let thresholds = Thresholds {
        healthy_after: NonZeroU32::MIN,
        unhealthy_after: NonZeroU32::MIN,
    };
    let settings = Settings {
        policy: Policy::LeastBusy,
        thresholds,
        max_waiting,
        check_interval: Duration::from_secs(5),
    };
    let pool = Pool::new(settings, hosts.collect(), Box::new(|_| ()));
    for (id, _) in pool.hosts() {
        pool.checked(id, &Check::Good { slots: None });
    }
    pool
}

fn join(pool: &Pool) -> Result<Waiting, QueueFull> {
    pool.join(pool.ticket(), &Avoid::default(), true)
}

#[tokio::test]
async fn a_dropped_lease_serves_the_next_in_line() {
    let pool = pool(&[1], 9);
    let lease = join(&pool).unwrap().try_lease().unwrap();
    let (mut second, mut third) = (join(&pool).unwrap(), join(&pool).unwrap());
    assert!(second.try_lease().is_none());
    drop(lease);
    let lease = second.lease().await;
    assert!(third.try_lease().is_none());
    lease.finish(Outcome::Answered);
    third.lease().await.finish(Outcome::Answered);
    assert_eq!(pool.view().hosts[0].in_flight, 0);
}

#[tokio::test]
async fn a_waiter_that_goes_away_leaves_the_line() {
    let pool = pool(&[1], 9);
    let lease = join(&pool).unwrap().try_lease().unwrap();
    let gone = join(&pool).unwrap();
    let mut stays = join(&pool).unwrap();
    assert_eq!(pool.view().waiting, 2);
    drop(gone);
    assert_eq!(pool.view().waiting, 1);
    drop(lease);
    assert!(stays.try_lease().is_some());
}

#[tokio::test]
async fn a_lease_that_nobody_picks_up_comes_back() {
    let pool = pool(&[1], 9);
    let lease = join(&pool).unwrap().try_lease().unwrap();
    let (unseen, mut next) = (join(&pool).unwrap(), join(&pool).unwrap());
    drop(lease);
    assert_eq!(
        pool.view().hosts[0].in_flight,
        1,
        "granted to the one who does not look"
    );
    drop(unseen);
    assert!(next.try_lease().is_some());
}

#[tokio::test]
async fn a_full_line_turns_newcomers_away() {
    let pool = pool(&[1], 1);
    let _lease = join(&pool).unwrap().try_lease().unwrap();
    let _waits = join(&pool).unwrap();
    assert_eq!(join(&pool).err(), Some(QueueFull));
    assert_eq!(pool.view().waiting, 1);
    assert!(
        pool.join(pool.ticket(), &Avoid::default(), false).is_ok(),
        "not a newcomer"
    );
}

#[tokio::test(start_paused = true)]
async fn time_alone_frees_a_busy_host() {
    let pool = pool(&[1], 9);
    tokio::spawn({
        let pool = pool.clone();
        async move { pool.keep_time().await }
    });
    let lease = join(&pool).unwrap().try_lease().unwrap();
    let started = Clock::now();
    lease.finish(Outcome::Busy {
        retry_after: Duration::from_secs(7),
    });
    let lease = join(&pool).unwrap().lease().await;
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_secs(7) && waited < Duration::from_secs(8),
        "{waited:?}"
    );
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn a_fault_hastens_the_next_check() {
    let pool = pool(&[1], 9);
    let checks = tokio::spawn({
        let pool = pool.clone();
        async move { pool.check_due(A, 1.0).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!checks.is_finished());
    join(&pool)
        .unwrap()
        .try_lease()
        .unwrap()
        .finish(Outcome::Broke);
    let started = Clock::now();
    checks.await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn events_reach_the_observer_outside_the_lock() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let settings = Settings {
        policy: Policy::RoundRobin,
        thresholds: Thresholds {
            healthy_after: NonZeroU32::MIN,
            unhealthy_after: NonZeroU32::MIN,
        },
        max_waiting: 1,
        check_interval: Duration::from_secs(5),
    };
    let host = HostSpec {
        name: "h".parse().unwrap(),
        max_concurrent: None,
    };
    let log = Arc::clone(&seen);
    let observer = Box::new(move |event: &Event| log.lock().unwrap().push(event.kind));
    let pool = Pool::new(settings, vec![host], observer);
    pool.checked(A, &Check::Good { slots: None });
    pool.checked(
        A,
        &Check::Failed {
            reason: "gone".to_owned(),
        },
    );
    let expected = [
        EventKind::Health(Transition::Up),
        EventKind::Health(Transition::Ejected(Cause::Checks)),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}
