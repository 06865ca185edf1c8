//! Hosts and the proxy before them, and how to break and mend them while it runs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use super::ledger::Who;
use super::schedule::{Event, Fault, Scene};
use crate::harness::{
    Answer, Behaviour, Config, Ending, HealthAnswer, Proxy, Reply, Server, SimHost, sim_host,
};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// For a request of one item, on the first host.
pub(super) const WORK: Duration = Duration::from_millis(15);
/// No attempt lasts longer.
const ATTEMPT: &str = "3s";
const DRIP: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Stage {
    pub(super) hosts: Vec<SimHost>,
    pub(super) scene: Scene,
    work: Duration,
    removed: BTreeSet<usize>,
    rekeyed: BTreeSet<usize>,
    pub(super) proxy: Proxy,
    pub(super) predecessors: Vec<Proxy>,
    /// Whether clients hang up.
    pub(super) leave: watch::Sender<bool>,
    folder: TempDir,
}

impl Stage {
    pub(super) async fn set(scene: &Scene, time: Duration) -> Self {
        let number = scene.hosts.len();
        let hosts = scene
            .hosts
            .iter()
            .zip(NAMES)
            .enumerate()
            .map(|(at, (slots, name))| {
                let speaks_openai = scene.openai && at + 1 == number;
                let setup = sim_host(name).slots(*slots).key(&key(at, false));
                let setup = setup.behaving(work(time, at));
                if speaks_openai {
                    setup.openai(Server::default()).start()
                } else {
                    setup.scores_pairs_alone(true).start()
                }
            });
        let hosts: Vec<_> = hosts.collect();
        let folder = tempfile::tempdir().unwrap();
        let none = BTreeSet::new();
        let config = config(scene, &hosts, &none, &none);
        let proxy = start(&folder, &config).await;
        for host in &hosts {
            proxy.finds_healthy(host.name()).await;
        }
        Self {
            hosts,
            scene: scene.clone(),
            work: time,
            removed: none.clone(),
            rekeyed: none,
            proxy,
            predecessors: Vec::new(),
            leave: watch::Sender::new(false),
            folder,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.proxy.address()
    }

    /// It happens.
    pub(super) async fn begin(&mut self, event: Event) {
        match event {
            Event::Host(host, fault) => self.fall_ill(host, fault).await,
            Event::Leaving => {
                self.leave.send_replace(true);
            }
            Event::BadConfig => {
                let before = self.proxy.reloads("failure").await;
                self.proxy.rewrite("pool: {hosts: []}");
                self.proxy.has_reloaded("failure", before + 1).await;
            }
            Event::Upgrade => {
                let config = self.config();
                let next = start(&self.folder, &config).await;
                self.predecessors
                    .push(std::mem::replace(&mut self.proxy, next));
            }
        }
    }

    /// It is over.
    pub(super) async fn end(&mut self, event: Event) {
        match event {
            Event::Host(host, fault) => self.recover(host, fault).await,
            Event::Leaving => {
                self.leave.send_replace(false);
            }
            // It may have been mended on the way, by a change of the hosts or by an upgrade.
            Event::BadConfig => self.proxy.rewrite(&self.config().to_yaml()),
            Event::Upgrade => {}
        }
    }

    async fn fall_ill(&mut self, number: usize, fault: Fault) {
        let host = &self.hosts[number];
        match fault {
            Fault::Down => host.stop(),
            Fault::NotReady if host.speaks().is_some() => host.set_health(HealthAnswer::Answer(
                Answer::json(503, &json!({"error": "starting"})),
            )),
            Fault::NotReady => host.set_ready(false),
            Fault::WrongKey => host.set_key("a-key-that-nobody-has-told"),
            Fault::Foreign => host.set_foreign(self.scene.hosts[number]),
            Fault::FewerSlots => host.set_slots(1),
            Fault::Frozen => {
                host.set_health(HealthAnswer::Hang);
                host.set(Behaviour::Hang);
            }
            Fault::Drained => self.operate(number, "drain").await,
            Fault::Removed => {
                self.removed.insert(number);
                self.reload().await;
            }
            Fault::Rekeyed => {
                host.set_key(&key(number, true));
                self.rekeyed.insert(number);
                self.reload().await;
            }
            fault => host.set(behaviour(fault)),
        }
    }

    async fn recover(&mut self, number: usize, fault: Fault) {
        let host = &self.hosts[number];
        match fault {
            Fault::Down => host.restart(),
            Fault::NotReady if host.speaks().is_some() => host.set_health(HealthAnswer::Ok),
            Fault::NotReady => host.set_ready(true),
            Fault::WrongKey => host.set_key(&key(number, false)),
            Fault::Foreign => host.set_foreign(0),
            Fault::FewerSlots => host.set_slots(self.scene.hosts[number]),
            Fault::Drained => self.operate(number, "undrain").await,
            Fault::Removed => {
                self.removed.remove(&number);
                self.reload().await;
            }
            Fault::Rekeyed => {
                host.set_key(&key(number, false));
                self.rekeyed.remove(&number);
                self.reload().await;
            }
            _ => {
                host.set_health(HealthAnswer::Ok);
                host.set(work(self.work, number));
            }
        }
    }

    async fn operate(&self, host: usize, what: &str) {
        let path = format!("/api/v1/hosts/{}/{what}", NAMES[host]);
        let request = self.proxy.operator().request(Method::POST, &path);
        let reply = Reply::to(request.header("X-Gpu-Bridge", "1")).await;
        assert_eq!(reply.status, 200, "{what}: {reply:?}");
    }

    async fn reload(&self) {
        self.proxy.takes_over(&self.config()).await;
    }

    fn config(&self) -> Config {
        config(&self.scene, &self.hosts, &self.removed, &self.rekeyed)
    }

    /// Where the logs of all processes can be read.
    pub(super) fn save_logs(&self, seed: u64) -> PathBuf {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}.log"));
        let proxies = self.predecessors.iter().chain([&self.proxy]);
        let logs: Vec<_> = proxies.map(Proxy::log).collect();
        std::fs::write(&path, logs.join("--- its successor ---\n")).unwrap();
        path
    }

    /// Returns once every host is up. While nobody asks, one on trial stays on trial.
    pub(super) async fn is_well(&self) {
        for host in &self.hosts {
            self.proxy.finds(host.name(), "up").await;
        }
    }
}

/// The key of a host, before or after it got another.
fn key(host: usize, new: bool) -> String {
    let new = if new { "new-" } else { "" };
    format!("{new}key-of-host-{}", NAMES[host])
}

/// What hosts do when nothing is wrong: some are slower than others.
pub(super) fn work(time: Duration, host: usize) -> Behaviour {
    let time = time.mul_f64(1.0 + 0.25 * host as f64);
    Behaviour::ServeByItems(time, time / 10)
}

fn behaviour(fault: Fault) -> Behaviour {
    match fault {
        Fault::FrozenForWork => Behaviour::Hang,
        Fault::Errors => Behaviour::internal_server_error(),
        Fault::Cut => Behaviour::DieMidBody(Ending::Reset),
        Fault::CutChunks => Behaviour::DieMidChunks(Ending::Close),
        Fault::Drip => Behaviour::Drip(DRIP),
        Fault::Garbage => Behaviour::Say("\0\x01 garbage\r\n\r\n{}", Ending::Close),
        Fault::Early => Behaviour::AnswerUnread(Answer::error(500, "not now")),
        Fault::HalfClosed => Behaviour::SayUnread("", Ending::Close),
        Fault::Busy => Behaviour::busy(1),
        Fault::Slow => Behaviour::ServeAfter(Duration::from_millis(700)),
        Fault::HangsUp => Behaviour::ServeThenHangUp,
        Fault::OncePerConnection => Behaviour::ServeOncePerConnection(""),
        // Words that are an answer nobody could tell from the right one.
        Fault::Afterthought => Behaviour::ServeThenSay(DRIP / 50, "by the way\r\n"),
        other => unreachable!("{other:?} is not one of what it answers"),
    }
}

fn config(
    scene: &Scene,
    hosts: &[SimHost],
    removed: &BTreeSet<usize>,
    rekeyed: &BTreeSet<usize>,
) -> Config {
    let there = hosts
        .iter()
        .enumerate()
        .filter(|(at, _)| !removed.contains(at));
    let (numbers, there): (Vec<_>, Vec<_>) = there.unzip();
    let keys = Who::ALL
        .map(|who| json!({"name": who.name(), "key": who.name(), "priority": who.priority()}));
    let mut config = Config::with_hosts(&there)
        .client_keys(Value::from(keys.to_vec()))
        .set("pool", "policy", scene.policy)
        .set("batching", "min_gain", scene.min_gain)
        .set("batching", "merge", scene.merge)
        .set("queue", "max_wait", "30s")
        .set("timeouts", "attempt", ATTEMPT)
        // How many hosts a request may break is a promise of its own, which would excuse any failure here.
        .set("retries", "max_faulted_hosts", 100);
    if scene.default_checks {
        config = config.replace("health", json!({}));
    }
    for (number, host) in numbers.into_iter().zip(there) {
        config = config.set_host(
            host.name(),
            "api_key",
            key(number, rekeyed.contains(&number)),
        );
        if host.speaks().is_some() {
            config = config.set_host(host.name(), "max_concurrent", scene.hosts[number]);
        }
    }
    config
}

async fn start(folder: &TempDir, config: &Config) -> Proxy {
    let socket = folder.path().join("upgrade.sock");
    Proxy::start_with(config, |command| {
        command
            .arg("--upgrade-socket")
            .arg(socket)
            .args(["--log-format", "json"]);
    })
    .await
}
