//! Whether an answer can be the result of what was asked: one for each item, and all of it numbers. A host that says
//! otherwise may have failed, however well it sounds: nothing else is a success of `/embed` or `/bertscore`.

use gpu_bridge_wire::ErrorBody;
use gpu_bridge_wire::items::{Cut, answered};
use http::StatusCode;

use super::{Doubt, Verdict};
use crate::budget::Budget;
use crate::headers;
use crate::message::{Answer, Call};

/// The same, but that an answer which can be no result of `call` is in doubt.
pub(super) fn checked(verdict: Verdict, call: &Call, budget: &Budget) -> Verdict {
    let Verdict::Deliver(answer) = verdict else {
        return verdict;
    };
    match fault(&answer, call) {
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

/// What is wrong with an answer, as far as it is held and can be read. Of a request without items that can be counted
/// only its host knows what it asks for.
fn fault(answer: &Answer, call: &Call) -> Option<String> {
    let kind = call.kind()?;
    let items = call.demand.work.items as usize;
    let is_coded = headers::is_coded(&answer.headers);
    if items == 0 || answer.status != StatusCode::OK || answer.rest.is_some() || is_coded {
        return None;
    }
    match answered(kind, answer.body.chunks().iter().map(AsRef::as_ref)) {
        Ok(found) if found == items => None,
        Ok(found) => {
            // How many there are is known for sure only of plain requests.
            let body = call.body.joined();
            let asked = Cut::read(kind, &body)?.items();
            (asked != found).then(|| format!("it is for {found} items, and {asked} were asked for"))
        }
        Err(why) => Some(why.to_string()),
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
        let table = [
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
            assert_eq!(fault(&answer(body), call).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_judged() {
        let call = call("embed", 2, r#"{"texts":["a","b"]}"#);
        let mut coded = answer(r#"{"embeddings":[]}"#);
        let gzip = "gzip".parse().unwrap();
        coded.headers.insert(header::CONTENT_ENCODING, gzip);
        assert_eq!(fault(&coded, &call), None);
        for uncoded in ["identity", "Identity, identity"] {
            let uncoded = uncoded.parse().unwrap();
            coded.headers.insert(header::CONTENT_ENCODING, uncoded);
            assert!(fault(&coded, &call).is_some(), "it is as it is");
        }
        let mut refusal = answer(r#"{"embeddings":[]}"#);
        refusal.status = StatusCode::UNPROCESSABLE_ENTITY;
        assert_eq!(fault(&refusal, &call), None);
    }
}
