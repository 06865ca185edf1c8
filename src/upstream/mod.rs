//! Talking to hosts: which there are, attempts, what their outcome means, and health checks.
//!
//! Knows sockets, HTTP and DNS; knows neither clients nor which host is used for what. It tells the
//! pool which hosts there are and what checks found, and answers [`Upstream::attempt`] with a
//! [`Verdict`].

mod alive;
mod attempt;
mod background;
mod check;
mod coding;
mod discovery;
mod duplex;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod hosts;
mod kept;
mod key;
#[cfg(feature = "kubernetes")]
mod kubernetes;
#[cfg(not(feature = "kubernetes"))]
#[path = "unbuilt.rs"]
mod kubernetes;
mod meaning;
mod member;
mod membership;
mod openai;
mod question;
mod readiness;
mod reading;
mod request;
mod resolver;
mod response;
mod result;
mod system;
mod target;
#[cfg(test)]
mod testing;
mod tls;
mod told;
mod trouble;
mod unwatched;
mod verdict;

use std::time::Duration;

#[cfg(test)]
pub(crate) use alive::while_alive;
#[cfg(test)]
pub(crate) use check::patience;
pub use hosts::Hosts;
pub use member::Member;
pub use membership::Membership;
pub(crate) use result::no_result;
pub use target::Target;
#[cfg(test)]
pub(crate) use testing::judged;
pub use verdict::{Doubt, Verdict};

use async_trait::async_trait;

use crate::message::Call;
use crate::pool::HostId;
use crate::telemetry::trace::TraceContext;

/// What can be asked of hosts; a seam for tests.
#[async_trait]
pub trait Upstream: Send + Sync {
    /// Tries `call` once on `host`. Dropping the future closes the connection.
    async fn attempt(&self, host: HostId, call: &Call, terms: Terms) -> Verdict;
}

/// What is particular to one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long a whole answer may take.
    pub limit: Duration,
    /// How long one may take that is too large to hold: its client sets the pace.
    pub longest: Duration,
    /// Only on a connection of its own, since the request has broken a host already: one that fails
    /// on a kept connection gets a second try there.
    pub fresh: bool,
    /// The request is broken off where it waits behind others, once it need not.
    pub may_move: bool,
    /// The attempt's span, if the host is to be told of it.
    pub trace: Option<TraceContext>,
}
