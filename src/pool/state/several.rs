//! Several proxies that know nothing of each other in front of the same hosts, on a simulated clock: each is a
//! [`State`] that is told what a real one would be, and hosts behave as the Python service does.

use std::collections::{BTreeMap, VecDeque};

use super::tests::{ANSWERED, join_with, pool, settings};
use super::*;
use crate::pool::{Check, Outcome, Slots, Tells, Work};

/// How long a host lets a request wait for a slot.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// One way between a proxy and a host.
const WAY: Duration = Duration::from_micros(500);
/// What a request occupies a slot for, on average.
const MEAN: f64 = 0.2;
const HOSTS: usize = 4;
const SLOTS: u32 = 2;
/// Requests a second that all hosts can do.
const CAPACITY: f64 = 40.0;
/// How long a request has until its answer must be there.
const DEADLINE: Duration = Duration::from_mins(1);

/// What happens, to whom.
#[derive(Debug)]
enum What {
    Arrives {
        proxy: usize,
        work: Duration,
    },
    Reaches(Asked),
    GivesUp {
        host: usize,
        number: u64,
    },
    Ends {
        host: usize,
    },
    Answers(Asked, Outcome),
    Looks {
        proxy: usize,
        host: usize,
    },
    Tells {
        proxy: usize,
        host: usize,
        slots: Slots,
    },
    Wakes {
        proxy: usize,
    },
}

/// A request on its way to a host and back.
#[derive(Debug)]
struct Asked {
    number: u64,
    proxy: usize,
    grant: Option<Grant>,
    work: Duration,
}

#[derive(Default)]
struct SimulatedHost {
    running: u32,
    waiting: VecDeque<Asked>,
}

struct Request {
    arrived: Duration,
    work: Duration,
}

struct Proxy {
    state: State,
    requests: BTreeMap<Ticket, Request>,
    latencies: Vec<f64>,
    refused: usize,
    /// Of each host's next look.
    due: Vec<Duration>,
    wakes: Option<Instant>,
}

struct World {
    start: Instant,
    now: Duration,
    hosts: Vec<SimulatedHost>,
    proxies: Vec<Proxy>,
    happens: BTreeMap<(Duration, u64), What>,
    number: u64,
    /// Requests that have yet to be answered or refused.
    open: usize,
}

impl World {
    fn new(proxies: usize, rate: f64, requests: usize, seed: u64) -> Self {
        let start = Instant::now();
        let mut world = Self {
            start,
            now: Duration::ZERO,
            hosts: (0..HOSTS).map(|_| SimulatedHost::default()).collect(),
            proxies: Vec::new(),
            happens: BTreeMap::new(),
            number: 0,
            open: requests / proxies * proxies,
        };
        for proxy in 0..proxies {
            let mut state = pool(&[0; HOSTS], start);
            state.set_settings(settings(Policy::LeastBusy, 10_000));
            world.proxies.push(Proxy {
                state,
                requests: BTreeMap::new(),
                latencies: Vec::new(),
                refused: 0,
                due: vec![Duration::ZERO; HOSTS],
                wakes: None,
            });
            for host in 0..HOSTS {
                world.at(
                    Duration::from_millis((proxy * HOSTS + host) as u64),
                    What::Looks { proxy, host },
                );
            }
            let mut random = SmallRng::seed_from_u64(seed * 1000 + proxy as u64);
            let mut at = 1.0;
            for _ in 0..requests / proxies {
                at -= (1.0 - random.random::<f64>()).ln() / (rate / proxies as f64);
                let work = Duration::from_secs_f64(MEAN * lognormal(&mut random));
                world.at(Duration::from_secs_f64(at), What::Arrives { proxy, work });
            }
        }
        world
    }

    fn at(&mut self, time: Duration, what: What) {
        self.number += 1;
        self.happens.insert((time, self.number), what);
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn run(&mut self) {
        // Looks never end.
        while self.open > 0
            && let Some(((time, _), what)) = self.happens.pop_first()
        {
            self.now = time;
            self.happen(what);
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Arrives { proxy, work } => self.arrives(proxy, work),
            What::Reaches(asked) => {
                let host = index(asked.grant.as_ref().unwrap().host);
                let number = asked.number;
                self.hosts[host].waiting.push_back(asked);
                self.start_next(host);
                self.at(self.now + PATIENCE, What::GivesUp { host, number });
            }
            What::GivesUp { host, number } => {
                let waiting = &mut self.hosts[host].waiting;
                if let Some(position) = waiting.iter().position(|it| it.number == number) {
                    let asked = waiting.remove(position).unwrap();
                    self.at(
                        self.now + WAY,
                        What::Answers(
                            asked,
                            Outcome::Busy {
                                retry_after: RETRY_AFTER,
                            },
                        ),
                    );
                }
            }
            What::Ends { host } => {
                self.hosts[host].running -= 1;
                self.start_next(host);
            }
            What::Answers(asked, outcome) => self.answers(asked, outcome),
            What::Looks { proxy, host } => self.looks(proxy, host),
            What::Tells { proxy, host, slots } => self.tells(proxy, host, slots),
            What::Wakes { proxy } => {
                let now = self.instant();
                self.proxies[proxy].wakes = None;
                self.act(proxy, |it| it.state.grant(now));
            }
        }
    }

    fn arrives(&mut self, proxy: usize, work: Duration) {
        let (now, at) = (self.instant(), self.now);
        let mut refused = false;
        self.act(proxy, |it| {
            let demand = Demand {
                work: Work {
                    items: 1,
                    bytes: 200,
                },
                ..Demand::default()
            };
            let ticket = join_with(&mut it.state, demand, now);
            let grants = it.state.grant(now);
            it.requests.insert(ticket, Request { arrived: at, work });
            refused = it.state.admit(ticket, DEADLINE, now).is_err();
            if refused {
                it.refused += 1;
                it.requests.remove(&ticket);
            }
            grants
        });
        self.open -= usize::from(refused);
    }

    fn tells(&mut self, proxy: usize, host: usize, slots: Slots) {
        let (now, at) = (self.instant(), self.now);
        self.act(proxy, |it| {
            let id = HostId(host as u64);
            let ours = slots.ours.max(it.state.host(id).unwrap().in_flight);
            let slots = Tells::Slots(Slots { ours, ..slots });
            it.state.checked(id, &Check::Good { slots }, now);
            it.due[host] = at + it.state.check_delay(id, now);
            it.state.grant(now)
        });
        self.at(self.proxies[proxy].due[host], What::Looks { proxy, host });
    }

    fn looks(&mut self, proxy: usize, host: usize) {
        if self.now < self.proxies[proxy].due[host] {
            return;
        }
        let it = &self.hosts[host];
        let in_flight = it.running + u32::try_from(it.waiting.len()).unwrap();
        let slots = Slots {
            max_concurrent: SLOTS,
            available: SLOTS.saturating_sub(in_flight),
            in_flight,
            ours: self.proxies[proxy]
                .state
                .host(HostId(host as u64))
                .unwrap()
                .in_flight,
        };
        // Until it is told.
        self.proxies[proxy].due[host] = Duration::MAX;
        self.at(self.now + 2 * WAY, What::Tells { proxy, host, slots });
    }

    fn start_next(&mut self, host: usize) {
        let it = &mut self.hosts[host];
        while it.running < SLOTS
            && let Some(asked) = it.waiting.pop_front()
        {
            it.running += 1;
            let ends = self.now + asked.work;
            self.number += 2;
            self.happens
                .insert((ends, self.number - 1), What::Ends { host });
            self.happens
                .insert((ends + WAY, self.number), What::Answers(asked, ANSWERED));
        }
    }

    fn answers(&mut self, asked: Asked, outcome: Outcome) {
        self.open -= usize::from(outcome == ANSWERED);
        let (now, at) = (self.instant(), self.now);
        self.act(asked.proxy, |it| {
            let grant = asked.grant.unwrap();
            let _ = it.state.finish(&grant, outcome, now);
            if outcome == ANSWERED {
                let request = it.requests.remove(&grant.ticket).unwrap();
                it.latencies
                    .push(at.saturating_sub(request.arrived).as_secs_f64());
            }
            let grants = it.state.grant(now);
            if outcome == ANSWERED {
                return grants;
            }
            it.state.join(
                grant.ticket,
                grant.demand.clone(),
                Avoid::default(),
                true,
                now,
            );
            grants.into_iter().chain(it.state.grant(now)).collect()
        });
    }

    fn act(&mut self, proxy: usize, act: impl FnOnce(&mut Proxy) -> Vec<Grant>) {
        let now = self.instant();
        let it = &mut self.proxies[proxy];
        let waited = it.state.wants_slots(now);
        let grants = act(it);
        let mut sent = Vec::new();
        for grant in grants {
            let work = it.requests.get(&grant.ticket).unwrap().work;
            self.number += 1;
            sent.push(Asked {
                number: self.number,
                proxy,
                grant: Some(grant),
                work,
            });
        }
        let mut looks = Vec::new();
        if !waited && it.state.wants_slots(now) {
            for id in it.state.worth_polling(now).collect::<Vec<_>>() {
                let host = index(id);
                if it.due[host] == Duration::MAX {
                    continue;
                }
                let last = it.state.host(id).unwrap().last_check.unwrap();
                let due =
                    (last.duration_since(self.start) + it.state.check_delay(id, now)).max(self.now);
                if due < it.due[host] {
                    it.due[host] = due;
                    looks.push((due, host));
                }
            }
        }
        let wake = it.state.next_wakeup(now);
        let wake = (wake != it.wakes)
            .then(|| {
                it.wakes = wake;
                wake
            })
            .flatten();
        for asked in sent {
            self.at(self.now + WAY, What::Reaches(asked));
        }
        for (due, host) in looks {
            self.at(due, What::Looks { proxy, host });
        }
        if let Some(wake) = wake {
            self.at(wake.duration_since(self.start), What::Wakes { proxy });
        }
    }
}

fn index(host: HostId) -> usize {
    usize::try_from(host.0).unwrap()
}

fn lognormal(random: &mut SmallRng) -> f64 {
    let variance = 1.25f64.ln();
    let uniform = |random: &mut SmallRng| random.random::<f64>();
    let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * uniform(random)).cos();
    (variance.sqrt() * normal - variance / 2.0).exp()
}

/// The mean of the proxies' 99th percentiles, at 1.2 times what the hosts can do.
fn p99(proxies: usize, seed: u64) -> f64 {
    let mut world = World::new(proxies, 1.2 * CAPACITY, 2160, seed);
    world.run();
    let each = world.proxies.iter_mut().map(|proxy| {
        assert_eq!(proxy.refused, 0, "{proxies} proxies, seed {seed}");
        proxy.latencies.sort_by(f64::total_cmp);
        proxy.latencies[proxy.latencies.len() * 99 / 100]
    });
    each.sum::<f64>() / proxies as f64
}

#[test]
fn many_proxies_serve_a_pool_as_one_does() {
    for seed in 1..=3 {
        let alone = p99(1, seed);
        for proxies in [3, 8] {
            let together = p99(proxies, seed);
            assert!(
                together < 1.1 * alone,
                "{proxies} proxies: {together:.2} s, one: {alone:.2} s, seed {seed}"
            );
        }
    }
}
