//! The story of a request, for people. Pure.
//!
//! ```text
//! request 7f3a: POST embed, 32 items, model embed:all-MiniLM-L6-v2
//!   2026-11-24T10:51:10.123Z  from openclaw (127.0.0.1), 4310 bytes
//!   +    0.002 s  waited 1.203 s: a is full for 4 s, b has 2 of 2 slots in use
//!   +    1.205 s  b: fault after 2.000 s: connection reset
//!   +    3.205 s  a: deliver after 0.203 s
//!   +    3.408 s  ended: 200, 9120 bytes, first byte after 3.408 s
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use gpu_bridge_upkeep::printable;

use super::words;
use crate::telemetry::{CLIENT_GONE, RequestRecord};

/// Tells it, in the order in which things happened.
pub fn tell(record: &RequestRecord) -> String {
    let mut events: Vec<(Duration, String)> = Vec::new();
    for wait in &record.waits {
        let why = wait
            .why
            .as_deref()
            .map_or(String::new(), |why| format!(": {why}"));
        let text = match wait.took {
            Some(took) => format!("waited {}{why}", seconds(took)),
            None => format!("waits since{why}"),
        };
        events.push((wait.after, text));
    }
    for attempt in &record.attempts {
        let reason = attempt.reason.as_deref();
        let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
        let took = attempt
            .took
            .map_or(String::new(), |took| format!(" after {}", seconds(took)));
        let share = words::share(attempt, record.items);
        let text = format!("{}{share}: {}{took}{reason}", attempt.host, attempt.verdict);
        events.push((attempt.after, text));
    }
    if let Some(after) = record.left_out_after() {
        let text = format!("({} more attempts like these)", record.attempts_left_out);
        events.push((after, text));
    }
    events.sort_by_key(|(after, _)| *after);
    events.push((record.total, end(record)));
    let lines = events.into_iter();
    let lines = lines
        .map(|(after, text)| format!("  +{:>9.3} s  {}\n", after.as_secs_f64(), printable(&text)));
    lines.fold(title(record), |story, line| story + &line)
}

fn title(record: &RequestRecord) -> String {
    let mut title = format!("request {}: {} {}", record.id, record.method, record.route);
    let mut add = |text: String| title.push_str(&text);
    if record.items > 0 {
        add(format!(", {} items", record.items));
    }
    if let Some(model) = &record.model {
        add(format!(", model {}", printable(model)));
    }
    let address = record.address.map(|address| address.to_string());
    let client = record.client.as_deref().unwrap_or("somebody without a key");
    let at = humantime::format_rfc3339_millis(record.at);
    add(format!(
        "\n  {at}  from {client} ({}), {} bytes\n",
        address.as_deref().unwrap_or("unknown address"),
        record.request_bytes
    ));
    if let Some(trace) = record.trace {
        // Writing to a string does not fail.
        let _ = writeln!(title, "  trace {}", trace.trace_id);
    }
    title
}

fn end(record: &RequestRecord) -> String {
    let why = record
        .why
        .as_deref()
        .map_or(String::new(), |why| format!(": {why}"));
    match record.status {
        None => "still running".to_owned(),
        Some(CLIENT_GONE) => "ended: the client went away, or its connection broke".to_owned(),
        Some(status) => {
            let first_byte = record.first_byte.map_or(String::new(), |time| {
                format!(", first byte after {}", seconds(time))
            });
            let bytes = record.response_bytes;
            format!("ended: {status}, {bytes} bytes{first_byte}{why}")
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::telemetry::{Tried, Wait};

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn record() -> RequestRecord {
        let mut record = RequestRecord::new("7f3a".to_owned());
        record.at = SystemTime::UNIX_EPOCH + millis(1_790_000_000_123);
        (record.method, record.route) = ("POST".into(), "embed".into());
        record.items = 32;
        record.model = Some("embed:m".to_owned());
        record.total = millis(3408);
        record.request_bytes = 4310;
        let attempt = |host: &str, after, took, verdict: &'static str| Tried {
            host: host.to_owned(),
            after: millis(after),
            took,
            verdict: verdict.into(),
            reason: None,
            items: None,
            others: None,
            span_id: None,
        };
        let mut broken = attempt("b", 1205, Some(millis(2000)), "fault");
        broken.reason = Some("connection reset".to_owned());
        let mut part = attempt("a", 3205, None, "running");
        part.items = Some(20);
        record.attempts = vec![broken, part];
        record.waits = vec![Wait {
            after: millis(2),
            took: Some(millis(1203)),
            why: Some("a is full for 4 s".to_owned()),
        }];
        record
    }

    #[test]
    fn one_that_went_everywhere() {
        let mut record = record();
        record.attempts_left_out = 1000;
        let told = tell(&record);
        assert!(
            told.contains(
                "a (20 of 32 items): running\n  +    3.205 s  (1000 more attempts like these)\n"
            ),
            "{told}"
        );
    }

    #[test]
    fn a_request_that_runs() {
        let expected = "\
request 7f3a: POST embed, 32 items, model embed:m
  2026-09-21T14:13:20.123Z  from somebody without a key (unknown address), 4310 bytes
  +    0.002 s  waited 1.203 s: a is full for 4 s
  +    1.205 s  b: fault after 2.000 s: connection reset
  +    3.205 s  a (20 of 32 items): running
  +    3.408 s  still running
";
        assert_eq!(tell(&record()), expected);
    }

    #[test]
    fn a_request_that_ended() {
        let mut record = record();
        record.client = Some("openclaw".to_owned());
        record.address = Some("192.0.2.1".parse().unwrap());
        record.status = Some(503);
        record.why = Some("no host became free in time".to_owned());
        (record.first_byte, record.response_bytes) = (Some(millis(3407)), 77);
        let story = tell(&record);
        assert!(
            story.contains("from openclaw (192.0.2.1), 4310 bytes"),
            "{story}"
        );
        let end = "ended: 503, 77 bytes, first byte after 3.407 s: no host became free in time\n";
        assert!(story.ends_with(end), "{story}");
        record.status = Some(CLIENT_GONE);
        assert!(tell(&record).contains("the client went away"));
    }
}
