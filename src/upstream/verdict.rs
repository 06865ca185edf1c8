//! How one attempt ended, and what that says of the host. What makes it end so: [`super::meaning`].

use std::num::NonZeroU32;
use std::time::Duration;

use gpu_bridge_wire::ErrorBody;
use http::StatusCode;

use super::trouble::Trouble;
use crate::budget::{Budget, Exhausted};
use crate::message::Answer;
use crate::pool::Outcome;

/// How one attempt ended.
#[derive(Debug)]
pub enum Verdict {
    /// The client's answer.
    Deliver(Answer),
    /// A whole answer that is the client's only if no sibling knows better.
    Sibling {
        /// It.
        answer: Answer,
        /// Why a sibling may know better.
        why: Doubt,
    },
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
    /// No whole answer, because this machine is short of something. Says nothing of the host.
    Ours {
        /// For the log.
        reason: String,
    },
    /// Given up because its host was ejected meanwhile.
    Moved {
        /// The host hangs, perhaps because of this very request.
        hung: bool,
    },
    /// An answer that can't be relied on: an audit has shown meanwhile that the host answers wrong.
    Wrong,
    /// The host refuses our key, or whatever is asked with it.
    Misconfigured {
        /// The status that says so.
        status: StatusCode,
    },
}

/// Why an answer may be about its host rather than about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The host failed, perhaps because of the request.
    ServerError,
    /// It can be no result of what was asked, though the host thinks so; what is held instead says why.
    Unusable,
    /// It is what the host's front, or its version, says, and has cost no computing.
    Front,
    /// The host forbids it, although it takes our key.
    Forbidden,
    /// The host has no such model, or no such path.
    NoModel,
    /// It is more than the host takes, or nothing that it can be asked; others may take it.
    Limit,
    /// There are more items than the host takes at once, as it says itself.
    TooMany {
        /// So many it takes.
        most: NonZeroU32,
    },
}

impl Doubt {
    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServerError => "server_error",
            Self::Unusable => "unusable",
            Self::Front => "front",
            Self::Forbidden => "forbidden",
            Self::NoModel => "no_model",
            Self::Limit | Self::TooMany { .. } => "limit",
        }
    }
}

/// There is no memory for what came.
impl From<Exhausted> for Verdict {
    fn from(exhausted: Exhausted) -> Self {
        Self::Ours {
            reason: exhausted.to_string(),
        }
    }
}

impl Verdict {
    /// In doubt, where `body` (JSON) is held in the place of what the host said.
    pub(super) fn doubtful(status: StatusCode, body: Vec<u8>, why: Doubt, budget: &Budget) -> Self {
        Answer::in_json(status, body, budget)
            .map_or_else(Self::from, |answer| Self::Sibling { answer, why })
    }

    /// One word for logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Deliver(_) => "deliver",
            Self::Sibling { why, .. } => why.as_str(),
            Self::Busy { .. } => "busy",
            Self::Fault { sent: true, .. } => "fault",
            Self::Fault { sent: false, .. } => "refused",
            Self::Ours { .. } => "ours",
            Self::Moved { .. } => "moved",
            Self::Wrong => "wrong",
            Self::Misconfigured { .. } => "misconfigured",
        }
    }

    /// What was wrong, for operators.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Deliver(_) => None,
            Self::Sibling {
                answer,
                why: Doubt::Forbidden,
            } => Some(format!(
                "it answered {}, although it takes the proxy's key",
                answer.status
            )),
            Self::Sibling {
                answer,
                why: Doubt::TooMany { most },
            } => Some(format!(
                "it answered {}: it takes {most} items at once",
                answer.status
            )),
            Self::Sibling {
                answer,
                why: Doubt::Unusable,
            } => {
                let told = serde_json::from_slice(&answer.body.joined());
                told.ok().map(|told: ErrorBody| told.detail)
            }
            Self::Sibling { answer, .. } => Some(format!("it answered {}", answer.status)),
            Self::Busy { retry_after } => Some(format!(
                "it is full, and wants to be left alone for {retry_after:?}"
            )),
            Self::Fault { reason, .. } => Some(reason.clone()),
            Self::Ours { reason } => Some(format!("not the host's fault: {reason}")),
            Self::Moved { hung: true } => Some("it was ejected: it hangs".to_owned()),
            Self::Moved { hung: false } => Some("it was ejected".to_owned()),
            Self::Wrong => Some("an audit has shown that it answers wrong".to_owned()),
            Self::Misconfigured { status } => {
                Some(Trouble::KeyRefused(status.as_u16()).to_string())
            }
        }
    }

    /// What the pool should know of the host.
    pub fn outcome(&self) -> Outcome {
        match *self {
            Self::Deliver(ref answer) => Outcome::Answered {
                timed: answer.status.is_success(),
            },
            // What there is to say of its host has been said elsewhere.
            Self::Moved { .. } | Self::Wrong => Outcome::Abandoned,
            Self::Sibling { why, .. } => match why {
                Doubt::NoModel => Outcome::LacksModel,
                Doubt::TooMany { most } => Outcome::TooMany { most },
                Doubt::ServerError
                | Doubt::Unusable
                | Doubt::Front
                | Doubt::Forbidden
                | Doubt::Limit => Outcome::Doubtful,
            },
            Self::Busy { retry_after } => Outcome::Busy { retry_after },
            Self::Fault { sent: true, .. } => Outcome::Broke,
            Self::Fault { sent: false, .. } => Outcome::Refused,
            Self::Ours { .. } => Outcome::Untried,
            Self::Misconfigured { .. } => Outcome::Misconfigured,
        }
    }
}
