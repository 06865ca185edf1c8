//! One try of one request on one host.
//!
//! The answer is held until it is whole, so that a host that dies in the middle of it costs a retry
//! and not a broken reply. Only what is too large to hold is passed on as it comes.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::OptionFuture;
use gpu_bridge_wire::items::Glance;
use gpu_bridge_wire::most_items;
use http::{HeaderValue, StatusCode, header};
use tokio::time::{Instant, timeout_at};

use super::coding::{BROKEN, Decoder, Next, Undecodable};
use super::exchange::{Broken, Destination, Exchange, Failure};
use super::hosts::Means;
use super::kept::Kept;
use super::key;
use super::meaning::{Key, Meaning, is_cut, meaning, meaning_in_openai, tells_its_end};
use super::openai;
use super::request::Request;
use super::result::{self, HOLD, Watch, longest, too_long, unusable};
use super::trouble::Trouble;
use super::{Doubt, Target, Terms, Verdict};
use crate::config::OpenAi;
use crate::headers;
use crate::message::{Answer, Call, Cut, Payload, PayloadBuilder, Rest};
use crate::telemetry::trace::{TRACEPARENT, TraceContext};

/// Bytes of a refusal (busy, wrong key) that are read to keep the connection.
const DRAIN: usize = 64 << 10;
/// A refusal comes in one piece; a sibling should not wait for one that does not.
const DRAIN_TIME: Duration = Duration::from_millis(100);

/// What an attempt needs.
pub(super) struct Attempt<'a> {
    pub(super) target: Arc<Target>,
    pub(super) means: &'a Means,
    pub(super) terms: Terms,
}

/// How an answer is read.
#[derive(Clone, Copy)]
struct Reading<'a> {
    /// Bytes that it may have if it is held whole, or was compressed.
    longest: usize,
    /// It can be used only if it is held whole.
    is_whole: bool,
    /// For the rest of one that is too large to hold.
    deadline: Instant,
    /// What its success is looked at for as it comes, in the words of `/embed` and `/bertscore`.
    call: Option<&'a Call>,
    /// Codings are taken back, since it is to be understood here.
    is_understood: bool,
}

impl Attempt<'_> {
    /// Tries `call` once.
    pub(super) async fn run(&self, call: &Call) -> Verdict {
        let started = Instant::now();
        let exchange = pin!(self.exchange(call, started + self.terms.longest));
        match timeout_at(started + self.terms.limit, exchange).await {
            Ok(verdict) => told_apart(verdict, call.demand.work.items),
            Err(_) => fault(
                true,
                format!("no whole answer within {:?}", self.terms.limit),
            ),
        }
    }

    /// `deadline`: for the rest of an answer that is too large to hold.
    async fn exchange(&self, call: &Call, deadline: Instant) -> Verdict {
        if let Some(api) = self.target.openai() {
            // Boxed, so that it weighs nothing on attempts on other hosts.
            return Box::pin(self.translated(call, api, deadline)).await;
        }
        let mut head = self.target.request(&call.method, &call.path);
        for (name, value) in &call.headers {
            head.header(name, value.as_bytes());
        }
        let call_of_items = result::kind(call).map(|_| call);
        let reading = Reading {
            longest: longest(call.demand.work.items as usize),
            // It is translated afterwards.
            is_whole: call.demand.counted,
            deadline,
            call: call_of_items,
            is_understood: call_of_items.is_some(),
        };
        self.talk(head, &call.body, reading).await
    }

    /// The same with a host that speaks OpenAI's API.
    async fn translated(&self, call: &Call, api: &Arc<OpenAi>, deadline: Instant) -> Verdict {
        let budget = &self.means.budget;
        let asked = match openai::ask(call, api, self.target.listed(), budget).await {
            Ok(asked) => asked,
            Err(verdict) => return verdict,
        };
        let head = openai::head(&self.target, call);
        let reading = Reading {
            longest: asked.longest(),
            is_whole: true,
            deadline,
            call: None,
            is_understood: true,
        };
        let verdict = self.talk(head, &asked.body, reading).await;
        asked.restated(verdict, budget).await
    }

    async fn talk(&self, head: Request, body: &Payload, reading: Reading<'_>) -> Verdict {
        let Some(address) = self.target.address() else {
            return Verdict::Ours {
                reason: Trouble::Unresolved.to_string(),
            };
        };
        let destination = Destination {
            target: Arc::clone(&self.target),
            address,
        };
        let request = ended(head, body.len(), self.terms.trace);
        let (body, fresh) = (body.chunks(), self.terms.fresh);
        let exchange = async {
            match Exchange::start(self.means, destination, request, body, fresh).await {
                Ok(exchange) => self.judge(exchange, reading).await,
                Err(failure) => not_whole(&failure),
            }
        };
        tokio::select! {
            biased;
            verdict = exchange => verdict,
            () = self.falls_silent(address) => Verdict::Moved { hung: true },
        }
    }

    async fn judge(&self, exchange: Exchange, reading: Reading<'_>) -> Verdict {
        let status = exchange.head().status;
        let meaning = match self.target.openai() {
            None => meaning,
            Some(_) => meaning_in_openai,
        };
        let of = |key| meaning(exchange.head(), key, SystemTime::now());
        let mut found = of(Key::Unknown);
        if found == Meaning::AskForKey {
            found = of(Box::pin(key::ask(&self.target, self.means)).await);
        }
        match found {
            Meaning::Busy { retry_after } => {
                let words = Box::pin(drain(exchange, &self.means.kept)).await;
                // It stays so, however long it is left alone.
                if self.target.openai().is_some() && openai::is_used_up(&words) {
                    return Verdict::Misconfigured { status };
                }
                Verdict::Busy { retry_after }
            }
            Meaning::AskForKey | Meaning::Misconfigured => {
                Box::pin(drain(exchange, &self.means.kept)).await;
                Verdict::Misconfigured { status }
            }
            Meaning::Deliver => match self.answer(exchange, reading).await {
                Ok((answer, glance)) => match reading.call {
                    Some(call) => result::judged(answer, glance, call, &self.means.budget),
                    None => Verdict::Deliver(answer),
                },
                Err(verdict) => verdict,
            },
            Meaning::Sibling(why) => {
                let is_whole = false;
                let reading = Reading {
                    is_whole,
                    ..reading
                };
                match self.answer(exchange, reading).await {
                    Ok((answer, _)) => Verdict::Sibling {
                        answer: self.in_waiting(answer),
                        why,
                    },
                    Err(verdict) => verdict,
                }
            }
        }
    }

    /// The answer, which must not tell our key; and what was seen of it.
    async fn answer(
        &self,
        exchange: Exchange,
        reading: Reading<'_>,
    ) -> Result<(Answer, Option<Glance>), Verdict> {
        let held = hold(exchange, self.means, reading).await;
        let (answer, glance) = held.map_err(|cut| match cut {
            Cut::Unusable(why) => unusable(&why, &self.means.budget),
            cut => fault(true, cut.to_string()),
        })?;
        if self.target.gives_our_key_away(&answer) {
            return Err(fault(
                true,
                Cut::Failed(Trouble::Echo.to_string()).to_string(),
            ));
        }
        Ok((answer, glance))
    }

    /// A doubtful answer must wait for what a sibling says. One that is too long to be held so long
    /// loses its text; a redirect loses where it leads, which is for none but us.
    fn in_waiting(&self, mut answer: Answer) -> Answer {
        if answer.rest.take().is_some() {
            answer.body = Payload::empty(self.means.budget.open());
        }
        answer.headers.remove(header::LOCATION);
        answer
    }
}

/// With what every request carries at the end of its head. `length`: of its body.
fn ended(mut request: Request, length: usize, trace: Option<TraceContext>) -> BytesMut {
    let length = HeaderValue::from(length);
    request.header(&header::CONTENT_LENGTH, length.as_bytes());
    if let Some(trace) = trace {
        request.header(&TRACEPARENT, trace.header().as_bytes());
    }
    request.end()
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
async fn hold(
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
    let mut source = Source {
        exchange,
        decoder: decoder.map(Box::new),
    };
    while let Some(chunk) = source.next().await? {
        left.take(&chunk)?;
        if body.len() + chunk.len() > most || body.push(&chunk).is_err() {
            let watch = call.zip(glance);
            let watch = watch.map(|(call, glance)| Box::pin(Watch::over(glance, call)));
            let rest = Streaming {
                first: Some(chunk),
                source,
                left,
                deadline: reading.deadline,
                watch: OptionFuture::from(watch).await,
            };
            let answer = Answer {
                status,
                headers,
                body: body.finish(),
                rest: Some(Box::new(rest)),
            };
            return Ok((answer, None));
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
    let answer = Answer {
        status,
        headers,
        body,
        rest: None,
    };
    Ok((answer, glance))
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

impl Reading<'_> {
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

/// A refusal for more items than the host takes at once is told from others.
fn told_apart(verdict: Verdict, items: u32) -> Verdict {
    let refusal = match &verdict {
        _ if items < 2 => return verdict,
        Verdict::Deliver(answer) if answer.status.is_client_error() => answer,
        Verdict::Sibling {
            answer,
            why: Doubt::Limit,
        } => answer,
        _ => return verdict,
    };
    let most = most_items(&refusal.body.joined(), items);
    match (verdict, most) {
        (Verdict::Deliver(answer) | Verdict::Sibling { answer, .. }, Some(most)) => {
            let why = Doubt::TooMany { most };
            Verdict::Sibling { answer, why }
        }
        (verdict, _) => verdict,
    }
}

/// Reads the rest of a short refusal, so that the connection can be kept. Returns what of it has come.
async fn drain(mut exchange: Exchange, kept: &Kept) -> Vec<u8> {
    let mut words = Vec::new();
    let whole = async {
        loop {
            match exchange.next_chunk().await {
                Ok(Some(chunk)) if words.len() + chunk.len() <= DRAIN => {
                    words.extend_from_slice(&chunk);
                }
                Ok(None) => return true,
                Ok(Some(_)) | Err(_) => return false,
            }
        }
    };
    let whole = tokio::time::timeout(DRAIN_TIME, whole).await;
    if whole == Ok(true) {
        exchange.release(kept);
    }
    words
}

/// The rest of an answer that is too large to hold. The connection is not kept afterwards.
struct Streaming {
    first: Option<Bytes>,
    source: Source,
    left: Left,
    deadline: Instant,
    watch: Option<Watch>,
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

fn not_whole(failure: &Failure) -> Verdict {
    match failure.shortage() {
        Some(what) => Verdict::Ours {
            reason: format!("this machine is out of {what}"),
        },
        None => fault(matches!(failure, Failure::Broken(_)), failure.to_string()),
    }
}

fn fault(sent: bool, reason: String) -> Verdict {
    Verdict::Fault { sent, reason }
}
