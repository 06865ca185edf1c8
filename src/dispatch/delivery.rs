//! How the way of a request ends: with a host's answer, or without.

use bytes::Bytes;
use gpu_bridge_wire::items;

use super::Dispatcher;
use super::itinerary::Itinerary;
use super::merge::Suspect;
use crate::config::HostName;
use crate::embedding::Space;
use crate::message::{Answer, Cut, Rest};
use crate::pool::{HostId, Lease, LimitReached, Outcome, Pool, TurnedAway};

/// A host's answer, on its way to the client.
pub struct Delivery {
    /// Who answered.
    pub host: HostName,
    /// Where its vectors lie, if that is known.
    pub space: Option<Space>,
    /// Who else did, of a batch in parts.
    pub others: Vec<HostName>,
    /// The answer, as far as it is held.
    pub answer: Answer,
    /// Where its items stand, if it is that to a part of a batch.
    pub(super) cut: Option<items::Cut>,
    /// The rest of an answer that is too large to hold.
    pub rest: Option<LongRest>,
}

/// The rest of a long answer. Its lease is given back already: hosts compute an answer before they send it,
/// so however slowly a client reads, it keeps no GPU from others.
pub struct LongRest {
    rest: Box<dyn Rest>,
    host: HostId,
    pool: Pool,
}

impl LongRest {
    /// The next chunk; `None` after the last.
    ///
    /// # Errors
    /// [`Cut`] if the host fails half-way, or its answer turns out to be none; nobody can repeat the request by then.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        let next = self.rest.next().await;
        match &next {
            Ok(Some(_)) | Err(Cut::TooSlow) => {}
            Ok(None) => self.pool.credit(self.host),
            Err(Cut::Failed(_) | Cut::Unusable(_)) => self.pool.blame(self.host, None),
        }
        next
    }
}

/// A request got no host's answer.
#[derive(Clone, Copy, Debug)]
pub struct NoHost {
    /// Why.
    pub refusal: Refusal,
    /// The limit of its client's own that held it back, if one did.
    pub limit: Option<LimitReached>,
}

/// Why a request got no host's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many wait already.
    #[error("all hosts are busy and the queue is full")]
    QueueFull,
    /// Its client waits for too many models that no host tells of.
    #[error(
        "this client's requests already wait for as many different models as they may, and no host tells of this one"
    )]
    ManyModels,
    /// Too much is ahead of it in the queue.
    #[error("all hosts are busy and the queue is longer than this request may wait")]
    QueueTooLong,
    /// Every host lacks the model.
    #[error("no host of the pool has the model")]
    NoModel,
    /// Every host that can be asked lacks the model, and of another nobody has ever heard what it has.
    #[error("no host that can be asked has the model, and nobody knows yet what the others have")]
    Unheard,
    /// Every host that has the model answers wrong.
    #[error("the hosts that have the model answer wrong, as an audit has shown")]
    Deviating,
    /// No host that has the model has it in the space that the client wants.
    #[error("no host serves the model in the space that X-Embedding-Space names")]
    OtherSpace,
    /// No host became free in time.
    #[error("no host became free in time")]
    Deadline,
    /// Its client does not want the answer any more.
    #[error("the time that the client gave this request (X-Request-Timeout) has passed")]
    TooLate,
    /// The request was sent to several hosts and none gave a whole answer.
    #[error("the hosts that took this request failed to answer it")]
    HostsFailed,
}

impl From<TurnedAway> for Refusal {
    fn from(turned_away: TurnedAway) -> Self {
        match turned_away {
            TurnedAway::Full => Self::QueueFull,
            TurnedAway::ManyModels => Self::ManyModels,
            TurnedAway::NoModel => Self::NoModel,
            TurnedAway::Unheard => Self::Unheard,
            TurnedAway::Deviating => Self::Deviating,
            TurnedAway::OtherSpace => Self::OtherSpace,
            TurnedAway::TooLong => Self::QueueTooLong,
        }
    }
}

impl Dispatcher {
    /// A sibling that answers well shows whose fault the doubtful answers before were. Only a success
    /// shows it: a host that lacks a model may say 404 where another says 500.
    pub(super) fn deliver(
        &self,
        lease: &Lease,
        mut answer: Answer,
        cut: Option<items::Cut>,
        way: &mut Itinerary<'_>,
    ) -> Delivery {
        let success = answer.status.is_success();
        if success {
            way.suspects.drain(..).for_each(Suspect::clear);
            for accused in way.history.accused() {
                let lacks = way.model().filter(|_| accused.may_lack_model);
                self.pool.blame(accused.host, lacks);
            }
        }
        let host = lease.name().clone();
        let rest = answer.rest.take().map(|rest| LongRest {
            rest,
            host: lease.host(),
            pool: self.pool.clone(),
        });
        lease.finish(match rest {
            None => Outcome::Answered { timed: success },
            // Its end will tell.
            Some(_) => Outcome::Doubtful,
        });
        Delivery {
            host,
            space: lease.space().filter(|_| success),
            others: Vec::new(),
            answer,
            cut,
            rest,
        }
    }
}
