//! One try of one request on one host.
//!
//! The answer is held until it is whole, so that a host that dies in the middle of it costs a retry
//! and not a broken reply. Only what is too large to hold is passed on as it comes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::header;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use tokio::time::{Instant, timeout_at};

use super::exchange::{Exchange, Failure};
use super::verdict::{Class, classify};
use super::{Settings, Target, Verdict, headers};
use crate::budget::Budget;
use crate::message::{Answer, Call, Cut, Payload, Rest};

/// Answers up to this size are held whole. The largest legal one, 100 embeddings of 4,096 numbers,
/// is about 9 MB.
const HOLD: usize = 16 << 20;
/// Bytes of a refusal (busy, wrong key) that are read to keep the connection.
const DRAIN: usize = 64 << 10;
/// A refusal comes in one piece; a sibling should not wait for one that does not.
const DRAIN_TIME: Duration = Duration::from_millis(100);

pub(super) async fn attempt(
    connector: &Arc<Connector>,
    target: &Target,
    call: &Call,
    settings: &Settings,
    budget: &Budget,
) -> Verdict {
    let deadline = Instant::now() + settings.attempt;
    match timeout_at(
        deadline,
        run(connector, target, call, settings, budget, deadline),
    )
    .await
    {
        Ok(verdict) => verdict,
        Err(_) => fault(
            true,
            format!("no whole answer within {:?}", settings.attempt),
        ),
    }
}

async fn run(
    connector: &Arc<Connector>,
    target: &Target,
    call: &Call,
    settings: &Settings,
    budget: &Budget,
    deadline: Instant,
) -> Verdict {
    let Some(peer) = target.peer(settings.connect) else {
        return fault(false, "its name has not been resolved".to_owned());
    };
    let request = match request_for(target, call) {
        Ok(request) => request,
        Err(error) => return fault(false, format!("can't build the request: {error}")),
    };
    let exchange = match Exchange::start(connector, &peer, &request, call.body.chunks()).await {
        Ok(exchange) => exchange,
        Err(failure) => {
            let sent = matches!(failure, Failure::Broken(_));
            return fault(sent, failure.to_string());
        }
    };
    let Some(head) = exchange.head() else {
        return fault(true, "an answer without a head".to_owned());
    };
    match classify(head.status, &head.headers, SystemTime::now()) {
        Class::Busy { retry_after } => {
            drain(exchange).await;
            Verdict::Busy { retry_after }
        }
        Class::Misconfigured => {
            let status = head.status;
            drain(exchange).await;
            Verdict::Misconfigured { status }
        }
        class @ (Class::Deliver | Class::ServerError) => {
            match hold(exchange, budget, deadline).await {
                Ok(answer) if class == Class::Deliver => Verdict::Deliver(answer),
                Ok(answer) if answer.rest.is_none() => Verdict::ServerError(answer),
                Ok(_) => fault(true, "an endless server error".to_owned()),
                Err(cut) => fault(true, cut.to_string()),
            }
        }
    }
}

fn request_for(target: &Target, call: &Call) -> pingora::Result<RequestHeader> {
    let mut request = RequestHeader::build(
        call.method.clone(),
        call.target.as_bytes(),
        Some(call.headers.len() + 3),
    )?;
    for (name, value) in &call.headers {
        request.append_header(name.clone(), value)?;
    }
    request.insert_header(header::CONTENT_LENGTH, call.body.len())?;
    target.sign(&mut request)?;
    Ok(request)
}

/// Reads the body to its end, or as far as it may be held.
async fn hold(
    mut exchange: Exchange<'_>,
    budget: &Budget,
    deadline: Instant,
) -> Result<Answer, Cut> {
    let (status, headers) = match exchange.head() {
        Some(head) => (head.status, headers::end_to_end(&head.headers)),
        None => return Err(Cut("no head".to_owned())),
    };
    let mut body = Payload::new(budget.open());
    while let Some(chunk) = exchange.next_chunk().await.map_err(cut)? {
        let fits = body.len() + chunk.len() <= HOLD && body.push(chunk.clone()).is_ok();
        if !fits {
            let rest = Streaming {
                first: Some(chunk),
                session: exchange.into_session(),
                deadline,
            };
            return Ok(Answer {
                status,
                headers,
                body,
                rest: Some(Box::new(rest)),
            });
        }
    }
    exchange.release().await;
    Ok(Answer {
        status,
        headers,
        body,
        rest: None,
    })
}

/// Reads the rest of a short refusal, so that the connection can be kept.
async fn drain(mut exchange: Exchange<'_>) {
    let mut left = DRAIN;
    let whole = async {
        loop {
            match exchange.next_chunk().await {
                Ok(Some(chunk)) if chunk.len() <= left => left -= chunk.len(),
                Ok(None) => return true,
                Ok(Some(_)) | Err(_) => return false,
            }
        }
    };
    let whole = tokio::time::timeout(DRAIN_TIME, whole).await;
    if whole == Ok(true) {
        exchange.release().await;
    }
}

/// The rest of an answer that is too large to hold. The connection is not kept afterwards.
struct Streaming {
    first: Option<Bytes>,
    session: HttpSession,
    deadline: Instant,
}

#[async_trait]
impl Rest for Streaming {
    async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        if let Some(chunk) = self.first.take() {
            return Ok(Some(chunk));
        }
        match timeout_at(self.deadline, self.session.read_response_body()).await {
            Ok(chunk) => chunk.map_err(cut),
            Err(_) => Err(Cut("too slow".to_owned())),
        }
    }
}

impl std::fmt::Debug for Streaming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streaming").finish_non_exhaustive()
    }
}

fn cut(error: impl std::fmt::Display) -> Cut {
    Cut(error.to_string())
}

fn fault(sent: bool, reason: String) -> Verdict {
    Verdict::Fault { sent, reason }
}
