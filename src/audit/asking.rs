//! Asks one host for the vectors of the fixed texts, in as many parts as it wants.

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;
use tokio::time::Instant;

use super::judge::{Heard, Said};
use crate::budget::{Budget, Exhausted};
use crate::embedding::{self, NoVectors, TEXTS, Told, Vectors};
use crate::message::{Answer, Call, Deadline, Payload};
use crate::pool::{Demand, Label, Lease, Model, Work};
use crate::upstream::{Doubt, Terms, Upstream, Verdict};

/// Vectors of the fixed texts take 3 MB at most, of the largest models.
const LARGEST_ANSWER: usize = 4 << 20;

/// One host is asked about one model.
pub(super) struct Asking<'a> {
    pub(super) upstream: &'a dyn Upstream,
    pub(super) budget: &'a Budget,
    pub(super) model: &'a Model,
    pub(super) lease: &'a Lease,
    /// When whatever has not been answered counts as not answered.
    pub(super) until: Instant,
}

/// What came of some of the texts.
enum Part {
    Told(Told),
    /// The host may take so many at once.
    Fewer(usize),
    Failed(Heard),
}

impl Asking<'_> {
    /// Asks for the vectors of at most so many texts at once, or of fewer if the host takes no more.
    pub(super) async fn ask(&self, most: usize) -> Heard {
        let mut most = most.clamp(1, TEXTS.len());
        let mut told = Told::new();
        while let Some(texts) = TEXTS[told.len()..].chunks(most).next() {
            match self.ask_for(texts).await {
                Part::Told(vectors) if vectors.len() == texts.len() => told.extend(vectors),
                Part::Told(_) => return nonsense(NoVectors::COUNT),
                Part::Fewer(fewer) => most = fewer,
                Part::Failed(heard) => return heard,
            }
        }
        match Vectors::try_from(told) {
            Ok(vectors) => Heard::Said(Said::Vectors(vectors)),
            Err(none) => no_vectors(none),
        }
    }

    async fn ask_for(&self, texts: &[&str]) -> Part {
        let Ok(call) = self.call(texts) else {
            return passing("the proxy had no memory left to ask it");
        };
        let limit = self.until.saturating_duration_since(Instant::now());
        let terms = Terms {
            limit,
            longest: limit,
            fresh: false,
            may_move: false,
            trace: None,
        };
        let verdict = tokio::select! {
            verdict = self.upstream.attempt(self.lease.host(), &call, terms) => verdict,
            _ = self.lease.host_is_lost() => return passing("it was ejected meanwhile"),
        };
        part(verdict, texts.len())
    }

    fn call(&self, texts: &[&str]) -> Result<Call, Exhausted> {
        let json = HeaderValue::from_static("application/json");
        let body = json!({"texts": texts, "model": self.model.name()}).to_string();
        Ok(Call {
            method: Method::POST,
            path: "/embed".to_owned(),
            headers: HeaderMap::from_iter([
                (header::CONTENT_TYPE, json.clone()),
                (header::ACCEPT, json),
            ]),
            body: Payload::counted([body], self.budget.open())?,
            demand: demand(self.model, texts),
            deadline: Deadline::default(),
            trace: None,
        })
    }
}

/// What asking for these texts asks of the pool.
pub(super) fn demand(model: &Model, texts: &[&str]) -> Demand {
    Demand {
        label: Label {
            id: "audit".into(),
            route: "embed",
        },
        model: Some(model.clone()),
        work: Work {
            items: texts.iter().map(|_| 1).sum(),
            bytes: texts.iter().map(|text| text.len() as u64).sum(),
        },
        ..Demand::default()
    }
}

/// What an attempt for so many texts has shown. What hosts say when that is too much for them, some say in ways
/// of their own.
fn part(verdict: Verdict, texts: usize) -> Part {
    let half = texts / 2;
    let fewer = match &verdict {
        Verdict::Sibling { why, answer } => match why {
            Doubt::TooMany { most } => most.get() as usize,
            Doubt::Limit | Doubt::ServerError => half,
            Doubt::Front if answer.status != StatusCode::OK => half,
            _ => 0,
        },
        Verdict::Deliver(answer) if answer.status != StatusCode::OK => half,
        _ => 0,
    };
    if (1..texts).contains(&fewer) {
        return Part::Fewer(fewer);
    }
    match verdict {
        Verdict::Deliver(answer) if answer.status == StatusCode::OK => read(&answer),
        Verdict::Deliver(answer) => failed(format!("it answered {}", answer.status)),
        Verdict::Sibling {
            why: Doubt::Unusable,
            ..
        } => Part::Failed(nonsense(verdict.reason().unwrap_or_default())),
        // It is asked again soon.
        Verdict::Busy { .. }
        | Verdict::Ours { .. }
        | Verdict::Moved { .. }
        | Verdict::Wrong
        | Verdict::Fault { sent: false, .. } => passing(&verdict.reason().unwrap_or_default()),
        Verdict::Sibling { .. }
        | Verdict::Fault { sent: true, .. }
        | Verdict::Misconfigured { .. } => failed(verdict.reason().unwrap_or_default()),
    }
}

fn read(answer: &Answer) -> Part {
    if answer.rest.is_some() || answer.body.len() > LARGEST_ANSWER {
        return Part::Failed(no_vectors(NoVectors::TooLong));
    }
    match embedding::told(&answer.body.joined()) {
        Ok(told) => Part::Told(told),
        Err(none) => Part::Failed(no_vectors(none)),
    }
}

fn passing(why: &str) -> Part {
    Part::Failed(Heard::Passing(why.to_owned()))
}

fn failed(why: String) -> Part {
    Part::Failed(Heard::Unjudged(why))
}

fn no_vectors(why: NoVectors) -> Heard {
    match why {
        NoVectors::Nonsense(what) => nonsense(what),
        NoVectors::TooLong => Heard::Unjudged(why.to_string()),
    }
}

fn nonsense(what: impl Into<std::borrow::Cow<'static, str>>) -> Heard {
    Heard::Said(Said::Nonsense(what.into()))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    fn refused(status: u16, why: Option<Doubt>) -> Verdict {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer::in_json(status, b"{}".to_vec(), &Budget::new(1 << 10)).unwrap();
        match why {
            None => Verdict::Deliver(answer),
            Some(why) => Verdict::Sibling { answer, why },
        }
    }

    #[test]
    fn fewer_are_tried_while_a_refusal_may_be_about_their_number() {
        let fewer = |verdict, texts| match part(verdict, texts) {
            Part::Fewer(fewer) => Some(fewer),
            Part::Failed(Heard::Unjudged(_)) => None,
            _ => panic!("neither refused nor failed"),
        };
        let too_many = |most| {
            let most = NonZeroU32::new(most).unwrap();
            refused(422, Some(Doubt::TooMany { most }))
        };
        assert_eq!(fewer(too_many(3), 8), Some(3));
        assert_eq!(fewer(too_many(8), 8), None, "it says so of what it refuses");
        for (status, why) in [
            (400, None),
            (413, Some(Doubt::Limit)),
            (500, Some(Doubt::ServerError)),
        ] {
            let halves = [8, 4, 2, 1].map(|texts| fewer(refused(status, why), texts));
            assert_eq!(halves, [Some(4), Some(2), Some(1), None]);
        }
        assert_eq!(fewer(refused(413, Some(Doubt::Front)), 8), Some(4));
        for why in [Doubt::NoModel, Doubt::Forbidden] {
            assert_eq!(fewer(refused(404, Some(why)), 8), None, "{why:?}");
        }
        assert_eq!(fewer(refused(200, Some(Doubt::Front)), 8), None);
    }

    #[test]
    fn what_passes_is_told_apart() {
        let reason = String::new;
        for verdict in [
            Verdict::Busy {
                retry_after: Duration::ZERO,
            },
            Verdict::Fault {
                sent: false,
                reason: reason(),
            },
            Verdict::Ours { reason: reason() },
        ] {
            assert!(matches!(part(verdict, 8), Part::Failed(Heard::Passing(_))));
        }
        let broke = Verdict::Fault {
            sent: true,
            reason: "it hung up".to_owned(),
        };
        let Part::Failed(Heard::Unjudged(why)) = part(broke, 8) else {
            panic!("it may do so for ever");
        };
        assert_eq!(why, "it hung up");
    }
}
