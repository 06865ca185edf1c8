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

use crate::{cut, printable};

/// Events of this target have columns.
const REQUEST: &str = "gpu_bridge::request";
/// Columns that one value may take; what people read at all is shorter.
const MAX_VALUE: usize = 1000;
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
        self.0.push((field.name(), shown(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push((field.name(), shown(&format!("{value:?}"))));
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

/// Fit for a terminal, and short enough to be read there.
fn shown(text: &str) -> String {
    cut(&printable(text), MAX_VALUE).into_owned()
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
            tracing::info!(
                target: REQUEST, method = "POST", route = "embed", status = 200, total_ms = 203,
                queue_ms = 0, items = 12, hosts = "", id = "one", "request"
            );
            tracing::info!(
                target: REQUEST, method = "GET", route = "bertscore", status = 503, total_ms = 203,
                queue_ms = 30000, hosts = "a:busy:1ms", why = "the queue is full", id = "two", "request"
            );
        });
        let expected = [
            " INFO POST  embed         200     203 ms  queue      0 ms  -  items=12  id=one",
            " INFO GET   bertscore     503     203 ms  queue  30000 ms  a:busy:1ms  \
             why=\"the queue is full\"  id=two",
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
        let lines = logged(|| {
            let foreign = "a\nb\x1b[2J\u{202e}\u{2028}";
            tracing::info!(model = foreign, shown = %foreign, "x\ny");
            tracing::info!(long = "x".repeat(1 << 20));
        });
        let foreign = r"a\nb\u001b[2J\u202e\u2028";
        let expected = format!(" INFO {:<28}  model={foreign}  shown={foreign}", r"x\ny");
        assert_eq!(lines[0], expected);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].len() < 2 * MAX_VALUE, "{lines:?}");
    }
}
