//! What a hostile, broken or merely careless client can do to a host: it gets a clear answer, and
//! the host goes on. Over a real socket, with bytes written by hand where a client library would
//! not write them.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::mpsc;

use gpu_bridge_backend::api::{Limits, Options};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::unbounded_channel;

use crate::fake::FakeEngine;
use crate::lifecycle::{Running, one_slot, start, start_for};
use crate::scrape::metrics;

const MIB: usize = 1 << 20;

/// A connection that speaks bytes.
struct Raw(TcpStream);

impl Raw {
    async fn to(service: &Running) -> Self {
        Self(TcpStream::connect(service.address).await.unwrap())
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The next answer, head and body.
    async fn answer(&mut self) -> String {
        let mut read = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.parse().unwrap());
                if body.len() >= length {
                    return text;
                }
            }
            assert_ne!(self.0.read_buf(&mut read).await.unwrap(), 0, "{text}");
        }
    }

    /// What comes until the host ends the connection.
    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).await.unwrap();
        rest
    }
}

fn head(framing: &str) -> String {
    format!(
        "POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    )
}

async fn post(service: &Running, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let answer = reqwest::Client::new()
        .post(service.url(path))
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

async fn lives(service: &Running) {
    assert_eq!(service.embed("x").await.status(), 200);
}

#[tokio::test]
async fn a_body_of_100_mib_is_refused_by_its_announcement_and_the_connection_goes_on() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    let mut client = Raw::to(&service).await;
    client
        .send(head(&format!("Content-Length: {}", 100 * MIB)))
        .await;
    let refusal = client.answer().await;
    assert!(refusal.starts_with("HTTP/1.1 413 "), "{refusal}");
    assert!(
        refusal.contains("\"detail\":\"request body is larger than"),
        "{refusal}"
    );

    // Who sends it all the same is not cut off.
    let piece = vec![b' '; MIB];
    for _ in 0..100 {
        client.send(&piece).await;
    }
    client.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let health = client.answer().await;
    assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
}

#[tokio::test]
async fn an_announced_length_beyond_all_numbers_is_refused() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    for length in ["9223372036854775807", "18446744073709551616", "-1", "1x"] {
        let mut client = Raw::to(&service).await;
        client
            .send(head(&format!("Content-Length: {length}")))
            .await;
        let refusal = client.answer().await;
        assert!(refusal.starts_with("HTTP/1.1 4"), "{length}: {refusal}");
    }
    lives(&service).await;
}

#[tokio::test]
async fn a_chunked_body_of_100_mib_is_cut_at_the_limit() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    let pieces = (0..100).map(|_| Ok::<_, std::io::Error>(vec![b' '; MIB]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let (status, refusal) = post(&service, "/embed", body).await;
    assert_eq!(status, 413, "{refusal}");
    lives(&service).await;
}

#[tokio::test]
async fn a_body_that_is_asked_for_is_not_asked_for_if_it_is_too_large() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    let mut client = Raw::to(&service).await;
    let framing = format!("Expect: 100-continue\r\nContent-Length: {}", 100 * MIB);
    client.send(head(&framing)).await;
    let refusal = client.rest().await;
    assert!(refusal.starts_with("HTTP/1.1 413 "), "{refusal}");
}

/// Bodies that cost much to read for their size, and the answers to them.
fn costly() -> Vec<(&'static str, String, u16)> {
    let list = |item: &str, count: usize| {
        format!(
            r#"{{"texts":[{}{item}]}}"#,
            format!("{item},").repeat(count - 1)
        )
    };
    let many_keys = (0..200_000).fold(String::new(), |mut keys, n| {
        let _ = write!(keys, r#""k{n}":0,"#);
        keys
    });
    let long = "\u{1F680}".repeat(10_000);
    vec![
        (
            "texts of the longest",
            json!({"texts": vec![&long; 100]}).to_string(),
            200,
        ),
        (
            "escaped throughout",
            list(&format!("\"{}\"", r"\ud83d\ude80".repeat(10_000)), 100),
            200,
        ),
        (
            "one text too many",
            json!({"texts": vec![&long; 101]}).to_string(),
            422,
        ),
        (
            "a text of a million",
            json!({"texts": ["x".repeat(1_000_000)]}).to_string(),
            422,
        ),
        ("a million wrong items", list("0", 1_000_000), 422),
        ("a million empty texts", list(r#""""#, 1_000_000), 422),
        ("empty lists in lists", list("[]", 1_000_000), 422),
        (
            "wide and deep",
            list(&format!("{}{}", "[".repeat(100), "]".repeat(100)), 10_000),
            422,
        ),
        (
            "deep",
            format!("{{\"texts\":{}", "[".repeat(5_000_000)),
            400,
        ),
        ("many keys", format!("{{{many_keys}\"texts\":[]}}"), 200),
        (
            "one key many times",
            format!("{{{}\"texts\":[]}}", r#""texts":["a"],"#.repeat(200_000)),
            200,
        ),
        (
            "a number without end",
            format!("{{\"texts\":[],\"x\":{}}}", "9".repeat(5_000_000)),
            422,
        ),
        (
            "a fraction without end",
            format!("{{\"texts\":[],\"x\":0.{}}}", "9".repeat(5_000_000)),
            200,
        ),
        (
            "an exponent without end",
            format!("{{\"texts\":[],\"x\":1e-{}}}", "9".repeat(5_000_000)),
            200,
        ),
        (
            "backslashes",
            format!("{{\"texts\":[\"{}\"]}}", r"\\".repeat(5_000_000)),
            422,
        ),
        (
            "an open string of quotes",
            format!("{{\"texts\":[\"{}", "\\\"".repeat(5_000_000)),
            422,
        ),
        ("blank lines", format!("{}{{", "\n".repeat(10_000_000)), 422),
        (
            "nothing named twice",
            format!(r#"{{"x":"{}"}}"#, "y".repeat(5_000_000)),
            422,
        ),
        (
            "a lone surrogate at the end",
            list(r#""\ud800""#, 100_000),
            422,
        ),
        (
            "a model name of megabytes",
            json!({"texts": [], "model": "m".repeat(5_000_000)}).to_string(),
            404,
        ),
    ]
}

#[tokio::test]
async fn costly_bodies_are_answered_and_the_host_lives() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    for (what, body, expected) in costly() {
        let (status, answer) = post(&service, "/embed", body).await;
        assert_eq!(status, expected, "{what}");
        assert!(expected == 200 || !answer["detail"].is_null(), "{what}");
    }
    lives(&service).await;
}

/// Control characters take six times the space as JSON, and so would the answer.
#[tokio::test]
async fn a_body_that_is_no_json_is_quoted_in_part() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    let answer = reqwest::Client::new()
        .post(service.url("/embed"))
        .body(vec![1; 10 * MIB])
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 422);
    assert!(answer.bytes().await.unwrap().len() < MIB);
}

#[tokio::test]
async fn empty_lists_are_answered() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    let (status, answer) = post(&service, "/embed", r#"{"texts":[]}"#).await;
    assert_eq!((status, &answer["dimensions"]), (200, &json!(0)));
    let (status, answer) = post(
        &service,
        "/bertscore",
        r#"{"candidates":[],"references":[]}"#,
    )
    .await;
    assert_eq!((status, &answer["f1"]), (200, &json!([])));
}

#[tokio::test]
async fn a_compressed_body_is_refused_by_the_name_of_its_coding() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    for path in ["/embed", "/bertscore", "/v1/embeddings"] {
        let mut client = Raw::to(&service).await;
        let ask = |coding: &str| {
            let framing = format!("Content-Encoding: {coding}\r\nContent-Length: 2");
            head(&framing).replace("/embed", path) + "{}"
        };
        client.send(ask("gzip")).await;
        let refusal = client.answer().await;
        assert!(refusal.starts_with("HTTP/1.1 415 "), "{refusal}");
        assert!(refusal.contains("encoded (gzip)"), "{refusal}");
        assert!(refusal.contains("accept-encoding: identity"), "{refusal}");
        client.send(ask("identity")).await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(!answer.contains(" 415 "), "{answer}");
    }
}

#[tokio::test]
async fn heads_are_bounded_in_size_and_number() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    let long = format!("X-Long: {}\r\n", "x".repeat(200_000));
    let many = "X-Many: x\r\n".repeat(200);
    for headers in [long, many] {
        let mut client = Raw::to(&service).await;
        client
            .send(format!("GET /health HTTP/1.1\r\nHost: x\r\n{headers}\r\n"))
            .await;
        let refusal = client.answer().await;
        assert!(refusal.starts_with("HTTP/1.1 431 "), "{refusal}");
    }
    lives(&service).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_ends_the_connection() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    for begun in ["", "GET /health HTTP/1.1\r\nHost"] {
        let mut client = Raw::to(&service).await;
        client.send(begun).await;
        client.rest().await;
    }
    let mut used = Raw::to(&service).await;
    used.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(used.answer().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(used.rest().await, "", "an idle connection ends too");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_408() {
    let service = start(FakeEngine::quick(), one_slot()).await;
    let mut client = Raw::to(&service).await;
    client.send(head("Content-Length: 100")).await;
    client.send("{\"texts\"").await;
    let refusal = client.answer().await;
    assert!(refusal.starts_with("HTTP/1.1 408 "), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_use_keeps_its_place_and_an_idle_one_makes_room() {
    let (tell, mut told) = unbounded_channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let engine = FakeEngine::scripted(move |_, _| {
        tell.send(()).unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
        Ok(())
    });
    let service = start_for(engine, one_slot(), 1).await;
    let mut used = Raw::to(&service).await;
    let body = r#"{"texts":["x"]}"#;
    let length = format!("Content-Length: {}", body.len());
    used.send(head(&length)).await;
    used.send(body).await;
    told.recv().await.unwrap();

    let refusal = Raw::to(&service).await.answer().await;
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    assert!(refusal.contains("retry-after: 1"), "{refusal}");
    go_on.send(()).unwrap();
    assert!(used.answer().await.starts_with("HTTP/1.1 200 "));

    let mut next = Raw::to(&service).await;
    next.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let metrics = next.answer().await;
    assert!(
        metrics.contains("_connections_displaced_total 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("_connections_refused_total 1\n"),
        "{metrics}"
    );
    assert_eq!(used.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_the_budget_wait_and_are_then_told_to_come_back() {
    let (tell, mut told) = unbounded_channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let engine = FakeEngine::scripted(move |text, _| {
        if text == "held" {
            tell.send(()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
        }
        Ok(())
    });
    let options = Options {
        max_concurrent: 2,
        max_buffered: MIB,
        ..one_slot()
    };
    let service = start(engine, options).await;
    let sized = |text: &str| format!("{{\"texts\":[\"{text}\"]{}}}", " ".repeat(600_000));

    let held = reqwest::Client::new()
        .post(service.url("/embed"))
        .header("content-type", "application/json")
        .body(sized("held"))
        .send();
    let held = tokio::spawn(held);
    told.recv().await.unwrap();
    let (status, answer) = post(&service, "/embed", sized("x")).await;
    assert_eq!(
        (status, &answer["detail"]),
        (503, &json!("GPU busy - retry later"))
    );
    lives(&service).await;
    let metrics = metrics(&service).await;
    assert!(
        metrics.contains("rejected_requests_total{reason=\"memory\"} 1\n"),
        "{metrics}"
    );

    go_on.send(()).unwrap();
    assert_eq!(held.await.unwrap().unwrap().status(), 200);
    assert_eq!(post(&service, "/embed", sized("x")).await.0, 200);
    assert_eq!(post(&service, "/embed", " ".repeat(2 * MIB)).await.0, 413);
}

#[tokio::test]
async fn limits_that_are_larger_than_the_budget_give_way_to_it() {
    let limits = Limits {
        batch_size: usize::MAX,
        text_length: usize::MAX,
    };
    let options = Options {
        limits,
        max_buffered: MIB,
        ..one_slot()
    };
    let service = start(FakeEngine::quick(), options).await;
    let (status, answer) = post(&service, "/embed", " ".repeat(MIB + 1)).await;
    assert_eq!(status, 413);
    assert_eq!(
        answer["detail"],
        "request body is larger than 1048576 bytes"
    );
}
