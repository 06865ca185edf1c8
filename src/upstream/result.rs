//! Whether an answer can be the result of what was asked: one for each item, and all of it numbers. A host that says
//! otherwise may have failed, however well it sounds: nothing else is a success of `/embed` or `/bertscore`. It is looked
//! at while it comes. One that is held can be asked for elsewhere; one that is not has reached its client by then, and
//! is cut off before its end, if it is none.

use gpu_bridge_wire::ErrorBody;
use gpu_bridge_wire::items::{Glance, Kind, count};
use http::StatusCode;

use super::{Doubt, Verdict, coding};
use crate::budget::Budget;
use crate::message::{Answer, Call};

/// Answers up to this size are held whole. The largest legal one, 100 embeddings of 4,096 numbers,
/// is about 9 MB.
pub(super) const HOLD: usize = 16 << 20;
/// The most bytes of an answer for each item: twice what the largest models' 4,096 numbers take, at 25
/// characters for each.
const MOST_FOR_AN_ITEM: usize = 200 << 10;
/// The longest body that is looked at for a list of no items.
const SHORT: usize = 4 << 10;

/// What the bodies of `call` are, if its items can be counted, be there none: of others only its host knows what they
/// ask for.
pub(super) fn kind(call: &Call) -> Option<Kind> {
    let is_for_none = |kind: &Kind| {
        let body = &call.body;
        body.len() <= SHORT && count(*kind, &body.joined()) == Some(0)
    };
    let kind = call.kind();
    kind.filter(|kind| call.demand.work.items > 0 || is_for_none(kind))
}

/// The most bytes that an answer for so many items may have where its host pays for few of them, since they come
/// compressed, or we for all, since it must be held whole. Blanks that compress a thousand times, and long texts beside
/// the numbers, are no result then.
pub(super) fn longest(items: usize) -> usize {
    items.saturating_mul(MOST_FOR_AN_ITEM).max(HOLD)
}

/// What is wrong with one that is longer.
pub(super) fn too_long(longest: usize) -> String {
    format!("it has more than {longest} bytes, and no result for so many items has")
}

/// What becomes of an `answer` to `call`. `glance`: has seen it, which is in no coding then.
pub(super) fn judged(
    answer: Answer,
    glance: Option<Glance>,
    call: &Call,
    budget: &Budget,
) -> Verdict {
    let kind = kind(call).filter(|_| answer.status == StatusCode::OK);
    let Some(kind) = kind else {
        return Verdict::Deliver(answer);
    };
    let coded = coding::unreadable(&answer.headers).filter(|_| glance.is_none());
    if let Some(why) = coded {
        return unusable(why, budget);
    }
    if answer.rest.is_some() {
        return Verdict::Deliver(answer);
    }
    let glance = glance.unwrap_or_else(|| glance_at(kind, &answer));
    match fault(glance, kind, call) {
        None => Verdict::Deliver(answer),
        Some(why) => unusable(&why, budget),
    }
}

/// After a success that can be no result of what was asked. Perhaps no host has one: nobody is to blame before a
/// sibling has.
pub(super) fn unusable(why: &str, budget: &Budget) -> Verdict {
    let body = no_result(why);
    Verdict::doubtful(StatusCode::BAD_GATEWAY, body, Doubt::Unusable, budget)
}

/// What the client is told in the place of such a success.
pub(crate) fn no_result(why: &str) -> Vec<u8> {
    let detail = format!("the host's answer can't be used: {why}");
    // Writing a text as JSON has no way to fail.
    serde_json::to_vec(&ErrorBody { detail }).unwrap_or_default()
}

fn glance_at(kind: Kind, answer: &Answer) -> Glance {
    let mut glance = Glance::at(kind);
    let chunks = answer.body.chunks().iter();
    chunks.for_each(|chunk| glance.see(chunk));
    glance
}

/// What is wrong with an answer.
fn fault(glance: Glance, kind: Kind, call: &Call) -> Option<String> {
    match glance.end() {
        Ok(found) if found == call.demand.work.items as usize => None,
        // How many there should be is known for sure only of plain requests.
        Ok(found) => differs(found, count(kind, &call.body.joined())),
        Err(why) => Some(why.to_string()),
    }
}

fn differs(found: usize, asked: Option<usize>) -> Option<String> {
    let asked = asked.filter(|asked| *asked != found)?;
    Some(format!(
        "it is for {found} items, and {asked} were asked for"
    ))
}

/// Looks at an answer that is passed on as it comes.
pub(super) struct Watch {
    glance: Glance,
    asked: Option<usize>,
}

impl Watch {
    /// Goes on with what `glance` has seen of the answer to `call`.
    pub(super) async fn over(glance: Glance, call: &Call) -> Self {
        let body = call.body.view(call.body.chunks().to_vec());
        let kind = kind(call);
        let asked = body.through(move |body| count(kind?, body)).await;
        Self {
            glance,
            asked: asked.flatten(),
        }
    }

    /// Sees what comes next.
    pub(super) fn see(&mut self, chunk: &[u8]) {
        self.glance.see(chunk);
    }

    /// What is wrong with the answer, now that it has come to its end.
    pub(super) fn end(self) -> Option<String> {
        match self.glance.end() {
            Ok(found) => differs(found, self.asked),
            Err(why) => Some(why.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, header};

    use super::*;
    use crate::message::{Deadline, Payload};
    use crate::pool::{Demand, Label, Work};

    fn payload(text: &str) -> Payload {
        let budget = Budget::new(1 << 20);
        Payload::counted([text.to_owned()], budget.open()).unwrap()
    }

    fn call(route: &'static str, items: u32, body: &str) -> Call {
        Call {
            method: Method::POST,
            path: format!("/{route}"),
            headers: HeaderMap::new(),
            body: payload(body),
            demand: Demand {
                label: Label {
                    route,
                    ..Label::default()
                },
                work: Work { items, bytes: 0 },
                ..Demand::default()
            },
            deadline: Deadline::default(),
            trace: None,
        }
    }

    fn fault(answer: Answer, call: &Call) -> Option<String> {
        let budget = Budget::new(1 << 20);
        let told = judged(answer, None, call, &budget).reason()?;
        let (_, why) = told
            .split_once("the host's answer can't be used: ")
            .unwrap();
        Some(why.to_owned())
    }

    fn answer(body: &str) -> Answer {
        Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: payload(body),
            rest: None,
        }
    }

    #[test]
    fn a_result_has_one_for_each_item() {
        let two = call("embed", 2, r#"{"texts":["a","b"]}"#);
        let pair = r#"{"candidates":["a"],"references":["b"]}"#;
        let pair = call("bertscore", 1, pair);
        let other = call("other", 2, r#"{"texts":["a","b"]}"#);
        let odd = call("embed", 1, r#"{"te\u0078ts":["a","b"]}"#);
        let twice = call("embed", 2, r#"{"texts":["a"],"texts":["b","c"]}"#);
        let unknown = call("embed", 0, r#"{"inputs":["a","b"]}"#);
        let none = call("embed", 0, r#"{"texts":[ ],"model":"m"}"#);
        let listed = call("embed", 2, r#"{"texts":["a","b"],"of":[1]}"#);
        let table = [
            (&none, r#"{"embeddings":[],"dimensions":0}"#, None),
            (
                &none,
                r#"{"embeddings":[[1]]}"#,
                Some("it is for 1 items, and 0 were asked for"),
            ),
            (
                &listed,
                r#"{"embeddings":[[1]]}"#,
                Some("it is for 1 items, and 2 were asked for"),
            ),
            (&two, r#"{"embeddings":[[1],[2]]}"#, None),
            (
                &two,
                r#"{"embeddings":[[1]]}"#,
                Some("it is for 1 items, and 2 were asked for"),
            ),
            (
                &two,
                r#"{"embeddings":[]}"#,
                Some("it is for 0 items, and 2 were asked for"),
            ),
            (
                &two,
                r#"{"embeddings":[[1],[2,3]]}"#,
                Some("its lists are not equally long"),
            ),
            (
                &two,
                r#"{"embeddings":[[1],[2"#,
                Some("it is no whole JSON"),
            ),
            (&two, r#"{"detail":"no"}"#, Some("it holds no result")),
            (&two, "", Some("it is no whole JSON")),
            (&odd, "[]", Some("it holds no result")),
            (&twice, r#"{"embeddings":[[1],[2]]}"#, None),
            (&twice, "{}", Some("it holds no result")),
            (&unknown, "[[1],[2]]", None),
            (&pair, r#"{"precision":[1],"recall":[1],"f1":[1]}"#, None),
            (
                &pair,
                r#"{"precision":[NaN],"recall":[1],"f1":[1]}"#,
                Some("it holds something that is no number where numbers should be"),
            ),
            (&other, r#"{"embeddings":[[1]]}"#, None),
            // Nobody knows how many it has, but its host.
            (&odd, r#"{"embeddings":[[1],[2]]}"#, None),
        ];
        for (call, body, expected) in table {
            assert_eq!(fault(answer(body), call).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_result() {
        let two = call("embed", 2, r#"{"texts":["a","b"]}"#);
        let coded = |coding: &str, body: &str| {
            let mut coded = answer(body);
            let coding = coding.parse().unwrap();
            coded.headers.insert(header::CONTENT_ENCODING, coding);
            coded
        };
        let right = r#"{"embeddings":[[1],[2]]}"#;
        let told = fault(coded("br", right), &two);
        assert!(told.unwrap().contains("can't be read"));
        for uncoded in ["identity", "Identity, identity"] {
            assert_eq!(fault(coded(uncoded, right), &two), None, "as it is");
        }
        let unknown = call("embed", 0, r#"{"inputs":["a","b"]}"#);
        assert_eq!(fault(coded("br", right), &unknown), None);
        let mut refusal = coded("br", right);
        refusal.status = StatusCode::UNPROCESSABLE_ENTITY;
        assert_eq!(fault(refusal, &two), None);
    }

    #[tokio::test]
    async fn what_passes_is_judged_in_the_same_way() {
        let two = call("embed", 2, r#"{"texts":["a","b"]}"#);
        let odd = call("embed", 1, r#"{"te\u0078ts":["a","b"]}"#);
        let table = [
            (&two, r#"{"embeddings":[[1],[2]]}"#, None),
            (
                &two,
                r#"{"embeddings":[[1]]}"#,
                Some("it is for 1 items, and 2 were asked for"),
            ),
            (
                &two,
                r#"{"embeddings":[[1],[2"#,
                Some("it is no whole JSON"),
            ),
            (&two, r#"{"detail":"no"}"#, Some("it holds no result")),
            (&two, r#"{"embeddings":[[null],[1]]}"#, None),
            (
                &two,
                r#"{"embeddings":[[1],[1,null]]}"#,
                Some("its lists are not equally long"),
            ),
            (&odd, r#"{"embeddings":[[1]]}"#, None),
        ];
        for (call, body, expected) in table {
            let mut watch = Watch::over(Glance::at(Kind::Texts), call).await;
            body.as_bytes().chunks(3).for_each(|it| watch.see(it));
            assert_eq!(watch.end().as_deref(), expected, "{body}");
        }
    }
}
