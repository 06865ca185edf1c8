//! Requests share attempts whatever kind of host serves them and in whichever dialect they ask, and nobody can tell
//! from its answer, nor from what it is billed.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Backend, Behaviour, Client, Config, Proxy, Reply, Server, SimHost, embedding_of,
    sim_host,
};
use crate::merging::at_once;

/// A route, and what is asked there for these texts.
type Job = fn(&[String]) -> (&'static str, Value);

fn embed(texts: &[String]) -> (&'static str, Value) {
    ("/embed", json!({"texts": texts, "model": "sim"}))
}

fn embeddings(texts: &[String]) -> (&'static str, Value) {
    ("/v1/embeddings", json!({"input": texts, "model": "sim"}))
}

fn pairs(texts: &[String]) -> (&'static str, Value) {
    let references: Vec<_> = texts.iter().map(|text| format!("{text}!")).collect();
    let body = json!({"candidates": texts, "references": references, "model_type": "sim"});
    ("/bertscore", body)
}

/// A proxy that knows how long `host`, which has one slot, takes for such jobs.
async fn acquainted(host: &SimHost, config: &Config, job: Job) -> Proxy {
    let by_items = Behaviour::ServeByItems(Duration::from_millis(10), Duration::from_millis(1));
    host.set(by_items);
    let proxy = Proxy::ready(config, &[host]).await;
    for number in 0..40 {
        let texts: Vec<_> = (0..=number % 3).map(|it| it.to_string()).collect();
        for job in [embed, job] {
            let (route, body) = job(&texts);
            assert_eq!(proxy.client().post(route, &body).await.status, 200);
        }
    }
    proxy
}

fn one_slot(host: &SimHost) -> Config {
    Config::with_hosts(&[host]).set_host(host.name(), "max_concurrent", 1)
}

async fn ask(client: Client, route: &'static str, body: Value) -> Reply {
    client.post(route, &body).await
}

/// Asks for each of these texts by itself.
async fn each(stage: (&SimHost, &Proxy), texts: &[String], job: Job) -> (Vec<Reply>, Vec<usize>) {
    let requests = texts.iter().map(|text| {
        let (route, body) = job(std::slice::from_ref(text));
        ask(stage.1.client(), route, body)
    });
    at_once(stage, "sim", requests.collect(), Behaviour::Serve).await
}

/// So many, of which some are equal.
fn texts(count: usize) -> Vec<String> {
    let text = |number| format!("text \"{}\" \u{e9}", number % 50);
    (0..count).map(text).collect()
}

/// The numbers of a row, as a list or in base64.
fn numbers(row: &Value) -> Vec<f64> {
    let Some(encoded) = row.as_str() else {
        return serde_json::from_value(row.clone()).unwrap();
    };
    let bytes = STANDARD.decode(encoded).unwrap();
    let floats = bytes.as_chunks::<4>().0.iter().copied();
    floats.map(|it| f64::from(f32::from_le_bytes(it))).collect()
}

/// The only embedding of an answer in either dialect.
fn row(reply: &Reply) -> Vec<f64> {
    assert_eq!(reply.status, 200, "{reply:?}");
    let answer = reply.json();
    let rows = [&answer["embeddings"], &answer["data"]];
    let rows = rows.into_iter().find_map(Value::as_array).unwrap();
    assert_eq!(rows.len(), 1, "{answer}");
    match &rows[0] {
        row @ Value::Array(_) => numbers(row),
        object => numbers(&object["embedding"]),
    }
}

fn expected(text: &str) -> Vec<f64> {
    embedding_of(text).into_iter().map(f64::from).collect()
}

/// Servers of OpenAI's API that take 32 texts at most, each of 1,000 characters at most.
fn servers() -> [Server; 3] {
    let vllm = Server::default();
    let text_embeddings_inference = Server {
        lists: false,
        answers_as: Some("sentence-transformers/sim"),
        ..Server::default()
    };
    let gateway = Server {
        in_base64: true,
        omits_zero: true,
        ..Server::default()
    };
    [vllm, text_embeddings_inference, gateway]
}

#[tokio::test]
async fn servers_of_openai_s_api_serve_several_at_once_unless_each_is_told_its_tokens() {
    for server in servers() {
        let host = sim_host("host").slots(1).openai(server).start();
        let config = one_slot(&host).set_host("host", "max_items", 32);
        let proxy = acquainted(&host, &config, embeddings).await;
        let texts = texts(80);
        let (replies, sizes) = each((&host, &proxy), &texts, embed).await;
        for (reply, text) in replies.iter().zip(&texts) {
            assert_eq!(row(reply), expected(text));
            assert_eq!(reply.json()["model"], "sim");
        }
        assert!(sizes.iter().all(|size| *size <= 32), "{sizes:?}");
        assert!(sizes.len() <= 8, "{sizes:?}");

        // It tells 7 for each request, and nobody knows whose these would be.
        let (replies, sizes) = each((&host, &proxy), &texts[..6], embeddings).await;
        for (reply, text) in replies.iter().zip(&texts) {
            assert_eq!(row(reply), expected(text));
            assert_eq!(reply.json()["usage"]["total_tokens"], 7);
        }
        assert_eq!(sizes, [1; 6]);
    }
}

#[tokio::test]
async fn what_such_a_server_refuses_is_told_to_that_one_alone() {
    for server in servers() {
        let host = sim_host("host").slots(1).openai(server).start();
        let config = one_slot(&host).set_host("host", "max_items", 32);
        let proxy = acquainted(&host, &config, embed).await;
        let mut texts = texts(20);
        texts[13] = "long ".repeat(300);
        let (replies, sizes) = each((&host, &proxy), &texts, embed).await;
        for (at, (reply, text)) in replies.iter().zip(&texts).enumerate() {
            if at == 13 {
                assert_eq!(reply.assert_error(400), "in the server's own words");
            } else {
                assert_eq!(row(reply), expected(text));
            }
        }
        assert!(sizes[0] > 1 && sizes.len() < 20, "{sizes:?}");
        assert!(proxy.is_healthy("host").await);
    }
}

#[tokio::test]
async fn a_limit_that_nobody_has_told_costs_a_refusal_or_two() {
    for server in servers() {
        let host = sim_host("host").slots(1).openai(server).start();
        let proxy = acquainted(&host, &one_slot(&host), embed).await;
        let texts: Vec<_> = (0..60).map(|number| format!("text {number}")).collect();
        for is_known in [false, true] {
            let (replies, sizes) = each((&host, &proxy), &texts, embed).await;
            for (reply, text) in replies.iter().zip(&texts) {
                assert_eq!(row(reply), expected(text));
            }
            let refused = sizes.iter().filter(|size| **size > 32).count();
            assert_eq!(refused == 0, is_known, "{sizes:?}");
            assert!(sizes.len() <= 10, "{sizes:?}");
        }
    }
}

#[tokio::test]
async fn pairs_are_scored_together_where_that_changes_nothing() {
    let texts = texts(60);
    let score = |text: &str| embedding_of(text)[0];
    for alone in [true, false] {
        let host = sim_host("host").slots(1).scores_pairs_alone(alone).start();
        let proxy = acquainted(&host, &one_slot(&host), pairs).await;
        let (replies, sizes) = each((&host, &proxy), &texts, pairs).await;
        for (reply, text) in replies.iter().zip(&texts) {
            let (precision, recall) = (score(text), score(&format!("{text}!")));
            let expected = json!({
                "precision": [precision], "recall": [recall], "f1": [precision], "model": "sim",
            });
            assert_eq!((reply.status.as_u16(), reply.json()), (200, expected));
        }
        assert_eq!(sizes.len() < 10, alone, "{sizes:?}");
        if alone {
            assert!(
                sizes.iter().sum::<usize>() <= 53,
                "equal pairs once: {sizes:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_pair_that_is_refused_is_told_so_alone() {
    let host = sim_host("host").slots(1).scores_pairs_alone(true).start();
    let proxy = acquainted(&host, &one_slot(&host), pairs).await;
    let texts: Vec<_> = (0..20).map(|number| format!("text {number}")).collect();
    let refusal = Behaviour::Answer(Answer::error(422, "no"));
    let behaviour = Behaviour::Serve.but_for("text 7", refusal);
    let requests = texts.iter().map(|text| {
        let (route, body) = pairs(std::slice::from_ref(text));
        ask(proxy.client(), route, body)
    });
    let (replies, sizes) = at_once((&host, &proxy), "sim", requests.collect(), behaviour).await;
    for (at, reply) in replies.iter().enumerate() {
        assert_eq!(reply.status, if at == 7 { 422 } else { 200 }, "{reply:?}");
    }
    assert!(sizes[0] > 1 && sizes.len() < 20, "{sizes:?}");
}

#[tokio::test]
async fn whoever_wants_base64_goes_along_with_whoever_wants_a_list_and_other_dimensions_do_not() {
    let host = sim_host("host").slots(1).start();
    let proxy = acquainted(&host, &one_slot(&host), embeddings).await;
    let texts: Vec<_> = (0..24).map(|number| format!("text {number}")).collect();
    let body = |at: usize| {
        let mut body = embeddings(&texts[at..=at]).1;
        if at.is_multiple_of(2) {
            body["encoding_format"] = json!("base64");
        }
        if at >= 12 {
            body["dimensions"] = json!(4);
        }
        body
    };
    let requests = (0..24).map(|at| ask(proxy.client(), "/v1/embeddings", body(at)));
    let (replies, sizes) =
        at_once((&host, &proxy), "sim", requests.collect(), Behaviour::Serve).await;
    for (at, (reply, text)) in replies.iter().zip(&texts).enumerate() {
        assert_eq!(row(reply), expected(text));
        let answer = reply.json();
        assert_eq!(answer["data"][0]["embedding"].is_string(), at % 2 == 0);
        assert_eq!(answer["data"][0]["index"], 0);
        assert_eq!(answer["usage"]["total_tokens"], 0, "nobody counts");
    }
    assert!(
        sizes.len() <= 6 && sizes.iter().all(|size| *size <= 12),
        "{sizes:?}"
    );
}

/// What is asked for the text of that number, in one of several ways.
fn asked_of_a_backend(number: usize) -> (&'static str, Value) {
    let text = "a cat sat on mat and ".repeat(1 + number % 5) + &(number % 60).to_string();
    let model = Backend::MODEL;
    match number % 4 {
        0 => ("/embed", json!({"texts": [text], "model": model})),
        1 => ("/v1/embeddings", json!({"input": [text], "model": model})),
        2 => {
            let body = json!({"input": text, "model": model, "encoding_format": "base64"});
            ("/v1/embeddings", body)
        }
        _ => {
            let body = json!({
                "candidates": [text], "references": ["a dog sat"], "model_type": model,
            });
            ("/bertscore", body)
        }
    }
}

/// All numbers of an answer.
fn told(reply: &Reply) -> Vec<f64> {
    let answer = reply.json();
    match answer.get("f1") {
        None => row(reply),
        Some(_) => ["precision", "recall", "f1"]
            .iter()
            .flat_map(|name| numbers(&answer[name]))
            .collect(),
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
        let asks = (0..240).map(|number| {
            let (route, body) = asked_of_a_backend(number);
            ask(proxy.client(), route, body)
        });
        let replies = join_all(asks).await;
        let statuses: BTreeSet<_> = replies.iter().map(|reply| reply.status).collect();
        assert_eq!(statuses.len(), 1, "{replies:?}");
        let merged = proxy.metrics().await;
        let merged = merged.count("gpu_bridge_merged_requests_total", &[]);
        assert_eq!(merged > 10, merge, "{merged}");
        answers.push(replies);
    }
    for (alone, together) in answers[0].iter().zip(&answers[1]) {
        assert_eq!(alone.json()["model"], together.json()["model"]);
        let tokens = |reply: &Reply| reply.header("x-compute-tokens").map(str::to_owned);
        assert_eq!(tokens(alone), tokens(together));
        assert_eq!(alone.json()["usage"], together.json()["usage"]);
        assert_eq!(tokens(alone).is_none(), alone.json().get("f1").is_some());
        let (alone, together) = (told(alone), told(together));
        assert_eq!(alone.len(), together.len());
        let furthest = alone.iter().zip(&together).map(|(a, b)| (a - b).abs());
        assert!(furthest.fold(0.0, f64::max) <= 1e-6);
    }
}
