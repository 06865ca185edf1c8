//! A connection to a host that sends a request while its answer is read.
//!
//! A host may answer before it has read all of a request (it is full, the body is too large for it)
//! and then stop reading. Who first sends and then reads would wait for it in vain. So here reading
//! drives sending: whoever reads sends as much as the host takes, and gets an answer whenever it
//! comes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use pingora::protocols::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::time::Sleep;

/// A host that takes nothing of a request for this long, and says nothing, hangs.
const STALL: Duration = Duration::from_secs(10);
/// If sending fails, a host that has answered before has done so by then.
const EARLY_ANSWER: Duration = Duration::from_secs(1);
/// Pieces of a request that go out at once.
const PIECES: usize = 16;
/// Room that is worth a read.
const LEAST_ROOM: usize = 1 << 10;

/// See the module.
pub(super) struct Duplex {
    stream: Stream,
    unsent: VecDeque<Bytes>,
    is_flushed: bool,
    /// Why sending has ended early.
    broken: Option<io::Error>,
    /// When it is no longer worth waiting for the host's first word.
    patience: Option<Pin<Box<Sleep>>>,
    heard: Heard,
    /// What has come, and was not taken.
    came: BytesMut,
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
    /// Sends `request`, none of whose pieces is empty, on `stream` as soon as it is read from.
    pub(super) fn new(stream: Stream, request: VecDeque<Bytes>) -> Self {
        Self {
            stream,
            unsent: request,
            is_flushed: false,
            broken: None,
            patience: None,
            heard: Heard::Nothing,
            came: BytesMut::new(),
        }
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard
    }

    /// What has come, and was not taken.
    pub(super) fn came(&mut self) -> &mut BytesMut {
        &mut self.came
    }

    /// Reads what comes next, into the room that there is or into `room` bytes. `false`: the connection has
    /// ended.
    pub(super) async fn fill(&mut self, room: usize) -> io::Result<bool> {
        // What has been taken keeps its whole buffer, so a buffer is filled before the next is begun.
        if self.came.capacity() - self.came.len() < room.min(LEAST_ROOM) {
            self.came.reserve(room);
        }
        let read = loop {
            let step = poll_fn(|context| match self.poll_exchange(context) {
                Poll::Ready(step) => Poll::Ready(step.map_err(|error| self.why(error))),
                Poll::Pending => self.poll_patience(context).map(Err),
            });
            match step.await? {
                Some(read) => break read,
                // Only now is it found out whether there is anything to read.
                None => tokio::task::yield_now().await,
            }
        };
        if self.heard == Heard::Nothing && read > 0 {
            let is_sent = self.is_sent();
            self.heard = if is_sent {
                Heard::Something
            } else {
                Heard::Early
            };
        }
        Ok(read > 0)
    }

    /// The bare connection, if the whole request went out and nothing is left of what came.
    pub(super) fn into_reusable(self) -> Option<Stream> {
        (self.came.is_empty() && self.is_sent()).then_some(self.stream)
    }

    fn is_sent(&self) -> bool {
        self.is_flushed && self.broken.is_none()
    }

    /// Sends the next pieces, or a part of them; `false` once all is sent. The last is flushed at once, so
    /// that no answer to the whole request looks as if it had come before.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let stream = Pin::new(&mut self.stream);
        if !self.unsent.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            for (piece, unsent) in pieces.iter_mut().zip(&self.unsent) {
                *piece = IoSlice::new(unsent);
            }
            let sent = ready!(stream.poll_write_vectored(context, &pieces))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.has_sent(sent);
            return Poll::Ready(Ok(true));
        }
        ready!(stream.poll_flush(context))?;
        self.is_flushed = true;
        Poll::Ready(Ok(false))
    }

    fn has_sent(&mut self, mut sent: usize) {
        self.patience = None;
        while let Some(next) = self.unsent.front_mut() {
            if sent < next.len() {
                next.advance(sent);
                return;
            }
            sent -= next.len();
            self.unsent.pop_front();
        }
    }

    /// Sends a piece if the host takes one; returns whether there is more to do at once. An error ends
    /// sending; perhaps an answer waits to be read.
    fn send(&mut self, context: &mut Context<'_>) -> bool {
        if self.is_flushed || self.broken.is_some() {
            return false;
        }
        match self.poll_send(context) {
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

    /// Reads; as long as there is nothing to read, sends a piece (`None`: there are more). A host that reads
    /// on may have answered long before all is sent, so what came before a piece is read before it.
    fn poll_exchange(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let read = pin!(self.stream.read_buf(&mut self.came)).poll(context);
        if read.is_ready() {
            return read.map_ok(Some);
        }
        let mut may_send_more = self.send(context);
        if may_send_more && self.unsent.is_empty() {
            may_send_more = self.send(context);
        }
        if may_send_more {
            Poll::Ready(Ok(None))
        } else {
            Poll::Pending
        }
    }

    /// Ready when the host has not said anything for too long.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
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
        ready!(patience.as_mut().poll(context));
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const ROOM: usize = 1 << 10;

    fn pair(request: usize) -> (Duplex, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(ROOM);
        let half = Bytes::from(vec![b'x'; request / 2]);
        let request = VecDeque::from([half.clone(), half]);
        (Duplex::new(Box::new(ours), request), theirs)
    }

    /// What came, and how.
    async fn hear(duplex: &mut Duplex, length: usize) -> (String, Heard) {
        while duplex.came.len() < length {
            assert!(duplex.fill(ROOM).await.unwrap(), "the end");
        }
        let came = duplex.came.split();
        (String::from_utf8_lossy(&came).into_owned(), duplex.heard())
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
        let heard = hear(&mut duplex, 6).await;
        assert_eq!(heard, ("answer".to_owned(), Heard::Something));
        assert!(duplex.into_reusable().is_some());
        drop(host);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_read_from_a_host_that_takes_no_more() {
        let (mut duplex, mut host) = pair(10 * ROOM);
        host.write_all(b"full").await.unwrap();
        let heard = hear(&mut duplex, 4).await;
        assert_eq!(heard, ("full".to_owned(), Heard::Early));
        assert!(duplex.into_reusable().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_neither_reads_nor_speaks_is_given_up() {
        let (mut duplex, _host) = pair(10 * ROOM);
        let started = tokio::time::Instant::now();
        let error = duplex.fill(ROOM).await.unwrap_err();
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
        assert_eq!(hear(&mut duplex, 1).await.0, "!");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_read_although_sending_failed() {
        let (mut duplex, mut host) = pair(10 * ROOM);
        host.write_all(b"no").await.unwrap();
        drop(host);
        assert_eq!(hear(&mut duplex, 2).await.0, "no");
        assert!(duplex.into_reusable().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_more_has_come_is_not_used_again() {
        let (mut duplex, mut host) = pair(2);
        host.write_all(b"answer and more").await.unwrap();
        while duplex.came.len() < 15 {
            assert!(duplex.fill(ROOM).await.unwrap());
        }
        duplex.came.advance(6);
        assert!(duplex.into_reusable().is_none());
    }
}
