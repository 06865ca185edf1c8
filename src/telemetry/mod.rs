//! What operators see: log lines, metrics, and what happened lately.

mod activity;
mod logs;
mod metrics;

pub use activity::{Activity, End, Happened, HostSample, Incident, Lately, News, Rates, Sample};
pub use logs::{LogFormat, init as init_logs};
pub use metrics::{
    Finished, HostMetrics, Metrics, OpenConnection, ProcessMetrics, Reason, Reloads,
    RequestMetrics, Watched,
};
