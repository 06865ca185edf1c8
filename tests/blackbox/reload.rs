//! A new configuration is taken over while requests run, or refused whole.

use std::io::Write as _;

use serde_json::json;
use tempfile::NamedTempFile;

use crate::harness::{Authority, Behaviour, Config, Proxy, SimHost, eventually, sim_host};

/// One slot, whose requests are answered when the test says so.
fn one_slot(name: &str) -> SimHost {
    sim_host(name)
        .slots(1)
        .behaving(Behaviour::ServeWhenReleased)
        .start()
}

#[tokio::test]
async fn a_host_that_is_added_takes_the_requests_that_wait() {
    let (first, second) = (one_slot("first"), sim_host("second").start());
    let config = Config::with_hosts(&[&first]).set_host("first", "max_concurrent", 1);
    let proxy = Proxy::ready(&config, &[&first]).await;
    let running = proxy.client().start_embed("running");
    first.runs(1).await;
    let texts = ["one", "two", "three"];
    let waiting = texts.map(|text| proxy.client().start_embed(text));
    proxy.queues(3).await;

    proxy
        .takes_over(&config.host("second", &second.url(), None))
        .await;

    for (reply, text) in waiting.into_iter().zip(texts) {
        let reply = reply.await.unwrap();
        reply.assert_embedding_of(text);
        assert_eq!(reply.served_by(), "second");
    }
    first.release_all();
    let reply = running.await.unwrap();
    reply.assert_embedding_of("running");
    assert_eq!(reply.served_by(), "first");
    assert_eq!(first.arrivals(), 1);
}

#[tokio::test]
async fn a_host_that_is_removed_ends_what_it_runs_and_gets_nothing_new() {
    let (first, second) = (one_slot("first"), sim_host("second").start());
    let config = Config::with_hosts(&[&first]).set_host("first", "max_concurrent", 1);
    let proxy = Proxy::ready(&config, &[&first]).await;
    let running = proxy.client().start_embed("running");
    first.runs(1).await;
    let waiting = proxy.client().start_embed("waiting");
    proxy.queues(1).await;

    proxy.takes_over(&Config::with_hosts(&[&second])).await;

    let reply = waiting.await.unwrap();
    reply.assert_embedding_of("waiting");
    assert_eq!(reply.served_by(), "second");
    proxy.client().flood(20, 4).await;
    assert_eq!(first.arrivals(), 1, "nothing new");
    first.release_all();
    let reply = running.await.unwrap();
    reply.assert_embedding_of("running");
    assert_eq!(reply.served_by(), "first");
    proxy.has_hosts(&["second"]).await;
}

#[tokio::test]
async fn a_host_that_moves_is_found_at_its_new_address() {
    let (old, new) = (sim_host("host").start(), sim_host("host").start());
    let proxy = Proxy::in_front_of(&[&old]).await;
    proxy.client().embed("old").await.assert_embedding_of("old");

    proxy.takes_over(&Config::with_hosts(&[&new])).await;

    // It waits for the first check of the new address.
    proxy.client().embed("new").await.assert_embedding_of("new");
    assert_eq!((old.arrivals(), new.arrivals()), (1, 1));
}

#[tokio::test]
async fn the_key_of_a_client_is_rotated() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::ready(&config.clone().client_key("client", "old"), &[&host]).await;
    let status = async |key: &str| {
        let body = crate::harness::embed_body("x");
        let request = proxy.client().request(http::Method::POST, "/embed");
        let request = request.header("x-api-key", key).json(&body);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((status("old").await, status("new").await), (200, 401));

    proxy.takes_over(&config.client_key("client", "new")).await;

    assert_eq!((status("old").await, status("new").await), (401, 200));
}

#[tokio::test]
async fn the_key_of_a_host_is_rotated_in_its_file() {
    let host = sim_host("host").key("old").start();
    let mut key_file = NamedTempFile::new().unwrap();
    key_file.write_all(b"old\n").unwrap();
    let path = key_file.path().to_str().unwrap();
    let config =
        Config::new()
            .host("host", &host.url(), None)
            .set_host("host", "api_key_file", path);
    let proxy = Proxy::ready(&config, &[&host]).await;
    proxy.client().embed("old").await.assert_embedding_of("old");

    host.set_key("new");
    proxy.finds_unhealthy("host").await;
    std::fs::write(key_file.path(), "new\n").unwrap();

    proxy.finds_healthy("host").await;
    proxy.client().embed("new").await.assert_embedding_of("new");
    assert_eq!(proxy.reloads("success").await, 1);
}

#[tokio::test]
async fn another_authority_in_its_file_is_trusted() {
    let (old, new) = (Authority::new(), Authority::new());
    let host = sim_host("host").tls(new.issue(&["127.0.0.1"]).server(None));
    let host = host.start();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::copy(old.path(), &ca).unwrap();
    let config = Config::with_hosts(&[&host]).set_host("host", "tls", json!({"ca": ca}));
    let proxy = Proxy::start(&config).await;
    proxy.logs("health check failed").await;

    std::fs::copy(new.path(), &ca).unwrap();

    proxy.finds_healthy("host").await;
    proxy.client().embed("x").await.assert_embedding_of("x");
}

#[tokio::test]
async fn a_bad_file_is_refused_whole_and_the_old_one_goes_on() {
    let (host, other) = (sim_host("host").start(), sim_host("other").start());
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let last_successful = async || {
        let metrics = proxy.metrics().await;
        metrics.gauge("gpu_bridge_config_last_reload_successful", &[])
    };
    assert_eq!(last_successful().await, 1);

    let bad = Config::with_hosts(&[&other])
        .set("queue", "max_wait", "soon")
        .set("health", "intervall", "1s");
    proxy.rewrite(&bad.to_yaml());

    proxy.has_reloaded("failure", 1).await;
    assert_eq!(last_successful().await, 0);
    proxy.logs("queue.max_wait: is not a duration").await;
    proxy.logs("health.intervall: unknown key").await;
    proxy.client().flood(10, 2).await;
    assert_eq!((host.arrivals(), other.arrivals()), (10, 0));

    proxy.takes_over(&Config::with_hosts(&[&other])).await;
    assert_eq!(last_successful().await, 1);
    proxy.client().embed("x").await.assert_embedding_of("x");
    assert_eq!(other.arrivals(), 1);
}

#[tokio::test]
async fn a_file_that_a_refused_configuration_wants_makes_it_good() {
    let host = sim_host("host").start();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let keys = json!([{"name": "client", "key_file": key.to_str().unwrap()}]);
    proxy.rewrite(&config.set("auth", "keys", keys).to_yaml());
    proxy.has_reloaded("failure", 1).await;

    std::fs::write(&key, "secret").unwrap();

    proxy.has_reloaded("success", 1).await;
    proxy.client().embed("x").await.assert_error(401);
}

#[tokio::test]
async fn sighup_reloads_what_has_not_changed_too() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    assert_eq!(proxy.reloads("success").await, 0);

    proxy.signal("HUP").await;

    proxy.has_reloaded("success", 1).await;
    proxy.client().embed("x").await.assert_embedding_of("x");
}

#[tokio::test]
async fn limits_bounds_and_policy_change() {
    let (gated, idle) = (one_slot("gated"), sim_host("idle").start());
    let config = Config::with_hosts(&[&gated]).set_host("gated", "max_concurrent", 1);
    let proxy = Proxy::ready(&config, &[&gated]).await;
    let client = proxy.client();
    let running = client.start_embed("running");
    gated.runs(1).await;

    let strict = config
        .set("queue", "max_waiting", 0)
        .set("limits", "max_body", "1KiB");
    proxy.takes_over(&strict).await;

    client.embed("no place").await.assert_come_again();
    client.embed(&"x".repeat(2048)).await.assert_error(413);

    let patient = strict
        .set("queue", "max_waiting", 9)
        .set("queue", "max_wait", "1ms")
        .set("pool", "policy", "least-busy");
    proxy.takes_over(&patient).await;
    client.embed("no time").await.assert_come_again();
    proxy
        .takes_over(&patient.host("idle", &idle.url(), None))
        .await;
    proxy.finds_healthy("idle").await;
    client.embed("idle").await.assert_embedding_of("idle");
    gated.release_all();
    running.await.unwrap().assert_embedding_of("running");
    assert_eq!((gated.arrivals(), idle.arrivals()), (1, 1));
}

#[tokio::test]
async fn what_needs_a_restart_is_said() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::ready(&config, &[&host]).await;

    let moved = config
        .clone()
        .replace("listen", json!([{"address": "127.0.0.1:1"}]));
    proxy.takes_over(&moved).await;

    proxy
        .logs("listen: http://127.0.0.1:0 → http://127.0.0.1:1")
        .await;
    proxy.logs("after a restart").await;
    proxy.client().embed("x").await.assert_embedding_of("x");
    // It is compared with what runs, so it is told again as long as it is so.
    for _ in 0..2 {
        let (code, said, errors) = proxy.command(&["reload"]).await;
        assert_eq!(code, Some(0), "{errors}");
        assert!(
            said.contains("listen: http://127.0.0.1:0 → http://127.0.0.1:1"),
            "{said}"
        );
    }

    proxy.rewrite(&config.to_yaml());
    let (_, said, _) = proxy.command(&["reload"]).await;
    assert_eq!(said, "nothing has changed\n");
}

#[tokio::test]
async fn requests_run_through_many_reloads_without_a_failure() {
    let hosts = ["a", "b", "c"].map(|name| {
        let work = Behaviour::ServeAfter(std::time::Duration::from_millis(20));
        sim_host(name).behaving(work).start()
    });
    let all = Config::with_hosts(&hosts.each_ref()).set("batching", "merge", false);
    let proxy = Proxy::ready(&all, &hosts.each_ref()).await;
    let client = proxy.client();
    let flood = tokio::spawn(async move { client.flood(400, 100).await });

    // Each time another host is missing; there are always two.
    for round in 0..10 {
        let gone = hosts[round % hosts.len()].name();
        let before = proxy.reloads("success").await;
        proxy.rewrite(&all.clone().without_host(gone).to_yaml());
        proxy.signal("HUP").await;
        proxy.has_reloaded("success", before + 1).await;
    }

    flood.await.unwrap();
    let served: usize = hosts.iter().map(SimHost::arrivals).sum();
    assert!(served >= 400, "{served}");
    eventually("nothing is left behind", async || {
        hosts.iter().all(|host| host.record().present == 0)
    })
    .await;
}

#[tokio::test]
async fn an_operator_reloads_and_is_told_what_changes_or_what_is_wrong() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let (code, said, _) = proxy.command(&["reload"]).await;
    assert_eq!((code, said.as_str()), (Some(0), "nothing has changed\n"));

    let changed = config.clone().set("limits", "max_connections", 9);
    proxy.rewrite(&changed.set("queue", "max_wait", "9s").to_yaml());
    let (code, said, errors) = proxy.command(&["reload"]).await;
    assert_eq!(code, Some(0), "{errors}");
    for text in [
        "queue.max_wait: 20s → 9s\n",
        "limits.max_connections: 4096 → 9",
        "restart the proxy",
    ] {
        assert!(said.contains(text), "{said}");
    }

    proxy.rewrite(&config.set("queue", "max_wait", "soon").to_yaml());
    let (code, _, errors) = proxy.command(&["reload"]).await;
    assert_eq!(code, Some(2), "{errors}");
    assert!(
        errors.contains("queue.max_wait: is not a duration"),
        "{errors}"
    );
    assert!(errors.contains("the old one goes on"), "{errors}");
    proxy.client().embed("x").await.assert_embedding_of("x");
}
