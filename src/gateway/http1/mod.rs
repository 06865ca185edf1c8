//! One connection that speaks HTTP/1: request after request, until either side has had enough.
//!
//! ```text
//! bytes ─ head (bounded, strict) ─ exchange: body ─▶ handler ─ answer ─▶ what is left, for the next one
//!            └─ refused: an answer, and the end
//! ```
//!
//! It reads and writes the connection itself. pingora's session parses heads and chunks leniently, gives
//! each of its reads a time of its own, and costs several times as much.

mod connection;
mod exchange;
mod head;

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use gpu_bridge_places::{Full, Place};
use pingora::protocols::Stream;
use tokio::sync::watch;
use tokio::time::timeout;

use self::connection::Connection;
pub(super) use self::exchange::Exchange;
pub(super) use self::head::NoRequest;
use self::head::{Bounds, Heads};
use super::handler::Handler;
use super::refusals;
use super::respond::{self, Reply};
use super::session::{Length, Session};

/// How a connection went on.
pub(super) enum Then {
    /// It is closed.
    Closed,
    /// The client speaks HTTP/2; nothing has been answered. With all that was read.
    Http2(Stream, BytesMut),
}

/// Serves a connection.
pub(super) async fn serve(
    handler: &Handler,
    stream: Stream,
    place: &Place,
    stopping: &watch::Receiver<bool>,
) -> Then {
    let (mut connection, mut heads) = begin(handler, stream, stopping);
    loop {
        let next = tokio::select! {
            biased;
            next = heads.next(&mut connection) => next,
            () = place.displaced() => Err(NoRequest::Displaced),
        };
        let request = match next {
            Ok(request) => request,
            Err(problem) => return Box::pin(end(handler, connection, &heads, &problem)).await,
        };
        let exchange = Exchange::new(
            &mut connection,
            request,
            handler.config.get().timeouts.client_read,
        );
        let mut session = Session::Http1(exchange);
        // An error here: the connection broke, and the record of the request says so.
        // Boxed, so that a connection that idles holds nothing of it.
        if Box::pin(handler.handle(&mut session, place)).await.is_err() {
            return Then::Closed;
        }
        if !session.is_kept() {
            connection.close().await;
            return Then::Closed;
        }
    }
}

fn begin(
    handler: &Handler,
    stream: Stream,
    stopping: &watch::Receiver<bool>,
) -> (Connection, Heads) {
    let config = handler.config.get();
    let limits = &config.limits;
    let one_request = limits.max_head.saturating_add(limits.max_body);
    (
        Connection::new(stream, &handler.budget, one_request),
        Heads::new(Bounds::from(&**config), stopping.clone()),
    )
}

/// There is no request, or none that can be answered here.
async fn end(
    handler: &Handler,
    mut connection: Connection,
    heads: &Heads,
    problem: &NoRequest,
) -> Then {
    match problem {
        // Over TLS it would have been agreed on before.
        NoRequest::Http2 if !connection.is_tls => {
            let (stream, read) = connection.into_parts();
            return Then::Http2(stream, read);
        }
        NoRequest::Http2 | NoRequest::Done => {}
        NoRequest::Displaced if !heads.is_in_one() => {}
        problem => refuse(handler, &mut connection, heads, problem).await,
    }
    Then::Closed
}

/// Says why there is no request, and closes the connection.
async fn refuse(
    handler: &Handler,
    connection: &mut Connection,
    heads: &Heads,
    problem: &NoRequest,
) {
    let mut reply = match problem {
        NoRequest::Displaced => refusals::no_place(Full::All),
        problem => handler.refuse_head(problem, connection.peer),
    };
    if heads.wants_no_body() {
        reply.body = Bytes::new();
    }
    let patience = handler.config.get().timeouts.client_head;
    let last = async {
        let answer = last_answer(reply);
        if connection
            .write(&mut [IoSlice::new(&answer)], patience)
            .await
            .is_ok()
        {
            connection.close().await;
        }
    };
    // Best effort: a client that is not reading loses nothing it has a right to.
    let _ = timeout(patience, last).await;
}

/// The last answer on a connection, in one piece.
pub(super) fn last_answer(reply: Reply) -> Vec<u8> {
    let length = Length::Known(reply.body.len());
    let mut answer = exchange::head(respond::head(reply.status, reply.headers), length, false);
    answer.extend_from_slice(&reply.body);
    answer
}
