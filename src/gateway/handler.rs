//! The way of one request, from its head to the end of its answer.

use std::sync::Arc;
use std::time::Duration;

use gpu_bridge_wire::API_KEY_HEADER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora::protocols::http::ServerSession;
use tokio::sync::watch;

use super::auth::{Auth, Client};
use super::body::{self, BodyError};
use super::peek::peek;
use super::record::Record;
use super::respond::{self, Reply};
use super::route::{NoRoute, Route};
use super::{aggregate, request_id};
use crate::budget::Budget;
use crate::dispatch::{Delivery, Dispatcher, Journal, Refusal};
use crate::headers::is_hop_by_hop;
use crate::message::{Call, HostReport};
use crate::pool::{Demand, Pool};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;

/// Names the host that answered.
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
/// How long the client is going to wait for its answer, in seconds.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
const BAD_TIMEOUT: &str = "X-Request-Timeout must be a number of seconds above 0, e.g. 30 or 2.5";
/// Where the time went (W3C Server-Timing).
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Bounds of `Retry-After` in seconds. The plugin waits that long at most three times.
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 1..=30;
/// How long a connection may idle between two requests; nginx's default.
const IDLE_SECONDS: u64 = 75;
/// How long what is left of a refused body is read, so that its sender can read why.
const DRAIN: Duration = Duration::from_secs(2);

/// Bounds on what a client may send.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of a body.
    pub max_body: usize,
    /// Time for a body to arrive, and for each write of an answer.
    pub client_read: Duration,
}

/// Everything a request needs.
pub struct Handler<U> {
    /// Who may use it.
    pub auth: Auth,
    /// Bounds.
    pub settings: Settings,
    /// For what the proxy answers itself.
    pub pool: Pool,
    /// What the hosts last told of themselves.
    pub reports: Box<dyn Fn() -> Vec<HostReport> + Send + Sync>,
    /// For what hosts answer.
    pub dispatcher: Dispatcher<U>,
    /// The bytes that may be held.
    pub budget: Budget,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// True once the proxy is about to end.
    pub stopping: watch::Receiver<bool>,
}

/// What becomes of a request.
enum Outgoing {
    Own(Reply),
    Host(Box<Delivery>),
    /// Nobody is there to read one.
    ClientGone,
}

impl<U: Upstream> Handler<U> {
    /// Handles one request.
    ///
    /// # Errors
    /// If the connection broke; there is nothing more to be done on it.
    pub(super) async fn handle(&self, session: &mut ServerSession) -> pingora::Result<()> {
        session.set_write_timeout(Some(self.settings.client_read));
        session.set_read_timeout(Some(self.settings.client_read));
        session.set_total_drain_timeout(Some(DRAIN));
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(IDLE_SECONDS));
        }
        // A second request that a client sends ahead must not look like a broken connection.
        session.set_pipelining_enabled(true);
        let id = request_id::choose(session.get_header(request_id::HEADER));
        let mut record = Record::new(Arc::clone(&self.metrics), id);
        let answer = self.answer(session, &mut record).await;
        if *self.stopping.borrow() {
            // No further request on a connection that is about to be closed.
            session.set_keepalive(None);
        }
        self.write(session, answer, &mut record).await
    }

    async fn answer(&self, session: &mut ServerSession, record: &mut Record) -> Outgoing {
        let head = session.req_header();
        let path = head.uri.path();
        let route = Route::find(&head.method, path);
        record.route = route.ok();
        match self.auth.identify(
            session
                .get_header(API_KEY_HEADER)
                .map(HeaderValue::as_bytes),
        ) {
            Some(Client::Named(name)) => record.client = Some(name.to_owned()),
            Some(Client::Anyone) => {}
            None if path == "/health" => {}
            None => return Outgoing::Own(Reply::error(StatusCode::UNAUTHORIZED, "Unauthorized")),
        }
        match route {
            Ok(Route::Health) => Outgoing::Own(self.health()),
            Ok(Route::Info) => {
                let info = aggregate::info(&self.pool.view(), &(self.reports)());
                Outgoing::Own(Reply::json(StatusCode::OK, &info))
            }
            Ok(Route::Status) => {
                let status = aggregate::status(&self.pool.view(), &(self.reports)());
                Outgoing::Own(Reply::json(StatusCode::OK, &status))
            }
            Ok(route @ (Route::Embed | Route::Bertscore)) => {
                self.forward(session, route, record).await
            }
            Err(no_route) => Outgoing::Own(refuse(no_route)),
        }
    }

    fn health(&self) -> Reply {
        let pool = self.pool.view();
        match aggregate::health(&pool, &(self.reports)()) {
            Some(health) => Reply::json(StatusCode::OK, &health),
            None => Reply::retry_later(aggregate::why_down(&pool), self.retry_after()),
        }
    }

    /// Reads the body, finds a host, and watches that the client stays.
    async fn forward(
        &self,
        session: &mut ServerSession,
        route: Route,
        record: &mut Record,
    ) -> Outgoing {
        let Ok(patience) = patience(&session.req_header().headers) else {
            return Outgoing::Own(Reply::error(StatusCode::BAD_REQUEST, BAD_TIMEOUT));
        };
        let Settings {
            max_body,
            client_read,
        } = self.settings;
        let body = match body::read(session, max_body, client_read, self.budget.open()).await {
            Ok(body) => body,
            Err(error) => return self.refuse_body(session, &error),
        };
        record.request_bytes = body.len();
        record.dispatched = true;
        let head = session.req_header();
        let peek = peek(route, &body);
        let demand = Demand {
            client: record.client.as_deref().map(Into::into),
            priority: 0,
            model: peek.model,
            work: peek.work,
            bytes: body.len(),
        };
        let call = Call {
            method: head.method.clone(),
            target: head
                .uri
                .path_and_query()
                .map_or("/", |target| target.as_str())
                .to_owned(),
            headers: forwarded(&head.headers, &record.id),
            body,
            demand,
            patience,
        };
        tokio::select! {
            biased;
            answer = self.dispatch(&call, &mut record.journal) => answer,
            // Pends for ever while the client is there.
            _ = session.read_body_or_idle(true) => Outgoing::ClientGone,
        }
    }

    async fn dispatch(&self, call: &Call, journal: &mut Journal) -> Outgoing {
        match self.dispatcher.dispatch(call, journal).await {
            Ok(delivery) => Outgoing::Host(Box::new(delivery)),
            Err(refusal @ Refusal::HostsFailed) => {
                Outgoing::Own(Reply::error(StatusCode::BAD_GATEWAY, refusal.to_string()))
            }
            Err(refusal @ (Refusal::QueueFull | Refusal::QueueTooLong | Refusal::Deadline)) => {
                Outgoing::Own(Reply::retry_later(refusal.to_string(), self.retry_after()))
            }
        }
    }

    fn refuse_body(&self, session: &mut ServerSession, error: &BodyError) -> Outgoing {
        if matches!(error, BodyError::Malformed | BodyError::TooSlow(_)) {
            // Where this request ends is unknown, so no next one can be found on the connection.
            session.set_keepalive(None);
        }
        let status = match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            BodyError::Malformed => StatusCode::BAD_REQUEST,
            BodyError::NoMemory => {
                return Outgoing::Own(Reply::retry_later(error.to_string(), self.retry_after()));
            }
            BodyError::Gone(_) => return Outgoing::ClientGone,
        };
        Outgoing::Own(Reply::error(status, error.to_string()))
    }

    fn retry_after(&self) -> u64 {
        let wait = self.pool.retry_after();
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        seconds.clamp(*RETRY_AFTER_SECONDS.start(), *RETRY_AFTER_SECONDS.end())
    }

    async fn write(
        &self,
        session: &mut ServerSession,
        answer: Outgoing,
        record: &mut Record,
    ) -> pingora::Result<()> {
        let written = match answer {
            Outgoing::Own(reply) => {
                let status = reply.status;
                let reply = reply.with(request_id::HEADER, header_value(&record.id));
                write_own(session, reply).await.map(|bytes| (status, bytes))
            }
            Outgoing::Host(mut delivery) => {
                let headers = about(&delivery, record);
                let bytes = respond::deliver(&mut delivery, headers, session).await;
                bytes.map(|bytes| (delivery.answer.status, bytes))
            }
            Outgoing::ClientGone => {
                session.set_keepalive(None);
                return Ok(());
            }
        };
        let (status, bytes) = written?;
        record.status = Some(status.as_u16());
        record.response_bytes = bytes;
        Ok(())
    }
}

/// Writes an answer of our own, perhaps while the client is still sending its request.
async fn write_own(session: &mut ServerSession, reply: Reply) -> pingora::Result<usize> {
    if session.is_body_done() {
        return reply.write(session).await;
    }
    if body::expects_continue(&session.req_header().headers) {
        // The client may never send the body that it announced.
        session.set_keepalive(None);
        return reply.write(session).await;
    }
    let bytes = reply.write(session).await?;
    // Else a client that is still sending may never read why it was refused.
    let _ = session.drain_request_body().await;
    Ok(bytes)
}

/// How long the client is going to wait, if it says so.
fn patience(headers: &HeaderMap) -> Result<Option<Duration>, ()> {
    let Some(value) = headers.get(REQUEST_TIMEOUT) else {
        return Ok(None);
    };
    let seconds = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let patience = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    patience
        .filter(|patience| !patience.is_zero())
        .map(Some)
        .ok_or(())
}

fn refuse(no_route: NoRoute) -> Reply {
    match no_route {
        NoRoute::NotFound => Reply::error(StatusCode::NOT_FOUND, "Not Found"),
        NoRoute::MethodNotAllowed { allow } => {
            Reply::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
                .with(header::ALLOW, HeaderValue::from_static(allow))
        }
        NoRoute::TrailingSlash { path } => Reply::error(StatusCode::TEMPORARY_REDIRECT, path)
            .with(header::LOCATION, HeaderValue::from_static(path)),
    }
}

/// The client's headers that a host may see.
fn forwarded(headers: &HeaderMap, id: &str) -> HeaderMap {
    let ours = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::AUTHORIZATION,
    ];
    let mut forwarded: HeaderMap = headers
        .iter()
        .filter(|(name, _)| !ours.contains(name) && name.as_str() != API_KEY_HEADER)
        .filter(|(name, _)| !is_hop_by_hop(name, headers))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    forwarded.insert(request_id::HEADER, header_value(id));
    forwarded
}

/// The headers that say how a request was served.
fn about(delivery: &Delivery, record: &Record) -> HeaderMap {
    let Journal {
        queued, upstream, ..
    } = &record.journal;
    let millis = |time: &Duration| time.as_secs_f64() * 1000.0;
    let timing = format!(
        "queue;dur={:.1}, upstream;dur={:.1}",
        millis(queued),
        millis(upstream)
    );
    let mut headers = HeaderMap::new();
    headers.insert(SERVED_BY, header_value(delivery.host.as_ref()));
    headers.insert(SERVER_TIMING, header_value(&timing));
    headers.insert(request_id::HEADER, header_value(&record.id));
    headers
}

/// Our ids, names and timings are plain ASCII; anything else would be left out.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
