//! A batch in parts: on several hosts at once where that is sooner, and wherever it is more than a host takes.
//!
//! Each part makes its own way, with its own retries, as a request does that has held a lease before. The client
//! gets one answer, put together from theirs in the order of its items. Where that might not be what one host
//! would have said (a part is answered otherwise than with its items, or the answers don't fit together), the
//! request runs once more as a whole. If no host takes it as a whole, what is said of a part is its answer; and if
//! answers don't fit together, as of hosts whose default models differ, one host gets all parts.

mod cutting;
mod join;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use gpu_bridge_wire::items::{Kind, Piece};
use gpu_bridge_wire::openai::EACH_HEADER;
use gpu_bridge_wire::{most_items, of_whole};
use http::StatusCode;
use parking_lot::Mutex;

pub(super) use self::cutting::{Cutting, kind};
use self::join::joined;

use super::history::Common;
use super::itinerary::Itinerary;
use super::lately::Lately;
use super::{Delivery, Dispatcher, Refusal, Stop};
use crate::message::{Call, Payload};
use crate::pool::{HostId, Lease, Model};

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

/// So long batches stay whole, or on one host, after answers to parts that did not fit together: what one answer has
/// beside its items, the next will have, and each try costs the work of a batch.
const STAYS_WHOLE: Duration = Duration::from_mins(10);

/// A longer refusal, which repeats what was asked, is passed on as it is.
const LONGEST_REFUSAL: usize = 1 << 20;

/// So often a batch is cut anew since hosts turn out to take even less than they did.
const MOST_CUTS: u32 = 3;

/// Models whose answers did not fit together lately. They are models that hosts tell of, and so not many.
pub(super) type Misfits = Lately<Option<Model>>;

/// So long batches of a client stay whole after errors in two of them: each costs its work twice.
const STAYS_WHOLE_FOR_ONE: Duration = Duration::from_secs(10);

/// Clients whose batches were answered with an error in a part lately.
#[derive(Debug, Default)]
pub(super) struct Errors(
    /// Has it happened more than once?
    Lately<Option<Arc<str>>, bool>,
);

impl Errors {
    fn add(&self, client: Option<Arc<str>>) {
        let is_again = self.0.get(&client).is_some();
        self.0.put(client, is_again, STAYS_WHOLE_FOR_ONE);
    }

    /// Have batches of this client had errors again and again?
    fn include(&self, client: Option<&Arc<str>>) -> bool {
        self.0.get(&client.cloned()) == Some(true)
    }
}

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
    /// It is more than its host takes.
    is_bound: bool,
    /// The one host that may have its parts, if it matters.
    only: Option<HostId>,
}

/// A part of a batch.
struct Part {
    call: Call,
    items: Range<usize>,
    position: usize,
    lease: Option<Lease>,
}

/// A part with its answer.
struct Answered {
    position: usize,
    delivery: Delivery,
}

/// Why not all parts are answered.
enum Failure {
    Refused(Refusal),
    /// One that was for these items, otherwise than with a result that is held.
    Otherwise(Box<Delivery>, Range<usize>),
}

impl Failure {
    /// The end of the whole request. `None`: it should run again, as a whole if it may.
    fn end(self, is_bound: bool, way: &mut Itinerary<'_>) -> Option<Result<Delivery, Refusal>> {
        match self {
            Self::Refused(
                refusal @ (Refusal::HostsFailed
                | Refusal::NoModel
                | Refusal::Deviating
                | Refusal::OtherSpace),
            ) => (!way.goes_on(1)).then_some(Err(refusal)),
            Self::Refused(refusal) => Some(Err(refusal)),
            // It has cost hosts enough, and says nothing of single items.
            Self::Otherwise(delivery, _) if delivery.answer.status.is_server_error() => {
                Some(Ok(*delivery))
            }
            Self::Otherwise(..) if !is_bound => None,
            Self::Otherwise(delivery, items) => {
                let Delivery { answer, rest, .. } = &*delivery;
                let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
                if rest.is_none() && most_items(&answer.body.joined(), count).is_none() {
                    return Some(Ok(said_of_whole(*delivery, items.start)));
                }
                // Hosts take even less, or more is answered than can be held.
                if rest.is_some() || !way.goes_on(MOST_CUTS) {
                    way.stays_whole();
                }
                None
            }
        }
    }
}

/// A refusal of a part that begins with the item `start`, as one of the batch.
fn said_of_whole(mut delivery: Delivery, start: usize) -> Delivery {
    let answer = &mut delivery.answer;
    let is_short = answer.body.len() <= LONGEST_REFUSAL;
    let moved = || of_whole(&answer.body.joined(), start);
    let moved = is_short.then(moved).flatten();
    if let Some(body) = moved.and_then(|body| answer.body.replaced(body).ok()) {
        answer.body = body;
        for name in OF_THE_WHOLE {
            answer.headers.remove(name);
        }
    }
    delivery
}

impl Dispatcher {
    /// Runs all parts. `None`: the request should run again, as a whole if it may.
    pub(super) async fn run_parts(
        &self,
        batch: Batch,
        way: &mut Itinerary<'_>,
    ) -> Option<Result<Delivery, Refusal>> {
        let space = batch.first.first().and_then(|it| it.call.demand.space);
        let common = Arc::new(Mutex::new(Common::of(space, batch.only)));
        let later = Mutex::new(batch.later);
        let first = batch.first.into_iter();
        let runs = first.map(|part| self.run_some(batch.kind, part, &later, &common, way));
        let ran = try_join_all(runs).await;
        way.history.learn(&common);
        let mut answered: Vec<_> = match ran {
            Ok(answered) => answered.into_iter().flatten().collect(),
            Err(failure) => {
                if let Failure::Otherwise(..) = failure {
                    self.errors.add(way.call.demand.client.clone());
                }
                return failure.end(batch.is_bound, way);
            }
        };
        answered.sort_by_key(|it| it.position);
        let parts = answered.len();
        // Where nobody takes the whole, an answer without a count is better than none.
        let counted = way.call.demand.counted && !batch.is_bound;
        let Some(delivery) = joined(answered, counted) else {
            self.misfits.add(way.model().cloned(), STAYS_WHOLE);
            match batch.only {
                None => way.history.keeps_together(),
                // Not even those of one host do.
                Some(_) => way.stays_whole(),
            }
            return None;
        };
        self.attempts.metrics.requests.split(parts, batch.saves);
        Some(Ok(delivery))
    }

    /// Runs a part, and then others as long as there are any.
    async fn run_some(
        &self,
        kind: Kind,
        first: Part,
        later: &Mutex<VecDeque<Part>>,
        common: &Arc<Mutex<Common>>,
        way: &Itinerary<'_>,
    ) -> Result<Vec<Answered>, Failure> {
        let mut answered = Vec::new();
        let mut next = Some(first);
        let mut queued = way.queued;
        while let Some(part) = next {
            let mut own = way.part(&part.call, self.pool.ticket(), common, kind);
            own.queued = queued;
            let followed = self.follow(part.lease, &mut own).await;
            queued = own.queued;
            let delivery = followed.map_err(|stop| match stop {
                Stop::Refused(refusal) => Failure::Refused(refusal),
                // A part is never cut.
                Stop::ToCut(_) => Failure::Refused(Refusal::HostsFailed),
            })?;
            if delivery.answer.status != StatusCode::OK || delivery.rest.is_some() {
                return Err(Failure::Otherwise(Box::new(delivery), part.items));
            }
            let position = part.position;
            answered.push(Answered { position, delivery });
            next = later.lock().pop_front();
        }
        Ok(answered)
    }
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
