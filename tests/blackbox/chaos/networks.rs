//! What networks do to hosts: the proxy runs in a network namespace of its own, with a link to each host that
//! loses packets without a word. No request fails; what each trouble costs is printed. `make networks`.
//!
//! ```text
//! clients ── link ──┐                ┌── link 0 ── host a
//!                   ├── namespace ───┼── link 1 ── host b
//! name server ──────┘   (the proxy)  └── link 2 ── host c
//! ```
//!
//! Needs root and iproute2. The test runs itself again where it has all networks to itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::crowd::Crowd;
use super::ledger::{Ledger, quantile};
use super::stage::{WORK, work};
use crate::harness::{
    Behaviour, Config, DnsServer, HealthAnswer, Process, Proxy, SimHost, sim_host,
};

const INSIDE: &str = "GPU_BRIDGE_TEST_NETWORKS";
const NAMES: [&str; 3] = ["a", "b", "c"];
const PORT: u16 = 8765;
/// Nobody has this hardware address: what is sent there is lost.
const NOBODY: &str = "02:00:00:00:00:99";
/// How long a trouble lasts.
const TROUBLE: Duration = Duration::from_secs(7);
const RECOVERS_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `make networks`"]
async fn no_request_fails_for_what_networks_do() {
    if std::env::var_os(INSIDE).is_some() {
        return measure().await;
    }
    if !run("unshare", "--net ip link set lo up").await {
        return eprintln!("SKIPPED: no networks of its own for a process (root, unshare, ip)");
    }
    let mut again = Command::new("unshare");
    again.arg("--net").arg(std::env::current_exe().unwrap());
    again.args(["--ignored", "--nocapture", "--exact"]);
    again
        .arg("chaos::networks::no_request_fails_for_what_networks_do")
        .env(INSIDE, "1");
    assert!(again.status().await.unwrap().success());
}

async fn measure() {
    must("ip link set lo up").await;
    eprintln!(
        "\n| trouble | longest request | host out after | host up again after |\n| --- | --- | --- | --- |"
    );
    let calm = Net::start()
        .await
        .suffers("none", async |_| {}, async |_| {})
        .await;
    eprintln!("{calm}");
    for row in [
        Net::start()
            .await
            .suffers("a host freezes", Net::freeze, Net::thaw)
            .await,
        Net::start()
            .await
            .suffers("nothing reaches a host", Net::lose_there, Net::find_there)
            .await,
        Net::start()
            .await
            .suffers("nothing comes back from it", Net::lose_back, Net::find_back)
            .await,
        Net::start()
            .await
            .suffers("neither", Net::part, Net::join)
            .await,
        Net::start()
            .await
            .suffers("no large packet reaches it", Net::dig_hole, Net::fill_hole)
            .await,
        Net::start()
            .await
            .suffers(
                "one port for connections to hosts",
                Net::take_ports,
                Net::give_ports,
            )
            .await,
    ] {
        eprintln!("{row}");
    }
    eprintln!("{}", delayed().await);
    if let Some(row) = moved().await {
        eprintln!("{row}");
    }
}

/// A link that takes its time, as far as this kernel can do that.
async fn delayed() -> String {
    let net = Net::start().await;
    let how = "tc qdisc add dev link0 root";
    if net.inside(&format!("{how} netem delay 150ms")).await {
        return net
            .suffers("300 ms more to a host and back", async |_| {}, async |_| {})
            .await;
    }
    eprintln!("SKIPPED: a link with a delay: this kernel has no netem; a narrow one instead");
    let narrow = format!("{how} tbf rate 400kbit burst 2k latency 2s");
    let begin = async |net: &Net| assert!(net.inside(&narrow).await, "no tbf");
    let end = async |net: &Net| assert!(net.inside("tc qdisc del dev link0 root").await);
    net.suffers("400 kbit/s to a host", begin, end).await
}

/// A host moves to another address, and its name follows.
async fn moved() -> Option<String> {
    let net = Net::start_with_links().await;
    let name = "gpu.test";
    let server = "10.213.100.1:53".parse().unwrap();
    let dns = DnsServer::start_at(server, 1, &[(name, "10.213.0.1")]).await?;
    let hosts = Net::hosts();
    let config = Net::config(&hosts[2..])
        .host("a", &format!("http://{name}:{PORT}"), None)
        .set("pool", "resolver", dns.address());
    let net = net.serve(&config, hosts).await;
    let leave = async |net: &Net| {
        net.part().await;
        dns.set(&[(name, "10.213.1.1")]).await;
        net.is("up").await;
    };
    Some(
        net.suffers(
            "a host moves, and its name a second later",
            leave,
            async |_| {},
        )
        .await,
    )
}

/// See the module.
struct Net {
    namespace: String,
    running: Option<Running>,
}

struct Running {
    hosts: Vec<SimHost>,
    proxy: Proxy,
    ledger: Arc<Ledger>,
    crowd: Crowd,
}

impl Net {
    /// With load on three hosts.
    async fn start() -> Self {
        let net = Self::start_with_links().await;
        let hosts = Self::hosts();
        let config = Self::config(&hosts);
        net.serve(&config, hosts).await
    }

    async fn start_with_links() -> Self {
        let namespace = format!("gpu-bridge-{}", std::process::id());
        // Of a run that was killed.
        run("ip", &format!("netns del {namespace}")).await;
        must(&format!("ip netns add {namespace}")).await;
        let net = Self {
            namespace,
            running: None,
        };
        for number in [0, 1, 2, 100] {
            let (ns, own) = (&net.namespace, format!("10.213.{number}"));
            // That of the namespace before goes a while after it.
            run("ip", &format!("link del host{number}")).await;
            must(&format!(
                "ip link add host{number} type veth peer name link{number} netns {ns}"
            ))
            .await;
            must(&format!("ip addr add {own}.1/24 dev host{number}")).await;
            must(&format!("ip link set host{number} up")).await;
            must(&format!("ip -n {ns} addr add {own}.2/24 dev link{number}")).await;
            must(&format!("ip -n {ns} link set link{number} up")).await;
        }
        must(&format!("ip -n {} link set lo up", net.namespace)).await;
        net
    }

    fn hosts() -> Vec<SimHost> {
        let at = |number| format!("10.213.{number}.1");
        let host = |(number, name): (usize, &&str)| {
            sim_host(name)
                .behaving(work(WORK, 0))
                .at(&at(number), PORT)
                .start()
        };
        NAMES.iter().enumerate().map(host).collect()
    }

    /// With the defaults for all that matters here.
    fn config(hosts: &[SimHost]) -> Config {
        let keys =
            super::ledger::Who::ALL.map(|who| json!({"name": who.name(), "key": who.name()}));
        Config::with_hosts(&hosts.iter().collect::<Vec<_>>())
            .client_keys(json!(keys))
            .replace("health", json!({}))
            .replace("timeouts", json!({}))
            .replace("queue", json!({}))
            .replace("listen", json!([{"address": "10.213.100.2:0"}]))
            .replace("admin", json!({"address": "10.213.100.2:0"}))
    }

    async fn serve(mut self, config: &Config, hosts: Vec<SimHost>) -> Self {
        let proxy = Proxy::start_with(config, |command| *command = self.inner(command)).await;
        proxy.finds_healthy(NAMES[0]).await;
        proxy.finds_healthy(NAMES[2]).await;
        let ledger = Arc::new(Ledger::default());
        let (_, nobody_leaves) = tokio::sync::watch::channel(false);
        let crowd = Crowd::start(1, proxy.address(), 2, &ledger, &nobody_leaves);
        self.running = Some(Running {
            hosts,
            proxy,
            ledger,
            crowd,
        });
        self
    }

    /// `command`, in the namespace.
    fn inner(&self, command: &Command) -> Command {
        let command = command.as_std();
        let mut inner = Command::new("ip");
        inner
            .args(["netns", "exec", &self.namespace])
            .arg(command.get_program());
        inner.args(command.get_args());
        inner.envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        inner
    }

    async fn inside(&self, command: &str) -> bool {
        run("ip", &format!("netns exec {} {command}", self.namespace)).await
    }

    /// Goes through it, under load; returns a row of the table.
    async fn suffers(
        mut self,
        what: &str,
        trouble: impl AsyncFn(&Self),
        end: impl AsyncFn(&Self),
    ) -> String {
        // Long enough for all that is learned of hosts.
        sleep(Duration::from_secs(3)).await;
        self.running().ledger.take();
        let began = Instant::now();
        let (out, ()) = tokio::join!(self.is_out(began), trouble(&self));
        sleep(TROUBLE.saturating_sub(began.elapsed())).await;
        let ended = Instant::now();
        end(&self).await;
        self.is("up").await;
        let back = ended.elapsed();
        let Running {
            hosts,
            proxy,
            ledger,
            crowd,
        } = self.running.take().unwrap();
        crowd.end().await;
        let worst = quantile(ledger.take(), 1.0).unwrap_or_default();
        let broken = ledger.all_broken();
        assert!(broken.is_empty(), "{what}: {broken:#?}\n{}", proxy.log());
        drop((hosts, proxy));
        let out = out.map_or("never".to_owned(), |out| format!("{out:.2?}"));
        let back = if out == "never" {
            "–".to_owned()
        } else {
            format!("{back:.2?}")
        };
        format!("| {what} | {worst:.2?} | {out} | {back} |")
    }

    /// How long it takes until the first host gets no more requests, if it ever comes to that.
    async fn is_out(&self, began: Instant) -> Option<Duration> {
        let proxy = &self.running().proxy;
        let found = timeout(TROUBLE, proxy.finds_unhealthy(NAMES[0])).await;
        found.ok().map(|()| began.elapsed())
    }

    async fn is(&self, state: &str) {
        let proxy = &self.running().proxy;
        let found = timeout(RECOVERS_WITHIN, proxy.finds(NAMES[0], state)).await;
        assert!(
            found.is_ok(),
            "{} is not {state}\n{}",
            NAMES[0],
            proxy.log()
        );
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    #[expect(clippy::unused_async, reason = "called like all other troubles")]
    async fn freeze(&self) {
        let host = &self.running().hosts[0];
        host.set_health(HealthAnswer::Hang);
        host.set(Behaviour::Hang);
    }

    #[expect(clippy::unused_async, reason = "called like all other troubles")]
    async fn thaw(&self) {
        let host = &self.running().hosts[0];
        host.set_health(HealthAnswer::Ok);
        host.set(work(WORK, 0));
    }

    async fn lose_there(&self) {
        assert!(
            self.inside(&format!(
                "ip neigh replace 10.213.0.1 lladdr {NOBODY} dev link0 nud permanent"
            ))
            .await
        );
    }

    async fn find_there(&self) {
        assert!(self.inside("ip neigh del 10.213.0.1 dev link0").await);
    }

    async fn lose_back(&self) {
        must(&format!(
            "ip neigh replace 10.213.0.2 lladdr {NOBODY} dev host0 nud permanent"
        ))
        .await;
    }

    async fn find_back(&self) {
        must("ip neigh del 10.213.0.2 dev host0").await;
    }

    async fn part(&self) {
        self.lose_there().await;
        self.lose_back().await;
    }

    async fn join(&self) {
        self.find_there().await;
        self.find_back().await;
    }

    /// Somewhere on the way packets may be no larger than 600 bytes, and nobody says so.
    async fn dig_hole(&self) {
        assert!(self.inside("ip link set link0 gso_max_segs 1").await);
        must("ip route replace 10.213.0.2/32 dev host0 advmss 1460").await;
        must("ip link set host0 mtu 600").await;
    }

    async fn fill_hole(&self) {
        must("ip link set host0 mtu 1500").await;
    }

    async fn take_ports(&self) {
        self.set_ports("50000 50000").await;
    }

    async fn give_ports(&self) {
        self.set_ports("32768 60999").await;
    }

    async fn set_ports(&self, range: &str) {
        let script = format!("echo {range} > /proc/sys/net/ipv4/ip_local_port_range");
        let mut command = Command::new("sh");
        let (code, _, error) = Process::run(&mut self.inner(command.args(["-c", &script]))).await;
        assert_eq!(code, Some(0), "{error}");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let delete = ["netns", "del", &self.namespace];
        // Fails only if it is gone.
        let _ = std::process::Command::new("ip").args(delete).status();
    }
}

async fn must(command: &str) {
    let (program, arguments) = command.split_once(' ').unwrap();
    assert!(run(program, arguments).await, "failed: {command}");
}

async fn run(program: &str, arguments: &str) -> bool {
    let status = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .await;
    status.is_ok_and(|output| output.status.success())
}
