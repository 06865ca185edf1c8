//! How the pool's cost grows: 1,000 hosts, all slots taken, 10,000 requests waiting; then leases end
//! and the next in line are granted, over and over. Prints what one such step costs and whether
//! memory stays flat.
//!
//! ```sh
//! cargo run --release --example pool_bench
//! ```

#![expect(clippy::print_stdout, reason = "its results are for standard output")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use gpu_bridge::config::Policy;
use gpu_bridge::pool::{
    Check, Demand, HostSpec, Lease, Model, Origin, Outcome, Pool, Settings, Tells, Thresholds,
    Waiting, Work,
};
use gpu_bridge_wire::Info;

const CLIENTS: usize = 16;
const MODELS: usize = 4;
const STEPS: u32 = 50_000;

fn main() {
    println!("hosts  waiting  policy        step mean   step p99   memory");
    for (hosts, waiting) in [(10, 100), (100, 1_000), (1_000, 10_000)] {
        for (name, policy) in [
            ("least-busy", Policy::LeastBusy),
            ("round-robin", Policy::RoundRobin),
        ] {
            let (mut steps, grown) = run(hosts, waiting, policy);
            steps.sort_unstable();
            let mean: Duration = steps.iter().sum::<Duration>() / STEPS;
            let p99 = steps[steps.len() * 99 / 100];
            println!("{hosts:5}  {waiting:7}  {name:12}  {mean:9.1?}  {p99:9.1?}   {grown:+} KiB");
        }
    }
}

/// The time of each step, and by how much the process has grown over the last half of them.
fn run(hosts: usize, waiting: usize, policy: Policy) -> (Vec<Duration>, i64) {
    let pool = pool(hosts, waiting, policy);
    let mut held: Vec<Lease> = Vec::new();
    let mut line: std::collections::VecDeque<Waiting> = std::collections::VecDeque::new();
    let mut arrivals = 0..;
    while line.len() < waiting {
        let mut place = join(&pool, arrivals.next().unwrap_or_default());
        match place.try_lease() {
            Some(Ok(lease)) => held.push(lease),
            _ => line.push_back(place),
        }
    }
    let mut steps = Vec::new();
    let mut memory = 0;
    for step in 0..STEPS {
        if step == STEPS / 2 {
            memory = resident();
        }
        let ended = held.swap_remove(step as usize * 7919 % held.len());
        let began = Instant::now();
        ended.finish(Outcome::Answered { timed: true });
        steps.push(began.elapsed());
        take_granted(&mut line, &mut held);
        line.push_back(join(&pool, arrivals.next().unwrap_or_default()));
    }
    (steps, resident() - memory)
}

/// Moves what was granted from the line to the leases; the fair queue grants near its front.
fn take_granted(line: &mut std::collections::VecDeque<Waiting>, held: &mut Vec<Lease>) {
    let mut position = 0;
    while position < line.len() {
        match line[position].lease().now_or_never() {
            Some(Ok(lease)) => {
                held.push(lease);
                line.remove(position);
                return;
            }
            _ => position += 1,
        }
    }
}

fn pool(hosts: usize, waiting: usize, policy: Policy) -> Pool {
    let thresholds = Thresholds {
        healthy_after: NonZeroU32::MIN,
        unhealthy_after: NonZeroU32::MIN,
    };
    let settings = Settings {
        policy,
        thresholds,
        max_waiting: waiting + 10,
        max_waiting_bytes: usize::MAX,
        check_interval: Duration::from_secs(5),
    };
    let pool = Pool::new(settings, 1, Box::new(|_| ()));
    let spec = |number: usize| HostSpec {
        name: format!("h{number}")
            .parse()
            .unwrap_or_else(|_| unreachable!()),
        endpoint: String::new(),
        max_concurrent: NonZeroU32::new(2),
        weight: NonZeroU32::MIN,
        max_items: None,
        tells_less: false,
        origin: Origin::Configured,
    };
    for id in pool.set_hosts((0..hosts).map(spec).collect()) {
        pool.checked(
            id,
            &Check::Good {
                slots: Tells::Nothing,
            },
        );
        let models = (0..MODELS).map(|model| format!("embed:{model}"));
        pool.told(
            id,
            Info {
                loaded_models: models.collect(),
                ..Info::default()
            },
        );
    }
    pool
}

fn join(pool: &Pool, number: usize) -> Waiting {
    let client: Arc<str> = (number % CLIENTS).to_string().into();
    let demand = Demand {
        client: Some(client),
        model: Model::new(&format!("embed:{}", number % MODELS)),
        work: Work {
            items: 1,
            bytes: 100,
        },
        bytes: 100,
        ..Demand::default()
    };
    let patience = Duration::from_hours(1);
    match pool.join(pool.ticket(), &demand, patience) {
        Ok(waiting) => waiting,
        Err(turned_away) => unreachable!("{turned_away}"),
    }
}

/// In KiB, from /proc/self/statm.
fn resident() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<i64>().ok());
    pages.unwrap_or(0) * 4
}
