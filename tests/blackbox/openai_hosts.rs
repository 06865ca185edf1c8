//! Hosts that speak OpenAI's API (`api: openai`): clients see what any host would answer, whatever is peculiar
//! to the server, and such hosts and others serve side by side.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Backend, Behaviour, Config, HealthAnswer, Proxy, Reply, Server, SimHost, StatusAnswer,
    eventually, sim_host,
};

/// A kind of server, as its code has it.
struct Kind {
    name: &'static str,
    server: Server,
    /// What it says of a model that it lacks; `None`: it takes any name for the one that it has.
    unknown_model: Option<Answer>,
}

fn openai(status: u16, message: &str) -> Answer {
    let error = json!({"message": message, "type": "error", "param": null, "code": status});
    Answer::json(status, &json!({"error": error}))
}

fn flat(status: u16, message: &str, kind: &str) -> Answer {
    let error = json!({"object": "error", "message": message, "type": kind, "code": status});
    Answer::json(status, &error)
}

fn kinds() -> Vec<Kind> {
    vec![
        vllm(),
        text_embeddings_inference("text-embeddings-inference-1.9", 422, &["/health"]),
        text_embeddings_inference("text-embeddings-inference-1.5", 413, &[]),
        infinity(),
        llama_cpp(),
        ollama(),
        sglang(),
        gateway(),
    ]
}

/// 0.33.
fn vllm() -> Kind {
    let too_long = "This model's maximum context length is 512 tokens. However, your prompt contains at least 513 \
                    input tokens, which exceeds this limit even without any output tokens.";
    Kind {
        name: "vllm",
        server: Server {
            full: openai(
                503,
                "The engine is currently busy and cannot accept new requests.",
            ),
            longest_text: Some((1000, openai(400, too_long))),
            most_texts: None,
            ..Server::default()
        },
        unknown_model: Some(openai(404, "The model `x` does not exist.")),
    }
}

/// `invalid`: its status for a request that it does not take; `open`: what needs no key. Both have changed.
fn text_embeddings_inference(
    name: &'static str,
    invalid: u16,
    open: &'static [&'static str],
) -> Kind {
    let error = |status: u16, message: &str, kind: &str| {
        let error = json!({"message": message, "type": kind, "code": status});
        Answer::json(status, &error)
    };
    let too_many = "batch size COUNT > maximum allowed batch size 32";
    let too_long = "`inputs` must have less than 512 tokens. Given: 900";
    Kind {
        name,
        server: Server {
            open,
            lists: false,
            answers_as: Some("sentence-transformers/sim"),
            full: error(429, "Model is overloaded", "Overloaded"),
            most_texts: Some((32, error(invalid, too_many, "Validation"))),
            longest_text: Some((1000, error(invalid, too_long, "Validation"))),
            ..Server::default()
        },
        unknown_model: None,
    }
}

/// 0.0.78, with one model: it takes any name for it.
fn infinity() -> Kind {
    let invalid = |message: &str| {
        let invalid = json!({"loc": ["body"], "msg": message, "input": "a secret"});
        Answer::json(422, &json!({"detail": [invalid]}))
    };
    let too_many = "List should have at most 64 items after validation, not COUNT";
    let too_long = "String should have at most 122880 characters";
    Kind {
        name: "infinity",
        server: Server {
            health: ("/health", r#"{"unix":1764400000.5}"#),
            full: openai(429, "model sim is currently overloaded"),
            most_texts: Some((64, invalid(too_many))),
            longest_text: Some((1000, invalid(too_long))),
            ..Server::default()
        },
        unknown_model: None,
    }
}

/// As llama-cpp-python 0.3.36 has it.
fn llama_cpp() -> Kind {
    let too_long = "input (700 tokens) is too large to process. increase the physical batch size (current batch size: 512)";
    Kind {
        name: "llama.cpp",
        server: Server {
            health: ("/health", r#"{"status":"ok"}"#),
            full: openai(503, "Loading model"),
            most_texts: None,
            longest_text: Some((1000, openai(500, too_long))),
            ..Server::default()
        },
        unknown_model: None,
    }
}

/// 0.33.
fn ollama() -> Kind {
    let full = "server busy, please try again.  maximum pending requests exceeded";
    Kind {
        name: "ollama",
        server: Server {
            health: ("/", "Ollama is running"),
            open: &["/", "/v1/models", "/v1/embeddings"],
            full: openai(503, full),
            most_texts: None,
            longest_text: None,
            ..Server::default()
        },
        unknown_model: Some(openai(404, "model 'x' not found")),
    }
}

/// 0.5.23.
fn sglang() -> Kind {
    let too_long = "The input (900 tokens) is longer than the model's context length (512 tokens).";
    Kind {
        name: "sglang",
        server: Server {
            answers_as: Some("/models/sim-v2"),
            full: flat(503, "The request queue is full.", "503"),
            most_texts: None,
            longest_text: Some((1000, flat(400, too_long, "BadRequestError"))),
            ..Server::default()
        },
        unknown_model: None,
    }
}

/// What others are known for, all in one.
fn gateway() -> Kind {
    let in_a_list = |status: u16, message: &str| {
        let error = json!({"code": status, "message": message, "status": "INVALID_ARGUMENT"});
        Answer::json(status, &json!([{"error": error}]))
    };
    Kind {
        name: "gateway",
        server: Server {
            health: ("/v1/models", ""),
            open: &[],
            in_base64: true,
            omits_zero: true,
            full: in_a_list(429, "Resource has been exhausted"),
            most_texts: Some((
                10,
                in_a_list(400, "at most 10 requests can be in one batch"),
            )),
            longest_text: Some((
                1000,
                in_a_list(400, "the input token count exceeds the limit"),
            )),
            ..Server::default()
        },
        unknown_model: Some(in_a_list(404, "models/x is not found")),
    }
}

impl Kind {
    /// A host of this kind that has the model `sim`.
    fn host(&self, name: &str) -> SimHost {
        let host = sim_host(name).key("host-key").openai(self.server.clone());
        match &self.unknown_model {
            Some(unknown) => host.installed(&["sim"]).unknown_model(unknown.clone()),
            None => host,
        }
        .start()
    }
}

async fn ask(proxy: &Proxy, texts: &[&str]) -> Reply {
    let body = json!({"model": "sim", "texts": texts});
    proxy.client().post("/embed", &body).await
}

/// The embeddings of `texts`, which a host served as if it spoke `/embed`.
fn assert_embeddings(reply: &Reply, texts: &[&str]) {
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    let told = reply.json();
    let embeddings = told["embeddings"].as_array().unwrap();
    assert_eq!(embeddings.len(), texts.len());
    for (text, row) in texts.iter().zip(embeddings) {
        let row: Vec<f64> = serde_json::from_value(row.clone()).unwrap();
        let expected: Vec<f64> = crate::harness::embedding_of(text)
            .into_iter()
            .map(f64::from)
            .collect();
        assert_eq!(row, expected, "{text}");
    }
    assert_eq!(
        (&told["model"], &told["dimensions"]),
        (&json!("sim"), &json!(4))
    );
    assert_eq!(reply.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn each_kind_of_server_serves_both_apis() {
    for kind in kinds() {
        let host = kind.host(kind.name);
        let proxy = Proxy::in_front_of(&[&host]).await;
        let texts = ["one", "two \u{e9}\"", "three"];
        let reply = ask(&proxy, &texts).await;
        assert_embeddings(&reply, &texts);
        assert_eq!(
            (reply.served_by(), reply.header("x-compute-tokens")),
            (kind.name, Some("7"))
        );
        assert_eq!(reply.header("x-sim"), None, "a header about another body");

        let body = json!({"model": "sim", "input": texts, "encoding_format": "base64"});
        let told = proxy.client().post("/v1/embeddings", &body).await.json();
        assert_eq!(told["usage"]["prompt_tokens"], 7, "{}", kind.name);
        for (at, text) in texts.iter().enumerate() {
            let bytes = STANDARD
                .decode(told["data"][at]["embedding"].as_str().unwrap())
                .unwrap();
            let numbers: Vec<f32> = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .copied()
                .map(f32::from_le_bytes)
                .collect();
            let expected: Vec<f32> = crate::harness::embedding_of(text)
                .into_iter()
                .map(f32::from)
                .collect();
            assert_eq!(numbers, expected, "{}: {text}", kind.name);
        }
        let none = ask(&proxy, &[]).await.json();
        assert_eq!(
            none,
            json!({"embeddings": [], "model": "sim", "dimensions": 0})
        );

        host.is_checked(4).await;
        let seen = host.record();
        assert_eq!(seen.requests.len(), 2, "{}", kind.name);
        for request in &seen.requests {
            assert_eq!(request.path_and_query, "/v1/embeddings");
            assert_eq!(request.headers["authorization"], "Bearer host-key");
            assert!(!request.headers.contains_key("x-api-key"));
        }
        // Nothing that it does not have, or once at most.
        let expected: &[&str] = if kind.server.lists {
            &[]
        } else {
            &["/v1/models"]
        };
        assert_eq!(seen.in_vain, expected, "{}", kind.name);
        assert_eq!(seen.models_asked > 1, kind.server.lists, "{}", kind.name);
    }
}

#[tokio::test]
async fn a_server_that_is_full_is_left_alone_and_never_ejected() {
    for kind in kinds() {
        let (full, sibling) = (kind.host("full"), sim_host("sibling").start());
        let proxy = Proxy::in_front_of(&[&full, &sibling]).await;
        full.set(Behaviour::Answer(kind.server.full.clone()));
        for number in 0..4 {
            let text = number.to_string();
            assert_embeddings(&ask(&proxy, &[&text]).await, &[&text]);
        }
        assert!(proxy.attempts("full", "busy").await >= 1, "{}", kind.name);
        assert_eq!(
            proxy.failed_attempts("full").await,
            proxy.attempts("full", "busy").await
        );
        assert_eq!(proxy.ejections("full").await, 0, "{}", kind.name);
        full.set(Behaviour::Serve);
        sibling.stop();
        proxy.finds_unhealthy("sibling").await;
        assert_embeddings(&ask(&proxy, &["after"]).await, &["after"]);
    }
}

#[tokio::test]
async fn what_one_server_does_not_take_another_kind_may() {
    for kind in kinds() {
        let strict = kind.host("strict");
        let long = "é".repeat(1001);
        let many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let too_long: &[&str] = &[&long];
        let limits = [
            (&kind.server.longest_text, too_long),
            (&kind.server.most_texts, &many),
        ];
        let requests = limits.into_iter().filter(|(limit, _)| limit.is_some());
        let requests: Vec<&[&str]> = requests.map(|(_, texts)| texts).collect();
        if requests.is_empty() {
            continue;
        }
        // By itself: the client's error, in the shape of `/embed`, with the server's words, if no cut helps.
        let proxy = Proxy::in_front_of(&[&strict]).await;
        for texts in &requests {
            let reply = ask(&proxy, texts).await;
            let status = reply.status.as_u16();
            if texts.len() > 1 {
                assert_embeddings(&reply, texts);
                let sizes = strict.record().requests;
                let sizes: Vec<usize> = sizes.iter().map(|request| request.items).collect();
                let refused = sizes.iter().filter(|size| **size == texts.len()).count();
                assert_eq!(refused, 1, "{}: once, then in parts: {sizes:?}", kind.name);
                continue;
            }
            assert!([400, 413].contains(&status), "{}: {reply:?}", kind.name);
            let detail = reply.assert_error(status);
            assert!(!detail.contains("secret"), "{detail}");
        }
        // With another kind: an answer, and nobody's fault.
        let lenient = sim_host("lenient").start();
        let proxy = Proxy::in_front_of(&[&strict, &lenient]).await;
        for texts in requests.iter().cycle().take(8) {
            let reply = ask(&proxy, texts).await;
            assert_embeddings(&reply, texts);
            assert_eq!(reply.served_by(), "lenient");
        }
        let limit = proxy.attempts("strict", "limit").await;
        assert!(limit >= 2, "{}: {limit}", kind.name);
        assert_eq!(
            proxy.failed_attempts("strict").await,
            limit,
            "{}",
            kind.name
        );
        assert_eq!(proxy.ejections("strict").await, 0, "{}", kind.name);
        let reply = ask(&proxy, &["a"]).await;
        assert_embeddings(&reply, &["a"]);
    }
}

#[tokio::test]
async fn a_server_that_tells_how_many_texts_it_takes_is_never_sent_more() {
    let server = text_embeddings_inference("tei", 422, &["/health"]).server;
    let host = sim_host("tei").openai(server).tells_most().start();
    let alias = json!({"sim": "sentence-transformers/sim"});
    let config = Config::with_hosts(&[&host]).set_host("tei", "model_alias", alias);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let texts: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_embeddings(&ask(&proxy, &texts).await, &texts);
    let sizes: Vec<usize> = (host.record().requests.iter())
        .map(|request| request.items)
        .collect();
    assert_eq!(
        (sizes.len(), sizes.iter().max()),
        (4, Some(&32)),
        "{sizes:?}"
    );
}

#[tokio::test]
async fn what_must_be_cut_is_though_not_all_hosts_count_tokens() {
    let server = text_embeddings_inference("tei", 422, &["/health"]).server;
    let counts = sim_host("tei").openai(server).tells_most().start();
    let own = sim_host("own").most_items(32).tells_most().start();
    let alias = json!({"sim": "sentence-transformers/sim"});
    let config = Config::with_hosts(&[&counts, &own]).set_host("tei", "model_alias", alias);
    let proxy = Proxy::ready(&config, &[&counts, &own]).await;
    let texts: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();

    let body = json!({"model": "sim", "input": texts});
    let reply = proxy.client().post("/v1/embeddings", &body).await;

    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    let told = reply.json();
    assert_eq!(told["data"].as_array().map(Vec::len), Some(100));
    assert_eq!(told["usage"]["total_tokens"], 0);
    for host in [&counts, &own] {
        assert!(host.arrivals() > 0, "{} has a part", host.name());
    }
    // And nobody pays for it afterwards.
    assert_embeddings(&ask(&proxy, &texts).await, &texts);
}

#[tokio::test]
async fn a_success_that_is_none_is_no_success_for_the_client() {
    let host = sim_host("host").openai(Server::default()).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    host.set(Behaviour::Answer(Answer::html(200)));
    assert_eq!(ask(&proxy, &["a"]).await.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn an_account_that_has_used_up_what_it_may_is_not_merely_busy() {
    let error = json!({"message": "You exceeded your current quota", "type": "insufficient_quota",
        "param": null, "code": "insufficient_quota"});
    let used_up = [
        Answer::json(429, &json!({ "error": error })),
        openai(402, "Insufficient Balance"),
    ];
    for answer in used_up {
        let poor = sim_host("poor").openai(Server::default()).start();
        let sibling = sim_host("sibling").start();
        let proxy = Proxy::in_front_of(&[&poor, &sibling]).await;
        poor.set(Behaviour::Answer(answer));
        for _ in 0..6 {
            assert_embeddings(&ask(&proxy, &["a"]).await, &["a"]);
        }
        assert_eq!(proxy.attempts("poor", "busy").await, 0);
        assert!(proxy.attempts("poor", "misconfigured").await >= 2);
        assert_eq!(proxy.ejections("poor").await, 1);
        proxy.logs("has used up what it may").await;
        poor.set(Behaviour::Serve);
        proxy.finds_healthy("poor").await;
    }
}

#[tokio::test]
async fn a_server_may_be_below_a_path() {
    let server = Server {
        below: "/tei-1",
        ..Server::default()
    };
    let host = sim_host("host").openai(server).start();
    let url = format!("{}/tei-1", host.url());
    let config = Config::new().host("host", &url, None);
    let config = config.set_host("host", "api", "openai");
    let proxy = Proxy::ready(&config, &[&host]).await;
    assert_embeddings(&ask(&proxy, &["a"]).await, &["a"]);
    assert_eq!(
        host.record().requests[0].path_and_query,
        "/tei-1/v1/embeddings"
    );
    assert!(host.record().in_vain.is_empty());
}

#[tokio::test]
async fn a_model_that_a_server_lacks_is_never_computed_with_another() {
    for kind in kinds() {
        let host = kind.host("host");
        let proxy = Proxy::in_front_of(&[&host]).await;
        let reply = proxy.client().embed_with("x", "a").await;
        let detail = reply.assert_error(404);
        assert!(
            detail.contains("'x'") || detail.contains("model"),
            "{}: {detail}",
            kind.name
        );
        let reply = proxy
            .client()
            .post("/embed", &json!({"texts": ["a"]}))
            .await;
        assert!(
            reply.assert_error(422).contains("model is missing"),
            "{}",
            kind.name
        );
        let pairs = json!({"candidates": ["a"], "references": ["b"], "model_type": "sim"});
        proxy
            .client()
            .post("/bertscore", &pairs)
            .await
            .assert_error(404);
        let asked = host.arrivals();
        assert_eq!(asked, usize::from(!kind.server.lists), "{}", kind.name);
        assert_eq!(proxy.ejections("host").await, 0);

        // A sibling that has it serves it, and pairs too.
        let sibling = sim_host("sibling").models(&["x"]).start();
        let proxy = Proxy::in_front_of(&[&host, &sibling]).await;
        for _ in 0..4 {
            let reply = proxy.client().embed_with("x", "a").await;
            reply.assert_embedding_of("a");
            let reply = proxy.client().post("/bertscore", &pairs).await;
            assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "sibling"));
        }
        let paths = host
            .record()
            .requests
            .into_iter()
            .map(|seen| seen.path_and_query);
        assert!(paths.into_iter().all(|path| path == "/v1/embeddings"));
    }
}

#[tokio::test]
async fn numbers_are_right_or_a_sibling_s() {
    let row = |index: usize, embedding: Value| json!({"index": index, "embedding": embedding});
    let good = || row(0, json!([1, 2]));
    let answer = |rows: Value| Answer::json(200, &json!({"model": "sim", "data": rows}));
    let table = [
        ("too few", answer(json!([good()]))),
        (
            "too many",
            answer(json!([
                good(),
                row(1, json!([1, 2])),
                row(2, json!([1, 2]))
            ])),
        ),
        ("one twice", answer(json!([good(), good()]))),
        ("uneven", answer(json!([good(), row(1, json!([1]))]))),
        (
            "not finite",
            answer(json!([good(), row(1, json!([1, null]))])),
        ),
        (
            "infinite",
            Answer::result(
                r#"{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[1e999]}]}"#,
            ),
        ),
        ("no list", answer(json!({"a": 1}))),
        ("not JSON", Answer::result("[1, 2")),
        (
            "another answer",
            Answer::result(r#"{"embeddings":[[1],[2]]}"#),
        ),
        (
            "compressed",
            answer(json!([good(), row(1, json!([1, 2]))])).with("content-encoding", "gzip"),
        ),
    ];
    for (what, wrong) in table {
        let broken = sim_host("broken").openai(Server::default()).start();
        let sibling = sim_host("sibling").openai(Server::default()).start();
        let proxy = Proxy::in_front_of(&[&broken, &sibling]).await;
        broken.set(Behaviour::Answer(wrong));
        for _ in 0..4 {
            assert_embeddings(&ask(&proxy, &["one", "two"]).await, &["one", "two"]);
        }
        assert!(proxy.attempts("broken", "unusable").await >= 1, "{what}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_numbers_is_said() {
    let host = sim_host("host").openai(Server::default()).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    for (row, what) in [
        (
            "[1,null]",
            "it holds something that is no finite number where one belongs",
        ),
        (
            "[1,NaN]",
            "it holds something that is no finite number where one belongs",
        ),
        ("[]", "its embeddings are empty"),
        ("\"AAAA\"", "base64 that does not hold numbers of 4 bytes"),
        ("null", "neither lists of numbers nor base64"),
        (
            "[1]},{\"embedding\":[1]",
            "it is for 2 texts, and 1 were asked for",
        ),
    ] {
        let answer = format!(r#"{{"model":"sim","data":[{{"index":0,"embedding":{row}}}]}}"#);
        host.set(Behaviour::Answer(Answer::result(&answer)));
        let reply = ask(&proxy, &["text"]).await;
        assert_eq!(reply.status, 502);
        let told = reply.json().to_string();
        assert!(told.contains(what), "{row}: {told}");
    }
}

#[tokio::test]
async fn clients_know_models_by_one_name_and_each_host_by_its_own() {
    let listing = sim_host("listing").openai(Server::default());
    let listing = listing.installed(&["org/sim", "other:latest"]).start();
    let tei = Server {
        lists: false,
        answers_as: Some("/data"),
        ..Server::default()
    };
    let tei = sim_host("tei").openai(tei).start();
    let hosts = [&listing, &tei];
    let config = Config::with_hosts(&hosts)
        .set_host("listing", "model_alias", json!({"sim": "org/sim"}))
        .set_host("tei", "model_alias", json!({"sim": "/data"}));
    let proxy = Proxy::ready(&config, &hosts).await;
    for _ in 0..4 {
        assert_embeddings(&ask(&proxy, &["a"]).await, &["a"]);
    }
    assert!(hosts.iter().all(|host| host.arrivals() > 0));
    let list = proxy.client().get("/v1/models").await.json();
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|it| it["id"].as_str())
        .collect();
    assert_eq!(ids, ["org/sim", "other", "other:latest", "sim"]);
    let reply = proxy.client().embed_with("other", "a").await;
    assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "listing"));

    // What is pulled later is known soon, and what is gone is forgotten.
    proxy
        .client()
        .embed_with("new", "a")
        .await
        .assert_error(404);
    listing.set_installed(&["new"]);
    eventually("the new model is known", async || {
        proxy.client().embed_with("new", "a").await.status == 200
    })
    .await;
    proxy
        .client()
        .embed_with("other", "a")
        .await
        .assert_error(404);
    let reply = ask(&proxy, &["a"]).await;
    assert_eq!(
        reply.served_by(),
        "tei",
        "the alias stands for nothing there any more"
    );

    // Without the right alias, the answer itself gives the wrong model away.
    let config = Config::with_hosts(&[&tei]);
    let proxy = Proxy::ready(&config, &[&tei]).await;
    let detail = ask(&proxy, &["a"]).await.assert_error(404);
    assert!(
        detail.contains("'/data'") && detail.contains("model_alias"),
        "{detail}"
    );
}

#[tokio::test]
async fn a_key_that_does_not_fit_takes_a_host_out_until_it_does() {
    for kind in kinds().into_iter().filter(|kind| kind.name != "ollama") {
        let (host, sibling) = (kind.host("host"), sim_host("sibling").start());
        let proxy = Proxy::in_front_of(&[&host, &sibling]).await;
        host.set_key("another");
        for _ in 0..4 {
            assert_embeddings(&ask(&proxy, &["a"]).await, &["a"]);
        }
        assert_eq!(
            proxy.attempts("host", "forbidden").await,
            0,
            "{}",
            kind.name
        );
        // Where its list is open too, only requests can tell.
        if !kind.server.open.contains(&"/v1/models") && kind.server.lists {
            proxy.finds_unhealthy("host").await;
        }
        host.set_key("host-key");
        proxy.finds_healthy("host").await;
    }
}

#[tokio::test]
async fn a_server_is_well_while_its_path_says_so() {
    let server = Server {
        health: ("/v1/models", ""),
        lists: false,
        ..Server::default()
    };
    let host = sim_host("host").openai(server).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    for unwell in [
        openai(503, "Loading model"),
        Answer::text(500, "no"),
        Answer::html(302),
    ] {
        host.set_health(HealthAnswer::Answer(unwell));
        proxy.finds_unhealthy("host").await;
        host.set_health(HealthAnswer::Answer(Answer::text(200, "whatever")));
        proxy.finds_healthy("host").await;
    }
}

/// Some take any name for the model that they have, and say that they have answered with the one that was asked for.
#[tokio::test]
async fn a_server_is_asked_nothing_before_it_says_which_models_it_has() {
    let silent = Server {
        lists: false,
        unlisted: openai(503, "not yet"),
        ..Server::default()
    };
    let host = sim_host("host").openai(silent).start();
    let config = Config::with_hosts(&[&host]).set("queue", "max_wait", "100ms");
    let proxy = Proxy::start(&config).await;
    host.is_checked(2).await;
    ask(&proxy, &["a"]).await.assert_error(503);
    assert_eq!(host.arrivals(), 0);
    let (_, shown, _) = proxy.command(&["status", "--json"]).await;
    assert!(shown.contains("which models it has"), "{shown}");
    host.set_openai(Server::default());
    proxy.finds_healthy("host").await;
    assert_embeddings(&ask(&proxy, &["a"]).await, &["a"]);
    // What was known stays while the list can't be had.
    let silent = Server {
        lists: false,
        unlisted: openai(503, "not now"),
        ..Server::default()
    };
    host.set_openai(silent);
    host.is_checked(3).await;
    assert_embeddings(&ask(&proxy, &["a"]).await, &["a"]);
}

#[tokio::test]
async fn both_kinds_of_hosts_stand_in_for_each_other() {
    let dying = sim_host("dying")
        .openai(Server::default())
        .behaving(Behaviour::DieReading);
    let failing = sim_host("failing").openai(Server::default());
    let failing = failing.behaving(Behaviour::Answer(openai(424, "Inference failed")));
    let hosts = [
        dying.start(),
        failing.start(),
        sim_host("busy").behaving(Behaviour::busy(5)).start(),
        sim_host("own").start(),
        sim_host("good")
            .openai(Server::default())
            .status(StatusAnswer::Missing)
            .start(),
    ];
    let hosts: Vec<&SimHost> = hosts.iter().collect();
    // Two of them break requests.
    let config = Config::with_hosts(&hosts).set("retries", "max_faulted_hosts", 3);
    let proxy = Proxy::ready(&config, &hosts).await;
    proxy.client().flood(60, 8).await;
    for name in ["own", "good"] {
        assert!(proxy.attempts(name, "deliver").await > 0, "{name}");
    }
    // What computes where, operators see.
    let (_, table, _) = proxy.command(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&table).unwrap();
    let hosts = status["hosts"].as_array().unwrap();
    let device = |name: &str| &hosts.iter().find(|host| host["name"] == name).unwrap()["device"];
    assert_eq!(
        (device("good"), device("own")),
        (&json!("OpenAI API (sim)"), &json!("Simulated own"))
    );
}

#[tokio::test]
async fn more_is_held_of_an_answer_than_there_is_memory_for_only_if_there_is() {
    let host = sim_host("host").openai(Server::default()).start();
    let config = Config::with_hosts(&[&host])
        .set("limits", "max_body", "64KiB")
        .set("limits", "max_buffered", "1MiB")
        .set("queue", "max_wait", "1s");
    let proxy = Proxy::ready(&config, &[&host]).await;
    host.set(Behaviour::ServePadded(2 << 20));
    ask(&proxy, &["a"]).await.assert_come_again();
    assert_eq!(proxy.ejections("host").await, 0, "not the host's fault");
    host.set(Behaviour::Serve);
    assert_embeddings(&ask(&proxy, &["a"]).await, &["a"]);
    eventually("nothing is held", async || {
        proxy
            .metrics()
            .await
            .gauge("gpu_bridge_buffered_bytes", &[])
            == 0
    })
    .await;
}

#[tokio::test]
async fn a_running_proxy_learns_that_a_host_speaks_another_api() {
    let host = sim_host("host").openai(Server::default()).start();
    let before = Config::new().host("host", &host.url(), None);
    let proxy = Proxy::start(&before).await;
    proxy.finds_unhealthy("host").await;
    proxy
        .takes_over(&before.set_host("host", "api", "openai"))
        .await;
    proxy.finds_healthy("host").await;
    assert_embeddings(&ask(&proxy, &["a"]).await, &["a"]);
}

/// Our own host serves both APIs: whichever the proxy asks it for, its numbers are the same.
#[tokio::test]
async fn a_real_host_gives_the_same_numbers_by_either_api() {
    let backend = Backend::start("backend", "key").await;
    let config = |api: &str| {
        let config = Config::new().host("host", backend.url(), Some("key"));
        config.set_host("host", "api", api)
    };
    let ask = async |api: &str| {
        let proxy = Proxy::start(&config(api)).await;
        proxy.finds_healthy("host").await;
        let texts = ["one text", "another \u{e9}\u{1f680}", &"long ".repeat(1000)];
        let body = json!({"model": Backend::MODEL, "texts": texts});
        let reply = proxy.client().post("/embed", &body).await;
        assert_eq!(reply.status, 200, "{api}: {reply:?}");
        reply.json()
    };
    let (own, openai) = (ask("gpu-bridge").await, ask("openai").await);
    assert_eq!(
        (&own["model"], &own["dimensions"]),
        (&openai["model"], &openai["dimensions"])
    );
    let rows = |answer: &Value| -> Vec<Vec<f64>> {
        serde_json::from_value(answer["embeddings"].clone()).unwrap()
    };
    let (own, openai) = (rows(&own).concat(), rows(&openai).concat());
    assert_eq!(own.len(), openai.len());
    let far = own
        .iter()
        .zip(&openai)
        .find(|(one, other)| (*one - *other).abs() > 1e-6);
    assert_eq!(far, None);
}
