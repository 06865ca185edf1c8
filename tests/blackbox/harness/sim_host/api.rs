//! What a simulated host answers: the endpoints of a real one, in real shapes.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use gpu_bridge_wire::{API_KEY_HEADER, ActiveJob, ErrorBody, Health, Info, QueueStatus, Status};
use http::{Method, Request, Response, StatusCode, header, request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::behaviour::{Answer, Behaviour, Ending, HealthAnswer, StatusAnswer, Vectors};
use super::connection::Line;
use super::openai::{self, Server};
use super::record::{Recorder, Visit};

/// When a real host is full it says this.
const FULL_RETRY_AFTER: u64 = 1;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One host's state, shared by its connections.
pub(super) struct Api {
    pub(super) name: String,
    pub(super) knobs: Mutex<Knobs>,
    pub(super) record: Recorder,
    /// A permit lets one request of [`Behaviour::ServeWhenReleased`] go on.
    pub(super) gate: Semaphore,
}

/// What a test can turn while the host runs.
#[derive(Clone)]
pub(super) struct Knobs {
    pub(super) behaviour: Behaviour,
    pub(super) vectors: Vectors,
    pub(super) health: HealthAnswer,
    pub(super) status: StatusAnswer,
    pub(super) slots: usize,
    /// Slots that others use.
    pub(super) foreign: usize,
    /// Models in memory, beside the host's own name.
    pub(super) models: Vec<String>,
    /// Models that it can serve; `None`: any.
    pub(super) installed: Option<Vec<String>>,
    /// Does `/info` tell them?
    pub(super) tells_installed: bool,
    /// Does it serve all others too?
    pub(super) serves_all: bool,
    /// For others.
    pub(super) unknown_model: Answer,
    /// What `/health` says of it.
    pub(super) ready: Option<bool>,
    /// What `/info` says of whether a pair's score is the same whatever else is in the batch. It tells that its
    /// models are loaded for pairs too then.
    pub(super) scores_pairs_alone: Option<bool>,
    /// Items that it takes at once; `None`: any number.
    pub(super) most_items: Option<usize>,
    /// Does `/info` tell that?
    pub(super) tells_most: bool,
    pub(super) api_key: Option<String>,
    /// Speaks OpenAI's API, and nothing else.
    pub(super) openai: Option<Server>,
}

impl Knobs {
    fn has(&self, model: &str) -> bool {
        let installed = self.installed.as_ref().filter(|_| !self.serves_all);
        let is_it = |it: &String| match &self.openai {
            None => it == model,
            // As Ollama has it.
            Some(_) => it.strip_suffix(":latest").unwrap_or(it) == model || it == model,
        };
        installed.is_none_or(|installed| installed.iter().any(is_it))
    }
}

/// The answer to any request.
pub(super) async fn respond(
    api: Arc<Api>,
    line: Line,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let is_first = line.count() == 0;
    if let Behaviour::ServeOncePerConnection(last_words) = api.knobs().behaviour
        && !is_first
    {
        return line.end(last_words, Ending::Close).await;
    }
    if let Some(server) = api.knobs().openai {
        return Ok(api.respond_in_openai(&server, &line, &head, body).await);
    }
    let route = (head.method.clone(), head.uri.path().to_owned());
    let response = match (&route.0, route.1.as_str()) {
        (&Method::GET, "/health") => api.health().await,
        (&Method::POST, "/embed" | "/bertscore") => api.compute(&line, &head, body).await,
        _ if !api.admits(&head) => error(401, "Unauthorized"),
        (&Method::GET, "/status") => api.status().await,
        (&Method::GET, "/info") => api.info().await,
        _ => error(404, "Not Found"),
    };
    Ok(response)
}

/// The vector that stands for `text`: anyone can tell whether an answer belongs to a request.
pub(crate) fn embedding_of(text: &str) -> Vec<u8> {
    Sha256::digest(text)[..4].to_vec()
}

/// What a host that pads its answers with so many bytes answers for `text`.
pub(crate) fn padded_answer(text: &str, bytes: usize) -> String {
    let job = Job(json!({"texts": [text]}), None);
    padded(&job.answer(Vectors::Right), bytes)
}

/// `object` with so many bytes in front of its other fields. Put together by hand, since tests run
/// unoptimised code.
pub(crate) fn padded(object: &Value, bytes: usize) -> String {
    let fields = object.to_string();
    // The length is prime, so that no mix-up of whole blocks goes unnoticed.
    let pattern: String = ('a'..='z').cycle().take(251).collect();
    let mut padding = pattern.repeat(bytes / pattern.len() + 1);
    padding.truncate(bytes);
    format!("{{\"padding\":\"{padding}\",{}", &fields[1..])
}

impl Api {
    pub(super) fn knobs(&self) -> Knobs {
        self.knobs.lock().unwrap().clone()
    }

    pub(super) fn admits(&self, head: &request::Parts) -> bool {
        let knobs = self.knobs();
        let wanted = knobs.api_key.map(|key| match knobs.openai {
            None => (API_KEY_HEADER, key),
            Some(_) => ("authorization", format!("Bearer {key}")),
        });
        wanted.is_none_or(|(name, key)| head.headers.get(name).is_some_and(|it| it == key.as_str()))
    }

    async fn health(&self) -> Response<Body> {
        self.record.check();
        match self.knobs().health {
            HealthAnswer::Ok => json(&Health {
                status: Health::OK.to_owned(),
                device: "cuda".to_owned(),
                ready: self.knobs().ready,
            }),
            HealthAnswer::Answer(answer) => fixed(&answer),
            HealthAnswer::Hang => std::future::pending().await,
        }
    }

    async fn info(&self) -> Response<Body> {
        if let HealthAnswer::Hang = self.knobs().health {
            return std::future::pending().await;
        }
        json(&Info {
            device: "cuda".to_owned(),
            device_name: format!("Simulated {}", self.name),
            vram_total_mb: Some(11_000),
            vram_used_mb: Some(1_000),
            pytorch_version: "sim".to_owned(),
            loaded_models: self.loaded_models(),
            available_models: self.available_models(),
            bertscore_batch_independent: self.knobs().scores_pairs_alone,
            max_batch_size: self.told_most(),
            ..Info::default()
        })
    }

    fn told_most(&self) -> Option<NonZeroU32> {
        let knobs = self.knobs();
        let most = knobs.most_items.filter(|_| knobs.tells_most)?;
        NonZeroU32::new(u32::try_from(most).unwrap())
    }

    fn available_models(&self) -> Option<Vec<String>> {
        let knobs = self.knobs();
        let installed = knobs.installed.filter(|_| knobs.tells_installed)?;
        let named = |model: &String| [format!("embed:{model}"), format!("bertscore:{model}")];
        Some(installed.iter().flat_map(named).collect())
    }

    fn loaded_models(&self) -> Vec<String> {
        let for_pairs = self.knobs().scores_pairs_alone.is_some();
        let models = self.knobs().models.into_iter().chain([self.name.clone()]);
        models
            .flat_map(|model| {
                let pairs = for_pairs.then(|| format!("bertscore:{model}"));
                std::iter::once(format!("embed:{model}")).chain(pairs)
            })
            .collect()
    }

    async fn status(&self) -> Response<Body> {
        let knobs = self.knobs();
        if let HealthAnswer::Hang = knobs.health {
            return std::future::pending().await;
        }
        self.record.asked_for_status();
        let count = |number: usize| u32::try_from(number).unwrap();
        let slots = count(knobs.slots);
        let queue = match knobs.status {
            StatusAnswer::Missing => return error(404, "Not Found"),
            StatusAnswer::Error => return error(500, "Internal Server Error"),
            StatusAnswer::Hang => return std::future::pending().await,
            StatusAnswer::AllFree => QueueStatus::new(slots, 0),
            StatusAnswer::NoneFree => full(slots),
            StatusAnswer::Truth if knobs.behaviour.is_busy() => full(slots),
            StatusAnswer::Truth | StatusAnswer::NoEstimate => {
                let in_flight = self.record.running() + knobs.foreign;
                QueueStatus::new(slots, count(in_flight))
            }
        };
        let mut status = serde_json::json!(Status {
            queue,
            active_jobs: (0..self.record.running()).map(job).collect(),
        });
        if let (StatusAnswer::NoEstimate, Some(queue)) =
            (knobs.status, status["queue"].as_object_mut())
        {
            queue.remove("waiting_estimate");
        }
        json(&status)
    }

    pub(super) async fn compute(
        &self,
        line: &Line,
        head: &request::Parts,
        body: Incoming,
    ) -> Response<Body> {
        let mut visit = self.record.arrival(head);
        if !self.admits(head) {
            return error(401, "Unauthorized");
        }
        match self.knobs().behaviour {
            Behaviour::AnswerUnread(answer) => return fixed(&answer),
            Behaviour::DieReading => line.end("", Ending::Reset).await,
            Behaviour::SayUnread(bytes, ending) => line.end(bytes, ending).await,
            _ => {}
        }
        let Ok(body) = body.collect().await else {
            return error(400, "the request broke off");
        };
        let body = body.to_bytes();
        visit.read_whole(&body);
        let knobs = self.knobs();
        let full = match &knobs.openai {
            None => Answer::busy(503, FULL_RETRY_AFTER),
            Some(server) => server.full.clone(),
        };
        let job = Job::read(&body, knobs.openai.clone());
        let texts = job.as_ref().map_or(Vec::new(), Job::texts);
        visit.is_for(texts.len());
        match knobs.behaviour.clone().towards(&texts) {
            Behaviour::Answer(answer) => fixed(&answer),
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Say(bytes, ending) => line.end(bytes, ending).await,
            Behaviour::DieThinking(time) => {
                tokio::time::sleep(time).await;
                line.end("", Ending::Close).await
            }
            behaviour => match job {
                None => error(422, "not what a host computes"),
                Some(job) if !knobs.has(job.model()) => fixed(&knobs.unknown_model),
                Some(job) if job.is_refused(&knobs).is_some() => {
                    fixed(&job.is_refused(&knobs).unwrap())
                }
                Some(job)
                    if !visit
                        .take_slot(knobs.slots.saturating_sub(knobs.foreign), job.first_text()) =>
                {
                    fixed(&full)
                }
                Some(job) => self.work(visit, line, behaviour, &job).await,
            },
        }
    }

    /// Computes with the slot of `visit`, which is given back before the answer is sent.
    async fn work(
        &self,
        visit: Visit,
        line: &Line,
        behaviour: Behaviour,
        job: &Job,
    ) -> Response<Body> {
        match &behaviour {
            Behaviour::ServeAfter(time) => tokio::time::sleep(*time).await,
            Behaviour::ServeByItems(time, each) => {
                let items = u32::try_from(job.texts().len()).unwrap();
                tokio::time::sleep(*time + *each * items).await;
            }
            Behaviour::ServeWhenReleased => self.gate.acquire().await.unwrap().forget(),
            _ => {}
        }
        if let Behaviour::Hang = self.knobs().behaviour {
            // It froze meanwhile.
            return std::future::pending().await;
        }
        visit.finish();
        let answer = job.answer(self.knobs().vectors);
        match behaviour {
            Behaviour::ServeChunked => chunked(&answer),
            Behaviour::ServePadded(bytes) => {
                let body = padded(&answer, bytes);
                response(StatusCode::OK, "application/json", whole(body))
            }
            Behaviour::StallAfter(bytes) => stalled(bytes),
            Behaviour::Drip(pace) => dripping(&answer, pace),
            Behaviour::ServeThenSay(later, bytes) => {
                let ending = Ending::Afterthought(later, bytes);
                line.end(spoken(&answer), ending).await
            }
            Behaviour::ServeThenHangUp => line.end(spoken(&answer), Ending::Close).await,
            Behaviour::DieAfter(bytes) => line.end(cut(&answer, bytes), Ending::Reset).await,
            Behaviour::DieMidBody(ending) => line.end(half(&spoken(&answer)), ending).await,
            Behaviour::DieMidChunks(ending) => line.end(half_chunked(&answer), ending).await,
            _ => json(&answer),
        }
    }
}

/// What is asked for.
struct Job(Value, Option<Server>);

impl Job {
    fn read(body: &[u8], server: Option<Server>) -> Option<Self> {
        let job: Value = match server {
            None => serde_json::from_slice(body).ok()?,
            Some(_) => openai::job(body)?,
        };
        (job["texts"].is_array() || job["candidates"].is_array()).then_some(Self(job, server))
    }

    fn is_refused(&self, knobs: &Knobs) -> Option<Answer> {
        let texts = self.texts();
        if let Some(server) = &self.1 {
            return server.refuses(&texts);
        }
        let most = knobs.most_items.filter(|most| texts.len() > *most)?;
        let list = if self.0["texts"].is_array() {
            "texts"
        } else {
            "candidates"
        };
        let count = texts.len();
        let problem = json!({
            "type": "value_error", "loc": ["body", list], "input": self.0[list], "ctx": {"error": {}},
            "msg": format!("Value error, {list} array length {count} exceeds max batch size of {most}"),
        });
        Some(Answer::json(422, &json!({"detail": [problem]})))
    }

    fn texts(&self) -> Vec<&str> {
        let field = if self.0["texts"].is_array() {
            "texts"
        } else {
            "candidates"
        };
        let texts = self.0[field].as_array().into_iter().flatten();
        texts.filter_map(Value::as_str).collect()
    }

    fn model(&self) -> &str {
        let named = self.0["model"].as_str().or(self.0["model_type"].as_str());
        named.unwrap_or("the default")
    }

    fn first_text(&self) -> &str {
        self.texts().first().copied().unwrap_or_default()
    }

    fn answer(&self, vectors: Vectors) -> Value {
        let texts = self.texts();
        if self.0["texts"].is_array() {
            if let Some(server) = &self.1 {
                let embeddings = texts.iter().map(|text| embedding_of(text)).collect();
                return server.answer(self.model(), embeddings);
            }
            let right = texts.iter().map(|text| (text, embedding_of(text)));
            let embeddings: Vec<Value> = match vectors {
                Vectors::Right => right.map(|(_, right)| json!(right)).collect(),
                wrong => right
                    .map(|(text, right)| json!(wrong.of(text, &right)))
                    .collect(),
            };
            return json!({"embeddings": embeddings, "model": "sim", "dimensions": 4});
        }
        let scores = |field: &str| -> Vec<u8> {
            let texts = self.0[field].as_array().into_iter().flatten();
            let texts = texts.map(|text| embedding_of(text.as_str().unwrap_or_default()));
            texts.map(|embedding| embedding[0]).collect()
        };
        let (precision, recall) = (scores("candidates"), scores("references"));
        json!({"precision": precision, "recall": recall, "f1": precision, "model": "sim"})
    }
}

/// No free slot, though nobody is known to use one.
fn full(slots: u32) -> QueueStatus {
    QueueStatus {
        available_slots: 0,
        ..QueueStatus::new(slots, 0)
    }
}

fn job(number: usize) -> ActiveJob {
    ActiveJob {
        id: format!("job-{number}"),
        kind: "embed".to_owned(),
        started_at: "2026-01-01T00:00:00+00:00".to_owned(),
        items: 1,
        model: "sim".to_owned(),
        progress: 0.5,
    }
}

/// An answer as bytes on the wire, for connections that end with it.
fn spoken(answer: &Value) -> Vec<u8> {
    let body = answer.to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// All but the second half of the body.
fn half(spoken: &[u8]) -> Vec<u8> {
    let body = spoken.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let body = body.unwrap() + 4;
    spoken[..usize::midpoint(body, spoken.len())].to_vec()
}

/// So many bytes of a body that was to be twice as long.
fn cut(answer: &Value, bytes: usize) -> Vec<u8> {
    let body = padded(answer, 2 * bytes);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body.as_bytes()[..bytes]].concat()
}

/// A whole chunk, but not the last one.
fn half_chunked(answer: &Value) -> Vec<u8> {
    let body = answer.to_string();
    let half = &body[..body.len() / 2];
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{half}\r\n",
        half.len()
    )
    .into_bytes()
}

fn chunked(answer: &Value) -> Response<Body> {
    let body = Bytes::from(answer.to_string());
    let chunks: Vec<_> = body.chunks(7).map(|chunk| body.slice_ref(chunk)).collect();
    let frames = chunks.into_iter().map(|chunk| Ok(Frame::data(chunk)));
    let body = StreamBody::new(stream::iter(frames)).boxed_unsync();
    response(StatusCode::OK, "application/json", body)
}

fn dripping(answer: &Value, pace: std::time::Duration) -> Response<Body> {
    let bytes = stream::iter(answer.to_string().into_bytes());
    let bytes = bytes.then(move |byte| async move {
        tokio::time::sleep(pace).await;
        Ok(Frame::data(vec![byte].into()))
    });
    let body = StreamBody::new(bytes).boxed_unsync();
    response(StatusCode::OK, "application/json", body)
}

fn stalled(bytes: usize) -> Response<Body> {
    let start = stream::once(async move { Ok(Frame::data(vec![b' '; bytes].into())) });
    let body = StreamBody::new(start.chain(stream::pending())).boxed_unsync();
    response(StatusCode::OK, "application/json", body)
}

pub(super) fn json(value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).unwrap();
    response(StatusCode::OK, "application/json", whole(body))
}

fn error(status: u16, detail: &str) -> Response<Body> {
    let detail = detail.to_owned();
    let mut response = json(&ErrorBody { detail });
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

pub(super) fn fixed(answer: &Answer) -> Response<Body> {
    let status = StatusCode::from_u16(answer.status).unwrap();
    let mut response = response(status, answer.content_type, whole(answer.body.clone()));
    if let Some(retry_after) = &answer.retry_after {
        let value = retry_after.parse().unwrap();
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    for (name, value) in &answer.headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

pub(super) fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed_unsync()
}

/// Carries headers about its connection and its own address too, which must not go further.
pub(super) fn response(status: StatusCode, content_type: &str, body: Body) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .header("keep-alive", "timeout=60")
        .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
        .header("x-sim", "end to end")
        .body(body)
        .unwrap()
}
