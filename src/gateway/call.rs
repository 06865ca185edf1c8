//! What a client's request becomes for hosts: the route's own path, the headers that go on, and what
//! the pool should know of it.

use std::time::Duration;

use gpu_bridge_wire::API_KEY_HEADER;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, header};
use pingora::http::RequestHeader;

use super::auth::Identity;
use super::forwarding::{Forwarding, Origin};
use super::peek::Peek;
use super::request_id;
use super::respond::header_value;
use super::route::Route;
use crate::headers::is_hop_by_hop;
use crate::message::{Call, Payload};
use crate::pool::Demand;
use crate::telemetry::trace::{Context, TRACEPARENT, TRACESTATE};

/// How long the client is going to wait for its answer, in seconds.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
pub(super) const BAD_TIMEOUT: &str =
    "X-Request-Timeout must be a number of seconds above 0, e.g. 30 or 2.5";

/// A request, but for its body.
pub(super) struct Request<'a> {
    pub(super) head: &'a RequestHeader,
    pub(super) route: Route,
    pub(super) id: &'a str,
    pub(super) origin: &'a Origin,
    pub(super) identity: &'a Identity,
    /// Our span, if hosts are to be told of it.
    pub(super) trace: Option<Context>,
}

impl Request<'_> {
    /// The call that hosts are to answer.
    pub(super) fn into_call(
        self,
        body: Payload,
        peek: Peek,
        patience: Option<Duration>,
        forwarding: &Forwarding,
    ) -> Call {
        let demand = Demand {
            client: self.identity.name().cloned(),
            priority: self.identity.priority(),
            model: peek.model,
            work: peek.work,
            bytes: body.len(),
        };
        let mut headers = forwarded(&self.head.headers, self.id);
        if self.trace.is_some() {
            retrace(&mut headers);
        }
        forwarding.tell(self.origin, authority(self.head), &mut headers);
        Call {
            method: self.head.method.clone(),
            target: target(self.route, self.head.uri.query()),
            headers,
            body,
            demand,
            patience,
            trace: self.trace,
        }
    }
}

/// How long the client is going to wait, if it says so.
pub(super) fn patience(headers: &HeaderMap) -> Result<Option<Duration>, ()> {
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

/// The host that the client asked: in HTTP/2 it stands in the target.
fn authority(head: &RequestHeader) -> Option<&str> {
    let in_target = head.uri.authority().map(Authority::as_str);
    let host = head.headers.get(header::HOST);
    in_target.or_else(|| host?.to_str().ok())
}

/// What a host is asked: the route's own path, and the client's query.
fn target(route: Route, query: Option<&str>) -> String {
    let path = route.path();
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// Makes room for our span. What others noted in the trace goes on if they did so in this one.
fn retrace(headers: &mut HeaderMap) {
    if Context::of(headers).is_none() {
        headers.remove(TRACESTATE);
    }
    headers.remove(TRACEPARENT);
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
