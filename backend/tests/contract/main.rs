//! The HTTP side against the wire contract: recorded exchanges with the Python service are replayed
//! on the router with an engine of our own making, and on the real binary with a real model.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test's helpers as in tests: what is not as expected ends the test"
)]

mod differences;
mod edges;
mod fake;
mod lifecycle;
mod mutations;
mod openai;
mod program;
mod recording;
mod replay;
mod scrape;
mod telemetry;
mod weapons;
