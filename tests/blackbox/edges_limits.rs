//! Each key has limits of its own, and may come as a bearer token.

use http::Method;
use serde_json::json;

use crate::harness::{Behaviour, Client, Config, Proxy, Reply, embed_body, eventually, sim_host};

async fn embed(client: &Client, key: &str) -> Reply {
    let request = client.request(Method::POST, "/embed");
    let request = request.header("X-API-Key", key).json(&embed_body("x"));
    Reply::to(request).await
}

/// A refusal that says which limit it was and when to come again.
fn assert_limited(reply: &Reply, limit: &str) {
    let detail = reply.assert_error(429);
    assert!(detail.contains(limit), "{detail}");
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(seconds >= 1);
}

#[tokio::test]
async fn a_key_has_as_many_requests_at_once_as_it_may() {
    let host = sim_host("host")
        .slots(8)
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let keys = json!([
        {"name": "few", "key": "key-1", "max_concurrent": 2},
        {"name": "many", "key": "key-2"},
    ]);
    let config = Config::with_hosts(&[&host]).set("auth", "keys", keys);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let client = proxy.client();
    let start = |key: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { embed(&client, key).await })
    };

    let running = [start("key-1"), start("key-1")];
    host.runs(2).await;
    assert_limited(&embed(&client, "key-1").await, "max_concurrent");
    let others = [start("key-2"), start("key-2"), start("key-2")];
    host.runs(5).await;
    // What costs no host's time is not counted.
    let info = client.request(Method::GET, "/info");
    assert_eq!(
        Reply::to(info.header("X-API-Key", "key-1")).await.status,
        200
    );

    host.release_all();
    for request in running.into_iter().chain(others) {
        request.await.unwrap().assert_embedding_of("x");
    }
    embed(&client, "key-1").await.assert_embedding_of("x");
}

#[tokio::test]
async fn a_place_is_given_back_when_the_client_goes_away() {
    let host = sim_host("host").behaving(Behaviour::Hang).start();
    let keys = json!([{"name": "one", "key": "key-1", "max_concurrent": 1}]);
    let config = Config::with_hosts(&[&host]).set("auth", "keys", keys);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let client = proxy.client();
    let gone = {
        let client = client.clone();
        tokio::spawn(async move { embed(&client, "key-1").await })
    };
    eventually("the request is on the host", async || {
        host.record().present == 1
    })
    .await;

    gone.abort();
    host.set(Behaviour::Serve);

    eventually("the next one is served", async || {
        embed(&client, "key-1").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_key_sends_as_many_requests_each_second_as_it_may() {
    let host = sim_host("host").start();
    let keys = json!([{"name": "slow", "key": "key-1", "max_per_second": 3}]);
    let config = Config::with_hosts(&[&host]).set("auth", "keys", keys);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let client = proxy.client();

    let mut served = 0;
    let refusal = loop {
        let reply = embed(&client, "key-1").await;
        if reply.status == 429 {
            break reply;
        }
        reply.assert_embedding_of("x");
        served += 1;
    };

    assert!(served >= 3, "a burst of {served}");
    assert_limited(&refusal, "max_per_second");
    eventually("the next one is served", async || {
        embed(&client, "key-1").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_key_may_come_as_a_bearer_token_but_not_beside_another_one() {
    let host = sim_host("host").start();
    let keys = json!([{"name": "one", "key": "key-1"}, {"name": "two", "key": "key-2"}]);
    let config = Config::with_hosts(&[&host]).set("auth", "keys", keys);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let client = proxy.client();
    let send = async |lines: &[(&str, &str)]| {
        let request = client.request(Method::POST, "/embed");
        let request = request.json(&embed_body("x"));
        let request = lines.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        Reply::to(request).await
    };

    send(&[("Authorization", "Bearer key-2")])
        .await
        .assert_embedding_of("x");
    send(&[("Authorization", "Bearer key-1"), ("X-API-Key", "key-1")])
        .await
        .assert_embedding_of("x");
    let two = [("Authorization", "Bearer key-2"), ("X-API-Key", "key-1")];
    for wrong in [
        &two[..],
        &[("Authorization", "Bearer wrong")],
        &[("Authorization", "Basic key-1")],
        &[("X-API-Key", "key-1"), ("X-API-Key", "key-2")],
    ] {
        let reply = send(wrong).await;
        assert_eq!(reply.assert_error(401), "Unauthorized", "{wrong:?}");
        let challenge = reply.header("www-authenticate");
        assert_eq!(challenge, Some("Bearer realm=\"gpu-bridge\""));
    }

    let record = host.record();
    assert_eq!(record.requests.len(), 2);
    for seen in record.requests {
        assert!(!seen.headers.contains_key("authorization"));
    }
    eventually("the clients are in the log", async || {
        proxy.log().contains("\"client\":\"two\"")
    })
    .await;
}
