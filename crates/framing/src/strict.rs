//! A connection from which only requests are read that can be read in one way.
//!
//! ```text
//! bytes ─ head: held until it is whole, and judged ─▶ hyper ─ answer
//!           │ └ body: followed to its end, where the next head begins
//!           └─ refused: in its place, a request that is answered with why
//! ```
//!
//! hyper takes two framings, a request without `Host`, bare line feeds and more. A request that is refused
//! ends its connection, since nobody knows where the next one starts; what comes after it is read and
//! thrown away.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::{BadHead, Body, Coming, HeadLimits, Linger, Scanner, check};

/// How a request begins whose answer has no body.
const HEAD: &[u8] = b"HEAD ";

/// What hyper reads in place of a request that is refused.
pub(crate) const REFUSED: &str = " / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";

/// Why the last request of a connection is refused, once it is; clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Refusal(Arc<OnceLock<BadHead>>);

impl Refusal {
    /// Asked when a request begins, it is about that one: nothing is read ahead of it.
    pub fn get(&self) -> Option<BadHead> {
        self.0.get().copied()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Strict<S> {
    limits: HeadLimits,
    inner: S,
    at: At,
    /// Read, and not passed on.
    held: BytesMut,
    /// How much of that may be passed on.
    good: usize,
    refusal: Refusal,
    linger: Linger,
}

/// What comes next.
#[derive(Debug)]
enum At {
    Head(Scanner),
    Body(Coming),
    /// Nothing that would be passed on.
    End,
}

impl At {
    fn head(limits: HeadLimits) -> Self {
        Self::Head(Scanner::new(limits))
    }

    /// The next head, if nothing is to come of the body.
    fn after(coming: Coming, limits: HeadLimits) -> Self {
        if coming.is_over() {
            Self::head(limits)
        } else {
            Self::Body(coming)
        }
    }
}

impl<S> Strict<S> {
    /// Heads have these bounds; hyper's own must be no narrower.
    pub fn new(inner: S, limits: HeadLimits) -> Self {
        Self {
            limits,
            inner,
            at: At::head(limits),
            held: BytesMut::new(),
            good: 0,
            refusal: Refusal::default(),
            linger: Linger::default(),
        }
    }

    /// Tells of the request that is passed on in place of one that is refused.
    pub fn refusal(&self) -> Refusal {
        self.refusal.clone()
    }

    /// Looks at what is held; false: more is needed.
    fn judge(&mut self) -> io::Result<bool> {
        if let At::Head(scanner) = &mut self.at {
            let found = scanner.scan(&self.held);
            match found.and_then(|length| judge_head(&self.held, length)) {
                Ok(None) => return Ok(false),
                Ok(Some((length, body))) => {
                    (self.good, self.at) = (length, At::after(body.into(), self.limits));
                }
                Err(bad) => self.refuse(bad),
            }
        } else {
            self.good = follow(&mut self.at, &self.held, self.limits)?;
        }
        Ok(self.good > 0)
    }

    fn refuse(&mut self, bad: BadHead) {
        let method = if self.held.trim_ascii_start().starts_with(HEAD) {
            "HEAD"
        } else {
            "GET"
        };
        self.held = BytesMut::from(format!("{method}{REFUSED}").as_bytes());
        self.good = self.held.len();
        self.at = At::End;
        // There is only one: nothing is judged after it.
        let _ = self.refusal.0.set(bad);
    }

    fn pass_on(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.good.min(buffer.remaining());
        buffer.put_slice(&self.held[..length]);
        self.held.advance(length);
        self.good -= length;
    }
}

/// `length`: of the head at the start of what was `read`, if it is whole.
fn judge_head(read: &[u8], length: Option<usize>) -> Result<Option<(usize, Body)>, BadHead> {
    let head = length.and_then(|length| read.get(..length));
    head.map(|head| check(head).map(|checked| (head.len(), checked.body)))
        .transpose()
}

/// How much of `piece` belongs to the body that is coming.
fn follow(at: &mut At, piece: &[u8], limits: HeadLimits) -> io::Result<usize> {
    let At::Body(coming) = at else {
        return Ok(0);
    };
    let skipped = coming.skip(piece);
    match &skipped {
        Ok(_) if coming.is_over() => *at = At::head(limits),
        Ok(_) => {}
        Err(_) => *at = At::End,
    }
    Ok(skipped?)
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.good > 0 {
                this.pass_on(buffer);
                return Poll::Ready(Ok(()));
            }
            if matches!(this.at, At::End) {
                // hyper has all that it gets, and closes once it has answered.
                return Poll::Pending;
            }
            if !this.held.is_empty() && this.judge()? {
                continue;
            }
            if !matches!(this.at, At::Head(_)) {
                return this.poll_body(context, buffer);
            }
            let read = pin!(this.inner.read_buf(&mut this.held)).poll(context);
            if ready!(read)? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// With nothing held: a large body is not copied once more.
    fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let read = &buffer.filled()[before..];
        let length = follow(&mut self.at, read, self.limits)?;
        self.held.extend_from_slice(&read[length..]);
        buffer.set_filled(before + length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.at {
            At::End => this.linger.poll_close(&mut this.inner, context),
            _ => Pin::new(&mut this.inner).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 64 << 10,
        headers: 100,
    };

    /// What is passed on of `sent`, which comes in pieces of at most `piece` bytes, and why not more.
    async fn through(sent: &str, piece: usize) -> (String, Option<BadHead>) {
        let (mut client, server) = tokio::io::duplex(piece);
        let mut strict = Strict::new(server, LIMITS);
        let refusal = strict.refusal();
        let sending = async move {
            let _ = client.write_all(sent.as_bytes()).await;
            drop(client);
        };
        let reading = async {
            let mut read = Vec::new();
            while !matches!(strict.at, At::End) || strict.good > 0 {
                match strict.read_buf(&mut read).await {
                    Ok(length) if length > 0 => {}
                    _ => break,
                }
            }
            drop(strict);
            String::from_utf8(read).unwrap()
        };
        let (read, ()) = tokio::join!(reading, sending);
        (read, refusal.get())
    }

    #[tokio::test]
    async fn good_requests_pass_unchanged_and_the_first_bad_one_is_replaced_however_they_come() {
        let good = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\
             POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /\
             POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             4;x=y\r\n\r\n\r\n\r\n0\r\na: b\r\n\r\n\
             GET / HTTP/1.0\r\n\r\n";
        for piece in [1, 2, 7, 64, 1 << 10] {
            assert_eq!(through(good, piece).await, (good.to_owned(), None));
            for (method, bad, why) in [
                (
                    "GET",
                    "POST / HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n",
                    BadHead::Host,
                ),
                ("HEAD", "HEAD / HTTP/1.1\r\n\r\n", BadHead::Host),
                ("GET", "\x16\x03\x01", BadHead::Tls),
            ] {
                let expected = format!("{good}{method}{REFUSED}");
                let sent = format!("{good}{bad}");
                assert_eq!(through(&sent, piece).await, (expected, Some(why)));
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_passed_on_after_bad_chunks() {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for piece in [1, 7, 1 << 10] {
            let sent = format!("{head}x\r\n\r\nGET / HTTP/1.0\r\n\r\n");
            let (read, _) = through(&sent, piece).await;
            assert_eq!(read, head);
        }
    }
}
