//! How the answer to an attempt is read.
//!
//! It is held until it is whole, so that a host that dies in the middle of it costs a retry and not a broken reply.
//! Only what is too large to hold is passed on as it comes.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::OptionFuture;
use gpu_bridge_wire::items::Glance;
use http::StatusCode;
use tokio::time::{Instant, timeout_at};

use super::coding::{BROKEN, Decoder, Next, Undecodable};
use super::exchange::{Broken, Exchange};
use super::hosts::Means;
use super::meaning::{is_cut, tells_its_end};
use super::result::{self, HOLD, Watch, too_long};
use super::trouble::Trouble;
use crate::headers;
use crate::message::{Answer, Call, Cut, PayloadBuilder, Rest};

/// How an answer is read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    /// Bytes that it may have if it is held whole, or was compressed.
    pub(super) longest: usize,
    /// It can be used only if it is held whole.
    pub(super) is_whole: bool,
    /// For the rest of one that is too large to hold.
    pub(super) deadline: Instant,
    /// What its success is looked at for as it comes, in the words of `/embed` and `/bertscore`.
    pub(super) call: Option<&'a Call>,
    /// Codings are taken back, since it is to be understood here.
    pub(super) is_understood: bool,
}

impl Reading<'_> {
    /// The same of one that a sibling may contradict, so that it need not be whole.
    pub(super) fn of_doubt(self) -> Self {
        let is_whole = false;
        Self { is_whole, ..self }
    }

    /// How much is held of an answer, and how much may come.
    fn bounds(self, is_compressed: bool) -> (usize, Left) {
        let most = if self.is_whole { self.longest } else { HOLD };
        let longest = if self.is_whole || is_compressed {
            self.longest
        } else {
            usize::MAX
        };
        let bytes = longest;
        (most, Left { bytes, longest })
    }
}

/// Bytes that may still come of an answer.
struct Left {
    bytes: usize,
    /// Of all of it.
    longest: usize,
}

impl Left {
    fn take(&mut self, chunk: &Bytes) -> Result<(), Cut> {
        let left = self.bytes.checked_sub(chunk.len());
        self.bytes = left.ok_or_else(|| Cut::Unusable(too_long(self.longest)))?;
        Ok(())
    }
}

/// What comes of an answer, without its coding if that is taken back.
struct Source {
    exchange: Exchange,
    decoder: Option<Box<Decoder>>,
}

impl Source {
    /// The next chunk; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(self.exchange.next_chunk().await?);
        };
        loop {
            // Little may become much, and take as long: others have their turn.
            tokio::task::yield_now().await;
            match decoder.next() {
                Ok(Next::Decoded(piece)) => return Ok(Some(piece)),
                Ok(Next::Wanted) => decoder.take(self.exchange.next_chunk().await?),
                Ok(Next::End) => return Ok(None),
                Err(Undecodable) => return Err(Cut::Unusable(BROKEN.to_owned())),
            }
        }
    }
}

/// Reads the body to its end, or as far as it may be held. Returns what was seen of one that is held, too.
pub(super) async fn hold(
    mut exchange: Exchange,
    means: &Means,
    reading: Reading<'_>,
) -> Result<(Answer, Option<Glance>), Cut> {
    let status = exchange.head().status;
    let mut headers = exchange.take_headers();
    let decoder = reading.is_understood.then(|| Decoder::of(&mut headers));
    let decoder = decoder.flatten();
    let may_be_cut = exchange.is_unframed() && tells_its_end(&headers);
    let is_result = status == StatusCode::OK && !headers::is_coded(&headers);
    let call = reading.call.filter(|_| is_result);
    let mut glance = call.and_then(result::kind).map(Glance::at);
    let mut body = PayloadBuilder::new(means.budget.open());
    let (most, mut left) = reading.bounds(decoder.is_some());
    let answer = |body, rest| Answer {
        status,
        headers,
        body,
        rest,
    };
    let mut source = Source {
        exchange,
        decoder: decoder.map(Box::new),
    };
    while let Some(chunk) = source.next().await? {
        left.take(&chunk)?;
        if body.len() + chunk.len() > most || body.push(&chunk).is_err() {
            let rest = Streaming::behind(chunk, source, left, reading.deadline);
            let rest: Box<dyn Rest> = Box::new(rest.watched(call.zip(glance)).await);
            return Ok((answer(body.finish(), Some(rest)), None));
        }
        if let Some(glance) = &mut glance {
            glance.see(&chunk);
        }
    }
    source.exchange.release(&means.kept);
    let body = body.finish();
    if may_be_cut && is_cut(&body.chunks().concat()) {
        return Err(Cut::Failed(Trouble::Cut.to_string()));
    }
    Ok((answer(body, None), glance))
}

/// The rest of an answer that is too large to hold. The connection is not kept afterwards.
struct Streaming {
    first: Option<Bytes>,
    source: Source,
    left: Left,
    deadline: Instant,
    watch: Option<Watch>,
}

impl Streaming {
    /// What follows from the chunk `first` on.
    fn behind(first: Bytes, source: Source, left: Left, deadline: Instant) -> Self {
        Self {
            first: Some(first),
            source,
            left,
            deadline,
            watch: None,
        }
    }

    /// `seen`: of what came before it, in answer to which call.
    async fn watched(self, seen: Option<(&Call, Glance)>) -> Self {
        let watch = seen.map(|(call, glance)| Box::pin(Watch::over(glance, call)));
        let watch = OptionFuture::from(watch).await;
        Self { watch, ..self }
    }
}

#[async_trait]
impl Rest for Streaming {
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        let next = if let Some(first) = self.first.take() {
            Some(first)
        } else {
            let next = timeout_at(self.deadline, self.source.next()).await;
            let next = next.map_err(|_| Cut::TooSlow)??;
            next.iter().try_for_each(|chunk| self.left.take(chunk))?;
            next
        };
        match &next {
            Some(chunk) => self.watch.iter_mut().for_each(|it| it.see(chunk)),
            None => {
                if let Some(why) = self.watch.take().and_then(Watch::end) {
                    return Err(Cut::Unusable(why));
                }
            }
        }
        Ok(next)
    }
}

impl std::fmt::Debug for Streaming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streaming").finish_non_exhaustive()
    }
}

impl From<Broken> for Cut {
    fn from(broken: Broken) -> Self {
        Self::Failed(Trouble::exchanging(&broken).to_string())
    }
}
