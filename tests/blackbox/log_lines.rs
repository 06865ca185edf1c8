//! Whatever happens, each line of the log is one that people and programs can read: a number for what is
//! a number, a unit in the name of each duration, nothing of how the program looks inside.

use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{
    Authority, Backend, Behaviour, Client, Config, Proxy, Reply, SimHost, eventually, secure,
    sim_host,
};

/// Words in the names of durations, and what those names must end in.
const DURATIONS: [&str; 7] = [
    "after", "wait", "took", "time", "duration", "elapsed", "upstream",
];
const UNITS: [&str; 2] = ["_seconds", "_ms"];

/// Fails the test unless the line, as JSON, is one that programs can read.
fn assert_readable(line: &str) -> Map<String, Value> {
    let fields: Map<String, Value> =
        serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
    for (name, value) in &fields {
        let text = value.as_str().unwrap_or_default();
        for inside in ["Some(", "None", "Err(", "Ok(", "context:", "cause:", "\n"] {
            assert!(!text.contains(inside), "{name}: {line}");
        }
        let is_duration = DURATIONS.iter().any(|word| name.contains(word)) && name != "timestamp";
        if is_duration {
            assert!(
                UNITS.iter().any(|unit| name.ends_with(unit)),
                "{name}: {line}"
            );
            assert!(value.is_number(), "{name}: {line}");
        }
        assert!(!looks_like_a_duration(text), "{name}: {line}");
    }
    assert!(
        fields["target"].as_str().unwrap().starts_with("gpu_bridge"),
        "{line}"
    );
    assert!(!fields["message"].as_str().unwrap().is_empty(), "{line}");
    fields
}

/// What clients and hosts call things, wherever it is shown on a terminal.
#[tokio::test]
async fn no_name_reaches_a_terminal_as_it_came() {
    const ODD: &str =
        "m\u{1b}]0;x\u{7}\nERROR all is lost\u{202e}\u{2028}\u{9b}2J\u{200b}\u{feff}\u{e0041}\r";
    let host = sim_host("odd").models(&[ODD]).start();
    for format in ["json", "human"] {
        let config = Config::with_hosts(&[&host]);
        let proxy = Proxy::start_with(&config, |command| {
            command.args(["--log-format", format]);
            command.env("RUST_LOG", "info,gpu_bridge=trace");
        })
        .await;
        proxy.finds_healthy("odd").await;
        let body = json!({"texts": ["x"], "model": ODD});
        let request = proxy.client().request(http::Method::POST, "/embed");
        let request = request.header("X-Request-Id", "odd-one").json(&body);
        assert_eq!(Reply::to(request).await.status, 200);
        proxy.logs("odd-one").await;
        eventually("the host tells its model", async || {
            proxy
                .command(&["status"])
                .await
                .1
                .contains("ERROR all is lost")
        })
        .await;

        let (_, status, _) = proxy.command(&["status"]).await;
        let (_, story, _) = proxy.command(&["explain", "odd-one"]).await;
        let (_, _, unknown) = proxy.command(&["explain", ODD]).await;
        let (_, _, nobody) = proxy.command(&["drain", ODD]).await;
        let page = proxy.operator().get("/api/v1/pool").await.body;
        let page = String::from_utf8(page.to_vec()).unwrap();
        for shown in [proxy.log(), status, story, unknown, nobody, page] {
            let odd =
                |c: &char| c.is_control() && *c != '\n' || ODD[1..].contains(*c) && !c.is_ascii();
            assert_eq!(shown.chars().find(odd), None, "{shown}");
            assert!(!shown.contains("\nERROR"), "{shown}");
        }
    }
}

/// `1.5s`, `200ms`: as `Debug` prints them.
fn looks_like_a_duration(text: &str) -> bool {
    let number = text.trim_end_matches(|char: char| !char.is_ascii_digit());
    ["s", "ms", "µs", "ns"].contains(&&text[number.len()..]) && number.parse::<f64>().is_ok()
}

fn polls(client: &Client) -> impl Future<Output = ()> {
    let client = client.clone();
    async move {
        for path in ["/health", "/status", "/info"] {
            assert_eq!(client.get(path).await.status, 200, "{path}");
        }
    }
}

struct Scene {
    hosts: Vec<SimHost>,
    proxy: Proxy,
    authority: Authority,
    config: Config,
}

/// A proxy of two addresses, with and without TLS, in front of three hosts.
async fn scene(arguments: &[&str]) -> Scene {
    let authority = Authority::new();
    let identity = authority.issue(&["a"]);
    let tls = json!({"certificate": identity.certificate(), "key": identity.key()});
    let hosts: Vec<_> = ["a", "b", "c"].map(|name| sim_host(name).start()).into();
    let listed: Vec<&SimHost> = hosts.iter().collect();
    let config = Config::with_hosts(&listed)
        .replace(
            "listen",
            json!([{"address": "127.0.0.1:0", "tls": tls}, {"address": "127.0.0.1:0"}]),
        )
        .set("timeouts", "attempt", "1s");
    let proxy = Proxy::start_with(&config, |command| {
        command.args(arguments);
    })
    .await;
    for host in &hosts {
        proxy.finds_healthy(host.name()).await;
    }
    std::mem::forget(identity);
    Scene {
        hosts,
        proxy,
        authority,
        config,
    }
}

impl Scene {
    /// All of it, from the first line of the log to the last.
    async fn play(mut self) -> String {
        let plain = self.proxy.client_of(1);
        self.clients(&plain).await;
        self.hosts(&plain).await;
        self.operators().await;
        self.proxy.terminate().await;
        self.proxy.ended().await;
        self.proxy.log()
    }

    fn secure(&self) -> std::net::SocketAddr {
        self.proxy.address()
    }

    /// What clients do, well and badly.
    async fn clients(&self, plain: &Client) {
        polls(plain).await;
        plain.flood(4, 2).await;
        plain.get("/nowhere").await.assert_error(404);
        plain.post("/embed", &json!({"texts": 1})).await;
        let unheard = tokio::spawn({
            let plain = plain.clone();
            async move { plain.embed("unheard").await }
        });
        unheard.abort();
        for odd in [
            &b""[..],
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x00\x05nonsense",
        ] {
            let mut probe = TcpStream::connect(self.secure()).await.unwrap();
            probe.write_all(odd).await.unwrap();
        }
        let trusted = Authority::new().client(None, &[]);
        assert!(
            secure(self.secure(), "a", trusted).await.is_err(),
            "it trusts somebody else"
        );
        let trusting = self.authority.client(None, &["http/1.1"]);
        drop(secure(self.secure(), "a", trusting).await.unwrap());
    }

    /// What hosts do.
    async fn hosts(&self, plain: &Client) {
        for behaviour in [
            Behaviour::busy(1),
            Behaviour::internal_server_error(),
            Behaviour::Hang,
        ] {
            self.hosts[0].set(behaviour);
            plain.flood(4, 2).await;
        }
        self.hosts[1].stop();
        self.proxy.finds_unhealthy("b").await;
        plain.flood(4, 2).await;
    }

    /// What operators do.
    async fn operators(&self) {
        for command in [&["drain", "c"][..], &["undrain", "c"], &["reload"]] {
            self.proxy.command(command).await;
        }
        let bad = self.config.clone().set("queue", "max_wait", 5);
        self.proxy.rewrite(&bad.to_yaml());
        self.proxy.has_reloaded("failure", 1).await;
        self.proxy
            .takes_over(
                &self
                    .config
                    .clone()
                    .without_host("b")
                    .set("health", "interval", "200ms"),
            )
            .await;
    }
}

#[tokio::test]
async fn each_line_of_the_proxy_can_be_read_by_programs() {
    let log = scene(&[]).await.play().await;

    let lines: Vec<_> = log.lines().map(assert_readable).collect();
    for told in [
        "request",
        "host is busy",
        "host is ejected",
        "attempt failed",
        "host is draining",
        "a TLS handshake with a client failed",
    ] {
        assert!(
            lines.iter().any(|line| line["message"] == told),
            "{told}: {log}"
        );
    }
    let polled = lines.iter().filter(|line| {
        ["health", "status", "info"]
            .iter()
            .any(|route| line.get("route") == Some(&json!(route)))
    });
    assert_eq!(polled.count(), 0, "{log}");
    let handshakes = lines
        .iter()
        .filter(|line| line["message"].as_str().unwrap().contains("TLS"));
    assert_eq!(handshakes.count(), 1, "of probes nothing is told: {log}");
}

#[tokio::test]
async fn each_line_of_the_proxy_can_be_read_by_people() {
    let log = scene(&["--log-format", "human"]).await.play().await;

    for line in log.lines() {
        let (time, rest) = line.split_once(' ').expect(line);
        assert!(time.ends_with('Z') && time.contains('T'), "{line}");
        let levels = [" INFO ", " WARN ", "ERROR "];
        assert!(levels.iter().any(|level| rest.starts_with(level)), "{line}");
        for inside in ["Some(", "None", "Err(", "Ok(", "context:", "cause:"] {
            assert!(!line.contains(inside), "{line}");
        }
        for (_, value) in line.split("  ").filter_map(|field| field.split_once('=')) {
            assert!(!looks_like_a_duration(value), "{line}");
        }
    }
}

#[tokio::test]
async fn an_idle_host_logs_no_checks_and_each_line_can_be_read() {
    let backend = Backend::start("backend", "secret").await;
    let client = Client::new(backend.url());
    let ask = async |path: &str, key: &str| {
        let request = client
            .request(http::Method::GET, path)
            .header("x-api-key", key);
        Reply::to(request).await
    };
    for _ in 0..3 {
        for path in ["/health", "/ready", "/status", "/info", "/metrics"] {
            assert_eq!(ask(path, "secret").await.status, 200, "{path}");
        }
    }
    ask("/status", "wrong").await.assert_error(401);
    let embed = client
        .request(http::Method::POST, "/embed")
        .header("x-api-key", "secret")
        .json(&json!({"texts": ["x"]}));
    assert_eq!(Reply::to(embed).await.status, 200);
    eventually("the request in the log", async || {
        backend.log().contains("/embed")
    })
    .await;

    let log = backend.log();
    let lines: Vec<_> = log.lines().map(assert_readable).collect();
    let requests = lines.iter().filter(|line| line["message"] == "request");
    let routes: Vec<_> = requests.map(|line| line["route"].clone()).collect();
    assert_eq!(routes, ["/status", "/embed"], "{log}");
}
