//! Requests go where they are done soonest, and nobody is pushed aside.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use crate::harness::{
    Behaviour, Config, Proxy, Reply, SimHost, StatusAnswer, eventually, sim_host,
};

const WORK: Behaviour = Behaviour::ServeAfter(Duration::from_millis(5));

/// Returns once the proxy has seen `requests` of others on `host`.
async fn sees_foreign(proxy: &Proxy, host: &SimHost, requests: u64) {
    let what = format!("{requests} foreign requests on {}", host.name());
    eventually(&what, async || {
        proxy.host_metric("foreign_in_flight", host.name()).await == requests
    })
    .await;
}

/// Has `text` embedded with `model`, by the client who has `key`.
fn start(proxy: &Proxy, key: &str, model: &str, text: &str) -> JoinHandle<Reply> {
    let request = proxy
        .client()
        .request(http::Method::POST, "/embed")
        .header("x-api-key", key)
        .json(&json!({"texts": [text], "model": model}));
    tokio::spawn(Reply::to(request))
}

#[tokio::test]
async fn slots_that_others_use_are_left_to_them() {
    let shared = sim_host("shared").slots(4).start();
    let own = sim_host("own").slots(2).start();
    shared.set_foreign(3);
    for host in [&shared, &own] {
        host.set(Behaviour::ServeWhenReleased);
    }
    let proxy = Proxy::in_front_of(&[&shared, &own]).await;
    sees_foreign(&proxy, &shared, 3).await;

    let running: Vec<_> = (0..12)
        .map(|number| proxy.client().start_embed(&number.to_string()))
        .collect();

    proxy.queues(9).await;
    own.runs(2).await;
    shared.runs(1).await;

    shared.set_foreign(0);
    shared.runs(4).await;
    for host in [&shared, &own] {
        host.release_all();
    }
    for reply in running {
        assert_eq!(reply.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_host_that_tells_nothing_is_asked_for_less_after_it_was_busy() {
    let host = sim_host("host")
        .slots(2)
        .status(StatusAnswer::Missing)
        .behaving(WORK)
        .start();
    let config = Config::with_hosts(&[&host]).set_host("host", "max_concurrent", 8);
    let proxy = Proxy::ready(&config, &[&host]).await;

    proxy.client().flood(200, 16).await;

    let refused = host.record().turned_away;
    assert!(refused > 0, "8 at once are too many at first");
    assert!(refused < 60, "{refused} of 200 requests were refused");
}

#[tokio::test]
async fn a_request_goes_to_the_host_that_has_its_model() {
    let plain = sim_host("plain").slots(8).models(&[]).start();
    let loaded = sim_host("loaded").slots(8).models(&["m"]).start();
    let proxy = Proxy::in_front_of(&[&plain, &loaded]).await;
    knows_models(&proxy, 3).await;

    for number in 0..20 {
        let reply = start(&proxy, "", "m", &number.to_string()).await.unwrap();
        assert_eq!(reply.served_by(), "loaded");
    }

    let elsewhere = start(&proxy, "", "plain", "x").await.unwrap();
    assert_eq!(
        elsewhere.served_by(),
        "plain",
        "each host has one of its own name"
    );
}

/// Returns once the hosts have told of so many models.
async fn knows_models(proxy: &Proxy, models: usize) {
    eventually("the hosts' models are known", async || {
        let info = proxy.client().get("/info").await.json();
        info["loaded_models"].as_array().map(Vec::len) == Some(models)
    })
    .await;
}

#[tokio::test]
async fn a_model_is_loaded_on_another_host_when_its_line_grows_too_long() {
    let loaded = sim_host("loaded").slots(1).models(&["m"]).start();
    let plain = sim_host("plain").slots(8).models(&[]).start();
    loaded.set(Behaviour::ServeWhenReleased);
    let proxy = Proxy::in_front_of(&[&loaded, &plain]).await;
    knows_models(&proxy, 3).await;
    let held = start(&proxy, "", "m", "held");
    loaded.runs(1).await;

    let spilled = start(&proxy, "", "m", "spilled");
    proxy.queues(1).await;
    assert_eq!(
        plain.arrivals(),
        0,
        "it waits for the host that has its model"
    );

    assert_eq!(
        spilled.await.unwrap().served_by(),
        "plain",
        "but not for ever"
    );
    loaded.release_all();
    assert_eq!(held.await.unwrap().served_by(), "loaded");
}

#[tokio::test]
async fn a_noisy_client_does_not_starve_a_quiet_one() {
    let host = sim_host("host").slots(1).start();
    host.set(Behaviour::ServeWhenReleased);
    let config = Config::with_hosts(&[&host]).client_keys(json!([
        {"name": "noisy", "key": "key-of-noisy"},
        {"name": "quiet", "key": "key-of-quiet"},
    ]));
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut running = vec![start(&proxy, "key-of-noisy", "sim", "first")];
    host.runs(1).await;
    for number in 1..=10 {
        running.push(start(&proxy, "key-of-noisy", "sim", "noise"));
        proxy.queues(number).await;
    }
    running.push(start(&proxy, "key-of-quiet", "sim", "quiet"));
    proxy.queues(11).await;

    host.release_all();

    for reply in running {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    let order = host.record().taken_on;
    let place = order.iter().position(|text| text == "quiet").unwrap();
    assert!(place <= 2, "served as number {place}: {order:?}");
}

#[tokio::test]
async fn a_full_queue_has_room_for_a_client_that_waits_with_less() {
    let host = sim_host("host").slots(1).start();
    host.set(Behaviour::ServeWhenReleased);
    let config = Config::with_hosts(&[&host])
        .set("queue", "max_waiting", 4)
        .client_keys(json!([
            {"name": "noisy", "key": "key-of-noisy"},
            {"name": "quiet", "key": "key-of-quiet"},
        ]));
    let proxy = Proxy::ready(&config, &[&host]).await;
    let first = start(&proxy, "key-of-noisy", "sim", "first");
    host.runs(1).await;
    let mut noise = Vec::new();
    for number in 1..=4 {
        noise.push(start(&proxy, "key-of-noisy", "sim", &number.to_string()));
        proxy.queues(number).await;
    }

    let quiet = start(&proxy, "key-of-quiet", "sim", "quiet");

    noise.pop().unwrap().await.unwrap().assert_come_again();
    host.release_all();
    assert_eq!(quiet.await.unwrap().status, 200);
    for reply in noise.into_iter().chain([first]) {
        assert_eq!(reply.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_higher_priority_is_served_first() {
    let host = sim_host("host").slots(1).start();
    host.set(Behaviour::ServeWhenReleased);
    let config = Config::with_hosts(&[&host]).client_keys(json!([
        {"name": "batch", "key": "key-of-batch"},
        {"name": "people", "key": "key-of-people", "priority": 5},
    ]));
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut running = vec![start(&proxy, "key-of-batch", "sim", "first")];
    host.runs(1).await;
    for (number, (key, text)) in [
        ("key-of-batch", "b1"),
        ("key-of-batch", "b2"),
        ("key-of-people", "p1"),
    ]
    .into_iter()
    .enumerate()
    {
        running.push(start(&proxy, key, "sim", text));
        proxy.queues(number as u64 + 1).await;
    }

    host.release_all();

    for reply in running {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    assert_eq!(host.record().taken_on, ["first", "p1", "b1", "b2"]);
}

#[tokio::test]
async fn weights_share_out_the_requests() {
    let hosts = [sim_host("light").start(), sim_host("heavy").start()];
    let hosts = [&hosts[0], &hosts[1]];
    let config = Config::with_hosts(&hosts).set_host("heavy", "weight", 3);
    let proxy = Proxy::ready(&config, &hosts).await;

    proxy.client().flood(80, 1).await;

    let light = hosts[0].arrivals();
    assert!(
        (18..=22).contains(&light),
        "{light} of 80 went to the light one"
    );
}

#[tokio::test]
async fn every_policy_serves() {
    for policy in ["least-busy", "round-robin", "least-vram"] {
        let hosts = [
            sim_host("a").behaving(WORK).start(),
            sim_host("b").behaving(WORK).start(),
        ];
        let hosts = [&hosts[0], &hosts[1]];
        let config = Config::with_hosts(&hosts).set("pool", "policy", policy);
        let proxy = Proxy::ready(&config, &hosts).await;

        proxy.client().flood(60, 8).await;

        for host in hosts {
            assert!(host.arrivals() > 0, "{policy}: {} got nothing", host.name());
            assert_eq!(host.record().turned_away, 0, "{policy}");
        }
    }
}
