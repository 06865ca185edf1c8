//! One simulated host: slots, waiting for them, answers, and its faults.
//!
//! It behaves as the Python service does: a request waits a while for a slot and is then refused with
//! 503 and `Retry-After: 5`. A request whose connection goes away gives up its slot.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gpu_bridge_wire::{ErrorBody, Health, Info, QueueStatus, Status};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{sleep, timeout};

use crate::body::AnswerBody;
use crate::computed;
use crate::fault::Fault;
use crate::payload;
use crate::{RECEIVED_HEADER, WORK_HEADER};

/// Another program may have the port for a moment when a killed host comes back.
const BIND_AGAIN: Duration = Duration::from_millis(20);

/// What kind of host.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Requests that run at once.
    pub(crate) slots: u32,
    /// Work done in a second; 1 is normal.
    pub(crate) speed: f64,
    /// How long a request waits for a slot.
    pub(crate) patience: Duration,
    /// Of a request that does not say.
    pub(crate) work: Duration,
    /// Bytes of a good answer's body.
    pub(crate) answer_bytes: usize,
    /// It computes answers instead, and this is what one takes: in any case, and for each text.
    pub(crate) cost: Option<(Duration, Duration)>,
    /// Has `/status`.
    pub(crate) tells: bool,
}

/// See the module.
pub(crate) struct Host {
    spec: Spec,
    address: SocketAddr,
    slots: Semaphore,
    /// Requests that run or wait, of everybody.
    in_flight: AtomicU32,
    fault: watch::Sender<Fault>,
    /// Bodies of good answers, by number of texts.
    answers: Mutex<HashMap<usize, Bytes>>,
}

impl Host {
    /// Serves on `listener` until the process ends.
    pub(crate) fn start(spec: Spec, listener: TcpListener) -> anyhow::Result<Arc<Self>> {
        let host = Arc::new(Self {
            slots: Semaphore::new(spec.slots as usize),
            spec,
            address: listener.local_addr()?,
            in_flight: AtomicU32::new(0),
            fault: watch::Sender::default(),
            answers: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&host).serve(listener));
        Ok(host)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks it, or mends it.
    pub(crate) fn set_fault(self: &Arc<Self>, fault: Fault) {
        self.fault.send_replace(fault);
        if fault == Fault::Foreign {
            tokio::spawn(Arc::clone(self).occupy());
        }
    }

    /// Somebody else's requests, until the fault is over.
    async fn occupy(self: Arc<Self>) {
        let _counted: Vec<_> = (0..self.spec.slots).map(|_| self.count()).collect();
        let _slots = self.slots.acquire_many(self.spec.slots).await;
        self.until(|fault| fault != Fault::Foreign).await;
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut listener = Some(listener);
        loop {
            match listener.take() {
                Some(listener) => self.accept_until_killed(listener).await,
                None => sleep(BIND_AGAIN).await,
            }
            self.until(|fault| fault != Fault::Killed).await;
            listener = TcpListener::bind(self.address).await.ok();
        }
    }

    async fn accept_until_killed(self: &Arc<Self>, listener: TcpListener) {
        let accept = async {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(self).connection(stream));
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = self.until(|fault| fault == Fault::Killed) => {}
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        // Small answers must not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| {
            let host = Arc::clone(&self);
            async move { Ok::<_, Infallible>(host.answer(request).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // How a connection ends is the other side's business.
            _ = connection => {}
            () = self.until(|fault| fault == Fault::Killed) => {}
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        self.until(|fault| fault != Fault::Hang).await;
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/health") => json(StatusCode::OK, &health()),
            (&Method::GET, "/info") => json(StatusCode::OK, &info()),
            (&Method::GET, "/status") if self.spec.tells => json(StatusCode::OK, &self.status()),
            (&Method::POST, "/embed") => self.embed(request).await,
            _ => error(StatusCode::NOT_FOUND, "Not Found"),
        }
    }

    async fn embed(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let work = work(&request).unwrap_or(self.spec.work);
        let Some(received) = receive(request).await else {
            return error(
                StatusCode::BAD_REQUEST,
                "There was an error parsing the body",
            );
        };
        if *self.fault.borrow() == Fault::Errors {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "CUDA error");
        }
        let counted = self.count();
        let Some(slot) = self.slot().await else {
            let busy = error(StatusCode::SERVICE_UNAVAILABLE, "GPU busy - retry later");
            return with(busy, RETRY_AFTER.as_str(), HeaderValue::from_static("5"));
        };
        let (work, body) = match self.computed(&received) {
            Some(computed) => computed,
            None => (work, self.answer_for(payload::texts(&received))),
        };
        if !work.is_zero() {
            sleep(work.div_f64(self.spec.speed)).await;
        }
        self.until(|fault| fault != Fault::Hang).await;
        drop((slot, counted));
        let body = if *self.fault.borrow() == Fault::MidBody {
            AnswerBody::cut(&body)
        } else {
            AnswerBody::whole(body)
        };
        let answer = answer(StatusCode::OK, body);
        with(answer, RECEIVED_HEADER, HeaderValue::from(received.len()))
    }

    /// The same for all requests with so many texts.
    fn answer_for(&self, texts: usize) -> Bytes {
        let make = || payload::answer(texts, self.spec.answer_bytes);
        let Ok(mut answers) = self.answers.lock() else {
            return make();
        };
        answers.entry(texts).or_insert_with(make).clone()
    }

    /// How long the answer to this body takes, and the answer, if it is computed.
    fn computed(&self, body: &[u8]) -> Option<(Duration, Bytes)> {
        let (fixed, each) = self.spec.cost?;
        let asked: Asked = serde_json::from_slice(body).ok()?;
        let texts = u32::try_from(asked.texts.len()).ok()?;
        let answer = computed::answer(asked.texts.iter());
        Some((fixed + each.saturating_mul(texts), answer))
    }

    async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        let slot = timeout(self.spec.patience, self.slots.acquire()).await;
        slot.ok()?.ok()
    }

    fn status(&self) -> Status {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        Status {
            queue: QueueStatus::new(self.spec.slots, in_flight),
            active_jobs: Vec::new(),
        }
    }

    fn count(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(&self.in_flight)
    }

    async fn until(&self, condition: impl Fn(Fault) -> bool) {
        if condition(*self.fault.borrow()) {
            return;
        }
        // Fails only without a sender, which is `self`.
        let _ = self
            .fault
            .subscribe()
            .wait_for(|fault| condition(*fault))
            .await;
    }
}

/// Counts a request until it is dropped.
struct InFlight<'a>(&'a AtomicU32);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the request says of its work.
fn work(request: &Request<Incoming>) -> Option<Duration> {
    let value = request.headers().get(WORK_HEADER)?;
    value.to_str().ok()?.parse().ok().map(Duration::from_micros)
}

/// What is computed.
#[derive(Deserialize)]
struct Asked {
    texts: Vec<String>,
}

/// Reads the body; `None` if it does not arrive whole.
async fn receive(request: Request<Incoming>) -> Option<Bytes> {
    Some(request.into_body().collect().await.ok()?.to_bytes())
}

fn health() -> Health {
    Health {
        status: Health::OK.to_owned(),
        device: "simulated".to_owned(),
        ready: None,
    }
}

fn info() -> Info {
    Info {
        device: "simulated".to_owned(),
        device_name: "simulated".to_owned(),
        vram_total_mb: Some(24_576),
        vram_used_mb: Some(4_096),
        loaded_models: vec!["embed:bench".to_owned()],
        ..Info::default()
    }
}

fn error(status: StatusCode, detail: &str) -> Response<AnswerBody> {
    let detail = detail.to_owned();
    json(status, &ErrorBody { detail })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<AnswerBody> {
    // Plain structs have no way to fail.
    let body = serde_json::to_vec(body).unwrap_or_default();
    answer(status, AnswerBody::whole(body.into()))
}

fn answer(status: StatusCode, body: AnswerBody) -> Response<AnswerBody> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    with(answer, CONTENT_TYPE.as_str(), json)
}

fn with(
    mut answer: Response<AnswerBody>,
    name: &'static str,
    value: HeaderValue,
) -> Response<AnswerBody> {
    answer.headers_mut().insert(name, value);
    answer
}
