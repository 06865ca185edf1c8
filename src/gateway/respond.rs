//! Answers, from the value that says them to bytes on the connection.

use std::mem;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use gpu_bridge_upkeep::printable;
use gpu_bridge_wire::ErrorBody;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pingora::http::ResponseHeader;
use serde::Serialize;

use super::session::{Length, Session, Unsent};
use crate::dispatch::{Delivery, LongRest};
use crate::message::{Deadline, TooLate};
use crate::telemetry::Reason;

/// Bytes of where the time went, mostly.
const USUAL_TIMING: usize = 64;

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

    /// Writes the answer; returns the bytes of its body.
    pub(super) async fn write(self, session: &mut Session<'_>) -> Result<usize, Unsent> {
        let length = Length::Known(self.body.len());
        let body = if is_bodiless(session, self.status) {
            Bytes::new()
        } else {
            self.body
        };
        let written = body.len();
        let head = head(self.status, self.headers);
        session.answer(head, length, &[body]).await?;
        Ok(written)
    }
}

/// Does an answer with this status to the session's request end with its head (RFC 9110, section
/// 6.4.1)? What is sent after it would be taken for the next answer, or end an HTTP/2 connection.
fn is_bodiless(session: &Session<'_>, status: StatusCode) -> bool {
    session.head().method == Method::HEAD
        || matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        )
}

/// Writes a host's answer; returns the bytes of its body. `deadline`: until when its client wants it.
/// One that is held whole is no burden on the host any more, and is written however long that takes.
pub(super) async fn deliver(
    delivery: &mut Delivery,
    session: &mut Session<'_>,
    deadline: Deadline,
) -> Result<usize, Unsent> {
    let answer = &mut delivery.answer;
    let head = head(answer.status, mem::take(&mut answer.headers));
    if is_bodiless(session, answer.status) {
        // Whatever its host sent after it.
        let length = match answer.status {
            StatusCode::RESET_CONTENT => Length::Known(0),
            _ => Length::None,
        };
        session.answer(head, length, &[]).await?;
        return Ok(0);
    }
    let is_held = delivery.rest.is_none();
    let whole = pin!(deliver_whole(delivery, head, session));
    if is_held {
        return whole.await;
    }
    let in_time = deadline.bound(whole).await;
    in_time.map_err(|TooLate| Unsent::TooLate)?
}

async fn deliver_whole(
    delivery: &mut Delivery,
    head: ResponseHeader,
    session: &mut Session<'_>,
) -> Result<usize, Unsent> {
    let body = delivery.answer.body.take();
    let mut written = body.len();
    let length = match &delivery.rest {
        None => Length::Known(written),
        Some(_) => Length::Unknown,
    };
    if session.keeps_answers() {
        let chunks = body.into_counted_chunks();
        session.answer(head, length, &chunks).await?;
    } else {
        session.answer(head, length, body.chunks()).await?;
    }
    if let Some(rest) = &mut delivery.rest {
        written += pass_on(rest, session).await?;
        session.finish().await?;
    }
    Ok(written)
}

/// Writes what comes from the host, as it comes; for a client that can't tell an answer that is cut off from one that
/// is over, its end only once it is known to be good.
async fn pass_on(rest: &mut LongRest, session: &mut Session<'_>) -> Result<usize, Unsent> {
    let (mut written, mut last) = (0, None);
    loop {
        let next = tokio::select! {
            biased;
            next = rest.next() => next.map_err(Unsent::Cut)?,
            () = session.gone() => return Err(Unsent::Untaken),
        };
        let is_over = next.is_none();
        let now = if session.tells_ends() {
            next
        } else {
            std::mem::replace(&mut last, next)
        };
        if let Some(data) = now {
            written += data.len();
            session.pass_on(data).await?;
        }
        if is_over {
            return Ok(written);
        }
    }
}

/// Where the time went so far (W3C Server-Timing), as [`Journal::times`](crate::telemetry::Journal::times) tells.
pub(super) fn timing([queued, upstream, total]: [Duration; 3]) -> String {
    let mut text = String::with_capacity(USUAL_TIMING);
    for (name, time) in [
        ("queue;dur=", queued),
        (", upstream;dur=", upstream),
        (", total;dur=", total),
    ] {
        text.push_str(name);
        push_millis(&mut text, time);
    }
    text
}

/// In milliseconds, with one digit after the point.
fn push_millis(text: &mut String, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let tenths = micros.saturating_add(50) / 100;
    let mut digits = itoa::Buffer::new();
    text.push_str(digits.format(tenths / 10));
    text.push('.');
    text.push_str(digits.format(tenths % 10));
}

/// The head of an answer.
pub(super) fn head(status: StatusCode, headers: HeaderMap) -> ResponseHeader {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.headers = headers;
    parts.into()
}

/// Our ids, names and timings are plain ASCII; anything else would be left out.
pub(super) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
