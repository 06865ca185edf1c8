//! The handle: that guards give back, that waiting ends, that time alone serves the line.

use std::num::NonZeroU32;
use std::sync::Mutex;

use super::*;
use crate::config::Policy;

const A: HostId = HostId(0);
const GOOD: Outcome = Outcome::Answered { timed: true };

fn pool(slots: &[u32], max_waiting: usize) -> Pool {
    let hosts = slots.iter().enumerate().map(|(position, slots)| HostSpec {
        max_concurrent: NonZeroU32::new(*slots),
        ..HostSpec::for_testing(&format!("h{position}"))
    });
    let thresholds = Thresholds {
        healthy_after: NonZeroU32::MIN,
        unhealthy_after: NonZeroU32::MIN,
    };
    let settings = Settings {
        policy: Policy::LeastBusy,
        thresholds,
        max_waiting,
        max_waiting_bytes: 1 << 20,
        check_interval: Duration::from_secs(5),
    };
    let pool = Pool::new(settings, 1, Box::new(|_| ()));
    pool.set_hosts(hosts.collect());
    for (id, _) in pool.hosts() {
        pool.checked(
            id,
            &Check::Good {
                slots: Tells::Nothing,
            },
        );
    }
    pool
}

fn join(pool: &Pool) -> Result<Waiting, TurnedAway> {
    join_as(pool, "a")
}

fn join_as(pool: &Pool, client: &str) -> Result<Waiting, TurnedAway> {
    let demand = Demand {
        client: Some(client.into()),
        ..Demand::default()
    };
    pool.join(pool.ticket(), &demand, Duration::from_mins(1))
}

#[tokio::test]
async fn a_dropped_lease_serves_the_next_in_line() {
    let pool = pool(&[1], 9);
    let lease = join(&pool).unwrap().try_lease().unwrap().unwrap();
    let (mut second, mut third) = (join(&pool).unwrap(), join(&pool).unwrap());
    assert!(second.try_lease().is_none());
    drop(lease);
    let lease = second.lease().await.unwrap();
    assert!(third.try_lease().is_none());
    lease.finish(GOOD);
    third.lease().await.unwrap().finish(GOOD);
    assert_eq!(pool.view().hosts[0].in_flight, 0);
}

#[tokio::test]
async fn a_waiter_that_goes_away_leaves_the_line() {
    let pool = pool(&[1], 9);
    let lease = join(&pool).unwrap().try_lease().unwrap().unwrap();
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
    let lease = join(&pool).unwrap().try_lease().unwrap().unwrap();
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
    let _lease = join(&pool).unwrap().try_lease().unwrap().unwrap();
    let _waits = join(&pool).unwrap();
    assert_eq!(join(&pool).err(), Some(TurnedAway::Full));
    assert_eq!(pool.view().waiting, 1);
    let _returns = pool.rejoin(pool.ticket(), &Demand::default(), &Avoid::default());
    assert_eq!(pool.view().waiting, 2, "not a newcomer");
}

#[tokio::test]
async fn a_full_line_makes_room_for_a_client_that_waits_with_less() {
    let pool = pool(&[1], 2);
    let _lease = join(&pool).unwrap().try_lease().unwrap().unwrap();
    let (_first, mut second) = (join(&pool).unwrap(), join(&pool).unwrap());
    let _quiet = join_as(&pool, "b").unwrap();
    assert_eq!(second.lease().await.err(), Some(TurnedAway::Full));
    assert_eq!(pool.view().waiting, 2);
}

#[tokio::test]
async fn a_removed_host_ends_with_its_last_lease_and_its_check_with_it() {
    let pool = pool(&[2], 9);
    let lease = join(&pool).unwrap().try_lease().unwrap().unwrap();
    let removed = lease.host();
    pool.set_hosts(Vec::new());
    assert!(pool.hosts().is_empty());
    assert_eq!(pool.in_flight(removed), 1);
    let mut waits = join(&pool).unwrap();
    assert!(waits.try_lease().is_none());
    lease.finish(GOOD);
    assert_eq!(pool.in_flight(removed), 0);
    assert!(waits.try_lease().is_none(), "nothing new goes there");
}

#[tokio::test]
async fn a_host_keeps_its_id_in_a_new_configuration_unless_it_is_elsewhere() {
    let pool = pool(&[1, 1], 9);
    let before = pool.hosts();
    let spec = |name: &str, endpoint: &str| HostSpec {
        endpoint: endpoint.to_owned(),
        max_concurrent: NonZeroU32::new(7),
        ..HostSpec::for_testing(name)
    };
    let ids = pool.set_hosts(vec![spec("h1", ""), spec("h0", "elsewhere")]);
    assert_eq!(ids[0], before[1].0);
    assert!(before.iter().all(|(id, _)| *id != ids[1]));
    let kept = &pool.view().hosts[0];
    assert_eq!((kept.phase, kept.capacity), (Phase::Up, 7));
}

#[tokio::test]
async fn an_order_to_drain_outlives_the_hosts_absence_and_the_process() {
    let pool = pool(&[1], 9);
    let name = pool.hosts()[0].1.clone();
    assert!(pool.drain(&name));
    pool.set_hosts(Vec::new());
    assert_eq!(pool.drained(), std::slice::from_ref(&name));
    let spec = HostSpec {
        endpoint: "elsewhere".to_owned(),
        ..HostSpec::for_testing(name.as_ref())
    };
    let successor = self::pool(&[], 9);
    successor.keep_drained(pool.drained());
    for pool in [&pool, &successor] {
        pool.set_hosts(vec![spec.clone()]);
        assert!(pool.view().hosts[0].draining);
        assert!(pool.undrain(&name));
        assert!(!pool.view().hosts[0].draining);
    }
}

#[tokio::test]
async fn a_draining_host_gets_nothing_new() {
    let pool = pool(&[1], 9);
    let name = pool.hosts()[0].1.clone();
    assert!(pool.drain(&name));
    let mut waits = join(&pool).unwrap();
    assert!(waits.try_lease().is_none());
    assert!(pool.undrain(&name));
    assert!(waits.try_lease().is_some());
    assert!(!pool.drain(&"unknown".parse().unwrap()));
}

#[tokio::test]
async fn a_withdrawn_host_finishes_what_it_has_and_is_the_same_host_when_it_returns() {
    let pool = pool(&[2], 9);
    let (id, name) = pool.hosts()[0].clone();
    let spec = |withdrawn| HostSpec {
        max_concurrent: NonZeroU32::new(2),
        origin: Origin::Kubernetes {
            pod: None,
            withdrawn,
        },
        ..HostSpec::for_testing(name.as_ref())
    };
    let lease = join(&pool).unwrap().try_lease().unwrap().unwrap();
    assert_eq!(pool.set_hosts(vec![spec(Some(Withdrawn::NotReady))]), [id]);
    let mut waits = join(&pool).unwrap();
    assert!(waits.try_lease().is_none());
    assert!(pool.undrain(&name));
    assert!(waits.try_lease().is_none(), "no operator's order");
    let view = &pool.view().hosts[0];
    assert_eq!((view.condition(), view.in_flight), (Condition::Draining, 1));
    assert_eq!(pool.set_hosts(vec![spec(None)]), [id]);
    assert!(waits.try_lease().is_some());
    lease.finish(GOOD);
    assert_eq!(pool.view().hosts[0].phase, Phase::Up);
}

#[tokio::test(start_paused = true)]
async fn time_alone_frees_a_busy_host() {
    let pool = pool(&[1], 9);
    tokio::spawn({
        let pool = pool.clone();
        async move { pool.keep_time().await }
    });
    let lease = join(&pool).unwrap().try_lease().unwrap().unwrap();
    let started = Clock::now();
    lease.finish(Outcome::Busy {
        retry_after: Duration::from_secs(7),
    });
    let lease = join(&pool).unwrap().lease().await.unwrap();
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
        max_waiting_bytes: 1 << 20,
        check_interval: Duration::from_secs(5),
    };
    let host = HostSpec::for_testing("h");
    let log = Arc::clone(&seen);
    let observer = Box::new(move |event: &Event| log.lock().unwrap().push(event.kind));
    let pool = Pool::new(settings, 1, observer);
    pool.set_hosts(vec![host]);
    pool.checked(
        A,
        &Check::Good {
            slots: Tells::Nothing,
        },
    );
    pool.checked(
        A,
        &Check::Failed {
            reason: "gone".to_owned(),
            reachable: true,
        },
    );
    let expected = [
        EventKind::Health(Transition::Up),
        EventKind::Health(Transition::Ejected(Cause::Checks)),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_request_counts_as_overdue_while_it_runs_for_long() {
    let pool = pool(&[1], 9);
    let overdue = || pool.lock().state.host(A).unwrap().overdue;
    let lease = join(&pool).unwrap().try_lease().unwrap().unwrap();
    let running = tokio::spawn(async move { lease.host_is_lost().await });
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(overdue(), 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(overdue(), 1);
    running.abort();
    assert!(running.await.is_err());
    assert_eq!(overdue(), 0);
}
