//! The engine through its public face, with real files: numbers against the reference
//! implementation, and what happens to names, broken models and requests that nobody waits for.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says how near it was"
)]

mod engine;
mod folders;
mod numerics;
mod odd;
mod support;
