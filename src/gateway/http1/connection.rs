//! A connection of HTTP/1: what was read of it and not used yet, and its end.
//!
//! What tells that a client has gone, an end or a reset, comes after all that it sent before: a stray
//! empty line behind a body, its next requests, anything. So while a request is answered its connection
//! is [read on](Connection::gone), and what comes is kept for the requests after it.
//!
//! What is kept is bounded, and counts as the bytes of bodies do. A client that sends more than that is
//! no less watched; but what it sent is thrown away, and the answer is its connection's last.
//!
//! A client that only shuts down its sending side counts as gone: nothing tells the two apart.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use gpu_bridge_framing::{Chunks, Linger};
use pingora::protocols::Stream;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};

use super::super::forwarding::peer_of;
use super::super::pace::{PIECE, Pace};
use crate::budget::{Budget, Reservation};

/// Bytes of one read, but for bodies.
const READ: usize = 4 << 10;

/// See the module.
#[derive(Debug)]
pub(in crate::gateway) struct Connection {
    stream: Stream,
    /// What was read and not used yet. Empty, and without memory, while nothing is asked.
    read: BytesMut,
    /// For what was sent ahead.
    reserved: Option<Reservation>,
    budget: Budget,
    /// Bytes that may be sent ahead.
    limit: usize,
    /// More came than may be kept.
    is_overrun: bool,
    /// The other end.
    pub(in crate::gateway) peer: Option<IpAddr>,
    pub(in crate::gateway) is_tls: bool,
    linger: Linger,
}

impl Connection {
    /// Keeps at most `limit` bytes of what is sent ahead, if `budget` has them.
    pub(super) fn new(stream: Stream, budget: &Budget, limit: usize) -> Self {
        Self {
            peer: peer_of(stream.get_socket_digest().as_deref()),
            is_tls: stream.get_ssl_digest().is_some(),
            stream,
            read: BytesMut::new(),
            reserved: None,
            budget: budget.clone(),
            limit,
            is_overrun: false,
            linger: Linger::default(),
        }
    }

    /// The connection as it was, and what was read of it.
    pub(super) fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.read)
    }

    /// What was read and not used yet.
    pub(super) fn unused(&self) -> &[u8] {
        &self.read
    }

    /// So many bytes of that are used.
    pub(super) fn used(&mut self, bytes: usize) {
        self.read.advance(bytes);
        if self.read.is_empty() {
            self.forget();
        }
    }

    /// Has the client sent so much ahead that the connection can't be used any further?
    pub(super) fn is_overrun(&self) -> bool {
        self.is_overrun
    }

    /// Reads on. Ready with the number of bytes; 0 at the end of the connection.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|context| self.poll_read(context, |this, bytes| this.read.extend_from_slice(bytes)))
            .await
    }

    /// Returns once the client is gone, or has given up its request, which must have been read.
    pub(in crate::gateway) async fn gone(&mut self) {
        // Whatever it says: it ends only with the client.
        while let Ok(1..) = poll_fn(|context| self.poll_read(context, Self::keep)).await {}
    }

    /// Puts what comes next where there is room, at most `limit` bytes. Returns how many; 0 at the end.
    pub(super) async fn read_into(&mut self, room: &mut BytesMut, limit: u64) -> io::Result<usize> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let limit = limit.min(room.capacity() - room.len());
        if self.read.is_empty() {
            return self.stream.read_buf(&mut room.limit(limit)).await;
        }
        let bytes = limit.min(self.read.len());
        room.extend_from_slice(&self.read[..bytes]);
        self.used(bytes);
        Ok(bytes)
    }

    /// The next data of a body in chunks; `None` after the last.
    pub(super) async fn next_data(&mut self, chunks: &mut Chunks) -> io::Result<Option<Bytes>> {
        loop {
            let data = chunks.take(&mut self.read)?;
            if self.read.is_empty() {
                self.forget();
            }
            if data.is_some() || chunks.is_over() {
                return Ok(data);
            }
            if self.read.capacity() < READ {
                self.read.reserve(PIECE);
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Writes all of it, so that it goes out now; each piece within `patience`.
    pub(super) async fn write(
        &mut self,
        mut slices: &mut [IoSlice<'_>],
        patience: Duration,
    ) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        let pace = Pace {
            budget: self.budget.clone(),
            patience,
        };
        loop {
            let piece = pin!(async {
                let mut written = 0;
                while written < PIECE && !slices.is_empty() {
                    let bytes = self.stream.write_vectored(slices).await?;
                    if bytes == 0 {
                        return Err(io::Error::from(io::ErrorKind::WriteZero));
                    }
                    IoSlice::advance_slices(&mut slices, bytes);
                    written += bytes;
                }
                if slices.is_empty() {
                    self.stream.flush().await?;
                }
                Ok(slices.is_empty())
            });
            if pace.bound(piece).await?? {
                return Ok(());
            }
        }
    }

    /// Ends it such that the client can read the last answer.
    pub(super) async fn close(&mut self) {
        // It can only fail if the client has gone.
        let _ = poll_fn(|context| self.linger.poll_close(&mut self.stream, context)).await;
    }

    /// Reads on into no memory of its own, as what is kept in between may be nothing for long.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        take: impl FnOnce(&mut Self, &[u8]),
    ) -> Poll<io::Result<usize>> {
        let mut bytes = [MaybeUninit::uninit(); READ];
        let mut read = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
        take(self, read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// For the requests after this one.
    fn keep(&mut self, bytes: &[u8]) {
        if self.is_overrun {
            return;
        }
        let reserved = self.reserved.get_or_insert_with(|| self.budget.open());
        let fits = self.read.len() + bytes.len() <= self.limit;
        if fits && reserved.grow(bytes.len()).is_ok() {
            self.read.extend_from_slice(bytes);
        } else {
            self.is_overrun = true;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.read = BytesMut::new();
        self.reserved = None;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::DuplexStream;

    use super::*;

    /// A client, and its connection, of which 10 bytes are kept.
    fn connection(budget: &Budget) -> (DuplexStream, Connection) {
        let (client, server) = tokio::io::duplex(1 << 16);
        (client, Connection::new(Box::new(server), budget, 10))
    }

    fn is_gone(connection: &mut Connection) -> bool {
        connection.gone().now_or_never().is_some()
    }

    #[tokio::test]
    async fn what_is_sent_ahead_is_kept_for_later_and_hides_no_end() {
        let budget = Budget::new(100);
        let (mut client, mut connection) = connection(&budget);
        for part in ["one", "two"] {
            client.write_all(part.as_bytes()).await.unwrap();
            assert!(!is_gone(&mut connection));
        }
        assert_eq!(budget.held(), 6);

        client.write_all(b"three").await.unwrap();
        connection.fill().await.unwrap();
        assert_eq!(connection.unused(), b"onetwothree");
        connection.used(6);
        connection.used(5);
        assert_eq!(budget.held(), 0);

        drop(client);
        assert!(is_gone(&mut connection));
    }

    #[tokio::test]
    async fn too_much_is_thrown_away_and_hides_no_end_either() {
        for (budget, sent) in [(100, 11), (5, 6), (100, 60_000)] {
            let budget = Budget::new(budget);
            let (mut client, mut connection) = connection(&budget);
            client.write_all(&vec![b'x'; sent]).await.unwrap();
            assert!(!is_gone(&mut connection), "{sent}");
            assert!(connection.is_overrun());
            assert_eq!((budget.held(), connection.unused().len()), (0, 0));

            drop(client);
            assert!(is_gone(&mut connection));
        }
    }
}
