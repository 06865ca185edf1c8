//! The clients: each asks for something that nobody else asks for, and checks every number of the answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::ledger::{Ledger, Who};
use crate::harness::{Reply, Wire, embedding_of};

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_secs(45);
/// Of every so many texts one is long.
const LONG: u32 = 40;
/// So often all come that are urgent.
const SURGES: Duration = Duration::from_millis(2500);

/// Clients that ask until they are told to stop.
pub(super) struct Crowd {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// `slots`: of all hosts; so many requests, and more, are under way at once. `leave`: whether those who hang
    /// up come.
    pub(super) fn start(
        seed: u64,
        proxy: SocketAddr,
        slots: usize,
        ledger: &Arc<Ledger>,
        leave: &watch::Receiver<bool>,
    ) -> Self {
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        let numbers = [
            (Who::Heavy, 4 * slots),
            (Who::Light, 1),
            (Who::Multiplexed, 2),
            (Who::Leaving, 3),
            (Who::Urgent, 8 * slots),
        ];
        let all = numbers
            .into_iter()
            .flat_map(|(who, number)| (0..number).map(move |_| who));
        for (number, who) in all.enumerate() {
            let client = Client::new(who, number, proxy, seed, ledger);
            let (stop, leave) = (stop.subscribe(), leave.clone());
            tasks.spawn(client.run(stop, leave));
        }
        Self { stop, tasks }
    }

    /// Returns once all have their last answers.
    pub(super) async fn end(self) {
        self.stop.send_replace(true);
        self.tasks.join_all().await;
    }
}

/// One that asks.
pub(super) struct Client {
    who: Who,
    proxy: SocketAddr,
    name: String,
    rng: SmallRng,
    asked: usize,
    ledger: Arc<Ledger>,
}

impl Client {
    /// `number`: that of no other client.
    pub(super) fn new(
        who: Who,
        number: usize,
        proxy: SocketAddr,
        seed: u64,
        ledger: &Arc<Ledger>,
    ) -> Self {
        Self {
            who,
            proxy,
            name: format!("{}-{number}", who.name()),
            rng: SmallRng::seed_from_u64(seed ^ ((number as u64) << 32)),
            asked: 0,
            ledger: Arc::clone(ledger),
        }
    }

    async fn run(mut self, stop: watch::Receiver<bool>, mut leave: watch::Receiver<bool>) {
        let mut wire = None;
        let mut surges = interval(SURGES);
        surges.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while !*stop.borrow() {
            match self.who {
                Who::Leaving => {
                    let come = timeout(Duration::from_millis(100), leave.wait_for(|it| *it));
                    if come.await.is_ok_and(|told| told.is_ok()) {
                        self.leave_unanswered().await;
                    }
                }
                Who::Light => {
                    self.ask(&mut wire).await;
                    sleep(Duration::from_millis(self.rng.random_range(0..20))).await;
                }
                Who::Heavy | Who::Multiplexed => self.ask(&mut wire).await,
                Who::Urgent => {
                    surges.tick().await;
                    self.ask(&mut wire).await;
                }
            }
        }
    }

    /// Asks once, on `wire` if it still can be used, and notes what came of it.
    pub(super) async fn ask(&mut self, wire: &mut Option<Wire>) {
        let question = self.question();
        let started = Instant::now();
        let answered = timeout(PATIENCE, self.answer(wire, &question)).await;
        let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        match answered {
            Ok(()) => self.ledger.answered(self.who, started.elapsed()),
            Err(how) => {
                *wire = None;
                let (name, took) = (&question.name, started.elapsed());
                self.ledger.broken(format!("{name}, after {took:?}: {how}"));
            }
        }
    }

    async fn answer(&self, wire: &mut Option<Wire>, question: &Question) -> Result<(), String> {
        let used = match wire.take() {
            Some(wire) => still_open(wire).await,
            None => None,
        };
        if let Some(used) = used {
            match self.send(wire.insert(used), question).await {
                Err(error) if is_unsent(&error) => {}
                sent => return question.is_answered_by(sent),
            }
        }
        let new = self
            .connect()
            .await
            .map_err(|error| format!("no connection: {error}"))?;
        question.is_answered_by(self.send(wire.insert(new), question).await)
    }

    async fn send(&self, wire: &mut Wire, question: &Question) -> hyper::Result<Reply> {
        let mut request = wire.request(Method::POST, question.path, question.body.to_string());
        let headers = request.headers_mut();
        headers.insert("x-api-key", HeaderValue::from_static(self.who.name()));
        headers.insert(
            "x-request-id",
            HeaderValue::from_str(&question.name).unwrap(),
        );
        wire.try_send(request).await
    }

    async fn connect(&self) -> std::io::Result<Wire> {
        let stream = TcpStream::connect(self.proxy).await?;
        stream.set_nodelay(true)?;
        Ok(match self.who {
            Who::Multiplexed => Wire::http2(stream).await,
            _ => Wire::http1(stream).await,
        })
    }

    async fn leave_unanswered(&mut self) {
        let Ok(mut stream) = TcpStream::connect(self.proxy).await else {
            return self.ledger.broken("no connection".to_owned());
        };
        let question = self.question();
        let (path, body) = (question.path, question.body.to_string());
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: proxy\r\nx-api-key: leaving\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // Fails only if the proxy has hung up first, which is none of this client's concern.
        let _ = stream
            .write_all(&[head.as_bytes(), body.as_bytes()].concat())
            .await;
        sleep(Duration::from_millis(self.rng.random_range(0..80))).await;
        match self.rng.random_range(0..3) {
            0 => stream.set_zero_linger().unwrap(),
            1 => {
                let _ = stream.shutdown().await;
                sleep(Duration::from_millis(20)).await;
            }
            _ => {}
        }
        self.ledger.left();
    }

    fn question(&mut self) -> Question {
        self.asked += 1;
        let name = format!("{}-{}", self.name, self.asked);
        let items = match self.who {
            Who::Light => 1,
            _ if self.rng.random_bool(0.3) => self.rng.random_range(2..40),
            _ => 1,
        };
        let texts: Vec<String> = (0..items)
            .map(|item| {
                let long = self.rng.random_ratio(1, LONG * items);
                let rest = if long {
                    "é \"x\" ".repeat(20_000)
                } else {
                    String::new()
                };
                format!("{name}-{item} {rest}")
            })
            .collect();
        let kind = self.rng.random_range(0..4);
        Question::of(name, kind, &texts)
    }
}

/// Has the connection ended before anything of the request was sent? Every client of HTTP/2 sends it again then.
fn is_unsent(error: &hyper::Error) -> bool {
    error.is_canceled() || format!("{error:?}").contains("GoAway(b\"\", NO_ERROR, Remote)")
}

/// The connection, if nobody has ended it.
async fn still_open(mut wire: Wire) -> Option<Wire> {
    let is_open = match &mut wire {
        Wire::Http1(sender) => sender.ready().await.is_ok(),
        Wire::Http2(sender) => sender.ready().await.is_ok(),
    };
    is_open.then_some(wire)
}

/// What is asked, and the numbers that only this question has as its answer.
struct Question {
    name: String,
    path: &'static str,
    body: Value,
    right: Vec<Vec<u8>>,
}

impl Question {
    fn of(name: String, kind: u32, texts: &[String]) -> Self {
        let vectors: Vec<_> = texts.iter().map(|text| embedding_of(text)).collect();
        let (path, body, right) = match kind {
            0 => {
                let references: Vec<_> = texts.iter().map(|text| format!("{text}!")).collect();
                let recall = references
                    .iter()
                    .map(|text| embedding_of(text)[0])
                    .collect();
                let precision: Vec<u8> = vectors.iter().map(|vector| vector[0]).collect();
                let body =
                    json!({"candidates": texts, "references": references, "model_type": "sim"});
                (
                    "/bertscore",
                    body,
                    vec![precision.clone(), recall, precision],
                )
            }
            1 => (
                "/v1/embeddings",
                json!({"input": texts, "model": "sim"}),
                vectors,
            ),
            _ => ("/embed", json!({"texts": texts, "model": "sim"}), vectors),
        };
        Self {
            name,
            path,
            body,
            right,
        }
    }

    fn is_answered_by(&self, reply: hyper::Result<Reply>) -> Result<(), String> {
        let reply = reply.map_err(|error| format!("{error:?}"))?;
        let shown = String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]).into_owned();
        if reply.status != StatusCode::OK {
            let again = reply
                .header("retry-after")
                .map(|it| format!(" (Retry-After: {it})"));
            return Err(format!(
                "{}{}: {shown}",
                reply.status,
                again.unwrap_or_default()
            ));
        }
        let served_by = reply.header("x-served-by").unwrap_or_default();
        let body: Value = serde_json::from_slice(&reply.body)
            .map_err(|error| format!("no JSON from {served_by} ({error}): {shown}"))?;
        if self.numbers(&body).as_ref() == Some(&self.right) {
            return Ok(());
        }
        Err(format!("other numbers from {served_by}: {shown}"))
    }

    fn numbers(&self, body: &Value) -> Option<Vec<Vec<u8>>> {
        let all = |rows: &Value| rows.as_array()?.iter().map(row).collect();
        match self.path {
            "/bertscore" => ["precision", "recall", "f1"]
                .iter()
                .map(|key| row(&body[key]))
                .collect(),
            "/embed" => all(&body["embeddings"]),
            _ => {
                let data = body["data"].as_array()?.iter().enumerate();
                let in_order = |(at, it): (usize, &Value)| {
                    (it["index"] == at).then(|| row(&it["embedding"])).flatten()
                };
                data.map(in_order).collect()
            }
        }
    }
}

/// Small whole numbers, however they are written.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is compared with what was cast"
)]
fn row(row: &Value) -> Option<Vec<u8>> {
    let number = |number: &Value| {
        let float = number.as_f64()?;
        (f64::from(float as u8) - float == 0.0).then_some(float as u8)
    };
    row.as_array()?.iter().map(number).collect()
}
