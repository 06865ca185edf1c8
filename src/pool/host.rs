//! One host as the pool knows it: its slots, its health, its load, and until when it is busy.
//!
//! Whether a host may take a request is decided in one place, [`Host::can_take`].

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gpu_bridge_wire::Info;

use super::HostId;
use super::avoid::Proof;
use super::capacity::Capacity;
use super::demand::Model;
use super::estimate::Slowness;
use super::fit::Shown;
use super::health::{Health, Phase, Thresholds};
use super::models::Models;
use super::origin::Origin;
use super::sum::Sum;
use super::usage::UsageMeter;
use crate::config::HostName;

/// A busy host is left alone for at least this long, so that `Retry-After: 0` can't make a hot loop.
const MIN_BUSY: Duration = Duration::from_millis(100);
/// What a host told of its load counts for so long while it tells nothing new.
const LOAD_COUNTS: Duration = Duration::from_secs(30);
/// A busy host is tried again after this long at the latest, whatever it asked for.
const MAX_BUSY: Duration = Duration::from_mins(1);
/// Where others have more requests than this for each slot, none of ours waits for one: it would be refused.
const CROWD: u32 = 2;

/// What the configuration says of a host.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Unique in the pool.
    pub name: HostName,
    /// Where it is; with the name, what makes it the same host in another configuration.
    pub endpoint: String,
    /// Slots, if the operator knows better than the host.
    pub max_concurrent: Option<NonZeroU32>,
    /// Its share of the work compared with others.
    pub weight: NonZeroU32,
    /// Texts, or pairs, that it takes at once, if the operator knows.
    pub max_items: Option<NonZeroU32>,
    /// It is a server of another kind, and tells less: the tokens of all texts of a request together and not those of
    /// each, and as loaded whatever models it could load. It has none for requests that name none.
    pub tells_less: bool,
    /// Who told of it.
    pub origin: Origin,
}

#[cfg(test)]
impl HostSpec {
    /// A host of the configuration that says nothing of itself.
    pub(crate) fn for_testing(name: &str) -> Self {
        Self {
            name: name.parse().unwrap(),
            endpoint: String::new(),
            max_concurrent: None,
            weight: NonZeroU32::MIN,
            max_items: None,
            tells_less: false,
            origin: Origin::Configured,
        }
    }
}

/// One host of the pool.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) id: HostId,
    pub(super) spec: HostSpec,
    pub(super) health: Health,
    pub(super) capacity: Capacity,
    pub(super) in_flight: u32,
    pub(super) meter: UsageMeter,
    /// What its leases are expected to take in all, on an average host.
    pub(super) outstanding: Sum,
    pub(super) slowness: Slowness,
    /// What it last told of itself, if it ever told anything.
    pub(super) info: Option<Arc<Info>>,
    pub(super) models: Models,
    /// How many items it takes at once, as it has said when it refused more.
    pub(super) shown_most: Option<Shown>,
    life: u64,
    pub(super) last_granted: u64,
    /// Grows by 1/weight with each lease: the smallest is next in rotation.
    pub(super) turn: f64,
    pub(super) busy_until: Option<Instant>,
    pub(super) last_check: Option<Instant>,
    /// What that found wrong, for people.
    pub(super) problem: Option<String>,
    /// It failed an attempt since its last check began, so that the next one should come soon.
    pub(super) suspect: bool,
    /// Requests that have been running there for a while.
    pub(super) overdue: u32,
    /// When it last answered anything.
    pub(super) heard: Option<Instant>,
    /// When it last told its slots.
    pub(super) slots_told: Option<Instant>,
    /// Checks in a row that could not be made, for reasons that are not the host's.
    pub(super) unasked: u32,
    /// By an operator: gets nothing new.
    pub(super) draining: bool,
    /// No longer configured: gets nothing new, and is forgotten with its last lease.
    pub(super) removed: bool,
}

impl Host {
    pub(super) fn new(
        id: HostId,
        spec: HostSpec,
        thresholds: Thresholds,
        slowness: Slowness,
    ) -> Self {
        Self {
            id,
            capacity: Capacity::new(spec.max_concurrent),
            spec,
            health: Health::new(thresholds),
            in_flight: 0,
            meter: UsageMeter::default(),
            outstanding: Sum::default(),
            slowness,
            info: None,
            models: Models::default(),
            shown_most: None,
            life: 0,
            last_granted: 0,
            turn: 0.0,
            busy_until: None,
            last_check: None,
            problem: None,
            suspect: false,
            overdue: 0,
            heard: None,
            slots_told: None,
            unasked: 0,
            draining: false,
            removed: false,
        }
    }

    /// Does it get nothing new as long as it is part of the pool, whoever wants that?
    pub(super) fn is_draining(&self) -> bool {
        self.draining || self.spec.origin.withdrawn().is_some()
    }

    /// Leases that may be out at once as things stand.
    pub(super) fn slots(&self) -> u32 {
        if self.is_draining() || self.removed {
            return 0;
        }
        match self.health.phase() {
            Phase::Up => self.capacity.slots(),
            Phase::Trial => self.capacity.slots().min(1),
            Phase::Unknown | Phase::NotReady { .. } | Phase::Ejected { .. } => 0,
        }
    }

    /// Is it well, and to get requests?
    pub(super) fn is_in_rotation(&self) -> bool {
        self.health.phase().is_serving() && !self.is_draining() && !self.removed
    }

    /// Could it serve, if not at this moment?
    pub(super) fn is_serving(&self) -> bool {
        self.is_in_rotation() && self.capacity.nominal() > 0
    }

    /// Slots for a request for `model` that no host could serve which serves, now or later: it may be
    /// tried where answers are bad, or on a host that is not ready but tells that it can serve this model.
    pub(super) fn last_slots(&self, model: Option<&Model>) -> u32 {
        if self.is_draining() || self.removed {
            return 0;
        }
        match self.health.phase() {
            Phase::Ejected { cause, .. } if cause.is_soft() => 1,
            Phase::NotReady { .. } if model.is_some_and(|it| self.models.is_available(it)) => {
                self.capacity.slots()
            }
            _ => 0,
        }
    }

    /// Is what it takes in its phase taken as a last resort?
    pub(super) fn is_last_resort(&self) -> bool {
        !self.health.phase().is_serving()
    }

    pub(super) fn is_busy(&self, now: Instant) -> bool {
        self.busy_until.is_some_and(|until| now < until)
    }

    /// Might one of its slots be free now, for some request?
    pub(super) fn has_free_slot(&self, now: Instant) -> bool {
        let out = match self.health.phase() {
            Phase::Up | Phase::Trial | Phase::Unknown => 0,
            Phase::NotReady { .. } | Phase::Ejected { .. } => self.capacity.slots().max(1),
        };
        self.in_flight < self.slots().max(out) && !self.is_busy(now)
    }

    /// Its slots, if one of them is free now for a request for `model`. `desperate`: no host that
    /// could serve it serves.
    pub(super) fn can_take(
        &self,
        model: Option<&Model>,
        desperate: bool,
        now: Instant,
    ) -> Option<NonZeroU32> {
        let slots = match self.slots() {
            0 if desperate => self.last_slots(model),
            slots => slots,
        };
        let free = self.in_flight < slots && !self.is_busy(now);
        NonZeroU32::new(slots).filter(|_| free)
    }

    /// How many requests of others it has, if these are why none of ours is there and one may wait behind them: a
    /// host lets requests wait for a moment, first come, first served, whoever sent them. So a slot that others give
    /// back is used at once, and who holds the slots can't starve who comes later.
    pub(super) fn crowd(&self, now: Instant) -> Option<u32> {
        let others = self.capacity.foreign();
        let is_full = others > 0 && self.in_flight == 0 && self.slots() == 0;
        let most = self.capacity.nominal().saturating_mul(CROWD);
        let may = is_full && others <= most && self.is_serving() && !self.is_busy(now);
        may.then_some(others)
    }

    /// Are all its slots taken by others, so that only a look at it can tell when one is free?
    pub(super) fn is_crowded(&self) -> bool {
        self.capacity.foreign() > 0 && self.in_flight >= self.slots()
    }

    /// It told what it is. Returns whether it may have other models than before.
    pub(super) fn tell(&mut self, info: Arc<Info>) -> bool {
        let known = self.info.as_ref();
        if known.is_some_and(|known| Arc::ptr_eq(&info, known)) && self.models.are_as_told() {
            return false;
        }
        let available = info.available_models.as_deref();
        let is_first = !self.models.is_heard();
        let is_news = self.models.tell(&info.loaded_models, available);
        self.info = Some(info);
        is_news || is_first
    }

    /// Share of its memory that is in use, 0 to 1; 1 if unknown, as the plugin has it.
    pub(super) fn memory_used(&self) -> f64 {
        let info = self.info.as_ref();
        match info.map(|info| (info.vram_used_mb, info.vram_total_mb)) {
            Some((Some(used), Some(total))) if total > 0 => used as f64 / total as f64,
            _ => 1.0,
        }
    }

    /// It did not tell its slots this time.
    pub(super) fn tells_no_slots(&mut self, now: Instant) {
        let counts = |told| now.saturating_duration_since(told) < LOAD_COUNTS;
        if !self.slots_told.is_some_and(counts) {
            self.capacity.forget_foreign();
        }
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
        self.life += 1;
    }

    /// What it is like at this moment.
    pub(super) fn proof(&self) -> Proof {
        Proof {
            life: self.life,
            generation: self.models.generation(),
        }
    }

    /// A check got no answer for `silent_for`: has nothing else been heard of the host either, though
    /// a request waits for it? Two such silences at once are no chance; a host that is merely slow
    /// answers one or the other.
    pub(super) fn is_mute(&self, silent_for: Duration, now: Instant) -> bool {
        let unheard = |heard| now.saturating_duration_since(heard) >= silent_for / 2;
        self.overdue > 0 && self.heard.is_none_or(unheard)
    }

    /// A lease goes out, for work of so many seconds on an average host.
    pub(super) fn take(&mut self, seconds: f64, number: u64, now: Instant) {
        self.meter.read(self.in_flight, now);
        self.in_flight += 1;
        self.outstanding.add(seconds);
        self.last_granted = number;
        self.turn += 1.0 / f64::from(self.spec.weight.get());
    }

    /// A lease is back.
    pub(super) fn give_back(&mut self, seconds: f64, now: Instant) {
        self.meter.read(self.in_flight, now);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.outstanding.remove(seconds);
    }
}
