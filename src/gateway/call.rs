//! What a client's request becomes for hosts: the route's own path, the headers that go on, and what
//! the pool should know of it.

use std::time::Duration;

use gpu_bridge_wire::API_KEY_HEADER;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, header};

use super::auth::Identity;
use super::forwarding::{self, Origin};
use super::peek::Peek;
use super::request_id;
use super::respond::header_value;
use super::route::Route;
use crate::config;
use crate::embedding::{BadSpace, Space};
use crate::headers::{self, CONDITIONS, HopByHop};
use crate::message::{Call, Deadline, Payload};
use crate::pool::{Demand, Label};
use crate::telemetry::trace::{TRACEPARENT, TRACESTATE, TraceContext};

/// How long the client is going to wait for its answer, in seconds from when its request has arrived.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");
pub(super) const BAD_TIMEOUT: &str =
    "X-Request-Timeout must be one number of seconds above 0, e.g. 30 or 2.5";

/// Where the vectors of an answer lie; of a request, where they must.
pub(super) const SPACE: HeaderName = HeaderName::from_static("x-embedding-space");

/// Headers that we add: the request's id, its trace, and three of where it comes from.
const ADDED: usize = 5;

/// A request, but for its body.
pub(super) struct Request<'a> {
    pub(super) head: &'a Parts,
    /// As hosts know it.
    pub(super) route: Route,
    pub(super) id: &'a str,
    pub(super) origin: &'a Origin,
    pub(super) identity: &'a Identity,
    /// Where its vectors must lie.
    pub(super) space: Option<Space>,
    /// Our span, if hosts are to be told of it.
    pub(super) trace: Option<TraceContext>,
}

impl Request<'_> {
    /// The call that hosts are to answer.
    pub(super) fn into_call(
        self,
        body: Payload,
        peek: Peek,
        deadline: Deadline,
        settings: &config::Headers,
    ) -> Call {
        let demand = Demand {
            label: Label {
                id: self.id.into(),
                route: self.route.as_str(),
            },
            client: self.identity.name().cloned(),
            priority: self.identity.priority(&self.head.headers),
            model: peek.model,
            space: self.space,
            work: peek.work,
            counted: false,
            bytes: body.len(),
        };
        let mut headers = forwarded(&self.head.headers, self.id, self.origin);
        if self.trace.is_some() {
            retrace(&mut headers);
        }
        forwarding::tell(settings, self.origin, authority(self.head), &mut headers);
        Call {
            method: self.head.method.clone(),
            path: path(self.route, self.head.uri.query()),
            headers,
            body,
            demand,
            deadline,
            trace: self.trace,
        }
    }
}

/// How long the client is going to wait, if it says so. However much it is, it is a bound; one that no
/// clock can hold is [`Duration::MAX`].
pub(super) fn patience(headers: &HeaderMap) -> Result<Option<Duration>, ()> {
    let mut values = headers.get_all(REQUEST_TIMEOUT).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(());
    }
    let text = value.to_str().map_err(|_| ())?.trim();
    // The words for what is no number, which Rust parses too, are none here.
    let is_number = text.bytes().all(|byte| b"0123456789.eE+-".contains(&byte));
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0.0);
    let seconds = seconds.filter(|_| is_number).ok_or(())?;
    let patience = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    Ok(Some(patience.max(Duration::from_nanos(1))))
}

/// Where the vectors must lie, if the client says so.
pub(super) fn space(headers: &HeaderMap) -> Result<Option<Space>, BadSpace> {
    let mut values = headers.get_all(SPACE).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    text.ok_or(BadSpace)?.parse().map(Some)
}

/// The host that the client asked: in HTTP/2 it stands in the target.
fn authority(head: &Parts) -> Option<&str> {
    let in_target = head.uri.authority().map(Authority::as_str);
    let host = head.headers.get(header::HOST);
    in_target.or_else(|| host?.to_str().ok())
}

/// What a host is asked: the route's own path, and the client's query.
fn path(route: Route, query: Option<&str>) -> String {
    let path = route.path();
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// Makes room for our span. What others noted in the trace goes on if they did so in this one.
fn retrace(headers: &mut HeaderMap) {
    if TraceContext::of(headers).is_none() {
        headers.remove(TRACESTATE);
    }
    headers.remove(TRACEPARENT);
}

/// The client's headers that a host may see. What codings a client takes is none of them: answers are looked
/// through, and may be cut.
fn forwarded(headers: &HeaderMap, id: &str, origin: &Origin) -> HeaderMap {
    let ours = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::AUTHORIZATION,
        header::ACCEPT_ENCODING,
    ];
    let hop_by_hop = HopByHop::of(headers);
    let mut forwarded = HeaderMap::with_capacity(headers.len() + ADDED);
    for (name, value) in headers {
        let is_ours = ours.contains(name) || name.as_str() == API_KEY_HEADER;
        let is_known = !is_ours && !CONDITIONS.contains(name) && !origin.disbelieves(name);
        if is_known && !hop_by_hop.has(name) && headers::is_plain(name) {
            forwarded.append(name.clone(), value.clone());
        }
    }
    forwarded.insert(request_id::HEADER, header_value(id));
    forwarded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_in_one_number_how_long_it_waits() {
        let seconds = |seconds| Ok(Some(Duration::from_secs_f64(seconds)));
        let table: [(&[&str], _); 16] = [
            (&[], Ok(None)),
            (&["5"], seconds(5.0)),
            (&[" 2.5 "], seconds(2.5)),
            (&["1e1"], seconds(10.0)),
            (&["1e-30"], seconds(1e-9)),
            (&["1e30"], Ok(Some(Duration::MAX))),
            (&["1e400"], Ok(Some(Duration::MAX))),
            (&["0"], Err(())),
            (&["1e-400"], Err(())),
            (&["-1"], Err(())),
            (&["nan"], Err(())),
            (&["inf"], Err(())),
            (&["5s"], Err(())),
            (&[""], Err(())),
            (&["5, 5"], Err(())),
            (&["5", "5"], Err(())),
        ];
        for (values, expected) in table {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(REQUEST_TIMEOUT, value.parse().unwrap());
            }
            assert_eq!(patience(&headers), expected, "{values:?}");
        }
    }
}
