//! The state machine: single transitions as examples, then random histories against the invariants.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::pool::Phase;
use crate::pool::Slots;

const A: HostId = HostId(0);
const B: HostId = HostId(1);
const SECOND: Duration = Duration::from_secs(1);

fn settings(policy: Policy, max_waiting: usize) -> Settings {
    let two = NonZeroU32::new(2).unwrap();
    let thresholds = Thresholds {
        healthy_after: NonZeroU32::MIN,
        unhealthy_after: two,
    };
    Settings {
        policy,
        thresholds,
        max_waiting,
        check_interval: 5 * SECOND,
    }
}

fn spec(name: &str, slots: u32) -> HostSpec {
    HostSpec {
        name: name.parse().unwrap(),
        max_concurrent: NonZeroU32::new(slots),
    }
}

const GOOD: Check = Check::Good { slots: None };

fn slots(max_concurrent: u32, available: u32) -> Check {
    Check::Good {
        slots: Some(Slots {
            max_concurrent,
            available,
        }),
    }
}

/// A pool whose hosts have these numbers of slots (0 = not configured) and are up.
fn pool(slots: &[u32], now: Instant) -> State {
    let specs = slots
        .iter()
        .enumerate()
        .map(|(i, slots)| spec(&format!("h{i}"), *slots))
        .collect();
    let mut state = State::new(settings(Policy::LeastBusy, 100), specs);
    for id in state.ids() {
        state.checked(id, &GOOD, now);
    }
    state.take_events();
    state
}

fn join(state: &mut State) -> Ticket {
    let ticket = state.next_ticket();
    state.join(ticket, Avoid::default());
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
    let mut state = State::new(settings(Policy::LeastBusy, 9), vec![spec("a", 1)]);
    let ticket = join(&mut state);
    assert_eq!(state.grant(now), vec![]);
    state.checked(A, &GOOD, now);
    assert_eq!(state.grant(now), vec![Grant { ticket, host: A }]);
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
    state.finish(B, Outcome::Answered, now);
    assert_eq!(
        state.grant(now),
        vec![Grant {
            ticket: tickets[3],
            host: B
        }]
    );
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
        state.hosts[A.0].in_flight = 1;
        state.finish(A, busy, now);
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
    assert_eq!(state.hosts[A.0].health.phase(), Phase::Up);
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
        state.finish(A, busy, now);
        join(&mut state);
        state.checked(A, &slots(2, 0), now);
        assert_eq!(state.grant(now), vec![], "{what}");
        if free {
            state.checked(A, &slots(2, 1), now);
        } else {
            state.finish(A, Outcome::Answered, now);
        }
        assert_eq!(hosts(&state.grant(now)), [A], "{what}");
    }
}

#[test]
fn an_odd_retry_after_makes_neither_a_hot_loop_nor_a_lost_host() {
    let now = Instant::now();
    let mut state = pool(&[1], now);
    state.hosts[A.0].in_flight = 1;
    state.finish(
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
    state.finish(
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
    assert_eq!(state.hosts[B.0].capacity(), 2);
    state.checked(A, &slots(8, 8), now);
    state.checked(B, &slots(8, 8), now);
    assert_eq!(
        (state.hosts[A.0].capacity(), state.hosts[B.0].capacity()),
        (4, 8)
    );
    assert_eq!(kinds(&mut state), [EventKind::Capacity(8)]);
    state.checked(B, &slots(0, 0), now);
    assert_eq!(
        state.hosts[B.0].can_take(now),
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
    avoid.add(A, false, state.finish(A, Outcome::Refused, now));
    state.join(ticket, avoid);
    assert_eq!(state.grant(now), vec![]);
    state.checked(A, &GOOD, now);
    assert_eq!(hosts(&state.grant(now)), [A]);
}

#[test]
fn a_request_that_broke_a_host_goes_elsewhere_while_there_is_an_elsewhere() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    let mut avoid = Avoid::default();
    avoid.add(A, true, state.hosts[A.0].proof);
    assert!(state.has_alternative(&avoid));
    let ticket = state.next_ticket();
    state.join(ticket, avoid.clone());
    state.hosts[B.0].in_flight = 1;
    state.checked(A, &GOOD, now);
    assert_eq!(
        state.grant(now),
        vec![],
        "waits for B rather than break A again"
    );
    avoid.add(B, true, state.hosts[B.0].proof);
    assert!(!state.has_alternative(&avoid));
    state.join(ticket, avoid);
    assert_eq!(
        state.grant(now),
        [Grant { ticket, host: A }],
        "broken everywhere, A alive since"
    );
}

#[test]
fn a_request_that_broke_the_only_host_that_serves_returns_to_it() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    let failed = Check::Failed {
        reason: String::new(),
    };
    state.checked(B, &failed, now);
    state.checked(B, &failed, now);
    let mut avoid = Avoid::default();
    avoid.add(A, true, state.hosts[A.0].proof);
    let ticket = state.next_ticket();
    state.join(ticket, avoid);
    assert_eq!(state.grant(now), vec![], "not before a sign of life");
    state.checked(A, &GOOD, now);
    assert_eq!(state.grant(now), [Grant { ticket, host: A }]);
}

#[test]
fn a_silent_host_is_lost_whatever_it_was_ejected_for() {
    let now = Instant::now();
    let silence = Check::NoAnswer {
        reason: String::new(),
    };
    let refused = Check::Failed {
        reason: String::new(),
    };
    let mut state = pool(&[1, 1], now);
    assert!(!state.checked(A, &silence, now), "once may be chance");
    assert!(state.checked(A, &silence, now));
    state.finish(B, Outcome::Refused, now);
    state.finish(B, Outcome::Refused, now);
    assert!(!state.checked(B, &refused, now), "what runs there may end");
    assert!(state.checked(B, &silence, now));
}

#[test]
fn a_host_that_refuses_one_request_is_checked_before_it_is_ejected() {
    let now = Instant::now();
    let mut state = pool(&[1], now);
    state.finish(A, Outcome::Misconfigured, now);
    assert_eq!(state.hosts[A.0].health.phase(), Phase::Up);
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
    avoid.add(A, true, state.hosts[A.0].proof);
    state.join(early, avoid);
    state.hosts[B.0].in_flight = 1;
    assert_eq!(
        state.grant(now),
        [Grant {
            ticket: late,
            host: A
        }]
    );
    state.finish(B, Outcome::Answered, now);
    assert_eq!(
        state.grant(now),
        [Grant {
            ticket: early,
            host: B
        }]
    );
}

#[test]
fn only_newcomers_are_turned_away_from_a_full_line() {
    let now = Instant::now();
    let mut state = State::new(settings(Policy::LeastBusy, 1), vec![spec("a", 1)]);
    let (old, first, second) = (state.next_ticket(), join(&mut state), state.next_ticket());
    assert_eq!(state.turn_away_if_full(first), Ok(()));
    state.join(second, Avoid::default());
    assert_eq!(state.turn_away_if_full(second), Err(QueueFull));
    state.join(old, Avoid::default());
    assert_eq!(state.waiting(), 2, "a request that was let in once stays");
    state.checked(A, &GOOD, now);
    assert_eq!(state.grant(now)[0].ticket, old);
}

#[test]
fn server_errors_count_only_when_blamed() {
    let now = Instant::now();
    let mut state = pool(&[100], now);
    for _ in 0..50 {
        state.finish(A, Outcome::ServerError, now);
    }
    assert_eq!(kinds(&mut state), []);
    state.blame(A, now);
    state.blame(A, now);
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
        },
        Outcome::Busy {
            retry_after: 9 * SECOND,
        },
    );
    assert_eq!(state.check_delay(A, now), 5 * SECOND);
    state.finish(A, Outcome::Refused, now);
    assert_eq!(state.check_delay(A, now), FIRST_RECHECK);
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
    state.finish(B, busy, now);
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
        assert_eq!(state.check_delay(A, now), hold * SECOND);
        now += hold * SECOND;
        state.checked(A, &GOOD, now);
        assert_eq!(state.hosts[A.0].health.phase(), Phase::Trial);
        assert_eq!(state.check_delay(A, now), 5 * SECOND);
    }
}

#[test]
fn a_refused_client_is_told_when_the_first_host_is_free() {
    let now = Instant::now();
    let mut state = pool(&[1, 1], now);
    assert_eq!(state.retry_after(now), Duration::ZERO);
    state.finish(
        A,
        Outcome::Busy {
            retry_after: 9 * SECOND,
        },
        now,
    );
    state.finish(
        B,
        Outcome::Busy {
            retry_after: 4 * SECOND,
        },
        now,
    );
    assert_eq!(state.retry_after(now + SECOND), 3 * SECOND);
    state.served(2 * SECOND);
    for _ in 0..20 {
        join(&mut state);
    }
    let both_slots = 20 * SECOND;
    assert_eq!(
        state.retry_after(now + SECOND),
        both_slots,
        "the line takes longer"
    );
    let failed = Check::Failed {
        reason: String::new(),
    };
    for id in [A, B, A, B] {
        state.checked(id, &failed, now);
    }
    assert_eq!(
        state.retry_after(now),
        5 * SECOND,
        "nobody serves: the next checks may tell"
    );
}

/// One step of a random history. Numbers are reduced to what exists at that point.
#[derive(Clone, Debug)]
enum Step {
    Arrive,
    Leave(usize),
    Finish(usize, Outcome),
    Blame(usize),
    Check(usize, Check),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Answered),
        2 => (0..8u64).prop_map(|s| Outcome::Busy { retry_after: Duration::from_secs(s) }),
        1 => Just(Outcome::Refused),
        1 => Just(Outcome::Broke),
        1 => Just(Outcome::ServerError),
        1 => Just(Outcome::Misconfigured),
        1 => Just(Outcome::Abandoned),
    ];
    let check = prop_oneof![
        4 => Just(GOOD),
        2 => (0..5u32, 0..5u32).prop_map(|(max, free)| slots(max, free.min(max))),
        1 => (0..8u64).prop_map(|s| Check::Busy { retry_after: Duration::from_secs(s) }),
        1 => Just(Check::Failed { reason: String::new() }),
        1 => Just(Check::NoAnswer { reason: String::new() }),
        1 => Just(Check::Misconfigured { reason: String::new() }),
    ];
    prop_oneof![
        6 => Just(Step::Arrive),
        1 => any::<usize>().prop_map(Step::Leave),
        6 => (any::<usize>(), outcome).prop_map(|(lease, outcome)| Step::Finish(lease, outcome)),
        1 => any::<usize>().prop_map(Step::Blame),
        3 => (any::<usize>(), check).prop_map(|(host, check)| Step::Check(host, check)),
        2 => (0..4000u64).prop_map(Step::Wait),
    ]
}

/// The world around the machine: who holds and who waits for a lease, kept apart from it.
struct World {
    state: State,
    now: Instant,
    leases: Vec<Grant>,
    waiting: Vec<(Ticket, Avoid)>,
    avoids: std::collections::HashMap<Ticket, Avoid>,
}

impl World {
    fn apply(&mut self, step: Step) {
        match step {
            Step::Arrive => {
                let ticket = join(&mut self.state);
                self.waiting.push((ticket, Avoid::default()));
            }
            Step::Leave(which) if !self.waiting.is_empty() => {
                let (ticket, _) = self.waiting.remove(which % self.waiting.len());
                self.state.leave(ticket);
            }
            Step::Finish(which, outcome) if !self.leases.is_empty() => {
                let lease = self.leases.remove(which % self.leases.len());
                self.finish(lease, outcome);
            }
            Step::Blame(host) => self.state.blame(self.host(host), self.now),
            Step::Check(host, check) => {
                self.state.checked(self.host(host), &check, self.now);
            }
            Step::Wait(millis) => self.now += Duration::from_millis(millis),
            Step::Leave(_) | Step::Finish(..) => {}
        }
    }

    fn host(&self, number: usize) -> HostId {
        HostId(number % self.state.hosts.len())
    }

    /// Ends an attempt as a dispatcher would: what failed joins the line again at its old place.
    fn finish(&mut self, lease: Grant, outcome: Outcome) {
        let proof = self.state.finish(lease.host, outcome, self.now);
        let mut avoid = self.avoids.remove(&lease.ticket).unwrap_or_default();
        match outcome {
            Outcome::Answered | Outcome::Abandoned => return,
            Outcome::Busy { .. } | Outcome::Misconfigured => {}
            Outcome::Refused => avoid.add(lease.host, false, proof),
            Outcome::Broke | Outcome::ServerError => avoid.add(lease.host, true, proof),
        }
        self.state.join(lease.ticket, avoid.clone());
        self.waiting.push((lease.ticket, avoid));
    }

    /// Grants, then checks every invariant.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        let before: Vec<bool> = self.state.ids().map(|id| self.free(id)).collect();
        for grant in self.state.grant(self.now) {
            prop_assert!(
                before[grant.host.0],
                "a lease of a host that could not take one"
            );
            let place = self
                .waiting
                .iter()
                .position(|(ticket, _)| *ticket == grant.ticket);
            prop_assert!(place.is_some(), "a lease for nobody, or a second one");
            let (ticket, avoid) = self.waiting.remove(place.unwrap());
            let equal_before =
                |(other, avoid): &(Ticket, Avoid)| *other < ticket && avoid.is_empty();
            prop_assert!(
                !self.waiting.iter().any(equal_before),
                "an equal was overtaken"
            );
            self.avoids.insert(ticket, avoid);
            self.leases.push(grant);
        }
        self.check_counts()?;
        for (ticket, avoid) in &self.waiting {
            let place = place(&self.state.hosts, Policy::LeastBusy, avoid, self.now);
            prop_assert!(
                place.is_none(),
                "{ticket:?} waits though {place:?} could take it"
            );
        }
        Ok(())
    }

    fn check_counts(&mut self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.state.waiting(), self.waiting.len());
        for id in self.state.ids() {
            let held = self.leases.iter().filter(|lease| lease.host == id).count();
            prop_assert_eq!(self.state.hosts[id.0].in_flight as usize, held);
        }
        Ok(())
    }

    fn free(&self, id: HostId) -> bool {
        self.state.hosts[id.0].can_take(self.now).is_some()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_in_every_history(
        capacities in prop::collection::vec(0..4u32, 1..5),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let now = Instant::now();
        let mut world = World {
            state: pool(&capacities, now),
            now,
            leases: Vec::new(),
            waiting: Vec::new(),
            avoids: std::collections::HashMap::new(),
        };
        for step in steps {
            // A host may shrink below what is in flight; only new leases are bounded by slots.
            world.apply(step);
            let over: Vec<bool> = world.state.hosts.iter().map(|h| h.in_flight > h.capacity()).collect();
            world.settle()?;
            for (host, over) in world.state.hosts.iter().zip(over) {
                prop_assert!(over || host.in_flight <= host.capacity(), "more leases than slots");
            }
        }
    }

    #[test]
    fn being_busy_never_ejects(
        answers in prop::collection::vec((0..100u64, prop::bool::ANY), 1..200),
    ) {
        let mut now = Instant::now();
        let mut state = pool(&[2, 2], now);
        for (seconds, by_check) in answers {
            let retry_after = Duration::from_secs(seconds);
            if by_check {
                state.checked(A, &Check::Busy { retry_after }, now);
            } else {
                state.finish(A, Outcome::Busy { retry_after }, now);
            }
            now += Duration::from_millis(seconds * 10);
            prop_assert_eq!(state.hosts[A.0].health.phase(), Phase::Up);
        }
    }
}
