//! What the members of an attempt are told, and how they run again if it was no answer for each.
//!
//! ```text
//! 64 ─ 422 ─▶ 32 + 32 ─ 422, well ─▶ 16 + 16 ─ well, 422 ─▶ … ─▶ 1 + 1: one is to blame
//! ```
//!
//! An answer that one of them may have caused is looked for in halves: that costs `n` requests no more than `2n`
//! attempts if all are to blame, and about twice the logarithm if one is. What may have broken a host is tried
//! alone at once: each half that holds it would break another one. Whatever has cost hosts work counts as retries:
//! one for each that runs alone, one for a half together.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::super::attempt::End;
use super::suspects::Suspects;
use crate::pool::{HostId, Proof};
use crate::telemetry::APART;
use crate::upstream::{Doubt, Verdict};

/// Some of those that shared an attempt: they share the next one with nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Group {
    pub(super) id: u64,
    members: usize,
}

/// How a request runs again after an attempt that it shared.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Rerun {
    /// With whom; `None`: with nobody.
    pub(in super::super) group: Option<Group>,
    /// The share of a retry that it costs.
    pub(in super::super) owes: f64,
    /// The host that had better be left alone, and its last sign of life.
    pub(in super::super) avoid: Option<(HostId, Proof)>,
}

/// Where all of them do, and with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Halves,
    Alone,
    /// On another host, if there is one.
    AloneElsewhere,
}

/// How all of them do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Again {
    how: How,
    /// The host has worked in vain.
    has_cost: bool,
    /// One of them may be to blame.
    is_suspect: bool,
}

impl Again {
    /// After a result that is not one for each, whoever asks.
    pub(super) const UNPARTED: Self = Self {
        how: How::Alone,
        has_cost: true,
        is_suspect: true,
    };

    /// After an attempt that ended so: not busy, nor with a result.
    pub(super) fn after(verdict: &Verdict) -> Self {
        let (how, has_cost) = match verdict {
            Verdict::Sibling { why, .. } => match why {
                Doubt::ServerError | Doubt::Unusable | Doubt::Forbidden => (How::Halves, true),
                Doubt::Limit | Doubt::TooMany { .. } | Doubt::Front => (How::Halves, false),
                // It is the same for all of them.
                Doubt::NoModel => (How::Alone, false),
            },
            Verdict::Deliver(_) => (How::Halves, false),
            Verdict::Fault { sent: true, .. } | Verdict::Moved { hung: true } => {
                (How::AloneElsewhere, true)
            }
            Verdict::Fault { sent: false, .. }
            | Verdict::Moved { hung: false }
            | Verdict::Misconfigured { .. } => (How::AloneElsewhere, false),
            Verdict::Ours { .. } | Verdict::Wrong | Verdict::Busy { .. } => (How::Alone, false),
        };
        Self {
            how,
            has_cost,
            is_suspect: how == How::Halves,
        }
    }

    /// With whom each of so many runs again; `None`: with nobody.
    fn groups(self, members: usize) -> Vec<Option<Group>> {
        let first = members.div_ceil(2);
        let half = |members| Group {
            id: rand::random(),
            members,
        };
        let halves = [half(first), half(members - first)];
        let halves =
            halves.map(|it| Some(it).filter(|it| self.how == How::Halves && it.members > 1));
        let [left, right] = halves;
        (0..members)
            .map(|at| if at < first { left } else { right })
            .collect()
    }

    /// Items that an attempt for the model may be for from now on if it was none of them, where this was for so many.
    fn most_items(self, items: u32) -> u32 {
        if self.how == How::Halves {
            items / 2
        } else {
            1
        }
    }
}

/// What a member is told of how it ended.
pub(super) struct Told {
    /// One word.
    pub(super) verdict: &'static str,
    pub(super) reason: Option<String>,
    pub(super) end: End,
    /// Those that may be to blame for the answer.
    pub(super) suspects: Option<Arc<Suspects>>,
}

impl Told {
    pub(super) fn new(verdict: &'static str, reason: Option<String>, end: End) -> Self {
        Self {
            verdict,
            reason,
            end,
            suspects: None,
        }
    }

    /// Nobody tells any more.
    pub(super) fn nothing() -> Self {
        Self::new(APART, None, End::Apart(Rerun::default()))
    }
}

/// Those who wait for the end.
pub(super) struct Tells(pub(super) Vec<oneshot::Sender<Told>>);

impl Tells {
    /// Ends when there is none any more.
    pub(super) async fn all_gone(&mut self) {
        for tell in &mut self.0 {
            tell.closed().await;
        }
    }

    /// Tells each what follows from `told` for it.
    pub(super) fn tell(self, told: impl IntoIterator<Item = Told>) {
        for (tell, told) in self.0.into_iter().zip(told) {
            // One that is gone needs no answer.
            _ = tell.send(told);
        }
    }

    /// Tells each to run `again`. `items`: those of the attempt; `host`: where it was made, and its last sign of life.
    pub(super) fn part(
        mut self,
        verdict: &'static str,
        reason: Option<&str>,
        again: Again,
        items: u32,
        host: (HostId, Proof),
    ) {
        self.0.retain(|tell| !tell.is_closed());
        let members = self.0.len();
        let most_items = again.most_items(items);
        let suspects = again
            .is_suspect
            .then(|| Arc::new(Suspects::new(members, most_items)));
        let told = again.groups(members).into_iter().map(|group| {
            let sharers = group.map_or(1, |group| group.members);
            let rerun = Rerun {
                group,
                owes: if again.has_cost {
                    1.0 / sharers as f64
                } else {
                    0.0
                },
                avoid: (again.how == How::AloneElsewhere).then_some(host),
            };
            Told {
                suspects: suspects.clone(),
                ..Told::new(verdict, reason.map(str::to_owned), End::Apart(rerun))
            }
        });
        self.tell(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(how: How) -> Again {
        Again {
            how,
            ..Again::UNPARTED
        }
    }

    fn sizes(how: How, members: usize) -> Vec<Option<usize>> {
        let groups = again(how).groups(members).into_iter();
        groups.map(|group| group.map(|it| it.members)).collect()
    }

    #[test]
    fn what_one_may_have_caused_is_looked_for_in_halves() {
        let (two, three) = (Some(2), Some(3));
        assert_eq!(sizes(How::Halves, 0), []);
        assert_eq!(sizes(How::Halves, 1), [None]);
        assert_eq!(sizes(How::Halves, 2), [None, None]);
        assert_eq!(sizes(How::Halves, 3), [two, two, None]);
        assert_eq!(sizes(How::Halves, 5), [three, three, three, two, two]);
        assert_eq!(sizes(How::Alone, 3), [None; 3]);
        let halves = again(How::Halves);
        let groups = halves.groups(4);
        assert_eq!(groups[0], groups[1]);
        assert_ne!(groups[1], groups[2], "with nobody else");
        assert_eq!(halves.most_items(64), 32);
        assert_eq!(Again::UNPARTED.most_items(64), 1);
    }

    #[test]
    fn what_breaks_a_host_is_tried_alone_and_what_has_cost_it_work_counts_as_a_retry() {
        let fault = |sent| Verdict::Fault {
            sent,
            reason: String::new(),
        };
        let table = [
            (fault(true), How::AloneElsewhere, true),
            (fault(false), How::AloneElsewhere, false),
            (Verdict::Moved { hung: true }, How::AloneElsewhere, true),
            (Verdict::Moved { hung: false }, How::AloneElsewhere, false),
            (Verdict::Wrong, How::Alone, false),
        ];
        for (verdict, how, has_cost) in table {
            let expected = Again {
                how,
                has_cost,
                is_suspect: false,
            };
            assert_eq!(Again::after(&verdict), expected, "{verdict:?}");
        }
    }
}
