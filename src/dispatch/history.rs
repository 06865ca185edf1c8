//! What one request has been through, and when it is enough.
//!
//! - A request that was broken so many times after it had been sent ends: perhaps it is what
//!   breaks hosts, and it must not walk through the whole pool. These are different hosts wherever
//!   there is a choice. Hosts that were busy, or could not be reached, or refused our key never had
//!   it and do not count.
//! - A doubtful answer is nobody's fault yet. If a sibling answers the same request well, it was the
//!   host's; if not, it is the client's to read. Server errors, and a request that is forbidden,
//!   count like broken ones, unless it may be for want of the model (some services say so with a
//!   500): then every host is asked once. What a host's front says, that a model is missing, and that it is
//!   more than the host takes, cost no computing: every host is asked once, and the last word is delivered
//!   only if all say so. The latter two are nobody's fault. A host that says how many items it takes may be asked
//!   for fewer.
//! - While there is a host that might have the model, a request waits for it, even if it is out.
//! - An attempt that failed for want of something on this machine says nothing of anybody. Siblings
//!   are tried first, since ports run out for one destination at a time; then all again, after a
//!   pause.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;

use super::{Delivery, Refusal};
use crate::config::HostName;
use crate::embedding::Space;
use crate::message::Answer;
use crate::pool::{Avoid, Extent, HostId, Proof};
use crate::upstream::{Doubt, Verdict, no_result};

/// How long a host that could not be asked for want of something here is left out, the first time.
/// Doubles each time …
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct History {
    max_faults: NonZeroU32,
    faults: u32,
    /// Of all parts of a batch, of which this is one.
    common: Option<Arc<Mutex<Common>>>,
    is_broken: bool,
    broke_last: bool,
    avoid: Avoid,
    accused: Vec<Accused>,
    in_hand: Option<InHand>,
    /// Hosts that could not be asked since the last pause.
    untried: Option<Avoid>,
    pauses: u32,
    /// Hosts that have said that they take fewer items.
    too_small: Vec<HostId>,
    /// Answers to its parts did not fit together.
    is_misfit: bool,
}

/// What the parts of a batch have been through together.
#[derive(Debug)]
pub(super) struct Common {
    faults: u32,
    avoid: Avoid,
}

impl Common {
    /// `space`, `only`: where alone they may run, if it matters.
    pub(super) fn of(space: Option<Space>, only: Option<HostId>) -> Self {
        let mut avoid = Avoid::outside(space);
        if let Some(host) = only {
            avoid.set_only(host);
        }
        Self { faults: 0, avoid }
    }
}

/// A host whose answer becomes a fault once a sibling answers well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accused {
    pub(super) host: HostId,
    /// Services say so that they lack a model, too.
    pub(super) may_lack_model: bool,
}

/// The last doubtful answer.
struct InHand {
    host: HostName,
    answer: Answer,
    why: Doubt,
}

impl History {
    /// `space`: the only one that will do, if it matters.
    pub(super) fn new(max_faults: NonZeroU32, space: Option<Space>) -> Self {
        Self {
            max_faults,
            faults: 0,
            common: None,
            is_broken: false,
            broke_last: false,
            avoid: Avoid::outside(space),
            accused: Vec::new(),
            in_hand: None,
            untried: None,
            pauses: 0,
            too_small: Vec::new(),
            is_misfit: false,
        }
    }

    /// Of a part of a batch, which begins where no other part has failed.
    pub(super) fn of_part(&self, common: &Arc<Mutex<Common>>) -> Self {
        let mut avoid = common.lock().avoid.clone();
        avoid.set_extent(Extent::Part);
        Self {
            avoid,
            common: Some(Arc::clone(common)),
            ..Self::new(self.max_faults, None)
        }
    }

    /// Avoids what its parts have failed on, too.
    pub(super) fn learn(&mut self, parts: &Mutex<Common>) {
        let avoid = std::mem::take(&mut parts.lock().avoid);
        self.avoid.add_all(avoid);
    }

    /// Answers to its parts did not fit together: they are for one host.
    pub(super) fn keeps_together(&mut self) {
        self.is_misfit = true;
    }

    /// Are its parts for one host?
    pub(super) fn is_misfit(&self) -> bool {
        self.is_misfit
    }

    /// It can't be cut.
    pub(super) fn stays_whole(&mut self) {
        self.avoid.set_extent(Extent::Whole);
    }

    /// A host has broken the request, perhaps for a reason that counts: once for all parts that were there together.
    fn broken_by(&mut self, host: HostId, proof: Proof, counts: bool) {
        self.faults += u32::from(counts);
        if let Some(common) = &self.common {
            let mut common = common.lock();
            let is_told = common.avoid.has_failed_on(host) && !self.avoid.has_failed_on(host);
            common.faults += u32::from(counts && !is_told);
            common.avoid.add(host, true, proof);
            self.faults = common.faults;
        }
        self.avoid.add(host, true, proof);
    }

    /// Has the last attempt cost a host some work?
    pub(super) fn broke_last(&self) -> bool {
        self.broke_last
    }

    /// Has a host taken the request and given no answer?
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Is there an answer that could be delivered if no host knows better?
    pub(super) fn has_answer(&self) -> bool {
        self.in_hand.is_some()
    }

    /// The hosts not to be tried again.
    pub(super) fn avoid(&self) -> &Avoid {
        &self.avoid
    }

    /// Hosts whose answer becomes a fault once a sibling answers well.
    pub(super) fn accused(&self) -> &[Accused] {
        &self.accused
    }

    /// Takes in a failed attempt. `proof`: the host's last sign of life at its end. `may_lack`: it is
    /// not known to have the model.
    pub(super) fn record(
        &mut self,
        host: HostId,
        name: &HostName,
        verdict: Verdict,
        proof: Proof,
        may_lack: bool,
    ) {
        self.broke_last = false;
        match verdict {
            Verdict::Sibling { answer, why } => {
                let may_lack_model = may_lack && answer.status == StatusCode::INTERNAL_SERVER_ERROR;
                self.broke_last = counts(why);
                // What a host lacks, or does not take, is no fault of it.
                match why {
                    Doubt::NoModel => self.avoid.add_lack(host, proof),
                    // Where it may be cut, it may come back for fewer items.
                    Doubt::TooMany { .. }
                        if self.avoid.extent() == Extent::Batch
                            && !self.too_small.contains(&host) =>
                    {
                        self.too_small.push(host);
                        return;
                    }
                    Doubt::Limit | Doubt::TooMany { .. } => self.avoid.add(host, true, proof),
                    Doubt::ServerError | Doubt::Unusable | Doubt::Front | Doubt::Forbidden => {
                        self.broken_by(host, proof, counts(why) && !may_lack_model);
                        self.accused.push(Accused {
                            host,
                            may_lack_model,
                        });
                    }
                }
                self.keep(name, answer, why);
            }
            Verdict::Fault { sent: true, .. } | Verdict::Moved { hung: true } => {
                self.is_broken = true;
                self.broke_last = true;
                self.broken_by(host, proof, true);
            }
            Verdict::Fault { sent: false, .. }
            | Verdict::Moved { hung: false }
            | Verdict::Misconfigured { .. } => {
                self.avoid.add(host, false, proof);
            }
            Verdict::Ours { .. } => {
                let untried = self.untried.get_or_insert_with(|| self.avoid.clone());
                untried.add(host, false, proof);
            }
            // The pool itself keeps requests away from it, for a while or for good.
            Verdict::Busy { .. } | Verdict::Wrong | Verdict::Deliver(_) => {}
        }
    }

    /// An attempt that was for others, too, has failed on `host`, for whatever reason: that is held neither against
    /// the request nor for good against the host.
    pub(super) fn avoid_for_now(&mut self, host: HostId, proof: Proof) {
        self.avoid.add(host, false, proof);
    }

    /// The last answer, but a host's front has no say where another spoke, and one that lacks the model
    /// none where one that has it would take less.
    fn keep(&mut self, host: &HostName, answer: Answer, why: Doubt) {
        let before = self.in_hand.as_ref().map(|known| known.why);
        let is_outdone = match why {
            Doubt::Front => before.is_some_and(|before| before != why),
            Doubt::NoModel => {
                matches!(before, Some(Doubt::Limit | Doubt::TooMany { .. }))
            }
            Doubt::ServerError
            | Doubt::Unusable
            | Doubt::Forbidden
            | Doubt::Limit
            | Doubt::TooMany { .. } => false,
        };
        if is_outdone {
            return;
        }
        let host = host.clone();
        self.in_hand = Some(InHand { host, answer, why });
    }

    /// If a host could not be asked for want of something here: where not to go meanwhile, and for
    /// how long.
    pub(super) fn pause(&self) -> Option<(&Avoid, Duration)> {
        let avoid = self.untried.as_ref()?;
        let pause = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(8));
        Some((avoid, pause.min(LONGEST_PAUSE)))
    }

    /// Has this machine been short of something before?
    pub(super) fn has_paused(&self) -> bool {
        self.pauses > 0
    }

    /// The pause is over.
    pub(super) fn end_pause(&mut self) {
        self.untried = None;
        self.pauses += 1;
    }

    /// Is it enough? `alternative`: could another host still serve the request, or, if the second
    /// argument says so, when it is back?
    pub(super) fn is_over(&self, alternative: impl FnOnce(&Avoid, bool) -> bool) -> bool {
        self.faults >= self.max_faults.get()
            || (self.in_hand.as_ref().is_some_and(|it| self.stands(it))
                && !alternative(&self.avoid, self.lacks_model()))
    }

    /// Does the answer in hand say that the model is missing, and is it the client's?
    pub(super) fn lacks_model(&self) -> bool {
        let known = self.in_hand.as_ref();
        known.is_some_and(|known| known.why == Doubt::NoModel && self.stands(known))
    }

    /// Is `known` what all hosts say that took the request?
    fn stands(&self, known: &InHand) -> bool {
        counts(known.why) || !self.is_broken
    }

    /// The end without a good answer: the answer in hand, if it is the client's, else `refusal`.
    pub(super) fn conclude(&mut self, refusal: Refusal) -> Result<Delivery, Refusal> {
        let all_asked = matches!(refusal, Refusal::HostsFailed | Refusal::NoModel);
        let known = self.in_hand.as_ref();
        let is_for_client =
            known.is_some_and(|known| self.stands(known) && (all_asked || counts(known.why)));
        let known = self.in_hand.take().filter(|_| is_for_client);
        let known = known.ok_or(refusal)?;
        Ok(Delivery {
            host: known.host,
            space: None,
            others: Vec::new(),
            answer: no_success(known.answer),
            cut: None,
            rest: None,
        })
    }
}

/// Does such an answer count like a broken request? It may have cost a host some work.
fn counts(why: Doubt) -> bool {
    matches!(why, Doubt::ServerError | Doubt::Unusable | Doubt::Forbidden)
}

/// An answer that was in doubt, as the client gets it: a success without a result is none, nor is one that the client
/// should have, though nobody has said so.
fn no_success(mut answer: Answer) -> Answer {
    if !answer.status.is_success() && answer.status != StatusCode::NOT_MODIFIED {
        return answer;
    }
    let body = no_result(&format!("it is {} without a result in JSON", answer.status));
    answer.status = StatusCode::BAD_GATEWAY;
    answer.replaced(answer.status, body).unwrap_or(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_fail_on_one_host_together_are_one_fault() {
        let begun = || {
            let whole = History::new(NonZeroU32::new(2).unwrap(), None);
            let common = Arc::new(Mutex::new(Common::of(None, None)));
            [0, 1].map(|_| whole.of_part(&common))
        };
        let fails = |part: &mut History, host| {
            let verdict = Verdict::Fault {
                sent: true,
                reason: "reset".to_owned(),
            };
            let name = "a".parse().unwrap();
            let host = HostId::for_testing(host);
            part.record(host, &name, verdict, Proof::default(), false);
            part.is_over(|_, _| true)
        };
        let [mut one, mut other] = begun();
        assert!(!fails(&mut one, 0) && !fails(&mut other, 0));
        assert!(fails(&mut one, 1), "on another host");
        let [mut one, mut other] = begun();
        assert!(!fails(&mut one, 0) && !fails(&mut other, 0));
        assert!(fails(&mut one, 0), "there again");
    }
}
