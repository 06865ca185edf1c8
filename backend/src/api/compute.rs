//! The compute routes: body, validation, slot, engine, answer.
//!
//! Parsing, computing and writing the answer run on the blocking threads. The slot and the place
//! in the job list live with the computation, not with the request: when the client goes away the
//! handler is dropped at once, the engine learns of it between two batches, and only then are they
//! given back. So a slot is never free while the device still works for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::answer::Outcome;
use super::body::{self, Received};
use super::error::{self, ApiError};
use super::jobs::{Job, Kind};
use super::request_log::RequestLog;
use super::slots::Slot;
use super::validate::{self, BertscoreRequest, EmbedRequest, Limits, Refusal};
use super::{App, Options};
use crate::engine::{Engine, EngineError, Progress};

/// Longest model name, in characters, that the log and the job list show.
const SHOWN_NAME: usize = 200;

/// Answers a request to compute something.
pub(super) async fn serve(
    app: &Arc<App>,
    kind: Kind,
    request: Request,
    log: &mut RequestLog,
) -> Result<Response, ApiError> {
    let limits = app.options.limits;
    let received = body::read(request, limits.max_body()).await?;
    let work = spawn_blocking(move || Work::read(kind, &received, &limits))
        .await
        .map_err(|panic| log.internal(&panic))??
        .or_default(&app.options);

    let shown: String = work.model().chars().take(SHOWN_NAME).collect();
    log.about(work.items(), &shown);
    let job = app.jobs.start(kind, &shown, work.items(), Timestamp::now());
    let slot = app.slots.acquire().await.map_err(|_| ApiError::Busy)?;

    let (_watch, wanted) = Watch::new();
    let running = Running {
        job,
        wanted,
        _slot: slot,
    };
    let engine = Arc::clone(&app.engine);
    let body = spawn_blocking(move || work.run(&*engine, running))
        .await
        .map_err(|panic| log.internal(&panic))?
        .map_err(|error| refusal(&error, log))?
        .map_err(|error| log.internal(&error))?;
    Ok(error::json(StatusCode::OK, body))
}

/// What to compute.
enum Work {
    Embed(EmbedRequest),
    Bertscore(BertscoreRequest),
}

impl Work {
    fn read(kind: Kind, received: &Received, limits: &Limits) -> Result<Self, Refusal> {
        let body = received.as_raw();
        match kind {
            Kind::Embed => validate::embed(body, limits).map(Self::Embed),
            Kind::Bertscore => validate::bertscore(body, limits).map(Self::Bertscore),
        }
    }

    /// Names the model where the request did not.
    fn or_default(mut self, options: &Options) -> Self {
        let (model, default) = match &mut self {
            Self::Embed(request) => (&mut request.model, &options.default_embed),
            Self::Bertscore(request) => (&mut request.model, &options.default_bertscore),
        };
        if model.is_empty() {
            model.clone_from(default);
        }
        self
    }

    fn model(&self) -> &str {
        match self {
            Self::Embed(request) => &request.model,
            Self::Bertscore(request) => &request.model,
        }
    }

    fn items(&self) -> usize {
        match self {
            Self::Embed(request) => request.texts.len(),
            Self::Bertscore(request) => request.candidates.len(),
        }
    }

    /// Computes, gives the slot back, then writes the answer.
    fn run(
        self,
        engine: &dyn Engine,
        running: Running,
    ) -> Result<serde_json::Result<Vec<u8>>, EngineError> {
        let outcome = self.compute(engine, &running);
        drop(running);
        outcome.map(|outcome| outcome.to_json(self.model()))
    }

    fn compute(&self, engine: &dyn Engine, progress: &Running) -> Result<Outcome, EngineError> {
        match self {
            Self::Embed(EmbedRequest { texts, model }) => engine
                .embed(model, texts, progress)
                .map(Outcome::Embeddings),
            Self::Bertscore(BertscoreRequest {
                candidates,
                references,
                model,
            }) => engine
                .bertscore(model, candidates, references, progress)
                .map(Outcome::Scores),
        }
    }
}

/// A computation that runs: its slot, its place in the job list, and whether anybody still waits.
struct Running {
    job: Job,
    wanted: Arc<AtomicBool>,
    _slot: Slot,
}

impl Progress for Running {
    fn finished(&self, done: usize) {
        self.job.finished(done);
    }

    fn is_cancelled(&self) -> bool {
        !self.wanted.load(Ordering::Relaxed)
    }
}

/// Held by the handler; once dropped, the computation is not wanted any more.
struct Watch(Arc<AtomicBool>);

impl Watch {
    fn new() -> (Self, Arc<AtomicBool>) {
        let wanted = Arc::new(AtomicBool::new(true));
        (Self(Arc::clone(&wanted)), wanted)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What the client reads; what the operator needs goes to the log.
fn refusal(error: &EngineError, log: &RequestLog) -> ApiError {
    match error {
        EngineError::NotInstalled { .. } => ApiError::NotInstalled(error.to_string()),
        EngineError::NoMemory { .. } | EngineError::Loading { .. } => {
            ApiError::Unavailable(error.to_string())
        }
        EngineError::Load { .. } | EngineError::Inference(_) | EngineError::Cancelled => {
            log.internal(error)
        }
    }
}
