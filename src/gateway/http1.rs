//! One connection that speaks HTTP/1: request after request, until either side has had enough.
//!
//! ```text
//! bytes ─ head (bounded, strict) ─▶ pingora's session ─ handler ─▶ what is left, for the next one
//!            └─ refused: an answer, and the end
//! ```
//!
//! pingora parses heads and chunks leniently and each of its reads has a time of its own, so heads are
//! read, and both are checked, before it sees them.

use bytes::{Bytes, BytesMut};
use gpu_bridge_places::{Full, Place};
use pingora::protocols::http::ServerSession;
use pingora::protocols::{GetSocketDigest as _, Ssl as _, Stream};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::ahead::Connection;
use super::forwarding::peer_of;
use super::handler::Handler;
use super::head::{Arrival, Heads, NoRequest};
use super::refusals;
use super::respond::Reply;
use crate::upstream::Upstream;

/// How a connection went on.
pub(super) enum Then {
    /// It is closed.
    Closed,
    /// The client speaks HTTP/2; nothing has been answered. With all that was read.
    Http2(Stream, BytesMut),
}

/// Serves a connection.
pub(super) async fn serve<U: Upstream>(
    handler: &Handler<U>,
    stream: Stream,
    place: &Place,
    stopping: &watch::Receiver<bool>,
) -> Then {
    let settings = handler.settings();
    let mut heads = Heads::new(settings.heads(), stopping.clone());
    let one_request = settings.max_head.saturating_add(settings.max_body);
    let mut connection = Box::new(Connection::new(stream, &handler.budget, one_request));
    let mut carried = BytesMut::new();
    loop {
        let next = tokio::select! {
            biased;
            next = heads.next(&mut connection, carried) => next,
            () = place.displaced() => Err(NoRequest::Displaced),
        };
        let head = match next {
            Ok(Arrival::Request { read, chunks: None }) => read,
            Ok(Arrival::Request {
                mut read,
                chunks: Some(start),
            }) => {
                connection.begin_chunks(read.split_off(start));
                read
            }
            // Over TLS it would have been agreed on before.
            Ok(Arrival::Http2(read)) if connection.get_ssl_digest().is_none() => {
                return Then::Http2(connection.into_inner(), read);
            }
            Ok(Arrival::Http2(_)) | Err(NoRequest::Done) => return Then::Closed,
            Err(NoRequest::Displaced) => {
                if heads.is_in_one() {
                    let _ = say(&mut connection, refusals::no_place(Full::All)).await;
                }
                return Then::Closed;
            }
            Err(refusal) => {
                let peer = peer_of(connection.get_socket_digest().as_deref());
                let mut reply = handler.refuse_head(&refusal, peer);
                if heads.wants_no_body() {
                    reply.body = Bytes::new();
                }
                // Best effort: a client that is not reading loses nothing it has a right to.
                let _ = timeout(handler.settings().client_head, say(&mut connection, reply)).await;
                return Then::Closed;
            }
        };
        match exchange(handler, connection, head, place).await {
            Some((same, rest)) => (connection, carried) = (same, rest),
            None => return Then::Closed,
        }
    }
}

/// Has one request answered. Returns the connection, if it can take another one, and what was read
/// beyond this one.
async fn exchange<U: Upstream>(
    handler: &Handler<U>,
    connection: Box<Connection>,
    head: BytesMut,
    place: &Place,
) -> Option<(Box<Connection>, BytesMut)> {
    let mut session = ServerSession::new_http1(connection);
    // Bytes that are there already are parsed first; the head is whole, so nothing more is read.
    session.set_pipelined_prefix(head);
    if let Err(error) = session.read_request().await {
        // That is a bug, and without a request there is no session to answer in.
        let kind = error.etype().as_str();
        tracing::error!(kind, "a head was let in that pingora refuses");
        return None;
    }
    // An error here: the connection broke, and the record of the request says so.
    handler.handle(&mut session, place).await.ok()?;
    let (stream, beyond) = session.finish().await.ok()??.into_parts();
    let mut connection = Connection::of(stream)?;
    let rest = connection.end_body(beyond.unwrap_or_default())?;
    Some((connection, rest))
}

/// Answers without a session, and says that nothing more will come.
pub(super) async fn say(
    stream: &mut (impl AsyncWrite + Unpin),
    reply: Reply,
) -> std::io::Result<()> {
    stream.write_all(&reply.into_http1()).await?;
    AsyncWriteExt::shutdown(stream).await
}
