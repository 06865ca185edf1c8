//! Answers that are to be cut. They are looked at before the lease is given back, so that one that can't be right is
//! its host's fault, as is one that breaks off, and the host is avoided from then on.

use gpu_bridge_wire::items::{Cut, Kind};
use http::StatusCode;

use crate::budget::Exhausted;
use crate::message::Answer;
use crate::upstream::Verdict;

/// What an answer has to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Of the request.
    pub(super) kind: Kind,
    /// Of the request, too.
    pub(super) items: usize,
}

impl Wanted {
    /// How an attempt has ended that ended with `verdict`, and where the items of its answer stand. None: it has none,
    /// or may be right but can't be cut. The answer's body is in one piece.
    pub(super) async fn look(self, verdict: Verdict) -> (Verdict, Option<Cut>) {
        let answer = match verdict {
            Verdict::Deliver(answer) if is_result(&answer) => answer,
            other => return (other, None),
        };
        let Ok(body) = answer.body.in_one_piece() else {
            return (Exhausted.into(), None);
        };
        let view = body.view(body.chunks().to_vec());
        let Self { kind, items } = self;
        let cut = view.through(move |body| Cut::of_answer(kind.answer(), body, items));
        let cut = cut.await;
        match cut {
            Some(Err(why)) if why.is_wrong() => {
                let reason = format!("its answer can't be right: {why}");
                (Verdict::Fault { sent: true, reason }, None)
            }
            cut => {
                let answer = Answer { body, ..answer };
                (Verdict::Deliver(answer), cut.and_then(Result::ok))
            }
        }
    }
}

/// Is it a result, and held as a whole?
fn is_result(answer: &Answer) -> bool {
    answer.status == StatusCode::OK && answer.rest.is_none()
}
