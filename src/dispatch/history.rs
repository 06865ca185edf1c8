//! What one request has been through, and when it is enough.
//!
//! - A request that broke on `max_faulted_hosts` hosts ends: perhaps it is what breaks them, and it
//!   must not walk through the whole pool. Hosts that were busy, or could not be reached, or refused
//!   our key never had it and do not count.
//! - A server error is nobody's fault yet. If a sibling answers the same request well, it was the
//!   host's; if not, it is the client's to read.

use crate::config::HostName;
use crate::message::Answer;
use crate::pool::{Avoid, HostId, Proof};
use crate::upstream::Verdict;

pub(super) struct History {
    max_faulted_hosts: u32,
    faulted: u32,
    avoid: Avoid,
    accused: Vec<HostId>,
    server_error: Option<(HostName, Answer)>,
}

impl History {
    pub(super) fn new(max_faulted_hosts: u32) -> Self {
        Self {
            max_faulted_hosts,
            faulted: 0,
            avoid: Avoid::default(),
            accused: Vec::new(),
            server_error: None,
        }
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
        match verdict {
            Verdict::ServerError(answer) => {
                self.faulted += 1;
                self.avoid.add(host, true, proof);
                self.accused.push(host);
                self.server_error = Some((name.clone(), answer));
            }
            Verdict::Fault { sent: true, .. } => {
                self.faulted += 1;
                self.avoid.add(host, true, proof);
            }
            Verdict::Fault { sent: false, .. } => self.avoid.add(host, false, proof),
            // The pool itself keeps requests away from these for a while.
            Verdict::Busy { .. } | Verdict::Misconfigured { .. } | Verdict::Deliver(_) => {}
        }
    }

    /// Is it enough? `alternative`: could another host still serve the request?
    pub(super) fn is_over(&self, alternative: impl FnOnce(&Avoid) -> bool) -> bool {
        self.faulted >= self.max_faulted_hosts
            || (self.server_error.is_some() && !alternative(&self.avoid))
    }

    /// The server error to deliver, if a host gave one.
    pub(super) fn into_server_error(self) -> Option<(HostName, Answer)> {
        self.server_error
    }
}
