//! Nothing that is secret is ever said: not in the log however much it tells, in answers, metrics,
//! pages for operators, or errors about the configuration.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use http::Method;
use serde_json::json;
use tempfile::{NamedTempFile, TempDir};

use crate::harness::{
    Behaviour, Client, Config, Process, Proxy, Reply, SimHost, embed_body, eventually, gpu_bridge,
    sim_host,
};

/// In every secret, so that one search finds any of them.
const MARK: &str = "planted";
const CLIENT_KEY: &str = "planted-client-key";
const HOST_KEY: &str = "planted-host-key";
const OTHER_HOST_KEY: &str = "planted-other-host-key";
const ADMIN_KEY: &str = "planted-admin-key";

/// Where people put credentials, and what only the host is to read.
const HEADERS: [(&str, &str); 7] = [
    ("Cookie", "session=planted-cookie"),
    ("Proxy-Authorization", "Basic planted-proxy"),
    ("X-Auth-Token", "planted-token"),
    ("X-Goog-Api-Key", "planted-goog"),
    ("Traceparent", "planted-traceparent"),
    ("X-Request-Id", "planted id with spaces"),
    ("X-Forwarded-For", "planted-address"),
];

/// Everything that was said.
#[derive(Default)]
struct Heard(Vec<(String, String)>);

impl Heard {
    fn hear(&mut self, whence: &str, text: impl Into<String>) {
        self.0.push((whence.to_owned(), text.into()));
    }

    fn assert_harmless(&self) {
        for (whence, text) in &self.0 {
            assert!(!text.is_empty(), "nothing heard from {whence}");
            assert!(!text.contains(MARK), "a secret in {whence}:\n{text}");
        }
    }
}

async fn ask(client: &Client, method: Method, path: &str, auth: (&str, &str)) -> Reply {
    let mut request = client.request(method, path).header(auth.0, auth.1);
    for (name, value) in HEADERS {
        request = request.header(name, value);
    }
    Reply::to(request.json(&embed_body("planted-text"))).await
}

/// A pool with a host that serves, one that breaks, one whose key is wrong, and one that is off.
struct Stage {
    hosts: [SimHost; 4],
    key_file: NamedTempFile,
}

impl Stage {
    fn new() -> Self {
        let hosts = [
            sim_host("good").key(HOST_KEY).start(),
            sim_host("broken")
                .key(HOST_KEY)
                .behaving(Behaviour::DieReading)
                .start(),
            sim_host("locked").key("another").start(),
            sim_host("off").start(),
        ];
        hosts[3].stop();
        let mut key_file = NamedTempFile::new().unwrap();
        writeln!(key_file, "{OTHER_HOST_KEY}").unwrap();
        Self { hosts, key_file }
    }

    fn config(&self) -> Config {
        let file = self.key_file.path().to_str().unwrap();
        let [good, broken, locked, off] = &self.hosts;
        Config::new()
            .host("good", &good.url(), Some(HOST_KEY))
            .host("broken", &broken.url(), Some(HOST_KEY))
            .host("locked", &locked.url(), None)
            .set_host("locked", "api_key_file", file)
            .host("off", &off.url(), Some(HOST_KEY))
            .client_key("client", CLIENT_KEY)
            .set("admin", "key", ADMIN_KEY)
    }
}

async fn talk(proxy: &Proxy, heard: &mut Heard) {
    let client = proxy.client();
    let auths = [
        ("X-API-Key", CLIENT_KEY),
        ("Authorization", "Bearer planted-client-key"),
        ("X-API-Key", "planted-wrong-key"),
        ("Authorization", "Basic planted-basic"),
    ];
    for auth in auths {
        for (method, path) in [
            (Method::POST, "/embed?api_key=planted-query"),
            (Method::POST, "/bertscore"),
            (Method::GET, "/info"),
            (Method::GET, "/status"),
            (Method::GET, "/health"),
            (Method::GET, "/planted-path"),
            (Method::DELETE, "/embed"),
        ] {
            let whence = format!("the answer to {method} {path}");
            let reply = ask(&client, method, path, auth).await;
            // The embedding of the text is no secret; what the proxy adds would be.
            heard.hear(&whence, format!("{reply:?}"));
        }
    }
    let mut raw = proxy.connect().await;
    raw.send(format!("GET / HTTP/1.1\r\nX-API-Key {CLIENT_KEY}\r\n\r\n"))
        .await;
    heard.hear(
        "the answer to a bad head",
        format!("{:?}", raw.reply().await),
    );
}

async fn look(proxy: &Proxy, heard: &mut Heard) {
    let operator = proxy.operator();
    for path in ["/metrics", "/api/v1/pool", "/api/v1/requests", "/nowhere"] {
        let request = operator.request(Method::GET, path);
        let reply = Reply::to(request.header("X-API-Key", ADMIN_KEY)).await;
        heard.hear(path, format!("{reply:?}"));
    }
    let request = operator.request(Method::GET, "/api/v1/pool");
    let denied = Reply::to(request.header("X-API-Key", "planted-wrong-admin")).await;
    heard.hear("a denial", format!("{denied:?}"));
}

#[tokio::test]
async fn neither_the_log_nor_any_answer_or_page_has_one() {
    for format in ["json", "human"] {
        let stage = Stage::new();
        let proxy = Proxy::start_with(&stage.config(), |command| {
            command.args(["--log-format", format]);
            command.env("RUST_LOG", "info,gpu_bridge=trace");
        })
        .await;
        proxy.logs("host is up").await;
        proxy.logs("locked").await;
        let mut heard = Heard::default();

        talk(&proxy, &mut heard).await;
        look(&proxy, &mut heard).await;

        let last = proxy.client().request(Method::GET, "/health");
        Reply::to(last.header("X-Request-Id", "the-last-one")).await;
        proxy.logs("the-last-one").await;
        heard.hear("the log", proxy.log());
        heard.assert_harmless();
        let seen = &stage.hosts[0].record().requests;
        assert!(!seen.is_empty(), "nothing got through to a host");
    }
}

/// What stands around a request where a host sends it back.
type Frame = (&'static str, &'static str);

/// As a server does that is no GPU host: a wrong port, something for debugging.
const ECHOES: [Frame; 10] = [
    ("", ""),
    ("HTTP/1.1 ", ""),
    ("HTTP/1.1 200 ", "\r\n\r\n"),
    ("HTTP/1.1 200 OK\r\n", "\r\n\r\n"),
    ("HTTP/1.1 200 OK\r\nX-Echo: ", "\r\n\r\n"),
    ("HTTP/1.1 200 OK\r\nContent-Length: ", "\r\n\r\n"),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ""),
    (
        "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /",
        "\r\n\r\n",
    ),
    ("HTTP/1.1 500 Oh\r\n\r\n", ""),
    (
        "HTTP/1.1 422 Oh\r\nContent-Type: application/json\r\n\r\n{\"detail\": \"",
        "\"}",
    ),
];
const WELL: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n\
                    {\"status\": \"ok\"}";

/// A host that sends back what it gets. `is_well`: except to a health check.
fn echoing(frame: Frame, is_well: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The proxy may hang up whenever it likes.
            thread::spawn(move || echo(&stream, frame, is_well).ok());
        }
    });
    url
}

fn echo(mut stream: &TcpStream, (before, after): Frame, is_well: bool) -> std::io::Result<()> {
    let (mut came, mut length) = (Vec::new(), 0);
    let mut reader = BufReader::new(stream);
    while !came.ends_with(b"\r\n\r\n") {
        let start = came.len();
        if reader.read_until(b'\n', &mut came)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&came[start..]).to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or_default();
        }
    }
    reader.take(length).read_to_end(&mut came)?;
    if is_well && came.starts_with(b"GET /health ") {
        return stream.write_all(WELL.as_bytes());
    }
    stream.write_all(&[before.as_bytes(), &came, after.as_bytes()].concat())
}

#[tokio::test]
async fn a_host_that_sends_back_what_it_gets_makes_nobody_say_it() {
    let good = sim_host("good").start();
    let mut config = Config::with_hosts(&[&good]).client_key("client", CLIENT_KEY);
    for is_well in [true, false] {
        for (number, frame) in ECHOES.into_iter().enumerate() {
            let name = format!("{}-{number}", if is_well { "well" } else { "sick" });
            config = config.host(&name, &echoing(frame, is_well), Some(HOST_KEY));
        }
    }
    let proxy = Proxy::start_with(&config, |command| {
        command.env("RUST_LOG", "trace");
    })
    .await;
    let mut heard = Heard::default();
    for number in 0..ECHOES.len() {
        let (well, sick) = (format!("well-{number}"), format!("sick-{number}"));
        proxy.finds(&sick, "ejected").await;
        eventually("the host has sent a request back", async || {
            let auth = ("X-API-Key", CLIENT_KEY);
            let reply = ask(&proxy.client(), Method::POST, "/embed", auth).await;
            // What its own client has sent is no secret to it, but what the proxy has added is.
            heard.hear(
                "an answer",
                format!("{reply:?}").replace("planted-text", ""),
            );
            proxy.failed_attempts(&well).await > 0
        })
        .await;
    }

    look(&proxy, &mut heard).await;
    for arguments in [&["status"][..], &["hosts"]] {
        let (_, out, errors) = proxy.command(arguments).await;
        heard.hear(arguments[0], out + &errors);
    }
    heard.hear("the log", proxy.log());
    heard.assert_harmless();
}

/// A configuration with one thing wrong and secrets all around it.
fn broken_configs(folder: &TempDir) -> Vec<(&'static str, Config)> {
    let file = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let good = || {
        Config::new()
            .host("a", "http://127.0.0.1:1", Some(HOST_KEY))
            .client_key("client", CLIENT_KEY)
            .set("admin", "key", ADMIN_KEY)
    };
    let two_lines = text(file("two-lines", "planted-1\nplanted-2\n"));
    let pem = "-----BEGIN PRIVATE KEY-----\nplanted\n-----END PRIVATE KEY-----\n";
    let pem = text(file("key.pem", pem));
    let tls = json!([{"address": "127.0.0.1:0", "tls": {"certificate": pem, "key": pem}}]);
    let twice = json!([
        {"name": "one", "key": "planted-same"}, {"name": "two", "key": "planted-same"},
    ]);
    vec![
        ("an unknown key", good().set("queue", "max_wate", "1s")),
        ("keys that are the same", good().client_keys(twice)),
        (
            "a key with a space",
            good().set("admin", "key", "planted key"),
        ),
        (
            "a key that is a list",
            good().set("admin", "key", json!(["planted"])),
        ),
        (
            "a key file of two lines",
            good()
                .host("b", "http://127.0.0.1:2", None)
                .set_host("b", "api_key_file", two_lines),
        ),
        ("a private key that is none", good().replace("listen", tls)),
        (
            "a URL with a password",
            good().host("b", "http://user:planted@127.0.0.1:2", None),
        ),
    ]
}

#[tokio::test]
async fn errors_about_the_configuration_have_none() {
    let folder = TempDir::new().unwrap();
    for (what, config) in broken_configs(&folder) {
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, config.to_yaml()).unwrap();
        let mut heard = Heard::default();
        for arguments in [&["check"][..], &["serve", "--config"]] {
            let mut command = gpu_bridge();
            command.args(arguments).arg(&path);
            let (code, out, error) = Process::run(&mut command).await;
            assert!(code.is_some_and(|code| code != 0), "{what} is let through");
            heard.hear(what, out + &error);
        }
        heard.assert_harmless();
    }
}
