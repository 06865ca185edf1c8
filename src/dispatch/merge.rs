//! Several requests in one attempt.
//!
//! A request that has to wait offers to share an attempt with those that ask the same of other items
//! ([`Asked`]). Where the pool takes some of them along to a slot, each gets a clone of the lease. The first that
//! notices starts a task that makes the attempt ([`Pass`]): whoever leaves takes only its own answer along. Each
//! request waits for its own part of the answer, with its own deadline.
//!
//! If the host is busy, all of them are back in line at their old places. After any other end that is no answer
//! for each, they run again, in halves or alone ([`again`]): what one may have caused is held against nobody else, and
//! what was to blame is merged with nobody for a while ([`Suspect`]).

mod again;
mod pass;
mod suspects;

use std::collections::HashMap;
use std::sync::Arc;

use gpu_bridge_wire::items::{Cut, Kind};
use http::{HeaderMap, Method};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::again::Told;
pub(super) use self::again::{Group, Rerun};
use self::pass::Pass;
pub(super) use self::suspects::{Apart, Suspect};
use super::Dispatcher;
use super::attempt::End;
use super::itinerary::{Itinerary, Mode};
use super::split::kind;
use crate::config::Batching;
use crate::message::{Call, Payload};
use crate::pool::{Lease, Offer, Question, Ticket, Waiting};
use crate::telemetry::Share;
use crate::telemetry::trace::TraceContext;

/// Headers that don't change what is computed, and are each request's own: of its client, of traces, of what stands
/// in front of the proxy.
const OWN: [&str; 28] = [
    "accept-language",
    "b3",
    "baggage",
    "cdn-loop",
    "date",
    "forwarded",
    "idempotency-key",
    "origin",
    "referer",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "true-client-ip",
    "uber-trace-id",
    "user-agent",
    "via",
    "x-client-ip",
    "x-client-request-id",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
    "x-request-timeout",
];
/// Families of such: Zipkin's and Datadog's traces, what Envoy, AWS, Cloudflare and OpenAI's clients add.
const OWN_BEGIN: [&str; 7] = [
    "x-b3-",
    "x-datadog-",
    "x-envoy-",
    "x-amzn-trace-",
    "x-amz-cf-",
    "cf-",
    "x-stainless-",
];
/// Own as well, but one of them goes to the host, so that its log can be told from others.
const ID: &str = "x-request-id";
/// Longer bodies gain little, and take longer to read.
const LONGEST: usize = 64 << 10;

/// What a request asks for: something of each of its items.
pub(super) struct Asked {
    kind: Kind,
    method: Method,
    path: String,
    /// But for its [`OWN`].
    headers: HeaderMap,
    /// In one piece.
    body: Payload,
    cut: Cut,
}

/// A request that may share an attempt.
struct Member {
    asked: Asked,
    /// The span of the attempt, in the request's own trace.
    trace: Option<TraceContext>,
    tell: oneshot::Sender<Told>,
}

/// Those that wait and may share an attempt.
#[derive(Default)]
pub(super) struct Members(Arc<Mutex<HashMap<Ticket, Member>>>);

/// The side of a member that waits for its answer; dropping it is leaving.
pub(super) struct Seat {
    ticket: Ticket,
    members: Arc<Mutex<HashMap<Ticket, Member>>>,
    trace: Option<TraceContext>,
    told: oneshot::Receiver<Told>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.members.lock().remove(&self.ticket);
    }
}

fn is_own(name: &str) -> bool {
    OWN.contains(&name) || OWN_BEGIN.iter().any(|begin| name.starts_with(begin))
}

impl Members {
    fn enter(&self, ticket: Ticket, asked: Asked, trace: Option<TraceContext>) -> Seat {
        let (tell, told) = oneshot::channel();
        let member = Member { asked, trace, tell };
        self.0.lock().insert(ticket, member);
        Seat {
            ticket,
            members: Arc::clone(&self.0),
            trace,
            told,
        }
    }

    /// Those of the attempt that `lease` is for that have not left.
    fn take(&self, lease: &Lease) -> Vec<Member> {
        let mut members = self.0.lock();
        lease
            .tickets()
            .filter_map(|it| members.remove(&it))
            .collect()
    }
}

impl Asked {
    /// `None`: it can't be told apart from the items of others.
    fn of(call: &Call) -> Option<Self> {
        let body = call.body.in_one_piece().ok()?;
        let kind = kind(call)?;
        let cut = Cut::read(kind, body.chunks().first()?)?;
        if cut.items() != call.demand.work.items as usize {
            return None;
        }
        let mut headers = call.headers.clone();
        for name in call.headers.keys().filter(|name| is_own(name.as_str())) {
            headers.remove(name);
        }
        Some(Self {
            kind,
            method: call.method.clone(),
            path: call.path.clone(),
            headers,
            body,
            cut,
        })
    }

    fn bytes(&self) -> &[u8] {
        self.body.chunks().first().map_or(&[], |it| it)
    }

    /// The same for all that ask the same, and for no others; of a `group`, if it is in one.
    fn question(&self, group: Option<Group>) -> Question {
        let headers = self.headers.iter().filter(|(name, _)| *name != ID);
        let headers = headers.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        let mut headers: Vec<_> = headers.collect();
        headers.sort_unstable();
        let options = self.cut.options(self.bytes());
        let mut said = vec![];
        let mut say = |part: &[u8]| {
            // With its length, so that no two lists of parts look alike.
            said.extend_from_slice(&part.len().to_le_bytes());
            said.extend_from_slice(part);
        };
        say(self.method.as_str().as_bytes());
        say(self.path.as_bytes());
        say(&group.map_or([0; 8], |group| group.id.to_le_bytes()));
        say(&headers.len().to_le_bytes());
        for (name, value) in headers.into_iter().chain(options) {
            say(name);
            say(value);
        }
        Question::new(said)
    }
}

impl Dispatcher {
    /// Offers that a request, which waits, shares an attempt.
    pub(super) fn offer(&self, way: &mut Itinerary<'_>, waiting: &Waiting) {
        // A seat that was offered before must not take this one along when it is dropped.
        way.seat = None;
        let (call, batching) = (way.call, way.batching);
        if way.mode != Mode::Together || !is_small(call, batching) {
            return;
        }
        let most = batching.max_items.get().min(self.apart.most_items(call));
        if call.demand.work.items >= most {
            return;
        }
        let Some(asked) = Asked::of(call) else {
            way.stays_alone();
            return;
        };
        let offer = Offer {
            question: asked.question(way.group),
            most,
            until: call.deadline.at().map(Instant::into_std),
        };
        let trace = call.trace.map(TraceContext::child);
        way.seat = Some(self.members.enter(way.ticket, asked, trace));
        // Only now: whoever begins the attempt must find it.
        waiting.offer(offer);
    }

    /// The attempt that `lease` is for, with others. It is given back when that ends, whoever waits for it.
    pub(super) async fn attempt_together(&self, lease: &Lease, way: &mut Itinerary<'_>) -> End {
        let Some(mut seat) = way.seat.take() else {
            return End::Apart(Rerun::default());
        };
        if lease.begins() {
            let pass = Pass::new(lease.clone(), self.attempts.clone(), way.longest);
            tokio::spawn(pass.run(self.members.take(lease)));
        }
        let others = lease.tickets().count().saturating_sub(1);
        let note = way.journal.attempt(
            lease.name().as_ref(),
            seat.trace.map(|trace| trace.span),
            Share::WithOthers(u32::try_from(others).unwrap_or(u32::MAX)),
        );
        let told = (&mut seat.told).await.unwrap_or_else(|_| Told::nothing());
        note.end(told.verdict, told.reason);
        if let Some(suspects) = told.suspects {
            way.suspects
                .push(Suspect::new(suspects, &self.apart, way.call));
        }
        told.end
    }
}

/// May it be worth the while, as far as can be told without a look at the body?
fn is_small(call: &Call, batching: Batching) -> bool {
    let items = call.demand.work.items;
    batching.merge
        && call.demand.model.is_some()
        && (1..batching.max_items.get()).contains(&items)
        && call.body.len() <= LONGEST
}
