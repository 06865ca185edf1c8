//! Bounds on time, size and number: `health`, `queue`, `retries`, `batching`, `timeouts`, `limits`.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::reader::Section;

/// Longer heads, and more headers than 256, can't be parsed.
const LARGEST_HEAD: usize = 256 << 10;
const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// What hosts take at once unless told otherwise.
const HUNDRED: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const LONGEST_INTERVAL: Duration = Duration::from_mins(5);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Section `health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Time between two checks of a host that is well.
    pub interval: Duration,
    /// Bound on the answer to a check.
    pub timeout: Duration,
    /// Good checks that bring a host back.
    pub healthy_after: NonZeroU32,
    /// Failed checks, or faults, that eject a host.
    pub unhealthy_after: NonZeroU32,
}

/// Section `retries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Different hosts that may break one request before it is given up.
    pub max_faulted_hosts: NonZeroU32,
    /// Attempts after faults, as a share of all requests in percent; more are delayed.
    pub budget_percent: u32,
}

/// Section `batching`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Run a batch in parts on hosts that idle.
    pub split: bool,
    /// Run requests together that wait with the same question.
    pub merge: bool,
    /// What would be done by less sooner stays whole.
    pub min_gain: Duration,
    /// Items that a host takes at once; a batch of more stays whole, and no more are run together.
    pub max_items: NonZeroU32,
}

/// Section `queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Requests that may wait at once.
    pub max_waiting: usize,
    /// Bytes that they may hold together; half of `limits.max_buffered` unless set.
    pub max_bytes: usize,
    /// Time that a request may wait.
    pub max_wait: Duration,
}

/// Section `timeouts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Bound on connecting to a host.
    pub connect: Duration,
    /// Bound on one attempt on a host.
    pub attempt: Duration,
    /// Bound on the arrival of a request's head, from its first byte or the start of its connection.
    pub client_head: Duration,
    /// Bound on the arrival of a client's body.
    pub client_read: Duration,
    /// How long a client's connection may idle between two requests.
    pub client_idle: Duration,
    /// Bound on finishing what runs when the proxy stops.
    pub shutdown: Duration,
}

/// Section `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one body.
    pub max_body: usize,
    /// Bytes of all bodies and answers together.
    pub max_buffered: usize,
    /// Connections of clients.
    pub max_connections: usize,
    /// Of one address; none = three quarters of those that there may be.
    pub max_connections_per_client: Option<NonZeroU32>,
    /// Bytes of a request's head.
    pub max_head: usize,
    /// Headers of a request.
    pub max_headers: usize,
}

pub(super) fn health(section: &Section<'_>) -> Health {
    let health = Health {
        interval: section.duration("interval", 5 * SECOND),
        timeout: section.duration("timeout", 2 * SECOND),
        healthy_after: section.positive("healthy_after", NonZeroU32::MIN),
        unhealthy_after: section.positive("unhealthy_after", TWO),
    };
    if health.timeout > health.interval {
        section.warn(
            "timeout",
            "is longer than interval, so a host that hangs is checked less often than that says",
        );
    }
    if health.interval > LONGEST_INTERVAL {
        section.warn(
            "interval",
            "is long: until then nobody notices that a host is back",
        );
    }
    warn_if_short(section, "timeout", health.timeout, 100 * MILLISECOND);
    health
}

/// Less is a slip of the keyboard rather than a wish.
pub(super) fn warn_if_short(
    section: &Section<'_>,
    key: &'static str,
    time: Duration,
    least: Duration,
) {
    if time < least {
        let least = humantime::format_duration(least);
        section.warn(
            key,
            &format!("is very short; less than {least} is hardly meant"),
        );
    }
}

/// Unless told otherwise, what waits may fill half of the memory: the other half is for answers.
pub(super) fn queue(section: &Section<'_>, limits: &Limits) -> Queue {
    let queue = Queue {
        max_waiting: section.count("max_waiting", 4096, 0..=1_000_000) as usize,
        max_bytes: section.bytes("max_bytes", (limits.max_buffered / 2).max(1)),
        max_wait: section.duration("max_wait", 30 * SECOND),
    };
    warn_if_short(section, "max_wait", queue.max_wait, SECOND);
    if queue.max_waiting == 0 {
        section.warn(
            "max_waiting",
            "lets nobody wait: a request is refused while all slots are taken",
        );
    }
    if queue.max_bytes > limits.max_buffered {
        section.warn(
            "max_bytes",
            "is more than limits.max_buffered, which is reached first",
        );
    }
    queue
}

pub(super) fn retries(section: &Section<'_>) -> Retries {
    Retries {
        max_faulted_hosts: section.positive("max_faulted_hosts", TWO),
        budget_percent: section.count("budget_percent", 20, 1..=1000),
    }
}

pub(super) fn batching(section: &Section<'_>) -> Batching {
    Batching {
        split: section.flag("split", true),
        merge: section.flag("merge", true),
        min_gain: section.duration("min_gain", 20 * MILLISECOND),
        max_items: section.positive("max_items", HUNDRED),
    }
}

pub(super) fn timeouts(section: &Section<'_>) -> Timeouts {
    let timeouts = Timeouts {
        connect: section.duration("connect", SECOND),
        attempt: section.duration("attempt", 60 * SECOND),
        client_head: section.duration("client_head", 10 * SECOND),
        client_read: section.duration("client_read", 30 * SECOND),
        client_idle: section.duration("client_idle", 75 * SECOND),
        shutdown: section.duration("shutdown", 60 * SECOND),
    };
    for (key, time, least) in [
        ("connect", timeouts.connect, 10 * MILLISECOND),
        ("attempt", timeouts.attempt, SECOND),
        ("client_head", timeouts.client_head, 100 * MILLISECOND),
        ("client_read", timeouts.client_read, SECOND),
        ("client_idle", timeouts.client_idle, 100 * MILLISECOND),
    ] {
        warn_if_short(section, key, time, least);
    }
    if timeouts.attempt <= timeouts.connect {
        section.warn(
            "attempt",
            "is not longer than connect, which is a part of it",
        );
    }
    timeouts
}

pub(super) fn limits(section: &Section<'_>) -> Limits {
    let limits = Limits {
        max_body: section.bytes("max_body", 32 * MIB),
        max_buffered: section.bytes("max_buffered", GIB),
        max_connections: section.count("max_connections", 4096, 1..=1_000_000) as usize,
        max_connections_per_client: section.optional_positive("max_connections_per_client"),
        max_head: section.bytes("max_head", 64 * KIB),
        max_headers: section.count("max_headers", 100, 1..=256) as usize,
    };
    if limits.max_head < KIB {
        section.complain("max_head", "must be at least 1KiB");
    }
    if limits.max_head > LARGEST_HEAD {
        section.complain("max_head", "must be at most 256KiB");
    }
    if limits.max_body < KIB {
        section.complain("max_body", "must be at least 1KiB");
    }
    if limits.max_buffered < limits.max_body {
        section.complain("max_buffered", "must be at least max_body");
    }
    limits
}
