//! Clients that go away, engines that fail, bodies that are too large, a service that stops: over a
//! real socket where the socket matters.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use gpu_bridge_backend::api::{self, Limits, Options};
use gpu_bridge_backend::engine::{EngineError, LoadFault};
use gpu_bridge_backend::server::{self, Server};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fake::FakeEngine;
use crate::replay::{services, settings};
use crate::scrape::metrics;

/// Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn one_slot() -> Options {
    settings(&BTreeMap::from([(
        "GPU_MAX_CONCURRENT".to_owned(),
        "1".to_owned(),
    )]))
    .unwrap()
    .api
}

/// A service on a socket; dropping `stop` stops it.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

pub(crate) async fn start(engine: FakeEngine, options: Options) -> Running {
    start_for(engine, options, 100).await
}

/// A service that takes so many connections at once.
pub(crate) async fn start_for(engine: FakeEngine, options: Options, connections: usize) -> Running {
    let services = services(engine);
    let listener = server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = Server {
        tls: None,
        metrics: services.metrics.http.clone(),
        service: api::router(services, options),
        connections,
        connections_per_client: None,
    }
    .serve(listener, async {
        drop(stopped.await);
    });
    let served = tokio::spawn(serve);
    Running {
        address,
        stop,
        served,
    }
}

impl Running {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn embed(&self, text: &str) -> reqwest::Response {
        embed(self.url("/embed"), text).await
    }

    async fn status(&self) -> Value {
        let answer = reqwest::get(self.url("/status")).await.unwrap();
        answer.json().await.unwrap()
    }

    async fn in_flight(&self) -> u64 {
        self.status().await["queue"]["in_flight"].as_u64().unwrap()
    }
}

async fn embed(url: String, text: &str) -> reqwest::Response {
    let body = serde_json::json!({ "texts": [text] });
    reqwest::Client::new()
        .post(url)
        .json(&body)
        .send()
        .await
        .unwrap()
}

/// An engine that tells of each step for the text "long" and goes on when told to.
struct Steps {
    told: UnboundedReceiver<&'static str>,
    go_on: mpsc::Sender<()>,
}

/// Told when the computation begins and when it knows that it is cancelled.
fn long_until_cancelled() -> (FakeEngine, Steps) {
    let (tell, told) = unbounded_channel();
    let (go_on, may_go_on) = mpsc::channel();
    let may_go_on = Mutex::new(may_go_on);
    let engine = FakeEngine::scripted(move |text, progress| {
        if text != "long" {
            return Ok(());
        }
        tell.send("began").unwrap();
        let given_up = Instant::now() + PATIENCE;
        while !progress.is_cancelled() && Instant::now() < given_up {
            std::thread::yield_now();
        }
        let cancelled = progress.is_cancelled();
        tell.send(if cancelled { "cancelled" } else { "forgotten" })
            .unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
        Err(EngineError::Cancelled)
    });
    (engine, Steps { told, go_on })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_its_model_takes_no_slot() {
    let (tell, mut told) = unbounded_channel();
    let (go_on, may_go_on) = mpsc::channel();
    let may_go_on = Mutex::new(may_go_on);
    let engine = FakeEngine::quick().loading(move || {
        tell.send(()).unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
    });
    let service = start(engine, one_slot()).await;
    let pair = serde_json::json!({ "candidates": ["a"], "references": ["b"] });
    let scores = reqwest::Client::new()
        .post(service.url("/bertscore"))
        .json(&pair)
        .send();
    let scores = tokio::spawn(scores);
    told.recv().await.expect("the load begins");
    assert_eq!(service.in_flight().await, 0, "only what runs is listed");

    assert_eq!(service.embed("meanwhile").await.status(), 200);

    go_on.send(()).unwrap();
    assert_eq!(scores.await.unwrap().unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_a_slot_is_not_listed() {
    let (engine, mut steps) = long_until_cancelled();
    let service = start(engine, one_slot()).await;
    let long = tokio::spawn(embed(service.url("/embed"), "long"));
    assert_eq!(steps.told.recv().await, Some("began"));
    let waiting = tokio::spawn(embed(service.url("/embed"), "short"));
    // Its refusal comes after a second of waiting; until then it is looked at again and again.
    while !waiting.is_finished() {
        let status = service.status().await;
        assert_eq!(status["active_jobs"].as_array().unwrap().len(), 1);
        assert_eq!(status["queue"]["in_flight"], 1);
        assert_eq!(status["queue"]["waiting_estimate"], 0);
    }
    assert_eq!(waiting.await.unwrap().status(), 503);
    long.abort();
    assert_eq!(steps.told.recv().await, Some("cancelled"));
    steps.go_on.send(()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_frees_its_slot_when_the_running_batch_ends() {
    let (engine, mut steps) = long_until_cancelled();
    let service = start(engine, one_slot()).await;
    let body = r#"{"texts":["long"]}"#;
    let mut client = TcpStream::connect(service.address).unwrap();
    write!(
        client,
        "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    assert_eq!(steps.told.recv().await, Some("began"));

    drop(client);
    assert_eq!(steps.told.recv().await, Some("cancelled"));
    assert_eq!(
        service.in_flight().await,
        1,
        "the device still works: the slot is taken"
    );

    steps.go_on.send(()).unwrap();
    assert_eq!(service.embed("short").await.status(), 200);
    assert_eq!(service.in_flight().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_finishes_what_runs_and_accepts_nothing_new() {
    let (tell, mut told) = unbounded_channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let engine = FakeEngine::scripted(move |_, _| {
        tell.send(()).unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
        Ok(())
    });
    let service = start(engine, one_slot()).await;
    let running = tokio::spawn(embed(service.url("/embed"), "x"));
    told.recv().await.unwrap();

    drop(service.stop);
    while TcpStream::connect(service.address).is_ok() {
        tokio::task::yield_now().await;
    }
    go_on.send(()).unwrap();
    assert_eq!(running.await.unwrap().status(), 200);
    service.served.await.unwrap();
}

#[tokio::test]
async fn a_failing_engine_is_an_error_with_an_id_and_no_details() {
    let engine = FakeEngine::scripted(|text, _| match text {
        "panic" => panic!("a bug in the engine"),
        _ => Err(EngineError::Inference("secret path /srv/models".to_owned())),
    });
    let service = start(engine, one_slot()).await;
    for text in ["fail", "panic"] {
        let answer = service.embed(text).await;
        assert_eq!(answer.status(), 500);
        assert_eq!(answer.headers()["content-type"], "application/json");
        let id = answer.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let body = answer.text().await.unwrap();
        assert!(body.contains(&id) && !body.contains("/srv"), "{body}");
        assert_eq!(service.in_flight().await, 0);
    }
}

#[tokio::test]
async fn a_bug_off_the_threads_that_compute_is_answered_and_counted_like_one_there() {
    let engine = FakeEngine::quick().saying(|| panic!("a bug in the engine"));
    let service = start(engine, one_slot()).await;
    for path in ["/health", "/ready", "/info"] {
        let answer = reqwest::get(service.url(path)).await.unwrap();
        assert_eq!(answer.status(), 500, "{path}");
        let id = answer.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let body: Value = answer.json().await.unwrap();
        assert!(body["detail"].as_str().unwrap().contains(&id), "{body}");
    }
    let counted = metrics(&service).await;
    assert!(
        counted.contains("code=\"500\",route=\"/health\"} 1"),
        "{counted}"
    );
    assert_eq!(service.embed("x").await.status(), 200);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_a_clear_refusal_and_no_folder_is_named() {
    let engine = FakeEngine::scripted(|text, _| {
        let fault = LoadFault {
            reason: "config.json: 'is_decoder' is set".to_owned(),
            details: "/srv/models/m/config.json: 'is_decoder' is set".to_owned(),
            passing: text == "passing",
        };
        let name = "m".to_owned();
        Err(EngineError::Load { name, fault })
    });
    let service = start(engine, one_slot()).await;
    // The second request reads the same as the first.
    for (text, status) in [("lasting", 404), ("lasting", 404), ("passing", 503)] {
        let answer = service.embed(text).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers().contains_key("retry-after"), status == 503);
        let body: Value = answer.json().await.unwrap();
        let expected = "model 'm' cannot be used on this host: config.json: 'is_decoder' is set";
        assert_eq!(body, serde_json::json!({ "detail": expected }));
    }
}

#[tokio::test]
async fn a_text_that_the_model_has_no_vectors_for_is_the_requests_fault() {
    let engine = FakeEngine::scripted(|_, _| {
        Err(EngineError::UnknownToken {
            id: 900,
            vocabulary: 900,
        })
    });
    let service = start(engine, one_slot()).await;
    let answer = service.embed("text").await;
    assert_eq!(answer.status(), 400);
    let body: Value = answer.json().await.unwrap();
    let expected = "a text has the token 900, and the model has vectors for only 900 tokens";
    assert_eq!(body, serde_json::json!({ "detail": expected }));
}

#[tokio::test]
async fn a_model_that_cannot_be_used_now_but_soon_is_worth_another_request() {
    let engine = FakeEngine::scripted(|text, _| {
        let name = "m".to_owned();
        Err(match text {
            "memory" => EngineError::NoMemory { name },
            _ => EngineError::Loading { name },
        })
    });
    let service = start(engine, one_slot()).await;
    for text in ["memory", "loading"] {
        let answer = service.embed(text).await;
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "5");
        let body: Value = answer.json().await.unwrap();
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains("'m'") && detail.contains("retry later"));
    }
}

#[tokio::test]
async fn a_body_beyond_any_legal_request_is_413() {
    let limits = Limits {
        batch_size: 1,
        text_length: 1,
    };
    let options = Options {
        limits,
        ..one_slot()
    };
    let service = start(FakeEngine::quick(), options).await;
    let send = |size: usize| {
        reqwest::Client::new()
            .post(service.url("/embed"))
            .header("content-type", "application/json")
            .body(" ".repeat(size))
            .send()
    };
    let answer = send(limits.max_body() + 1).await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert!(answer.text().await.unwrap().starts_with("{\"detail\":"));
    assert_eq!(send(limits.max_body()).await.unwrap().status(), 422);
}

#[tokio::test]
async fn a_request_id_is_taken_over() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    let client = reqwest::Client::new();
    let answer = client
        .get(service.url("/nope"))
        .header("x-request-id", "abc-1")
        .send()
        .await;
    assert_eq!(answer.unwrap().headers()["x-request-id"], "abc-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_announced_with_expect_is_asked_for() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    let mut client = TcpStream::connect(service.address).unwrap();
    let body = r#"{"texts":["x"]}"#;
    write!(
        client,
        "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Expect: 100-continue\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .unwrap();
    let mut go_ahead = [0; 25];
    client.read_exact(&mut go_ahead).unwrap();
    assert_eq!(&go_ahead, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}
