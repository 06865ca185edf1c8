//! The attempt that is made for several requests: one body from theirs, and of one answer a part for each.

use std::collections::HashMap;
use std::time::Duration;

use gpu_bridge_wire::items::{self, Cut, Kind, Piece, Run};
use gpu_bridge_wire::openai::{EACH_HEADER, TOKENS_HEADER, read_tokens_of_each};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::super::attempt::{Attempts, End, limit};
use super::super::split::{OF_THE_WHOLE, chunks};
use super::again::{Again, Tells, Told};
use super::{Asked, Member};
use crate::budget::Exhausted;
use crate::message::{Answer, Call, Deadline, Payload};
use crate::pool::{Demand, Lease, Outcome, Work};
use crate::telemetry::APART;
use crate::upstream::{Terms, Verdict};

/// Headers of an answer that are about all of it, beside those that are [anyway](OF_THE_WHOLE).
const OF_ALL: [&str; 2] = ["set-cookie", TOKENS_HEADER];
const TOKENS: HeaderName = HeaderName::from_static(TOKENS_HEADER);

/// See the module.
pub(super) struct Pass {
    lease: Lease,
    attempts: Attempts,
    longest: Duration,
}

/// All members' requests as one.
struct Merged {
    call: Call,
    kind: Kind,
    items: u32,
    /// For each member, where its items are among these.
    places: Vec<Vec<usize>>,
    /// Somebody is told its tokens.
    counted: bool,
}

impl Pass {
    /// `longest`: for which it may last.
    pub(super) fn new(lease: Lease, attempts: Attempts, longest: Duration) -> Self {
        Self {
            lease,
            attempts,
            longest,
        }
    }

    /// Makes the attempt, as long as anybody waits for it.
    pub(super) async fn run(self, members: Vec<Member>) {
        let trace = members.first().and_then(|member| member.trace);
        let members = members.into_iter().map(|it| (it.asked, it.tell));
        let (asked, tells) = members.unzip::<_, _, Vec<_>, Vec<_>>();
        let mut tells = Tells(tells);
        let Some(merged) = self.merged(asked) else {
            self.lease.finish(Outcome::Untried);
            return;
        };
        let terms = Terms {
            limit: limit(&self.lease, self.longest),
            longest: self.longest,
            fresh: false,
            may_move: true,
            trace,
        };
        let verdict = tokio::select! {
            (verdict, _) = self.attempts.make(&self.lease, &merged.call, terms, None) => verdict,
            () = tells.all_gone() => return,
        };
        match verdict {
            Verdict::Deliver(answer) if answer.status == StatusCode::OK => {
                self.hand_out(answer, merged, tells).await;
            }
            failed => self.give_up(failed, merged.items, tells),
        }
    }

    /// Gives the lease back, and each member its part of the `answer`.
    async fn hand_out(self, answer: Answer, merged: Merged, tells: Tells) {
        let timed = answer.rest.is_none();
        let proof = self.lease.finish(Outcome::Answered { timed });
        let items = merged.items;
        let answers = if timed {
            merged.parted(answer).await
        } else {
            Err("it is too long".to_owned())
        };
        match answers {
            Ok(answers) => {
                let metrics = &self.attempts.metrics.requests;
                metrics.merged(answers.len(), self.lease.saves());
                let answers = answers.into_iter();
                tells.tell(answers.map(|it| Told::new("deliver", None, End::Delivered(it, None))));
            }
            Err(why) => {
                let host = (self.lease.host(), proof);
                tells.part(APART, Some(&why), Again::UNPARTED, items, host);
            }
        }
    }

    /// The same after an attempt that was no answer for any of them.
    fn give_up(self, verdict: Verdict, items: u32, tells: Tells) {
        let host = (self.lease.host(), self.lease.finish(verdict.outcome()));
        let again = Again::after(&verdict);
        let (word, reason) = (verdict.as_str(), verdict.reason());
        match verdict {
            Verdict::Busy { retry_after } => tells.tell(std::iter::repeat_with(|| {
                let (verdict, proof) = (Verdict::Busy { retry_after }, host.1);
                Told::new(word, reason.clone(), End::Failed { verdict, proof })
            })),
            Verdict::Deliver(answer) => {
                let why = format!("it answered all of them with {}", answer.status);
                tells.part(APART, Some(&why), again, items, host);
            }
            _ => tells.part(word, reason.as_deref(), again, items, host),
        }
    }

    /// `None`: there is no memory for it, or nobody left.
    fn merged(&self, asked: Vec<Asked>) -> Option<Merged> {
        let (runs, places) = runs_of(&asked);
        let items = runs.iter().map(|run| run.items.len()).sum::<usize>();
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        let (mut cuts, mut bodies, mut first) = (Vec::new(), Vec::new(), None);
        for it in asked {
            cuts.push(it.cut);
            bodies.push(it.body);
            first.get_or_insert((it.kind, it.method, it.path, it.headers));
        }
        let (kind, method, path, mut headers) = first?;
        if kind == Kind::Texts {
            headers.insert(EACH_HEADER, HeaderValue::from_static("yes"));
        }
        // Counted on its own, beside those that it is made of.
        let reserved = bodies.first()?.reserve(0).ok()?;
        let pieces = chunks(items::compose(&cuts, &runs), &bodies);
        let body = Payload::counted(pieces, reserved).ok()?;
        let work = Work {
            items,
            bytes: body.len() as u64,
        };
        self.lease.resize(work);
        let call = Call {
            method,
            path,
            headers,
            demand: Demand {
                bytes: body.len(),
                ..self.lease.demand().clone()
            },
            body,
            deadline: Deadline::default(),
            trace: None,
        };
        Some(Merged {
            call,
            kind,
            items,
            places,
            counted: self.lease.demands().any(|it| it.counted),
        })
    }
}

impl Merged {
    /// The answer of each, or why they can't be told apart.
    async fn parted(self, answer: Answer) -> Result<Vec<Answer>, String> {
        let full = |exhausted: Exhausted| exhausted.to_string();
        let mut headers = answer.headers;
        let tokens = self.tokens(&headers)?;
        for name in OF_THE_WHOLE.iter().chain(&OF_ALL) {
            headers.remove(*name);
        }
        // For the answer in one piece, and for what is copied of it.
        let held = answer.body.reserve(answer.body.len().saturating_mul(2));
        let held = held.map_err(full)?;
        let (kind, items, places) = (self.kind.answer(), self.items as usize, self.places);
        let bodies = answer
            .body
            .through(move |body| parts(kind, body, items, &places));
        let bodies = bodies.await.flatten();
        let bodies = bodies.ok_or("its answer is not one of items alone")?;
        let answers = bodies.into_iter().zip(tokens).map(|(body, tokens)| {
            let mut headers = headers.clone();
            headers.extend(tokens.map(|tokens| (TOKENS, tokens.into())));
            Ok(Answer {
                status: StatusCode::OK,
                headers,
                body: Payload::counted([body], held.sibling())?,
                rest: None,
            })
        });
        answers.collect::<Result<_, _>>().map_err(full)
    }

    /// Of each member, as far as they are told; or that they are told in a way in which they are nobody's.
    fn tokens(&self, headers: &HeaderMap) -> Result<Vec<Option<u64>>, String> {
        let told = headers.get(EACH_HEADER).and_then(|it| it.to_str().ok());
        let each = told.and_then(|told| read_tokens_of_each(told, self.items as usize));
        let Some(each) = each else {
            return if self.counted && headers.contains_key(TOKENS_HEADER) {
                Err("it tells the tokens of all of them together, and not those of each".to_owned())
            } else {
                Ok(vec![None; self.places.len()])
            };
        };
        let of = |at: &usize| each.get(*at).copied();
        let of_one = |places: &Vec<usize>| {
            let mut tokens = places.iter().map(of);
            tokens.try_fold(0_u64, |sum, tokens| sum.checked_add(tokens?))
        };
        Ok(self.places.iter().map(of_one).collect())
    }
}

/// All different items, in order, and where those of each are among them. An item's result is the same wherever
/// it stands, so that equal ones are asked for once.
fn runs_of(asked: &[Asked]) -> (Vec<Run>, Vec<Vec<usize>>) {
    let mut known: HashMap<Vec<&[u8]>, usize> = HashMap::new();
    let (mut runs, mut places) = (Vec::new(), Vec::with_capacity(asked.len()));
    for (of, it) in asked.iter().enumerate() {
        let place = |at| {
            let next = known.len();
            *known.entry(it.cut.item(it.bytes(), at)).or_insert_with(|| {
                add(&mut runs, of, at);
                next
            })
        };
        places.push((0..it.cut.items()).map(place).collect());
    }
    (runs, places)
}

fn add(runs: &mut Vec<Run>, of: usize, at: usize) {
    match runs.last_mut() {
        Some(last) if last.of == of && last.items.end == at => last.items.end = at + 1,
        _ => runs.push(Run {
            of,
            items: at..at + 1,
        }),
    }
}

/// The answer for each, from that for all `items`; `None` if it is not one for these and nothing else.
fn parts(kind: Kind, body: &[u8], items: usize, places: &[Vec<usize>]) -> Option<Vec<Vec<u8>>> {
    let cut = Cut::read(kind, body).filter(|cut| cut.items() == items)?;
    let cuts = [cut];
    let of_one = |places: &Vec<usize>| {
        let mut runs = Vec::new();
        for at in places {
            add(&mut runs, 0, *at);
        }
        let pieces = items::compose(&cuts, &runs).into_iter();
        let pieces = pieces.map(|piece| match piece {
            Piece::Comma => Some(&b","[..]),
            Piece::Of(_, range) => body.get(range),
        });
        Some(pieces.collect::<Option<Vec<_>>>()?.concat())
    };
    places.iter().map(of_one).collect()
}
