//! Standard error and standard output of a program that serves.

mod filter;
mod human;

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::human::Human;
use crate::{Lines, Upkeep, printable, printable_lines};

pub use filter::{BadFilter, Filter};

/// What is left to be written at the end has so long.
const FAREWELL: Duration = Duration::from_secs(1);

/// The log, on standard error. Dropping it at the end of the program lets what waits go out, for a
/// second at most.
#[derive(Debug)]
pub struct Log(Arc<Lines>);

impl Log {
    /// Once for the program.
    pub fn start(upkeep: &Upkeep) -> Self {
        let tell = |dropped: u64| {
            tracing::warn!(
                dropped,
                "log lines were dropped: standard error did not take them"
            );
        };
        let dropped = upkeep.dropped_lines.clone();
        Self(Lines::start(io::stderr(), dropped, tell))
    }

    /// Takes the events of the program from now on: for people, or else one JSON object a line.
    pub fn listen(&self, filter: Filter, for_people: bool) {
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(Arc::clone(&self.0))
            // These go to standard error by a macro that panics.
            .log_internal_errors(false);
        let all = tracing_subscriber::registry().with(filter.targets);
        // It fails if somebody listens already, as in tests.
        let _ = if for_people {
            let layer = layer.with_ansi(io::stderr().is_terminal());
            all.with(layer.event_format(Human)).try_init()
        } else {
            let layer = layer.json().flatten_event(true);
            all.with(layer.map_event_format(Printable)).try_init()
        };
        if filter.asks_for_others {
            tracing::warn!(
                "RUST_LOG asks for lines of libraries, which are not logged: they may hold keys and texts"
            );
        }
    }

    /// Writes `text`, which ends with a newline, line by line as it can be shown.
    pub fn say(&self, text: &str) {
        // It never fails.
        let _ = (&*self.0).write_all(printable_lines(text).as_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush_within(FAREWELL);
    }
}

/// Lines of another format, as they can be shown.
struct Printable<F>(F);

impl<S, N, F> FormatEvent<S, N> for Printable<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{}", printable(line.trim_end_matches('\n')))
    }
}

/// Writes `text` to standard output, for people and scripts that wait for it. Nobody need read it: a
/// thread of its own waits for whoever does.
pub fn announce(text: String) {
    let write = move || {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    let thread = thread::Builder::new().name("announce".to_owned());
    drop(thread.spawn(write));
}
