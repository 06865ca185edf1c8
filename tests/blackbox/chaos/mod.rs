//! Hosts fail in every way that we know, clients leave, operators drain, change the configuration and start new
//! programs, all at once and under load; and every promise is kept: see [`play`].
//!
//! What happens is drawn from a seed ([`schedule`]). A run that fails prints it, and the shortest part of it that
//! still fails. `make chaos` plays many, one after the other:
//!
//! | variable | means |
//! | --- | --- |
//! | `CHAOS_SEED` | of the first run; each that follows has the next one |
//! | `CHAOS_TIME` | seconds in all, in runs of at most 20 |
//! | `CHAOS_TRIES` | runs that may be spent on finding the shortest schedule |
//! | `CHAOS_ONLY` | only these events of the first run, by number, and only that run |

mod crowd;
mod ledger;
mod networks;
mod play;
mod schedule;
mod soak;
mod stage;
mod turns;

use std::time::{Duration, Instant};

use self::play::play;
use self::schedule::{Schedule, shortest};

/// Of one run.
const RUN: u64 = 20;
/// In `make test`.
const SHORT: u64 = 10;
/// Of `CHAOS_TRIES`.
const TRIES: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_every_promise_is_kept() {
    let told = |name: &str| {
        std::env::var(format!("CHAOS_{name}"))
            .ok()
            .filter(|it| !it.is_empty())
    };
    let number = |name, default| told(name).map_or(default, |it| it.parse().expect("a number"));
    let (seed, time) = (number("SEED", 1), number("TIME", SHORT));
    let run = Duration::from_secs(time.min(RUN));
    if let Some(only) = told("ONLY") {
        let only: Vec<_> = only
            .split(',')
            .map(|it| it.parse().expect("a number"))
            .collect();
        let broken = play(Schedule::draw(seed, run).only(&only)).await;
        assert!(broken.is_empty(), "{broken:#?}");
        return;
    }
    let began = Instant::now();
    for seed in seed.. {
        keeps_promises(Schedule::draw(seed, run), number("TRIES", TRIES)).await;
        if began.elapsed() + run > Duration::from_secs(time) {
            break;
        }
    }
}

async fn keeps_promises(schedule: Schedule, tries: u64) {
    let broken = play(schedule.clone()).await;
    if broken.is_empty() {
        return eprintln!("seed {}: {} events", schedule.seed, schedule.entries.len());
    }
    eprintln!("{schedule}\nBROKEN: {broken:#?}\nlooking for a shorter schedule");
    let mut last = broken;
    let kept = shortest(schedule.numbers(), tries, async |kept| {
        let broken = play(schedule.only(kept)).await;
        let fails = !broken.is_empty();
        if fails {
            last = broken;
        }
        fails
    })
    .await;
    panic!("{}\nBROKEN: {last:#?}", schedule.only(&kept));
}
