//! A connection to a host that sends a request while its answer is read.
//!
//! A host may answer before it has read all of a request (it is full, the body is too large for it)
//! and then stop reading. Who first sends and then reads would wait for it in vain. So here reading
//! drives sending: whoever reads sends as much as the host takes, and gets an answer whenever it
//! comes. pingora's session, which reads the answer, takes this for a plain connection.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use pingora::protocols::{Ssl, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::wrapped::pass_on;

/// A host that takes nothing of a request for this long, and says nothing, hangs.
const STALL: Duration = Duration::from_secs(10);
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
        }
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard
    }

    /// The bare connection, if the whole request went out.
    pub(super) fn into_reusable(self) -> Option<Stream> {
        self.is_sent().then_some(self.stream)
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

pass_on!(Duplex, stream);

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
}
