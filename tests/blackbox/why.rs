//! Why a host gets nothing, as operators read it: by kind, and never in the words of hosts.

use serde_json::{Value, json};

use crate::harness::{
    Answer, Authority, Config, HealthAnswer, Proxy, SimHost, eventually, sim_host,
};

const SECRET: &str = "hunter2";

fn saying(name: &str, health: Answer) -> SimHost {
    let host = sim_host(name).start();
    host.set_health(HealthAnswer::Answer(health));
    host
}

/// Host, and what operators should read of it.
type Case = (&'static str, &'static str);

const CASES: [Case; 12] = [
    ("no-name", "its name can't be resolved"),
    (
        "not-there",
        "it does not accept connections: nothing listens at its address",
    ),
    (
        "not-tls",
        "it does not speak TLS; should its url start with http://?",
    ),
    ("not-http", "what it sends is not HTTP"),
    (
        "stranger",
        "TLS: its certificate is from an authority that is not trusted",
    ),
    ("over", "TLS: its certificate has expired"),
    ("other-name", "TLS: its certificate is for another name"),
    ("teapot", "its /health answers 418"),
    ("text", "its /health answers no JSON"),
    ("long", "its answer does not end"),
    (
        "other-json",
        "its /health does not answer like a GPU host's",
    ),
    ("locked", "it refuses the proxy's API key (401)"),
];

#[tokio::test]
async fn each_kind_of_trouble_is_told_by_its_kind() {
    let authority = Authority::new();
    let trusted = json!({"ca": authority.path()});
    let https = |name, identity: &crate::harness::Identity| {
        sim_host(name).tls(identity.server(None)).start()
    };
    let lengthy = json!({"status": "ok", "models": vec![json!([]); 30_000]}).to_string();
    let good = sim_host("good").start();
    let gone = sim_host("not-there").start();
    gone.stop();
    let locked = sim_host("locked").key(SECRET).start();
    let hosts = [
        https("stranger", &Authority::new().issue(&["127.0.0.1"])),
        https("over", &authority.issue_until(&["127.0.0.1"], 2001)),
        https("other-name", &authority.issue(&["gpu.example"])),
        saying("teapot", Answer::error(418, SECRET)),
        saying("text", Answer::text(200, SECRET)),
        saying("long", Answer::result(&lengthy)),
        saying("other-json", Answer::error(200, SECRET)),
    ];
    let plain = sim_host("not-tls").start();
    let tls = https("not-http", &authority.issue(&["127.0.0.1"]));
    let mut config = Config::with_hosts(&[&good, &gone])
        .host("no-name", "http://no-such-host.invalid:9", None)
        .host("not-tls", &plain.url().replace("http:", "https:"), None)
        .host("not-http", &tls.url().replace("https:", "http:"), None)
        .host("locked", &locked.url(), Some("another-key"));
    for host in &hosts {
        config = config.host(host.name(), &host.url(), None);
        if host.url().starts_with("https") {
            config = config.set_host(host.name(), "tls", trusted.clone());
        }
    }
    let proxy = Proxy::ready(&config, &[&good]).await;

    for (host, expected) in CASES {
        eventually(&format!("{host}: {expected}"), async || {
            let why = why(&proxy, host).await;
            why.is_some_and(|why| why.contains(expected))
        })
        .await;
    }

    let (_, table, _) = proxy.command(&["status"]).await;
    let log = proxy.log();
    for (host, expected) in CASES {
        assert!(table.contains(expected), "{host} in the status: {table}");
        assert!(log.contains(expected), "{host} in the log: {log}");
    }
    assert!(
        !table.contains(SECRET) && !log.contains(SECRET),
        "{table}{log}"
    );
}

async fn why(proxy: &Proxy, host: &str) -> Option<String> {
    let pool = proxy.operator().get("/api/v1/pool").await.json();
    let hosts = pool["hosts"].as_array().unwrap();
    let host = hosts.iter().find(|it| it["name"] == host).unwrap();
    host["why"].as_str().map(str::to_owned)
}

/// What a host that is up failed in a single check is told as well, while it is up.
#[tokio::test]
async fn a_failed_check_of_a_host_that_is_still_up_is_told() {
    let host = sim_host("a").start();
    let config = Config::with_hosts(&[&host]).set("health", "unhealthy_after", 10_000);
    let proxy = Proxy::ready(&config, &[&host]).await;
    assert_eq!(why(&proxy, "a").await, None);

    host.set_health(HealthAnswer::Answer(Answer::error(404, "Not Found")));

    let expected = "up, but its last check failed: its /health answers 404";
    eventually(expected, async || {
        why(&proxy, "a").await.as_deref() == Some(expected)
    })
    .await;
    let pool: Value = proxy.operator().get("/api/v1/pool").await.json();
    assert_eq!(pool["hosts"][0]["problem"], "its /health answers 404");
}
