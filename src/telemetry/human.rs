//! Log lines for people: time, level, what happened, and the details as `name=value`.
//!
//! What a request's line always has stands in columns, so that the eye can run down a screen of them:
//!
//! ```text
//! 10:51:10.123  INFO POST  embed         200     203 ms  queue     12 ms  a:deliver:190ms  items=2 …
//! ```

use std::fmt;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Events of this target have columns.
const REQUEST: &str = "gpu_bridge::request";
const GREY: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// See the module.
#[derive(Debug)]
pub(super) struct Human;

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let (grey, colour, plain) = if writer.has_ansi_escapes() {
            (GREY, colour(*event.metadata().level()), PLAIN)
        } else {
            ("", "", "")
        };
        let level = event.metadata().level();
        write!(writer, "{grey}{now}{plain} {colour}{level:>5}{plain} ")?;
        let line = if event.metadata().target() == REQUEST {
            request(fields)
        } else {
            other(fields)
        };
        writeln!(writer, "{line}")
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    }
}

/// The fields of an event as text, in order.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn take(&mut self, name: &str) -> String {
        let position = self.0.iter().position(|(other, _)| *other == name);
        position.map_or_else(String::new, |position| self.0.remove(position).1)
    }

    /// Without what says nothing.
    fn rest(self) -> String {
        let told = self.0.into_iter().filter(|(_, value)| !value.is_empty());
        let pairs = told.map(|(name, value)| format!("  {name}={}", quoted(&value)));
        pairs.collect()
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), printable(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .push((field.name(), printable(&format!("{value:?}"))));
    }
}

fn request(mut fields: Fields) -> String {
    let mut take = |name| fields.take(name);
    let (method, route, status) = (take("method"), take("route"), take("status"));
    let (total, queued, hosts) = (take("total_ms"), take("queue_ms"), take("hosts"));
    let hosts = if hosts.is_empty() { "-" } else { &hosts };
    // Said by the columns themselves.
    take("message");
    format!(
        "{method:<5} {route:<13} {status:>3} {total:>7} ms  queue {queued:>6} ms  {hosts}{}",
        fields.rest()
    )
}

fn other(mut fields: Fields) -> String {
    let message = fields.take("message");
    let rest = fields.rest();
    if rest.is_empty() {
        message
    } else {
        format!("{message:<28}{rest}")
    }
}

/// One line, and nothing that a terminal would obey.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            printable.extend(char.escape_default());
        } else {
            printable.push(char);
        }
    }
    printable
}

/// In quotes where it would not be clear where it ends.
fn quoted(text: &str) -> String {
    if text.contains([' ', '"', '=']) {
        format!("{text:?}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::super::request_record::RequestRecord;
    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged, without the time.
    fn logged(log: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Human)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let without_time = |line: &str| line.split_once(' ').unwrap().1.to_owned();
        text.lines().map(without_time).collect()
    }

    #[test]
    fn requests_stand_in_columns() {
        let lines = logged(|| {
            let mut record = RequestRecord::new("one".to_owned());
            (record.method, record.route) = ("POST".into(), "embed".into());
            (record.status, record.items) = (Some(200), 12);
            record.total = Duration::from_millis(203);
            record.log();
            (record.method, record.route) = ("GET".into(), "bertscore".into());
            (record.status, record.why) = (Some(503), Some("the queue is full".to_owned()));
            record.queued = Duration::from_secs(30);
            record.log();
        });
        let expected = [
            " INFO POST  embed         200     203 ms  queue      0 ms  -  upstream_ms=0  items=12  \
             request_bytes=0  response_bytes=0  id=one",
            " INFO GET   bertscore     503     203 ms  queue  30000 ms  -  upstream_ms=0  items=12  \
             request_bytes=0  response_bytes=0  why=\"the queue is full\"  id=one",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn other_events_say_what_and_then_the_details() {
        let lines = logged(|| {
            tracing::info!(host = "a", "host is up");
            tracing::warn!("alone");
        });
        let expected = [" INFO host is up                    host=a", " WARN alone"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn nothing_can_fake_a_line_or_command_a_terminal() {
        let lines = logged(|| tracing::info!(model = "a\nb\x1b[2J \"c\"", "x\ny"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains('\x1b'), "{lines:?}");
        assert!(lines[0].contains(r"x\ny"), "{lines:?}");
    }
}
