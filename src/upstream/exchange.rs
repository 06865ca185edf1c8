//! One request to one host and the head of its answer, on pingora's connector.
//!
//! Kept-alive connections are reused. A host may close one at the very moment we use it; that is no
//! fault of the host, so a request that fails on a reused connection before any answer is repeated
//! once, on a fresh one.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v1::client::{HttpSession as Http1Session, http_req_header_to_wire};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr};
use rustix::io::Errno;
use tokio::io::AsyncWriteExt;

use super::trouble::Trouble;

/// How long an idle connection to a host is kept. Below uvicorn's 5 s, so that we rather than the
/// Python service end it.
const IDLE: Duration = Duration::from_secs(4);
/// A host that stops reading our request for this long has perhaps answered early: look.
const STALL: Duration = Duration::from_secs(10);
/// An early answer is there by the time that sending fails, or on its way.
const EARLY_ANSWER: Duration = Duration::from_secs(1);

/// A request with a body up to this size goes out in one piece. pingora sends the head on its own,
/// which for most requests would double what sending costs here and what waking up costs the host.
const ONE_PIECE: usize = 16 << 10;

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
    connector: &'a Connector,
    peer: HttpPeer,
    /// Which connections the peer may reuse, and become one of.
    group: u64,
    session: HttpSession,
    head: Box<ResponseHeader>,
    /// The request went out whole, so that the connection is fit for another.
    sent_whole: bool,
}

impl<'a> Exchange<'a> {
    /// Sends `request` with `body` and reads the head of the final answer.
    pub(super) async fn start(
        connector: &'a Connector,
        mut peer: HttpPeer,
        request: &RequestHeader,
        body: &[Bytes],
    ) -> Result<Self, Failure> {
        let group = peer.group_key;
        let (session, reused) = connector
            .get_http_session(&peer)
            .await
            .map_err(Failure::Connect)?;
        let mut answered = converse(session, request, body).await;
        if let Err(stale) = answered.as_ref()
            && reused
            && is_closed(stale)
        {
            // Connections are pooled by this key too, so that a new one finds none to reuse.
            peer.group_key = rand::random();
            // If the host can't be reached now, it did get the request before it went away.
            if let Ok((fresh, _)) = connector.get_http_session(&peer).await {
                answered = converse(fresh, request, body).await;
            }
        }
        let answered = answered.map_err(Failure::Broken)?;
        Ok(Self {
            connector,
            peer,
            group,
            session: answered.session,
            head: answered.head,
            sent_whole: answered.sent_whole,
        })
    }

    /// The head of the answer.
    pub(super) fn head(&self) -> &ResponseHeader {
        &self.head
    }

    /// The next chunk of the body; `None` after the last.
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, Box<Error>> {
        self.session.read_response_body().await
    }

    /// Keeps the connection for another request. Call it after the last chunk; pingora closes the
    /// connection if it is not fit to be kept.
    pub(super) async fn release(mut self) {
        if self.sent_whole {
            self.peer.group_key = self.group;
            self.connector
                .release_http_session(self.session, &self.peer, Some(IDLE))
                .await;
        }
    }

    /// The bare connection, to read the rest of a long answer from.
    pub(super) fn into_session(self) -> HttpSession {
        self.session
    }
}

/// The head of an answer has come.
struct Answered {
    session: HttpSession,
    head: Box<ResponseHeader>,
    sent_whole: bool,
}

async fn converse(
    session: HttpSession,
    request: &RequestHeader,
    body: &[Bytes],
) -> Result<Answered, Box<Error>> {
    let (mut session, sent) = send(session, request, body).await;
    let Err(error) = sent else {
        let head = read_head(&mut session).await?;
        return Ok(Answered {
            session,
            head,
            sent_whole: true,
        });
    };
    // A host may answer without reading all of the request (wrong key, too busy), so that sending
    // fails while an answer waits to be read.
    match tokio::time::timeout(EARLY_ANSWER, read_head(&mut session)).await {
        Ok(Ok(head)) => Ok(Answered {
            session,
            head,
            sent_whole: false,
        }),
        Ok(Err(_)) | Err(_) => Err(error),
    }
}

/// Gives the session back to read the answer from, also if sending failed.
async fn send(
    session: HttpSession,
    request: &RequestHeader,
    body: &[Bytes],
) -> (HttpSession, Result<(), Box<Error>>) {
    let size: usize = body.iter().map(Bytes::len).sum();
    match session {
        HttpSession::H1(session) if size <= ONE_PIECE => {
            let mut stream = session.into_inner();
            let sent = send_in_one_piece(&mut stream, request, body).await;
            (HttpSession::H1(Http1Session::new(stream)), sent)
        }
        mut session => {
            session.set_write_timeout(Some(STALL));
            let sent = send_in_parts(&mut session, request, body).await;
            (session, sent)
        }
    }
}

async fn send_in_one_piece(
    stream: &mut Stream,
    request: &RequestHeader,
    body: &[Bytes],
) -> Result<(), Box<Error>> {
    let mut piece = http_req_header_to_wire(request)
        .ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "the request line is odd"))?;
    for chunk in body {
        piece.extend_from_slice(chunk);
    }
    let write = async {
        stream.write_all(&piece).await?;
        stream.flush().await
    };
    match tokio::time::timeout(STALL, write).await {
        Ok(written) => written.or_err(ErrorType::WriteError, "while sending the request"),
        Err(_) => Error::e_explain(ErrorType::WriteTimedout, "while sending the request"),
    }
}

async fn send_in_parts(
    session: &mut HttpSession,
    request: &RequestHeader,
    body: &[Bytes],
) -> Result<(), Box<Error>> {
    session
        .write_request_header(Box::new(request.clone()))
        .await?;
    for chunk in body {
        session.write_request_body(chunk.clone(), false).await?;
    }
    session.finish_request_body().await
}

async fn read_head(session: &mut HttpSession) -> Result<Box<ResponseHeader>, Box<Error>> {
    loop {
        session.read_response_header().await?;
        if let Some(head) = session
            .response_header()
            .filter(|head| !head.status.is_informational())
        {
            return Ok(Box::new(head.clone()));
        }
    }
}

/// Did the other side close or reset the connection (as opposed to a timeout or nonsense)?
fn is_closed(error: &Error) -> bool {
    matches!(
        error.etype(),
        ErrorType::ConnectionClosed | ErrorType::WriteError | ErrorType::ReadError
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
