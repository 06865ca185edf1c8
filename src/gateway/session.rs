//! A request and the way back, over either protocol. HTTP/1 is [ours](super::http1); the sessions of HTTP/2
//! are pingora's.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http::request::Parts;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use tokio::time::timeout;

use super::body::{BodyError, append};
use super::forwarding::peer_of;
use super::http1::Exchange;
use super::pace::{PIECE, Pace};
use crate::message::{Cut, PayloadBuilder};

/// How long what is left of a refused body is read, so that its sender can read why.
const DRAIN: Duration = Duration::from_secs(2);

/// See the module.
#[expect(
    clippy::large_enum_variant,
    reason = "the hot path needs no box, and moves it once"
)]
pub(super) enum Session<'c> {
    Http1(Exchange<'c>),
    Http2(Box<ServerSession>, Pace),
}

/// How long the body of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Known(usize),
    /// It ends when [all is passed on](Session::finish).
    Unknown,
    /// It ends with its head, which says nothing of a length.
    None,
}

/// Why an answer did not get through.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsent {
    /// The client went away, or did not take it in time.
    #[error("the client did not take the answer")]
    Untaken,
    /// The host did not give the rest of it.
    #[error("{0}")]
    Cut(Cut),
    /// The client's own bound passed.
    #[error("X-Request-Timeout passed in the answer")]
    TooLate,
    /// The connection has to make room for another one.
    #[error("the connection had to make room")]
    Displaced,
}

impl From<io::Error> for Unsent {
    fn from(_: io::Error) -> Self {
        Self::Untaken
    }
}

impl From<Box<pingora::Error>> for Unsent {
    fn from(_: Box<pingora::Error>) -> Self {
        Self::Untaken
    }
}

impl Session<'_> {
    pub(super) fn http2(mut session: ServerSession, pace: Pace) -> Self {
        session.set_write_timeout(Some(pace.patience));
        session.set_total_drain_timeout(Some(DRAIN));
        Self::Http2(Box::new(session), pace)
    }

    /// Is what is written kept until the client takes it?
    pub(super) fn keeps_answers(&self) -> bool {
        matches!(self, Self::Http2(..))
    }

    /// Can the client tell an answer of unknown length that is cut off from one that is over?
    pub(super) fn tells_ends(&self) -> bool {
        self.head().version != http::Version::HTTP_10
    }

    /// What is asked.
    pub(super) fn head(&self) -> &Parts {
        match self {
            Self::Http1(exchange) => &exchange.head,
            Self::Http2(session, _) => session.req_header(),
        }
    }

    /// The other end of the connection.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Http1(exchange) => exchange.connection.peer,
            Self::Http2(session, _) => peer_of(session.digest()?.socket_digest.as_deref()),
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        match self {
            Self::Http1(exchange) => exchange.connection.is_tls,
            Self::Http2(session, _) => session.digest().is_some_and(|it| it.ssl_digest.is_some()),
        }
    }

    /// Has the body been read?
    pub(super) fn is_body_done(&mut self) -> bool {
        match self {
            Self::Http1(exchange) => exchange.is_body_done(),
            Self::Http2(session, _) => session.is_body_done(),
        }
    }

    /// Can another request follow on its connection, now that this one is answered?
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Http1(exchange) if exchange.is_kept())
    }

    /// Lets the client send the body.
    pub(super) async fn go_ahead(&mut self) -> Result<(), BodyError> {
        match self {
            Self::Http1(exchange) => Ok(exchange.go_ahead().await?),
            Self::Http2(session, _) => Ok(session.write_continue_response().await?),
        }
    }

    /// Reads more of the body, of which no more than `limit` bytes may come. Returns how many bytes; `None`
    /// at its end.
    pub(super) async fn read_body(
        &mut self,
        read: &mut PayloadBuilder,
        limit: usize,
    ) -> Result<Option<usize>, BodyError> {
        match self {
            Self::Http1(exchange) => exchange.read_body(read, limit).await,
            Self::Http2(session, _) => match session.read_request_body().await? {
                Some(data) => append(read, &data, limit).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Throws away what is left of the body, for a while. Else a client that is still sending may never read
    /// why it was refused.
    pub(super) async fn drain(&mut self) {
        match self {
            // An error here: the connection ends with this answer anyway.
            Self::Http1(exchange) => drop(timeout(DRAIN, exchange.drain()).await),
            Self::Http2(session, _) => drop(session.drain_request_body().await),
        }
    }

    /// Returns once the client is gone, or has given up its request, which must have been read.
    pub(super) async fn gone(&mut self) {
        match self {
            Self::Http1(exchange) => exchange.connection.gone().await,
            // Whatever it says: it ends only with the client.
            Self::Http2(session, _) => drop(session.read_body_or_idle(true).await),
        }
    }

    /// No request follows this one on its connection, if it is one of HTTP/1.
    pub(super) fn make_last(&mut self) {
        if let Self::Http1(exchange) = self {
            exchange.make_last();
        }
    }

    /// Writes an answer; `body`: the whole of it or, if its length is unknown, its beginning.
    pub(super) async fn answer(
        &mut self,
        mut answer: ResponseHeader,
        length: Length,
        body: &[Bytes],
    ) -> Result<(), Unsent> {
        let (session, pace) = match self {
            Self::Http1(exchange) => return Ok(exchange.answer(answer, length, body).await?),
            Self::Http2(session, pace) => (session, &*pace),
        };
        if let Length::Known(bytes) = length {
            answer.insert_header(header::CONTENT_LENGTH, bytes)?;
        }
        session.write_response_header(Box::new(answer)).await?;
        let is_whole = length != Length::Unknown;
        if is_whole && body.is_empty() {
            session.write_response_body(Bytes::new(), true).await?;
        }
        for (number, data) in body.iter().enumerate() {
            let is_last = is_whole && number + 1 == body.len();
            write(session, pace, data.clone(), is_last).await?;
        }
        Ok(())
    }

    /// Writes more of an answer whose length is unknown.
    pub(super) async fn pass_on(&mut self, data: Bytes) -> Result<(), Unsent> {
        match self {
            Self::Http1(exchange) => exchange.pass_on(data).await?,
            Self::Http2(session, pace) => write(session, pace, data, false).await?,
        }
        Ok(())
    }

    /// Ends an answer whose length is unknown.
    pub(super) async fn finish(&mut self) -> Result<(), Unsent> {
        match self {
            Self::Http1(exchange) => exchange.finish().await?,
            Self::Http2(session, _) => session.write_response_body(Bytes::new(), true).await?,
        }
        Ok(())
    }
}

/// Writes `data` as the client takes it.
async fn write(
    session: &mut ServerSession,
    pace: &Pace,
    mut data: Bytes,
    is_last: bool,
) -> Result<(), Unsent> {
    while data.len() > PIECE {
        let piece = data.split_to(PIECE);
        pace.bound(session.write_response_body(piece, false))
            .await??;
    }
    Ok(pace
        .bound(session.write_response_body(data, is_last))
        .await??)
}
