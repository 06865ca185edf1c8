//! What travels between the gateway and the hosts: a call and its answer.
//!
//! Bodies are lists of the chunks as they were read, so that holding a body for repetition copies
//! nothing, and each holds its reservation of the common byte budget.

use std::borrow::Cow;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use gpu_bridge_wire::items::Kind;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::budget::{Budget, Exhausted, Reservation};
use crate::pool::Demand;
use crate::telemetry::trace::TraceContext;

/// A client's request, whole, ready to be attempted any number of times.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Path and query for hosts: the route's own path, and the client's query.
    pub path: String,
    /// End-to-end headers to pass on; never the client's credentials.
    pub headers: HeaderMap,
    /// The body.
    pub body: Payload,
    /// What it asks of the pool.
    pub demand: Demand,
    /// Until when its client wants the answer.
    pub deadline: Deadline,
    /// Our span, if hosts are to be told of it instead of the client's.
    pub trace: Option<TraceContext>,
}

impl Call {
    /// What its body is, of those that are of items.
    pub fn kind(&self) -> Option<Kind> {
        match self.demand.label.route {
            "embed" => Some(Kind::Texts),
            "bertscore" => Some(Kind::Pairs),
            _ => None,
        }
    }
}

/// Until when a client wants its answer, if it said so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// So long after the request has arrived; what no clock can hold is no bound.
    pub fn after(arrived: Instant, patience: Option<Duration>) -> Self {
        Self(patience.and_then(|patience| arrived.checked_add(patience)))
    }

    /// From now until then, if there is an end.
    pub fn left(self) -> Option<Duration> {
        let at = self.0?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// The end, if there is one.
    pub fn at(self) -> Option<Instant> {
        self.0
    }

    /// Does `work`.
    ///
    /// # Errors
    /// [`TooLate`] if it takes longer than until then.
    pub async fn bound<T>(self, work: impl Future<Output = T>) -> Result<T, TooLate> {
        match self.0 {
            None => Ok(work.await),
            Some(at) => timeout_at(at, work).await.map_err(|_| TooLate),
        }
    }
}

/// A client's [`Deadline`] has passed.
#[derive(Clone, Copy, Debug)]
pub struct TooLate;

/// A body beyond this is gone through off the async threads.
const LONG: usize = 256 << 10;

/// A body held in memory.
#[derive(Debug)]
pub struct Payload {
    chunks: Vec<Bytes>,
    len: usize,
    /// Gives the bytes back to the budget with the body.
    reserved: Reservation,
}

impl Payload {
    /// A body without bytes.
    pub fn empty(reserved: Reservation) -> Self {
        PayloadBuilder::new(reserved).finish()
    }

    /// A body of these bytes, which count against the budget of `reserved`.
    ///
    /// # Errors
    /// [`Exhausted`] if it does not allow them.
    pub fn counted(
        chunks: impl IntoIterator<Item = impl Into<Bytes>>,
        reserved: Reservation,
    ) -> Result<Self, Exhausted> {
        let mut body = PayloadBuilder::new(reserved);
        for chunk in chunks {
            body.push(&chunk.into())?;
        }
        Ok(body.finish())
    }

    /// The chunks, in order.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// The body; an empty one is left.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let empty = Self::empty(self.reserved.sibling());
        mem::replace(self, empty)
    }

    /// The chunks, for whoever keeps them: bytes are given back to the budget with the last of them.
    pub fn into_counted_chunks(self) -> Vec<Bytes> {
        let reserved = Arc::new(self.reserved);
        let counted = |bytes| {
            Bytes::from_owner(Counted {
                bytes,
                _reserved: Arc::clone(&reserved),
            })
        };
        self.chunks.into_iter().map(counted).collect()
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A body of pieces of this one, whose bytes are not counted again: it must not outlive this one.
    #[must_use]
    pub fn view(&self, chunks: Vec<Bytes>) -> Self {
        Self::of(chunks, self.reserved.sibling())
    }

    /// Reserves `bytes` of the budget that this body is counted in.
    ///
    /// # Errors
    /// [`Exhausted`] if it does not allow it.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, Exhausted> {
        let mut reserved = self.reserved.sibling();
        reserved.grow(bytes)?;
        Ok(reserved)
    }

    /// A body of these bytes in the place of this one, counted where it is.
    ///
    /// # Errors
    /// [`Exhausted`] if the budget does not allow them.
    pub fn replaced(&self, bytes: Vec<u8>) -> Result<Self, Exhausted> {
        Self::counted([bytes], self.reserved.sibling())
    }

    /// The same body in one chunk; a copy only if there are several.
    ///
    /// # Errors
    /// [`Exhausted`] if the budget allows no copy.
    pub fn in_one_piece(&self) -> Result<Self, Exhausted> {
        if let [one] = self.chunks.as_slice() {
            return Ok(Self::of(vec![one.clone()], self.reserved.sibling()));
        }
        let reserved = self.reserve(self.len)?;
        Ok(Self::of(vec![self.chunks.concat().into()], reserved))
    }

    /// A body of pieces of `bodies`, whose bytes it keeps.
    pub fn composed(chunks: Vec<Bytes>, bodies: Vec<Self>) -> Option<Self> {
        let reserved = bodies.into_iter().map(|body| body.reserved);
        let reserved = reserved.reduce(Reservation::and)?;
        Some(Self::of(chunks, reserved))
    }

    fn of(chunks: Vec<Bytes>, reserved: Reservation) -> Self {
        Self {
            len: chunks.iter().map(Bytes::len).sum(),
            chunks,
            reserved,
        }
    }

    /// What `work` makes of all of it, off the async threads if it is long, since that takes milliseconds;
    /// `None` if it panicked.
    pub async fn through<T: Send + 'static>(
        self,
        work: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> Option<T> {
        if self.len() <= LONG {
            return Some(work(&self.joined()));
        }
        spawn_blocking(move || work(&self.joined())).await.ok()
    }

    /// All bytes in one piece; a copy only if there are several.
    pub fn joined(&self) -> Cow<'_, [u8]> {
        match self.chunks.as_slice() {
            [one] => Cow::Borrowed(one),
            several => Cow::Owned(several.concat()),
        }
    }
}

/// Bytes that are reserved as long as they are there.
struct Counted {
    bytes: Bytes,
    _reserved: Arc<Reservation>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Chunks smaller than this are gathered into larger ones: each chunk costs memory beside its bytes,
/// and a sender may make them as small as one byte.
const SMALL: usize = 16 << 10;
/// Size of a gathered chunk.
const GATHERED: usize = 64 << 10;

/// A body that is being read.
#[derive(Debug)]
pub struct PayloadBuilder {
    chunks: Vec<Bytes>,
    gathered: BytesMut,
    len: usize,
    reserved: Reservation,
}

impl PayloadBuilder {
    /// A body whose growth counts against the budget of `reserved`.
    pub fn new(reserved: Reservation) -> Self {
        Self {
            chunks: Vec::new(),
            gathered: BytesMut::new(),
            len: 0,
            reserved,
        }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes yet?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a chunk.
    ///
    /// # Errors
    /// [`Exhausted`] if the budget does not allow it; the body stays as it was.
    pub fn push(&mut self, chunk: &Bytes) -> Result<(), Exhausted> {
        self.reserved.grow(chunk.len())?;
        self.len += chunk.len();
        if chunk.len() >= SMALL {
            self.flush();
            self.chunks.push(chunk.clone());
            return Ok(());
        }
        if self.gathered.len() + chunk.len() > GATHERED {
            self.flush();
        }
        self.gathered.extend_from_slice(chunk);
        Ok(())
    }

    /// Where to put the next bytes, up to its capacity. `expected`: of the whole rest.
    pub fn room(&mut self, expected: usize) -> &mut BytesMut {
        if self.gathered.len() == self.gathered.capacity() {
            self.flush();
            self.gathered = BytesMut::with_capacity(expected.min(GATHERED));
        }
        &mut self.gathered
    }

    /// So many bytes have been put there.
    ///
    /// # Errors
    /// [`Exhausted`] if the budget does not allow it; the body is of no use then.
    pub fn filled(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.len += bytes;
        self.reserved.grow(bytes)
    }

    /// The last `bytes` that were appended at once.
    pub fn last(&self, bytes: usize) -> &[u8] {
        let piece = match self.chunks.last() {
            Some(chunk) if self.gathered.is_empty() => chunk,
            _ => &self.gathered[..],
        };
        let start = piece.len().saturating_sub(bytes);
        piece.get(start..).unwrap_or_default()
    }

    /// The body as it is.
    pub fn finish(mut self) -> Payload {
        self.flush();
        Payload {
            chunks: self.chunks,
            len: self.len,
            reserved: self.reserved,
        }
    }

    fn flush(&mut self) {
        if !self.gathered.is_empty() {
            self.chunks.push(mem::take(&mut self.gathered).freeze());
        }
    }
}

/// A host's answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// End-to-end headers, without those of framing.
    pub headers: HeaderMap,
    /// As much of the body as is held.
    pub body: Payload,
    /// The rest of a body that is too large to hold: it can only be passed on as it comes.
    pub rest: Option<Box<dyn Rest>>,
}

impl Answer {
    /// One of our own, of JSON.
    ///
    /// # Errors
    /// [`Exhausted`] if `budget` does not allow its bytes.
    pub fn in_json(status: StatusCode, body: Vec<u8>, budget: &Budget) -> Result<Self, Exhausted> {
        let body = Payload::counted([body], budget.open())?;
        Ok(Self::of(status, body))
    }

    /// One of our own, of JSON, in the place of this one.
    ///
    /// # Errors
    /// [`Exhausted`] if the budget of this one does not allow its bytes.
    pub fn replaced(&self, status: StatusCode, body: Vec<u8>) -> Result<Self, Exhausted> {
        Ok(Self::of(status, self.body.replaced(body)?))
    }

    fn of(status: StatusCode, body: Payload) -> Self {
        const JSON: HeaderValue = HeaderValue::from_static("application/json");
        Self {
            status,
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, JSON)]),
            body,
            rest: None,
        }
    }
}

/// The rest of a body that is still on its way.
#[async_trait]
pub trait Rest: Send + Sync + std::fmt::Debug {
    /// The next chunk; `None` after the last.
    ///
    /// # Errors
    /// [`Cut`] if the host fails half-way.
    async fn next(&mut self) -> Result<Option<Bytes>, Cut>;
}

/// Why the rest of an answer does not come.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// The host stopped in the middle.
    #[error("the host failed in the middle of its answer: {0}")]
    Failed(String),
    /// It has come whole, and can be no result of what was asked.
    #[error("the host's answer can't be used: {0}")]
    Unusable(String),
    /// The time for the attempt is over; perhaps the client reads too slowly.
    #[error("the answer did not get through in time")]
    TooSlow,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn build(sizes: &[usize]) -> Payload {
        let mut builder = PayloadBuilder::new(Budget::new(usize::MAX).open());
        for (number, size) in sizes.iter().enumerate() {
            let byte = u8::try_from(number % 251).unwrap();
            builder.push(&Bytes::from(vec![byte; *size])).unwrap();
        }
        builder.finish()
    }

    #[test]
    fn tiny_chunks_are_gathered_and_large_ones_are_kept() {
        let sizes = [1, 2, SMALL, 3, GATHERED, SMALL - 1, 1];
        let payload = build(&sizes);
        let lengths: Vec<usize> = payload.chunks().iter().map(Bytes::len).collect();
        assert_eq!(lengths, [3, SMALL, 3, GATHERED, SMALL]);
        assert_eq!(payload.len(), sizes.iter().sum::<usize>());
        let bytes = payload.joined();
        let expected = sizes.iter().enumerate();
        let expected: Vec<u8> = expected
            .flat_map(|(number, size)| vec![u8::try_from(number).unwrap(); *size])
            .collect();
        assert!(bytes == expected, "in order");
    }

    #[test]
    fn chunks_are_counted_until_the_last_is_dropped() {
        let budget = Budget::new(100);
        let payload = Payload::counted([vec![1; 80]], budget.open()).unwrap();
        let mut chunks = payload.into_counted_chunks();
        assert_eq!((chunks.concat().len(), budget.held()), (80, 80));
        let rest = chunks[0].split_off(79);
        drop(chunks);
        assert_eq!((&rest[..], budget.held()), (&[1][..], 80));
        drop(rest);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_million_single_bytes_make_few_chunks() {
        let payload = build(&vec![1; 1 << 20]);
        assert_eq!((payload.len(), payload.chunks().len()), (1 << 20, 16));
    }
}
