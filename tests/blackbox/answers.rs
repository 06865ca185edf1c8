//! Whatever the proxy refuses, it says what is wrong and what to do next, and compute answers say
//! where the time went.

use http::Method;
use serde_json::json;

use crate::harness::{Behaviour, Client, Config, Proxy, Reply, embed_body, sim_host};

fn assert_timed(reply: &Reply) {
    let timing = reply.header("server-timing").expect("Server-Timing");
    for part in ["queue;dur=", ", upstream;dur=", ", total;dur="] {
        assert!(timing.contains(part), "{timing}");
    }
    assert!(reply.header("x-request-id").is_some(), "{reply:?}");
}

async fn embed(client: &Client, key: &str) -> Reply {
    let request = client.request(Method::POST, "/embed");
    let request = request.header("X-API-Key", key);
    Reply::to(request.json(&embed_body("text"))).await
}

#[tokio::test]
async fn a_wrong_key_path_or_method_is_helped_on_by_headers() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).client_key("me", "key");
    let proxy = Proxy::start(&config).await;
    let client = proxy.client();
    let ask = async |method, path, key| {
        let request = client.request(method, path).header("X-API-Key", key);
        Reply::to(request).await
    };
    let routes = "GET /health, GET /info, GET /status, POST /embed, POST /bertscore, \
                  POST /v1/embeddings, GET /v1/models";

    let reply = client.embed("text").await;
    assert_eq!(reply.body, r#"{"detail":"Unauthorized"}"#);
    assert_eq!(reply.status, 401);
    let challenges: Vec<_> = reply.headers.get_all("www-authenticate").iter().collect();
    let schemes = [
        "Bearer realm=\"gpu-bridge\"",
        "ApiKey realm=\"gpu-bridge\", header=\"X-API-Key\"",
    ];
    assert_eq!(challenges, schemes);
    assert!(reply.header("x-hint").unwrap().contains("no key was sent"));
    assert_timed(&reply);
    let reply = embed(&client, "wrong").await;
    assert!(reply.header("x-hint").unwrap().contains("not one of"));

    let reply = ask(Method::GET, "/nowhere", "key").await;
    assert_eq!(reply.status, 404);
    assert_eq!(reply.body, r#"{"detail":"Not Found"}"#);
    let there_are = format!("there are: {routes}");
    assert_eq!(reply.header("x-hint"), Some(there_are.as_str()));

    for (method, path) in [(Method::POST, "/embeddings"), (Method::GET, "/models")] {
        let reply = ask(method, path, "key").await;
        assert_eq!(reply.status, 404);
        assert_eq!(reply.body, r#"{"detail":"Not Found"}"#);
        assert!(reply.header("x-hint").unwrap().ends_with("must end in /v1"));
    }

    let reply = ask(Method::GET, "/embed", "key").await;
    assert_eq!(reply.status, 405);
    assert_eq!(reply.body, r#"{"detail":"Method Not Allowed"}"#);
    assert_eq!(reply.header("allow"), Some("POST"));
    assert!(reply.header("x-hint").unwrap().starts_with("use POST"));
}

#[tokio::test]
async fn limits_are_named_with_the_setting_that_an_operator_can_change() {
    let host = sim_host("host").start();
    let keys = json!([
        {"name": "slow", "key": "slow", "max_per_second": 1},
        {"name": "free", "key": "free"},
    ]);
    let config = Config::with_hosts(&[&host])
        .client_keys(keys)
        .set("limits", "max_body", "1KiB")
        .set("limits", "max_headers", 20);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let client = proxy.client();

    let large = client.request(Method::POST, "/embed");
    let large = large.header("X-API-Key", "free");
    let reply = Reply::to(large.json(&embed_body(&"x".repeat(2000)))).await;
    let detail = reply.assert_error(413);
    assert!(detail.contains("1024 bytes"), "{detail}");
    assert!(detail.contains("limits.max_body"), "{detail}");
    assert_timed(&reply);

    let mut many = client.request(Method::POST, "/embed");
    for number in 0..30 {
        many = many.header(format!("x-{number}"), "1");
    }
    let detail = Reply::to(many).await.assert_error(431);
    assert!(detail.contains("limits.max_headers"), "{detail}");

    embed(&client, "slow").await.assert_embedding_of("text");
    let request = client.request(Method::POST, "/embed");
    let request = request
        .header("X-API-Key", "slow")
        .header("X-Request-Timeout", "0.2");
    let reply = Reply::to(request.json(&embed_body("text"))).await;
    assert!(reply.assert_error(503).contains("max_per_second"));
    assert_timed(&reply);
}

#[tokio::test]
async fn a_compressed_body_is_refused_by_the_name_of_its_coding() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let client = proxy.client();
    let ask = async |method, path, coding: &str| {
        let request = client.request(method, path);
        let request = request.header("Content-Encoding", coding);
        Reply::to(request.json(&embed_body("x"))).await
    };

    for (coding, named) in [
        ("gzip", "(gzip)"),
        ("identity, br", "(br)"),
        ("x-own", "(x-own)"),
        ("not a name", "unknown"),
    ] {
        let reply = ask(Method::POST, "/embed", coding).await;
        let detail = reply.assert_error(415);
        assert!(detail.contains(named), "{detail}");
        assert!(detail.contains("without Content-Encoding"), "{detail}");
        assert_eq!(reply.header("accept-encoding"), Some("identity"));
    }
    assert_eq!(host.arrivals(), 0);
    let plain = ask(Method::POST, "/embed", "identity").await;
    plain.assert_embedding_of("x");
    assert_eq!(ask(Method::GET, "/health", "gzip").await.status, 200);
}

#[tokio::test]
async fn an_overloaded_pool_says_which_hosts_are_to_blame_and_when_to_come_again() {
    let busy = sim_host("busy").behaving(Behaviour::busy(60)).start();
    let off = sim_host("off").start();
    off.stop();
    let config = Config::with_hosts(&[&busy, &off]).set("queue", "max_wait", "300ms");
    let proxy = Proxy::start(&config).await;
    proxy.finds_healthy("busy").await;
    proxy.finds_unhealthy("off").await;

    let reply = proxy.client().embed("text").await;

    reply.assert_come_again();
    let detail = reply.assert_error(503);
    assert!(detail.contains("busy is full for "), "{detail}");
    assert!(detail.contains("off is ejected"), "{detail}");
    let wait = reply.header("retry-after").unwrap();
    assert!(detail.contains(&format!("retry in {wait} s")), "{detail}");
    assert_timed(&reply);
    let timing = reply.header("server-timing").unwrap();
    let (_, queue) = timing.split_once("queue;dur=").unwrap();
    let queue: f64 = queue.split(',').next().unwrap().parse().unwrap();
    assert!(queue >= 250.0, "{timing}");
}

#[tokio::test]
async fn a_request_that_breaks_hosts_is_told_so_without_their_addresses() {
    let hosts = ["a", "b"].map(|name| sim_host(name).behaving(Behaviour::DieReading).start());
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;

    let reply = proxy.client().embed("text").await;

    let detail = reply.assert_error(502);
    assert!(detail.contains("a: fault"), "{detail}");
    assert!(detail.contains("b: fault"), "{detail}");
    assert!(detail.contains("X-Request-Id"), "{detail}");
    assert!(!detail.contains("127.0.0.1"), "{detail}");
    assert_timed(&reply);
}
