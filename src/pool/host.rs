//! One host as the pool knows it: its slots, its health, and until when it is busy.
//!
//! Whether a host may take a request is decided in one place, [`Host::can_take`].

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::avoid::Proof;
use super::health::{Health, Phase, Thresholds};
use super::policy::Load;
use crate::config::HostName;

/// Slots of a host that tells nothing of its own: the Python service's default.
const DEFAULT_CAPACITY: u32 = 2;
/// A busy host is left alone for at least this long, so that `Retry-After: 0` can't make a hot loop.
const MIN_BUSY: Duration = Duration::from_millis(100);
/// A busy host is tried again after this long at the latest, whatever it asked for.
const MAX_BUSY: Duration = Duration::from_mins(1);

/// What the configuration says of a host.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Unique in the pool.
    pub name: HostName,
    /// Slots, if the operator knows better than the host.
    pub max_concurrent: Option<NonZeroU32>,
}

/// One host of the pool.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) spec: HostSpec,
    pub(super) health: Health,
    pub(super) in_flight: u32,
    pub(super) proof: Proof,
    pub(super) last_granted: u64,
    pub(super) busy_until: Option<Instant>,
    /// It failed an attempt since its last check, so that the next one should come soon.
    pub(super) suspect: bool,
    learned_capacity: Option<u32>,
}

impl Host {
    pub(super) fn new(spec: HostSpec, thresholds: Thresholds) -> Self {
        Self {
            spec,
            health: Health::new(thresholds),
            in_flight: 0,
            proof: Proof::default(),
            last_granted: 0,
            busy_until: None,
            suspect: false,
            learned_capacity: None,
        }
    }

    /// Leases that may be out at once. 0 for a host that calls itself always busy.
    pub(super) fn capacity(&self) -> u32 {
        match self.spec.max_concurrent {
            Some(configured) => configured.get(),
            None => self.learned_capacity.unwrap_or(DEFAULT_CAPACITY),
        }
    }

    /// Leases that may be out at once as things stand.
    fn slots(&self) -> u32 {
        match self.health.phase() {
            Phase::Up => self.capacity(),
            Phase::Trial => self.capacity().min(1),
            Phase::Unknown | Phase::Ejected { .. } => 0,
        }
    }

    /// Could it serve, if not at this moment?
    pub(super) fn is_serving(&self) -> bool {
        self.slots() > 0
    }

    pub(super) fn is_busy(&self, now: Instant) -> bool {
        self.busy_until.is_some_and(|until| now < until)
    }

    /// Its load, if it can take a request now.
    pub(super) fn can_take(&self, now: Instant) -> Option<Load> {
        let slots = NonZeroU32::new(self.slots())?;
        let free = self.in_flight < slots.get() && !self.is_busy(now);
        free.then_some(Load {
            in_flight: self.in_flight,
            slots,
            last_granted: self.last_granted,
        })
    }

    /// Alive but full. Returns whether that is news.
    pub(super) fn set_busy(&mut self, retry_after: Duration, now: Instant) -> bool {
        let was_busy = self.is_busy(now);
        self.busy_until = Some(now + retry_after.clamp(MIN_BUSY, MAX_BUSY));
        !was_busy
    }

    /// A slot was seen free. Returns whether that is news.
    pub(super) fn clear_busy(&mut self, now: Instant) -> bool {
        let was_busy = self.is_busy(now);
        self.busy_until = None;
        was_busy
    }

    pub(super) fn sign_of_life(&mut self) {
        self.proof = Proof(self.proof.0 + 1);
    }

    /// Takes over the number of slots that the host says it has. Returns whether that changes the
    /// capacity.
    pub(super) fn learn_capacity(&mut self, max_concurrent: u32) -> bool {
        let before = self.capacity();
        self.learned_capacity = Some(max_concurrent);
        self.capacity() != before
    }
}
