//! What one request has been through, and when it is enough.
//!
//! - A request that was broken so many times after it had been sent ends: perhaps it is what
//!   breaks hosts, and it must not walk through the whole pool. These are different hosts wherever
//!   there is a choice. Hosts that were busy, or could not be reached, or refused our key never had
//!   it and do not count.
//! - A server error is nobody's fault yet. If a sibling answers the same request well, it was the
//!   host's; if not, it is the client's to read.

use std::num::NonZeroU32;

use super::{Delivery, Refusal};
use crate::config::HostName;
use crate::message::Answer;
use crate::pool::{Avoid, HostId, Proof};
use crate::upstream::Verdict;

/// See the module.
pub(super) struct History {
    max_faults: NonZeroU32,
    faults: u32,
    broke_last: bool,
    avoid: Avoid,
    accused: Vec<HostId>,
    server_error: Option<(HostName, Answer)>,
}

impl History {
    pub(super) fn new(max_faults: NonZeroU32) -> Self {
        Self {
            max_faults,
            faults: 0,
            broke_last: false,
            avoid: Avoid::default(),
            accused: Vec::new(),
            server_error: None,
        }
    }

    /// Has the last attempt cost a host some work?
    pub(super) fn broke_last(&self) -> bool {
        self.broke_last
    }

    /// The hosts not to be tried again.
    pub(super) fn avoid(&self) -> &Avoid {
        &self.avoid
    }

    /// Hosts whose server error becomes a fault once a sibling answers well.
    pub(super) fn accused(&self) -> &[HostId] {
        &self.accused
    }

    /// Takes in a failed attempt. `proof`: the host's last sign of life at its end.
    pub(super) fn record(&mut self, host: HostId, name: &HostName, verdict: Verdict, proof: Proof) {
        let faults = self.faults;
        match verdict {
            Verdict::ServerError(answer) => {
                self.faults += 1;
                self.avoid.add(host, true, proof);
                self.accused.push(host);
                self.server_error = Some((name.clone(), answer));
            }
            Verdict::Fault { sent: true, .. } | Verdict::Moved { hung: true } => {
                self.faults += 1;
                self.avoid.add(host, true, proof);
            }
            Verdict::Fault { sent: false, .. }
            | Verdict::Moved { hung: false }
            | Verdict::Misconfigured { .. } => {
                self.avoid.add(host, false, proof);
            }
            // The pool itself keeps requests away from it for a while.
            Verdict::Busy { .. } | Verdict::Deliver(_) => {}
        }
        self.broke_last = self.faults > faults;
    }

    /// Is it enough? `alternative`: could another host still serve the request?
    pub(super) fn is_over(&self, alternative: impl FnOnce(&Avoid) -> bool) -> bool {
        self.faults >= self.max_faults.get()
            || (self.server_error.is_some() && !alternative(&self.avoid))
    }

    /// The end without a good answer: the last server error if a host gave one, else `refusal`.
    pub(super) fn conclude(self, refusal: Refusal) -> Result<Delivery, Refusal> {
        let (host, answer) = self.server_error.ok_or(refusal)?;
        Ok(Delivery {
            host,
            answer,
            rest: None,
        })
    }
}
