//! The compute routes: body, validation, model, slot, engine, answer.
//!
//! Parsing, computing and writing the answer run on the blocking threads. The slot and the place
//! in the job list live with the computation, not with the request: when the client goes away the
//! handler is dropped at once, the engine learns of it between two batches, and only then are they
//! given back. So a slot is never free while the device still works for it. The bytes that were
//! reserved for the body move along in the same way.

use std::sync::Arc;

use gpu_bridge_places::Visit;
use gpu_bridge_wire::openai::{EACH_HEADER, Form, TOKENS_HEADER, tokens_of_each};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::warn;

use super::answer::Outcome;
use super::body::{self, Received};
use super::error::{self, Answer, ApiError};
use super::jobs::{Job, Kind};
use super::request_log::RequestLog;
use super::slots::{Busy, Slot};
use super::validate::{self, BertscoreRequest, EmbedRequest, Limits};
use super::{App, Exchange, Options, PANICKED, openai};
use crate::engine::{Cancellation, Engine, EngineError, Progress, Purpose};
use crate::metrics::Rejection;

/// Longest model name, in characters, that the log and the job list show.
const SHOWN_NAME: usize = 200;

/// What a request is to be read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Embed,
    Bertscore,
    /// The same as `Embed`, in OpenAI's dialect.
    Embeddings,
}

/// Answers a request to compute something.
pub(super) async fn serve(
    app: &Arc<App>,
    task: Task,
    exchange: &mut Exchange,
) -> Result<Answer, ApiError> {
    let work = receive(app, task, exchange).await?;
    let _in_use = exchange.visit.as_ref().map(Visit::run);
    let shown: String = work.model().chars().take(SHOWN_NAME).collect();
    exchange.log.about(work.items(), &shown);
    let watch = Watch::default();
    load(app, &work, &watch, &exchange.log).await?;
    let slot = wait_for_slot(app).await?;

    let running = Running {
        job: app
            .jobs
            .start(work.kind(), &shown, work.items(), Timestamp::now()),
        cancellation: watch.0.clone(),
        _slot: slot,
    };
    let engine = Arc::clone(&app.services.engine);
    let held = exchange.held.take();
    let (done, held) = spawn_blocking(move || (work.run(&*engine, running), held))
        .await
        .map_err(|_| exchange.log.internal(&PANICKED))?;
    exchange.held = held;
    let Done { body, tokens } = done.map_err(|error| refusal(&error, &exchange.log))?;
    let body = body.map_err(|error| exchange.log.internal(&error))?;
    let mut answer = error::json(StatusCode::OK, body);
    let wants_each = exchange.head.headers.contains_key(EACH_HEADER);
    tell_tokens(answer.headers_mut(), tokens.as_deref(), wants_each);
    Ok(answer)
}

/// `tokens`: of each text, if they were counted.
fn tell_tokens(headers: &mut HeaderMap, tokens: Option<&[usize]>, wants_each: bool) {
    let Some(tokens) = tokens else {
        return;
    };
    let total = HeaderValue::from(tokens.iter().sum::<usize>());
    headers.insert(TOKENS_HEADER, total);
    // Digits and commas always make a value.
    if wants_each && let Ok(each) = HeaderValue::try_from(tokens_of_each(tokens)) {
        headers.insert(EACH_HEADER, each);
    }
}

/// Reads and checks what is to be computed.
async fn receive(app: &Arc<App>, task: Task, exchange: &mut Exchange) -> Result<Work, ApiError> {
    let limits = app.options.limits;
    let most = limits.max_body().min(app.budget.total());
    let headers = &exchange.head.headers;
    if let Some(coded) = gpu_bridge_framing::coded(headers) {
        return Err(coded.into());
    }
    let received = body::read(headers, &mut exchange.body, most, &mut exchange.held).await?;
    let held = exchange.held.take();
    let (work, held) = spawn_blocking(move || (Work::read(task, &received, &limits), held))
        .await
        .map_err(|_| exchange.log.internal(&PANICKED))?;
    exchange.held = held;
    Ok(work?.or_default(&app.options))
}

/// Sees to it that the model is loaded before the request takes a slot, so that requests for other
/// models go on in the meantime.
async fn load(app: &App, work: &Work, watch: &Watch, log: &RequestLog) -> Result<(), ApiError> {
    let (purpose, model) = (work.purpose(), work.model().to_owned());
    if app.services.engine.is_loaded(purpose, &model) {
        return Ok(());
    }
    let place = Arc::clone(&app.loading).try_acquire_owned();
    let place = place.map_err(|_| ApiError::Busy(Rejection::Slots))?;
    let waiting = Waiting(watch.0.clone());
    let engine = Arc::clone(&app.services.engine);
    let loaded = spawn_blocking(move || {
        let _place = place;
        engine.load(purpose, &model, &waiting)
    });
    match loaded.await.map_err(|_| log.internal(&PANICKED))? {
        // Told by the computation: the Python service notices these only with a slot, and without
        // one answers "busy".
        Ok(())
        | Err(
            EngineError::NotInstalled { .. }
            | EngineError::Ambiguous { .. }
            | EngineError::Load { .. },
        ) => Ok(()),
        Err(error) => Err(refusal(&error, log)),
    }
}

async fn wait_for_slot(app: &App) -> Result<Slot, ApiError> {
    let begin = Instant::now();
    let slot = app.slots.acquire().await;
    app.services.metrics.http.waited_for_slot(begin.elapsed());
    slot.map_err(|Busy| ApiError::Busy(Rejection::Slots))
}

/// What to compute.
pub(super) enum Work {
    /// And how the answer is wanted in OpenAI's dialect, if it is.
    Embed(EmbedRequest, Option<Form>),
    Bertscore(BertscoreRequest),
}

impl Work {
    fn read(task: Task, received: &Received, limits: &Limits) -> Result<Self, ApiError> {
        let body = received.as_raw();
        Ok(match task {
            Task::Embed => Self::Embed(validate::embed(body, limits)?, None),
            Task::Bertscore => Self::Bertscore(validate::bertscore(body, limits)?),
            Task::Embeddings => openai::read(received, limits)?,
        })
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Embed(..) => Kind::Embed,
            Self::Bertscore(_) => Kind::Bertscore,
        }
    }

    /// Names the model where the request did not.
    fn or_default(mut self, options: &Options) -> Self {
        let (model, default) = match &mut self {
            Self::Embed(request, _) => (&mut request.model, &options.default_embed),
            Self::Bertscore(request) => (&mut request.model, &options.default_bertscore),
        };
        if model.is_empty() {
            model.clone_from(default);
        }
        self
    }

    fn model(&self) -> &str {
        match self {
            Self::Embed(request, _) => &request.model,
            Self::Bertscore(request) => &request.model,
        }
    }

    fn purpose(&self) -> Purpose {
        match self {
            Self::Embed(..) => Purpose::Embed,
            Self::Bertscore(_) => Purpose::BertScore,
        }
    }

    fn items(&self) -> usize {
        match self {
            Self::Embed(request, _) => request.texts.len(),
            Self::Bertscore(request) => request.candidates.len(),
        }
    }

    /// Computes, gives the slot back, then writes the answer.
    fn run(self, engine: &dyn Engine, running: Running) -> Result<Done, EngineError> {
        let outcome = self.compute(engine, &running);
        drop(running);
        let outcome = outcome?;
        let form = match self {
            Self::Embed(_, form) => form,
            Self::Bertscore(_) => None,
        };
        Ok(Done {
            body: outcome.to_json(self.model(), form),
            tokens: outcome.tokens().map(<[usize]>::to_vec),
        })
    }

    fn compute(&self, engine: &dyn Engine, progress: &Running) -> Result<Outcome, EngineError> {
        match self {
            Self::Embed(request, _) => {
                let found = engine.embed(&request.model, &request.texts, progress)?;
                let found = match request.dimensions {
                    Some(dimensions) => found.shortened(dimensions.get())?,
                    None => found,
                };
                Ok(Outcome::Embeddings(found))
            }
            Self::Bertscore(BertscoreRequest {
                candidates,
                references,
                model,
                scoring,
            }) => engine
                .bertscore(model, candidates, references, scoring, progress)
                .map(Outcome::Scores),
        }
    }
}

/// What came of a computation.
struct Done {
    body: serde_json::Result<Vec<u8>>,
    /// That the model read of each text, if they were counted.
    tokens: Option<Vec<usize>>,
}

/// A computation that runs: its slot, its place in the job list, and whether anybody still waits.
struct Running {
    job: Job,
    cancellation: Cancellation,
    _slot: Slot,
}

impl Progress for Running {
    fn finished(&self, done: usize) {
        self.job.finished(done);
    }

    fn cancellation(&self) -> Cancellation {
        self.cancellation.clone()
    }
}

/// A request that waits for its model.
struct Waiting(Cancellation);

impl Progress for Waiting {
    fn finished(&self, _: usize) {}

    fn cancellation(&self) -> Cancellation {
        self.0.clone()
    }
}

/// Held by the handler; once dropped, the computation is not wanted any more.
#[derive(Default)]
struct Watch(Cancellation);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What the client reads; what the operator needs goes to the log.
fn refusal(error: &EngineError, log: &RequestLog) -> ApiError {
    match error {
        EngineError::NotInstalled { .. }
        | EngineError::Ambiguous { .. }
        | EngineError::NoBaseline { .. } => ApiError::NotInstalled(error.to_string()),
        EngineError::UnknownToken { .. }
        | EngineError::Untokenizable(_)
        | EngineError::Dimensions { .. } => ApiError::Unusable(error.to_string()),
        EngineError::OutOfMemory => log.out_of_memory(),
        EngineError::NoMemory { .. } | EngineError::Loading { .. } => {
            ApiError::Unavailable(error.to_string())
        }
        EngineError::Load { name, fault } => {
            warn!(
                id = log.id(),
                model = name,
                fault = fault.details,
                "model not usable"
            );
            let told = format!(
                "model '{name}' cannot be used on this host: {}",
                fault.reason
            );
            if fault.passing {
                ApiError::Unavailable(told)
            } else {
                // As if it were not installed: another host may know better what to do with it.
                ApiError::NotInstalled(told)
            }
        }
        EngineError::Inference(_) | EngineError::Cancelled => log.internal(error),
    }
}
