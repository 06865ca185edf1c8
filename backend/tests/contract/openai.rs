//! OpenAI's API on a host: the same computation and the same limits in another dialect, and every error
//! in its shape.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gpu_bridge_backend::api::{Limits, Options};
use gpu_bridge_backend::engine::{EngineError, Shortening};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fake::FakeEngine;
use crate::lifecycle::{Running, one_slot, start};

const MODEL: &str = "all-MiniLM-L6-v2";

/// Status and body.
async fn ask(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

async fn embeddings(service: &Running, body: &Value) -> (u16, Value) {
    let url = service.url("/v1/embeddings");
    ask(reqwest::Client::new().post(url).json(body)).await
}

/// Fails unless it is an error in this dialect; its message, parameter and code.
fn error(answer: &Value) -> (&str, &Value, &Value) {
    let error = answer["error"].as_object().expect("an error");
    assert_eq!(error.len(), 4, "{answer}");
    assert!(error["type"].is_string(), "{answer}");
    let message = error["message"].as_str().expect("a message");
    (message, &error["param"], &error["code"])
}

#[tokio::test]
async fn embeddings_are_told_as_openai_tells_them() {
    let engine = FakeEngine::quick().shortening(Shortening::Any);
    let service = start(engine, one_slot()).await;
    let body = json!({"model": MODEL, "input": ["two words", "one"], "dimensions": 3, "user": "u"});
    let (status, answer) = embeddings(&service, &body).await;
    let row = |index| json!({"object": "embedding", "index": index, "embedding": [0.0, 0.0, 0.0]});
    let expected = json!({
        "object": "list",
        "data": [row(0), row(1)],
        "model": MODEL,
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    });
    assert_eq!((status, answer), (200, expected));

    let body = json!({"model": MODEL, "input": "one", "encoding_format": "base64"});
    let (status, answer) = embeddings(&service, &body).await;
    assert_eq!(status, 200, "{answer}");
    let encoded = answer["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(STANDARD.decode(encoded).unwrap(), [0; 384 * 4]);
}

#[tokio::test]
async fn embed_cuts_and_counts_too() {
    let engine = FakeEngine::quick().shortening(Shortening::To(vec![2]));
    let service = start(engine, one_slot()).await;
    let url = service.url("/embed");
    let post = |body: Value| reqwest::Client::new().post(&url).json(&body);
    let each = post(json!({"texts": ["a b c", "d"]})).header("x-compute-tokens-each", "yes");
    let each = each.send().await.unwrap();
    assert_eq!(each.headers()["x-compute-tokens"], "4");
    assert_eq!(each.headers()["x-compute-tokens-each"], "3,1");
    let post = |body: Value| post(body).send();
    let answer = post(json!({"texts": ["a b c"], "dimensions": 2}))
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-compute-tokens"], "3");
    assert!(!answer.headers().contains_key("x-compute-tokens-each"));
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(
        (&answer["dimensions"], &answer["embeddings"]),
        (&json!(2), &json!([[0.0, 0.0]]))
    );
    let refused = post(json!({"texts": ["a"], "dimensions": 3}))
        .await
        .unwrap();
    assert_eq!(refused.status(), 400);
}

#[tokio::test]
async fn models_are_listed_and_found() {
    let engine = FakeEngine::quick().named("org/mini", "b");
    let service = start(engine, one_slot()).await;
    let get = |path: &str| ask(reqwest::Client::new().get(service.url(path)));
    let (status, list) = get("/v1/models").await;
    assert_eq!((status, &list["object"]), (200, &json!("list")));
    let ids: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["id"])
        .collect();
    assert_eq!(ids, ["org/mini"], "models for scores can't be used here");
    for path in ["/v1/models/org/mini", "/v1/models/org%2Fmini"] {
        let (status, model) = get(path).await;
        assert_eq!((status, &model), (200, &list["data"][0]), "{path}");
    }
    let (status, answer) = get("/v1/models/mini").await;
    assert_eq!(status, 404);
    let (message, param, code) = error(&answer);
    assert!(message.contains("'mini'"), "{message}");
    assert_eq!((param, code), (&json!("model"), &json!("model_not_found")));
}

/// Options with a key, and small limits.
fn strict() -> Options {
    Options {
        api_key: Some("secret".to_owned().into()),
        limits: Limits {
            batch_size: 2,
            text_length: 5,
        },
        ..one_slot()
    }
}

#[tokio::test]
async fn every_error_has_openai_s_shape() {
    let service = start(FakeEngine::quick(), strict()).await;
    let request = |method: Method, path: &str| {
        let request = reqwest::Client::new().request(method, service.url(path));
        request.bearer_auth("secret")
    };
    let post = || request(Method::POST, "/v1/embeddings");
    let of = |input: Value| post().json(&json!({"model": MODEL, "input": input}));
    let none = Value::Null;
    let table = [
        (
            reqwest::Client::new().get(service.url("/v1/models")),
            (401, "Unauthorized", none.clone(), json!("invalid_api_key")),
        ),
        (
            request(Method::GET, "/v1/nothing"),
            (404, "Not Found", none.clone(), json!("unknown_url")),
        ),
        (
            request(Method::GET, "/v1/embeddings"),
            (
                405,
                "Not Allowed",
                none.clone(),
                json!("method_not_supported"),
            ),
        ),
        (
            post().body("input=a"),
            (
                415,
                "Content-Type: application/json",
                none.clone(),
                none.clone(),
            ),
        ),
        (
            post().json(&json!({"model": "other", "input": "a"})),
            (
                404,
                "'other' is not installed",
                json!("model"),
                json!("model_not_found"),
            ),
        ),
        (
            of(json!(["a", "b", "c"])),
            (
                400,
                "input array length 3 exceeds max batch size of 2",
                json!("input"),
                none.clone(),
            ),
        ),
        (
            of(json!(["a", "much too long"])),
            (
                400,
                "input[1] length 13 exceeds max text length of 5",
                json!("input"),
                none.clone(),
            ),
        ),
        (
            of(json!([[1, 2]])),
            (
                400,
                "check_embedding_ctx_length=False",
                json!("input"),
                none.clone(),
            ),
        ),
        (
            post().json(&json!({"model": MODEL, "input": "a", "dimensions": 7})),
            (400, "can't be shortened", none.clone(), none.clone()),
        ),
        (
            post().json(&json!({"model": MODEL, "input": " ".repeat(1 << 20)})),
            (413, "larger than", none.clone(), none.clone()),
        ),
    ];
    for (request, (expected, words, param, code)) in table {
        let (status, answer) = ask(request).await;
        let (message, found, told) = error(&answer);
        assert_eq!(status, expected, "{answer}");
        assert!(message.contains(words), "{message}");
        assert_eq!((found, told), (&param, &code), "{answer}");
    }
}

#[tokio::test]
async fn what_is_worth_repeating_says_when() {
    let engine = FakeEngine::scripted(|_, _| Err(EngineError::OutOfMemory));
    let service = start(engine, one_slot()).await;
    let url = service.url("/v1/embeddings");
    let request = reqwest::Client::new().post(url);
    let answer = request
        .json(&json!({"model": MODEL, "input": "a"}))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "5");
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["error"]["type"], "server_error");
}
