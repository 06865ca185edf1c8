use super::*;
use crate::pool::{HostId, Proof, Work};

const A: HostId = HostId(0);

fn demand(client: &str, priority: u8, bytes: u64) -> Demand {
    Demand {
        client: Some(client.into()),
        priority,
        work: Work { items: 0, bytes },
        ..Demand::default()
    }
}

fn entry(demand: Demand) -> Entry {
    Entry {
        seconds: demand.work.units(),
        sure: demand.work.units(),
        demand,
        avoid: Avoid::default(),
        joined: Instant::now(),
        returning: false,
        offer: None,
        sharing: None,
    }
}

fn join(queue: &mut Queue, demand: Demand) -> Ticket {
    let ticket = queue.next_ticket();
    queue.join(ticket, entry(demand));
    ticket
}

/// The clients of all that waits, in the order in which they are served.
fn serve(queue: &mut Queue) -> String {
    std::iter::from_fn(|| queue.take_first(Instant::now(), |_, _| Some(())))
        .filter_map(|(_, entry, ())| entry.demand.client)
        .map(|client| client.to_string())
        .collect()
}

#[test]
fn one_client_is_served_in_order_of_arrival() {
    let mut queue = Queue::default();
    let joined: Vec<_> = (0..5)
        .map(|_| join(&mut queue, demand("a", 0, 9)))
        .collect();
    let served: Vec<_> = std::iter::from_fn(|| queue.take_first(Instant::now(), |_, _| Some(())))
        .map(|(ticket, ..)| ticket)
        .collect();
    assert_eq!(served, joined);
}

#[test]
fn clients_take_turns_whatever_one_of_them_sends() {
    let mut queue = Queue::default();
    for _ in 0..6 {
        join(&mut queue, demand("a", 0, 10));
    }
    for _ in 0..2 {
        join(&mut queue, demand("b", 0, 10));
    }
    assert_eq!(serve(&mut queue), "ababaaaa");
}

#[test]
fn shares_are_counted_in_work() {
    let mut queue = Queue::default();
    for _ in 0..3 {
        join(&mut queue, demand("L", 0, 30));
    }
    for _ in 0..9 {
        join(&mut queue, demand("s", 0, 10));
    }
    assert_eq!(serve(&mut queue), "LsssLsssLsss");
}

#[test]
fn one_that_sends_again_and_again_has_no_advantage() {
    let mut queue = Queue::default();
    for _ in 0..4 {
        join(&mut queue, demand("a", 0, 10));
    }
    let mut served = String::new();
    for _ in 0..8 {
        // b asks anew all the time.
        join(&mut queue, demand("b", 0, 10));
        let (_, entry, ()) = queue.take_first(Instant::now(), |_, _| Some(())).unwrap();
        served.push_str(&entry.demand.client.unwrap());
    }
    assert_eq!(served.matches('a').count(), 4, "{served}");
}

#[test]
fn idling_earns_no_credit() {
    let mut queue = Queue::default();
    join(&mut queue, demand("b", 0, 10));
    for _ in 0..20 {
        join(&mut queue, demand("a", 0, 10));
    }
    for _ in 0..15 {
        queue.take_first(Instant::now(), |_, _| Some(()));
    }
    for _ in 0..4 {
        join(&mut queue, demand("b", 0, 10));
    }
    let served = serve(&mut queue);
    assert!(!served.contains("bbb"), "{served}");
}

#[test]
fn being_held_back_earns_no_credit() {
    let mut queue = Queue::default();
    let limits = |max_concurrent| Limits {
        max_concurrent: std::num::NonZeroU32::new(max_concurrent),
        max_per_second: None,
    };
    queue.set_limits(vec![("a".into(), limits(1))]);
    for _ in 0..20 {
        join(&mut queue, demand("a", 0, 10));
        join(&mut queue, demand("b", 0, 10));
    }
    let take = |queue: &mut Queue| {
        let (_, entry, ()) = queue.take_first(Instant::now(), |_, _| Some(()))?;
        entry.demand.client
    };
    let held: String = (0..11)
        .filter_map(|_| take(&mut queue))
        .map(|c| c.to_string())
        .collect();
    assert_eq!(held, "abbbbbbbbbb");

    queue.set_limits(vec![("a".into(), limits(0))]);

    let served = serve(&mut queue);
    assert!(served.starts_with("aabab"), "{served}");
}

#[test]
fn others_do_not_wait_for_what_is_held_back() {
    let mut queue = Queue::default();
    let limits = Limits {
        max_concurrent: std::num::NonZeroU32::new(2),
        max_per_second: None,
    };
    queue.set_limits(vec![("h".into(), limits)]);
    for _ in 0..10 {
        join(&mut queue, demand("h", 9, 10));
    }
    let ticket = join(&mut queue, demand("b", 0, 10));
    let now = Instant::now();
    let ahead = |queue: &Queue| queue.seconds_ahead_of(queue.get(ticket).unwrap(), now);
    assert!((ahead(&queue) - 20.0).abs() < 1e-9, "what may run");
    for _ in 0..2 {
        queue.take_first(now, |_, _| Some(()));
    }
    assert!(ahead(&queue).abs() < 1e-9);
    assert!((queue.seconds(now) - 10.0).abs() < 1e-9);
}

#[test]
fn what_one_was_given_while_it_was_alone_is_not_held_against_it() {
    let mut queue = Queue::default();
    join(&mut queue, demand("a", 0, 1_000_000));
    serve(&mut queue);
    queue.rest();
    for _ in 0..3 {
        join(&mut queue, demand("b", 0, 10));
    }
    join(&mut queue, demand("a", 0, 10));
    assert_eq!(serve(&mut queue), "babb");
}

#[test]
fn higher_priorities_and_those_that_return_come_first() {
    let mut queue = Queue::default();
    join(&mut queue, demand("l", 0, 1));
    join(&mut queue, demand("h", 5, 1));
    let returns = queue.next_ticket();
    queue.join(
        returns,
        Entry {
            returning: true,
            ..entry(demand("r", 0, 1))
        },
    );
    assert_eq!(serve(&mut queue), "rhl");
}

#[test]
fn takes_the_first_that_fits_and_skips_those_that_do_not() {
    let mut queue = Queue::default();
    let mut avoid = Avoid::default();
    avoid.add(A, true, Proof::default());
    let first = queue.next_ticket();
    queue.join(
        first,
        Entry {
            avoid,
            returning: true,
            ..entry(demand("a", 0, 1))
        },
    );
    let second = join(&mut queue, demand("a", 0, 1));
    let newer = Proof {
        life: 1,
        ..Proof::default()
    };
    let only_a = |entry: &Entry, _| entry.avoid.allows(A, newer, false).then_some(A);
    assert_eq!(
        queue
            .take_first(Instant::now(), only_a)
            .map(|taken| taken.0),
        Some(second)
    );
    assert!(queue.take_first(Instant::now(), only_a).is_none());
    assert!(queue.leave(first).is_some());
    assert!(queue.leave(first).is_none());
    assert!(queue.is_empty());
}

#[test]
fn asks_once_for_each_model() {
    let mut queue = Queue::default();
    for number in 0..1000 {
        let model = Model::new(if number % 2 == 0 { "x" } else { "y" });
        let client = number.to_string();
        join(
            &mut queue,
            Demand {
                model,
                ..demand(&client, 0, 1)
            },
        );
    }
    let mut asked = 0;
    let none = queue.take_first(Instant::now(), |_, line| {
        asked += 1;
        assert!((line.seconds - 500.0).abs() < 1e-9);
        None::<()>
    });
    assert!(none.is_none());
    assert_eq!((asked, queue.len()), (2, 1000));
}

#[test]
fn the_one_that_waits_with_the_most_gives_way() {
    let mut queue = Queue::default();
    for _ in 0..3 {
        join(&mut queue, demand("a", 0, 1));
    }
    let newest = join(&mut queue, demand("a", 0, 1));
    assert_eq!(
        queue.to_give_way(newest, Instant::now()),
        None,
        "not for more of its own"
    );
    let quiet = join(&mut queue, demand("b", 0, 1));
    assert_eq!(queue.to_give_way(quiet, Instant::now()), Some(newest));
    let low = join(&mut queue, demand("c", 0, 1));
    let high = join(&mut queue, demand("b", 1, 1));
    assert_eq!(queue.to_give_way(high, Instant::now()), Some(newest));
    assert_eq!(queue.to_give_way(low, Instant::now()), Some(newest));
}

#[test]
fn what_is_ahead_of_a_newcomer_is_bounded_by_its_own_share() {
    let mut queue = Queue::default();
    for _ in 0..10 {
        join(&mut queue, demand("a", 0, 10));
    }
    join(&mut queue, demand("h", 1, 5));
    let mut ahead = |client, priority, expected: f64| {
        let ticket = join(&mut queue, demand(client, priority, 10));
        let ahead = queue.seconds_ahead_of(queue.get(ticket).unwrap(), Instant::now());
        assert!(
            (ahead - expected).abs() < 1e-9,
            "{client} {priority}: {ahead}"
        );
        queue.leave(ticket);
    };
    ahead("a", 0, 105.0);
    ahead("b", 0, 15.0);
    ahead("b", 1, 5.0);
    assert!((queue.seconds(Instant::now()) - 105.0).abs() < 1e-9);
}

#[test]
fn sums_return_to_nothing() {
    let mut queue = Queue::default();
    let mut tickets = Vec::new();
    for number in 0..50 {
        let demand = Demand {
            model: Model::new(&(number % 3).to_string()),
            bytes: 7,
            ..demand("a", number % 2, 3)
        };
        tickets.push(join(&mut queue, demand));
    }
    assert_eq!(queue.bytes(), 350);
    for ticket in tickets {
        queue.leave(ticket);
    }
    assert_eq!((queue.bytes(), queue.len(), queue.models.len()), (0, 0, 0));
    assert!(queue.seconds(Instant::now()).abs() < f64::EPSILON);
}
