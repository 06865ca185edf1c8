//! Each key has limits of its own, and may come as a bearer token.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{
    Behaviour, Client, Config, Proxy, Reply, SimHost, embed_body, eventually, sim_host,
};

async fn embed(client: &Client, key: &str) -> Reply {
    let request = client.request(Method::POST, "/embed");
    let request = request.header("X-API-Key", key).json(&embed_body("x"));
    Reply::to(request).await
}

/// With a client that is patient for so long.
async fn embed_within(client: &Client, key: &str, seconds: &str) -> Reply {
    let request = client.request(Method::POST, "/embed");
    let request = request.header("X-API-Key", key).json(&embed_body("x"));
    Reply::to(request.header("X-Request-Timeout", seconds)).await
}

/// A refusal that says which limit it was and when to come again.
fn assert_limited(reply: &Reply, limit: &str) {
    reply.assert_come_again();
    let detail = reply.assert_error(503);
    assert!(detail.contains(limit), "{detail}");
    assert!(!detail.contains("busy"), "hosts are blamed: {detail}");
}

fn start(client: &Client, key: &'static str) -> JoinHandle<Reply> {
    let client = client.clone();
    tokio::spawn(async move { embed(&client, key).await })
}

async fn all_served(requests: impl IntoIterator<Item = JoinHandle<Reply>>) {
    for request in requests {
        request.await.unwrap().assert_embedding_of("x");
    }
}

/// One host that answers when told so, and keys with these limits.
async fn held(slots: usize, keys: Value) -> (SimHost, Proxy) {
    let host = sim_host("host")
        .slots(slots)
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host])
        .set_host("host", "max_concurrent", slots)
        .client_keys(keys);
    let proxy = Proxy::ready(&config, &[&host]).await;
    (host, proxy)
}

#[tokio::test]
async fn a_key_at_its_limit_waits_its_turn_and_is_served() {
    let host = sim_host("host")
        .slots(8)
        .behaving(Behaviour::ServeAfter(Duration::from_millis(50)))
        .start();
    let keys = json!([{"name": "few", "key": "key-1", "max_concurrent": 4}]);
    let config = Config::with_hosts(&[&host]).client_keys(keys);
    let proxy = Proxy::ready(&config, &[&host]).await;

    all_served((0..20).map(|_| start(&proxy.client(), "key-1"))).await;

    assert!(host.record().peak <= 4);
}

#[tokio::test]
async fn others_are_not_held_up_by_a_key_at_its_limit() {
    let keys = json!([
        {"name": "few", "key": "key-1", "max_concurrent": 2, "priority": 9},
        {"name": "many", "key": "key-2"},
    ]);
    let (host, proxy) = held(8, keys).await;
    let client = proxy.client();
    let few: Vec<_> = (0..10).map(|_| start(&client, "key-1")).collect();
    host.runs(2).await;
    proxy.queues(8).await;

    let others: Vec<_> = (0..6).map(|_| start(&client, "key-2")).collect();
    host.runs(8).await;

    // What costs no host's time is not counted.
    let info = client.request(Method::GET, "/info");
    let info = Reply::to(info.header("X-API-Key", "key-1")).await;
    assert_eq!(info.status, 200);
    host.release_all();
    all_served(few.into_iter().chain(others)).await;
}

/// What its requests wait for is said where one looks.
#[tokio::test]
async fn a_key_at_its_limit_makes_no_host_look_full() {
    let keys = json!([{"name": "few", "key": "key-1", "max_concurrent": 1}]);
    let (host, proxy) = held(4, keys).await;
    let client = proxy.client();
    let running = start(&client, "key-1");
    host.runs(1).await;
    let waiting = client
        .request(Method::POST, "/embed")
        .json(&embed_body("x"));
    let waiting = waiting
        .header("X-API-Key", "key-1")
        .header("X-Request-Id", "held-back");
    let requests = [running, tokio::spawn(Reply::to(waiting))];
    proxy.queues(1).await;

    let (_, status, _) = proxy.command(&["status"]).await;
    assert!(status.contains("limits of their keys"), "{status}");
    eventually("its story says what it waits for", async || {
        let (_, story, _) = proxy.command(&["explain", "held-back"]).await;
        story.contains("max_concurrent")
    })
    .await;

    assert_limited(
        &embed_within(&client, "key-1", "0.3").await,
        "max_concurrent",
    );
    let metrics = proxy.metrics().await;
    let labels = [("client", "few"), ("limit", "max_concurrent")];
    assert_eq!(
        metrics.count("gpu_bridge_client_limit_refusals_total", &labels),
        1
    );
    host.release_all();
    all_served(requests).await;
}

#[tokio::test]
async fn a_request_that_runs_for_too_long_is_not_said_to_wait_for_its_key() {
    let keys = json!([{"name": "one", "key": "key-1", "max_concurrent": 1}]);
    let (host, proxy) = held(4, keys).await;
    let client = proxy.client();
    let slow = tokio::spawn({
        let client = client.clone();
        async move { embed_within(&client, "key-1", "1").await }
    });
    host.runs(1).await;
    let next = start(&client, "key-1");
    proxy.queues(1).await;

    let reply = slow.await.unwrap();
    let refusal = reply.assert_error(503);
    assert!(refusal.contains("X-Request-Timeout"), "{refusal}");
    assert!(!refusal.contains("max_concurrent"), "{refusal}");
    let metrics = proxy.metrics().await;
    let labels = [("client", "one"), ("limit", "max_concurrent")];
    assert_eq!(
        metrics.count("gpu_bridge_client_limit_refusals_total", &labels),
        0
    );
    host.release_all();
    all_served([next]).await;
}

#[tokio::test]
async fn a_place_is_given_back_when_the_client_goes_away() {
    let keys = json!([{"name": "one", "key": "key-1", "max_concurrent": 1}]);
    let (host, proxy) = held(4, keys).await;
    let client = proxy.client();
    let gone = start(&client, "key-1");
    host.runs(1).await;
    let next = start(&client, "key-1");
    proxy.queues(1).await;

    gone.abort();

    proxy.queues(0).await;
    host.release_all();
    all_served([next]).await;
}

#[tokio::test]
async fn a_key_sends_as_many_requests_each_second_as_it_may_and_the_rest_later() {
    let host = sim_host("host").slots(8).start();
    let keys = json!([
        {"name": "slow", "key": "key-1", "max_per_second": 5},
        {"name": "slower", "key": "key-2", "max_per_second": 1},
    ]);
    let config = Config::with_hosts(&[&host]).client_keys(keys);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let client = proxy.client();

    all_served((0..12).map(|_| start(&client, "key-1"))).await;

    // Far more than there is time for: refused at once, with the time that it would take.
    let waiting: Vec<_> = (0..10).map(|_| start(&client, "key-2")).collect();
    proxy.queues(9).await;
    let refusal = embed_within(&client, "key-2", "5").await;
    assert_limited(&refusal, "max_per_second");
    let seconds: u64 = refusal.header("retry-after").unwrap().parse().unwrap();
    assert!((8..=10).contains(&seconds), "{seconds}");
    waiting.iter().for_each(JoinHandle::abort);
    proxy.queues(0).await;
}

#[tokio::test]
async fn a_retry_counts_once_and_waits_for_nobody() {
    let hosts = ["a", "b"].map(|name| sim_host(name).behaving(Behaviour::DieReading).start());
    let keys = json!([{"name": "one", "key": "key-1", "max_concurrent": 1, "max_per_second": 1}]);
    let config = Config::with_hosts(&hosts.each_ref()).client_keys(keys);
    let proxy = Proxy::ready(&config, &hosts.each_ref()).await;
    hosts[1].set(Behaviour::Serve);
    hosts[0].set(Behaviour::DieReading);

    for _ in 0..3 {
        embed(&proxy.client(), "key-1")
            .await
            .assert_embedding_of("x");
    }

    assert!(hosts[0].arrivals() > 0, "no retry");
}

#[tokio::test]
async fn a_reload_frees_or_binds_what_waits() {
    let keys = |limit: u32| json!([{"name": "few", "key": "key-1", "max_concurrent": limit}]);
    let (host, proxy) = held(8, keys(1)).await;
    let requests: Vec<_> = (0..6).map(|_| start(&proxy.client(), "key-1")).collect();
    host.runs(1).await;
    proxy.queues(5).await;
    let config = |keys: Value| {
        Config::with_hosts(&[&host])
            .set_host("host", "max_concurrent", 8)
            .client_keys(keys)
    };

    proxy.takes_over(&config(keys(3))).await;
    host.runs(3).await;
    proxy.takes_over(&config(keys(2))).await;
    host.release(1);
    eventually("one has ended", async || host.record().running == 2).await;
    proxy.queues(3).await;
    let without = json!([{"name": "few", "key": "key-1"}]);
    proxy.takes_over(&config(without)).await;
    host.runs(5).await;

    host.release_all();
    all_served(requests).await;
}

/// It pays itself for what it sends too much.
#[tokio::test]
async fn a_key_at_its_limit_takes_no_places_in_a_full_queue_from_others() {
    let keys = json!([
        {"name": "few", "key": "key-1", "max_concurrent": 1, "priority": 9},
        {"name": "many", "key": "key-2"},
    ]);
    let host = sim_host("host")
        .slots(2)
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host])
        .set_host("host", "max_concurrent", 2)
        .set("queue", "max_waiting", 4)
        .client_keys(keys);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let client = proxy.client();
    let few: Vec<_> = (0..5).map(|_| start(&client, "key-1")).collect();
    host.runs(1).await;
    proxy.queues(4).await;

    let many: Vec<_> = (0..5).map(|_| start(&client, "key-2")).collect();
    eventually("room was made", async || {
        few.iter().filter(|request| request.is_finished()).count() == 4
    })
    .await;
    host.release_all();
    all_served(many).await;
    for request in few {
        let reply = request.await.unwrap();
        if reply.status != 200 {
            assert_limited(&reply, "max_concurrent");
        }
    }
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
