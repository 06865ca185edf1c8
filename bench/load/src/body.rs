//! The body of a host's answer: whole, or cut off.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// See the module.
pub(crate) enum AnswerBody {
    /// Comes in one piece.
    Whole(Option<Bytes>),
    /// The first part of a body of so many bytes, then the connection breaks.
    Cut(Option<Bytes>, u64),
}

/// Breaks the connection.
#[derive(Debug)]
pub(crate) struct Dies;

impl std::fmt::Display for Dies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the host dies here")
    }
}

impl std::error::Error for Dies {}

impl AnswerBody {
    /// All of `bytes`.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }

    /// The first half of `bytes`.
    pub(crate) fn cut(bytes: &Bytes) -> Self {
        Self::Cut(Some(bytes.slice(..bytes.len() / 2)), bytes.len() as u64)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Dies;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Dies>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Cut(bytes, announced) => match bytes.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                // Once more around, so that what came before is sent first.
                None if *announced > 0 => {
                    *announced = 0;
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                None => Poll::Ready(Some(Err(Dies))),
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Cut(_, announced) => SizeHint::with_exact(*announced),
        }
    }
}
