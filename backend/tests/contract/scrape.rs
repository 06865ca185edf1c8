//! What a scraper of the metrics gets, after requests of all kinds.

use std::collections::BTreeMap;

use gpu_bridge_backend::engine::EngineError;

use crate::fake::FakeEngine;
use crate::lifecycle::{Running, one_slot, start};
use crate::replay::settings;

pub(crate) async fn metrics(service: &Running) -> String {
    let answer = reqwest::get(service.url("/metrics")).await.unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        "text/plain; version=0.0.4"
    );
    answer.text().await.unwrap()
}

#[tokio::test]
async fn requests_are_counted_by_route_and_code() {
    let engine = FakeEngine::scripted(|text, _| match text {
        "large" => Err(EngineError::OutOfMemory),
        _ => Ok(()),
    });
    let service = start(engine, one_slot()).await;
    assert_eq!(service.embed("x").await.status(), 200);
    let full = service.embed("large").await;
    assert_eq!(
        (full.status().as_u16(), &full.headers()["retry-after"]),
        (503, &"5".parse().unwrap())
    );
    assert!(full.text().await.unwrap().contains("out of memory"));
    for path in ["/no/such/path", "/nor/this"] {
        reqwest::get(service.url(path)).await.unwrap();
    }
    let text = metrics(&service).await;
    for line in [
        "requests_total{code=\"200\",route=\"/embed\"} 1",
        "requests_total{code=\"503\",route=\"/embed\"} 1",
        "requests_total{code=\"404\",route=\"other\"} 2",
        "request_duration_seconds_count{route=\"/embed\"} 2",
        "rejected_requests_total{reason=\"device_memory\"} 1",
        "rejected_requests_total{reason=\"slots\"} 0",
        "slot_wait_seconds_count 2",
        "slots 1",
        "in_flight_requests 0",
    ] {
        let line = format!("\ngpu_bridge_backend_{line}\n");
        assert!(text.contains(&line), "{line} is not in:\n{text}");
    }
    assert!(!text.contains("device_memory_bytes{") && !text.contains("/no/such"));
}

#[tokio::test]
async fn metrics_need_the_key_where_there_is_one() {
    let env = BTreeMap::from([("API_KEY".to_owned(), "s3cret".to_owned())]);
    let options = settings(&env).unwrap().api;
    let service = start(FakeEngine::quick(), options).await;
    let get = |name: &'static str, value: &'static str| {
        reqwest::Client::new()
            .get(service.url("/metrics"))
            .header(name, value)
            .send()
    };
    assert_eq!(get("x-none", "").await.unwrap().status(), 401);
    assert_eq!(
        get("authorization", "Bearer wrong").await.unwrap().status(),
        401
    );
    assert_eq!(get("x-api-key", "s3cret").await.unwrap().status(), 200);
    let shown = get("authorization", "Bearer s3cret").await.unwrap();
    assert_eq!(shown.status(), 200);
    assert!(!shown.text().await.unwrap().contains("s3cret"));
}
