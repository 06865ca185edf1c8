//! The whole product: the proxy, two real backends, a real model.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Backend, Client, Config, Proxy, Reply};

const MODEL: &str = Backend::MODEL;

struct Stage {
    client: Client,
    _proxy: Proxy,
    _backends: [Backend; 2],
}

impl Stage {
    async fn set() -> Self {
        let backends = [
            Backend::start("left", "left-key").await,
            Backend::start("right", "right-key").await,
        ];
        let config = Config::new()
            .host("left", backends[0].url(), Some("left-key"))
            .host("right", backends[1].url(), Some("right-key"))
            .set("queue", "max_wait", "60s")
            .set("timeouts", "attempt", "60s");
        let proxy = Proxy::start(&config).await;
        for host in ["left", "right"] {
            proxy.finds_healthy(host).await;
        }
        Self {
            client: proxy.client(),
            _proxy: proxy,
            _backends: backends,
        }
    }

    /// More requests at once than there are slots: all served, by both hosts.
    async fn serves_a_burst(&self, path: &str, body: &Value) -> Vec<Reply> {
        let requests = (0..16).map(|_| self.client.post(path, body));
        let replies = join_all(requests).await;
        for reply in &replies {
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.body, replies[0].body, "hosts disagree");
        }
        let hosts: BTreeSet<_> = replies.iter().map(Reply::served_by).collect();
        assert_eq!(hosts, BTreeSet::from(["left", "right"]));
        replies
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().expect("an array").iter();
    values
        .map(|value| value.as_f64().expect("a number"))
        .collect()
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[tokio::test]
async fn embeddings_come_from_both_backends_and_mean_something() {
    let stage = Stage::set().await;
    let texts = [
        "A cat sits on the mat.",
        "A kitten rests on the rug.",
        "Stocks fell.",
    ];

    let body = json!({"texts": texts, "model": MODEL});
    let replies = stage.serves_a_burst("/embed", &body).await;

    let answer = replies[0].json();
    assert_eq!(answer["model"], MODEL);
    assert_eq!(answer["dimensions"], 384);
    let vectors: Vec<_> = answer["embeddings"]
        .as_array()
        .unwrap()
        .iter()
        .map(numbers)
        .collect();
    assert_eq!(vectors.len(), 3);
    for vector in &vectors {
        assert_eq!(vector.len(), 384);
        assert!((dot(vector, vector) - 1.0).abs() < 1e-4);
    }
    let (close, far) = (dot(&vectors[0], &vectors[1]), dot(&vectors[0], &vectors[2]));
    assert!(close > far + 0.2, "close {close}, far {far}");
}

#[tokio::test]
async fn a_backend_with_an_empty_folder_of_models_gets_nothing_and_is_noticed() {
    let empty = tempfile::tempdir().unwrap();
    let left = Backend::start("left", "left-key").await;
    let right = Backend::start_with("right", "right-key", empty.path()).await;
    let config = Config::new()
        .host("left", left.url(), Some("left-key"))
        .host("right", right.url(), Some("right-key"))
        .set("queue", "max_wait", "60s")
        .set("timeouts", "attempt", "60s");
    let proxy = Proxy::start(&config).await;
    proxy.finds_healthy("left").await;
    proxy.finds("right", "not_ready").await;

    let client = proxy.client();
    let body = json!({"texts": ["a cat"], "model": MODEL});
    let requests = (0..20).map(|_| client.post("/embed", &body));
    for reply in join_all(requests).await {
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.served_by(), "left");
    }

    proxy.logs("host is not ready").await;
    let (_, status, _) = proxy.command(&["status"]).await;
    assert!(status.contains("not_ready"), "{status}");
    assert!(
        status.contains("embed all-MiniLM-L6-v2: failed"),
        "{status}"
    );
}

#[tokio::test]
async fn bertscores_come_from_both_backends_and_mean_something() {
    let stage = Stage::set().await;
    let body = json!({
        "candidates": ["the cat sat on the mat", "stocks fell sharply"],
        "references": ["the cat sat on the mat", "a kitten rested on the rug"],
        "lang": "en",
        "model_type": MODEL,
    });

    let replies = stage.serves_a_burst("/bertscore", &body).await;

    let answer = replies[0].json();
    for measure in ["precision", "recall", "f1"] {
        let [same, different] = numbers(&answer[measure])[..] else {
            panic!("{answer}");
        };
        assert!((same - 1.0).abs() < 1e-4, "{measure} {same}");
        assert!(different < 0.9, "{measure} {different}");
    }
}

#[tokio::test]
async fn what_a_backend_refuses_is_told_in_its_own_words() {
    let stage = Stage::set().await;

    let reply = stage
        .client
        .post("/embed", &json!({"texts": "not a list"}))
        .await;
    assert_eq!(reply.status, 422);
    assert_eq!(reply.json()["detail"][0]["type"], "list_type");

    let body = json!({"candidates": ["one"], "references": []});
    let reply = stage.client.post("/bertscore", &body).await;
    let told = "candidates and references must have equal length";
    assert_eq!(reply.assert_error(400), told);

    let body = json!({"texts": ["x"], "model": "no-such-model"});
    let detail = stage.client.post("/embed", &body).await.assert_error(404);
    assert!(detail.contains("no-such-model"), "{detail}");
}
