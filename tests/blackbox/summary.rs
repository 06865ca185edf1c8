//! The verdict on the pool, as operators read it: what is wrong is told, and nothing else.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Behaviour, Config, Proxy, Reply, SimHost, embed_body, eventually, sim_host};

async fn pool(proxy: &Proxy) -> Value {
    proxy.operator().get("/api/v1/pool").await.json()
}

/// Returns once the verdict is this.
async fn verdict(proxy: &Proxy, level: &str, text: &str) {
    let expected = json!({"level": level, "text": text});
    eventually(text, async || pool(proxy).await["summary"] == expected).await;
}

#[tokio::test]
async fn what_clients_do_wrong_is_no_trouble_of_the_pool() {
    let host = sim_host("a").start();
    let config = Config::with_hosts(&[&host])
        .client_keys(json!([
            {"name": "good", "key": "open-sesame"},
            {"name": "slow", "key": "slow", "max_per_second": 1},
        ]))
        .set("limits", "max_body", "1KiB");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let ask = async |key: &str, body: Value| {
        let request = proxy.client().request(Method::POST, "/embed");
        let request = request.header("X-API-Key", key).json(&body);
        let request = request.header("X-Request-Timeout", "0.3");
        Reply::to(request).await.status.as_u16()
    };
    for _ in 0..3 {
        assert_eq!(ask("wrong", embed_body("x")).await, 401);
        assert_eq!(ask("open-sesame", json!({"texts": "x"})).await, 422);
        assert_eq!(ask("open-sesame", embed_body(&"x".repeat(2000))).await, 413);
    }
    assert_eq!(ask("slow", embed_body("x")).await, 200);
    assert_eq!(ask("slow", embed_body("x")).await, 503);
    assert_eq!(ask("open-sesame", embed_body("x")).await, 200);

    eventually("the last one is counted", async || {
        pool(&proxy).await["requests"]["ended"] == 2
    })
    .await;
    verdict(&proxy, "good", "The only host serves.").await;
}

#[tokio::test]
async fn what_the_pool_could_not_do_is_told_in_numbers() {
    let host = sim_host("a").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    host.set(Behaviour::internal_server_error());
    for _ in 0..2 {
        assert_eq!(proxy.client().embed("x").await.status, 500);
    }
    host.set(Behaviour::Serve);
    proxy.client().flood(3, 1).await;

    let text = "The only host serves. In the last minute, 2 of 5 requests failed.";
    verdict(&proxy, "attention", text).await;
}

async fn beside_a_good_one(other: SimHost) -> ([SimHost; 2], Proxy) {
    let hosts = [sim_host("good").start(), other];
    let proxy = Proxy::start(&Config::with_hosts(&hosts.each_ref())).await;
    proxy.finds_healthy("good").await;
    (hosts, proxy)
}

#[tokio::test]
async fn a_host_without_slots_does_not_count_as_serving() {
    let (_hosts, proxy) = beside_a_good_one(sim_host("b").slots(0).start()).await;
    let text = "1 of 2 hosts serves; 1 turns everything away.";
    verdict(&proxy, "attention", text).await;
    assert!(!proxy.is_healthy("b").await);
}

#[tokio::test]
async fn a_host_that_turns_everything_away_does_not_count_as_serving() {
    // Its /status says that it has room, so that it is asked again and again.
    let busy = sim_host("b").behaving(Behaviour::busy(0));
    let busy = busy.status(crate::harness::StatusAnswer::AllFree).start();
    let (hosts, proxy) = beside_a_good_one(busy).await;
    proxy.finds_healthy("b").await;
    eventually("it was asked three times", async || {
        proxy.client().embed("x").await.assert_embedding_of("x");
        hosts[1].arrivals() >= 3
    })
    .await;

    let text = "1 of 2 hosts serves; 1 turns everything away.";
    verdict(&proxy, "attention", text).await;
    eventually("the host says why", async || {
        let pool = pool(&proxy).await;
        let why = pool["hosts"][1]["why"].as_str().unwrap_or_default();
        why.starts_with("up, but it turned away all ")
    })
    .await;
}

#[tokio::test]
async fn a_host_that_others_use_up_does_not_count_as_serving() {
    let (hosts, proxy) = beside_a_good_one(sim_host("b").start()).await;
    proxy.finds_healthy("b").await;
    verdict(&proxy, "good", "Both hosts serve.").await;

    hosts[1].set_foreign(2);

    let text = "1 of 2 hosts serves; 1 is used up by others.";
    verdict(&proxy, "attention", text).await;
}
