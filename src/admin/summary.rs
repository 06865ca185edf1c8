//! The pool in a sentence or two: who serves, what waits, what clients lost. Pure.
//!
//! A host counts as one that serves only if a request would most likely be served there: one that is up
//! but has no slot for us, or turns away or fails what it gets, is told apart.

use super::view::{Level, Summary};
use crate::pool::{HostView, Phase, PoolView, Trust};
use crate::telemetry::{Counts, Lately};

/// Fewer attempts say nothing of a host.
const ENOUGH: u32 = 3;

/// Is every attempt on a host turned away?
pub(super) fn turns_all_away(minute: Counts) -> bool {
    minute.all() >= ENOUGH && minute.full == minute.all()
}

/// What becomes of requests on a host, in the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Serves,
    /// For a moment.
    Full,
    /// Others have all of its slots.
    Taken,
    Trial,
    Fails,
    TurnsAway,
    /// It gets none.
    Out,
}

/// See the module.
pub(super) fn summary(pool: &PoolView, lately: &Lately) -> Summary {
    let (mut level, text) = serving(pool, lately);
    let mut text = vec![text];
    if pool.waiting > 0 {
        let wait = pool.oldest_wait.as_secs_f64();
        text.push(match pool.waiting {
            1 => format!("1 request has waited for {wait:.1} s."),
            waiting => format!("{waiting} requests wait, the first for {wait:.1} s."),
        });
        text.extend(held_back(pool));
    }
    if let Some(lost) = lost(lately.requests.minute) {
        level = level.max(Level::Attention);
        text.push(format!("In the last minute, {lost}."));
    }
    for told in distrusted(pool) {
        level = level.max(Level::Attention);
        text.push(told);
    }
    Summary {
        level,
        text: text.join(" "),
    }
}

/// Those that no host could help.
fn held_back(pool: &PoolView) -> Option<String> {
    match pool.held_back {
        0 => None,
        all if all == pool.waiting => {
            Some("Only the limits of their keys are in the way.".to_owned())
        }
        some => Some(format!("{some} of them wait for the limits of their keys.")),
    }
}

/// What audits have shown.
fn distrusted(pool: &PoolView) -> impl Iterator<Item = String> {
    let of = |trust| {
        pool.hosts
            .iter()
            .filter(move |host| host.models_of(trust) > 0)
    };
    let wrong = match of(Trust::Deviates).count() {
        0 => None,
        1 => Some("1 host answers wrong with a model, and gets no requests for that.".to_owned()),
        hosts => Some(format!(
            "{hosts} hosts answer wrong with a model, and get no requests for that."
        )),
    };
    let disputed = of(Trust::Disputed).count();
    let disputed = (disputed > 0)
        .then(|| format!("{disputed} hosts disagree on a model, and nobody knows which is right."));
    wrong.into_iter().chain(disputed)
}

fn serving(pool: &PoolView, lately: &Lately) -> (Level, String) {
    let standings: Vec<Standing> = pool
        .hosts
        .iter()
        .map(|host| {
            let rates = lately.hosts.get(&host.name).copied();
            standing(host, rates.unwrap_or_default().minute)
        })
        .collect();
    let count = |wanted| standings.iter().filter(|it| **it == wanted).count();
    let (serving, all) = (count(Standing::Serves), standings.len());
    let others = others(count);
    match (serving, all) {
        (_, 0) => (Level::Down, "There is no host.".to_owned()),
        (0, _) if count(Standing::Out) == all => (
            Level::Down,
            "No host can serve: requests wait until one is back, or give up.".to_owned(),
        ),
        (0, _) => {
            let is_down = count(Standing::Out) + count(Standing::TurnsAway) == all;
            let level = if is_down {
                Level::Down
            } else {
                Level::Attention
            };
            (level, format!("No host serves: {}.", others.join(", ")))
        }
        (1, 1) => (Level::Good, "The only host serves.".to_owned()),
        (2, 2) => (Level::Good, "Both hosts serve.".to_owned()),
        _ if serving == all => (Level::Good, format!("All {all} hosts serve.")),
        _ => {
            let serve = if serving == 1 { "serves" } else { "serve" };
            let mut text = format!("{serving} of {all} hosts {serve}");
            if !others.is_empty() {
                text = format!("{text}; {}", others.join(", "));
            }
            (Level::Attention, text + ".")
        }
    }
}

fn standing(host: &HostView, minute: Counts) -> Standing {
    let is_up = host.phase.is_serving() && !host.is_draining();
    let all = minute.all();
    match host.phase {
        _ if !is_up => Standing::Out,
        _ if host.capacity == 0 => Standing::TurnsAway,
        _ if host.foreign >= host.capacity => Standing::Taken,
        _ if turns_all_away(minute) => Standing::TurnsAway,
        _ if host.is_busy() => Standing::Full,
        Phase::Trial => Standing::Trial,
        _ if all >= ENOUGH && minute.share(minute.badly) > 0.5 => Standing::Fails,
        _ => Standing::Serves,
    }
}

/// Those that are up and do not simply serve. Those that are out are the rest.
fn others(count: impl Fn(Standing) -> usize) -> Vec<String> {
    let words = [
        (Standing::Full, "is full", "are full"),
        (
            Standing::Taken,
            "is used up by others",
            "are used up by others",
        ),
        (Standing::Trial, "is on trial", "are on trial"),
        (Standing::Fails, "fails most requests", "fail most requests"),
        (
            Standing::TurnsAway,
            "turns everything away",
            "turn everything away",
        ),
    ];
    let told = words.into_iter().filter_map(|(standing, one, many)| {
        let hosts = count(standing);
        (hosts > 0).then(|| format!("{hosts} {}", if hosts == 1 { one } else { many }))
    });
    told.collect()
}

/// In numbers rather than shares: of a few requests a share says little.
fn lost(minute: Counts) -> Option<String> {
    let all = match minute.all() {
        1 => "1 request".to_owned(),
        all => format!("{all} requests"),
    };
    let were = if minute.full == 1 { "was" } else { "were" };
    match (minute.full, minute.badly) {
        (0, 0) => None,
        (0, failed) => Some(format!("{failed} of {all} failed")),
        (full, 0) => Some(format!("{full} of {all} {were} turned away")),
        (full, failed) => Some(format!(
            "{full} of {all} {were} turned away and {failed} failed"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::pool::Cause;
    use crate::telemetry::Rates;

    type Change = fn(&mut HostView);

    fn host(phase: Phase, change: Change) -> HostView {
        let mut host = HostView::for_testing("a".parse().unwrap(), phase);
        change(&mut host);
        host
    }

    fn up() -> HostView {
        host(Phase::Up, |_| {})
    }

    fn out() -> HostView {
        let phase = Phase::Ejected {
            cause: Cause::Hung,
            hold_until: Instant::now(),
            good_checks: 0,
        };
        host(phase, |_| {})
    }

    fn of(hosts: Vec<HostView>, lately: &Lately) -> (Level, String) {
        let mut pool = PoolView::for_testing(hosts);
        for (number, host) in pool.hosts.iter_mut().enumerate() {
            host.name = format!("h{number}").parse().unwrap();
        }
        let Summary { level, text } = summary(&pool, lately);
        (level, text)
    }

    #[test]
    fn says_who_serves_and_how_much_to_care() {
        let busy = || host(Phase::Up, |host| host.busy_for = Some(Duration::ZERO));
        let drained = host(Phase::Up, |host| host.draining = true);
        let zero = || host(Phase::Up, |host| (host.capacity, host.slots) = (0, 0));
        let taken = host(Phase::Up, |host| (host.foreign, host.slots) = (2, 0));
        let table = [
            (vec![], Level::Down, "There is no host."),
            (vec![up()], Level::Good, "The only host serves."),
            (vec![up(), up()], Level::Good, "Both hosts serve."),
            (vec![up(), up(), up()], Level::Good, "All 3 hosts serve."),
            (vec![up(), out()], Level::Attention, "1 of 2 hosts serves."),
            (
                vec![up(), out(), up()],
                Level::Attention,
                "2 of 3 hosts serve.",
            ),
            (
                vec![out(), drained],
                Level::Down,
                "No host can serve: requests wait until one is back, or give up.",
            ),
            (
                vec![up(), zero()],
                Level::Attention,
                "1 of 2 hosts serves; 1 turns everything away.",
            ),
            (
                vec![up(), busy(), busy(), taken, out()],
                Level::Attention,
                "1 of 5 hosts serves; 2 are full, 1 is used up by others.",
            ),
            (
                vec![busy(), host(Phase::Trial, |_| {})],
                Level::Attention,
                "No host serves: 1 is full, 1 is on trial.",
            ),
            (
                vec![zero(), zero(), out()],
                Level::Down,
                "No host serves: 2 turn everything away.",
            ),
        ];
        for (hosts, level, text) in table {
            assert_eq!(of(hosts, &Lately::default()), (level, text.to_owned()));
        }
    }

    #[test]
    fn a_host_that_is_up_is_known_by_what_became_of_its_attempts() {
        let after = |well, full, badly| {
            let rates = Rates {
                minute: Counts {
                    well,
                    full,
                    badly,
                    ..Counts::default()
                },
                ..Rates::default()
            };
            let mut lately = Lately::default();
            lately.hosts.insert("h1".parse().unwrap(), rates);
            of(vec![up(), up()], &lately).1
        };
        assert_eq!(after(0, 2, 0), "Both hosts serve.", "too few to say");
        assert_eq!(
            after(0, 3, 0),
            "1 of 2 hosts serves; 1 turns everything away."
        );
        assert_eq!(after(1, 99, 0), "Both hosts serve.");
        assert_eq!(
            after(1, 0, 2),
            "1 of 2 hosts serves; 1 fails most requests."
        );
        assert_eq!(after(2, 0, 2), "Both hosts serve.");
    }

    #[test]
    fn tells_apart_what_waits_for_limits_from_what_waits_for_hosts() {
        let mut pool = PoolView::for_testing(vec![up()]);
        (pool.waiting, pool.held_back) = (3, 2);
        let text = summary(&pool, &Lately::default()).text;
        assert!(
            text.ends_with("2 of them wait for the limits of their keys."),
            "{text}"
        );
        pool.held_back = 3;
        let text = summary(&pool, &Lately::default()).text;
        assert!(
            text.ends_with("Only the limits of their keys are in the way."),
            "{text}"
        );
    }

    #[test]
    fn tells_what_clients_feel() {
        let mut pool = PoolView::for_testing(vec![up()]);
        (pool.waiting, pool.oldest_wait) = (12, Duration::from_millis(3140));
        let mut lately = Lately::default();
        lately.requests.minute = Counts {
            well: 795,
            full: 200,
            badly: 5,
            ..Counts::default()
        };
        let Summary { level, text } = summary(&pool, &lately);
        assert_eq!(level, Level::Attention);
        assert_eq!(
            text,
            "The only host serves. 12 requests wait, the first for 3.1 s. \
             In the last minute, 200 of 1000 requests were turned away and 5 failed."
        );
        let lost = |well, full, badly| {
            lost(Counts {
                well,
                full,
                badly,
                ..Counts::default()
            })
        };
        assert_eq!(lost(9, 0, 0), None);
        assert_eq!(lost(0, 1, 0).unwrap(), "1 of 1 request was turned away");
        assert_eq!(lost(1, 0, 1).unwrap(), "1 of 2 requests failed");
    }
}
