//! The HTTP side: the wire contract of the Python service, over any [`Engine`].
//!
//! The way of a request, one file for each step:
//!
//! ```text
//! auth ─ route ─┬─ GET: answer, from memory
//!               └─ POST: body (bounded) ─ validate ─ slots (≤ 1 s) ─ compute ─ answer
//! ```
//!
//! `auth`, `route` and `validate` decide and are pure; `error` is the one map from refusals to
//! answers; `openai` serves the same in OpenAI's dialect; `jobs` is what `/status` shows; `request_log` writes one line for each request and counts
//! it; `budget` bounds the bytes that all of them keep in memory.
//! Nothing here computes, and nothing heavy runs on the async threads.

mod answer;
mod auth;
mod body;
mod budget;
mod compute;
mod encoding;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod jobs;
mod json;
mod openai;
mod problem;
mod request_log;
mod route;
mod slots;
mod validate;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt as _;
use gpu_bridge_framing::Refusal;
use gpu_bridge_places::{Asking, Place, Visit};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::Semaphore;

pub use answer::ENGINE;
pub use auth::ApiKey;
pub use validate::Limits;

use self::answer::Audience;
use self::budget::{Budget, Reservation};
use self::error::{Answer, ApiError};
use self::jobs::Jobs;
use self::request_log::{RequestIds, RequestLog};
use self::route::{Decision, Route};
use self::slots::Slots;
use crate::device::DeviceFacts;
use crate::engine::Engine;
use crate::metrics::{self, Metrics};

/// What the operator decides about the HTTP side.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key that clients present; `None` lets everybody in.
    pub api_key: Option<ApiKey>,
    /// Computations that may run at once; 0 = always busy.
    pub max_concurrent: u32,
    /// The largest request.
    pub limits: Limits,
    /// Bytes of requests and answers that may be in memory at once.
    pub max_buffered: usize,
    /// Model for requests to `/embed` that name none.
    pub default_embed: String,
    /// Model for requests to `/bertscore` that name none.
    pub default_bertscore: String,
    /// What `/health` and `/info` call the device.
    pub device: String,
}

/// Marks requests that came over TLS.
#[derive(Clone, Copy, Debug)]
pub struct Https;

/// Requests that may wait for a model at once; far below the runtime's 512 blocking threads.
const MOST_LOADING: usize = 64;

/// In the log for a panic, whose own text may hold a client's.
const PANICKED: &str = "a bug: it panicked";

/// What the HTTP side serves.
#[derive(Clone)]
pub struct Services {
    /// Computes.
    pub engine: Arc<dyn Engine>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// What is known of the device.
    pub facts: DeviceFacts,
}

/// What the handlers share.
struct App {
    services: Services,
    options: Options,
    slots: Slots,
    /// Places for requests that wait for their model to be loaded: each keeps a thread busy.
    loading: Arc<Semaphore>,
    jobs: Jobs,
    ids: RequestIds,
    budget: Budget,
}

/// One request on its way.
struct Exchange {
    head: Parts,
    body: Body,
    log: RequestLog,
    held: Reservation,
    /// Keeps the connection, if it is one of a [`Server`](crate::server::Server).
    visit: Option<Visit>,
}

/// The service as a whole, ready to be served.
pub fn router(services: Services, options: Options) -> Router {
    let app = App {
        services,
        slots: Slots::new(options.max_concurrent),
        loading: Arc::new(Semaphore::new(MOST_LOADING)),
        jobs: Jobs::default(),
        ids: RequestIds::new(),
        budget: Budget::new(options.max_buffered),
        options,
    };
    // `route` decides what a path means; axum's own routing has other ideas of HEAD and slashes.
    Router::new().fallback(handle).with_state(Arc::new(app))
}

async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let counts = &app.services.metrics.http;
    let (head, body) = request.into_parts();
    let mut exchange = Exchange {
        log: RequestLog::begin(&app.ids, counts, &head),
        held: app.budget.open(),
        head,
        body,
        visit: None,
    };
    // Wherever a bug breaks it off, the client reads that, and the log has no guess that it left.
    let outcome = AssertUnwindSafe(answer(&app, &mut exchange)).catch_unwind();
    let outcome = outcome.await;
    let outcome = outcome.unwrap_or_else(|_| Err(exchange.log.internal(&PANICKED)));
    if let Err(ApiError::Busy(reason)) = &outcome {
        counts.rejected(*reason);
    }
    let refuse = if openai::speaks(exchange.head.uri.path()) {
        ApiError::into_openai
    } else {
        ApiError::into_answer
    };
    exchange.finish(outcome.unwrap_or_else(refuse))
}

impl Exchange {
    fn finish(self, mut answer: Answer) -> Response {
        if let Ok(id) = HeaderValue::from_str(self.log.id()) {
            answer.headers_mut().insert(request_log::REQUEST_ID, id);
        }
        self.log.finish(answer.status());
        body::abandon(&self.head.headers, self.body);
        answer.map(|bytes| Body::from(self.held.keep(bytes)))
    }
}

async fn answer(app: &Arc<App>, exchange: &mut Exchange) -> Result<Answer, ApiError> {
    let head = &exchange.head;
    if let Some(bad) = head.extensions.get().and_then(Refusal::get) {
        return Err(ApiError::BadHead(bad));
    }
    let (key, path) = (app.options.api_key.as_ref(), head.uri.path());
    let decision = route::decide(&head.method, path);
    let is_permitted = auth::permits(key, path, &head.headers);
    let asking = Asking {
        shows_key: auth::shows(key, &head.headers),
        transfers: is_permitted && matches!(decision, Decision::Serve(Route::Compute(_))),
    };
    // A connection that had to make room, and can't have another place, ends in any case.
    let place = head.extensions.get::<Place>();
    exchange.visit = place.and_then(|place| place.ask(asking).ok());
    if !is_permitted {
        return Err(ApiError::Unauthorized);
    }
    match decision {
        Decision::Serve(route) => serve(app, route, exchange).await,
        Decision::Redirect(path) => Ok(redirect(path, head)),
        Decision::WrongMethod { allow } => Err(ApiError::MethodNotAllowed { allow }),
        Decision::Unknown => Err(ApiError::NotFound),
    }
}

async fn serve(app: &Arc<App>, route: Route, exchange: &mut Exchange) -> Result<Answer, ApiError> {
    let device = &app.options.device;
    let body = match route {
        Route::Compute(task) => return compute::serve(app, task, exchange).await,
        Route::Models => return openai::models(app, exchange.head.uri.path()),
        Route::Metrics => return scrape(app, &exchange.log),
        Route::Health => answer::health(device, &app.services.engine.readiness()),
        Route::Ready => ready(app)?,
        Route::Info => info(app),
        Route::Status => answer::status(app.slots.total(), app.jobs.list()),
        Route::OpenApi => Ok(answer::OPENAPI.into()),
    };
    let body = body.map_err(|error| exchange.log.internal(&error))?;
    Ok(error::json(StatusCode::OK, body))
}

/// The metrics, in Prometheus' text format.
fn scrape(app: &App, log: &RequestLog) -> Result<Answer, ApiError> {
    let memory = app.services.facts.latest().memory;
    let state = metrics::State {
        device: &app.options.device,
        device_memory: memory.map(|memory| memory.total),
        device_memory_used: memory.map(|memory| memory.used),
        in_flight: app.jobs.count(),
        slots: app.slots.total(),
        buffered: app.budget.held(),
        models: app.services.engine.model_usage(),
    };
    let text = app.services.metrics.render(&state);
    let text = text.map_err(|error| log.internal(&error))?;
    let mut answer = Answer::new(Bytes::from(text));
    let format = HeaderValue::from_static(prometheus::TEXT_FORMAT);
    answer.headers_mut().insert(header::CONTENT_TYPE, format);
    Ok(answer)
}

/// 200 or 503, for probes that go by the status code.
fn ready(app: &App) -> Result<serde_json::Result<Vec<u8>>, ApiError> {
    let readiness = app.services.engine.readiness();
    if readiness.ready {
        Ok(answer::ready())
    } else {
        Err(ApiError::NotReady(answer::failures(&readiness)))
    }
}

fn info(app: &App) -> serde_json::Result<Vec<u8>> {
    let Services { engine, facts, .. } = &app.services;
    // Reasons may name paths: for those who have shown a key.
    let audience = match app.options.api_key {
        Some(_) => Audience::Operator,
        None => Audience::Everybody,
    };
    let models = answer::Models {
        loaded: engine.loaded_models(),
        available: engine.available_models(),
        readiness: &engine.readiness(),
        most: app.options.limits.batch_size,
    };
    answer::info(&app.options.device, &facts.latest(), models, audience)
}

/// To `path` on the host that the client asked, with its query string.
fn redirect(path: &str, head: &Parts) -> Answer {
    let query = head
        .uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let is_secure = head.extensions.get::<Https>().is_some();
    let scheme = if is_secure { "https" } else { "http" };
    let host = head
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let base = host
        .map(|host| format!("{scheme}://{host}"))
        .unwrap_or_default();
    let mut answer = Answer::new(Bytes::new());
    *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(&format!("{base}{path}{query}")) {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    answer
}
