//! What waits, at the moment of the scrape. How long requests have waited is told by
//! [`super::requests`].

use prometheus::proto::MetricFamily;

use super::reading::{Kind, Reading};
use crate::pool::PoolView;

pub(super) fn read(pool: &PoolView) -> impl Iterator<Item = MetricFamily> {
    READINGS
        .iter()
        .filter_map(move |reading| reading.of(std::iter::once((Vec::new(), pool))))
}

const READINGS: [Reading<PoolView>; 5] = [
    Reading {
        kind: Kind::Gauge,
        name: "queue_length",
        help: "Requests that wait for a free slot.",
        read: |pool| Some(pool.waiting as f64),
    },
    Reading {
        kind: Kind::Gauge,
        name: "queue_held_back",
        help: "Requests that wait for nothing but the limits of their own keys.",
        read: |pool| Some(pool.held_back as f64),
    },
    Reading {
        kind: Kind::Gauge,
        name: "queue_bytes",
        help: "Bytes of the requests that wait.",
        read: |pool| Some(pool.waiting_bytes as f64),
    },
    Reading {
        kind: Kind::Gauge,
        name: "queue_expected_wait_seconds",
        help: "How long the requests that wait will take to be served, as far as that is known.",
        read: |pool| Some(pool.expected_wait.as_secs_f64()),
    },
    Reading {
        kind: Kind::Gauge,
        name: "queue_oldest_seconds",
        help: "How long the request that waits longest has waited.",
        read: |pool| Some(pool.oldest_wait.as_secs_f64()),
    },
];
