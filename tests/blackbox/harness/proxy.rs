//! The real proxy, as a child process.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tempfile::NamedTempFile;
use tokio::process::Command;

use super::metrics::Metrics;
use super::{Client, Config, Process, RawConnection, SimHost, eventually};

/// A running proxy.
pub(crate) struct Proxy {
    process: Process,
    /// Of all addresses for clients.
    urls: Vec<String>,
    admin: String,
    http: reqwest::Client,
    config: NamedTempFile,
}

/// The proxy's program, with a log for tests that fail.
pub(crate) fn gpu_bridge() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-bridge"));
    command.env("RUST_LOG", "info");
    command
}

/// Lets its environment name a file of authorities that is not there.
pub(crate) fn without_authorities(command: &mut Command) {
    command.env("SSL_CERT_FILE", "/no/such/file");
    command.env_remove("SSL_CERT_DIR");
}

impl Proxy {
    /// Starts it; returns once it listens.
    pub(crate) async fn start(config: &Config) -> Self {
        Self::start_with(config, |_| {}).await
    }

    /// Starts it so that it relieves the one that runs with the same `upgrade_socket`; returns once
    /// it has.
    pub(crate) async fn start_at(upgrade_socket: &Path, config: &Config) -> Self {
        Self::start_with(config, |command| {
            command.arg("--upgrade-socket").arg(upgrade_socket);
        })
        .await
    }

    /// Starts it with more arguments, or another environment.
    pub(crate) async fn start_with(config: &Config, arguments: impl FnOnce(&mut Command)) -> Self {
        Self::start_logging_to(Stdio::piped(), config, arguments).await
    }

    /// The same with another standard error than one that is read here.
    pub(crate) async fn start_logging_to(
        stderr: Stdio,
        config: &Config,
        arguments: impl FnOnce(&mut Command),
    ) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(config.to_yaml().as_bytes()).unwrap();
        let mut command = serve(file.path());
        arguments(&mut command);
        let mut process = Process::start_logging_to("the proxy", &mut command, stderr);
        let (mut urls, mut admin) = (Vec::new(), None);
        while admin.is_none() {
            let line = process.line().await.expect("the admin address");
            match line.strip_prefix("listening on ") {
                Some(url) => urls.push(url.to_owned()),
                None => admin = line.strip_prefix("admin on http://").map(str::to_owned),
            }
        }
        Self {
            process,
            urls,
            admin: admin.unwrap_or_default(),
            // A kept connection may end at any time: with an upgrade.
            http: super::client::builder()
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
            config: file,
        }
    }

    /// Starts it in vain; returns what it says.
    pub(crate) async fn fails_to_start(config: &Config) -> String {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(config.to_yaml().as_bytes()).unwrap();
        let (code, _, log) = Process::run(&mut serve(file.path())).await;
        assert!(code.is_some_and(|code| code != 0), "it started: {log}");
        log
    }

    /// Starts it in front of `hosts` with the defaults of [`Config`]; returns once it has found them
    /// healthy.
    pub(crate) async fn in_front_of(hosts: &[&SimHost]) -> Self {
        Self::ready(&Config::with_hosts(hosts), hosts).await
    }

    /// Starts it; returns once it has found `hosts` healthy.
    pub(crate) async fn ready(config: &Config, hosts: &[&SimHost]) -> Self {
        Self::ready_with(config, hosts, |_| ()).await
    }

    /// The same of one that is started otherwise.
    pub(crate) async fn ready_with(
        config: &Config,
        hosts: &[&SimHost],
        arguments: impl FnOnce(&mut Command),
    ) -> Self {
        let proxy = Self::start_with(config, arguments).await;
        for host in hosts {
            proxy.finds_healthy(host.name()).await;
        }
        proxy
    }

    pub(crate) fn client(&self) -> Client {
        self.client_of(0)
    }

    /// A client of another address than the first.
    pub(crate) fn client_of(&self, address: usize) -> Client {
        Client::new(&self.urls[address])
    }

    /// A connection to do unusual things on.
    pub(crate) async fn connect(&self) -> RawConnection {
        RawConnection::open(self.address()).await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// Another address than the first.
    pub(crate) fn address_of(&self, address: usize) -> SocketAddr {
        let (_, address) = self.urls[address].split_once("://").expect("a URL");
        address.parse().unwrap()
    }

    /// The address for operators.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// A client of that address.
    pub(crate) fn operator(&self) -> Client {
        Client::new(&format!("http://{}", self.admin))
    }

    /// Runs a command that talks to this proxy: exit code, standard output, standard error.
    pub(crate) async fn command(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = gpu_bridge();
        command.args(arguments);
        command.env("GPU_BRIDGE_ADMIN", format!("http://{}", self.admin));
        Process::run(&mut command).await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.metrics_text().await)
    }

    pub(crate) async fn metrics_text(&self) -> String {
        let url = format!("http://{}/metrics", self.admin);
        let reply = self.http.get(url).send().await.expect("metrics");
        assert_eq!(reply.status(), 200);
        reply.text().await.unwrap()
    }

    /// One of the metrics that each host has, without their common prefix: `"healthy"`, `"busy"`,
    /// `"capacity"`, `"in_flight"`.
    pub(crate) async fn host_metric(&self, metric: &str, host: &str) -> u64 {
        let name = format!("gpu_bridge_host_{metric}");
        self.metrics().await.gauge(&name, &[("host", host)])
    }

    pub(crate) async fn is_healthy(&self, host: &str) -> bool {
        // One that has just been added or removed may have no metrics.
        let metrics = self.metrics().await;
        metrics.count("gpu_bridge_host_healthy", &[("host", host)]) == 1
    }

    /// Returns once `host` is in this state, as metrics name it.
    pub(crate) async fn finds(&self, host: &str, state: &str) {
        eventually(&format!("{host} is {state}"), async || {
            let metrics = self.metrics().await;
            let labels = [("host", host), ("state", state)];
            metrics.count("gpu_bridge_host_state", &labels) == 1
        })
        .await;
    }

    pub(crate) async fn finds_healthy(&self, host: &str) {
        let what = format!("{host} is healthy");
        eventually(&what, async || self.is_healthy(host).await).await;
    }

    pub(crate) async fn finds_unhealthy(&self, host: &str) {
        let what = format!("{host} is not healthy");
        eventually(&what, async || !self.is_healthy(host).await).await;
    }

    /// How often `host` was ejected.
    pub(crate) async fn ejections(&self, host: &str) -> u64 {
        let metrics = self.metrics().await;
        metrics.count("gpu_bridge_host_ejections_total", &[("host", host)])
    }

    /// Attempts on `host` that ended with `verdict`.
    pub(crate) async fn attempts(&self, host: &str, verdict: &str) -> u64 {
        let labels = [("host", host), ("verdict", verdict)];
        let metrics = self.metrics().await;
        metrics.count("gpu_bridge_attempts_total", &labels)
    }

    /// Attempts on `host` that were not delivered.
    pub(crate) async fn failed_attempts(&self, host: &str) -> u64 {
        let metrics = self.metrics().await;
        let all = metrics.count("gpu_bridge_attempts_total", &[("host", host)]);
        let delivered = [("host", host), ("verdict", "deliver")];
        all - metrics.count("gpu_bridge_attempts_total", &delivered)
    }

    /// Returns once exactly `requests` wait in the queue.
    pub(crate) async fn queues(&self, requests: u64) {
        let what = format!("{requests} requests in the queue");
        eventually(&what, async || {
            let metrics = self.metrics().await;
            metrics.gauge("gpu_bridge_queue_length", &[]) == requests
        })
        .await;
    }

    /// Puts `config` in the place of the file that it was started with, as editors do.
    pub(crate) fn rewrite(&self, config: &str) {
        let path = self.config.path();
        let next = path.with_extension("next");
        std::fs::write(&next, config).unwrap();
        std::fs::rename(&next, path).unwrap();
    }

    /// The file that it was started with.
    pub(crate) fn file(&self) -> &Path {
        self.config.path()
    }

    /// Changes its configuration; returns once it has noticed and taken it over.
    pub(crate) async fn takes_over(&self, config: &Config) {
        let before = self.reloads("success").await;
        self.rewrite(&config.to_yaml());
        self.has_reloaded("success", before + 1).await;
    }

    /// How many reloads had this result: `"success"` or `"failure"`.
    pub(crate) async fn reloads(&self, result: &str) -> u64 {
        let metrics = self.metrics().await;
        metrics.count("gpu_bridge_config_reloads_total", &[("result", result)])
    }

    /// Returns once so many reloads, or more, had this result.
    pub(crate) async fn has_reloaded(&self, result: &str, times: u64) {
        let what = format!("{times} reloads: {result}");
        eventually(&what, async || self.reloads(result).await >= times).await;
    }

    /// Returns once it tells of exactly these hosts, by name.
    pub(crate) async fn has_hosts(&self, names: &[&str]) {
        eventually(&format!("the hosts {names:?}"), async || {
            let metrics = self.metrics().await;
            metrics.labels("gpu_bridge_host_healthy", "host") == names
        })
        .await;
    }

    /// Closes the pipe that is its standard output, and its successors'.
    pub(crate) fn close_stdout(&mut self) {
        self.process.close_stdout();
    }

    /// Its number in the system.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Asks it to stop (SIGTERM).
    pub(crate) async fn terminate(&self) {
        self.process.terminate().await;
    }

    /// Sends it a signal, say `"USR2"`.
    pub(crate) async fn signal(&self, name: &str) {
        self.process.signal(name).await;
    }

    /// Lets it open files only up to this number from now on.
    pub(crate) fn limit_files(&self, limit: u64) {
        let pid = self.process.id().try_into().unwrap();
        let pid = rustix::process::Pid::from_raw(pid);
        let kind = rustix::process::Resource::Nofile;
        let mut limits = rustix::process::getrlimit(kind);
        limits.current = Some(limit);
        rustix::process::prlimit(pid, kind, limits).unwrap();
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> usize {
        let files = format!("/proc/{}/fd", self.process.id());
        std::fs::read_dir(files).unwrap().count()
    }

    /// Of the processor, so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        // After the name, in parentheses: user's and system's time are the 12th and the 13th, in hundredths.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let hundredths: u64 = fields
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        Duration::from_millis(hundredths * 10)
    }

    /// The most memory that it ever took, in MiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.unwrap().parse::<u64>().unwrap() >> 10
    }

    /// Returns once its log holds `text`.
    pub(crate) async fn logs(&self, text: &str) {
        self.process.logs(text).await;
    }

    /// Returns once it has answered a request for an embedding.
    pub(crate) async fn answers(&self) {
        eventually("an answer of this process", async || {
            let metrics = self.metrics().await;
            metrics.count("gpu_bridge_requests_total", &[("route", "embed")]) > 0
        })
        .await;
    }

    /// Has it ended?
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.process.ended().await
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// The command that runs it.
pub(crate) fn serve(config: &Path) -> Command {
    let mut command = gpu_bridge();
    command.arg("serve").arg("--config").arg(config);
    command
}
