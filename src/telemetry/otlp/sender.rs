//! Sends batches of spans to the collector, on our own runtime: the SDK's thread has none.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// For one batch of spans.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of what the collector answers.
const MAX_ANSWER: usize = 1 << 20;

/// See the module.
pub(super) struct Sender {
    runtime: Handle,
    /// The collector did not take the last batch.
    is_failing: AtomicBool,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    /// On the runtime that this is called on.
    pub(super) fn here() -> Self {
        Self {
            runtime: Handle::current(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Logs changes only: a collector may be away for long.
    fn note(&self, answer: &Result<Response<Bytes>, HttpError>) {
        let problem = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(failure(error).to_owned()),
        };
        let was_failing = self.is_failing.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(problem) if !was_failing => {
                tracing::warn!(problem, "the collector does not take our traces");
            }
            None if was_failing => tracing::info!("the collector takes our traces again"),
            _ => {}
        }
    }
}

/// By kind: an error may quote what came.
fn failure(error: &HttpError) -> &'static str {
    if error.is::<tokio::time::error::Elapsed>() {
        "it does not answer in time"
    } else if error.is::<std::io::Error>() {
        "it can't be connected to"
    } else {
        "what it answers is not HTTP, or breaks off"
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sending = async { tokio::time::timeout(PATIENCE, exchange(request)).await };
        let sent = match self.runtime.spawn(sending).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(late)) => Err(late.into()),
            Err(cancelled) => Err(cancelled.into()),
        };
        self.note(&sent);
        sent
    }
}

async fn exchange(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let authority = request.uri().authority().ok_or("no host in the address")?;
    let address = (
        authority.host().to_owned(),
        authority.port_u16().unwrap_or(80),
    );
    let host = http::HeaderValue::from_str(authority.as_str())?;
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map_or_else(http::Uri::default, http::Uri::from);
    parts.headers.insert(http::header::HOST, host);
    let request = http::Request::from_parts(parts, Full::new(body));
    let answer = async move {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer
}
