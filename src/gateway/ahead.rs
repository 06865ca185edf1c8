//! A connection of HTTP/1 whose client is seen leaving whatever it has sent ahead.
//!
//! What tells that a client has gone, an end or a reset, comes after all that it sent before: a stray
//! empty line behind a body, its next requests, anything. So while a request is answered its
//! connection is read on, and what comes is kept for the requests after it:
//!
//! ```text
//! not watched:  what was kept, then what comes ─▶ reader
//! watched:      what comes ─▶ kept                  reader: only the end
//! ```
//!
//! A body in chunks is checked on its way to the reader, who gets it to its last byte and nothing of what
//! follows: where it ends is decided by [`Chunks`] alone.
//!
//! What is kept is bounded, and counts as the bytes of bodies do. A client that sends more than that is
//! no less watched; but what it sent is thrown away, and the answer is its connection's last.
//!
//! A client that only shuts down its sending side counts as gone: nothing tells the two apart.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use gpu_bridge_framing::{Chunks, Linger};
use pingora::protocols::http::ServerSession;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{ALPN, Ssl, Stream};
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

use crate::budget::{Budget, Reservation};
use crate::wrapped::{Wrapper, pass_on};

/// Bytes of one read.
const READ: usize = 4 << 10;
/// An answer up to this size goes out in one piece, head and body; pingora's own buffer is for one packet.
const WRITE_BUFFER: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Connection {
    inner: BufWriter<Stream>,
    /// The body, if it comes in chunks.
    chunks: Option<Chunks>,
    /// What was read together with such a body or its head, and is older than what was kept.
    rest: BytesMut,
    kept: BytesMut,
    reserved: Reservation,
    budget: Budget,
    /// Bytes that may be kept.
    limit: usize,
    state: Arc<State>,
    linger: Linger,
}

#[derive(Debug, Default)]
struct State {
    watched: AtomicBool,
    /// More came than may be kept.
    overrun: AtomicBool,
}

/// The connection is watched until this is dropped.
struct Watching(Arc<State>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watched.store(false, Ordering::Relaxed);
    }
}

/// Returns once the client is gone, or has given up its request. The request must have been read.
pub(super) async fn gone(session: &mut ServerSession) {
    let _watching = state(session).map(|state| {
        state.watched.store(true, Ordering::Relaxed);
        Watching(Arc::clone(state))
    });
    // Whatever it says: it ends only with the client.
    let _ = session.read_body_or_idle(true).await;
}

/// Has the client sent so much ahead that its connection can't be used any further?
pub(super) fn is_overrun(session: &ServerSession) -> bool {
    state(session).is_some_and(|state| state.overrun.load(Ordering::Relaxed))
}

/// `None` for HTTP/2, in which nothing stands in the way of a reset.
fn state(session: &ServerSession) -> Option<&Arc<State>> {
    let connection = (**session.stream()?)
        .as_any()
        .downcast_ref::<Connection>()?;
    Some(&connection.state)
}

impl Connection {
    /// At most `limit` bytes are kept, if `budget` has them.
    pub(super) fn new(inner: Stream, budget: &Budget, limit: usize) -> Self {
        Self {
            inner: BufWriter::with_capacity(WRITE_BUFFER, inner),
            chunks: None,
            rest: BytesMut::new(),
            kept: BytesMut::new(),
            reserved: budget.open(),
            budget: budget.clone(),
            limit,
            state: Arc::default(),
            linger: Linger::default(),
        }
    }

    /// What pingora was given.
    pub(super) fn of(stream: Stream) -> Option<Box<Self>> {
        stream.into_any().downcast().ok()
    }

    /// The connection itself, from which nothing must have been kept and to which nothing was written.
    pub(super) fn into_inner(self) -> Stream {
        self.inner.into_inner()
    }

    /// A body in chunks comes next. `rest`: what was read after its head.
    pub(super) fn begin_chunks(&mut self, rest: BytesMut) {
        self.chunks = Some(Chunks::default());
        self.rest = rest;
    }

    /// What was read after the body. `beyond`: as pingora sees it, which gets nothing beyond chunks; `None`
    /// if it and we don't agree, or a body in chunks has not come whole.
    pub(super) fn end_body(&mut self, beyond: BytesMut) -> Option<BytesMut> {
        let Some(chunks) = self.chunks.take() else {
            return Some(beyond);
        };
        let is_agreed = chunks.is_over() && beyond.is_empty();
        is_agreed.then(|| std::mem::take(&mut self.rest))
    }

    /// What comes next for the reader: of what was read already, else from the connection.
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut chunks = self.chunks.as_mut();
        let mut length = |bytes: &[u8]| match &mut chunks {
            Some(chunks) => chunks.read(bytes),
            None => Ok(bytes.len()),
        };
        // Bad chunks stay bad, whether or not more comes.
        length(&[])?;
        let is_rest = !self.rest.is_empty();
        let read = if is_rest {
            &mut self.rest
        } else {
            &mut self.kept
        };
        if read.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
            let new = buffer.filled().get(before..).unwrap_or_default();
            let length = length(new)?;
            self.rest
                .extend_from_slice(new.get(length..).unwrap_or_default());
            buffer.set_filled(before + length);
        } else {
            let offered = read.get(..buffer.remaining()).unwrap_or(read);
            let length = length(offered)?;
            buffer.put_slice(offered.get(..length).unwrap_or_default());
            read.advance(length);
            if !is_rest && read.is_empty() {
                self.forget();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready at the end of the connection.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ];
        loop {
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.keep(read.filled());
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.state.overrun.load(Ordering::Relaxed) {
            return;
        }
        let fits = self.kept.len() + bytes.len() <= self.limit;
        if fits && self.reserved.grow(bytes.len()).is_ok() {
            self.kept.extend_from_slice(bytes);
        } else {
            self.state.overrun.store(true, Ordering::Relaxed);
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.kept = BytesMut::new();
        self.reserved = self.budget.open();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.state.watched.load(Ordering::Relaxed) {
            return self.poll_end(context);
        }
        if self.state.overrun.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        self.poll_next(context, buffer)
    }
}

impl Wrapper for Connection {
    fn inner(&self) -> &Stream {
        self.inner.get_ref()
    }

    fn inner_mut(&mut self) -> &mut Stream {
        self.inner.get_mut()
    }

    fn writer(&mut self) -> &mut (dyn AsyncWrite + Send + Unpin) {
        &mut self.inner
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.linger.poll_close(&mut self.inner, context)
    }
}

pass_on!(Connection);

impl Ssl for Connection {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner().get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner().selected_alpn_proto()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// A client, and its connection, of which 10 bytes are kept.
    fn connection(budget: &Budget) -> (DuplexStream, Connection) {
        let (client, server) = tokio::io::duplex(1 << 16);
        (client, Connection::new(Box::new(server), budget, 10))
    }

    fn watch(connection: &Connection, watched: bool) {
        connection.state.watched.store(watched, Ordering::Relaxed);
    }

    /// `None`: it reads on.
    fn read(connection: &mut Connection) -> Option<String> {
        let mut bytes = [0; 4];
        let read = connection.read(&mut bytes).now_or_never()?.unwrap();
        Some(String::from_utf8_lossy(&bytes[..read]).into_owned())
    }

    #[tokio::test]
    async fn what_is_sent_ahead_is_kept_for_later_and_hides_no_end() {
        let budget = Budget::new(100);
        let (mut client, mut connection) = connection(&budget);
        watch(&connection, true);
        for part in ["one", "two"] {
            client.write_all(part.as_bytes()).await.unwrap();
            assert_eq!(read(&mut connection), None);
        }
        assert_eq!(budget.held(), 6);

        watch(&connection, false);
        client.write_all(b"three").await.unwrap();
        assert_eq!(read(&mut connection).as_deref(), Some("onet"));
        assert_eq!(read(&mut connection).as_deref(), Some("wo"));
        assert_eq!(budget.held(), 0);
        assert_eq!(read(&mut connection).as_deref(), Some("thre"));

        watch(&connection, true);
        drop(client);
        assert_eq!(read(&mut connection).as_deref(), Some(""));
    }

    #[tokio::test]
    async fn too_much_is_thrown_away_and_hides_no_end_either() {
        for (budget, sent) in [(100, 11), (5, 6), (100, 60_000)] {
            let budget = Budget::new(budget);
            let (mut client, mut connection) = connection(&budget);
            watch(&connection, true);
            client.write_all(&vec![b'x'; sent]).await.unwrap();
            assert_eq!(read(&mut connection), None, "{sent}");
            assert!(connection.state.overrun.load(Ordering::Relaxed));
            assert_eq!(budget.held(), 0);

            drop(client);
            assert_eq!(read(&mut connection).as_deref(), Some(""));
            watch(&connection, false);
            assert_eq!(read(&mut connection).as_deref(), Some(""), "the end");
        }
    }
}
