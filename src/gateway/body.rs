//! Reading a client's body: whole, within bounds of size, memory and time.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use gpu_bridge_framing::BadChunks;
use http::request::Parts;
use http::{HeaderMap, Version, header};
use pingora::ErrorType;

use super::peek;
use super::session::Session;
use crate::budget::Reservation;
use crate::headers;
use crate::message::{Payload, PayloadBuilder};

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// Larger than allowed.
    #[error(
        "the request body is larger than {limit} bytes; send fewer or shorter texts at once, or \
         have the operator raise limits.max_body"
    )]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The bodies of all requests together are larger than allowed.
    #[error(
        "the proxy holds as many bytes of requests as it may (limits.max_buffered); retry later, \
         or with smaller requests"
    )]
    NoMemory,
    /// It took too long.
    #[error(
        "the request body was not received within {} s; send it faster or in smaller requests, or \
         have the operator raise timeouts.client_read", .0.as_secs_f64()
    )]
    TooSlow(Duration),
    /// Not framed as HTTP says. The text is what the Python service answers.
    #[error("There was an error parsing the body")]
    Malformed,
    /// The client went away.
    #[error("the client went away")]
    Gone,
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        let cause = error.get_ref();
        if cause.is_some_and(<dyn std::error::Error + Send + Sync>::is::<BadChunks>) {
            Self::Malformed
        } else {
            Self::Gone
        }
    }
}

impl From<Box<pingora::Error>> for BodyError {
    fn from(error: Box<pingora::Error>) -> Self {
        match error.etype() {
            ErrorType::ReadError | ErrorType::ReadTimedout | ErrorType::ConnectionClosed => {
                Self::Gone
            }
            _ => Self::Malformed,
        }
    }
}

/// Reads the body to its end, and `peek` along.
pub(super) async fn read(
    session: &mut Session<'_>,
    limit: usize,
    timeout: Duration,
    reserved: Reservation,
    peek: &mut peek::Reader,
) -> Result<Payload, BodyError> {
    if announced(&session.head().headers).is_some_and(|length| length > limit as u64) {
        return Err(BodyError::TooLarge { limit });
    }
    if expects_continue(session.head()) && !session.is_body_done() {
        session.go_ahead().await?;
    }
    let all = pin!(read_all(session, limit, reserved, peek));
    let in_time = tokio::time::timeout(timeout, all).await;
    in_time.unwrap_or(Err(BodyError::TooSlow(timeout)))
}

async fn read_all(
    session: &mut Session<'_>,
    limit: usize,
    reserved: Reservation,
    peek: &mut peek::Reader,
) -> Result<Payload, BodyError> {
    let mut body = PayloadBuilder::new(reserved);
    while let Some(bytes) = session.read_body(&mut body, limit).await? {
        peek.read(body.last(bytes));
    }
    Ok(body.finish())
}

/// Appends what came of a body, of which no more than `limit` bytes may come. Returns how many bytes.
pub(super) fn append(
    body: &mut PayloadBuilder,
    data: &Bytes,
    limit: usize,
) -> Result<usize, BodyError> {
    if body.len() + data.len() > limit {
        return Err(BodyError::TooLarge { limit });
    }
    body.push(data).map_err(|_| BodyError::NoMemory)?;
    Ok(data.len())
}

/// Does the client wait for our go-ahead before it sends the body? One of HTTP/1.0 knows no interim
/// answers, whatever it says (RFC 9110, section 10.1.1). Other expectations are passed over.
pub(super) fn expects_continue(head: &Parts) -> bool {
    head.version > Version::HTTP_10
        && headers::lists(&head.headers, &header::EXPECT, b"100-continue")
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_go_ahead_is_expected_by_those_who_say_so_and_know_it() {
        let table: [(Version, &[&str], bool); 9] = [
            (Version::HTTP_11, &["100-continue"], true),
            (Version::HTTP_11, &["100-Continue"], true),
            (Version::HTTP_11, &["x=1 , 100-CONTINUE"], true),
            (Version::HTTP_11, &["x", "100-continue"], true),
            (Version::HTTP_2, &["100-continue"], true),
            (Version::HTTP_11, &[], false),
            (Version::HTTP_11, &["200-ok"], false),
            (Version::HTTP_11, &["100-continue-not"], false),
            (Version::HTTP_10, &["100-continue"], false),
        ];
        for (version, values, expected) in table {
            let (mut head, ()) = http::Request::new(()).into_parts();
            head.version = version;
            for value in values {
                head.headers.append("expect", value.parse().unwrap());
            }
            assert_eq!(expects_continue(&head), expected, "{version:?} {values:?}");
        }
    }
}
