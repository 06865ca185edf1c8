//! Answers to requests that go no further than their head.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};

use super::client_limits::Reached;
use super::respond::Reply;
use super::route::NoRoute;
use crate::dispatch::Refusal;
use crate::telemetry::Reason;

/// No key that we know.
pub(super) fn unauthorized() -> Reply {
    Reply::error(StatusCode::UNAUTHORIZED, "Unauthorized")
        .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
        .because(Reason::Unauthorized)
}

/// More than its client may ask for.
pub(super) fn too_many(reached: Reached) -> Reply {
    let wait = whole_seconds(reached.wait()).max(1);
    Reply::error(StatusCode::TOO_MANY_REQUESTS, reached.to_string())
        .with(header::RETRY_AFTER, HeaderValue::from(wait))
        .because(match reached {
            Reached::Concurrent(_) => Reason::MaxConcurrent,
            Reached::PerSecond { .. } => Reason::MaxPerSecond,
        })
}

/// For nothing that there is.
pub(super) fn no_route(no_route: NoRoute) -> Reply {
    let reply = match no_route {
        NoRoute::NotFound => Reply::error(StatusCode::NOT_FOUND, "Not Found"),
        NoRoute::MethodNotAllowed { allow } => {
            Reply::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
                .with(header::ALLOW, HeaderValue::from_static(allow))
        }
        NoRoute::TrailingSlash { path } => Reply::error(StatusCode::TEMPORARY_REDIRECT, path)
            .with(header::LOCATION, HeaderValue::from_static(path)),
    };
    reply.because(Reason::NoRoute)
}

/// No host answered. `retry_after`: in seconds, for what is worth repeating.
pub(super) fn no_answer(refusal: Refusal, retry_after: impl FnOnce() -> u64) -> Reply {
    let reason = match refusal {
        Refusal::HostsFailed => {
            return Reply::error(StatusCode::BAD_GATEWAY, refusal.to_string())
                .because(Reason::HostsFailed);
        }
        Refusal::QueueFull => Reason::QueueFull,
        Refusal::QueueTooLong => Reason::QueueTooLong,
        Refusal::Deadline => Reason::Deadline,
    };
    Reply::retry_later(refusal.to_string(), retry_after()).because(reason)
}

/// Rounded up.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
