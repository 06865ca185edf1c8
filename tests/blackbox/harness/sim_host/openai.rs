//! A host that speaks OpenAI's API instead of the service's own, with what is peculiar to one server or
//! another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Response, StatusCode, request};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::api::{Api, Body, fixed, json, response, whole};
use super::behaviour::{Answer, HealthAnswer};
use super::connection::Line;

/// In which ways one server differs from others.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// What it answers with 200 while it is well, and with which body.
    pub(crate) health: (&'static str, &'static str),
    /// What needs no key.
    pub(crate) open: &'static [&'static str],
    /// Does it list its models?
    pub(crate) lists: bool,
    /// The model that it says it has answered with; `None`: the one that was asked for.
    pub(crate) answers_as: Option<&'static str>,
    /// Is the answer in base64, whatever was asked for?
    pub(crate) in_base64: bool,
    /// What it says when it is full.
    pub(crate) full: Answer,
    /// How many texts it takes, and what it says to more.
    pub(crate) most_texts: (usize, Answer),
    /// How many characters of a text it takes, and what it says to more.
    pub(crate) longest_text: (usize, Answer),
}

impl Default for Server {
    /// With the simplest of everything.
    fn default() -> Self {
        let error = |status: u16| {
            let message = "in the server's own words";
            Answer::json(
                status,
                &json!({"error": {"message": message, "code": status}}),
            )
        };
        Self {
            health: ("/health", ""),
            open: &["/health"],
            lists: true,
            answers_as: None,
            in_base64: false,
            full: error(429),
            most_texts: (32, error(413)),
            longest_text: (1000, error(400)),
        }
    }
}

impl Server {
    /// Why it does not take these texts, if it doesn't.
    pub(super) fn refuses(&self, texts: &[&str]) -> Option<&Answer> {
        let (most, too_many) = &self.most_texts;
        let (longest, too_long) = &self.longest_text;
        if texts.len() > *most {
            return Some(too_many);
        }
        let is_long = texts.iter().any(|text| text.chars().count() > *longest);
        is_long.then_some(too_long)
    }

    /// Its answer with these embeddings: in no particular order.
    pub(super) fn answer(&self, model: &str, embeddings: Vec<Vec<u8>>) -> Value {
        let rows = embeddings.into_iter().enumerate().rev();
        let rows = rows.map(|(index, row)| {
            let floats = row.iter().map(|number| f32::from(*number));
            let bytes: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
            let coded = self.in_base64.then(|| json!(STANDARD.encode(bytes)));
            let embedding = coded.unwrap_or_else(|| json!(row));
            json!({"object": "embedding", "index": index, "embedding": embedding})
        });
        json!({
            "object": "list",
            "data": rows.collect::<Vec<_>>(),
            "model": self.answers_as.unwrap_or(model),
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
        })
    }
}

/// What `/embed` would be asked; `None` if it is not what a proxy should ask.
pub(super) fn job(body: &[u8]) -> Option<Value> {
    let job: Value = serde_json::from_slice(body).ok()?;
    let is_asked_so = job["input"].is_array() && job["encoding_format"] == "float";
    is_asked_so.then(|| json!({"texts": job["input"], "model": job["model"]}))
}

impl Api {
    /// The answer to any request.
    pub(super) async fn respond_in_openai(
        &self,
        server: &Server,
        line: &Line,
        head: &request::Parts,
        body: Incoming,
    ) -> Response<Body> {
        let path = head.uri.path();
        if !server.open.contains(&path) && !self.admits(head) {
            let error = json!({"error": {"message": "Unauthorized"}});
            return fixed(&Answer::json(401, &error));
        }
        match (&head.method, path) {
            (&Method::POST, "/v1/embeddings") => self.compute(line, head, body).await,
            (&Method::GET, "/v1/models") if server.lists => {
                self.record.asked_for_models();
                self.listed()
            }
            (&Method::GET, path) if path == server.health.0 => self.health_of(server).await,
            (_, path) => {
                self.record.asked_in_vain(path);
                fixed(&Answer::error(404, "Not Found"))
            }
        }
    }

    async fn health_of(&self, server: &Server) -> Response<Body> {
        self.record.check();
        match self.knobs().health {
            HealthAnswer::Ok => response(StatusCode::OK, "text/plain", whole(server.health.1)),
            HealthAnswer::Answer(answer) => fixed(&answer),
            HealthAnswer::Hang => std::future::pending().await,
        }
    }

    fn listed(&self) -> Response<Body> {
        let knobs = self.knobs();
        let models = knobs.installed.unwrap_or(knobs.models);
        let models = models
            .iter()
            .map(|id| json!({"id": id, "object": "model", "owned_by": "sim"}));
        json(&json!({"object": "list", "data": models.collect::<Vec<_>>()}))
    }
}
