//! One request to one host and its answer.
//!
//! Kept-alive connections are reused. A host may close one at the very moment we use it; that is no
//! fault of the host, so a request that fails on a reused connection within moments, before any
//! answer, is repeated once, on a fresh one. What happens later is a fault: by then the host has the
//! request. A host that such a request kills at once can't be told from one that has hung up; so who
//! has broken a host already gets a fresh connection, and no second try on it.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gpu_bridge_framing::{BadChunks, Chunks};
use http::{HeaderMap, StatusCode};
use pingora::protocols::Stream;
use pingora::{Error, ErrorType};
use rustix::io::Errno;
use tokio::time::Instant;

use super::Target;
use super::duplex::Duplex;
use super::hosts::Means;
use super::kept::{Kept, Key};
use super::meaning;
use super::response::{Framing, Head, Heads, NotHttp};
use super::trouble::Trouble;

/// Requests with a body up to this size go out in one piece.
const ONE_PIECE: usize = 16 << 10;
/// Interim answers (1xx) that may come before the final one.
const MAX_INTERIM: usize = 64;
/// Room for a head and a short answer.
const SHORT: usize = 4 << 10;
/// Room for what comes next of a body whose length is not known.
const SOME: usize = 64 << 10;
/// The same of one that is long.
const MUCH: usize = 256 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection: nothing was sent.
    #[error("{}", Trouble::connecting(.0))]
    Connect(Box<Error>),
    /// The request, or a part of it, was sent.
    #[error("{}", Trouble::exchanging(.0))]
    Broken(Broken),
}

/// Why an answer is not whole.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection ended.
    Closed,
    /// It broke, or nothing went on for too long.
    Io(io::Error),
    /// What comes is no HTTP.
    NotHttp,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<NotHttp> for Broken {
    fn from(_: NotHttp) -> Self {
        Self::NotHttp
    }
}

impl From<BadChunks> for Broken {
    fn from(_: BadChunks) -> Self {
        Self::NotHttp
    }
}

impl Broken {
    /// Did the other side close or reset the connection (as opposed to a timeout or nonsense)?
    fn is_closed(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io(error) => error.kind() != io::ErrorKind::TimedOut,
            Self::NotHttp => false,
        }
    }
}

impl Failure {
    /// What this machine is out of, if that is why; it says nothing of the host.
    ///
    /// What only ever concerns one destination (no route to it, a firewall here that forbids it) is
    /// not counted: a sibling may be within reach, and this host is not.
    pub(super) fn shortage(&self) -> Option<&'static str> {
        let error = match self {
            Self::Connect(error) => io_error(error)?,
            Self::Broken(Broken::Io(error)) => error,
            Self::Broken(_) => return None,
        };
        match Errno::from_io_error(error)? {
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

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    pub(super) target: Arc<Target>,
    /// The target's.
    pub(super) address: SocketAddr,
}

/// A connection on which the head of an answer has been read.
pub(super) struct Exchange {
    destination: Destination,
    duplex: Duplex,
    head: Head,
    body: Body,
}

/// What is to come of a body.
enum Body {
    Length(u64),
    Chunks(Box<Chunks>),
    Unframed,
}

impl Exchange {
    /// Sends `request`, a head, with `body` and reads the head of the final answer. `fresh`: only on a
    /// connection of its own.
    pub(super) async fn start(
        means: &Means,
        destination: Destination,
        request: BytesMut,
        body: &[Bytes],
        fresh: bool,
    ) -> Result<Self, Failure> {
        let request = pieces(request, body);
        let kept = (!fresh).then(|| means.kept.take(destination.key()));
        // Connecting is boxed, as it is large and rare: it would weigh on each request that finds one kept.
        let Some(stream) = kept.flatten() else {
            let stream = Box::pin(destination.connect(means)).await?;
            let conversation = converse(stream, request).await;
            return conversation.into_exchange(destination);
        };
        let started = Instant::now();
        let mut conversation = converse(stream, request.clone()).await;
        if conversation.is_stale(started) {
            // If the host can't be reached now, it did get the request before it went away.
            if let Ok(stream) = Box::pin(destination.connect(means)).await {
                conversation = converse(stream, request).await;
            }
        }
        conversation.into_exchange(destination)
    }

    /// The head of the answer.
    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Its headers, for good.
    pub(super) fn take_headers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.head.headers)
    }

    /// Does only the end of the connection tell where the body ends?
    pub(super) fn is_unframed(&self) -> bool {
        self.head.framing == Framing::Unframed
    }

    /// The next chunk of the body; `None` after the last.
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            let came = self.duplex.came();
            let room = match &mut self.body {
                Body::Length(0) => return Ok(None),
                Body::Length(left) if !came.is_empty() => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(came.len());
                    *left -= length as u64;
                    return Ok(Some(came.split_to(length).freeze()));
                }
                Body::Length(left) => usize::try_from(*left).unwrap_or(MUCH).min(MUCH),
                Body::Unframed if !came.is_empty() => return Ok(Some(came.split().freeze())),
                Body::Unframed => SOME,
                Body::Chunks(chunks) => match chunks.take(came)? {
                    Some(data) => return Ok(Some(data)),
                    None if chunks.is_over() => return Ok(None),
                    None => SOME,
                },
            };
            if !self.duplex.fill(room).await? {
                let is_whole = matches!(self.body, Body::Unframed);
                return if is_whole {
                    Ok(None)
                } else {
                    Err(Broken::Closed)
                };
            }
        }
    }

    /// Keeps the connection for another request. Call it after the last chunk; the connection is
    /// closed if it is not fit to be kept.
    pub(super) fn release(self, kept: &Kept) {
        if !self.head.is_last
            && let Some(stream) = self.duplex.into_reusable()
        {
            kept.put(self.destination.key(), stream);
        }
    }
}

impl Destination {
    /// A connection of its own. Those that are kept make room if this machine is short of something.
    async fn connect(&self, means: &Means) -> Result<Stream, Failure> {
        let within = means.config.get().timeouts.connect;
        let peer = self.target.peer(self.address, within);
        let open = || means.connector.new_stream(&peer);
        let first = open().await;
        match first.map_err(Failure::Connect) {
            Err(failure) if failure.shortage().is_some() && means.kept.close_all() => {
                let second = open().await;
                second.map_err(Failure::Connect)
            }
            first => first,
        }
    }

    fn key(&self) -> Key {
        self.target.kept_as(self.address)
    }
}

/// What came of a request on one connection.
struct Conversation {
    duplex: Duplex,
    head: Result<Head, Broken>,
}

impl Conversation {
    /// See [`meaning::is_stale`].
    fn is_stale(&self, started: Instant) -> bool {
        let status = match &self.head {
            Ok(head) => Some(head.status),
            Err(broken) if broken.is_closed() => None,
            Err(_) => return false,
        };
        meaning::is_stale(status, self.duplex.heard(), || started.elapsed())
    }

    fn into_exchange(self, destination: Destination) -> Result<Exchange, Failure> {
        let head = self.head.map_err(Failure::Broken)?;
        let body = match head.framing {
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunks(Box::default()),
            Framing::Unframed => Body::Unframed,
        };
        Ok(Exchange {
            destination,
            duplex: self.duplex,
            head,
            body,
        })
    }
}

async fn converse(stream: Stream, request: VecDeque<Bytes>) -> Conversation {
    let mut duplex = Duplex::new(stream, request);
    let head = read_head(&mut duplex).await;
    Conversation { duplex, head }
}

/// A short request goes out in one piece, which costs less than several.
fn pieces(mut head: BytesMut, body: &[Bytes]) -> VecDeque<Bytes> {
    let size: usize = body.iter().map(Bytes::len).sum();
    if size <= ONE_PIECE {
        for chunk in body {
            head.extend_from_slice(chunk);
        }
        return VecDeque::from([head.freeze()]);
    }
    let body = body.iter().filter(|chunk| !chunk.is_empty()).cloned();
    std::iter::once(head.freeze()).chain(body).collect()
}

async fn read_head(duplex: &mut Duplex) -> Result<Head, Broken> {
    let mut heads = Heads::default();
    for _ in 0..=MAX_INTERIM {
        let head = loop {
            if let Some(head) = heads.take(duplex.came())? {
                break head;
            }
            if !duplex.fill(SHORT).await? {
                return Err(Broken::Closed);
            }
        };
        // Nobody asked to switch protocols, and what follows is not HTTP.
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            break;
        }
        if !head.status.is_informational() {
            return Ok(head);
        }
    }
    Err(Broken::NotHttp)
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
        Failure::Broken(Broken::Io(cause))
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
        assert_eq!(Failure::Broken(Broken::Closed).shortage(), None);
    }
}
