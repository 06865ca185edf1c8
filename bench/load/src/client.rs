//! A client that keeps its connections and checks what it gets.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use tokio::time::timeout;

use crate::link::{Connection, Link};
use crate::{RECEIVED_HEADER, WORK_HEADER};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With a good answer, whole and right.
    Ok,
    /// With another status than 200.
    Refused(StatusCode),
    /// With status 200, but a part of the answer or of what the host got is missing or wrong.
    Wrong,
    /// Without an answer: the connection broke.
    Broken,
    /// The client had waited long enough.
    TimedOut,
}

/// See the module.
pub(crate) struct Client {
    link: Link,
    path: String,
    patience: Duration,
    /// Hosts compute, and don't tell of what size each request was.
    computed: bool,
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    /// Sends to `path` over `link`, and waits at most `patience` for answers. `computed`: they depend on the texts.
    pub(crate) fn new(link: Link, path: String, patience: Duration, computed: bool) -> Self {
        Self {
            link,
            path,
            patience,
            computed,
            idle: Mutex::default(),
        }
    }

    /// Sends one request that occupies a slot for `work`, and whose good answer is this.
    pub(crate) async fn ask(&self, body: Bytes, work: Duration, expected: Bytes) -> Outcome {
        match timeout(self.patience, self.exchange(body, work, expected)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Broken,
            Err(_) => Outcome::TimedOut,
        }
    }

    async fn exchange(
        &self,
        body: Bytes,
        work: Duration,
        expected: Bytes,
    ) -> anyhow::Result<Outcome> {
        let mut connection = self.connection().await?;
        let sent = body.len().to_string();
        let mut request = self.link.post(&self.path);
        request = request.header(CONTENT_TYPE, "application/json");
        if !self.computed {
            request = request.header(WORK_HEADER, work.as_micros().to_string());
        }
        let request = request.body(Full::new(body))?;
        let answer = connection.send(request).await?;
        let (head, body) = answer.into_parts();
        let Ok(body) = body.collect().await else {
            return Ok(Outcome::Wrong);
        };
        if self.link.keeps() {
            self.keep(connection);
        }
        if head.status != StatusCode::OK {
            return Ok(Outcome::Refused(head.status));
        }
        let received = head.headers.get(RECEIVED_HEADER);
        let is_whole = received.is_some_and(|bytes| bytes == sent.as_str());
        let right = (self.computed || is_whole) && body.to_bytes() == expected;
        Ok(if right { Outcome::Ok } else { Outcome::Wrong })
    }

    /// One that is open already, or a new one.
    async fn connection(&self) -> anyhow::Result<Connection> {
        while let Some(mut connection) = self.take() {
            if connection.is_ready().await {
                return Ok(connection);
            }
        }
        self.link.open().await
    }

    fn take(&self) -> Option<Connection> {
        self.idle.lock().ok()?.pop()
    }

    fn keep(&self, connection: Connection) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(connection);
        }
    }
}
