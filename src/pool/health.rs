//! Whether one host may get requests, as far as its health goes.
//!
//! ```text
//!            good check                     unhealthy_after failed checks or faults
//! Unknown ───────────────▶ Up ─────────────────────────────────────────▶ Ejected
//!                          ▲ ▲                                             │ │
//!              good answer │ └──── healthy_after good checks, if a check ◀─┘ │
//!                          │       can see what was wrong                    │
//!                        Trial ◀── the same, after the hold, otherwise ◀─────┘
//! ```
//!
//! A host that is well but has no model that can be used is `NotReady` instead of `Up` or `Trial`,
//! for as long as its good checks say so: that is no fault, and needs no hold.
//!
//! A check can see that a host refuses connections; it cannot see that a host breaks requests while
//! its `/health` smiles. A host ejected for the latter therefore stays out for a hold that doubles
//! each time, and comes back on trial: one request at a time until one is answered well.
//!
//! Faults and failed checks are counted apart, since a good check must not excuse bad answers. Being
//! busy is neither: this machine never hears of it.
//!
//! A host that still answers, if badly, is not ejected for it while no other serves: a poor host is
//! better than none. One that refuses connections is.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// First hold after faults that checks cannot see. Doubles with each ejection in a row.
const BASE_HOLD: Duration = Duration::from_secs(1);
/// The hold never grows beyond this, but for its jitter.
const MAX_HOLD: Duration = Duration::from_mins(1);
/// Holds are longer by up to this share, so that hosts that broke together don't return together.
const MAX_JITTER: f64 = 0.25;

/// What a decision on one host depends on beside the host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances {
    /// The time.
    pub(super) now: Instant,
    /// Drawn at random from 0 to 1.
    pub(super) jitter: f64,
    /// Does no other host serve?
    pub(super) is_last: bool,
}

/// How many results in a row move a host in or out.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// Good checks that bring an ejected host back.
    pub healthy_after: NonZeroU32,
    /// Failed checks, or faults, that eject a host.
    pub unhealthy_after: NonZeroU32,
}

/// Why a host is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It answered its health checks, but not that it is well.
    Checks,
    /// Its health checks got no answer at all: it hangs, and so does what runs on it.
    Hung,
    /// It did not accept connections.
    Connect,
    /// It took requests and broke them: reset, cut or late answers, errors that a sibling did not
    /// make.
    Answers,
    /// It refuses our API key.
    Misconfigured,
}

impl Cause {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Checks,
        Self::Hung,
        Self::Connect,
        Self::Answers,
        Self::Misconfigured,
    ];

    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checks => "checks",
            Self::Hung => "hung",
            Self::Connect => "connect",
            Self::Answers => "answers",
            Self::Misconfigured => "misconfigured",
        }
    }

    /// Can a good health check prove that this is over?
    fn seen_by_checks(self) -> bool {
        matches!(self, Self::Checks | Self::Hung | Self::Connect)
    }

    /// Might the host serve a request all the same?
    pub(super) fn is_soft(self) -> bool {
        matches!(self, Self::Checks | Self::Answers)
    }

    /// Is what runs on the host lost, or better started anew elsewhere? Not where connections are
    /// refused: a process that is gone has reset its own, and one that stops in order still answers
    /// what it took on.
    pub(super) fn loses_requests(self) -> bool {
        matches!(self, Self::Checks | Self::Hung | Self::Answers)
    }
}

/// Where a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not checked yet since the start.
    Unknown,
    /// Takes requests.
    Up,
    /// Takes one request at a time until one is answered well.
    Trial,
    /// Is well, but can't use its models, as it says itself: takes none.
    NotReady {
        /// Is to be on trial once it is ready.
        trial: bool,
    },
    /// Takes none.
    Ejected {
        /// Why.
        cause: Cause,
        /// Not back before then, whatever checks say.
        hold_until: Instant,
        /// Good checks in a row since.
        good_checks: u32,
    },
}

impl Phase {
    /// Does the host take requests in this phase?
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Up | Self::Trial)
    }
}

/// A change of phase, worth a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The host is up: first seen, back, or proven on trial.
    Up,
    /// The host is back on trial.
    Trial,
    /// The host is well but can't use its models.
    NotReady,
    /// The host is out.
    Ejected(Cause),
}

/// The health of one host.
#[derive(Clone, Debug)]
pub(super) struct Health {
    thresholds: Thresholds,
    phase: Phase,
    failed_checks: u32,
    faults: u32,
    /// Ejections since the host last proved itself; sets the next hold.
    ejections_in_a_row: u32,
}

impl Health {
    pub(super) fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            phase: Phase::Unknown,
            failed_checks: 0,
            faults: 0,
            ejections_in_a_row: 0,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
    }

    /// Does the host serve, and has its last check been good?
    pub(super) fn is_well(&self) -> bool {
        self.phase.is_serving() && self.failed_checks == 0
    }

    /// How long checks can't bring the host back yet.
    pub(super) fn hold_left(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Ejected { hold_until, .. } => hold_until.saturating_duration_since(now),
            _ => Duration::ZERO,
        }
    }

    /// Failed checks in a row.
    pub(super) fn failed_checks(&self) -> u32 {
        self.failed_checks
    }

    pub(super) fn good_check(&mut self, now: Instant) -> Option<Transition> {
        self.failed_checks = 0;
        match &mut self.phase {
            Phase::Up | Phase::Trial => None,
            Phase::NotReady { trial: true } => Some(self.try_out()),
            Phase::Unknown | Phase::NotReady { trial: false } => Some(self.rise()),
            Phase::Ejected {
                cause,
                hold_until,
                good_checks,
            } => {
                *good_checks = good_checks.saturating_add(1);
                if *good_checks < self.thresholds.healthy_after.get() || now < *hold_until {
                    return None;
                }
                let seen = cause.seen_by_checks();
                Some(if seen { self.rise() } else { self.try_out() })
            }
        }
    }

    /// The host is as well as after a good check, but can't use its models.
    pub(super) fn not_ready(&mut self, now: Instant) -> Option<Transition> {
        if matches!(self.phase, Phase::NotReady { .. }) {
            self.failed_checks = 0;
            return None;
        }
        self.good_check(now);
        let trial = self.phase == Phase::Trial;
        self.phase.is_serving().then(|| {
            self.phase = Phase::NotReady { trial };
            Transition::NotReady
        })
    }

    /// `cause`: what the host is ejected for if it is.
    pub(super) fn failed_check(
        &mut self,
        cause: Cause,
        context: Circumstances,
    ) -> Option<Transition> {
        self.failed_checks = self.failed_checks.saturating_add(1);
        match &mut self.phase {
            Phase::Ejected {
                good_checks,
                cause: known,
                ..
            } => {
                *good_checks = 0;
                // Hosts that answer badly may be tried when nothing else is left: it must be true.
                let news = known.seen_by_checks() || !cause.is_soft();
                if news && *known != Cause::Misconfigured {
                    *known = cause;
                }
                None
            }
            Phase::Unknown | Phase::Up | Phase::Trial | Phase::NotReady { .. } => {
                let out = self.failed_checks >= self.thresholds.unhealthy_after.get();
                out.then(|| self.eject(cause, context))
            }
        }
    }

    /// A check got no answer. `confirmed`: nor did a request meanwhile, which counts as another check.
    pub(super) fn silent_check(
        &mut self,
        confirmed: bool,
        context: Circumstances,
    ) -> Option<Transition> {
        self.failed_checks = self.failed_checks.saturating_add(confirmed.into());
        self.failed_check(Cause::Hung, context)
    }

    /// The host answered a request well.
    pub(super) fn good_answer(&mut self) -> Option<Transition> {
        match self.phase {
            Phase::Trial => Some(self.rise()),
            Phase::Up => {
                self.faults = 0;
                self.ejections_in_a_row = 0;
                None
            }
            Phase::Unknown | Phase::NotReady { .. } | Phase::Ejected { .. } => None,
        }
    }

    /// The host, ejected, answered a request well that it got because no other served.
    pub(super) fn good_answer_as_last_resort(&mut self) -> Option<Transition> {
        match self.phase {
            Phase::Ejected {
                cause: Cause::Answers,
                ..
            } => Some(self.rise()),
            _ => self.good_answer(),
        }
    }

    /// The host broke or refused a request.
    pub(super) fn fault(&mut self, cause: Cause, context: Circumstances) -> Option<Transition> {
        match self.phase {
            Phase::Trial => Some(self.eject(cause, context)),
            Phase::Up | Phase::NotReady { .. } => {
                self.faults = self.faults.saturating_add(1);
                let enough = self.faults >= self.thresholds.unhealthy_after.get();
                let kept = cause.is_soft() && context.is_last;
                (enough && !kept).then(|| self.eject(cause, context))
            }
            // What was in flight when the host was ejected tells nothing new.
            Phase::Unknown | Phase::Ejected { .. } => None,
        }
    }

    /// The host refuses our key: out at once, since every further request would be refused too.
    pub(super) fn misconfigured(&mut self, context: Circumstances) -> Option<Transition> {
        let known = matches!(
            self.phase,
            Phase::Ejected {
                cause: Cause::Misconfigured,
                ..
            }
        );
        // The next check may take its time: nobody mends a key within a second.
        self.failed_checks = self.failed_checks.saturating_add(1);
        if let Phase::Ejected { good_checks, .. } = &mut self.phase {
            *good_checks = 0;
        }
        (!known).then(|| self.eject(Cause::Misconfigured, context))
    }

    fn rise(&mut self) -> Transition {
        self.phase = Phase::Up;
        self.faults = 0;
        Transition::Up
    }

    fn try_out(&mut self) -> Transition {
        self.phase = Phase::Trial;
        self.faults = 0;
        Transition::Trial
    }

    fn eject(&mut self, cause: Cause, context: Circumstances) -> Transition {
        let hold = if cause.seen_by_checks() {
            Duration::ZERO
        } else {
            self.ejections_in_a_row = self.ejections_in_a_row.saturating_add(1);
            let doublings = (self.ejections_in_a_row - 1).min(16);
            let hold = BASE_HOLD.saturating_mul(1 << doublings).min(MAX_HOLD);
            hold + hold.mul_f64(MAX_JITTER * context.jitter.clamp(0.0, 1.0))
        };
        self.phase = Phase::Ejected {
            cause,
            hold_until: context.now + hold,
            good_checks: 0,
        };
        Transition::Ejected(cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(healthy_after: u32, unhealthy_after: u32) -> Health {
        Health::new(Thresholds {
            healthy_after: NonZeroU32::new(healthy_after).unwrap(),
            unhealthy_after: NonZeroU32::new(unhealthy_after).unwrap(),
        })
    }

    /// At `now`, without jitter, among others.
    fn at(now: Instant) -> Circumstances {
        Circumstances {
            now,
            jitter: 0.0,
            is_last: false,
        }
    }

    fn up(healthy_after: u32, unhealthy_after: u32, now: Instant) -> Health {
        let mut health = health(healthy_after, unhealthy_after);
        assert_eq!(health.good_check(now), Some(Transition::Up));
        health
    }

    #[test]
    fn a_new_host_serves_after_its_first_good_check() {
        let now = Instant::now();
        assert_eq!(health(3, 2).phase(), Phase::Unknown);
        assert_eq!(up(3, 2, now).phase(), Phase::Up);
    }

    #[test]
    fn a_host_without_models_that_can_be_used_is_not_ready_until_it_says_otherwise() {
        let now = Instant::now();
        let mut fresh = health(1, 2);
        assert_eq!(fresh.not_ready(now), Some(Transition::NotReady));
        assert_eq!(fresh.not_ready(now), None, "no news");
        assert_eq!(fresh.good_check(now), Some(Transition::Up));
        assert_eq!(fresh.not_ready(now), Some(Transition::NotReady));
        assert_eq!(fresh.failed_check(Cause::Checks, at(now)), None);
        assert_eq!(fresh.not_ready(now), None);
        assert_eq!(
            fresh.failed_check(Cause::Checks, at(now)),
            None,
            "counted anew"
        );
        let out = Some(Transition::Ejected(Cause::Connect));
        assert_eq!(fresh.failed_check(Cause::Connect, at(now)), out);
        assert_eq!(fresh.not_ready(now), Some(Transition::NotReady));
    }

    #[test]
    fn not_being_ready_shortens_no_hold_and_spares_no_trial() {
        let now = Instant::now();
        let mut health = up(1, 1, now);
        health.fault(Cause::Answers, at(now));
        assert_eq!(health.not_ready(now), None, "on hold");
        let later = now + BASE_HOLD;
        assert_eq!(health.not_ready(later), Some(Transition::NotReady));
        assert_eq!(health.good_check(later), Some(Transition::Trial));
    }

    #[test]
    fn checks_eject_and_bring_back_by_their_thresholds() {
        let now = Instant::now();
        let mut health = up(2, 2, now);
        assert_eq!(health.failed_check(Cause::Checks, at(now)), None);
        assert_eq!(
            health.failed_check(Cause::Checks, at(now)),
            Some(Transition::Ejected(Cause::Checks))
        );
        assert_eq!(health.good_check(now), None);
        assert_eq!(health.good_check(now), Some(Transition::Up));
    }

    #[test]
    fn a_failed_check_starts_the_count_of_good_ones_anew() {
        let now = Instant::now();
        let mut health = up(2, 1, now);
        health.failed_check(Cause::Checks, at(now));
        health.good_check(now);
        health.failed_check(Cause::Checks, at(now));
        assert_eq!(health.good_check(now), None);
        assert_eq!(health.good_check(now), Some(Transition::Up));
    }

    #[test]
    fn a_good_answer_between_faults_keeps_a_host_in() {
        let now = Instant::now();
        let mut health = up(1, 2, now);
        for _ in 0..10 {
            assert_eq!(health.fault(Cause::Answers, at(now)), None);
            assert_eq!(health.good_answer(), None);
        }
        assert_eq!(health.phase(), Phase::Up);
    }

    #[test]
    fn good_checks_do_not_excuse_bad_answers() {
        let now = Instant::now();
        let mut health = up(1, 2, now);
        health.fault(Cause::Answers, at(now));
        health.good_check(now);
        assert_eq!(
            health.fault(Cause::Answers, at(now)),
            Some(Transition::Ejected(Cause::Answers))
        );
    }

    #[test]
    fn bad_answers_cost_a_hold_that_doubles_and_a_trial() {
        let mut now = Instant::now();
        let mut health = up(1, 1, now);
        for hold in [1, 2, 4, 8, 16, 32, 60, 60] {
            let hold = Duration::from_secs(hold);
            assert_eq!(
                health.fault(Cause::Answers, at(now)),
                Some(Transition::Ejected(Cause::Answers))
            );
            assert_eq!(
                health.good_check(now + hold.saturating_sub(Duration::from_millis(1))),
                None
            );
            now += hold;
            assert_eq!(health.good_check(now), Some(Transition::Trial));
        }
        assert_eq!(health.good_answer(), Some(Transition::Up));
        health.good_answer();
        assert_eq!(
            health.fault(Cause::Answers, at(now)),
            Some(Transition::Ejected(Cause::Answers))
        );
        assert_eq!(
            health.good_check(now + BASE_HOLD),
            Some(Transition::Trial),
            "streak is over"
        );
    }

    #[test]
    fn a_host_that_refused_connections_is_back_with_its_check() {
        let now = Instant::now();
        let mut health = up(1, 2, now);
        health.fault(Cause::Connect, at(now));
        assert_eq!(
            health.fault(Cause::Connect, at(now)),
            Some(Transition::Ejected(Cause::Connect))
        );
        assert_eq!(health.good_check(now), Some(Transition::Up));
    }

    #[test]
    fn a_wrong_key_is_reported_once_and_can_replace_another_cause() {
        let now = Instant::now();
        let mut health = up(1, 1, now);
        health.failed_check(Cause::Checks, at(now));
        let out = Some(Transition::Ejected(Cause::Misconfigured));
        assert_eq!(health.misconfigured(at(now)), out);
        assert_eq!(health.misconfigured(at(now)), None);
        assert_eq!(health.good_check(now), None, "the hold");
        assert_eq!(health.good_check(now + BASE_HOLD), Some(Transition::Trial));
    }

    #[test]
    fn leftovers_of_an_ejected_host_change_nothing() {
        let now = Instant::now();
        let mut health = up(1, 1, now);
        health.fault(Cause::Connect, at(now));
        let before = health.phase();
        assert_eq!(health.fault(Cause::Answers, at(now)), None);
        assert_eq!(health.good_answer(), None);
        assert_eq!(health.phase(), before);
    }

    #[test]
    fn a_host_that_answers_badly_is_kept_while_no_other_serves() {
        let now = Instant::now();
        let last = Circumstances {
            is_last: true,
            ..at(now)
        };
        let mut health = up(1, 1, now);
        assert_eq!(health.fault(Cause::Answers, last), None);
        assert_eq!(health.phase(), Phase::Up);
        assert_eq!(
            health.fault(Cause::Connect, last),
            Some(Transition::Ejected(Cause::Connect)),
            "nobody is there"
        );
    }

    #[test]
    fn holds_are_spread() {
        let now = Instant::now();
        let context = Circumstances {
            jitter: 1.0,
            ..at(now)
        };
        let mut health = up(1, 1, now);
        health.fault(Cause::Answers, context);
        assert_eq!(health.hold_left(now), BASE_HOLD.mul_f64(1.25));
    }

    #[test]
    fn a_host_that_stops_answering_at_all_is_known_as_such() {
        let now = Instant::now();
        let mut health = up(1, 1, now);
        health.failed_check(Cause::Checks, at(now));
        health.failed_check(Cause::Connect, at(now));
        assert!(matches!(
            health.phase(),
            Phase::Ejected {
                cause: Cause::Connect,
                ..
            }
        ));
    }
}
