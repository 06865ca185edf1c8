//! OpenAI's API, for clients: embeddings and models in its dialect, from hosts that know nothing of it,
//! and every error in its shape.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::{
    Answer, Backend, Behaviour, Client, Config, Proxy, RawConnection, Reply, SimHost, eventually,
    sim_host,
};

const EMBEDDINGS: &str = "/v1/embeddings";

fn body(input: &Value) -> Value {
    json!({"model": "sim", "input": input})
}

async fn embeddings(client: &Client, body: &Value) -> Reply {
    client.post(EMBEDDINGS, body).await
}

/// The numbers of an embedding in base64.
fn floats(encoded: &Value) -> Vec<f32> {
    let bytes = STANDARD.decode(encoded.as_str().expect("a string"));
    let bytes = bytes.expect("base64");
    let (numbers, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    numbers.iter().copied().map(f32::from_le_bytes).collect()
}

/// The numbers of an embedding in a list.
fn listed(row: &Value) -> Vec<f32> {
    // Each is an `f32`, which a parser that errs in the last place of an `f64` finds all the same.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded to the nearest f32"
    )]
    let number = |number: &Value| number.as_f64().expect("a number") as f32;
    row.as_array().expect("a list").iter().map(number).collect()
}

#[tokio::test]
async fn a_host_is_asked_for_embed_and_its_numbers_are_passed_on() {
    let host = sim_host("host").key("host-key").start();
    let config = Config::with_hosts(&[&host]).client_key("app", "app-key");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let numbers = r#"{"embeddings":[[0.10000000149011612,-1E-3],[1.50,2]],"model":"served"}"#;
    let answer = Answer::result(numbers).with("x-compute-tokens", "7");
    host.set(Behaviour::Answer(answer));

    let ask = async |format: &str| {
        let request = proxy.client().request(Method::POST, EMBEDDINGS);
        let request = request
            .bearer_auth("app-key")
            .header("accept-encoding", "gzip, br");
        let body = json!({
            "input": ["one", "two"], "model": "sim", "encoding_format": format, "user": "u",
        });
        let reply = Reply::to(request.json(&body)).await;
        assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "host"));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        reply
    };
    let told = ask("float").await;
    let expected = concat!(
        r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.10000000149011612,-1E-3]},"#,
        r#"{"object":"embedding","index":1,"embedding":[1.50,2]}],"model":"served","#,
        r#""usage":{"prompt_tokens":7,"total_tokens":7}}"#
    );
    assert_eq!(told.body, expected);
    let told = ask("base64").await.json();
    assert_eq!(floats(&told["data"][0]["embedding"]), [0.1, -1e-3]);
    assert_eq!(floats(&told["data"][1]["embedding"]), [1.5, 2.0]);

    let seen = &host.record().requests[0];
    assert_eq!(seen.path_and_query, "/embed");
    let body: [u8; 32] = Sha256::digest(r#"{"model":"sim","texts":["one","two"]}"#).into();
    assert_eq!(seen.sha256, Some(body));
    assert_eq!(seen.headers["x-api-key"], "host-key");
    for absent in ["authorization", "accept-encoding"] {
        assert!(!seen.headers.contains_key(absent), "{absent}");
    }
}

#[tokio::test]
async fn hosts_that_are_busy_or_die_cost_nothing() {
    let hosts = [
        sim_host("busy").behaving(Behaviour::busy(5)).start(),
        sim_host("dying").behaving(Behaviour::DieReading).start(),
        sim_host("good").start(),
    ];
    let hosts: Vec<&SimHost> = hosts.iter().collect();
    let proxy = Proxy::in_front_of(&hosts).await;
    let client = proxy.client();
    let texts: Vec<String> = (0..20).map(|number| format!("text {number}")).collect();
    let told = embeddings(&client, &body(&json!(texts))).await.json();
    let plain = client
        .post("/embed", &json!({"model": "sim", "texts": texts}))
        .await;
    let rows = told["data"].as_array().unwrap().iter();
    let rows = rows.map(|row| row["embedding"].clone());
    assert_eq!(rows.collect::<Value>(), plain.json()["embeddings"]);
    assert_eq!(told["usage"]["prompt_tokens"], 0, "nobody counted");
}

#[tokio::test]
async fn an_answer_that_is_too_large_to_hold_otherwise_is_translated_all_the_same() {
    let host = sim_host("host")
        .behaving(Behaviour::ServePadded(17 << 20))
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let texts: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let reply = embeddings(&proxy.client(), &body(&json!(texts))).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["data"].as_array().unwrap().len(), 100);
    assert!(reply.body.len() < 1 << 20, "without the padding");
    // For one text it is beyond all reason.
    let reply = embeddings(&proxy.client(), &body(&json!("a"))).await;
    reply.assert_openai_error(502);
    eventually("nothing is held", async || {
        proxy
            .metrics()
            .await
            .gauge("gpu_bridge_buffered_bytes", &[])
            == 0
    })
    .await;
}

/// A request, and what is answered: status, part of the message, parameter, code.
type Row = (reqwest::RequestBuilder, u16, &'static str, Value, Value);

/// What the proxy refuses by itself.
fn refused(client: &Client) -> Vec<Row> {
    let request = |method, path: &str| client.request(method, path).bearer_auth("key");
    let post = || request(Method::POST, EMBEDDINGS);
    let of = |input: Value| post().json(&body(&input));
    let (input, none) = (json!("input"), Value::Null);
    vec![
        (
            client.request(Method::GET, "/v1/models"),
            401,
            "Unauthorized: no key was sent",
            none.clone(),
            json!("invalid_api_key"),
        ),
        (
            request(Method::POST, "/v1/chat/completions"),
            404,
            "Not Found: there are: ",
            none.clone(),
            json!("unknown_url"),
        ),
        (
            request(Method::GET, EMBEDDINGS),
            405,
            "use POST",
            none.clone(),
            json!("method_not_supported"),
        ),
        (
            post().body("x=y"),
            415,
            "Content-Type: application/json",
            none.clone(),
            none.clone(),
        ),
        (
            of(json!("a")).header("content-encoding", "gzip"),
            415,
            "without Content-Encoding",
            none.clone(),
            none.clone(),
        ),
        (
            of(json!("x".repeat(5000))),
            413,
            "larger than 4096 bytes",
            none.clone(),
            none.clone(),
        ),
        (
            post().header("content-type", "application/json").body("{"),
            400,
            "could not parse",
            none.clone(),
            none.clone(),
        ),
        (
            of(json!([1, 2])),
            400,
            "check_embedding_ctx_length=False",
            input.clone(),
            none.clone(),
        ),
        (of(json!([])), 400, "at least one text", input, none.clone()),
        (
            of(json!("a")).header("x-request-timeout", "soon"),
            400,
            "X-Request-Timeout must be",
            none.clone(),
            none,
        ),
        (
            request(Method::GET, "/v1/models/nobodys"),
            404,
            "GET /v1/models lists",
            json!("model"),
            json!("model_not_found"),
        ),
    ]
}

#[tokio::test]
async fn what_the_proxy_refuses_is_told_in_openai_s_shape() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host])
        .client_key("app", "key")
        .set("limits", "max_body", "4KiB");
    let proxy = Proxy::ready(&config, &[&host]).await;
    for (request, status, words, param, code) in refused(&proxy.client()) {
        let error = Reply::to(request).await.assert_openai_error(status);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        assert_eq!(
            (&error["param"], &error["code"]),
            (&param, &code),
            "{error}"
        );
    }
    assert_eq!(host.arrivals(), 0);
    // The plugin's own routes keep their shape.
    proxy.client().get("/embed").await.assert_error(401);
}

#[tokio::test]
async fn what_hosts_refuse_is_told_in_openai_s_shape_and_their_words() {
    let host = sim_host("host").installed(&["sim"]).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let client = proxy.client();
    let table = [
        (
            Answer::error(422, "not this"),
            400,
            "not this",
            "invalid_request_error",
        ),
        (
            Answer::error(400, "nor that"),
            400,
            "nor that",
            "invalid_request_error",
        ),
        (
            Answer::error(413, "too large"),
            413,
            "too large",
            "invalid_request_error",
        ),
        (
            Answer::error(500, "internal"),
            500,
            "internal",
            "server_error",
        ),
        (Answer::html(502), 502, "HTTP status 502", "server_error"),
        (
            Answer::html(302).with("location", "/login"),
            502,
            "HTTP status 302",
            "server_error",
        ),
        (
            Answer::result(r#"{"embeddings": 1}"#),
            502,
            "it holds no result",
            "server_error",
        ),
        (
            Answer::result(r#"{"embeddings": [[1]], "model": 5}"#),
            502,
            "its model is no name",
            "server_error",
        ),
        (
            Answer::result("[1]"),
            502,
            "it holds no result",
            "server_error",
        ),
    ];
    for (answer, status, words, kind) in table {
        host.set(Behaviour::Answer(answer));
        let reply = embeddings(&client, &body(&json!("a"))).await;
        let error = reply.assert_openai_error(status);
        assert!(
            error["message"].as_str().unwrap().contains(words),
            "{error}"
        );
        assert_eq!(error["type"], kind);
        assert_eq!(reply.header("location"), None);
        let id = reply.header("x-request-id").unwrap();
        let (_, story, _) = proxy.command(&["explain", id]).await;
        let is_ours = words.starts_with("it");
        assert_eq!(story.contains(words), is_ours, "{story}");
    }

    host.set(Behaviour::Serve);
    let other = json!({"model": "other", "input": "a"});
    let error = embeddings(&client, &other).await.assert_openai_error(404);
    assert_eq!(
        (&error["code"], &error["param"]),
        (&json!("model_not_found"), &json!("model"))
    );
}

#[tokio::test]
async fn a_shortened_embedding_is_one_that_a_host_has_shortened() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let ask = |dimensions: u32| {
        let body = json!({"model": "sim", "input": "a", "dimensions": dimensions});
        let client = proxy.client();
        async move { embeddings(&client, &body).await }
    };
    assert_eq!(ask(4).await.status, 200, "as many as there are");
    let error = ask(2).await.assert_openai_error(400);
    assert_eq!(error["param"], "dimensions");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("have 4 dimensions"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_worth_repeating_says_when() {
    let host = sim_host("host")
        .slots(1)
        .behaving(Behaviour::busy(3))
        .start();
    let config = Config::with_hosts(&[&host]).set("queue", "max_wait", "200ms");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let reply = embeddings(&proxy.client(), &body(&json!("a"))).await;
    assert_eq!(reply.assert_openai_error(503)["type"], "server_error");
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds));
}

#[tokio::test]
async fn what_is_held_for_the_translation_counts() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host])
        .set("limits", "max_body", "30KiB")
        .set("limits", "max_buffered", "30KiB");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let text = |length| body(&json!("x".repeat(length)));
    // Never to be held in three pieces, though its body is within the limit.
    let error = embeddings(&proxy.client(), &text(11 << 10)).await;
    error.assert_openai_error(413);
    let (client, first) = (proxy.client(), text(9 << 10));
    let running = tokio::spawn(async move { embeddings(&client, &first).await });
    host.runs(1).await;
    let reply = embeddings(&proxy.client(), &text(9 << 10)).await;
    reply.assert_openai_error(503);
    assert!(reply.header("retry-after").is_some());
    host.release_all();
    assert_eq!(running.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_body_that_never_comes_is_told_in_openai_s_shape() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "client_read", "300ms");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut connection = RawConnection::open(proxy.address()).await;
    connection
        .send(
            "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: 100\r\n\r\n{",
        )
        .await;
    connection.reply().await.assert_openai_error(408);
}

#[tokio::test]
async fn models_are_those_that_hosts_tell_of() {
    let hosts = [
        sim_host("one")
            .models(&[])
            .installed(&["org/a"])
            .tells_installed()
            .start(),
        sim_host("two").models(&["b"]).start(),
    ];
    let hosts: Vec<&SimHost> = hosts.iter().collect();
    let proxy = Proxy::in_front_of(&hosts).await;
    let client = proxy.client();
    let list = client.get("/v1/models").await.json();
    let ids = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["id"]);
    // A simulated host has a model of its own name in memory too.
    assert_eq!(
        ids.collect::<Vec<_>>(),
        ["b", "one", "org/a", "two"],
        "{list}"
    );
    for path in [
        "/v1/models/org/a",
        "/v1/models/org%2Fa",
        "/v1/models/org/a?x=y",
    ] {
        assert_eq!(client.get(path).await.json(), list["data"][2], "{path}");
    }
}

#[tokio::test]
async fn such_a_request_is_seen_as_what_it_is() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let request = proxy.client().request(Method::POST, EMBEDDINGS);
    let request = request
        .header("x-request-id", "mine")
        .json(&body(&json!(["a", "b", "c"])));
    let running = tokio::spawn(Reply::to(request));
    host.runs(1).await;

    let job = &proxy.client().get("/status").await.json()["active_jobs"][0];
    let told = (&job["type"], &job["items"], &job["model"]);
    assert_eq!(
        told,
        (&json!("embed"), &json!(3), &json!("sim")),
        "as for /embed"
    );
    host.release_all();
    assert_eq!(running.await.unwrap().status, 200);

    let (_, story, _) = proxy.command(&["explain", "mine"]).await;
    assert!(story.contains("POST v1/embeddings"), "{story}");
    proxy.logs("v1/embeddings").await;
    let labels = [("route", "v1/embeddings"), ("code", "200")];
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.count("gpu_bridge_requests_total", &labels), 1);
}

/// With real numbers: those of `/embed`, bit by bit, natively and through the proxy.
#[tokio::test]
async fn a_real_backend_gives_the_same_numbers_and_counts_tokens() {
    let backend = Backend::start("backend", "host-key").await;
    let config = Config::new()
        .host("backend", backend.url(), Some("host-key"))
        .client_key("app", "host-key");
    let proxy = Proxy::start(&config).await;
    proxy.finds_healthy("backend").await;
    let ask = async |client: &Client, path: &str, body: Value| {
        let request = client
            .request(Method::POST, path)
            .header("x-api-key", "host-key");
        let reply = Reply::to(request.json(&body)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply
    };
    let texts = json!(["A cat sits on the mat.", "é🚀"]);
    let plain = json!({"texts": texts, "model": Backend::MODEL});
    let plain = ask(&proxy.client(), "/embed", plain).await.json();
    let native = Client::new(backend.url());
    for client in [&proxy.client(), &native] {
        for format in ["float", "base64"] {
            let body = json!({"input": texts, "model": Backend::MODEL, "encoding_format": format});
            let told = ask(client, EMBEDDINGS, body).await.json();
            // [CLS] a cat sits on the mat . [SEP], and [CLS] [UNK] [SEP].
            let usage = json!({"prompt_tokens": 12, "total_tokens": 12});
            assert_eq!(
                (&told["usage"], &told["model"]),
                (&usage, &json!(Backend::MODEL))
            );
            let rows = told["data"].as_array().unwrap().iter();
            for (row, expected) in rows.zip(plain["embeddings"].as_array().unwrap()) {
                let row = &row["embedding"];
                let found = row.as_str().map_or_else(|| listed(row), |_| floats(row));
                assert!(found == listed(expected), "{format}");
            }
        }
    }
    let body = json!({"input": "a", "model": Backend::MODEL, "dimensions": 64});
    let requests = [&proxy.client(), &native].map(|client| {
        let request = client
            .request(Method::POST, EMBEDDINGS)
            .bearer_auth("host-key");
        Reply::to(request.json(&body))
    });
    let [one, other]: [Reply; 2] = join_all(requests).await.try_into().unwrap();
    assert_eq!(one.assert_openai_error(400), other.assert_openai_error(400));
    let error = one.json();
    let words = error["error"]["message"].as_str().unwrap();
    assert!(words.contains("can't be shortened"), "{words}");
}
