//! W3C Trace Context: which trace a request belongs to, and what hosts are told of it
//! (<https://www.w3.org/TR/trace-context/>).
//!
//! Without an exporter the client's headers go on to hosts as they are: a span of ours that nobody
//! records would cut the trace in two. With one, our spans stand between the client's and the hosts'.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

/// Carries a [`TraceContext`].
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems add to it; means nothing without it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Of version 00, and the first part of those to come.
const LEN: usize = 55;
const SAMPLED: u8 = 1;

/// Which trace.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceId(NonZeroU128);

/// Which span of it.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpanId(NonZeroU64);

/// One span of one trace, as it is told to those that work for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// Is it recorded?
    pub sampled: bool,
}

/// The place of a request in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Trace {
    /// The trace.
    pub trace_id: TraceId,
    /// Our span, if it is exported; else the client's.
    pub span_id: SpanId,
    /// The client's span, if ours is exported and the client has one.
    pub parent_id: Option<SpanId>,
    /// Is it recorded?
    pub sampled: bool,
}

/// That is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a trace context of the form 00-TRACE-SPAN-FLAGS")]
pub struct Invalid;

impl TraceContext {
    /// The one that a request's headers tell, if they tell exactly one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        only.to_str().ok()?.parse().ok()
    }

    /// A span below this one.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span: SpanId::random(),
            ..self
        }
    }

    /// For hosts.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_str(&self.to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("00-invalid"))
    }
}

impl Trace {
    /// As told by the client, for the log alone.
    pub fn told(client: TraceContext) -> Self {
        Self {
            trace_id: client.trace,
            span_id: client.span,
            parent_id: None,
            sampled: client.sampled,
        }
    }

    /// With a span of ours, in the client's trace if it has one.
    pub fn ours(client: Option<TraceContext>) -> Self {
        Self {
            trace_id: client.map_or_else(TraceId::random, |client| client.trace),
            span_id: SpanId::random(),
            parent_id: client.map(|client| client.span),
            sampled: client.is_none_or(|client| client.sampled),
        }
    }

    /// What those are told that work for this request.
    pub fn context(self) -> TraceContext {
        TraceContext {
            trace: self.trace_id,
            span: self.span_id,
            sampled: self.sampled,
        }
    }
}

impl TraceId {
    fn random() -> Self {
        Self(rand::random::<NonZeroU128>())
    }

    /// As a number.
    pub fn get(self) -> u128 {
        self.0.get()
    }
}

impl SpanId {
    fn random() -> Self {
        Self(rand::random::<NonZeroU64>())
    }

    /// As a number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl FromStr for TraceContext {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (known, more) = text.split_at_checked(LEN).ok_or(Invalid)?;
        let mut parts = known.split('-');
        let mut next = || parts.next().ok_or(Invalid);
        let (version, trace, span, flags) = (next()?, next()?, next()?, next()?);
        let is_longer = !more.is_empty();
        match hex::<u8>(version, 2)? {
            0xff => return Err(Invalid),
            0 if is_longer => return Err(Invalid),
            _ if is_longer && !more.starts_with('-') => return Err(Invalid),
            _ => {}
        }
        Ok(Self {
            trace: trace.parse()?,
            span: span.parse()?,
            sampled: hex::<u8>(flags, 2)? & SAMPLED != 0,
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled) * SAMPLED;
        write!(f, "00-{}-{}-{flags:02x}", self.trace, self.span)
    }
}

/// A number of exactly so many lower-case digits.
fn hex<T: TryFrom<u128>>(text: &str, digits: usize) -> Result<T, Invalid> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != digits || !text.bytes().all(is_digit) {
        return Err(Invalid);
    }
    let number = u128::from_str_radix(text, 16).map_err(|_| Invalid)?;
    T::try_from(number).map_err(|_| Invalid)
}

impl FromStr for TraceId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        NonZeroU128::new(hex(text, 32)?).map(Self).ok_or(Invalid)
    }
}

impl FromStr for SpanId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        NonZeroU64::new(hex(text, 16)?).map(Self).ok_or(Invalid)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for TraceId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl TryFrom<String> for SpanId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<TraceId> for String {
    fn from(id: TraceId) -> Self {
        id.to_string()
    }
}

impl From<SpanId> for String {
    fn from(id: SpanId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn reads_what_the_recommendation_allows() {
        let table = [
            (GOOD, true),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
                true,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff",
                true,
            ),
            // A later version may say more.
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what",
                true,
            ),
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                true,
            ),
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what",
                false,
            ),
            (
                "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                false,
            ),
            (
                "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
                false,
            ),
            (
                "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-é",
                false,
            ),
            ("", false),
        ];
        for (text, is_good) in table {
            assert_eq!(text.parse::<TraceContext>().is_ok(), is_good, "{text}");
        }
        assert_eq!(GOOD.parse::<TraceContext>().unwrap().to_string(), GOOD);
    }

    #[test]
    fn headers_must_tell_exactly_one() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceContext::of(&headers), None);
        headers.append(TRACEPARENT, GOOD.parse().unwrap());
        assert!(TraceContext::of(&headers).is_some());
        headers.append(TRACEPARENT, GOOD.parse().unwrap());
        assert_eq!(TraceContext::of(&headers), None);
    }

    #[test]
    fn our_span_stands_below_the_clients_and_keeps_its_decision() {
        let client: TraceContext = GOOD.replace("-01", "-00").parse().unwrap();
        let ours = Trace::ours(Some(client));
        assert_eq!(ours.trace_id, client.trace);
        assert_eq!(ours.parent_id, Some(client.span));
        assert_ne!(ours.span_id, client.span);
        assert!(!ours.sampled);
        let child = ours.context().child();
        assert_eq!((child.trace, child.sampled), (client.trace, false));
        assert_ne!(child.span, ours.span_id);

        let fresh = Trace::ours(None);
        assert!(fresh.sampled && fresh.parent_id.is_none());
    }
}
