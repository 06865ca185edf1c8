//! A well-behaved client of the proxy, and the answers that it gets.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::sim_host::embedding_of;

/// Longer than any request may take here; only a failing test waits that long.
const PATIENCE: Duration = Duration::from_mins(1);

/// Keeps connections open between requests, as clients do; clones share them.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Without the proxy of the environment: everything here is on loopback.
pub(super) fn http() -> reqwest::Client {
    builder().build().unwrap()
}

/// The same, with more to be said of it.
pub(super) fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE)
}

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        Self {
            http: http(),
            url: url.to_owned(),
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        Reply::to(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        Reply::to(self.request(Method::POST, path).json(body)).await
    }

    /// Has one text embedded.
    pub(crate) async fn embed(&self, text: &str) -> Reply {
        self.post("/embed", &embed_body(text)).await
    }

    /// Has one text embedded with this model.
    pub(crate) async fn embed_with(&self, model: &str, text: &str) -> Reply {
        let body = json!({"texts": [text], "model": model});
        self.post("/embed", &body).await
    }

    /// The same without waiting for the answer.
    pub(crate) fn start_embed_with(&self, model: &str, text: &str) -> JoinHandle<Reply> {
        let (client, model, text) = (self.clone(), model.to_owned(), text.to_owned());
        tokio::spawn(async move { client.embed_with(&model, &text).await })
    }

    /// Has one text embedded without waiting for the answer.
    pub(crate) fn start_embed(&self, text: &str) -> JoinHandle<Reply> {
        let (client, text) = (self.clone(), text.to_owned());
        tokio::spawn(async move { client.embed(&text).await })
    }

    /// Has `count` texts embedded, `at_once` at a time, and checks that each answer is right.
    pub(crate) async fn flood(&self, count: usize, at_once: usize) {
        let one = |number| async move {
            let text = format!("flood {number}");
            self.embed(&text).await.assert_embedding_of(&text);
        };
        let all = stream::iter(0..count).map(one).buffer_unordered(at_once);
        all.collect::<Vec<()>>().await;
    }
}

/// The body that asks for the embedding of `text`.
pub(crate) fn embed_body(text: &str) -> Value {
    json!({"texts": [text], "model": "sim"})
}

impl Reply {
    /// The answer to `request`; a connection that breaks fails the test.
    pub(crate) async fn to(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.expect("a whole answer"),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The host that served it.
    pub(crate) fn served_by(&self) -> &str {
        self.header("x-served-by").expect("X-Served-By")
    }

    /// Fails the test unless it is what a simulated host answers for `text`.
    pub(crate) fn assert_embedding_of(&self, text: &str) {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        let expected = json!([embedding_of(text)]);
        assert_eq!(self.json()["embeddings"], expected, "another text's answer");
    }

    /// Fails the test unless it is a refusal of this status, in the one shape that errors have;
    /// returns the detail.
    pub(crate) fn assert_error(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        let content_type = self.header(header::CONTENT_TYPE.as_str());
        assert_eq!(content_type, Some("application/json"), "{self:?}");
        let body = self.json();
        let detail = body["detail"].as_str().unwrap_or_default().to_owned();
        assert!(!detail.is_empty(), "no detail in {body}");
        assert_eq!(
            body.as_object().map(serde_json::Map::len),
            Some(1),
            "{body}"
        );
        detail
    }

    /// Fails the test unless it is a refusal of this status in the shape that errors have in OpenAI's API;
    /// returns the error.
    pub(crate) fn assert_openai_error(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        let content_type = self.header(header::CONTENT_TYPE.as_str());
        assert_eq!(content_type, Some("application/json"), "{self:?}");
        let body = self.json();
        let keys: Vec<_> = body["error"]
            .as_object()
            .expect("an error")
            .keys()
            .collect();
        assert_eq!(keys, ["code", "message", "param", "type"], "{body}");
        assert_ne!(body["error"]["message"], "", "{body}");
        body["error"].clone()
    }

    /// Fails the test unless it is a 503 that says in whole seconds when to come again.
    pub(crate) fn assert_come_again(&self) {
        self.assert_error(503);
        let seconds = self.header("retry-after").expect("Retry-After");
        let seconds: u64 = seconds.parse().expect("whole seconds");
        assert!((1..=30).contains(&seconds), "Retry-After: {seconds}");
    }
}
