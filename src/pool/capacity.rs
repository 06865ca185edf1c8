//! How many leases of one host may be out at once.
//!
//! ```text
//! capacity = configured, else what the host tells, else 2
//! slots    = min(capacity, all that the host has − foreign load, limit, window)
//! ```
//!
//! - *limit*, for hosts that tell nothing: additive increase, multiplicative decrease, as TCP's
//!   congestion avoidance (RFC 5681): a busy answer cuts it, good answers under full load raise it
//!   again. One cut for all that was in flight together, since they all met the same wall.
//! - *window*, for hosts that come back: slow start. One lease, then one more for each good answer.
//! - *foreign load*: what others have running there, from the host's own count less ours. Requests are
//!   on their way while a host counts, so less of it is believed only when it is told twice.

use std::num::NonZeroU32;
use std::time::Instant;

/// Slots of a host that tells nothing of its own: the Python service's default.
const DEFAULT: u32 = 2;
/// What a busy answer leaves of the limit.
const DECREASE: f64 = 0.75;
/// Rounds of good answers under full load that raise the limit by one.
const ROUNDS: f64 = 4.0;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Capacity {
    pub(super) configured: Option<NonZeroU32>,
    told: Option<u32>,
    foreign: u32,
    /// As last told.
    foreign_told: u32,
    limit: Option<f64>,
    last_cut: Option<Instant>,
    window: Option<u32>,
}

impl Capacity {
    pub(super) fn new(configured: Option<NonZeroU32>) -> Self {
        Self {
            configured,
            ..Self::default()
        }
    }

    /// Leases that may be out at once if nothing stands in the way. 0 for a host that calls itself
    /// always busy.
    pub(super) fn nominal(&self) -> u32 {
        match self.configured {
            Some(configured) => configured.get(),
            None => self.told.unwrap_or(DEFAULT),
        }
    }

    /// Leases that may be out as things stand.
    pub(super) fn slots(&self) -> u32 {
        self.steady().min(self.window.unwrap_or(u32::MAX))
    }

    /// The same once the host has started.
    pub(super) fn steady(&self) -> u32 {
        let limit = self.limit.map_or(u32::MAX, whole);
        let all = self.nominal().max(self.told.unwrap_or(0));
        let free_of_others = all.saturating_sub(self.foreign);
        self.nominal().min(free_of_others).min(limit)
    }

    /// Does the host tell its load, and has at least as many slots as are used?
    fn is_told(&self) -> bool {
        self.told.is_some_and(|told| self.nominal() <= told)
    }

    /// Requests of others that run on the host.
    pub(super) fn foreign(&self) -> u32 {
        self.foreign
    }

    /// The host told its slots, and how many requests it has, of which `ours` are ours. Returns
    /// whether its nominal capacity changed.
    pub(super) fn tell(&mut self, max_concurrent: u32, in_flight: u32, ours: u32) -> bool {
        let before = self.nominal();
        self.told = Some(max_concurrent);
        let foreign = in_flight.saturating_sub(ours);
        self.foreign = foreign.max(self.foreign_told);
        self.foreign_told = foreign;
        if self.is_told() {
            self.limit = None;
        }
        self.nominal() != before
    }

    /// The host says nothing (any more) of its load.
    pub(super) fn forget_foreign(&mut self) {
        self.foreign = 0;
        self.foreign_told = 0;
    }

    /// Is it back for so short a time that its slots are opened one by one?
    pub(super) fn is_starting(&self) -> bool {
        self.window.is_some()
    }

    /// A busy answer to a lease that was granted at `granted`, with `in_flight` leases out including
    /// it.
    pub(super) fn refused(&mut self, in_flight: u32, granted: Instant, now: Instant) {
        // Where the host's own word counts, polls do better than guesses.
        if self.is_told() || self.last_cut.is_some_and(|cut| granted <= cut) {
            return;
        }
        let limit = self.limit.unwrap_or_else(|| f64::from(self.nominal()));
        let accepted = f64::from(in_flight.saturating_sub(1));
        self.limit = Some((limit * DECREASE).min(accepted).max(1.0));
        self.last_cut = Some(now);
    }

    /// A good answer, with `in_flight` leases out including it.
    pub(super) fn answered(&mut self, in_flight: u32) {
        if let Some(window) = &mut self.window {
            *window += 1;
            if *window >= self.nominal() {
                self.window = None;
            }
        }
        if let Some(limit) = &mut self.limit
            && in_flight >= whole(*limit)
        {
            *limit += 1.0 / (ROUNDS * *limit);
            if whole(*limit) >= self.nominal() {
                self.limit = None;
            }
        }
    }

    /// The host is back: begin with one lease.
    pub(super) fn start_slowly(&mut self) {
        self.window = (self.nominal() > 1).then_some(1);
        self.forget_foreign();
    }
}

fn whole(limit: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 1 to the nominal capacity, which is a u32"
    )]
    let whole = limit as u32;
    whole
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn configured(slots: u32) -> Capacity {
        Capacity::new(NonZeroU32::new(slots))
    }

    #[test]
    fn configured_beats_told_beats_the_default() {
        let mut plain = configured(0);
        assert_eq!(plain.slots(), 2);
        assert!(plain.tell(8, 0, 0));
        assert!(!plain.tell(8, 0, 0), "no news");
        assert_eq!(plain.slots(), 8);
        let mut known = configured(4);
        assert!(!known.tell(8, 0, 0));
        assert_eq!(known.slots(), 4);
        plain.tell(0, 0, 0);
        assert_eq!(plain.slots(), 0, "a host that calls itself always busy");
    }

    #[test]
    fn foreign_load_takes_slots() {
        let table = [(0, 0, 4), (3, 3, 4), (3, 1, 2), (1, 3, 4), (9, 0, 0)];
        for (in_flight, ours, slots) in table {
            let mut capacity = configured(0);
            capacity.tell(4, in_flight, ours);
            assert_eq!(capacity.slots(), slots, "{in_flight} of which {ours} ours");
            capacity.forget_foreign();
            assert_eq!(capacity.slots(), 4);
        }
    }

    #[test]
    fn others_may_use_what_we_do_not() {
        let mut capacity = configured(2);
        for (others, ours) in [(2, 2), (6, 2), (7, 1), (8, 0)] {
            capacity.tell(8, others, 0);
            assert_eq!(capacity.slots(), ours, "{others} of 8 are taken by others");
        }
    }

    #[test]
    fn less_foreign_load_is_believed_when_it_is_told_twice() {
        let mut capacity = configured(0);
        capacity.tell(4, 3, 0);
        capacity.tell(4, 0, 0);
        assert_eq!(capacity.foreign(), 3, "perhaps ours had not arrived yet");
        capacity.tell(4, 0, 0);
        assert_eq!(capacity.foreign(), 0);
    }

    #[test]
    fn busy_answers_cut_once_for_all_that_was_in_flight_together() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut capacity = configured(16);
        for in_flight in (10..=16).rev() {
            capacity.refused(in_flight, start, later);
        }
        assert_eq!(capacity.slots(), 12);
        capacity.refused(
            5,
            later + Duration::from_secs(1),
            later + Duration::from_secs(2),
        );
        assert_eq!(
            capacity.slots(),
            4,
            "what the host took beside the refused one"
        );
        for round in 3..20 {
            let granted = later + Duration::from_secs(round);
            capacity.refused(1, granted, granted + Duration::from_millis(1));
        }
        assert_eq!(capacity.slots(), 1, "never none");
    }

    #[test]
    fn good_answers_under_full_load_raise_it_again() {
        let start = Instant::now();
        let mut capacity = configured(4);
        capacity.refused(3, start, start + Duration::from_secs(1));
        assert_eq!(capacity.slots(), 2);
        for _ in 0..100 {
            capacity.answered(1);
        }
        assert_eq!(capacity.slots(), 2, "an idle host proves nothing");
        let mut answers = 0;
        while capacity.slots() < 4 {
            capacity.answered(capacity.slots());
            answers += 1;
        }
        assert!((12..40).contains(&answers), "{answers}");
        assert!(capacity.limit.is_none());
    }

    #[test]
    fn a_host_that_tells_its_load_is_not_guessed_at() {
        let start = Instant::now();
        let mut capacity = configured(0);
        capacity.tell(4, 0, 0);
        capacity.refused(4, start, start + Duration::from_secs(1));
        assert_eq!(capacity.slots(), 4);
    }

    #[test]
    fn slow_start_doubles_each_round() {
        let mut capacity = configured(8);
        capacity.start_slowly();
        let mut rounds = Vec::new();
        while capacity.slots() < 8 {
            rounds.push(capacity.slots());
            for _ in 0..capacity.slots() {
                capacity.answered(1);
            }
        }
        assert_eq!(rounds, [1, 2, 4]);
        let mut single = configured(1);
        single.start_slowly();
        assert_eq!(single.slots(), 1);
    }
}
