//! What the head of a host's answer means for the request and for the host.
//!
//! Decided here, once, without I/O; everything else carries it out.
//!
//! | answer | meaning |
//! | --- | --- |
//! | 503 or 429 with `Retry-After`, any 429 | alive but full: a sibling takes the request |
//! | 401, 403 | our key for this host is wrong: a sibling takes the request |
//! | other 5xx | the host's fault or the request's: a sibling will tell |
//! | all else | the client's answer |

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use crate::message::Answer;
use crate::pool::Outcome;

/// For a 429 that does not say how long, and for a `Retry-After` that can't be read.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How one attempt ended.
#[derive(Debug)]
pub enum Verdict {
    /// The client's answer.
    Deliver(Answer),
    /// A server error, whole: the client's answer if no sibling knows better.
    ServerError(Answer),
    /// The host is alive but full.
    Busy {
        /// How long it wants to be left alone.
        retry_after: Duration,
    },
    /// No whole answer.
    Fault {
        /// Had the request, or a part of it, been sent?
        sent: bool,
        /// For the log.
        reason: String,
    },
    /// Given up because its host was ejected meanwhile.
    Moved {
        /// The host hangs, perhaps because of this very request.
        hung: bool,
    },
    /// The host refuses our key.
    Misconfigured {
        /// The status that says so.
        status: StatusCode,
    },
}

impl Verdict {
    /// One word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Deliver(_) => "deliver",
            Self::ServerError(_) => "server_error",
            Self::Busy { .. } => "busy",
            Self::Fault { sent: true, .. } => "fault",
            Self::Fault { sent: false, .. } => "refused",
            Self::Moved { .. } => "moved",
            Self::Misconfigured { .. } => "misconfigured",
        }
    }

    /// What was wrong, for operators.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Deliver(_) => None,
            Self::ServerError(answer) => Some(format!("it answered {}", answer.status)),
            Self::Busy { retry_after } => Some(format!(
                "it is full, and wants to be left alone for {retry_after:?}"
            )),
            Self::Fault { reason, .. } => Some(reason.clone()),
            Self::Moved { hung: true } => Some("it was ejected: it hangs".to_owned()),
            Self::Moved { hung: false } => Some("it was ejected".to_owned()),
            Self::Misconfigured { status } => Some(format!(
                "it refuses the proxy's key ({status}); correct its api_key"
            )),
        }
    }

    /// What the pool should know of the host.
    pub fn outcome(&self) -> Outcome {
        match *self {
            Self::Deliver(ref answer) => Outcome::Answered {
                timed: answer.status.is_success(),
            },
            // What there is to say of its host has been said by its ejection.
            Self::Moved { .. } => Outcome::Abandoned,
            Self::ServerError(_) => Outcome::ServerError,
            Self::Busy { retry_after } => Outcome::Busy { retry_after },
            Self::Fault { sent: true, .. } => Outcome::Broke,
            Self::Fault { sent: false, .. } => Outcome::Refused,
            Self::Misconfigured { .. } => Outcome::Misconfigured,
        }
    }
}

/// What the head of an answer says; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Deliver,
    ServerError,
    Busy { retry_after: Duration },
    Misconfigured,
}

/// `now`: to read a `Retry-After` that is a date (RFC 9110, section 10.2.3).
pub(super) fn classify(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Class {
    let retry_after = headers.get(header::RETRY_AFTER);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Class::Misconfigured,
        StatusCode::TOO_MANY_REQUESTS => Class::Busy {
            retry_after: read_delay(retry_after, now),
        },
        StatusCode::SERVICE_UNAVAILABLE if retry_after.is_some() => Class::Busy {
            retry_after: read_delay(retry_after, now),
        },
        status if status.is_server_error() => Class::ServerError,
        _ => Class::Deliver,
    }
}

fn read_delay(value: Option<&http::HeaderValue>, now: SystemTime) -> Duration {
    let Some(text) = value.and_then(|value| value.to_str().ok()).map(str::trim) else {
        return DEFAULT_RETRY_AFTER;
    };
    if let Ok(seconds) = text.parse() {
        return Duration::from_secs(seconds);
    }
    match httpdate::parse_http_date(text) {
        Ok(date) => date.duration_since(now).unwrap_or(Duration::ZERO),
        Err(_) => DEFAULT_RETRY_AFTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let busy = |seconds| Class::Busy {
            retry_after: Duration::from_secs(seconds),
        };
        let table = [
            (200, None, Class::Deliver),
            (400, None, Class::Deliver),
            (404, None, Class::Deliver),
            (413, None, Class::Deliver),
            (422, None, Class::Deliver),
            (401, None, Class::Misconfigured),
            (403, None, Class::Misconfigured),
            (429, None, busy(1)),
            (429, Some("7"), busy(7)),
            (503, Some("5"), busy(5)),
            (503, Some(" 0 "), busy(0)),
            (503, Some("soon"), busy(1)),
            (503, Some("-3"), busy(1)),
            (503, Some("Sun, 06 Nov 1994 08:49:41 GMT"), busy(4)),
            (503, Some("Sun, 06 Nov 1994 08:49:30 GMT"), busy(0)),
            (503, None, Class::ServerError),
            (500, Some("5"), Class::ServerError),
            (502, None, Class::ServerError),
        ];
        for (status, retry_after, expected) in table {
            let mut headers = HeaderMap::new();
            if let Some(value) = retry_after {
                headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            }
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                classify(status, &headers, now),
                expected,
                "{status} {retry_after:?}"
            );
        }
    }
}
