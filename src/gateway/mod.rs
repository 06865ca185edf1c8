//! Talking to clients: who they are, what they want, and their answer.
//!
//! ```text
//! connection ─ listener (place, TLS) ─┬─ http1 (framing) ─┐
//!                                     └─ http2 ───────────┴─ session ─ handler ─ outgoing
//! ```
//!
//! pingora gives the connections, and the sessions of HTTP/2. [`handler`] has the way of a request:
//! authenticate, route, read the body, dispatch, answer.
//!
//! The gateway knows nothing of hosts but what others report of them.

mod aggregate;
mod auth;
mod body;
mod call;
mod cors;
mod flood;
mod forwarding;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod handler;
mod http1;
mod http2;
mod listener;
mod metered;
mod openai;
mod outgoing;
mod pace;
mod peek;
mod record;
mod refusals;
mod request_id;
mod respond;
mod route;
mod session;

pub use aggregate::Aggregates;
pub use handler::Handler;
pub use listener::Listener;
pub use request_id::{HEADER as REQUEST_ID, is_sane as is_request_id};
