//! A batch in parts, on several hosts at once.
//!
//! Each part makes its own way, with its own retries, as a request does that has held a lease before. The client
//! gets one answer, put together from theirs in the order of its items. Where that might not be what one host
//! would have said (a part is answered otherwise than with its items, or the answers don't fit together), the
//! request runs once more as a whole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use gpu_bridge_wire::items::{self, Cut, Kind, Piece, Run};
use gpu_bridge_wire::openai::{EACH_HEADER, TOKENS_HEADER, read_tokens};
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;

use super::history::Common;
use super::itinerary::Itinerary;
use super::lately::Lately;
use super::{Delivery, Dispatcher, Refusal};
use crate::message::{Answer, Call, Payload};
use crate::pool::{self, Demand, Lease, Model, Work};

/// Headers that are about the whole of a body.
pub(super) const OF_THE_WHOLE: [&str; 7] = [
    "content-digest",
    "content-md5",
    "digest",
    "repr-digest",
    "signature",
    "signature-input",
    EACH_HEADER,
];

/// So long batches stay whole after answers to parts that did not fit together: what one answer has beside its
/// items, the next will have, and each try costs the work of a batch.
const STAYS_WHOLE: Duration = Duration::from_mins(10);

/// Models whose answers did not fit together lately. They are models that hosts tell of, and so not many.
pub(super) type Misfits = Lately<Option<Model>>;

/// A batch that has been cut.
pub(super) struct Batch {
    kind: Kind,
    /// Those that begin at once.
    first: Vec<Part>,
    /// The others, each of which begins when another part is done.
    later: VecDeque<Part>,
    /// What they are pieces of.
    _body: Payload,
    /// By how much sooner it should be done.
    saves: Duration,
}

/// A batch that is worth cutting.
pub(super) struct Planned {
    kind: Kind,
    body: Payload,
    /// The first is for the host with the lease.
    parts: Vec<(pool::Part, Call)>,
    saves: Duration,
}

/// A part of a batch.
struct Part {
    call: Call,
    position: usize,
    lease: Option<Lease>,
}

/// Items of a batch, with their answer.
struct Answered {
    position: usize,
    items: usize,
    delivery: Delivery,
}

/// Why not all parts are answered.
enum Stop {
    Refused(Refusal),
    Otherwise(Box<Delivery>),
}

impl Dispatcher {
    /// Runs all parts. `None`: the request should run as a whole.
    pub(super) async fn run_parts(
        &self,
        batch: Batch,
        way: &Itinerary<'_>,
    ) -> Option<Result<Delivery, Refusal>> {
        let space = batch.first.first().and_then(|it| it.call.demand.space);
        let common = Arc::new(Mutex::new(Common::of(space)));
        let later = Mutex::new(batch.later);
        let first = batch.first.into_iter();
        let runs = first.map(|part| self.run_some(part, &later, &common, way));
        match try_join_all(runs).await {
            Ok(answered) => {
                let mut answered: Vec<_> = answered.into_iter().flatten().collect();
                answered.sort_by_key(|it| it.position);
                let parts = answered.len();
                let Some(delivery) = joined(batch.kind, answered, way.call.demand.counted) else {
                    self.misfits.add(way.model().cloned(), STAYS_WHOLE);
                    return None;
                };
                self.attempts.metrics.requests.split(parts, batch.saves);
                Some(Ok(delivery))
            }
            Err(Stop::Refused(
                Refusal::HostsFailed | Refusal::NoModel | Refusal::Deviating | Refusal::OtherSpace,
            )) => None,
            Err(Stop::Refused(refusal)) => Some(Err(refusal)),
            // It has cost hosts enough, and says nothing of single items.
            Err(Stop::Otherwise(delivery)) if delivery.answer.status.is_server_error() => {
                Some(Ok(*delivery))
            }
            Err(Stop::Otherwise(_)) => None,
        }
    }

    /// Runs a part, and then others as long as there are any.
    async fn run_some(
        &self,
        first: Part,
        later: &Mutex<VecDeque<Part>>,
        common: &Arc<Mutex<Common>>,
        way: &Itinerary<'_>,
    ) -> Result<Vec<Answered>, Stop> {
        let mut answered = Vec::new();
        let mut next = Some(first);
        while let Some(part) = next {
            let mut own = way.part(&part.call, self.pool.ticket(), common);
            let delivery = self.follow(part.lease, &mut own).await;
            let delivery = delivery.map_err(Stop::Refused)?;
            if delivery.answer.status != StatusCode::OK || delivery.rest.is_some() {
                return Err(Stop::Otherwise(Box::new(delivery)));
            }
            answered.push(Answered {
                position: part.position,
                items: part.call.demand.work.items as usize,
                delivery,
            });
            next = later.lock().pop_front();
        }
        Ok(answered)
    }
}

impl Planned {
    /// How the request of `way` had better be cut, which has its first `lease`; `None`: not at all.
    pub(super) fn new(lease: &Lease, way: &Itinerary<'_>, misfits: &Misfits) -> Option<Planned> {
        let (call, batching) = (way.call, way.batching);
        let items = call.demand.work.items;
        let is_batch = batching.split && items > 1 && items <= batching.max_items.get();
        let is_batch = is_batch && !lease.is_shared();
        // This is all that most requests cost.
        if !is_batch || lease.expected().is_none_or(|it| it <= batching.min_gain) {
            return None;
        }
        let kind = kind(call).filter(|_| !misfits.includes(&call.demand.model))?;
        let plan = lease.plan_parts(batching.min_gain)?;
        let body = call.body.in_one_piece().ok()?;
        let cuts = [Cut::read(kind, body.chunks().first()?)?];
        let sizes = cuts.first()?.sizes();
        let sizes: Vec<usize> = sizes.map(|bytes| bytes + Work::ITEM).collect();
        let parts = plan.parts(&sizes);
        let fits = sizes.len() == items as usize
            && parts.len() > 1
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
        })
    }

    /// Gives `lease` to the first part, and leases to others where they can begin.
    pub(super) fn begin(self, lease: Lease) -> Batch {
        let demands = self.parts.iter();
        let mut demands = demands.filter_map(|(of, call)| Some((of.host?, call.demand.clone())));
        let own = demands.next();
        let others = own.map_or(Vec::new(), |(_, own)| {
            lease.share_out(own, demands.collect())
        });
        let leases = std::iter::once(Some(lease)).chain(others);
        let leases = leases.chain(std::iter::repeat_with(|| None));
        let parts = self.parts.into_iter().zip(leases).enumerate();
        let parts = parts.map(|(position, ((_, call), lease))| Part {
            call,
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
        }
    }
}

/// What the bodies of a request are, if they can be cut.
pub(super) fn kind(call: &Call) -> Option<Kind> {
    let is_checked = |name: &&str| call.headers.contains_key(*name);
    if OF_THE_WHOLE.iter().any(is_checked) {
        return None;
    }
    match call.demand.label.route {
        "embed" => Some(Kind::Texts),
        "bertscore" => Some(Kind::Pairs),
        _ => None,
    }
}

fn part_of(call: &Call, body: &Payload, pieces: Vec<Piece>, items: usize) -> Call {
    let body = body.view(chunks(pieces, std::slice::from_ref(body)));
    let mut headers = call.headers.clone();
    // Its answer is to be cut.
    headers.remove(header::ACCEPT_ENCODING);
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
        headers,
        body,
        demand,
        deadline: call.deadline,
        trace: call.trace,
    }
}

/// One answer for all items, from those of the parts in order; `None` if they don't fit together. `counted`: the
/// client is told the tokens of all.
fn joined(kind: Kind, answered: Vec<Answered>, counted: bool) -> Option<Delivery> {
    let (mut cuts, mut runs, mut bodies, mut hosts) = (vec![], vec![], vec![], vec![]);
    let tokens = tokens(&answered);
    if counted && tokens.is_none() && answered.iter().any(tells_tokens) {
        return None;
    }
    let mut headers = None;
    let space = answered.first()?.delivery.space;
    if answered.iter().any(|it| it.delivery.space != space) {
        return None;
    }
    for (of, part) in answered.into_iter().enumerate() {
        let Delivery { host, answer, .. } = part.delivery;
        let body = answer.body.in_one_piece().ok()?;
        let cut = Cut::read(kind.answer(), body.chunks().first()?)?;
        if cut.items() != part.items {
            return None;
        }
        runs.push(Run {
            of,
            items: 0..part.items,
        });
        cuts.push(cut);
        bodies.push(body);
        headers.get_or_insert(answer.headers);
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if !have_same_options(&cuts, &bodies) {
        return None;
    }
    let chunks = chunks(items::compose(&cuts, &runs), &bodies);
    let mut headers = headers?;
    for name in OF_THE_WHOLE.iter().chain(&["etag", TOKENS_HEADER]) {
        headers.remove(*name);
    }
    if let Some(tokens) = tokens {
        headers.insert(TOKENS_HEADER, HeaderValue::from(tokens));
    }
    let mut hosts = hosts.into_iter();
    Some(Delivery {
        host: hosts.next()?,
        others: hosts.collect(),
        space,
        answer: Answer {
            status: StatusCode::OK,
            headers,
            body: Payload::composed(chunks, bodies)?,
            rest: None,
        },
        rest: None,
    })
}

/// Do answers say the same of everything but their items?
fn have_same_options(cuts: &[Cut], bodies: &[Payload]) -> bool {
    let all: Vec<_> = std::iter::zip(cuts, bodies)
        .filter_map(|(cut, body)| Some(cut.options(body.chunks().first()?)))
        .collect();
    all.windows(2).all(|two| two.first() == two.last())
}

/// What the parts cost together, if all tell.
fn tokens(answered: &[Answered]) -> Option<u64> {
    answered.iter().try_fold(0_u64, |sum, part| {
        let value = part.delivery.answer.headers.get(TOKENS_HEADER)?;
        sum.checked_add(read_tokens(value.to_str().ok()?)?)
    })
}

fn tells_tokens(part: &Answered) -> bool {
    part.delivery.answer.headers.contains_key(TOKENS_HEADER)
}

/// The bytes of `pieces` of `bodies`, each of which is in one piece.
pub(super) fn chunks(pieces: Vec<Piece>, bodies: &[Payload]) -> Vec<Bytes> {
    let bytes = |piece| match piece {
        Piece::Comma => Some(Bytes::from_static(b",")),
        Piece::Of(of, range) => {
            let whole = bodies.get(of)?.chunks().first()?;
            whole.get(range).map(|bytes| whole.slice_ref(bytes))
        }
    };
    pieces.into_iter().filter_map(bytes).collect()
}
