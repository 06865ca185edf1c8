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
//! responses; `jobs` is what `/status` shows; `request_log` writes one line for each request.
//! Nothing here computes, and nothing heavy runs on the async threads.

mod answer;
mod auth;
mod body;
mod compute;
mod encoding;
mod error;
mod jobs;
mod json;
mod problem;
mod request_log;
mod route;
mod slots;
mod validate;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

pub use auth::ApiKey;
pub use validate::Limits;

use self::answer::Audience;
use self::error::ApiError;
use self::jobs::Jobs;
use self::request_log::{RequestIds, RequestLog};
use self::route::{Decision, Route};
use self::slots::Slots;
use crate::engine::Engine;

/// What the operator decides about the HTTP side.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key that clients present; `None` lets everybody in.
    pub api_key: Option<ApiKey>,
    /// Computations that may run at once; 0 = always busy.
    pub max_concurrent: u32,
    /// The largest request.
    pub limits: Limits,
    /// Model for requests to `/embed` that name none.
    pub default_embed: String,
    /// Model for requests to `/bertscore` that name none.
    pub default_bertscore: String,
    /// What `/health` and `/info` call the device.
    pub device: String,
}

/// What the handlers share.
struct App {
    engine: Arc<dyn Engine>,
    options: Options,
    slots: Slots,
    jobs: Jobs,
    ids: RequestIds,
}

/// The service as a whole, ready to be served.
pub fn router(engine: Arc<dyn Engine>, options: Options) -> Router {
    let slots = Slots::new(options.max_concurrent);
    let app = App {
        engine,
        options,
        slots,
        jobs: Jobs::default(),
        ids: RequestIds::new(),
    };
    // `route` decides what a path means; axum's own routing has other ideas of HEAD and slashes.
    Router::new().fallback(handle).with_state(Arc::new(app))
}

async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut log = RequestLog::begin(&app.ids, &request);
    let answer = answer(&app, request, &mut log).await;
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    if let Ok(id) = HeaderValue::from_str(log.id()) {
        response.headers_mut().insert(request_log::REQUEST_ID, id);
    }
    log.finish(response.status());
    response
}

async fn answer(
    app: &Arc<App>,
    request: Request,
    log: &mut RequestLog,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    if !auth::permits(app.options.api_key.as_ref(), path, request.headers()) {
        return Err(ApiError::Unauthorized);
    }
    match route::decide(request.method(), path) {
        Decision::Serve(route) => serve(app, route, request, log).await,
        Decision::Redirect(path) => Ok(redirect(path, &request)),
        Decision::WrongMethod { allow } => Err(ApiError::MethodNotAllowed { allow }),
        Decision::Unknown => Err(ApiError::NotFound),
    }
}

async fn serve(
    app: &Arc<App>,
    route: Route,
    request: Request,
    log: &mut RequestLog,
) -> Result<Response, ApiError> {
    let device = &app.options.device;
    let body = match route {
        Route::Compute(kind) => return compute::serve(app, kind, request, log).await,
        Route::Health => answer::health(device, &app.engine.readiness()),
        Route::Ready => ready(app)?,
        Route::Info => info(app),
        Route::Status => answer::status(app.slots.total(), app.jobs.list()),
        Route::OpenApi => Ok(answer::OPENAPI.into()),
    };
    let body = body.map_err(|error| log.internal(&error))?;
    Ok(error::json(StatusCode::OK, body))
}

/// 200 or 503, for probes that go by the status code.
fn ready(app: &App) -> Result<serde_json::Result<Vec<u8>>, ApiError> {
    if app.engine.readiness().ready {
        Ok(answer::ready())
    } else {
        Err(ApiError::NotReady)
    }
}

fn info(app: &App) -> serde_json::Result<Vec<u8>> {
    let engine = &app.engine;
    // Reasons may name paths: for those who have shown a key.
    let audience = match app.options.api_key {
        Some(_) => Audience::Operator,
        None => Audience::Everybody,
    };
    let (loaded, readiness) = (engine.loaded_models(), engine.readiness());
    answer::info(&app.options.device, loaded, &readiness, audience)
}

/// To `path` on the host that the client asked, with its query string.
fn redirect(path: &str, request: &Request) -> Response {
    let query = request
        .uri()
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let base = host
        .map(|host| format!("http://{host}"))
        .unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(&format!("{base}{path}{query}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
