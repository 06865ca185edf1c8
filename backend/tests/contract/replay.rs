//! The recordings replayed on the router, over a fake engine and on a paused clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use clap::{CommandFactory, Parser};
use gpu_bridge_backend::api::{self, Services};
use gpu_bridge_backend::cli::Cli;
use gpu_bridge_backend::device::DeviceChoice;
use gpu_bridge_backend::metrics::Metrics;
use gpu_bridge_backend::settings::{Problems, Settings};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::differences;
use crate::fake::FakeEngine;
use crate::recording::{self, Answer, Case, LOCAL, Numbers};

/// What the service makes of environment variables, given as the flags that stand for them.
pub(crate) fn settings(env: &BTreeMap<String, String>) -> Result<Settings, Problems> {
    let command = Cli::command();
    let flag = |variable: &str| {
        let reads = |a: &&clap::Arg| a.get_env().is_some_and(|env| env == variable);
        let argument = command.get_arguments().find(reads).expect(variable);
        argument.get_long().expect(variable).to_owned()
    };
    let flags = env
        .iter()
        .map(|(variable, value)| format!("--{}={value}", flag(variable)));
    let command_line = std::iter::once("gpu-bridge-backend".to_owned()).chain(flags);
    Settings::check(&Cli::try_parse_from(command_line).unwrap())
}

/// The HTTP side over `engine`, on a host without a GPU.
pub(crate) fn service(engine: FakeEngine, options: api::Options) -> Router {
    api::router(services(engine), options)
}

/// `engine` with fresh metrics, on a host without a GPU.
pub(crate) fn services(engine: FakeEngine) -> Services {
    Services {
        engine: Arc::new(engine),
        metrics: Arc::new(Metrics::new(api::ENGINE).unwrap()),
        facts: DeviceChoice::Cpu.facts(),
    }
}

fn request(case: &Case) -> http::Request<Body> {
    let mut request = http::Request::builder()
        .method(case.request.method.as_str())
        .uri(case.request.path.as_str());
    for (name, value) in case.headers() {
        request = request.header(name, value);
    }
    request.body(Body::from(case.body())).unwrap()
}

pub(crate) async fn send(service: Router, request: http::Request<Body>) -> Answer {
    let response = service.oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    }
}

/// Replays a whole run; all that is wrong is told at once.
async fn replay(suite: &str) {
    let recorded = recording::suite(suite, LOCAL);
    let options = settings(&recorded.env).unwrap().api;
    let default_bertscore = options.default_bertscore.clone();
    let engine = FakeEngine::quick().named(&options.default_embed, &options.default_bertscore);
    let service = service(engine, options);
    let mut wrong = Vec::new();
    for case in &recorded.cases {
        let begin = Instant::now();
        let answer = send(service.clone(), request(case)).await;
        let waited = begin.elapsed() >= Duration::from_secs(1);
        if waited != case.seconds.is_some_and(|seconds| seconds >= 1.0) {
            wrong.push(format!("{}: waited for {:?}", case.name, begin.elapsed()));
        }
        if let Err(what) = differences::check(case, &answer, Numbers::Counted, &default_bertscore) {
            wrong.push(format!("{}: {what}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{suite}:\n{}", wrong.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn routes_validation_and_limits() {
    replay("main").await;
}

#[tokio::test(start_paused = true)]
async fn other_limits() {
    replay("limits_3_5").await;
}

#[tokio::test(start_paused = true)]
async fn a_key() {
    replay("auth").await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_key() {
    replay("auth_empty_key").await;
}

#[tokio::test(start_paused = true)]
async fn no_slots() {
    replay("busy_concurrent0").await;
}

#[tokio::test(start_paused = true)]
async fn other_default_models() {
    replay("env_default_models").await;
}

/// Recorded: the service starts and reads the variable with each request.
#[test]
fn a_variable_that_is_no_number_stops_the_start() {
    let recorded = recording::suite("embed_batch_bad", LOCAL);
    let told = settings(&recorded.env).unwrap_err().to_string();
    assert!(told.contains("GPU_EMBED_BATCH"), "{told}");
}

/// The number of requests that run, as `/status` tells it.
async fn in_flight(service: &Router) -> u64 {
    let status = http::Request::get("/status").body(Body::empty()).unwrap();
    let status: Value = serde_json::from_slice(&send(service.clone(), status).await.body).unwrap();
    assert_eq!(
        status["active_jobs"]
            .as_array()
            .map(|jobs| jobs.len() as u64),
        status["queue"]["in_flight"].as_u64()
    );
    status["queue"]["in_flight"].as_u64().unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_slot_that_is_taken() {
    let recorded = recording::suite("busy_concurrent1", LOCAL);
    let (started, mut has_started) = unbounded_channel();
    let (gate, opened) = mpsc::channel::<()>();
    let opened = std::sync::Mutex::new(opened);
    let engine = FakeEngine::scripted(move |text, _| {
        if text == "long" {
            started.send(()).unwrap();
            opened.lock().unwrap().recv().unwrap();
        }
        Ok(())
    });
    let service = service(engine, settings(&recorded.env).unwrap().api);
    let long = http::Request::post("/embed")
        .header("content-type", "application/json")
        .body(Body::from(r#"{"texts":["long"]}"#))
        .unwrap();
    let long = tokio::spawn(send(service.clone(), long));
    has_started.recv().await.unwrap();

    for case in &recorded.cases[..2] {
        let waiting = tokio::spawn(send(service.clone(), request(case)));
        let begin = Instant::now();
        while !waiting.is_finished() {
            assert_eq!(in_flight(&service).await, 1, "only what runs is told");
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        let waited = begin.elapsed();
        assert!(
            waited >= Duration::from_secs(1),
            "{}: gave up too early",
            case.name
        );
        case.compare(&waiting.await.unwrap(), Numbers::Counted)
            .expect(&case.name);
    }

    let after = &recorded.cases[2];
    let waiting = tokio::spawn(send(service.clone(), request(after)));
    gate.send(()).unwrap();
    after
        .compare(&waiting.await.unwrap(), Numbers::Counted)
        .expect(&after.name);
    assert_eq!(long.await.unwrap().status, 200);
    assert_eq!(in_flight(&service).await, 0);
}
