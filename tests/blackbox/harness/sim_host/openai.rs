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
    /// The path below which it is.
    pub(crate) below: &'static str,
    /// What it answers with 200 while it is well, and with which body.
    pub(crate) health: (&'static str, &'static str),
    /// What needs no key.
    pub(crate) open: &'static [&'static str],
    /// Does it list its models?
    pub(crate) lists: bool,
    /// What it says to those who ask for a list if it doesn't.
    pub(crate) unlisted: Answer,
    /// The model that it says it has answered with; `None`: the one that was asked for.
    pub(crate) answers_as: Option<&'static str>,
    /// Is the answer in base64, whatever was asked for?
    pub(crate) in_base64: bool,
    /// Does it leave out an index of 0, as servers made of protocol buffers do?
    pub(crate) omits_zero: bool,
    /// What it makes of the rows of an answer at last.
    pub(crate) rows: fn(Vec<Value>) -> Vec<Value>,
    /// What it says when it is full.
    pub(crate) full: Answer,
    /// How many texts it takes, and what it says to more, with their number for `COUNT`; `None`: any number.
    pub(crate) most_texts: Option<(usize, Answer)>,
    /// How many characters of a text it takes, and what it says to more; `None`: it cuts them.
    pub(crate) longest_text: Option<(usize, Answer)>,
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
            below: "",
            health: ("/health", ""),
            open: &["/health"],
            lists: true,
            unlisted: Answer::error(404, "Not Found"),
            answers_as: None,
            in_base64: false,
            omits_zero: false,
            rows: |rows| rows,
            full: error(429),
            most_texts: Some((32, error(413))),
            longest_text: Some((1000, error(400))),
        }
    }
}

impl Server {
    /// Why it does not take these texts, if it doesn't.
    pub(super) fn refuses(&self, texts: &[&str]) -> Option<Answer> {
        let longest = texts.iter().map(|text| text.chars().count()).max();
        let too_many = exceeded(self.most_texts.as_ref(), texts.len());
        let too_long = exceeded(self.longest_text.as_ref(), longest.unwrap_or_default());
        let counted = too_many.map(|answer| answer.saying("COUNT", &texts.len().to_string()));
        counted.or(too_long.cloned())
    }

    /// Its answer with these embeddings: in no particular order if an index says which is which.
    pub(super) fn answer(&self, model: &str, embeddings: Vec<Vec<u8>>) -> Value {
        let rows = embeddings.into_iter().enumerate().map(|(index, row)| {
            let floats = row.iter().map(|number| f32::from(*number));
            let bytes: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
            let coded = self.in_base64.then(|| json!(STANDARD.encode(bytes)));
            let embedding = coded.unwrap_or_else(|| json!(row));
            match index {
                0 if self.omits_zero => json!({"object": "embedding", "embedding": embedding}),
                _ => json!({"object": "embedding", "index": index, "embedding": embedding}),
            }
        });
        let mut rows: Vec<Value> = rows.collect();
        if !self.omits_zero {
            rows.reverse();
        }
        json!({
            "object": "list",
            "data": (self.rows)(rows),
            "model": self.answers_as.unwrap_or(model),
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
        })
    }
}

fn exceeded(limit: Option<&(usize, Answer)>, size: usize) -> Option<&Answer> {
    let exceeded = limit.filter(|(most, _)| size > *most);
    exceeded.map(|(_, answer)| answer)
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
        let path = path.strip_prefix(server.below).unwrap_or("/");
        if !server.open.contains(&path) && !self.admits(head) {
            let error = json!({"error": {"message": "Unauthorized"}});
            return fixed(&Answer::json(401, &error));
        }
        match (&head.method, path) {
            (&Method::POST, "/v1/embeddings") => self.compute(line, head, body).await,
            (&Method::GET, path) if path == server.health.0 => self.health_of(server).await,
            (&Method::GET, "/info") if self.knobs().tells_most => {
                let most = server.most_texts.as_ref().map(|(most, _)| most);
                json(
                    &json!({"model_id": "/data", "max_input_length": 512, "max_client_batch_size": most}),
                )
            }
            (&Method::GET, "/v1/models") if server.lists => {
                self.record.asked_for_models();
                self.listed()
            }
            (&Method::GET, path @ "/v1/models") => {
                self.record.asked_in_vain(path);
                fixed(&server.unlisted)
            }
            (_, path) => {
                self.record.asked_in_vain(path);
                fixed(&Answer::error(404, "Not Found"))
            }
        }
    }

    async fn health_of(&self, server: &Server) -> Response<Body> {
        self.record.check();
        match self.knobs().health {
            HealthAnswer::Ok if server.lists && server.health.0 == "/v1/models" => {
                self.record.asked_for_models();
                self.listed()
            }
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
