//! What the pool is told of hosts: how attempts ended, and what checks found.

use std::num::NonZeroU32;
use std::time::Duration;

/// How an attempt ended, as far as its host is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host answered as it should.
    Answered {
        /// Does the time that it took tell how fast the host is? Not if it refused to compute
        /// anything, nor if the client's reading set the pace.
        timed: bool,
    },
    /// The host is alive but full; leave it alone that long.
    Busy {
        /// What it asked for.
        retry_after: Duration,
    },
    /// No connection could be made: nothing was sent.
    Refused,
    /// The request was sent and no whole answer came back.
    Broke,
    /// The host answered, but not as it should, or not yet to its end. Says nothing of the host until a sibling has
    /// answered the same request, or the end has come; see [`super::Pool::blame`] and [`super::Pool::credit`].
    Doubtful,
    /// The host said that it has no such model.
    LacksModel,
    /// The host said how many items it takes at once: fewer than it was asked for.
    TooMany {
        /// So many.
        most: NonZeroU32,
    },
    /// The attempt failed on this machine, not on the host.
    Untried,
    /// The host refuses our key.
    Misconfigured,
    /// Nobody waits for the answer any more.
    Abandoned,
}

/// What a health check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The host is well.
    Good {
        /// What it says of its slots.
        slots: Tells,
    },
    /// The host is well, but says that it can't use its models.
    NotReady {
        /// For the log.
        reason: String,
        /// What it says of its slots.
        slots: Tells,
    },
    /// The host is alive but too full even for a check.
    Busy {
        /// What it asked for.
        retry_after: Duration,
    },
    /// No connection, or a bad answer.
    Failed {
        /// For the log.
        reason: String,
        /// It answered, if badly.
        reachable: bool,
    },
    /// A connection but no answer in time.
    NoAnswer {
        /// For the log.
        reason: String,
        /// How long it was waited for.
        silent_for: Duration,
    },
    /// The host refuses our key.
    Misconfigured {
        /// For the log.
        reason: String,
    },
    /// The host could not be asked, which is not its fault: this machine is short of something, or
    /// nobody tells what the host's name stands for.
    Ours {
        /// For the log.
        reason: String,
    },
}

/// What a host says of its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// This.
    Slots(Slots),
    /// Nothing that could be read this time; what it said last still counts for a while.
    NotNow,
    /// Nothing, ever.
    Nothing,
}

impl Outcome {
    /// Did the host answer, whatever it said?
    pub(super) fn is_an_answer(self) -> bool {
        matches!(
            self,
            Self::Answered { .. }
                | Self::Busy { .. }
                | Self::Doubtful
                | Self::LacksModel
                | Self::TooMany { .. }
                | Self::Misconfigured
        )
    }
}

impl Check {
    /// Did the host answer, whatever it said?
    pub(super) fn is_an_answer(&self) -> bool {
        match self {
            Self::Good { .. }
            | Self::NotReady { .. }
            | Self::Busy { .. }
            | Self::Misconfigured { .. } => true,
            Self::Failed { reachable, .. } => *reachable,
            Self::NoAnswer { .. } | Self::Ours { .. } => false,
        }
    }

    /// What is wrong, for people; `None` if nothing is.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Good { .. } | Self::Busy { .. } => None,
            Self::NotReady { reason, .. }
            | Self::Failed { reason, .. }
            | Self::NoAnswer { reason, .. }
            | Self::Misconfigured { reason }
            | Self::Ours { reason } => Some(reason),
        }
    }
}

/// How many slots a host has, and how many are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Requests that it runs at once; 0 = it calls itself always busy.
    pub max_concurrent: u32,
    /// Slots that are free now.
    pub available: u32,
    /// Requests that it has.
    pub in_flight: u32,
    /// How many of these may be ours.
    pub ours: u32,
}
