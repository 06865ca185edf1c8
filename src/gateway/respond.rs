//! Answers, from the value that says them to bytes on the connection.

use std::time::Duration;

use bytes::Bytes;
use gpu_bridge_upkeep::printable;
use gpu_bridge_wire::ErrorBody;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::ahead;
use crate::dispatch::{Delivery, LongRest};
use crate::message::Cut;
use crate::telemetry::{Journal, Reason};

/// A host failed in the middle of an answer that was already on its way.
pub(super) const HOST_FAILED: ErrorType = ErrorType::Custom("the host failed in its answer");
/// The client's own bound passed in the middle of an answer that was already on its way.
pub(super) const TOO_LATE: ErrorType = ErrorType::Custom("X-Request-Timeout passed in the answer");

/// The connection has to make room for another one, with an answer on its way.
pub(super) const DISPLACED: ErrorType = ErrorType::Custom("the connection had to make room");

/// An answer that the proxy makes itself.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What it refuses a request for, if it does.
    pub(super) reason: Option<Reason>,
    /// The same in words, for the log.
    pub(super) why: Option<String>,
    /// The parameter of the request that is wrong, if only one is.
    pub(super) param: Option<&'static str>,
}

/// Serialising our own plain structs to memory has no way to fail; an empty body is the honest remainder
/// if it ever did.
pub(super) fn to_json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).unwrap_or_default().into()
}

impl Reply {
    pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Self {
        Self::of_json(status, to_json(body))
    }

    /// `body`: JSON as it is.
    pub(super) fn of_json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        Self {
            status,
            headers,
            body: body.into(),
            reason: None,
            why: None,
            param: None,
        }
    }

    /// `{"detail": …}`, the shape of every error.
    pub(super) fn error(status: StatusCode, detail: impl Into<String>) -> Self {
        let detail = printable(&detail.into()).into_owned();
        let why = Some(detail.clone());
        Self {
            why,
            ..Self::json(status, &ErrorBody { detail })
        }
    }

    /// The log gets to know more than the client.
    pub(super) fn explained(mut self, why: &str) -> Self {
        self.why = Some(why.to_owned());
        self
    }

    /// 503, worth repeating after so many seconds.
    pub(super) fn retry_later(detail: impl Into<String>, seconds: u64) -> Self {
        Self::error(StatusCode::SERVICE_UNAVAILABLE, detail)
            .with(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    pub(super) fn with(mut self, name: impl header::IntoHeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// A refusal, for this reason.
    pub(super) fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// The answer as the last one on a connection of HTTP/1.
    pub(super) fn into_http1(self) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {}\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"];
            bytes.extend(line.concat());
        }
        let end = format!(
            "connection: close\r\ncontent-length: {}\r\n\r\n",
            self.body.len()
        );
        bytes.extend(end.as_bytes());
        bytes.extend(&self.body);
        bytes
    }

    /// Writes the answer; returns the bytes of its body.
    pub(super) async fn write(self, session: &mut ServerSession) -> pingora::Result<usize> {
        let length = self.body.len();
        let body = if is_bodiless(session, self.status) {
            Bytes::new()
        } else {
            self.body
        };
        let mut head = head(self.status, self.headers);
        head.insert_header(header::CONTENT_LENGTH, length)?;
        session.write_response_header(Box::new(head)).await?;
        let written = body.len();
        session.write_response_body(body, true).await?;
        Ok(written)
    }
}

/// Does an answer with this status to the session's request end with its head (RFC 9110, section
/// 6.4.1)? What is sent after it would be taken for the next answer, or end an HTTP/2 connection.
fn is_bodiless(session: &ServerSession, status: StatusCode) -> bool {
    session.req_header().method == Method::HEAD
        || matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        )
}

/// Writes a host's answer; returns the bytes of its body. `deadline`: until when its client wants it.
/// One that is held whole is no burden on the host any more, and is written however long that takes.
pub(super) async fn deliver(
    delivery: &mut Delivery,
    headers: HeaderMap,
    session: &mut ServerSession,
    deadline: Option<Instant>,
) -> pingora::Result<usize> {
    let deadline = deadline.filter(|_| delivery.rest.is_some());
    if is_bodiless(session, delivery.answer.status) {
        return deliver_head(delivery, headers, session).await;
    }
    let whole = deliver_whole(delivery, headers, session);
    match deadline {
        None => whole.await,
        Some(at) => timeout_at(at, whole)
            .await
            .map_err(|_| Error::explain(TOO_LATE, "the client gave the request no more time"))?,
    }
}

async fn deliver_whole(
    delivery: &mut Delivery,
    headers: HeaderMap,
    session: &mut ServerSession,
) -> pingora::Result<usize> {
    let mut head = head_of(delivery, headers);
    let body = &delivery.answer.body;
    if delivery.rest.is_none() {
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
    } else if session.req_header().version == Version::HTTP_10 {
        // Its client knows no chunks: the end of the connection is the end of the answer.
        session.set_keepalive(None);
    } else {
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    session.write_response_header(Box::new(head)).await?;
    for chunk in body.chunks() {
        session.write_response_body(chunk.clone(), false).await?;
    }
    let mut written = body.len();
    if let Some(rest) = &mut delivery.rest {
        written += pass_on(rest, session).await?;
    }
    session.write_response_body(Bytes::new(), true).await?;
    Ok(written)
}

/// Writes an answer that ends with its head, whatever its host sent after it.
async fn deliver_head(
    delivery: &mut Delivery,
    headers: HeaderMap,
    session: &mut ServerSession,
) -> pingora::Result<usize> {
    let mut head = head_of(delivery, headers);
    if delivery.answer.status == StatusCode::RESET_CONTENT {
        head.insert_header(header::CONTENT_LENGTH, 0)?;
    }
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(Bytes::new(), true).await?;
    Ok(0)
}

/// Writes what comes from the host, as it comes.
async fn pass_on(rest: &mut LongRest, session: &mut ServerSession) -> pingora::Result<usize> {
    let explain = |cut: Cut| Error::explain(kind(&cut), cut.to_string());
    let mut written = 0;
    loop {
        let next = tokio::select! {
            biased;
            next = rest.next() => next.map_err(explain)?,
            () = ahead::gone(session) => return Err(Error::new(ErrorType::ConnectionClosed)),
        };
        let Some(chunk) = next else {
            return Ok(written);
        };
        written += chunk.len();
        session.write_response_body(chunk, false).await?;
    }
}

/// The host's failure is of another type than the client's.
fn kind(cut: &Cut) -> ErrorType {
    match cut {
        Cut::Failed(_) => HOST_FAILED,
        Cut::TooSlow => ErrorType::WriteTimedout,
    }
}

/// Where the time went so far (W3C Server-Timing), in milliseconds.
pub(super) fn timing(journal: &Journal) -> String {
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    format!(
        "queue;dur={:.1}, upstream;dur={:.1}, total;dur={:.1}",
        millis(journal.queued()),
        millis(journal.upstream()),
        millis(journal.elapsed())
    )
}

/// A host's head, with our own `headers` added.
fn head_of(delivery: &mut Delivery, headers: HeaderMap) -> ResponseHeader {
    let mut all = std::mem::take(&mut delivery.answer.headers);
    all.extend(headers);
    head(delivery.answer.status, all)
}

fn head(status: StatusCode, headers: HeaderMap) -> ResponseHeader {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = headers;
    parts.into()
}

/// Our ids, names and timings are plain ASCII; anything else would be left out.
pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
