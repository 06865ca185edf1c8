//! The state machine: single transitions as examples. Random histories are in `properties`.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use gpu_bridge_wire::Info;

use super::timing::{FIRST_RECHECK, POLL_WHILE_WAITING, RECHECK_WHILE_WAITING};
use super::*;
use crate::pool::avoid::{Avoid, Proof};
use crate::pool::host::HostSpec;
use crate::pool::{Check, Model, Outcome, Phase, Slots, Tells, TurnedAway, Work};

const A: HostId = HostId(0);
const B: HostId = HostId(1);
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn settings(policy: Policy, max_waiting: usize) -> Settings {
    let two = NonZeroU32::new(2).unwrap();
    let thresholds = Thresholds {
        healthy_after: NonZeroU32::MIN,
        unhealthy_after: two,
    };
    Settings {
        policy,
        thresholds,
        max_waiting,
        max_waiting_bytes: 1 << 20,
        check_interval: 5 * SECOND,
    }
}

pub(super) fn spec(name: &str, slots: u32) -> HostSpec {
    HostSpec {
        max_concurrent: NonZeroU32::new(slots),
        ..HostSpec::for_testing(name)
    }
}

fn fresh(policy: Policy, max_waiting: usize, specs: Vec<HostSpec>) -> State {
    let mut state = State::new(settings(policy, max_waiting), 1);
    state.set_hosts(specs);
    state
}

pub(super) const ANSWERED: Outcome = Outcome::Answered { timed: true };

/// Of a request of which nothing is known.
fn lease_of(host: HostId, granted: Instant) -> Grant {
    Grant {
        ticket: Ticket(0),
        host,
        demand: Demand::default(),
        seconds: 0.0,
        cold: false,
        expected: None,
        guess: None,
        most: None,
        is_surely_warm: false,
        is_last_resort: false,
        behind: None,
        space: None,
        granted,
        company: Vec::new(),
        saves: Duration::ZERO,
    }
}

/// An attempt on `host` ends that was granted just now.
fn finish(state: &mut State, host: HostId, outcome: Outcome, now: Instant) -> Proof {
    let grant = lease_of(host, now);
    state.finish(&grant, outcome, now)
}

fn of(grants: &[Grant]) -> Vec<(Ticket, HostId)> {
    grants
        .iter()
        .map(|grant| (grant.ticket, grant.host))
        .collect()
}

/// As a request that comes back after a failed attempt.
fn rejoin(state: &mut State, ticket: Ticket, avoid: Avoid, now: Instant) {
    state.join(ticket, Demand::default(), avoid, true, now);
}

pub(super) fn phase(state: &State, id: HostId) -> Phase {
    state.host(id).unwrap().health.phase()
}

const GOOD: Check = Check::Good {
    slots: Tells::Nothing,
};

fn slots(max_concurrent: u32, available: u32) -> Check {
    Check::Good {
        slots: Tells::Slots(Slots {
            max_concurrent,
            available,
            in_flight: 0,
            ours: 0,
        }),
    }
}

/// A pool whose hosts have these numbers of slots (0 = not configured) and are up.
pub(super) fn pool(slots: &[u32], now: Instant) -> State {
    let specs = slots
        .iter()
        .enumerate()
        .map(|(i, slots)| spec(&format!("h{i}"), *slots))
        .collect();
    let mut state = fresh(Policy::LeastBusy, 100, specs);
    let ids: Vec<HostId> = state.ids().collect();
    for id in ids {
        state.checked(id, &GOOD, now);
    }
    state.take_events();
    state
}

fn join(state: &mut State) -> Ticket {
    join_with(state, Demand::default(), Instant::now())
}

pub(super) fn join_with(state: &mut State, demand: Demand, now: Instant) -> Ticket {
    let ticket = state.next_ticket();
    state.join(ticket, demand, Avoid::default(), false, now);
    ticket
}

fn hosts(grants: &[Grant]) -> Vec<HostId> {
    grants.iter().map(|grant| grant.host).collect()
}

fn kinds(state: &mut State) -> Vec<EventKind> {
    state
        .take_events()
        .into_iter()
        .map(|event| event.kind)
        .collect()
}

#[test]
fn nobody_serves_before_the_first_good_check() {
    let now = Instant::now();
    let mut state = fresh(Policy::LeastBusy, 9, vec![spec("a", 1)]);
    let ticket = join(&mut state);
    assert_eq!(of(&state.grant(now)), []);
    state.checked(A, &GOOD, now);
    assert_eq!(of(&state.grant(now)), [(ticket, A)]);
}

#[test]
fn fills_all_slots_evenly_and_keeps_the_rest_in_order() {
    let now = Instant::now();
    let mut state = pool(&[2, 1], now);
    let tickets: Vec<Ticket> = (0..5).map(|_| join(&mut state)).collect();
    let granted = state.grant(now);
    assert_eq!(
        granted.iter().map(|grant| grant.ticket).collect::<Vec<_>>(),
        tickets[..3]
    );
    assert_eq!(hosts(&granted), [A, B, A]);
    finish(&mut state, B, ANSWERED, now);
    assert_eq!(of(&state.grant(now)), [(tickets[3], B)]);
    assert_eq!(state.waiting(), 1);
}

#[test]
fn a_busy_host_is_skipped_until_its_time_has_passed_and_never_ejected() {
    let now = Instant::now();
    let mut state = pool(&[2, 2], now);
    let busy = Outcome::Busy {
        retry_after: 5 * SECOND,
    };
    for _ in 0..20 {
        state.hosts[0].in_flight = 1;
        finish(&mut state, A, busy, now);
    }
    assert_eq!(
        kinds(&mut state),
        [EventKind::Busy(5 * SECOND)],
        "told once"
    );
    for _ in 0..3 {
        join(&mut state);
    }
    assert_eq!(hosts(&state.grant(now)), [B, B]);
    assert_eq!(state.next_wakeup(now), Some(now + 5 * SECOND));
    assert_eq!(hosts(&state.grant(now + 5 * SECOND)), [A]);
    assert_eq!(state.hosts[0].health.phase(), Phase::Up);
}

#[test]
fn a_busy_host_is_back_as_soon_as_a_slot_is_seen_free() {
    let now = Instant::now();
    let busy = Outcome::Busy {
        retry_after: 60 * SECOND,
    };
    for (what, free) in [("a check", true), ("an attempt of ours that ended", false)] {
        let mut state = pool(&[2], now);
        join(&mut state);
        join(&mut state);
        assert_eq!(state.grant(now).len(), 2);
        finish(&mut state, A, busy, now);
        join(&mut state);
        state.checked(A, &slots(2, 0), now);
        assert_eq!(of(&state.grant(now)), [], "{what}");
        if free {
            state.checked(A, &slots(2, 1), now);
        } else {
            finish(&mut state, A, ANSWERED, now);
        }
        assert_eq!(hosts(&state.grant(now)), [A], "{what}");
    }
}

#[test]
fn an_odd_retry_after_makes_neither_a_hot_loop_nor_a_lost_host() {
    let now = Instant::now();
    let mut state = pool(&[1], now);
    state.hosts[0].in_flight = 1;
    finish(
        &mut state,
        A,
        Outcome::Busy {
            retry_after: Duration::ZERO,
        },
        now,
    );
    assert_eq!(
        state.next_wakeup(now),
        Some(now + Duration::from_millis(100))
    );
    finish(
        &mut state,
        A,
        Outcome::Busy {
            retry_after: Duration::MAX,
        },
        now,
    );
    assert_eq!(state.next_wakeup(now), Some(now + 60 * SECOND));
}

#[test]
fn capacity_is_the_configured_one_else_the_learned_one_else_two() {
    let now = Instant::now();
    let mut state = pool(&[4, 0], now);
    assert_eq!(state.hosts[1].capacity.nominal(), 2);
    state.checked(A, &slots(8, 8), now);
    state.checked(B, &slots(8, 8), now);
    assert_eq!(
        (
            state.hosts[0].capacity.nominal(),
            state.hosts[1].capacity.nominal()
        ),
        (4, 8)
    );
    assert_eq!(kinds(&mut state), [EventKind::Capacity(8)]);
    state.checked(B, &slots(0, 0), now);
    assert_eq!(
        state.hosts[1].can_take(None, false, now),
        None,
        "a host that calls itself always busy"
    );
}

#[test]
fn a_request_returns_to_a_refusing_host_after_a_sign_of_life_only() {
    let now = Instant::now();
    let mut state = pool(&[1], now);
    let ticket = join(&mut state);
    state.grant(now);
    let mut avoid = Avoid::default();
    avoid.add(A, false, finish(&mut state, A, Outcome::Refused, now));
    rejoin(&mut state, ticket, avoid, now);
    assert_eq!(of(&state.grant(now)), []);
    state.checked(A, &GOOD, now);
    assert_eq!(hosts(&state.grant(now)), [A]);
}

#[test]
fn a_request_that_broke_a_host_goes_elsewhere_while_there_is_an_elsewhere() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    let mut avoid = Avoid::default();
    avoid.add(A, true, state.hosts[0].proof());
    assert!(state.has_alternative(None, &avoid, false, now));
    let ticket = state.next_ticket();
    rejoin(&mut state, ticket, avoid.clone(), now);
    state.hosts[1].in_flight = 1;
    state.checked(A, &GOOD, now);
    assert_eq!(
        of(&state.grant(now)),
        [],
        "waits for B rather than break A again"
    );
    avoid.add(B, true, state.hosts[1].proof());
    assert!(!state.has_alternative(None, &avoid, false, now));
    rejoin(&mut state, ticket, avoid, now);
    assert_eq!(
        of(&state.grant(now)),
        [(ticket, A)],
        "broken everywhere, A alive since"
    );
}

#[test]
fn a_request_that_broke_the_only_host_that_serves_returns_to_it() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    let failed = Check::Failed {
        reason: String::new(),
        reachable: false,
    };
    state.checked(B, &failed, now);
    state.checked(B, &failed, now);
    let mut avoid = Avoid::default();
    avoid.add(A, true, state.hosts[0].proof());
    let ticket = state.next_ticket();
    rejoin(&mut state, ticket, avoid, now);
    assert_eq!(of(&state.grant(now)), [], "not before a sign of life");
    state.checked(A, &GOOD, now);
    assert_eq!(of(&state.grant(now)), [(ticket, A)]);
}

#[test]
fn a_silent_host_is_lost_whatever_it_was_ejected_for() {
    let now = Instant::now();
    let silence = Check::NoAnswer {
        reason: String::new(),
        silent_for: Duration::from_secs(2),
    };
    let refused = Check::Failed {
        reason: String::new(),
        reachable: false,
    };
    let mut state = pool(&[1, 1], now);
    state.checked(A, &silence, now);
    assert_eq!(state.take_lost(), [], "once may be chance");
    state.checked(A, &silence, now);
    assert_eq!(state.take_lost()[0], (A, Cause::Hung));
    finish(&mut state, B, Outcome::Refused, now);
    finish(&mut state, B, Outcome::Refused, now);
    state.checked(B, &refused, now);
    assert_eq!(state.take_lost(), [], "what runs there may end");
    state.checked(B, &silence, now);
    assert_eq!(state.take_lost(), [(B, Cause::Hung)]);
}

#[test]
fn silence_of_a_check_and_of_a_request_together_are_no_chance() {
    let start = Instant::now();
    let silent_for = Duration::from_secs(2);
    let silence = Check::NoAnswer {
        reason: String::new(),
        silent_for,
    };
    // When another request was answered, and whether the one silent check is enough then.
    let table = [(None, true), (Some(500), true), (Some(1500), false)];
    for (answered, is_enough) in table {
        let mut state = pool(&[2, 1], start);
        state.overdue(A);
        if let Some(after) = answered {
            finish(
                &mut state,
                A,
                ANSWERED,
                start + Duration::from_millis(after),
            );
        }
        state.checked(A, &silence, start + silent_for);
        let lost = state.take_lost().contains(&(A, Cause::Hung));
        assert_eq!(lost, is_enough, "answered another after {answered:?}");
    }
    let mut state = pool(&[2, 1], start);
    state.overdue(A);
    state.not_overdue(A);
    state.checked(A, &silence, start + silent_for);
    assert_eq!(state.take_lost(), [], "nobody waits for it");
}

#[test]
fn a_host_is_checked_more_often_while_a_request_takes_long_there() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    state.overdue(A);
    assert_eq!(state.check_delay(A, now), OVERDUE);
    assert_eq!(state.check_delay(B, now), state.settings.check_interval);
    state.not_overdue(A);
    assert_eq!(state.check_delay(A, now), state.settings.check_interval);
}

#[test]
fn a_host_that_refuses_one_request_is_checked_before_it_is_ejected() {
    let now = Instant::now();
    let mut state = pool(&[1], now);
    finish(&mut state, A, Outcome::Misconfigured, now);
    assert_eq!(state.hosts[0].health.phase(), Phase::Up);
    assert_eq!(state.check_delay(A, now), FIRST_RECHECK);
    let wrong = Check::Misconfigured {
        reason: String::new(),
    };
    state.checked(A, &wrong, now);
    assert_eq!(
        kinds(&mut state),
        [EventKind::Health(Transition::Ejected(Cause::Misconfigured))]
    );
}

#[test]
fn a_wrong_key_is_not_tried_in_a_hurry_for_ever() {
    let mut now = Instant::now();
    let mut state = pool(&[1], now);
    let wrong = Check::Misconfigured {
        reason: String::new(),
    };
    for _ in 0..10 {
        state.checked(A, &wrong, now);
        now += 10 * SECOND;
    }
    assert_eq!(state.check_delay(A, now), 5 * SECOND);
}

#[test]
fn nobody_overtakes_except_past_one_that_cannot_use_the_slot() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    let early = state.next_ticket();
    let late = join(&mut state);
    let mut avoid = Avoid::default();
    avoid.add(A, true, state.hosts[0].proof());
    rejoin(&mut state, early, avoid, now);
    state.hosts[1].in_flight = 1;
    assert_eq!(of(&state.grant(now)), [(late, A)]);
    finish(&mut state, B, ANSWERED, now);
    assert_eq!(of(&state.grant(now)), [(early, B)]);
}

#[test]
fn only_newcomers_are_turned_away_from_a_full_line() {
    let now = Instant::now();
    let mut state = fresh(Policy::LeastBusy, 1, vec![spec("a", 1)]);
    let (old, first, second) = (state.next_ticket(), join(&mut state), state.next_ticket());
    assert_eq!(state.admit(first, 9 * SECOND, now), Ok(vec![]));
    state.join(second, Demand::default(), Avoid::default(), false, now);
    assert_eq!(state.admit(second, 9 * SECOND, now), Err(TurnedAway::Full));
    rejoin(&mut state, old, Avoid::default(), now);
    assert_eq!(state.waiting(), 2, "a request that was let in once stays");
    state.checked(A, &GOOD, now);
    assert_eq!(state.grant(now)[0].ticket, old);
}

#[test]
fn server_errors_count_only_when_blamed() {
    let now = Instant::now();
    let mut state = pool(&[100, 1], now);
    for _ in 0..50 {
        finish(&mut state, A, Outcome::Doubtful, now);
    }
    assert_eq!(kinds(&mut state), []);
    state.blame(A, None, now);
    state.credit(A);
    state.blame(A, None, now);
    assert_eq!(kinds(&mut state), [], "it did well in between");
    state.blame(A, None, now);
    assert_eq!(
        kinds(&mut state),
        [EventKind::Health(Transition::Ejected(Cause::Answers))]
    );
}

#[test]
fn checks_hurry_for_hosts_that_fail_or_are_waited_for() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    let (failed, busy) = (
        Check::Failed {
            reason: String::new(),
            reachable: false,
        },
        Outcome::Busy {
            retry_after: 9 * SECOND,
        },
    );
    assert_eq!(state.check_delay(A, now), 5 * SECOND);
    finish(&mut state, A, Outcome::Refused, now);
    assert_eq!(state.check_delay(A, now), FIRST_RECHECK);
    state.check_begins(A);
    state.checked(A, &GOOD, now);
    assert_eq!(state.check_delay(A, now), 5 * SECOND, "once, not for ever");
    state.checked(A, &failed, now);
    assert_eq!(state.check_delay(A, now), 2 * FIRST_RECHECK);
    for _ in 0..10 {
        state.checked(A, &failed, now);
    }
    assert_eq!(
        state.check_delay(A, now),
        5 * SECOND,
        "a dead host is not hammered"
    );
    finish(&mut state, B, busy, now);
    assert_eq!(state.check_delay(B, now), 5 * SECOND);
    join(&mut state);
    assert_eq!(state.check_delay(A, now), RECHECK_WHILE_WAITING);
    assert_eq!(state.check_delay(B, now), POLL_WHILE_WAITING);
    assert_eq!(state.worth_polling(now).collect::<Vec<_>>(), [A, B]);
}

#[test]
fn checks_do_not_hurry_for_a_host_on_hold_or_on_trial() {
    let mut now = Instant::now();
    let mut state = pool(&[1], now);
    let wrong = Check::Misconfigured {
        reason: String::new(),
    };
    for hold in [1, 2, 4] {
        state.checked(A, &wrong, now);
        state.checked(A, &GOOD, now);
        let left = state.check_delay(A, now);
        assert!(
            left >= hold * SECOND && left < 2 * hold * SECOND,
            "{left:?}"
        );
        now += left;
        state.checked(A, &GOOD, now);
        assert_eq!(state.hosts[0].health.phase(), Phase::Trial);
        assert_eq!(state.check_delay(A, now), 5 * SECOND);
    }
}

#[test]
fn a_refused_client_is_told_when_the_first_host_is_free() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    assert_eq!(state.retry_after(None, None, now), Duration::ZERO);
    finish(
        &mut state,
        A,
        Outcome::Busy {
            retry_after: 9 * SECOND,
        },
        now,
    );
    finish(
        &mut state,
        B,
        Outcome::Busy {
            retry_after: 4 * SECOND,
        },
        now,
    );
    assert_eq!(state.retry_after(None, None, now + SECOND), 3 * SECOND);
    teach(&mut state, 2 * SECOND, now);
    for _ in 0..20 {
        join(&mut state);
    }
    let wait = state.retry_after(None, None, now + SECOND).as_secs_f64();
    assert!(
        (19.0..21.0).contains(&wait),
        "the line takes longer: {wait}"
    );
    let failed = Check::Failed {
        reason: String::new(),
        reachable: false,
    };
    for id in [A, B, A, B] {
        state.checked(id, &failed, now);
    }
    assert_eq!(
        state.retry_after(None, None, now),
        5 * SECOND,
        "nobody serves: the next checks may tell"
    );
}

/// Both hosts answer requests of one unit in that time, often enough to be believed.
fn teach(state: &mut State, took: Duration, now: Instant) {
    for _ in 0..40 {
        for host in [A, B] {
            let grant = lease_of(host, now);
            state.finish(&grant, ANSWERED, now + took);
        }
    }
}

pub(super) fn with_model(name: &str) -> Demand {
    Demand {
        model: Model::new(name),
        ..Demand::default()
    }
}

pub(super) fn has(models: &[&str]) -> Info {
    Info {
        loaded_models: models.iter().map(|model| (*model).to_owned()).collect(),
        ..Info::default()
    }
}

#[test]
fn a_request_goes_where_its_model_is() {
    let now = Instant::now();
    let mut state = pool(&[4, 4], now);
    state.told(A, has(&[]));
    state.told(B, has(&["embed:m"]));
    for _ in 0..3 {
        join_with(&mut state, with_model("embed:m"), now);
    }
    assert_eq!(hosts(&state.grant(now)), [B, B, B]);
    join_with(&mut state, with_model("embed:other"), now);
    assert_eq!(
        hosts(&state.grant(now)),
        [A],
        "loaded nowhere: the idle one"
    );
}

#[test]
fn it_is_loaded_elsewhere_when_waiting_would_take_longer() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    state.told(A, has(&[]));
    state.told(B, has(&["embed:m"]));
    join_with(&mut state, with_model("embed:m"), now);
    assert_eq!(hosts(&state.grant(now)), [B]);
    join_with(&mut state, with_model("embed:m"), now);
    assert_eq!(hosts(&state.grant(now)), [], "B will be free soon");
    let load = 5 * SECOND;
    assert_eq!(state.next_wakeup(now), Some(now + load));
    let granted = state.grant(now + load);
    assert_eq!(hosts(&granted), [A], "not that soon");
    assert!(granted[0].cold);
    state.finish(&granted[0], ANSWERED, now + load);
    join_with(&mut state, with_model("embed:m"), now + load);
    let granted = state.grant(now + load);
    assert_eq!(
        (granted[0].host, granted[0].cold),
        (A, false),
        "it has it now"
    );
}

#[test]
fn a_request_of_another_model_does_not_wait_behind_one_that_waits_for_its_host() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    state.told(A, has(&["embed:n"]));
    state.told(B, has(&["embed:m"]));
    for model in ["embed:m", "embed:m", "embed:n"] {
        join_with(&mut state, with_model(model), now);
    }
    assert_eq!(hosts(&state.grant(now)), [B, A]);
    assert_eq!(state.waiting(), 1);
}

#[test]
fn a_slow_host_gets_less_while_there_is_a_choice() {
    let now = Instant::now();
    let mut state = pool(&[8, 8], now);
    for _ in 0..60 {
        for (host, took) in [(A, 4 * SECOND), (B, SECOND)] {
            let grant = lease_of(host, now);
            state.finish(&grant, ANSWERED, now + took);
        }
    }
    for _ in 0..5 {
        join(&mut state);
    }
    let granted = hosts(&state.grant(now));
    let slow = granted.iter().filter(|host| **host == A).count();
    assert_eq!(slow, 1, "{granted:?}");
}

/// One of two slots is taken, by somebody else.
fn crowded() -> Check {
    Check::Good {
        slots: Tells::Slots(Slots {
            max_concurrent: 2,
            available: 1,
            in_flight: 1,
            ours: 0,
        }),
    }
}

#[test]
fn foreign_load_is_left_room() {
    let now = Instant::now();
    let mut state = pool(&[0], now);
    let crowded = crowded();
    state.checked(A, &crowded, now);
    join(&mut state);
    join(&mut state);
    assert_eq!(hosts(&state.grant(now)), [A]);
    assert_eq!(state.check_delay(A, now), POLL_WHILE_WAITING);
    state.checked(A, &slots(2, 2), now);
    state.checked(A, &slots(2, 2), now);
    assert_eq!(hosts(&state.grant(now)), [A]);
}

#[test]
fn who_waits_behind_others_is_told_when_a_slot_is_free_elsewhere() {
    let start = Instant::now();
    let mut state = pool(&[0, 0], start);
    let full = Check::Good {
        slots: Tells::Slots(Slots {
            max_concurrent: 1,
            available: 0,
            in_flight: 1,
            ours: 0,
        }),
    };
    for id in [A, B] {
        state.checked(id, &full, start);
        state.checked(id, &full, start);
    }
    join(&mut state);
    let grants = state.grant(start);
    let [grant] = &grants[..] else {
        panic!("{grants:?}")
    };
    let other = if grant.host == A { B } else { A };
    let later = |seconds: u64| start + Duration::from_secs(seconds);
    assert!(!state.is_free_elsewhere(grant, later(60)), "all are full");
    state.checked(other, &slots(1, 1), later(1));
    state.checked(other, &slots(1, 1), later(1));
    assert!(
        !state.is_free_elsewhere(grant, later(1)),
        "it has just come"
    );
    assert!(state.is_free_elsewhere(grant, later(2)));
    let alone = Grant {
        behind: None,
        ..grant.clone()
    };
    assert!(!state.is_free_elsewhere(&alone, later(2)), "it runs");
    let slow = Grant {
        expected: Some(Duration::from_secs(5)),
        ..grant.clone()
    };
    assert!(!state.is_free_elsewhere(&slow, later(9)), "it may well run");
    join(&mut state);
    assert!(
        !state.is_free_elsewhere(grant, later(2)),
        "another waits for it"
    );
}

#[test]
fn what_was_told_of_foreign_load_counts_for_a_while_after_a_failed_poll() {
    let start = Instant::now();
    let crowded = crowded();
    let foreign = |told, after: u64| {
        let mut state = pool(&[0], start);
        state.checked(A, &crowded, start);
        let now = start + Duration::from_secs(after);
        state.checked(A, &Check::Good { slots: told }, now);
        state.host(A).unwrap().capacity.foreign()
    };
    assert_eq!(foreign(Tells::NotNow, 29), 1);
    assert_eq!(foreign(Tells::NotNow, 30), 0, "nobody knows any more");
    assert_eq!(foreign(Tells::Nothing, 1), 0, "it has no such page");
}

#[test]
fn our_own_troubles_say_nothing_of_a_host() {
    let now = Instant::now();
    let trouble = Check::Ours {
        reason: "no file descriptors".to_owned(),
    };
    let mut state = pool(&[1, 1], now);
    state.checked(
        B,
        &Check::NoAnswer {
            reason: String::new(),
            silent_for: SECOND,
        },
        now,
    );
    for times in 1..20 {
        for id in [A, B] {
            let failed = state.host(id).unwrap().health.failed_checks();
            state.checked(id, &trouble, now);
            assert_eq!(phase(&state, id), Phase::Up, "{times}");
            assert_eq!(state.host(id).unwrap().health.failed_checks(), failed);
        }
        assert!(state.check_delay(A, now) <= state.settings.check_interval);
    }
    assert_eq!(state.take_events(), []);
    let view = state.view(now);
    assert!(view.hosts[0].unasked && view.hosts[0].problem.is_some());
    state.checked(A, &GOOD, now);
    assert!(!state.view(now).hosts[0].unasked);

    let mut unknown = fresh(Policy::LeastBusy, 1, vec![spec("h", 1)]);
    unknown.checked(A, &trouble, now);
    assert_eq!(phase(&unknown, A), Phase::Unknown);
    assert_eq!(unknown.check_delay(A, now), 2 * FIRST_RECHECK, "soon");
}

#[test]
fn a_host_that_comes_back_starts_slowly() {
    let now = Instant::now();
    let mut state = pool(&[4, 4], now);
    let failed = Check::Failed {
        reason: String::new(),
        reachable: false,
    };
    state.checked(A, &failed, now);
    state.checked(A, &failed, now);
    state.checked(A, &GOOD, now);
    assert_eq!(state.hosts[0].slots(), 1);
    assert_eq!(state.hosts[1].slots(), 4, "from the start");
    for slots in 2..5 {
        finish(&mut state, A, ANSWERED, now);
        assert_eq!(state.hosts[0].slots(), slots);
    }
}

#[test]
fn when_no_host_serves_one_that_answers_badly_is_better_than_none() {
    let now = Instant::now();
    let mut state = pool(&[4, 4], now);
    let check = |reachable| Check::Failed {
        reason: String::new(),
        reachable,
    };
    for (host, reachable) in [(A, true), (B, false), (A, true), (B, false)] {
        state.checked(host, &check(reachable), now);
    }
    join(&mut state);
    join(&mut state);
    assert_eq!(hosts(&state.grant(now)), [A], "one at a time, and never B");
    state.checked(B, &GOOD, now);
    assert_eq!(hosts(&state.grant(now)), [B]);
    let mut state = pool(&[1, 1], now);
    for host in [A, A, B, B, B] {
        finish(&mut state, host, Outcome::Broke, now);
    }
    assert!(!phase(&state, A).is_serving());
    assert!(phase(&state, B).is_serving(), "the last one is kept");
}

#[test]
fn what_runs_on_a_host_that_breaks_answers_is_moved() {
    let now = Instant::now();
    let mut state = pool(&[4, 4], now);
    finish(&mut state, A, Outcome::Broke, now);
    finish(&mut state, A, Outcome::Broke, now);
    assert_eq!(state.take_lost(), [(A, Cause::Answers)]);
    finish(&mut state, B, Outcome::Refused, now);
    finish(&mut state, B, Outcome::Refused, now);
    assert_eq!(state.take_lost(), []);
}

#[test]
fn a_large_pool_is_polled_with_moderation() {
    let now = Instant::now();
    let mut state = pool(&[1; 200], now);
    finish(
        &mut state,
        A,
        Outcome::Busy {
            retry_after: 9 * SECOND,
        },
        now,
    );
    state.hosts.iter_mut().for_each(|host| host.in_flight = 1);
    join(&mut state);
    assert_eq!(state.check_delay(A, now), 800 * SECOND / 1000);
}

#[test]
fn rotation_follows_weights_and_a_host_that_returns_does_not_catch_up() {
    let now = Instant::now();
    let heavy = HostSpec {
        weight: NonZeroU32::new(3).unwrap(),
        ..spec("b", 100)
    };
    let mut state = fresh(Policy::RoundRobin, 9, vec![spec("a", 100), heavy]);
    state.checked(B, &GOOD, now);
    for _ in 0..40 {
        join(&mut state);
    }
    assert_eq!(state.grant(now).len(), 40);
    state.checked(A, &GOOD, now);
    for _ in 0..40 {
        join(&mut state);
    }
    let granted = hosts(&state.grant(now));
    let light = granted.iter().filter(|host| **host == A).count();
    assert!((9..=11).contains(&light), "{light}");
}

#[test]
fn what_a_host_is_used_for_is_counted_and_looking_at_it_changes_nothing() {
    let start = Instant::now();
    let at = |seconds| start + SECOND * seconds;
    let mut state = pool(&[2], start);
    let demand = Demand {
        work: Work { items: 5, bytes: 0 },
        ..Demand::default()
    };
    join_with(&mut state, demand.clone(), start);
    join_with(&mut state, demand.clone(), start);
    join_with(&mut state, demand, at(1));
    let grants = state.grant(start);

    assert_eq!(state.view(at(3)).oldest_wait, 2 * SECOND);
    state.finish(&grants[0], ANSWERED, at(4));
    state.finish(&grants[1], Outcome::Broke, at(6));

    let usage = state.view(at(9)).hosts[0].usage;
    assert_eq!(usage.busy, 6 * SECOND);
    assert_eq!(usage.leased, 10 * SECOND);
    assert_eq!(usage.items, 5, "of what was answered");
    assert_eq!(state.view(at(9)).hosts[0].usage, usage);
}

#[test]
fn whoever_makes_room_in_vain_keeps_its_place() {
    let now = Instant::now();
    let mut state = pool(&[1], now);
    let ask = |state: &mut State, client: &str, bytes| {
        let demand = Demand {
            client: Some(client.into()),
            bytes,
            ..Demand::default()
        };
        join_with(state, demand, now)
    };
    let noisy: Vec<Ticket> = (0..3).map(|_| ask(&mut state, "noisy", 1 << 10)).collect();
    let large = ask(&mut state, "quiet", 1 << 21);
    assert_eq!(state.admit(large, 9 * SECOND, now), Err(TurnedAway::Full));
    assert_eq!(state.waiting(), 3);
    assert_eq!(of(&state.grant(now)), [(noisy[0], A)]);
    let small = ask(&mut state, "quiet", 1 << 10);
    assert_eq!(state.admit(small, 9 * SECOND, now), Ok(vec![]));
}

#[test]
fn a_model_that_nobody_has_used_yet_is_not_thought_slow() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    teach(&mut state, 8 * SECOND, now);
    for _ in 0..60 {
        let ticket = join_with(&mut state, with_model("embed:new"), now);
        assert_eq!(state.admit(ticket, 30 * SECOND, now), Ok(vec![]));
    }
    for _ in 0..60 {
        join(&mut state);
    }
    let late = join(&mut state);
    assert_eq!(
        state.admit(late, 30 * SECOND, now),
        Err(TurnedAway::TooLong)
    );
}

#[test]
fn what_runs_on_the_last_host_ends_there() {
    let now = Instant::now();
    let mut state = pool(&[1], now);
    let unwell = Check::Failed {
        reason: String::new(),
        reachable: true,
    };
    state.checked(A, &unwell, now);
    state.checked(A, &unwell, now);
    assert!(!phase(&state, A).is_serving());
    assert_eq!(state.take_lost(), []);
}

#[test]
fn a_host_that_answers_well_as_a_last_resort_is_back() {
    let now = Instant::now();
    let mut state = pool(&[4, 4], now);
    finish(&mut state, A, Outcome::Broke, now);
    finish(&mut state, A, Outcome::Broke, now);
    for _ in 0..2 {
        finish(&mut state, B, Outcome::Refused, now);
    }
    join(&mut state);
    let granted = state.grant(now);
    assert_eq!((granted[0].host, granted[0].is_last_resort), (A, true));
    state.finish(&granted[0], ANSWERED, now);
    assert!(phase(&state, A).is_serving());
}

#[test]
fn a_host_that_may_have_restarted_is_not_taken_to_have_its_models() {
    let now = Instant::now();
    let mut state = pool(&[1], now);
    state.told(A, has(&["embed:m"]));
    let warm = |state: &mut State| {
        join_with(state, with_model("embed:m"), now);
        let granted = state.grant(now);
        state.finish(&granted[0], Outcome::Refused, now);
        granted[0].is_surely_warm
    };
    assert!(warm(&mut state));
    assert!(!warm(&mut state));
}

fn of_client(client: &str) -> Demand {
    Demand {
        client: Some(client.into()),
        ..Demand::default()
    }
}

/// A pool in which the client `few` may have so much.
fn limited(slots: &[u32], max_concurrent: u32, max_per_second: u32, now: Instant) -> State {
    let mut state = pool(slots, now);
    let limits = Limits {
        max_concurrent: NonZeroU32::new(max_concurrent),
        max_per_second: NonZeroU32::new(max_per_second),
    };
    state.set_limits(vec![("few".into(), limits)]);
    state
}

fn clients(grants: &[Grant]) -> Vec<&str> {
    let clients = grants.iter().map(|grant| grant.demand.client.as_deref());
    clients.map(|client| client.unwrap_or("anyone")).collect()
}

#[test]
fn any_number_of_slots_may_be_configured() {
    let now = Instant::now();
    let mut state = limited(&[u32::MAX, u32::MAX], 1, 0, now);
    for _ in 0..2 {
        join_with(&mut state, of_client("few"), now);
    }
    assert_eq!(state.grant(now).len(), 1);
    let client = Some("few".into());
    assert_eq!(
        state.retry_after(client.as_ref(), None, now),
        Duration::ZERO
    );
}

#[test]
fn a_model_may_be_in_memory_on_hosts_with_any_number_of_slots() {
    let now = Instant::now();
    let mut state = pool(&[u32::MAX, u32::MAX, 1], now);
    for (host, models) in [(A, &["embed:m"][..]), (B, &["embed:m"]), (HostId(2), &[])] {
        state.told(host, has(models));
    }
    for host in &mut state.hosts[..2] {
        host.in_flight = u32::MAX;
    }
    join_with(&mut state, with_model("embed:m"), now);
    assert_eq!(hosts(&state.grant(now)), [], "one of so many is free soon");
}

#[test]
fn a_client_at_its_limit_waits_and_nobody_with_it() {
    let now = Instant::now();
    let mut state = limited(&[4], 1, 0, now);
    for client in ["few", "few", "few", "many", "many"] {
        join_with(&mut state, of_client(client), now);
    }
    let grants = state.grant(now);
    assert_eq!(clients(&grants), ["few", "many", "many"]);
    assert!(!state.wants_slots(now), "what waits waits for no host");
    let view = state.view(now);
    assert_eq!((view.waiting, view.held_back), (2, 2));
    state.finish(&grants[0], ANSWERED, now);
    assert_eq!(clients(&state.grant(now)), ["few"]);
}

#[test]
fn a_client_beyond_its_rate_is_served_when_time_allows() {
    let now = Instant::now();
    let mut state = limited(&[8], 0, 2, now);
    for _ in 0..4 {
        join_with(&mut state, of_client("few"), now);
    }
    assert_eq!(state.grant(now).len(), 2, "a burst");
    let mut at = now;
    for _ in 0..2 {
        at = state.next_wakeup(at).unwrap();
        assert_eq!(state.grant(at).len(), 1);
    }
    assert!((at - now).abs_diff(SECOND) < SECOND / 100);
    assert_eq!(state.next_wakeup(at), None);
}

#[test]
fn a_retry_is_not_charged_twice_and_waits_for_a_lease_of_its_own_client() {
    let now = Instant::now();
    let mut state = limited(&[4, 4], 1, 1, now);
    let ticket = join_with(&mut state, of_client("few"), now);
    let grants = state.grant(now);
    join_with(&mut state, of_client("few"), now);
    state.finish(&grants[0], Outcome::Broke, now);
    state.join(ticket, of_client("few"), Avoid::default(), true, now);
    let again = state.grant(now);
    assert_eq!(of(&again).first().map(|(ticket, _)| *ticket), Some(ticket));
    assert_eq!(again.len(), 1);
    state.finish(&again[0], ANSWERED, now);
    assert_eq!(state.grant(now).len(), 0, "no token yet");
    assert_eq!(state.grant(now + SECOND).len(), 1);
}

#[test]
fn one_whose_own_limits_make_it_wait_too_long_is_refused_at_once() {
    let now = Instant::now();
    let mut state = limited(&[8], 0, 1, now);
    let few: std::sync::Arc<str> = "few".into();
    let mut admitted = 0;
    let refused = loop {
        let ticket = join_with(&mut state, of_client("few"), now);
        state.grant(now);
        match state.admit(ticket, 30 * SECOND, now) {
            Ok(_) => admitted += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((admitted, refused), (31, TurnedAway::TooLong));
    let wait = state.retry_after(Some(&few), None, now).as_secs_f64();
    assert!((wait - 31.0).abs() < 0.1, "{wait}");
    assert_eq!(
        state.retry_after(None, None, now),
        Duration::ZERO,
        "for others"
    );
}

#[test]
fn a_full_line_makes_room_by_those_that_could_not_run_anyway() {
    let now = Instant::now();
    let mut state = limited(&[1], 1, 0, now);
    let mut few: Vec<Ticket> = (0..50)
        .map(|_| join_with(&mut state, of_client("few"), now))
        .collect();
    state.grant(now);
    for _ in 0..60 {
        // These wait for the host.
        let ticket = join_with(&mut state, of_client("many"), now);
        let gone = state.admit(ticket, 30 * SECOND, now).unwrap();
        let newest = few
            .pop()
            .filter(|_| state.waiting() >= 100 && !gone.is_empty());
        assert_eq!(gone.first().copied(), newest.or(gone.first().copied()));
    }
    let more = join_with(&mut state, of_client("few"), now);
    assert_eq!(state.admit(more, 30 * SECOND, now), Err(TurnedAway::Full));
}

#[test]
fn one_request_waits_on_each_host_that_is_full_of_others_unless_too_many_do() {
    let now = Instant::now();
    let mut state = pool(&[0, 0, 0], now);
    for (id, in_flight) in [(A, 4), (B, 3), (HostId(2), 5)] {
        let told = Slots {
            max_concurrent: 2,
            available: 0,
            in_flight,
            ours: 0,
        };
        let slots = Tells::Slots(told);
        state.checked(id, &Check::Good { slots }, now);
    }
    for _ in 0..3 {
        join(&mut state);
    }
    let grants = state.grant(now);
    assert_eq!(hosts(&grants), [B, A], "fewest of others first");
    let retry_after = 5 * SECOND;
    state.finish(&grants[0], Outcome::Busy { retry_after }, now);
    assert_eq!(hosts(&state.grant(now)), [], "not before it asks for it");
    assert_eq!(hosts(&state.grant(now + retry_after)), [B]);
}
