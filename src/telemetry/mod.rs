//! What operators see: log lines, metrics, what happened lately, the story of each request, and traces.

mod activity;
mod finished;
mod journal;
mod logs;
mod metrics;
mod observers;
#[cfg(feature = "otlp")]
pub mod otlp;
mod recent;
mod request_record;
pub mod trace;

pub use activity::{
    Activity, Counts, End, Group, Happened, Lately, News, Rates, Sample, millis, since_1970,
};
pub use finished::Finished;
pub use journal::{Journal, NotedAttempt, NotedWait, Share, Story};
pub use logs::{LogFormat, init as init_logs};
pub use metrics::{
    HostMetrics, Metrics, OpenConnection, ProcessMetrics, Reason, Reloads, RequestMetrics, Watched,
};
pub use observers::{Exporter, Observers, TRACES_WANTED};
pub use recent::{Begun, Recent};
pub use request_record::{ABANDONED, APART, CLIENT_GONE, RUNNING, RequestRecord, Tried, Wait};
