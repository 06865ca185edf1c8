//! Requests that wait with the same question share an attempt, and nobody can tell from its answer.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Behaviour, Client, Config, Proxy, Reply, Server, SimHost, embedding_of, eventually,
    sim_host,
};

/// A host with one slot, and a proxy that knows how long it takes.
async fn acquainted(key: &str, value: Value) -> (SimHost, Proxy) {
    acquainted_with(None, key, value).await
}

/// The same of one that speaks OpenAI's API, if it is a `server` of that.
async fn acquainted_with(server: Option<Server>, key: &str, value: Value) -> (SimHost, Proxy) {
    let by_items = Behaviour::ServeByItems(Duration::from_millis(10), Duration::from_millis(1));
    let host = sim_host("host").slots(1).behaving(by_items);
    let host = match server {
        Some(server) => host.openai(server).models(&["host"]).start(),
        None => host.start(),
    };
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
    let id = format!("id {text}").replace(' ', "-");
    // What stands between clients and the proxy adds some of each request's own.
    let own = [
        "X-Request-Id",
        "X-B3-TraceId",
        "CF-Ray",
        "X-Amzn-Trace-Id",
        "Idempotency-Key",
    ];
    let request = own
        .iter()
        .fold(request, |request, name| request.header(*name, &id));
    let request = request.header("X-Tenant", tenant.to_string());
    Reply::to(request.json(&json!({"texts": [text], "model": "host"}))).await
}

/// Makes these requests while the only slot is in use for another one for `model`. The answers, and how many items
/// each request had that the host has seen since.
pub(crate) async fn at_once(
    (host, proxy): (&SimHost, &Proxy),
    model: &str,
    requests: Vec<impl Future<Output = Reply> + Send + 'static>,
    behaviour: Behaviour,
) -> (Vec<Reply>, Vec<usize>) {
    host.set(Behaviour::ServeWhenReleased);
    let running = proxy.client().start_embed_with(model, "running");
    // Not the one before it, with which the host may not have been done when this one came for the first time.
    eventually("it has the slot", async || {
        host.record()
            .taken_on
            .last()
            .is_some_and(|it| it == "running")
    })
    .await;
    let seen = host.arrivals();
    let asks: Vec<_> = requests.into_iter().map(tokio::spawn).collect();
    proxy.queues(asks.len() as u64).await;
    host.set(behaviour);
    host.release(1);
    assert_eq!(running.await.unwrap().status, 200);
    let replies = join_all(asks).await.into_iter();
    let sizes = host.record().requests.split_off(seen);
    let sizes = sizes.iter().map(|request| request.items).collect();
    (replies.map(Result::unwrap).collect(), sizes)
}

/// Asks for each of these texts, of so many tenants.
async fn asked_at_once(
    (host, proxy): (&SimHost, &Proxy),
    texts: &[String],
    tenants: usize,
    behaviour: Behaviour,
) -> (Vec<Reply>, Vec<usize>) {
    let asks = texts.iter().enumerate();
    let asks = asks.map(|(number, text)| ask(proxy.client(), text.clone(), number % tenants));
    at_once((host, proxy), "host", asks.collect(), behaviour).await
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
async fn an_odd_answer_that_one_causes_is_that_of_no_other() {
    for (server, table) in crate::results::wrong() {
        for (what, wrong) in table {
            let server = server.clone();
            let (host, proxy) = acquainted_with(server, "max_items", json!(100)).await;
            let behaviour = Behaviour::Serve.but_for("text 3", wrong);
            let texts = texts(8);
            let (replies, sizes) = asked_at_once((&host, &proxy), &texts, 1, behaviour).await;
            assert!(sizes[0] > 1, "{what}: {sizes:?}");
            for (reply, text) in replies.iter().zip(&texts) {
                // One row is right for one.
                if text != "text 3" {
                    let rows = &reply.json()["embeddings"];
                    assert_eq!(rows, &json!([embedding_of(text)]), "{what}: {reply:?}");
                } else if reply.status == 200 {
                    assert_eq!(reply.json()["embeddings"].as_array().unwrap().len(), 1);
                } else {
                    assert!(
                        [502, 503].contains(&reply.status.as_u16()),
                        "{what}: {reply:?}"
                    );
                }
            }
        }
    }
}

/// More rows than were asked for, before it is known what was: nobody is given one of them.
#[tokio::test]
async fn an_answer_before_the_question_is_nobodys() {
    let (host, proxy) = acquainted("max_items", json!(100)).await;
    let rows = json!({"embeddings": vec![[1]; 50], "model": "host", "dimensions": 1});
    let early = Behaviour::AnswerUnread(Answer::json(200, &rows));
    let texts = texts(8);
    let (replies, _) = asked_at_once((&host, &proxy), &texts, 1, early).await;
    for reply in &replies {
        assert!([502, 503].contains(&reply.status.as_u16()), "{reply:?}");
    }
    let (_, story, _) = proxy.command(&["explain", "id-text-1"]).await;
    assert!(story.contains(" other requests)"), "{story}");
}
