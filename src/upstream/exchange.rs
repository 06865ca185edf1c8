//! One request to one host and the head of its answer, on pingora's connector.
//!
//! Kept-alive connections are reused. A host may close one at the very moment we use it; that is no
//! fault of the host, so a request that fails on a reused connection within moments, before any
//! answer, is repeated once, on a fresh one. What happens later is a fault: by then the host has the
//! request. A host that such a request kills at once can't be told from one that has hung up; so who
//! has broken a host already gets a fresh connection, and no second try on it.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use gpu_bridge_framing as framing;
use http::{StatusCode, header};
use pingora::connectors::TransportConnector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::{HttpSession, http_req_header_to_wire};
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use pingora::{Error, ErrorType, OrErr as _};
use rustix::io::Errno;
use tokio::time::Instant;

use super::duplex::{Duplex, Heard};
use super::meaning;
use super::trouble::Trouble;

/// How long an idle connection to a host is kept. Below uvicorn's 5 s, so that we rather than the
/// Python service end it.
const IDLE: Duration = Duration::from_secs(4);
/// Requests with a body up to this size go out in one piece.
const ONE_PIECE: usize = 16 << 10;
/// Interim answers (1xx) that may come before the final one.
const MAX_INTERIM: usize = 64;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection: nothing was sent.
    #[error("{}", Trouble::connecting(.0))]
    Connect(Box<Error>),
    /// The request, or a part of it, was sent.
    #[error("{}", Trouble::exchanging(.0))]
    Broken(Box<Error>),
}

impl Failure {
    /// What this machine is out of, if that is why; it says nothing of the host.
    ///
    /// What only ever concerns one destination (no route to it, a firewall here that forbids it) is
    /// not counted: a sibling may be within reach, and this host is not.
    pub(super) fn shortage(&self) -> Option<&'static str> {
        let (Self::Connect(error) | Self::Broken(error)) = self;
        match Errno::from_io_error(io_error(error)?)? {
            Errno::MFILE | Errno::NFILE => Some("file descriptors"),
            Errno::NOMEM | Errno::NOBUFS => Some("memory"),
            Errno::ADDRNOTAVAIL => Some("ports"),
            _ => None,
        }
    }

    /// Was there no sign of the host at all, as of a machine that is off?
    pub(super) fn is_silence(&self) -> bool {
        let Self::Connect(error) = self else {
            return false;
        };
        matches!(
            error.etype(),
            ErrorType::ConnectTimedout | ErrorType::ConnectNoRoute
        )
    }
}

/// The system's error at the root of `error`, however pingora has wrapped it.
fn io_error(error: &Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error.root_cause());
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// A connection on which the head of an answer has been read.
pub(super) struct Exchange<'a> {
    connector: &'a TransportConnector,
    peer: HttpPeer,
    session: HttpSession,
    head: Box<ResponseHeader>,
}

impl<'a> Exchange<'a> {
    /// Sends `request` with `body` and reads the head of the final answer. `fresh`: only on a
    /// connection of its own.
    pub(super) async fn start(
        connector: &'a TransportConnector,
        peer: HttpPeer,
        request: &RequestHeader,
        body: &[Bytes],
        fresh: bool,
    ) -> Result<Self, Failure> {
        let found = if fresh {
            connector.new_stream(&peer).await.map(|new| (new, false))
        } else {
            connector.get_stream(&peer).await
        };
        let (stream, reused) = found.map_err(Failure::Connect)?;
        let started = Instant::now();
        let mut heard = converse(stream, request, body).await;
        if reused && heard.is_stale(started.elapsed()) {
            // If the host can't be reached now, it did get the request before it went away.
            if let Ok(stream) = connector.new_stream(&peer).await {
                heard = converse(stream, request, body).await;
            }
        }
        Ok(Self {
            connector,
            peer,
            head: heard.head.map_err(Failure::Broken)?,
            session: heard.session,
        })
    }

    /// The head of the answer.
    pub(super) fn head(&self) -> &ResponseHeader {
        &self.head
    }

    /// Does only the end of the connection tell where the body ends?
    pub(super) fn is_unframed(&self) -> bool {
        let has_length = self.head.headers.contains_key(header::CONTENT_LENGTH);
        !(has_no_body(&self.head) || is_chunked(&self.head) || has_length)
    }

    /// The next chunk of the body; `None` after the last.
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, Box<Error>> {
        self.session.read_body_bytes().await
    }

    /// Keeps the connection for another request. Call it after the last chunk; the connection is
    /// closed if it is not fit to be kept.
    pub(super) async fn release(mut self) {
        if framing::check_answer(&self.session.get_headers_raw_bytes()).is_err() {
            return;
        }
        self.session.respect_keepalive();
        let Some(stream) = self.session.reuse().await else {
            return;
        };
        let duplex = stream.into_any().downcast::<Duplex>().ok();
        if let Some(stream) = duplex.and_then(|duplex| duplex.into_reusable()) {
            let key = self.peer.reuse_hash();
            self.connector.release_stream(stream, key, Some(IDLE));
        }
    }

    /// The bare connection, to read the rest of a long answer from.
    pub(super) fn into_session(self) -> HttpSession {
        self.session
    }
}

/// What came of a request on one connection.
struct Conversation {
    session: HttpSession,
    head: Result<Box<ResponseHeader>, Box<Error>>,
}

impl Conversation {
    /// See [`meaning::is_stale`].
    fn is_stale(&self, after: Duration) -> bool {
        let told = duplex(&self.session).map_or(Heard::Something, Duplex::heard);
        let status = match &self.head {
            Ok(head) => Some(head.status),
            Err(error) if is_closed(error) => None,
            Err(_) => return false,
        };
        meaning::is_stale(status, told, after)
    }
}

async fn converse(stream: Stream, request: &RequestHeader, body: &[Bytes]) -> Conversation {
    let Some(pieces) = pieces(request, body) else {
        let head = Error::e_explain(ErrorType::InvalidHTTPHeader, "the request line is odd");
        let session = HttpSession::new(stream);
        return Conversation { session, head };
    };
    let mut session = HttpSession::new(Box::new(Duplex::new(stream, pieces)));
    let head = read_head(&mut session).await;
    Conversation { session, head }
}

fn duplex(session: &HttpSession) -> Option<&Duplex> {
    (**session.stream()).as_any().downcast_ref()
}

fn has_no_body(head: &ResponseHeader) -> bool {
    matches!(head.status.as_u16(), 204 | 304)
}

/// Does the body come in chunks, as pingora sees it?
fn is_chunked(head: &ResponseHeader) -> bool {
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    let last = codings
        .next_back()
        .and_then(|it| it.as_bytes().rsplit(|byte| *byte == b',').next());
    let is_chunked = last.is_some_and(|it| it.trim_ascii().eq_ignore_ascii_case(b"chunked"));
    is_chunked && !has_no_body(head)
}

/// The bytes of the request. A short one goes out in one piece: to send its head on its own would
/// double what sending costs here and what waking up costs the host.
fn pieces(request: &RequestHeader, body: &[Bytes]) -> Option<VecDeque<Bytes>> {
    let mut head = http_req_header_to_wire(request)?;
    let size: usize = body.iter().map(Bytes::len).sum();
    if size > ONE_PIECE {
        let head = std::iter::once(head.freeze());
        return Some(head.chain(body.iter().cloned()).collect());
    }
    for chunk in body {
        head.extend_from_slice(chunk);
    }
    Some(VecDeque::from([head.freeze()]))
}

async fn read_head(session: &mut HttpSession) -> Result<Box<ResponseHeader>, Box<Error>> {
    let mut heads = 0;
    for _ in 0..=MAX_INTERIM {
        heads += session.read_response().await.map_err(|error| {
            let is_stalled =
                io_error(&error).is_some_and(|it| it.kind() == io::ErrorKind::TimedOut);
            if is_stalled {
                Error::because(ErrorType::WriteTimedout, "while sending the request", error)
            } else {
                error
            }
        })?;
        match session.resp_header() {
            // Nobody asked for that, and what follows is not HTTP.
            Some(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return Error::e_explain(ErrorType::InvalidHTTPHeader, "it switches protocols");
            }
            Some(head) if !head.status.is_informational() => {
                let begun = duplex(session).map(|it| it.begin_body(heads, is_chunked(head)));
                begun
                    .transpose()
                    .or_err(ErrorType::InvalidHTTPHeader, "the body of an answer")?;
                return Ok(Box::new(head.clone()));
            }
            _ => {}
        }
    }
    Error::e_explain(ErrorType::InvalidHTTPHeader, "no end of interim answers")
}

/// Did the other side close or reset the connection (as opposed to a timeout or nonsense)?
fn is_closed(error: &Error) -> bool {
    matches!(
        error.etype(),
        ErrorType::ConnectionClosed | ErrorType::ReadError
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As pingora reports what connecting came to.
    fn connecting(errno: Errno) -> Failure {
        let cause = Error::because(
            ErrorType::SocketError,
            "while creating",
            io::Error::from(errno),
        );
        Failure::Connect(Error::because(ErrorType::InternalError, "can't", cause))
    }

    fn sending(errno: Errno) -> Failure {
        let cause = io::Error::from(errno);
        Failure::Broken(Error::because(
            ErrorType::WriteError,
            "while sending",
            cause,
        ))
    }

    #[test]
    fn shortages_here_are_told_from_faults_there() {
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::NOBUFS,
            Errno::ADDRNOTAVAIL,
        ] {
            assert!(connecting(errno).shortage().is_some(), "{errno}");
            assert!(sending(errno).shortage().is_some(), "{errno}");
        }
        for errno in [
            Errno::CONNREFUSED,
            Errno::CONNRESET,
            Errno::TIMEDOUT,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::PERM,
            Errno::PIPE,
        ] {
            assert_eq!(connecting(errno).shortage(), None, "{errno}");
            assert_eq!(sending(errno).shortage(), None, "{errno}");
        }
        let closed = Error::explain(ErrorType::ConnectionClosed, "hung up");
        assert_eq!(Failure::Broken(closed).shortage(), None);
    }
}
