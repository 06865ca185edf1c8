//! One try of one request on one host.
//!
//! What the answer means is decided on its head, and on its body once that has been [read](super::reading).

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use gpu_bridge_wire::items::Glance;
use gpu_bridge_wire::most_items;
use http::{HeaderValue, header};
use tokio::time::{Instant, timeout_at};

use super::exchange::{Destination, Exchange, Failure};
use super::hosts::Means;
use super::kept::Kept;
use super::key;
use super::meaning::{Key, Meaning, meaning, meaning_in_openai};
use super::openai;
use super::reading::{Reading, hold};
use super::request::Request;
use super::result::{self, longest, unusable};
use super::trouble::Trouble;
use super::{Doubt, Target, Terms, Verdict};
use crate::config::OpenAi;
use crate::message::{Answer, Call, Cut, Payload};
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
            // Then it is translated afterwards.
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
            Meaning::Sibling(why) => match self.answer(exchange, reading.of_doubt()).await {
                Ok((answer, _)) => Verdict::Sibling {
                    answer: self.in_waiting(answer),
                    why,
                },
                Err(verdict) => verdict,
            },
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
