//! What became of one request: what its line in the log, `/api/v1/requests` and its trace are made of.
//!
//! Holds names, numbers and texts of our own; never a header's value or a part of a body.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::journal::FIRST;
use super::trace::{SpanId, Trace};

/// What nginx, and many after it, write for a client that did not wait for its answer.
pub const CLIENT_GONE: u16 = 499;

/// See the module. Times of waits and attempts count from the head of the request.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct RequestRecord {
    /// Its name in logs and headers.
    pub id: String,
    /// When its head had arrived.
    #[serde(with = "rfc3339")]
    pub at: SystemTime,
    /// The trace that it is a part of.
    pub trace: Option<Trace>,
    /// The name of the key that it showed.
    pub client: Option<String>,
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// The method; `other` if it is no common one.
    pub method: Cow<'static, str>,
    /// The route's name; `other` if there is none.
    pub route: Cow<'static, str>,
    /// The model that it asked for.
    pub model: Option<String>,
    /// Texts, or pairs of texts.
    pub items: u32,
    /// How it ended; `None` while it runs, [`CLIENT_GONE`] if nobody waited for the end.
    pub status: Option<u16>,
    /// Why it was refused, if it was the proxy that did so.
    pub why: Option<String>,
    /// The times that it waited for a host.
    pub waits: Vec<Wait>,
    /// Each try on a host, in order.
    pub attempts: Vec<Tried>,
    /// How many there were between the first and the last of these, if they were too many.
    #[serde(default)]
    pub attempts_left_out: usize,
    /// Waiting, in all.
    #[serde(rename = "queue_seconds", with = "seconds")]
    pub queued: Duration,
    /// With at least one attempt running.
    #[serde(rename = "upstream_seconds", with = "seconds")]
    pub upstream: Duration,
    /// From its head to the end of its answer, or until now.
    #[serde(rename = "total_seconds", with = "seconds")]
    pub total: Duration,
    /// From its head to the first byte of its answer.
    #[serde(rename = "first_byte_seconds", with = "maybe_seconds")]
    pub first_byte: Option<Duration>,
    /// Bytes of its body.
    pub request_bytes: usize,
    /// Bytes of its answer's body.
    pub response_bytes: usize,
}

/// One time in line.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Wait {
    /// When it began.
    #[serde(rename = "after_seconds", with = "seconds")]
    pub after: Duration,
    /// How long it took; `None` while it lasts.
    #[serde(rename = "took_seconds", with = "maybe_seconds")]
    pub took: Option<Duration>,
    /// What was waited for, if it took long enough to ask.
    pub why: Option<String>,
}

/// One try on one host.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Tried {
    /// Which host.
    pub host: String,
    /// When it began.
    #[serde(rename = "after_seconds", with = "seconds")]
    pub after: Duration,
    /// How long it took; `None` while it lasts.
    #[serde(rename = "took_seconds", with = "maybe_seconds")]
    pub took: Option<Duration>,
    /// One word for how it ended: [`RUNNING`], [`ABANDONED`], or the verdict's.
    pub verdict: Cow<'static, str>,
    /// What was wrong.
    pub reason: Option<String>,
    /// How many items it was for, if not all: of a batch in parts.
    #[serde(default)]
    pub items: Option<u32>,
    /// For how many other requests it was as well.
    #[serde(default)]
    pub others: Option<u32>,
    /// Its span, if spans are exported.
    pub span_id: Option<SpanId>,
}

/// The verdict on an attempt that has not ended.
pub const RUNNING: &str = "running";
/// The verdict on an attempt that was given up: its client went away, or a sibling was quicker.
pub const ABANDONED: &str = "abandoned";
/// The verdict on an attempt for several requests that was no answer for each of them.
pub const APART: &str = "apart";

impl RequestRecord {
    /// A request of that name, from now on.
    pub fn new(id: String) -> Self {
        Self {
            id,
            at: SystemTime::now(),
            trace: None,
            client: None,
            address: None,
            method: Cow::Borrowed("other"),
            route: Cow::Borrowed("other"),
            model: None,
            items: 0,
            status: None,
            why: None,
            waits: Vec::new(),
            attempts: Vec::new(),
            attempts_left_out: 0,
            queued: Duration::ZERO,
            upstream: Duration::ZERO,
            total: Duration::ZERO,
            first_byte: None,
            request_bytes: 0,
            response_bytes: 0,
        }
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn size(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let waits = self.waits.iter().map(|wait| text(&wait.why));
        let attempts = self.attempts.iter();
        let attempts = attempts.map(|attempt| attempt.host.len() + text(&attempt.reason));
        size_of::<Self>()
            + self.id.len()
            + text(&self.client)
            + text(&self.model)
            + text(&self.why)
            + size_of_val(self.waits.as_slice())
            + size_of_val(self.attempts.as_slice())
            + waits.sum::<usize>()
            + attempts.sum::<usize>()
    }

    /// Each attempt as `host:verdict:12ms`, one of a part of a batch as `host[items]:verdict:12ms`, one for other
    /// requests as well as `host[+others]:verdict:12ms`.
    pub fn hosts(&self) -> String {
        let attempts = self.attempts.iter().map(|attempt| {
            let took = attempt.took.unwrap_or_default().as_millis();
            let share = match (attempt.items, attempt.others) {
                (Some(items), _) => format!("[{items}]"),
                (None, Some(others)) => format!("[+{others}]"),
                (None, None) => String::new(),
            };
            format!("{}{share}:{}:{took}ms", attempt.host, attempt.verdict)
        });
        let mut told: Vec<String> = attempts.collect();
        if self.attempts_left_out > 0 {
            told.insert(
                FIRST.min(told.len()),
                format!("({} more)", self.attempts_left_out),
            );
        }
        told.join(" ")
    }

    /// When the attempts were made that are left out, about: as the last of the first.
    pub fn left_out_after(&self) -> Option<Duration> {
        let last = self.attempts.iter().take(FIRST).next_back()?;
        (self.attempts_left_out > 0).then_some(last.after)
    }

    /// Its line in the log.
    pub fn log(&self) {
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: "gpu_bridge::request",
                    $level,
                    method = &*self.method,
                    route = &*self.route,
                    status = self.status,
                    total_ms = millis(self.total),
                    queue_ms = millis(self.queued),
                    upstream_ms = millis(self.upstream),
                    first_byte_ms = self.first_byte.map(millis),
                    items = self.items,
                    request_bytes = self.request_bytes,
                    response_bytes = self.response_bytes,
                    client = self.client.as_deref(),
                    address = self.address.map(tracing::field::display),
                    model = self.model.as_deref(),
                    hosts = self.hosts(),
                    why = self.why.as_deref(),
                    id = self.id,
                    trace_id = self.trace.map(|trace| tracing::field::display(trace.trace_id)),
                    "request"
                )
            };
        }
        if self.is_poll() && self.status.is_some_and(|status| status < 400) {
            line!(tracing::Level::DEBUG);
        } else {
            line!(tracing::Level::INFO);
        }
    }

    /// Comes every few seconds, and says nothing while all is well.
    fn is_poll(&self) -> bool {
        matches!(&*self.route, "health" | "info" | "status")
    }
}

/// As a number that JSON logs print as one; a `u128` would become a string.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds with microseconds, as a number.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(rounded(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        read(f64::deserialize(from)?)
    }

    pub(super) fn rounded(time: Duration) -> f64 {
        (time.as_secs_f64() * 1e6).round() / 1e6
    }

    pub(super) fn read<E: serde::de::Error>(seconds: f64) -> Result<Duration, E> {
        Duration::try_from_secs_f64(seconds).map_err(E::custom)
    }
}

mod maybe_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(super::seconds::rounded).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(from)?;
        seconds.map(super::seconds::read).transpose()
    }
}

mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_millis(*at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_can_be_read_back() {
        let mut record = RequestRecord::new("r".to_owned());
        record.at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123);
        record.address = Some("192.0.2.1".parse().unwrap());
        record.trace = Some(Trace::ours(None));
        record.total = Duration::from_micros(1_234_567);
        record.first_byte = Some(Duration::from_millis(5));
        record.attempts.push(Tried {
            host: "a".to_owned(),
            after: Duration::from_millis(3),
            took: None,
            verdict: Cow::Borrowed(RUNNING),
            reason: None,
            items: Some(7),
            others: None,
            span_id: None,
        });
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["at"], "2026-09-21T14:13:20.123Z");
        assert_eq!(json["total_seconds"], 1.234_567);
        assert_eq!(json["attempts"][0]["took_seconds"], serde_json::Value::Null);
        assert_eq!(record.hosts(), "a[7]:running:0ms");
        (record.attempts[0].items, record.attempts[0].others) = (None, Some(3));
        assert_eq!(record.hosts(), "a[+3]:running:0ms");
        (record.attempts[0].items, record.attempts[0].others) = (Some(7), None);
        assert_eq!(
            serde_json::from_value::<RequestRecord>(json).unwrap(),
            record
        );
    }
}
