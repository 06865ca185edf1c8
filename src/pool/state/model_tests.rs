//! Hosts that differ in models.

use gpu_bridge_wire::Info;

use super::tests::{has, join_with, phase, pool, spec, with_model};
use super::*;
use crate::pool::{Check, Outcome, Tells, TurnedAway};

const A: HostId = HostId(0);
const B: HostId = HostId(1);
const SECOND: Duration = Duration::from_secs(1);
const ANSWERED: Outcome = Outcome::Answered { timed: true };

fn model(name: &str) -> Model {
    Model::new(name).unwrap()
}

fn can_serve(models: &[&str]) -> Info {
    let info = has(&[]);
    let available = models.iter().map(|model| (*model).to_owned()).collect();
    Info {
        available_models: Some(available),
        ..info
    }
}

/// One request for `embed:m`, which ends so.
fn ask(state: &mut State, outcome: Outcome, now: Instant) -> HostId {
    join_with(state, with_model("embed:m"), now);
    let grant = state.grant(now).remove(0);
    state.finish(&grant, outcome, now);
    grant.host
}

#[test]
fn a_free_host_that_lacks_the_model_is_no_reason_not_to_wait() {
    let now = Instant::now();
    let mut state = pool(&[4, 1], now);
    state.told(A, can_serve(&["embed:n"]));
    join_with(&mut state, with_model("embed:m"), now);
    join_with(&mut state, with_model("embed:m"), now);
    let granted = state.grant(now);
    assert_eq!(granted.len(), 1);
    assert_eq!(granted[0].host, B);
    assert_eq!(state.waiting(), 1);
}

/// Whoever invents names must not make each step dear.
#[test]
fn a_client_waits_for_any_model_that_is_told_and_for_few_others() {
    let now = Instant::now();
    let mut state = pool(&[1000, 1], now);
    let told: Vec<String> = (0..200)
        .map(|number| format!("embed:told{number}"))
        .collect();
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    state.told(A, can_serve(&["embed:n"]));
    state.told(B, has(&told));
    join_with(&mut state, with_model("embed:m"), now);
    assert_eq!(state.grant(now)[0].host, B, "which is full from now on");
    let wait = |state: &mut State, client: &str, model: &str| {
        let demand = Demand {
            client: Some(client.into()),
            ..with_model(model)
        };
        let ticket = join_with(state, demand, now);
        state.grant(now);
        state.admit(ticket, 60 * SECOND, now)
    };
    let mut cost = 0;
    for number in 0..3000 {
        let begun = wait(&mut state, "odd", &format!("embed:invented{number}"));
        let expected = if number < 64 {
            Ok(vec![])
        } else {
            Err(TurnedAway::ManyModels)
        };
        assert_eq!(begun, expected, "{number}");
        let step = allocation_counter::measure(|| drop(state.grant(now)));
        cost = cost.max(step.bytes_total);
    }
    assert!(cost < 10_000, "{cost} bytes for one step");
    assert_eq!(wait(&mut state, "odd", "embed:invented7"), Ok(vec![]));
    assert_eq!(wait(&mut state, "other", "embed:new"), Ok(vec![]));
    for model in told.iter().take(30) {
        assert_eq!(wait(&mut state, "odd", model), Ok(vec![]));
    }
}

#[test]
fn the_wait_is_that_for_hosts_that_may_have_the_model() {
    let start = Instant::now();
    let mut state = pool(&[8, 1], start);
    let mut now = start;
    for _ in 0..40 {
        join_with(&mut state, with_model("embed:m"), now);
        let grant = state.grant(now).remove(0);
        now += 8 * SECOND;
        state.finish(&grant, ANSWERED, now);
    }
    let line_up = |state: &mut State| {
        for _ in 0..20 {
            join_with(state, with_model("embed:m"), now);
        }
        state.grant(now);
        let last = join_with(state, with_model("embed:m"), now);
        let admitted = state.admit(last, 60 * SECOND, now);
        let retry_after = state.retry_after(None, Some(&model("embed:m")), now);
        (admitted, retry_after, state.view(now).expected_wait)
    };
    let (admitted, shared, all) = line_up(&mut state);
    assert_eq!(admitted, Ok(vec![]));
    assert!(
        shared < 20 * SECOND && all < 20 * SECOND,
        "{shared:?} {all:?}"
    );

    let mut state = {
        let mut lacking = state;
        lacking.told(A, can_serve(&["embed:n"]));
        lacking
    };
    let (admitted, alone, all) = line_up(&mut state);
    assert_eq!(
        admitted,
        Err(TurnedAway::TooLong),
        "one slot for all of them"
    );
    assert!(
        alone > 60 * SECOND && all > 60 * SECOND,
        "{alone:?} {all:?}"
    );
    let other = state.retry_after(None, Some(&model("embed:n")), now);
    assert!(other < alone, "{other:?}");
}

#[test]
fn an_error_for_a_model_that_the_host_may_lack_is_no_fault() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    state.told(A, has(&["embed:n"]));
    let (m, n) = (model("embed:m"), model("embed:n"));
    for _ in 0..9 {
        state.blame(A, Some(&m), now);
    }
    assert!(phase(&state, A).is_serving());
    assert_eq!(ask(&mut state, ANSWERED, now), B);
    for _ in 0..2 {
        state.blame(A, Some(&n), now);
    }
    assert!(!phase(&state, A).is_serving(), "it has that one in memory");
}

#[test]
fn a_host_that_never_answered_well_is_out_when_it_fails_with_two_models() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    for name in ["embed:m", "embed:n"] {
        assert!(phase(&state, A).is_serving());
        state.blame(A, Some(&model(name)), now);
    }
    assert!(!phase(&state, A).is_serving());
}

#[test]
fn an_ejected_host_is_the_last_resort_for_a_model_that_others_lack() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    state.told(B, can_serve(&["embed:n"]));
    for _ in 0..2 {
        assert_eq!(ask(&mut state, Outcome::Broke, now), A);
    }
    assert!(!phase(&state, A).is_serving() && phase(&state, B).is_serving());
    assert_eq!(ask(&mut state, ANSWERED, now), A);
    assert!(phase(&state, A).is_serving(), "it has shown better");
}

#[test]
fn those_who_wait_for_a_model_that_turns_out_to_be_nowhere_are_told_at_once() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    assert_eq!(ask(&mut state, Outcome::LacksModel, now), A);
    join_with(&mut state, with_model("embed:m"), now);
    let granted = state.grant(now);
    assert_eq!(granted[0].host, B);
    let waits = join_with(&mut state, with_model("embed:m"), now);
    assert_eq!(state.grant(now).len(), 0);
    assert_eq!(state.take_dismissed(), []);
    state.finish(&granted[0], Outcome::LacksModel, now);
    assert_eq!(state.take_dismissed(), [(waits, TurnedAway::NoModel)]);
    let late = join_with(&mut state, with_model("embed:m"), now);
    assert_eq!(
        state.take_dismissed(),
        [(late, TurnedAway::NoModel)],
        "it is remembered"
    );
    assert_eq!(state.waiting(), 0);

    state.checked(B, &refused(), now);
    let waits = join_with(&mut state, with_model("embed:m"), now);
    assert_eq!(state.take_dismissed(), [], "it may have restarted");
    state.set_hosts(vec![]);
    state.grant(now);
    assert_eq!(
        state.take_dismissed(),
        [],
        "there is no host at all: {waits:?}"
    );
}

/// What becomes of a request for `embed:m`, which A lacks, by what was seen of B and what it is up to now.
#[test]
fn a_host_that_is_out_is_waited_for_only_if_it_may_have_the_model() {
    type Scene = fn(&mut State, Instant);
    let down = |state: &mut State, now| {
        for _ in 0..2 {
            state.checked(B, &refused(), now);
        }
        assert!(!phase(state, B).is_serving());
    };
    let scenes: [(&str, Scene, Option<TurnedAway>); 6] = [
        (
            "had others",
            |state, _| state.told(B, has(&["embed:n"])),
            Some(TurnedAway::NoModel),
        ),
        (
            "had nothing",
            |state, _| state.told(B, has(&[])),
            Some(TurnedAway::NoModel),
        ),
        ("had it", |state, _| state.told(B, has(&["embed:m"])), None),
        (
            "had it once",
            |state, _| {
                state.told(B, has(&["embed:m"]));
                state.told(B, has(&["embed:n"]));
            },
            None,
        ),
        (
            "has answered with it",
            |state, now| {
                state.told(B, has(&[]));
                assert_eq!(ask(state, ANSWERED, now), B);
            },
            None,
        ),
        ("was never heard", |_, _| {}, Some(TurnedAway::Unheard)),
    ];
    for (what, scene, expected) in scenes {
        let now = Instant::now();
        let mut state = pool(&[1, 1], now);
        assert_eq!(ask(&mut state, Outcome::LacksModel, now), A);
        scene(&mut state, now);
        down(&mut state, now);
        let ticket = join_with(&mut state, with_model("embed:m"), now);
        let expected: Vec<_> = expected.map(|why| (ticket, why)).into_iter().collect();
        assert_eq!(state.take_dismissed(), expected, "{what}");
        assert_eq!(state.grant(now).len(), 0, "{what}");
    }
}

#[test]
fn a_host_that_was_not_looked_at_yet_or_is_about_to_tell_is_waited_for() {
    let now = Instant::now();
    let not_ready = Check::NotReady {
        reason: String::new(),
        slots: Tells::Nothing,
    };
    for check in [None, Some(&not_ready)] {
        let mut state = pool(&[1], now);
        assert_eq!(ask(&mut state, Outcome::LacksModel, now), A);
        state.set_hosts(vec![spec("h0", 1), spec("h1", 1)]);
        state.grant(now);
        if let Some(check) = check {
            state.checked(B, check, now);
        }
        let ticket = join_with(&mut state, with_model("embed:m"), now);
        state.grant(now);
        assert_eq!(state.take_dismissed(), []);
        state.told(B, has(&["embed:n"]));
        for _ in 0..2 {
            state.checked(B, &refused(), now);
        }
        state.grant(now);
        assert_eq!(state.take_dismissed(), [(ticket, TurnedAway::NoModel)]);
    }
}

#[test]
fn who_waits_for_a_host_that_goes_out_without_having_had_the_model_is_told_at_once() {
    let now = Instant::now();
    for drains in [false, true] {
        let mut state = pool(&[1, 1], now);
        assert_eq!(ask(&mut state, Outcome::LacksModel, now), A);
        state.told(B, has(&[]));
        join_with(&mut state, Demand::default(), now);
        join_with(&mut state, Demand::default(), now);
        assert_eq!(state.grant(now).len(), 2, "both hosts are full");
        let waits = join_with(&mut state, with_model("embed:m"), now);
        state.grant(now);
        assert_eq!(state.take_dismissed(), []);
        if drains {
            state.set_draining(&"h1".parse().unwrap(), true);
        } else {
            state.checked(B, &refused(), now);
            state.checked(B, &refused(), now);
        }
        state.grant(now);
        assert_eq!(state.take_dismissed(), [(waits, TurnedAway::NoModel)]);
    }
}

#[test]
fn while_no_host_serves_all_are_waited_for() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    state.told(A, can_serve(&["embed:n"]));
    state.told(B, has(&[]));
    for host in [A, B, A, B] {
        state.checked(host, &refused(), now);
    }
    join_with(&mut state, with_model("embed:m"), now);
    state.grant(now);
    assert_eq!(state.take_dismissed(), []);
}

fn refused() -> Check {
    Check::Failed {
        reason: String::new(),
        reachable: false,
    }
}
