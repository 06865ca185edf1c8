//! A connection to a host that sends a request while its answer is read.
//!
//! A host may answer before it has read all of a request (it is full, the body is too large for it)
//! and then stop reading. Who first sends and then reads would wait for it in vain. So here reading
//! drives sending: whoever reads sends as much as the host takes, and gets an answer whenever it
//! comes. pingora's session, which reads the answer, takes this for a plain connection.
//!
//! An answer in chunks is checked before pingora's parser gets it: its last byte is the last one that comes
//! out of here.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use gpu_bridge_framing::{BadChunks, Chunks};
use parking_lot::Mutex;
use pingora::protocols::{Ssl, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::wrapped::{Wrapper, pass_on};

/// A host that takes nothing of a request for this long, and says nothing, hangs.
const STALL: Duration = Duration::from_secs(10);
/// Bytes that the parser may go through to find the end of a host's heads. It begins anew with each piece that
/// comes, so that a long head in small pieces would keep a core busy. One of 64 KiB in packets of 536 bytes
/// takes a quarter of this; one of 5 KiB may come byte by byte.
const MAX_PARSED: usize = 16 << 20;
/// If sending fails, a host that has answered before has done so by then.
const EARLY_ANSWER: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Duplex {
    stream: Stream,
    unsent: VecDeque<Bytes>,
    is_flushed: bool,
    /// Why sending has ended early.
    broken: Option<io::Error>,
    /// When it is no longer worth waiting for the host's first word.
    patience: Option<Pin<Box<Sleep>>>,
    heard: Heard,
    /// Bytes that have come.
    received: usize,
    /// Bytes that the parser of the heads has gone through, again and again.
    parsed: usize,
    /// Locked only while the session that reads from here says what is due; it doesn't read then.
    due: Mutex<Due>,
}

/// What is coming from the host.
#[derive(Debug)]
enum Due {
    /// The head. With what came last: where the body begins, if it has.
    Head(BytesMut),
    /// A body whose end pingora knows.
    Body,
    Chunks(Chunks),
    /// More than an answer in chunks.
    Surplus,
}

/// What has come from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Nothing,
    /// Something, before all of the request was sent.
    Early,
    Something,
}

impl Duplex {
    /// Sends `request` on `stream` as soon as it is read from.
    pub(super) fn new(stream: Stream, request: VecDeque<Bytes>) -> Self {
        Self {
            stream,
            unsent: request.into_iter().filter(|it| !it.is_empty()).collect(),
            is_flushed: false,
            broken: None,
            patience: None,
            heard: Heard::Nothing,
            received: 0,
            parsed: 0,
            due: Mutex::new(Due::Head(BytesMut::new())),
        }
    }

    /// The heads have been read, which take so many bytes in all.
    pub(super) fn begin_body(&self, heads: usize, is_chunked: bool) -> Result<(), BadChunks> {
        let mut due = self.due.lock();
        let Due::Head(last) = std::mem::replace(&mut *due, Due::Body) else {
            return Ok(());
        };
        if is_chunked {
            let start = last.len().checked_sub(self.received.saturating_sub(heads));
            let came = start.and_then(|start| last.get(start..)).ok_or(BadChunks)?;
            let mut chunks = Chunks::default();
            let is_more = chunks.read(came)? < came.len();
            *due = if is_more {
                Due::Surplus
            } else {
                Due::Chunks(chunks)
            };
        }
        Ok(())
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard
    }

    /// The bare connection, if the whole request went out and no more than an answer came.
    pub(super) fn into_reusable(mut self) -> Option<Stream> {
        let is_over = match self.due.get_mut() {
            Due::Head(_) | Due::Surplus => false,
            Due::Body => true,
            Due::Chunks(chunks) => chunks.is_over(),
        };
        (is_over && self.is_sent()).then_some(self.stream)
    }

    /// Takes note of what has come; how much of it belongs to the answer?
    fn receive(&mut self, new: &[u8]) -> io::Result<usize> {
        self.received += new.len();
        let due = self.due.get_mut();
        match due {
            Due::Head(last) if !new.is_empty() => {
                self.parsed += self.received;
                if self.parsed > MAX_PARSED {
                    // No HTTP, as far as we follow it.
                    return Err(BadChunks.into());
                }
                last.clear();
                last.extend_from_slice(new);
            }
            Due::Chunks(chunks) => {
                let length = chunks.read(new)?;
                if length < new.len() {
                    *due = Due::Surplus;
                }
                return Ok(length);
            }
            Due::Surplus => return Ok(0),
            Due::Head(_) | Due::Body => {}
        }
        Ok(new.len())
    }

    fn is_sent(&self) -> bool {
        self.is_flushed && self.broken.is_none()
    }

    /// Sends the next piece, or a part of it; `false` once all is sent. The last is flushed at once, so
    /// that no answer to the whole request looks as if it had come before.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Some(next) = self.unsent.front_mut() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, next))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => next.advance(sent),
            }
            self.patience = None;
            while self.unsent.front().is_some_and(Bytes::is_empty) {
                self.unsent.pop_front();
            }
        }
        if !self.unsent.is_empty() {
            return Poll::Ready(Ok(true));
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.is_flushed = true;
        Poll::Ready(Ok(false))
    }

    /// Sends a piece if the host takes one; returns whether it may take another. An error ends
    /// sending; perhaps an answer waits to be read.
    fn send(&mut self, cx: &mut Context<'_>) -> bool {
        if self.is_flushed || self.broken.is_some() {
            return false;
        }
        match self.poll_send(cx) {
            Poll::Ready(Ok(more)) => more,
            Poll::Pending => false,
            Poll::Ready(Err(error)) => {
                self.unsent.clear();
                self.patience = None;
                self.broken = Some(error);
                false
            }
        }
    }

    /// Sends, and looks after each piece whether the host has said anything: one that reads on may
    /// have answered long before all is sent.
    fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let may_send_more = self.send(cx);
            let read = Pin::new(&mut self.stream).poll_read(cx, buf);
            if read.is_ready() || !may_send_more {
                return read;
            }
        }
    }

    /// Ready when the host has not said anything for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.is_sent() || self.heard != Heard::Nothing {
            return Poll::Pending;
        }
        let limit = if self.broken.is_some() {
            EARLY_ANSWER
        } else {
            STALL
        };
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(self.why(io::ErrorKind::TimedOut.into()))
    }

    /// Why sending failed, if it did: that came first.
    fn why(&self, otherwise: io::Error) -> io::Error {
        match &self.broken {
            Some(error) => copy(error),
            None => otherwise,
        }
    }
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => error.kind().into(),
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match self.poll_exchange(cx, buf) {
            Poll::Ready(Ok(())) => {
                let length = self.receive(buf.filled().get(before..).unwrap_or_default())?;
                buf.set_filled(before + length);
                if self.heard == Heard::Nothing && buf.filled().len() > before {
                    let is_sent = self.is_sent();
                    self.heard = if is_sent {
                        Heard::Something
                    } else {
                        Heard::Early
                    };
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.why(error))),
            Poll::Pending => self.poll_patience(cx).map(Err),
        }
    }
}

impl Wrapper for Duplex {
    fn inner(&self) -> &Stream {
        &self.stream
    }

    fn inner_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

pass_on!(Duplex);

impl Ssl for Duplex {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const ROOM: usize = 1 << 10;

    fn pair(request: usize) -> (Duplex, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        let request = [Bytes::from(vec![b'x'; request / 2]), Bytes::new()];
        let request = request.iter().cycle().take(4).cloned().collect();
        (Duplex::new(Box::new(ours), request), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn all_is_sent_while_the_answer_is_read() {
        let (mut duplex, mut host) = pair(10 * ROOM);
        let host = tokio::spawn(async move {
            let mut request = vec![0; 10 * ROOM];
            host.read_exact(&mut request).await.unwrap();
            host.write_all(b"answer").await.unwrap();
            host
        });
        let mut answer = [0; 6];
        duplex.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, duplex.heard()), (b"answer", Heard::Something));
        duplex.begin_body(6, false).unwrap();
        assert!(duplex.into_reusable().is_some());
        drop(host);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_read_from_a_host_that_takes_no_more() {
        let (mut duplex, mut host) = pair(10 * ROOM);
        host.write_all(b"full").await.unwrap();
        let mut answer = [0; 4];
        duplex.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, duplex.heard()), (b"full", Heard::Early));
        assert!(duplex.into_reusable().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_neither_reads_nor_speaks_is_given_up() {
        let (mut duplex, _host) = pair(10 * ROOM);
        let started = tokio::time::Instant::now();
        let error = duplex.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= STALL && started.elapsed() < 2 * STALL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_reads_slowly_is_not() {
        let (mut duplex, mut host) = pair(4 * ROOM);
        tokio::spawn(async move {
            for _ in 0..8 {
                tokio::time::sleep(STALL.mul_f64(0.9)).await;
                host.read_exact(&mut [0; ROOM / 2]).await.unwrap();
            }
            host.write_all(b"!").await.unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(duplex.read_u8().await.unwrap(), b'!');
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_read_although_sending_failed() {
        let (mut duplex, mut host) = pair(10 * ROOM);
        host.write_all(b"no").await.unwrap();
        drop(host);
        let mut answer = [0; 2];
        duplex.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"no");
        assert!(duplex.into_reusable().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_head_may_not_come_byte_by_byte() {
        for (length, pieces, is_taken) in [(4096, 1, true), (65_536, 512, true), (65_536, 1, false)]
        {
            let (mut duplex, mut host) = pair(2);
            let mut taken = Ok(());
            for _ in 0..length / pieces {
                host.write_all(&vec![b'x'; pieces]).await.unwrap();
                let mut room = vec![0; pieces];
                taken = taken.and(duplex.read_exact(&mut room).await.map(drop));
            }
            assert_eq!(taken.is_ok(), is_taken, "{length} in pieces of {pieces}");
        }
    }

    /// What comes out of it, whether it may be used again, or why not.
    async fn hear(with_head: &str, later: &str) -> io::Result<(String, bool)> {
        let (mut duplex, mut host) = pair(2);
        let head = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        let spoken = [head, with_head].concat();
        host.write_all(spoken.as_bytes()).await?;
        duplex.read_exact(&mut vec![0; spoken.len()]).await?;
        duplex
            .begin_body(head.len(), true)
            .map_err(io::Error::from)?;
        host.write_all(later.as_bytes()).await?;
        let mut room = [0; 64];
        let length = duplex.read(&mut room).await?;
        let answer = String::from_utf8_lossy(&room[..length]).into_owned();
        Ok((answer, duplex.into_reusable().is_some()))
    }

    #[tokio::test(start_paused = true)]
    async fn chunks_are_checked_to_their_last_byte_wherever_the_head_ended() {
        let body = "1;a=b\r\nx\r\n0\r\n\r\n";
        for cut in 0..body.len() {
            let (first, last) = body.split_at(cut);
            assert_eq!(hear(first, last).await.unwrap(), (last.to_owned(), true));
            let more = format!("{last}HTTP");
            assert_eq!(hear(first, &more).await.unwrap(), (last.to_owned(), false));
        }
        let bad = "1;a\nb\r\nx\r\n0\r\n\r\n";
        for cut in 0..bad.len() {
            let (first, last) = bad.split_at(cut);
            let error = hear(first, last).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{first:?}");
        }
    }
}
