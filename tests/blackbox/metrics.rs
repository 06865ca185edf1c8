//! What operators read about requests.

use crate::harness::{Behaviour, Config, Proxy, eventually, sim_host};

/// Returns once `name` has counted to `number`. Requests are counted when they are over, which is just
/// after their client has its answer.
async fn counts(proxy: &Proxy, name: &str, number: u64) {
    let what = format!("{name} to reach {number}");
    eventually(&what, async || {
        proxy.metrics().await.count(name, &[]) == number
    })
    .await;
}

#[tokio::test]
async fn requests_are_counted_and_timed_by_route_and_code() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let client = proxy.client();

    client.flood(3, 1).await;
    let pair = serde_json::json!({"candidates": ["a"], "references": ["b"]});
    client.post("/bertscore", &pair).await;
    client.get("/health").await;
    host.set(Behaviour::answer(422, "no"));
    client.embed("wrong").await;

    counts(&proxy, "gpu_bridge_requests_total", 6).await;
    let metrics = proxy.metrics().await;
    for (route, code, count) in [
        ("embed", "200", 3),
        ("embed", "422", 1),
        ("bertscore", "200", 1),
        ("health", "200", 1),
    ] {
        let labels = [("route", route), ("code", code)];
        let counted = metrics.count("gpu_bridge_requests_total", &labels);
        assert_eq!(counted, count, "{route} {code}");
    }
    let timed = |route| {
        let name = "gpu_bridge_request_duration_seconds_count";
        metrics.count(name, &[("route", route)])
    };
    assert_eq!((timed("embed"), timed("bertscore")), (4, 1));
    assert_eq!(
        metrics.count("gpu_bridge_attempts_total", &[("host", "host")]),
        5
    );
}

#[tokio::test]
async fn unknown_paths_do_not_become_labels() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    proxy.client().get("/some-secret-path").await;
    counts(&proxy, "gpu_bridge_requests_total", 1).await;

    let text = proxy.metrics_text().await;
    assert!(!text.contains("some-secret-path"), "{text}");
}

#[tokio::test]
async fn the_time_in_the_queue_is_measured() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host]).set_host("host", "max_concurrent", 1);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let replies = [(); 2].map(|()| proxy.client().start_embed("work"));
    proxy.queues(1).await;

    host.release_all();
    for reply in replies {
        reply.await.unwrap().assert_embedding_of("work");
    }

    eventually("the wait is measured", async || {
        let metrics = proxy.metrics().await;
        metrics.seconds("gpu_bridge_queue_wait_seconds_sum") > 0.0
    })
    .await;
}

#[tokio::test]
async fn every_host_has_its_metrics_from_the_start() {
    let host = sim_host("host").start();
    host.stop();
    let proxy = Proxy::start(&Config::with_hosts(&[&host])).await;

    for (metric, value) in [
        ("healthy", 0),
        ("busy", 0),
        ("in_flight", 0),
        ("capacity", 2),
    ] {
        assert_eq!(proxy.host_metric(metric, "host").await, value, "{metric}");
    }
}
