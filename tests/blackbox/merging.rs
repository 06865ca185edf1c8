//! Requests that wait with the same question share an attempt, and nobody can tell from its answer.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Backend, Behaviour, Client, Config, Proxy, Reply, SimHost, eventually, sim_host,
};

/// A host with one slot, and a proxy that knows how long it takes.
async fn acquainted(key: &str, value: Value) -> (SimHost, Proxy) {
    let by_items = Behaviour::ServeByItems(Duration::from_millis(10), Duration::from_millis(1));
    let host = sim_host("host").slots(1).behaving(by_items).start();
    let config = Config::with_hosts(&[&host])
        .set_host("host", "max_concurrent", 1)
        .set("batching", key, value);
    let proxy = Proxy::ready(&config, &[&host]).await;
    for number in 0..40 {
        let texts: Vec<_> = (0..=number % 3).map(|it| it.to_string()).collect();
        let body = json!({"texts": texts, "model": "host"});
        assert_eq!(proxy.client().post("/embed", &body).await.status, 200);
    }
    (host, proxy)
}

async fn ask(client: Client, text: String, tenant: usize) -> Reply {
    let request = client.request(Method::POST, "/embed");
    let request = request.header("X-Request-Id", format!("id {text}").replace(' ', "-"));
    let request = request.header("X-Tenant", tenant.to_string());
    Reply::to(request.json(&json!({"texts": [text], "model": "host"}))).await
}

/// Asks for each of these texts, of so many tenants, while the only slot is in use. The answers, and how many
/// items each request had that the host has seen since.
async fn asked_at_once(
    (host, proxy): (&SimHost, &Proxy),
    texts: &[String],
    tenants: usize,
    behaviour: Behaviour,
) -> (Vec<Reply>, Vec<usize>) {
    host.set(Behaviour::ServeWhenReleased);
    let running = proxy.client().start_embed_with("host", "running");
    // Not the one before it, with which the host may not have been done when this one came for the first time.
    eventually("it has the slot", async || {
        host.record()
            .taken_on
            .last()
            .is_some_and(|it| it == "running")
    })
    .await;
    let seen = host.arrivals();
    let asks = texts
        .iter()
        .enumerate()
        .map(|(number, text)| tokio::spawn(ask(proxy.client(), text.clone(), number % tenants)));
    let asks: Vec<_> = asks.collect();
    proxy.queues(texts.len() as u64).await;
    host.set(behaviour);
    host.release(1);
    running.await.unwrap().assert_embedding_of("running");
    let replies = join_all(asks).await.into_iter();
    let sizes = host.record().requests.split_off(seen);
    let sizes = sizes.iter().map(|request| request.items).collect();
    (replies.map(Result::unwrap).collect(), sizes)
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("text {number}")).collect()
}

#[tokio::test]
async fn those_that_wait_with_the_same_question_are_answered_by_one_attempt() {
    let (host, proxy) = acquainted("max_items", json!(100)).await;
    let texts = texts(64);
    let (replies, sizes) = asked_at_once((&host, &proxy), &texts, 1, Behaviour::Serve).await;
    for (reply, text) in replies.iter().zip(&texts) {
        reply.assert_embedding_of(text);
        assert_eq!(
            reply.header("x-request-id"),
            Some(&*format!("id {text}").replace(' ', "-"))
        );
        assert_eq!(reply.served_by(), "host");
    }
    assert_eq!(sizes.iter().sum::<usize>(), 64, "{sizes:?}");
    // The last ones may have been in line for too short a time to say that they may be merged.
    assert!(sizes.len() <= 4, "{sizes:?}");
    let (_, story, _) = proxy.command(&["explain", "id-text-9"]).await;
    assert!(story.contains(" other requests): deliver"), "{story}");
    let metrics = proxy.metrics().await;
    let requests = metrics.count("gpu_bridge_merged_requests_total", &[]);
    assert!((60..=64).contains(&requests), "{requests}");
    assert!(metrics.count("gpu_bridge_merged_attempts_total", &[]) <= 4);
    assert!(metrics.seconds("gpu_bridge_merge_saved_seconds_total") > 0.05);
}

#[tokio::test]
async fn what_differs_in_more_than_its_texts_goes_alone_and_so_does_all_if_switched_off() {
    let (host, proxy) = acquainted("max_items", json!(100)).await;
    let (_, sizes) = asked_at_once((&host, &proxy), &texts(6), 6, Behaviour::Serve).await;
    assert_eq!(sizes, [1; 6]);
    let (_, sizes) = asked_at_once((&host, &proxy), &texts(20), 2, Behaviour::Serve).await;
    assert!(
        sizes.len() >= 2 && sizes.iter().all(|size| *size <= 10),
        "{sizes:?}"
    );
    for (key, value) in [("merge", json!(false)), ("max_items", json!(1))] {
        let (host, proxy) = acquainted(key, value).await;
        let (_, sizes) = asked_at_once((&host, &proxy), &texts(6), 1, Behaviour::Serve).await;
        assert_eq!(sizes, [1; 6]);
    }
}

#[tokio::test]
async fn an_error_about_one_is_told_to_that_one_alone() {
    for status in [400, 413, 422, 500] {
        let (host, proxy) = acquainted("max_items", json!(100)).await;
        let refusal = Behaviour::Answer(Answer::error(status, "no"));
        let behaviour = Behaviour::Serve.but_for("text 3", refusal);
        let texts = texts(8);
        let (replies, sizes) = asked_at_once((&host, &proxy), &texts, 1, behaviour).await;
        assert!(sizes[0] > 1, "{sizes:?}");
        for (reply, text) in replies.iter().zip(&texts) {
            match &**text {
                "text 3" => assert_eq!(reply.status, status),
                _ => reply.assert_embedding_of(text),
            }
        }
        assert!(proxy.is_healthy("host").await);
    }
}

#[tokio::test]
async fn real_backends_answer_the_same_together_as_alone() {
    let backends = [
        Backend::start("left", "left-key").await,
        Backend::start("right", "right-key").await,
    ];
    let config = |merge: bool| {
        Config::new()
            .host("left", backends[0].url(), Some("left-key"))
            .host("right", backends[1].url(), Some("right-key"))
            .set_host("left", "max_concurrent", 1)
            .set_host("right", "max_concurrent", 1)
            .set("batching", "merge", merge)
            .set("queue", "max_wait", "60s")
    };
    let mut answers = Vec::new();
    for merge in [false, true] {
        let proxy = Proxy::start(&config(merge)).await;
        for host in ["left", "right"] {
            proxy.finds_healthy(host).await;
        }
        let client = proxy.client();
        let asks = (0..120).map(|number: usize| {
            let text = "a cat sat on mat and ".repeat(1 + number % 5) + &(number % 60).to_string();
            let body = json!({"texts": [text], "model": Backend::MODEL});
            let client = &client;
            async move { client.post("/embed", &body).await }
        });
        let replies = join_all(asks).await;
        assert!(
            replies.iter().all(|reply| reply.status == 200),
            "{replies:?}"
        );
        answers.push(replies.iter().map(Reply::json).collect::<Vec<_>>());
        let merged = proxy.metrics().await;
        let merged = merged.count("gpu_bridge_merged_requests_total", &[]);
        assert_eq!(merged > 10, merge, "{merged}");
    }
    for (alone, together) in answers[0].iter().zip(&answers[1]) {
        let numbers = |answer: &Value| -> Vec<f64> {
            let row = answer["embeddings"][0].as_array().unwrap();
            row.iter().map(|number| number.as_f64().unwrap()).collect()
        };
        assert_eq!(alone["model"], together["model"]);
        assert_eq!(together["embeddings"].as_array().unwrap().len(), 1);
        let (alone, together) = (numbers(alone), numbers(together));
        let furthest = alone.iter().zip(&together).map(|(a, b)| (a - b).abs());
        assert!(furthest.fold(0.0, f64::max) <= 1e-6);
    }
}
