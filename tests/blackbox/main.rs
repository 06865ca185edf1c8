//! Black-box tests: the real binaries, over the network, against simulated GPU hosts.
//!
//! Each file holds the tests of one promise. A test starts its own hosts and its own proxy on ports
//! from the operating system, so that all tests can run at once; it waits for conditions, never for
//! time to pass. The [`harness`] says how.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that can't go on has failed, and says why"
)]

mod harness;

mod activation;
mod aggregates;
mod answers;
mod audits;
mod auth;
mod backend_tls;
mod batches;
mod blame;
mod bodies;
mod bulk;
mod bulk_refusals;
mod busy;
mod capacity;
mod chaos;
mod command_line;
mod commands;
mod configuration;
mod cors;
mod deadlines;
mod discovery;
mod edges_forwarding;
mod edges_heads;
mod edges_host_tls;
mod edges_http2;
mod edges_limits;
mod edges_tls;
mod faults;
mod floods;
mod hangs;
mod health;
mod hostile;
mod init;
mod kept;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod leaving;
mod log_lines;
mod meanings;
mod merging;
mod merging_kinds;
mod metrics;
mod models;
mod monitoring;
mod openai;
mod openai_hosts;
mod operations;
mod outages;
mod page;
mod places;
mod proportion;
mod protocol;
mod queue;
mod readiness;
mod real_backends;
mod reload;
mod results;
mod scheduling;
mod secrets;
mod shipped;
mod shutdown;
mod smuggling;
mod speed;
mod stalling;
mod stories;
mod summary;
mod telemetry;
mod traces;
#[cfg(feature = "otlp")]
mod traces_export;
mod troubles;
mod upgrade;
mod why;
