//! What operators see: log lines and metrics.

mod logs;
mod metrics;

pub use logs::{LogFormat, init as init_logs};
pub use metrics::{
    Finished, HostMetrics, Metrics, OpenConnection, ProcessMetrics, Reason, Reloads,
    RequestMetrics, Watched,
};
