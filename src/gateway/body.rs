//! Reading a client's body: whole, within bounds of size, memory and time.

use std::time::Duration;

use http::{HeaderMap, Version, header};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};

use super::peek;
use crate::budget::Reservation;
use crate::message::{Payload, PayloadBuilder};
use crate::wrapped::is_misframed;

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
    #[error("the client went away: {0}")]
    Gone(Box<Error>),
}

/// Reads the body to its end, and `peek` along.
pub(super) async fn read(
    session: &mut ServerSession,
    limit: usize,
    timeout: Duration,
    reserved: Reservation,
    peek: &mut peek::Reader,
) -> Result<Payload, BodyError> {
    let head = session.req_header();
    if announced(&head.headers).is_some_and(|length| length > limit as u64) {
        return Err(BodyError::TooLarge { limit });
    }
    if expects_continue(head) && !session.is_body_done() {
        session
            .write_continue_response()
            .await
            .map_err(BodyError::Gone)?;
    }
    match tokio::time::timeout(timeout, read_all(session, limit, reserved, peek)).await {
        // One read may take as long as all, and end a moment before.
        Ok(Err(BodyError::Gone(error))) if *error.etype() == ErrorType::ReadTimedout => {
            Err(BodyError::TooSlow(timeout))
        }
        Ok(result) => result,
        Err(_) => Err(BodyError::TooSlow(timeout)),
    }
}

async fn read_all(
    session: &mut ServerSession,
    limit: usize,
    reserved: Reservation,
    peek: &mut peek::Reader,
) -> Result<Payload, BodyError> {
    let mut body = PayloadBuilder::new(reserved);
    while let Some(chunk) = session.read_request_body().await.map_err(broken)? {
        if body.len() + chunk.len() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        body.push(&chunk).map_err(|_| BodyError::NoMemory)?;
        peek.read(&chunk);
    }
    Ok(body.finish())
}

fn broken(error: Box<Error>) -> BodyError {
    match error.etype() {
        _ if is_misframed(&error) => BodyError::Malformed,
        ErrorType::ReadError | ErrorType::ReadTimedout | ErrorType::ConnectionClosed => {
            BodyError::Gone(error)
        }
        _ => BodyError::Malformed,
    }
}

/// Does the client wait for our go-ahead before it sends the body? One of HTTP/1.0 knows no interim
/// answers, whatever it says (RFC 9110, section 10.1.1). Other expectations are passed over.
pub(super) fn expects_continue(head: &RequestHeader) -> bool {
    let values = head.headers.get_all(header::EXPECT).iter();
    let mut expectations = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    head.version > Version::HTTP_10
        && expectations.any(|one| one.trim_ascii().eq_ignore_ascii_case(b"100-continue"))
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
            let mut head = RequestHeader::build("POST", b"/embed", None).unwrap();
            head.set_version(version);
            for value in values {
                head.append_header("expect", *value).unwrap();
            }
            assert_eq!(expects_continue(&head), expected, "{version:?} {values:?}");
        }
    }
}
