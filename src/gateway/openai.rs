//! OpenAI's API at the edge: a request for embeddings becomes one for `/embed` before a host is looked
//! for, and what a host answers is said in that dialect afterwards. Nothing in between knows of it. The
//! dialect itself is in `gpu_bridge_wire::openai`.

use gpu_bridge_wire::openai::{self, Form, TOKENS_HEADER, Unusable};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::aggregate::Aggregates;
use super::peek::{self, Peek};
use super::refusals::HINT;
use super::respond::Reply;
use super::route::Route;
use crate::budget::{Budget, Exhausted};
use crate::dispatch::Delivery;
use crate::headers::is_json;
use crate::message::Payload;
use crate::telemetry::Reason;

pub(super) use gpu_bridge_wire::openai::speaks;

/// So many times its size a request takes in the budget at most: as it came, in one piece, and translated.
pub(super) const COPIES: usize = 3;
/// Said of a body that could not be gone through, which would be a bug.
const INTERNAL: &str = "internal error; tell the operator the answer's X-Request-Id";

/// What a host is to compute.
pub(super) struct Job {
    pub(super) body: Payload,
    pub(super) peek: Peek,
    /// How OpenAI's dialect wants the answer.
    pub(super) form: Form,
}

/// Why there is no job.
pub(super) enum NotRead {
    NoMemory(Exhausted),
    Refused(Box<Reply>),
}

impl From<Exhausted> for NotRead {
    fn from(exhausted: Exhausted) -> Self {
        Self::NoMemory(exhausted)
    }
}

/// For a body that can't be read, going by its headers; it may not have come yet.
pub(super) fn unreadable(headers: &HeaderMap) -> Option<Reply> {
    if is_json(headers) {
        return None;
    }
    let text = "the body must be JSON; say so with Content-Type: application/json";
    let reply = Reply::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    Some(reply.because(Reason::BadHeader))
}

/// From a body of `POST /v1/embeddings` to the body of `/embed`.
pub(super) async fn read(body: Payload, budget: &Budget) -> Result<Job, NotRead> {
    let mut held = budget.open();
    // For the body in one piece, and for what it becomes.
    held.grow(body.len().saturating_mul(COPIES - 1))?;
    let read = body.through(|body| {
        let request = openai::Request::read(body)?;
        let mut peek = peek::Reader::new(Route::Embed);
        peek.read(&request.body);
        Ok((request, peek.finish()))
    });
    let (request, peek) = match read.await {
        Some(Ok(read)) => read,
        Some(Err(refusal)) => return Err(refused(&refusal)),
        None => {
            let reply = Reply::error(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL);
            return Err(NotRead::Refused(Box::new(reply)));
        }
    };
    drop(held);
    Ok(Job {
        body: Payload::counted([request.body], budget.open())?,
        peek,
        form: request.form,
    })
}

fn refused(refusal: &openai::Refusal) -> NotRead {
    let reply = Reply::error(StatusCode::BAD_REQUEST, &refusal.message).because(Reason::BadBody);
    NotRead::Refused(Box::new(Reply {
        param: refusal.param,
        ..reply
    }))
}

/// A host's answer to `/embed`, whatever it is, in OpenAI's dialect; and why it can't be said in that, if it can't. All
/// of it is held already, unless there was no room.
///
/// # Errors
/// [`Exhausted`] if it can't be held.
pub(super) async fn translated(
    mut delivery: Delivery,
    form: Form,
    budget: &Budget,
) -> Result<(Delivery, Option<String>), Exhausted> {
    if delivery.rest.is_some() {
        return Err(Exhausted);
    }
    let answer = &mut delivery.answer;
    let (status, tokens) = (answer.status, tokens(&answer.headers));
    let body = answer.body.take();
    let mut held = budget.open();
    held.grow(body.len().saturating_mul(2))?;
    let said = body.through(move |body| say(status, body, form, tokens));
    let said = said.await;
    drop(held);
    let (status, body, why) =
        said.unwrap_or_else(|| (500, openai::fault(500, INTERNAL, None), None));
    answer.status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    answer.body = Payload::counted([body], budget.open())?;
    answer.headers.remove(header::CONTENT_ENCODING);
    let json = HeaderValue::from_static("application/json");
    answer.headers.insert(header::CONTENT_TYPE, json);
    Ok((delivery, why))
}

/// Status and body, and why it is not what the host said, if it is not.
fn say(status: StatusCode, body: &[u8], form: Form, tokens: u64) -> (u16, Vec<u8>, Option<String>) {
    if status != StatusCode::OK {
        let param = (status == StatusCode::NOT_FOUND).then_some("model");
        let (status, body) = openai::error(status.as_u16(), body, None, param);
        return (status, body, None);
    }
    match openai::translate(body, form, tokens) {
        Ok(body) => (200, body, None),
        Err(unusable) => {
            let (status, param) = match unusable {
                Unusable::Unreadable => (502, None),
                Unusable::Dimensions { .. } => (400, Some("dimensions")),
            };
            let why = unusable.to_string();
            (status, openai::fault(status, &why, param), Some(why))
        }
    }
}

/// As the host counted them; 0 if it does not.
fn tokens(headers: &HeaderMap) -> u64 {
    let told = headers.get(TOKENS_HEADER).and_then(|it| it.to_str().ok());
    told.and_then(openai::read_tokens).unwrap_or(0)
}

/// What hosts tell that they can serve: all, or the one at `path`.
pub(super) fn models(pool: &Aggregates, path: &str) -> Reply {
    let Some(id) = openai::model_id(path) else {
        return pool.list();
    };
    match openai::model(pool.models().iter().map(String::as_str), &id) {
        Some(model) => Reply::of_json(StatusCode::OK, model),
        None => Reply::error(
            StatusCode::NOT_FOUND,
            "no host of the pool tells of this model; GET /v1/models lists those that they tell of",
        )
        .because(Reason::NoModel),
    }
}

/// An answer of the proxy itself, as OpenAI says it if it is an error.
pub(super) fn restated(reply: Reply) -> Reply {
    if reply.status.as_u16() < 400 {
        return reply;
    }
    let lacks_model = reply.reason == Some(Reason::NoModel);
    let param = reply.param.or(lacks_model.then_some("model"));
    let hint = reply.headers.get(HINT).and_then(|hint| hint.to_str().ok());
    let (status, body) = openai::error(reply.status.as_u16(), &reply.body, hint, param);
    Reply {
        status: StatusCode::from_u16(status).unwrap_or(reply.status),
        body: body.into(),
        ..reply
    }
}
