//! `/health`, `/info` and `/status` speak for the whole pool, in the shape of a single host.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{
    Behaviour, Config, HealthAnswer, Proxy, Reply, SimHost, embed_body, eventually, sim_host,
};

/// Returns once the proxy has heard `/info` of so many hosts.
async fn knows(proxy: &Proxy, hosts: u64) {
    let what = format!("/info of {hosts} hosts");
    let client = proxy.client();
    eventually(&what, async || {
        client.get("/info").await.json()["vram_total_mb"] == json!(11_000 * hosts)
    })
    .await;
}

fn keys(value: &Value) -> BTreeSet<&str> {
    let object = value.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn health_is_ok_while_one_host_can_serve() {
    let hosts = [sim_host("a").start(), sim_host("b").start()];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    knows(&proxy, 2).await;
    let client = proxy.client();

    hosts[0].stop();
    proxy.finds_unhealthy("a").await;

    let reply = client.get("/health").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.json(), json!({"status": "ok", "device": "cuda"}));
}

#[tokio::test]
async fn health_is_503_while_no_host_can_serve_and_ok_again_afterwards() {
    let hosts = [sim_host("a").start(), sim_host("b").start()];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let client = proxy.client();

    for host in &hosts {
        host.stop();
        proxy.finds_unhealthy(host.name()).await;
    }
    let down = client.get("/health").await;
    down.assert_error(503);
    // Clients that heed it would wait for nothing: what they asked for is answered.
    assert_eq!(down.header("retry-after"), None);

    hosts[1].restart();
    proxy.finds_healthy("b").await;
    assert_eq!(client.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_pool_that_is_merely_busy_is_healthy() {
    let host = sim_host("host").behaving(Behaviour::busy(600)).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let waiting = proxy.client().start_embed("patience");
    proxy.queues(1).await;

    assert_eq!(proxy.client().get("/health").await.status, 200);

    host.set(Behaviour::Serve);
    waiting.await.unwrap().assert_embedding_of("patience");
}

#[tokio::test]
async fn info_sums_up_the_hosts() {
    let hosts = [sim_host("a").start(), sim_host("b").start()];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    knows(&proxy, 2).await;

    let reply = proxy.client().get("/info").await;

    assert_eq!(reply.status, 200);
    let info = reply.json();
    let of_a_single_host = BTreeSet::from([
        "device",
        "device_name",
        "vram_total_mb",
        "vram_used_mb",
        "pytorch_version",
        "cuda_version",
        "loaded_models",
    ]);
    assert!(keys(&info).is_superset(&of_a_single_host), "{info}");
    assert_eq!(info["device"], "cuda");
    assert_eq!(info["device_name"], "2 hosts: Simulated a, Simulated b");
    assert_eq!(info["vram_total_mb"], 22_000);
    assert_eq!(info["vram_used_mb"], 2_000);
    assert_eq!(
        info["loaded_models"],
        json!(["embed:a", "embed:b", "embed:sim"])
    );
    let names: Vec<_> = info["hosts"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&names[0]["name"], &names[1]["name"]),
        (&json!("a"), &json!("b"))
    );
}

#[tokio::test]
async fn status_adds_up_slots_and_names_the_host_of_each_job() {
    let gated = |name| {
        let host = sim_host(name).slots(1);
        host.behaving(Behaviour::ServeWhenReleased).start()
    };
    let hosts = [gated("a"), gated("b")];
    let config = Config::with_hosts(&hosts.each_ref())
        .set_host("a", "max_concurrent", 1)
        .set_host("b", "max_concurrent", 1);
    let proxy = Proxy::ready(&config, &hosts.each_ref()).await;
    let client = proxy.client();
    let replies: Vec<_> = (0..5).map(|_| client.start_embed("work")).collect();
    proxy.queues(3).await;
    let status = client.get("/status").await.json();

    assert_eq!(status["waiting"], 3);
    let queue = json!({
        "max_concurrent": 2, "in_flight": 5, "available_slots": 0, "waiting_estimate": 3,
    });
    assert_eq!(status["queue"], queue);
    let jobs = status["active_jobs"].as_array().unwrap();
    let hosts_of_jobs: BTreeSet<_> = jobs.iter().map(|job| job["host"].as_str()).collect();
    assert_eq!(hosts_of_jobs, BTreeSet::from([Some("a"), Some("b")]));
    let of_a_single_host =
        BTreeSet::from(["id", "type", "started_at", "items", "model", "progress"]);
    assert!(keys(&jobs[0]).is_superset(&of_a_single_host), "{status}");
    assert_eq!(
        (&jobs[0]["type"], &jobs[0]["items"], &jobs[0]["model"]),
        (&json!("embed"), &json!(1), &json!("sim"))
    );

    hosts.iter().for_each(SimHost::release_all);
    for reply in replies {
        reply.await.unwrap().assert_embedding_of("work");
    }
}

/// Fails the test unless what `/status` tells fits together; returns it.
async fn fits_together(proxy: &Proxy) -> Value {
    let status = proxy.client().get("/status").await.json();
    let of = |key: &str| status["queue"][key].as_u64().unwrap();
    let jobs = status["active_jobs"].as_array().unwrap();
    let waiting = status["waiting"].as_u64().unwrap();
    assert_eq!(of("in_flight"), jobs.len() as u64 + waiting, "{status}");
    let estimate = of("in_flight").saturating_sub(of("max_concurrent"));
    assert_eq!(of("waiting_estimate"), estimate, "{status}");
    assert!(of("available_slots") <= of("max_concurrent"), "{status}");
    let ids: BTreeSet<_> = jobs.iter().map(|job| job["id"].as_str()).collect();
    assert_eq!(ids.len(), jobs.len(), "{status}");
    status
}

#[tokio::test]
async fn status_is_of_one_moment_and_that_moment_is_now() {
    let gated = |name| {
        sim_host(name)
            .behaving(Behaviour::ServeWhenReleased)
            .start()
    };
    let hosts = [gated("a"), gated("b")];
    // Long after the first check of each host has ended.
    let config = Config::with_hosts(&hosts.each_ref()).set("health", "interval", "1h");
    let proxy = Proxy::ready(&config, &hosts.each_ref()).await;
    let ask = || {
        let request = proxy.client().request(http::Method::POST, "/embed");
        let request = request.header("X-Request-Id", "same");
        tokio::spawn(Reply::to(request.json(&embed_body("x"))))
    };
    let replies: Vec<_> = (0..7).map(|_| ask()).collect();
    proxy.queues(3).await;

    let status = fits_together(&proxy).await;
    assert_eq!(status["active_jobs"].as_array().map(Vec::len), Some(4));
    assert_eq!(status["active_jobs"][0]["id"], "same");

    hosts[0].release(3);
    eventually("two requests wait no longer", async || {
        fits_together(&proxy).await["waiting"] == 0
    })
    .await;
    hosts.iter().for_each(SimHost::release_all);
    for reply in replies {
        reply.await.unwrap().assert_embedding_of("x");
        fits_together(&proxy).await;
    }
    let status = fits_together(&proxy).await;
    assert_eq!(
        (&status["active_jobs"], &status["queue"]["in_flight"]),
        (&json!([]), &json!(0))
    );
}

#[tokio::test]
async fn slots_that_nobody_would_get_are_not_available() {
    let hosts = ["a", "b", "c"].map(|name| sim_host(name).start());
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let has = async |available: u64, total: u64, foreign: u64| {
        let queue = json!({
            "max_concurrent": total, "in_flight": 0, "available_slots": available,
            "waiting_estimate": 0,
        });
        eventually(&format!("{available} of {total} slots"), async || {
            let status = fits_together(&proxy).await;
            status["queue"] == queue && status["foreign"] == foreign
        })
        .await;
    };
    has(6, 6, 0).await;

    hosts[0].set_foreign(1);
    has(5, 6, 1).await;
    let (code, ..) = proxy.command(&["drain", "b"]).await;
    assert_eq!(code, Some(0));
    has(3, 4, 1).await;
    hosts[2].stop();
    has(1, 2, 1).await;
}

#[tokio::test]
async fn an_idle_pool_has_all_its_slots_free() {
    let hosts = [
        sim_host("a").slots(3).start(),
        sim_host("b").slots(1).start(),
    ];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let queue = json!({
        "max_concurrent": 4, "in_flight": 0, "available_slots": 4, "waiting_estimate": 0,
    });
    eventually("all slots are known", async || {
        proxy.client().get("/status").await.json()["queue"] == queue
    })
    .await;
    let status = proxy.client().get("/status").await.json();
    assert_eq!(
        (&status["active_jobs"], &status["waiting"]),
        (&json!([]), &json!(0))
    );
}

#[tokio::test]
async fn what_is_known_is_told_without_asking_the_hosts() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    knows(&proxy, 1).await;

    host.set_health(HealthAnswer::Hang);

    for path in ["/info", "/status", "/health"] {
        assert_eq!(proxy.client().get(path).await.status, 200, "{path}");
    }
}
