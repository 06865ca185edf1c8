//! What operators see: log lines and metrics.

mod logs;
mod metrics;
mod reloads;
mod series;

pub use logs::{LogFormat, init as init_logs};
pub use metrics::Metrics;
pub use reloads::Reloads;
