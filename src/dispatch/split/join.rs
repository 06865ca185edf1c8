//! One answer from those to the parts of a batch.

use gpu_bridge_wire::items::{self, Cut, Run};
use gpu_bridge_wire::openai::{TOKENS_HEADER, read_tokens};
use http::{HeaderValue, StatusCode};

use super::{Answered, OF_THE_WHOLE, chunks};
use crate::dispatch::Delivery;
use crate::message::{Answer, Payload};

/// One answer for all items, from those of the parts in order; `None` if they don't fit together. `counted`: the
/// client is told the tokens of all.
pub(super) fn joined(answered: Vec<Answered>, counted: bool) -> Option<Delivery> {
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
        let Delivery {
            host, answer, cut, ..
        } = part.delivery;
        let cut = cut?;
        let items = 0..cut.items();
        runs.push(Run { of, items });
        cuts.push(cut);
        bodies.push(answer.body);
        headers.get_or_insert(answer.headers);
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if !are_alike(&cuts, &bodies) {
        return None;
    }
    let chunks = chunks(items::compose(&cuts, &runs), &bodies);
    let mut headers = headers?;
    for name in OF_THE_WHOLE.iter().chain(&[TOKENS_HEADER]) {
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
        cut: None,
        rest: None,
    })
}

/// Do answers say the same of everything but their items, and are these equally long?
fn are_alike(cuts: &[Cut], bodies: &[Payload]) -> bool {
    let all = std::iter::zip(cuts, bodies).map(|(cut, body)| {
        let body = body.chunks().first()?;
        Some((cut.options(body), cut.width(body)?))
    });
    let all: Option<Vec<_>> = all.collect();
    all.is_some_and(|all| all.windows(2).all(|two| two.first() == two.last()))
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
