//! What a push to the live page holds, as JSON. Pure.
//!
//! Times are milliseconds since 1970 by the proxy's clock: a page shows how old things are by the
//! time in the same push, so that its own clock does not matter.

use std::borrow::Cow;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::value::RawValue;

use super::view::Level;
use super::words;
use crate::telemetry::{Group, Happened, News, RequestRecord, Sample, millis, since_1970};

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Push<'a> {
    at_ms: u64,
    /// The proxy finishes what it has and ends.
    stopping: bool,
    /// As `GET /api/v1/pool` tells it.
    pool: &'a RawValue,
    /// Seconds that are over, oldest first.
    samples: Vec<&'a Sample>,
    /// What happened to hosts, oldest first.
    events: Vec<EventState>,
    /// Requests that did not go smoothly, oldest first.
    incidents: Vec<IncidentState>,
}

#[derive(Debug, Serialize)]
struct EventState {
    number: u64,
    /// When it happened first …
    first_ms: u64,
    /// … and last.
    at_ms: u64,
    /// How often.
    count: u32,
    /// An event takes the place of an earlier one of the same host and group.
    group: &'static str,
    host: String,
    /// One word.
    kind: &'static str,
    level: Level,
    text: String,
}

#[derive(Debug, Serialize)]
struct IncidentState {
    number: u64,
    at_ms: u64,
    id: String,
    client: Option<String>,
    route: Cow<'static, str>,
    /// 499: its client went away.
    status: Option<u16>,
    why: Option<String>,
    took_ms: u64,
    attempts: Vec<AttemptState>,
}

#[derive(Debug, Serialize)]
struct AttemptState {
    host: String,
    /// For how much of the request, or for whose else it was, if not for all of it alone; in words.
    share: String,
    verdict: Cow<'static, str>,
}

impl<'a> Push<'a> {
    pub(super) fn new(pool: &'a RawValue, stopping: bool, news: &'a News, now: SystemTime) -> Self {
        let events = news.events.iter();
        let incidents = news.incidents.iter();
        Self {
            at_ms: since_1970(now),
            stopping,
            pool,
            samples: news.samples.iter().map(AsRef::as_ref).collect(),
            events: events
                .map(|(number, happened)| event_of(*number, happened))
                .collect(),
            incidents: incidents
                .map(|(number, incident)| incident_of(*number, incident))
                .collect(),
        }
    }
}

fn event_of(number: u64, happened: &Happened) -> EventState {
    let (level, text) = words::event(happened.kind, happened.problem.as_deref());
    EventState {
        number,
        first_ms: since_1970(happened.first),
        at_ms: since_1970(happened.at),
        count: happened.count,
        group: Group::of(happened.kind).as_str(),
        host: happened.host.to_string(),
        kind: words::kind(happened.kind),
        level,
        text,
    }
}

fn incident_of(number: u64, record: &RequestRecord) -> IncidentState {
    let attempts = record.attempts.iter();
    IncidentState {
        number,
        at_ms: since_1970(record.at + record.total),
        id: record.id.clone(),
        client: record.client.clone(),
        route: record.route.clone(),
        status: record.status,
        why: record.why.clone(),
        took_ms: millis(record.total),
        attempts: attempts
            .map(|tried| AttemptState {
                host: tried.host.clone(),
                share: words::share(tried, record.items),
                verdict: tried.verdict.clone(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::pool::{Event, EventKind};
    use crate::telemetry::{Activity, Finished, Journal};

    #[test]
    fn a_push_tells_all_that_is_new() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1234);
        let activity = Activity::default();
        let event = Event {
            host: "a".parse().unwrap(),
            kind: EventKind::Draining,
            problem: None,
        };
        activity.event(&event, now);
        let mut record = RequestRecord::new("id".to_owned());
        record.total = Duration::from_millis(7);
        record.at = now - record.total;
        record.client = Some("plugin".to_owned());
        record.route = "embed".into();
        record.status = Some(502);
        record.why = Some("why".to_owned());
        let journal = Journal::default();
        journal
            .attempt("a", None, crate::telemetry::Share::WithOthers(3))
            .end("fault", None);
        record.attempts = journal.story().attempts;
        activity.finished(&Finished {
            record: record.into(),
            refused: None,
            computes: true,
            queued: true,
        });
        let pool = RawValue::from_string(r#"{"ready":true}"#.to_owned()).unwrap();

        let news = activity.news(0);
        let push = Push::new(&pool, false, &news, now);

        let json = serde_json::to_value(&push).unwrap();
        assert_eq!(json["pool"], json!({"ready": true}));
        assert_eq!(
            (&json["at_ms"], &json["stopping"]),
            (&json!(1234), &json!(false))
        );
        assert_eq!(
            json["events"],
            json!([{
                "number": 0, "first_ms": 1234, "at_ms": 1234, "count": 1, "group": "order",
                "host": "a", "kind": "draining",
                "level": "attention", "text": "is drained by an operator",
            }])
        );
        assert_eq!(
            json["incidents"],
            json!([{
                "number": 1, "at_ms": 1234, "id": "id", "client": "plugin", "route": "embed",
                "status": 502, "why": "why", "took_ms": 7, "attempts": [{
                    "host": "a", "share": " (with 3 other requests)", "verdict": "fault",
                }],
            }])
        );
    }
}
