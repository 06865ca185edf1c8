//! What one host tells, and what one request goes through, costs others little: numbers and lists have
//! bounds wherever they are kept, passed on or drawn.

use http::Method;
use serde_json::json;

use crate::harness::{Behaviour, Config, Proxy, Reply, SimHost, embed_body, eventually, sim_host};

/// A host that names tens of thousands of models and billions of slots.
#[tokio::test]
async fn what_a_host_tells_has_bounds() {
    let names: Vec<String> = (0..50_000).map(|number| format!("m{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let wild = sim_host("wild").models(&names).slots(4_000_000_000).start();
    let plain = sim_host("plain").start();
    let hosts = [&wild, &plain];
    let proxy = Proxy::ready(&Config::with_hosts(&hosts), &hosts).await;
    proxy.logs("host names too many models").await;
    let client = proxy.client();
    eventually("/info of both hosts", async || {
        client.get("/info").await.json()["vram_total_mb"] == json!(22_000)
    })
    .await;

    let health = client.get("/health").await;
    assert_eq!(health.json(), json!({"status": "ok", "device": "cuda"}));
    for path in ["/info", "/v1/models"] {
        let body = client.get(path).await.body;
        assert!(body.len() < 1 << 19, "{path}: {} bytes", body.len());
    }
    let status = client.get("/status").await.json();
    assert_eq!(status["queue"]["max_concurrent"], 4096 + 2);
    let pool = proxy.operator().get("/api/v1/pool").await;
    assert_eq!(pool.json()["hosts"][0]["capacity"], 4096);
    assert!(pool.body.len() < 1 << 18, "{} bytes", pool.body.len());
    client.embed("text").await.assert_embedding_of("text");
}

/// From one busy host to the next, hundreds of times.
#[tokio::test]
async fn a_long_way_has_a_short_story() {
    let busy = || Behaviour::busy(0);
    let hosts: Vec<SimHost> = (0..30)
        .map(|number| sim_host(&format!("host-{number}")).behaving(busy()).start())
        .collect();
    let listed: Vec<&SimHost> = hosts.iter().collect();
    let config = Config::with_hosts(&listed).set("queue", "max_wait", "2s");
    let proxy = Proxy::ready(&config, &listed).await;
    let request = proxy.client().request(Method::POST, "/embed");
    let request = request
        .header("X-Request-Id", "long")
        .json(&embed_body("text"));
    Reply::to(request).await.assert_error(503);

    proxy.logs("\"id\":\"long\"").await;
    let log = proxy.log();
    let line = log
        .lines()
        .find(|line| line.contains("\"id\":\"long\""))
        .unwrap();
    assert!(line.contains(" more) host-"), "{line}");
    assert!(line.len() < 3000, "{} bytes", line.len());
    let (code, story, _) = proxy.command(&["explain", "long"]).await;
    assert_eq!(code, Some(0));
    assert!(story.contains("more attempts like these"), "{story}");
    assert!(story.len() < 20_000, "{} bytes", story.len());
}

/// Whoever invents names of models waits for few of them, and others are served as if there were none.
#[tokio::test]
async fn invented_models_cost_others_nothing() {
    let full = sim_host("full")
        .slots(1)
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let other = sim_host("other")
        .installed(&["sim", "rare"])
        .tells_installed()
        .start();
    let hosts = [&full, &other];
    let proxy = Proxy::ready(&Config::with_hosts(&hosts), &hosts).await;
    let client = proxy.client();
    eventually("the other host tells what it has", async || {
        let told = client.get("/v1/models").await.json();
        told.to_string().contains("rare")
    })
    .await;
    for number in 0..65 {
        client.start_embed_with(&format!("invented-{number}"), "x");
    }
    full.runs(1).await;
    proxy.queues(64).await;

    let refused = client.embed_with("one-more", "x").await;
    refused.assert_error(503);
    assert!(refused.header("retry-after").is_some());
    let detail = refused.json()["detail"].to_string();
    assert!(
        detail.contains("as many different models as they may"),
        "{detail}"
    );
    let served = client.embed("text").await;
    served.assert_embedding_of("text");
    assert_eq!(served.served_by(), "other");
}
