//! What became of a request can be told: by its line in the log, and by `gpu-bridge explain`.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Behaviour, Client, Config, Proxy, Reply, SimHost, embed_body, eventually, sim_host,
};

async fn embed(client: &Client, id: &str) -> Reply {
    let request = client.request(Method::POST, "/embed");
    let request = request.header("X-Request-Id", id).json(&embed_body("text"));
    Reply::to(request).await
}

/// The line of a request in the log.
async fn line(proxy: &Proxy, id: &str) -> Value {
    let find = || {
        let log = proxy.log();
        let lines = log.lines().map(serde_json::from_str::<Value>);
        lines.flatten().find(|line| line["id"] == id)
    };
    eventually("the request in the log", async || find().is_some()).await;
    find().unwrap()
}

/// The story of a request that has ended, as JSON.
async fn story(proxy: &Proxy, id: &str) -> Value {
    let path = format!("/api/v1/requests/{id}");
    let operator = proxy.operator();
    eventually("the request's end", async || {
        let reply = operator.get(&path).await;
        reply.status == 200 && !reply.json()["status"].is_null()
    })
    .await;
    operator.get(&path).await.json()
}

/// One host that fails each request and one that serves it. Returns the id of a request that has
/// been to both.
async fn with_a_retry(proxy: &Proxy) -> &'static str {
    // Either host may be the first to be tried.
    for id in ["one", "two"] {
        embed(&proxy.client(), id).await.assert_embedding_of("text");
        if story(proxy, id).await["attempts"][1] != Value::Null {
            return id;
        }
    }
    panic!("no request went to the failing host first");
}

fn failing_and_good() -> [SimHost; 2] {
    let bad = Behaviour::answer(500, "out of order");
    [
        sim_host("bad").behaving(bad).start(),
        sim_host("good").start(),
    ]
}

#[tokio::test]
async fn the_log_has_one_line_with_all_that_matters() {
    let hosts = failing_and_good();
    let config = Config::with_hosts(&hosts.each_ref());
    let proxy = Proxy::ready(&config, &hosts.each_ref()).await;
    let id = with_a_retry(&proxy).await;

    let line = line(&proxy, id).await;

    assert_eq!(line["message"], "request", "{line}");
    let fixed = json!({
        "method": "POST", "route": "embed", "status": 200, "items": 1, "model": "embed:sim",
        "address": "127.0.0.1",
    });
    for (name, value) in fixed.as_object().unwrap() {
        assert_eq!(&line[name], value, "{name}: {line}");
    }
    for number in [
        "total_ms",
        "queue_ms",
        "upstream_ms",
        "first_byte_ms",
        "request_bytes",
        "response_bytes",
    ] {
        assert!(line[number].is_u64(), "{number}: {line}");
    }
    let hosts = line["hosts"].as_str().unwrap();
    assert!(hosts.starts_with("bad:server_error:"), "{hosts}");
    assert!(hosts.contains(" good:deliver:"), "{hosts}");
    assert_eq!(proxy.log().matches(&format!("\"id\":\"{id}\"")).count(), 1);
}

#[tokio::test]
async fn explain_tells_each_attempt_and_the_end() {
    let hosts = failing_and_good();
    let config = Config::with_hosts(&hosts.each_ref());
    let proxy = Proxy::ready(&config, &hosts.each_ref()).await;
    let id = with_a_retry(&proxy).await;

    let (code, text, _) = proxy.command(&["explain", id]).await;
    assert_eq!(code, Some(0), "{text}");
    let title = format!("request {id}: POST embed, 1 items, model embed:sim\n");
    assert!(text.starts_with(&title), "{text}");
    assert!(text.contains("s  bad: server_error after "), "{text}");
    assert!(text.contains("it answered 500"), "{text}");
    assert!(text.contains("s  good: deliver after "), "{text}");
    assert!(text.contains("s  ended: 200, "), "{text}");

    let (code, json, _) = proxy.command(&["explain", "--json", id]).await;
    assert_eq!(code, Some(0));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["attempts"][0]["verdict"], "server_error");
    assert_eq!(json, story(&proxy, id).await);
}

#[tokio::test]
async fn a_request_that_runs_or_waits_can_be_explained_meanwhile() {
    let host = sim_host("host")
        .slots(1)
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let client = proxy.client();
    let start = |id: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { embed(&client, id).await })
    };
    let running = start("running");
    host.runs(1).await;
    let waiting = start("waiting");
    proxy.queues(1).await;

    let (_, text, _) = proxy.command(&["explain", "running"]).await;
    assert!(text.contains("s  host: running\n"), "{text}");
    assert!(text.ends_with("s  still running\n"), "{text}");
    eventually("a reason to wait", async || {
        let (_, text, _) = proxy.command(&["explain", "waiting"]).await;
        text.contains("waits since: host has 1 of 1 slots in use")
    })
    .await;

    host.release_all();
    for request in [running, waiting] {
        request.await.unwrap().assert_embedding_of("text");
    }
    let story = story(&proxy, "waiting").await;
    assert_eq!(story["waits"][0]["why"], "host has 1 of 1 slots in use");
    assert!(story["queue_seconds"].as_f64().unwrap() > 0.1, "{story}");
}

#[tokio::test]
async fn a_refusal_and_a_client_that_left_are_told_too() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host]).client_key("openclaw", "key");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let request = proxy.client().request(Method::POST, "/embed");
    let request = request.header("X-API-Key", "key");
    let request = request.header("X-Request-Id", "left");
    let asking = tokio::spawn(Reply::to(request.json(&embed_body("text"))));
    host.runs(1).await;
    asking.abort();
    embed(&proxy.client(), "nobody").await.assert_error(401);

    let refused = line(&proxy, "nobody").await;
    assert_eq!(refused["status"], 401);
    let why = refused["why"].as_str().unwrap();
    assert!(why.starts_with("no key was sent"), "{why}");
    let left = story(&proxy, "left").await;
    assert_eq!(left["status"], 499, "{left}");
    assert_eq!(left["client"], "openclaw");
    assert_eq!(left["attempts"][0]["verdict"], "abandoned");
    assert_eq!(proxy.attempts("host", "abandoned").await, 1);
}

#[tokio::test]
async fn the_latest_requests_are_listed_and_unknown_ids_have_an_exit_code() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let client = proxy.client();
    for id in ["first", "a/b:c+d=e@f", "third"] {
        embed(&client, id).await.assert_embedding_of("text");
        story(&proxy, id).await;
    }

    let reply = proxy.operator().get("/api/v1/requests?limit=2").await;
    let json = reply.json();
    let requests = json["requests"].as_array().unwrap();
    let ids: Vec<_> = requests.iter().map(|request| &request["id"]).collect();
    assert_eq!(ids, ["third", "a/b:c+d=e@f"]);
    let bad = proxy.operator().get("/api/v1/requests?limit=x").await;
    assert!(bad.assert_error(400).contains("limit=10"));

    let (code, _, error) = proxy.command(&["explain", "missing"]).await;
    assert_eq!(code, Some(5), "{error}");
    assert!(error.contains("X-Request-Id"), "{error}");
    let (code, ..) = proxy.command(&["explain", "no id"]).await;
    assert_eq!(code, Some(5));
}

#[tokio::test]
async fn stories_are_for_operators_only() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("admin", "key", "sesame");
    let proxy = Proxy::start(&config).await;
    for path in ["/api/v1/requests", "/api/v1/requests/x"] {
        proxy.operator().get(path).await.assert_error(401);
    }
}

#[tokio::test]
async fn for_people_the_log_has_columns() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::start_with(&config, |command| {
        command.args(["--log-format", "human"]);
    })
    .await;
    proxy.finds_healthy("host").await;
    embed(&proxy.client(), "me")
        .await
        .assert_embedding_of("text");
    proxy.client().get("/nowhere").await.assert_error(404);

    proxy.logs("  id=me").await;
    proxy.logs(" GET   other         404 ").await;
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("  id=me")).unwrap();
    assert!(line.contains("  INFO POST  embed         200 "), "{line}");
    assert!(line.contains(" ms  host:deliver:"), "{line}");
}
