//! Whether the request that has a lease is better cut, and into which calls.

use std::time::Duration;

use gpu_bridge_wire::items::{self, Cut, Kind, Piece, Run};

use super::{Batch, Errors, Misfits, OF_THE_WHOLE, Part, chunks};
use crate::dispatch::itinerary::Itinerary;
use crate::message::{Call, Payload};
use crate::pool::{self, Demand, Extent, HostId, Lease, Wish, Work};

/// A batch of more parts than this is more than hosts are made for: it stays whole.
const MOST_PARTS: usize = 1000;

/// A batch that is worth cutting, or has to be.
pub(in crate::dispatch) struct Planned {
    kind: Kind,
    body: Payload,
    /// The first is for the host with the lease.
    parts: Vec<(pool::Part, Call)>,
    saves: Duration,
    is_bound: bool,
    only: Option<HostId>,
}

/// What becomes of a request that has a lease.
pub(in crate::dispatch) enum Cutting {
    /// The host takes it as it is, or has to say itself what it makes of it.
    Needless,
    /// It is cut so.
    Planned(Planned),
    /// It is more than the host takes, but can't be cut.
    Impossible,
}

impl Cutting {
    /// What becomes of the request of `way`, which has this `lease`.
    pub(in crate::dispatch) fn of(
        lease: &Lease,
        way: &mut Itinerary<'_>,
        misfits: &Misfits,
        errors: &Errors,
    ) -> Self {
        let batching = way.batching;
        let items = way.call.demand.work.items;
        let may_spread = std::mem::take(&mut way.may_spread) && batching.split;
        let may_be_cut = items > 1 && way.history.avoid().extent() == Extent::Batch;
        // This is all that most requests cost.
        if !may_be_cut || lease.is_shared() {
            return Self::Needless;
        }
        let is_bound = !lease.fits();
        let may_gain = may_spread
            && items <= batching.max_items.get()
            && lease.guess().is_some_and(|it| it > batching.min_gain)
            && !errors.include(way.call.demand.client.as_ref());
        if !is_bound && !may_gain {
            return Self::Needless;
        }
        match Planned::of(lease, way, misfits) {
            Some(planned) => Self::Planned(planned),
            None if is_bound => Self::Impossible,
            None => Self::Needless,
        }
    }
}

impl Planned {
    fn of(lease: &Lease, way: &Itinerary<'_>, misfits: &Misfits) -> Option<Self> {
        let call = way.call;
        let items = call.demand.work.items;
        let kind = kind(call)?;
        // What had better stay whole is cut if it must, but then for one host.
        let is_misfit = way.history.is_misfit() || misfits.includes(&call.demand.model);
        if lease.fits() && is_misfit {
            return None;
        }
        let plan = lease.plan_parts(Wish {
            spread: way.batching.split && !is_misfit,
            min_gain: way.batching.min_gain,
        })?;
        let body = call.body.in_one_piece().ok()?;
        let cuts = [Cut::read(kind, body.chunks().first()?)?];
        let sizes = cuts.first()?.sizes();
        let sizes: Vec<usize> = sizes.map(|bytes| bytes + Work::ITEM).collect();
        let parts = plan.parts(&sizes);
        let fits = sizes.len() == items as usize
            && (2..=MOST_PARTS).contains(&parts.len())
            && parts.first()?.host == Some(lease.host());
        if !fits {
            return None;
        }
        let parts = parts.into_iter().map(|part| {
            let run = Run {
                of: 0,
                items: part.items.clone(),
            };
            let mut call = part_of(call, &body, items::compose(&cuts, &[run]), part.items.len());
            // One answer's vectors lie in one space.
            call.demand.space = lease.space();
            (part, call)
        });
        let parts = parts.collect();
        Some(Self {
            kind,
            body,
            parts,
            saves: plan.saves,
            is_bound: !lease.fits(),
            only: is_misfit.then(|| lease.host()),
        })
    }

    /// Gives `lease` to the first part, and leases to others where they can begin.
    pub(in crate::dispatch) fn begin(self, lease: Lease) -> Batch {
        let demands = self.parts.iter();
        let mut demands = demands.filter_map(|(of, call)| Some((of.host?, call.demand.clone())));
        let own = demands.next();
        let others = own.map_or(Vec::new(), |(_, own)| {
            lease.share_out(own, demands.collect())
        });
        let leases = std::iter::once(Some(lease)).chain(others);
        let leases = leases.chain(std::iter::repeat_with(|| None));
        let parts = self.parts.into_iter().zip(leases).enumerate();
        let parts = parts.map(|(position, ((of, call), lease))| Part {
            call,
            items: of.items,
            position,
            lease,
        });
        let (first, later): (Vec<_>, Vec<_>) = parts.partition(|part| part.lease.is_some());
        Batch {
            kind: self.kind,
            first,
            later: later.into(),
            _body: self.body,
            saves: self.saves,
            is_bound: self.is_bound,
            only: self.only,
        }
    }
}

/// What the bodies of a request are, if they can be cut.
pub(in crate::dispatch) fn kind(call: &Call) -> Option<Kind> {
    let is_checked = |name: &&str| call.headers.contains_key(*name);
    if OF_THE_WHOLE.iter().any(is_checked) {
        return None;
    }
    call.kind()
}

fn part_of(call: &Call, body: &Payload, pieces: Vec<Piece>, items: usize) -> Call {
    let body = body.view(chunks(pieces, std::slice::from_ref(body)));
    let demand = Demand {
        work: Work {
            items: u32::try_from(items).unwrap_or(u32::MAX),
            bytes: body.len() as u64,
        },
        bytes: body.len(),
        ..call.demand.clone()
    };
    Call {
        method: call.method.clone(),
        path: call.path.clone(),
        headers: call.headers.clone(),
        body,
        demand,
        deadline: call.deadline,
        trace: call.trace,
    }
}
