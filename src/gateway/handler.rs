//! The way of one request, from its head to the end of its answer.

use std::future::pending;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use gpu_bridge_framing::{BadHead, check_fields};
use gpu_bridge_places::{Asking, Full, Place, Visit};
use gpu_bridge_wire::openai::Form;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{StatusCode, Version};
use tokio::sync::watch;

use super::aggregate::Aggregates;
use super::auth::{self, Identity, Unauthorized};
use super::body::{self, BodyError};
use super::call::{self, Request};
use super::cors;
use super::forwarding::{self, Origin};
use super::http1::NoRequest;
use super::openai::NotRead;
use super::outgoing::{Outgoing, last};
use super::peek::Peek;
use super::record::Record;
use super::respond::{self, Reply};
use super::route::{self, NoRoute, Route};
use super::session::{Session, Unsent};
use super::{openai, peek, refusals, request_id};
use crate::budget::Budget;
use crate::config::Current;
use crate::dispatch::{Dispatcher, NoHost, Refusal, shortage};
use crate::embedding::Space;
use crate::headers;
use crate::message::{Call, Deadline, Payload, TooLate};
use crate::pool::{Model, Pool};
use crate::telemetry::{Journal, Observers, Reason};

/// Bounds of `Retry-After` in seconds. The plugin waits that long at most three times.
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 1..=30;

/// Everything a request needs.
pub struct Handler {
    /// Who may use it, within which bounds, and what hosts are told of clients.
    pub config: Current,
    /// For what the proxy refuses itself.
    pub pool: Pool,
    /// For what it answers itself.
    pub aggregates: Aggregates,
    /// For what hosts answer.
    pub dispatcher: Dispatcher,
    /// The bytes that may be held.
    pub budget: Budget,
    /// Who is told of each request.
    pub observers: Observers,
    /// True once the proxy is about to end.
    pub stopping: watch::Receiver<bool>,
    /// True once its time to end is over: what has no answer by then is told to come again.
    pub ending: watch::Receiver<bool>,
}

/// What is asked for, and by whom.
struct Asked {
    route: Result<Route, NoRoute>,
    identity: Result<Identity, Unauthorized>,
}

impl Asked {
    fn asking(&self) -> Asking {
        Asking {
            shows_key: matches!(self.identity, Ok(Identity::Client { .. })),
            transfers: self.identity.is_ok() && self.route.is_ok_and(Route::is_compute),
        }
    }
}

/// Who asks, until the answer is written.
struct Guest {
    origin: Origin,
    /// Keeps the connection's place; none: there is no place.
    visit: Option<Visit>,
}

impl Handler {
    /// Handles one request.
    ///
    /// # Errors
    /// If the connection broke; there is nothing more to be done on it.
    pub(super) async fn handle(
        &self,
        session: &mut Session<'_>,
        place: &Place,
    ) -> Result<(), Unsent> {
        let headers = &session.head().headers;
        let id = request_id::choose(headers.get(&request_id::HEADER));
        let origin = forwarding::origin(&self.config.get().headers, session);
        let mut record = Record::new(&self.observers, id, origin.client);
        record.told.trace = self.observers.trace(headers);
        let mut guest = Guest {
            origin,
            visit: None,
        };
        let answer = self.answer(session, place, &mut guest, &mut record).await;
        if *self.stopping.borrow() {
            // No further request on a connection that is about to be closed.
            session.make_last();
        }
        self.write(session, place, answer, &mut record).await
    }

    /// Answers what never became a request.
    pub(super) fn refuse_head(&self, refusal: &NoRequest, peer: Option<IpAddr>) -> Reply {
        let status = match refusal {
            NoRequest::Bad(bad) => bad.status(),
            _ => StatusCode::REQUEST_TIMEOUT,
        };
        let mut record = Record::new(&self.observers, request_id::choose(None), peer);
        let mut reply = Reply::error(status, refusal.to_string()).because(Reason::BadHead);
        record.told.status = Some(status.as_u16());
        record.refuse(&mut reply);
        reply.with(request_id::HEADER, respond::header_value(record.id()))
    }

    async fn answer(
        &self,
        session: &mut Session<'_>,
        place: &Place,
        guest: &mut Guest,
        record: &mut Record,
    ) -> Outgoing {
        let head = session.head();
        let path = route::normalise(head.uri.path());
        let asked = Asked {
            route: Route::find(&head.method, &path),
            identity: auth::identify(&self.config.get().auth.keys, &head.headers),
        };
        record.asked(&head.method, asked.route.ok());
        let answer = match place.ask(asked.asking()) {
            Ok(visit) => {
                guest.visit = Some(visit);
                let answered = {
                    let answer = pin!(self.answer_at(&path, asked, session, guest, record));
                    tokio::select! {
                        biased;
                        answer = answer => Ok(answer),
                        () = place.displaced() => Err(refusals::no_place(Full::All)),
                        () = self.ended() => Err(refusals::stopping()),
                    }
                };
                answered.unwrap_or_else(|reply| last(session, reply))
            }
            Err(full) => last(session, refusals::no_place(full)),
        };
        match answer {
            Outgoing::Own(reply) if openai::speaks(&path) => Outgoing::Own(openai::restated(reply)),
            answer => answer,
        }
    }

    /// Returns once nobody who waits for an answer will get one.
    async fn ended(&self) {
        // Without anybody who could end it, it goes on.
        if self.ending.clone().wait_for(|ended| *ended).await.is_err() {
            pending::<()>().await;
        }
    }

    /// `path`: [normalised](route::normalise).
    async fn answer_at(
        &self,
        path: &str,
        asked: Asked,
        session: &mut Session<'_>,
        guest: &Guest,
        record: &mut Record,
    ) -> Outgoing {
        let head = session.head();
        if let Err(bad) = self.check_head(head) {
            let reply = Reply::error(bad.status(), NoRequest::Bad(bad).to_string());
            return Outgoing::Own(reply.because(Reason::BadHead));
        }
        if let Some(reply) = cors::preflight(&self.config.get().cors.allow_origins, head) {
            return Outgoing::Own(reply);
        }
        let is_stranger = asked.identity.is_err();
        let identity = match asked.identity {
            Ok(identity) => identity,
            Err(Unauthorized) if path == Route::Health.path() => Identity::Anyone,
            Err(Unauthorized) => return Outgoing::Own(refusals::unauthorized(&head.headers)),
        };
        record.told.client = identity.name().map(|name| name.as_ref().to_owned());
        match asked.route {
            Ok(Route::Health) => Outgoing::Own(self.aggregates.health(is_stranger)),
            Ok(Route::Info) => Outgoing::Own(self.aggregates.info()),
            Ok(Route::Status) => Outgoing::Own(self.aggregates.status()),
            Ok(Route::Models) => Outgoing::Own(openai::models(&self.aggregates, path)),
            Ok(route @ (Route::Embed | Route::Bertscore | Route::Embeddings)) => {
                self.forward(session, route, guest, &identity, record).await
            }
            Err(no_route) => Outgoing::Own(refusals::no_route(no_route)),
        }
    }

    /// Heads of HTTP/1 that are not as they should be don't come this far.
    fn check_head(&self, head: &Parts) -> Result<(), BadHead> {
        let limit = self.config.get().limits.max_headers;
        if head.version != Version::HTTP_2 {
            return Ok(());
        }
        if head.headers.len() > limit {
            return Err(BadHead::TooMany { limit });
        }
        let authority = head.uri.authority().map(Authority::as_str);
        let target = head.uri.path_and_query().map(PathAndQuery::as_str);
        let target = target.or(authority).unwrap_or_default();
        check_fields(
            head.method.as_str().as_bytes(),
            target.as_bytes(),
            authority.map(str::as_bytes),
            head.headers
                .iter()
                .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())),
        )
    }

    /// Finds an answer within the time that the client gives, if it gives one, and watches that the
    /// client stays.
    async fn forward(
        &self,
        session: &mut Session<'_>,
        route: Route,
        guest: &Guest,
        identity: &Identity,
        record: &mut Record,
    ) -> Outgoing {
        let Ok(patience) = call::patience(&session.head().headers) else {
            let reply = Reply::error(StatusCode::BAD_REQUEST, call::BAD_TIMEOUT);
            return Outgoing::Own(reply.because(Reason::BadHeader));
        };
        let space = match self.space(session, route) {
            Ok(space) => space,
            Err(reply) => return Outgoing::Own(*reply),
        };
        let deadline = Deadline::after(record.journal.started(), patience);
        let received = deadline.bound(pin!(self.receive(session, route))).await;
        let (body, peek, form) = match received {
            Ok(Ok(received)) => received,
            Ok(Err(answer)) => return answer,
            Err(TooLate) => return self.too_late(identity.name()),
        };
        if space.is_some() && peek.model.as_ref().is_none_or(Model::is_default) {
            return Outgoing::Own(refusals::no_model_named());
        }
        let _running = guest.visit.as_ref().map(Visit::run);
        let request = Request {
            head: session.head(),
            route: route.on_hosts(),
            id: record.id(),
            origin: &guest.origin,
            identity,
            space,
            trace: self.observers.context(record.told.trace),
        };
        let mut call = request.into_call(body, peek, deadline, &self.config.get().headers);
        if form.is_some() {
            headers::in_json(&mut call.headers);
            call.demand.counted = true;
        }
        record.begin(&call);
        let answer = pin!(self.dispatch(&call, form, &record.journal));
        tokio::select! {
            biased;
            answer = answer => answer,
            // Pends for ever while the client is there.
            () = session.gone() => Outgoing::ClientGone,
        }
    }

    /// Where the vectors must lie, if the client says so and that can be told.
    fn space(&self, session: &Session<'_>, route: Route) -> Result<Option<Space>, Box<Reply>> {
        if route.on_hosts() != Route::Embed {
            return Ok(None);
        }
        match call::space(&session.head().headers) {
            Ok(Some(_)) if !self.config.get().audit.enabled => Err(Box::new(refusals::no_audits())),
            Ok(space) => Ok(space),
            Err(bad) => Err(Box::new(refusals::bad_space(bad))),
        }
    }

    /// The client's time has passed, though it waited for no host.
    fn too_late(&self, client: Option<&Arc<str>>) -> Outgoing {
        let limit = self.pool.limit_reached(client, false);
        let shortage = || shortage(&self.pool);
        let wait = self.retry_after(client, None);
        Outgoing::Own(refusals::too_late(limit, shortage, wait))
    }

    /// What hosts are asked, what of it matters to the pool, and how OpenAI's dialect wants the answer if
    /// the client speaks it.
    async fn receive(
        &self,
        session: &mut Session<'_>,
        route: Route,
    ) -> Result<(Payload, Peek, Option<Form>), Outgoing> {
        let max_body = self.config.get().limits.max_body;
        let patience = self.config.get().timeouts.client_read;
        let is_dialect = route == Route::Embeddings;
        let headers = &session.head().headers;
        if let Some(coded) = gpu_bridge_framing::coded(headers) {
            return Err(Outgoing::Own(refusals::coded_body(&coded)));
        }
        if let Some(reply) = is_dialect.then(|| openai::unreadable(headers)).flatten() {
            return Err(Outgoing::Own(reply));
        }
        // What could never be held must not be told to come again.
        let share = self.budget.limit() / openai::COPIES;
        let limit = if is_dialect {
            max_body.min(share)
        } else {
            max_body
        };
        let reserved = self.budget.open();
        let mut peek = peek::Reader::new(route.on_hosts());
        let body = body::read(session, limit, patience, reserved, &mut peek).await;
        let body = body.map_err(|error| self.refuse_body(session, &error))?;
        if !is_dialect {
            return Ok((body, peek.finish(), None));
        }
        match Box::pin(openai::read(body, &self.budget)).await {
            Ok(job) => Ok((job.body, job.peek, Some(job.form))),
            Err(NotRead::NoMemory(_)) => Err(self.refuse_body(session, &BodyError::NoMemory)),
            Err(NotRead::Refused(reply)) => Err(Outgoing::Own(*reply)),
        }
    }

    /// `form`: see [`receive`](Self::receive).
    async fn dispatch(&self, call: &Call, form: Option<Form>, journal: &Journal) -> Outgoing {
        let delivery = match self.dispatcher.dispatch(call, journal).await {
            Ok(delivery) => delivery,
            Err(no_host) => return Outgoing::Own(self.no_host(no_host, call, journal)),
        };
        let deadline = call.deadline;
        let translated = match form {
            Some(form) => {
                let translated = Box::pin(openai::translated(delivery, form, &self.budget));
                deadline.bound(translated).await
            }
            None => Ok(Ok((delivery, None))),
        };
        match translated {
            Ok(Ok((delivery, why))) => Outgoing::Host {
                delivery: Box::new(delivery),
                deadline,
                why,
            },
            Ok(Err(_)) => Outgoing::Own(self.no_memory()),
            Err(TooLate) => self.too_late(call.demand.client.as_ref()),
        }
    }

    fn no_host(&self, no_host: NoHost, call: &Call, journal: &Journal) -> Reply {
        let model = call.demand.model.as_ref();
        if no_host.refusal == Refusal::NoModel {
            let unasked = model.map_or_else(Vec::new, |model| self.pool.unasked(model));
            return refusals::no_model(model, &self.aggregates.models(), &unasked);
        }
        let attempts = journal.story().attempts;
        let shortage = || shortage(&self.pool);
        let wait = self.retry_after(call.demand.client.as_ref(), model);
        refusals::no_host(no_host, &attempts, shortage, wait)
    }

    fn refuse_body(&self, session: &mut Session<'_>, error: &BodyError) -> Outgoing {
        if matches!(error, BodyError::Malformed | BodyError::TooSlow(_)) {
            // Where this request ends is unknown, so no next one can be found on the connection.
            session.make_last();
        }
        let reply = refusals::bad_body(error, self.retry_after(None, None));
        reply.map_or(Outgoing::ClientGone, Outgoing::Own)
    }

    fn no_memory(&self) -> Reply {
        refusals::no_memory(self.retry_after(None, None))
    }

    fn retry_after(&self, client: Option<&Arc<str>>, model: Option<&Model>) -> u64 {
        refusals::whole_seconds(self.pool.retry_after(client, model))
            .clamp(*RETRY_AFTER_SECONDS.start(), *RETRY_AFTER_SECONDS.end())
    }
}
