//! Hosts that speak OpenAI's API for embeddings and nothing else: what an attempt asks of them in place of
//! `/embed`, and what their answers are in its words. Nothing else in the proxy knows that they differ.
//! The dialect itself is in `gpu_bridge_wire::openai`.
//!
//! Several of these servers have one model and take any name for it. So a host that lists its models
//! (`/v1/models`) is asked for these only, and one that doesn't has to say in its answer that it was the one.

use std::collections::BTreeSet;
use std::sync::Arc;

use gpu_bridge_wire::Info;
use gpu_bridge_wire::items::Kind;
use gpu_bridge_wire::openai::{
    Complaint, EMBEDDINGS, Embeddings, Expected, Question, TOKENS_HEADER, Unaskable, Wrong,
};
use http::{HeaderName, Method, StatusCode};

use super::request::Request;
use super::result::{longest, unusable};
use super::{Doubt, Target, Verdict, coding};
use crate::budget::{Budget, Exhausted};
use crate::config::OpenAi;
use crate::headers;
use crate::message::{Answer, Call, Payload};

/// Bytes of an error that are read: all that anybody says in words.
const MOST_WORDS: usize = 64 << 10;
const TOKENS: HeaderName = HeaderName::from_static(TOKENS_HEADER);

/// What a host is asked, and what its answer has to be.
pub(super) struct Asked {
    pub(super) body: Payload,
    wanted: Wanted,
    api: Arc<OpenAi>,
}

/// What a host's answer has to be.
#[derive(Clone, Debug)]
struct Wanted {
    texts: usize,
    dimensions: Option<usize>,
    /// As the client calls it, and as the host does.
    called: String,
    name: String,
    /// The host has told that it has this model.
    is_listed: bool,
}

/// Why a host is not asked.
enum NotAsked {
    /// There is nothing to compute.
    NoTexts {
        called: String,
    },
    Unaskable(Unaskable),
    NoModel,
}

/// What to ask of a host that told `info`, for `call`.
///
/// # Errors
/// What becomes of the attempt instead.
pub(super) async fn ask(
    call: &Call,
    api: &Arc<OpenAi>,
    info: Option<Arc<Info>>,
    budget: &Budget,
) -> Result<Asked, Verdict> {
    if call.kind() != Some(Kind::Texts) {
        let why = "this host speaks OpenAI's API, which has no such thing";
        return Err(refusal(StatusCode::NOT_FOUND, why, Doubt::NoModel, budget));
    }
    let held = Payload::counted(call.body.chunks().iter().cloned(), budget.open());
    let held = held.map_err(Verdict::from)?;
    let of = Arc::clone(api);
    let asked = held.through(move |body| translated(body, &of, info.as_deref()));
    let (body, wanted) = match asked.await.unwrap_or(Err(Unaskable::NotEmbed.into())) {
        Ok(asked) => asked,
        Err(NotAsked::NoTexts { called }) => {
            return Err(delivery(Embeddings::none(&called), Some(0), budget));
        }
        Err(NotAsked::Unaskable(why)) => {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return Err(refusal(status, &why.to_string(), Doubt::Limit, budget));
        }
        Err(NotAsked::NoModel) => {
            let why = "this host does not tell of such a model";
            return Err(refusal(StatusCode::NOT_FOUND, why, Doubt::NoModel, budget));
        }
    };
    Ok(Asked {
        body: Payload::counted([body], budget.open()).map_err(Verdict::from)?,
        wanted,
        api: Arc::clone(api),
    })
}

impl From<Unaskable> for NotAsked {
    fn from(why: Unaskable) -> Self {
        Self::Unaskable(why)
    }
}

fn translated(
    body: &[u8],
    api: &OpenAi,
    info: Option<&Info>,
) -> Result<(Vec<u8>, Wanted), NotAsked> {
    let question = Question::read(body)?;
    let called = question.model.clone().into_owned();
    let alias = api.model_alias.get(&called);
    let listed = info.and_then(|info| info.available_models.as_ref());
    let lacks = match listed {
        Some(listed) => !listed.contains(&format!("embed:{called}")),
        None => alias.is_none() && !api.model_alias.is_empty(),
    };
    if lacks {
        return Err(NotAsked::NoModel);
    }
    if question.texts() == 0 {
        return Err(NotAsked::NoTexts { called });
    }
    let name = alias.unwrap_or(&called).clone();
    let wanted = Wanted {
        texts: question.texts(),
        dimensions: question.dimensions(),
        is_listed: listed.is_some(),
        name,
        called,
    };
    Ok((question.body(&wanted.name, api.truncate), wanted))
}

/// The head of such a request, but for what every request carries at its end.
pub(super) fn head(target: &Target, call: &Call) -> Request {
    let mut request = target.request(&Method::POST, EMBEDDINGS);
    let mut headers = call.headers.clone();
    headers::in_json(&mut headers);
    for (name, value) in &headers {
        request.header(name, value.as_bytes());
    }
    request
}

impl Asked {
    /// The most bytes that an answer may have.
    pub(super) fn longest(&self) -> usize {
        longest(self.wanted.texts)
    }

    /// How the attempt ended, in the words of `/embed`. All of an answer is held, if there is room.
    pub(super) async fn restated(self, verdict: Verdict, budget: &Budget) -> Verdict {
        match verdict {
            Verdict::Deliver(answer) if answer.rest.is_some() => Exhausted.into(),
            Verdict::Deliver(answer) => self.result(answer, budget).await,
            Verdict::Sibling { answer, why } => complaint(&answer, why, budget),
            other => other,
        }
    }

    async fn result(self, answer: Answer, budget: &Budget) -> Verdict {
        if let Some(why) = coding::unreadable(&answer.headers) {
            return unusable(why, budget);
        }
        // For the answer in one piece, and for what it becomes.
        let mut held = budget.open();
        if held.grow(answer.body.len().saturating_mul(2)).is_err() {
            return Exhausted.into();
        }
        let Self { wanted, api, .. } = self;
        let read = answer.body.through(move |body| wanted.read(body, &api));
        match read.await {
            Some(Ok(read)) => {
                drop(held);
                delivery(read.body, read.tokens, budget)
            }
            Some(Err(why @ Wrong::Dimensions { .. })) => refusal(
                StatusCode::BAD_REQUEST,
                &why.to_string(),
                Doubt::Limit,
                budget,
            ),
            Some(Err(why @ Wrong::Model(_))) => refusal(
                StatusCode::NOT_FOUND,
                &why.to_string(),
                Doubt::NoModel,
                budget,
            ),
            Some(Err(why)) => unusable(&why.to_string(), budget),
            None => unusable("it could not be gone through", budget),
        }
    }
}

impl Wanted {
    fn read(&self, answer: &[u8], api: &OpenAi) -> Result<Embeddings, Wrong> {
        let expected = Expected {
            count: self.texts,
            dimensions: self.dimensions,
            model: (!self.is_listed).then_some(&self.name),
            called: &self.called,
            normalize: api.normalize,
        };
        Embeddings::read(answer, expected)
    }
}

/// A doubtful `answer` as `/embed` would have it. Its words say more than its status: some servers call a model that
/// they lack a bad request or not implemented, a text that is too long an error of theirs, and an error of theirs
/// a bad request.
fn complaint(answer: &Answer, why: Doubt, budget: &Budget) -> Verdict {
    let body = answer.body.joined();
    let told = Complaint::read(body.get(..MOST_WORDS).unwrap_or(&body));
    let (status, why) = match (why, answer.status) {
        _ if told.lacks_model => (StatusCode::NOT_FOUND, Doubt::NoModel),
        (Doubt::ServerError, _) if told.is_too_much => {
            (StatusCode::PAYLOAD_TOO_LARGE, Doubt::Limit)
        }
        (Doubt::Limit, _) if told.has_failed => {
            (StatusCode::INTERNAL_SERVER_ERROR, Doubt::ServerError)
        }
        // What `/embed` says of a model that fails.
        (Doubt::ServerError, StatusCode::FAILED_DEPENDENCY) => {
            (StatusCode::INTERNAL_SERVER_ERROR, why)
        }
        // What is wrong is said there item by item.
        (why, StatusCode::UNPROCESSABLE_ENTITY) => (StatusCode::BAD_REQUEST, why),
        (why, status) => (status, why),
    };
    doubtful(status, &told, why, budget)
}

/// Does a refusal say that what the account of our key may use is used up?
pub(super) fn is_used_up(refusal: &[u8]) -> bool {
    Complaint::is_of_used_up_account(refusal)
}

fn refusal(status: StatusCode, message: &str, why: Doubt, budget: &Budget) -> Verdict {
    let told = Complaint {
        message: message.to_owned(),
        ..Complaint::default()
    };
    doubtful(status, &told, why, budget)
}

fn doubtful(status: StatusCode, told: &Complaint, why: Doubt, budget: &Budget) -> Verdict {
    Verdict::doubtful(status, told.detail(), why, budget)
}

fn delivery(body: Vec<u8>, tokens: Option<u64>, budget: &Budget) -> Verdict {
    match Answer::in_json(StatusCode::OK, body, budget) {
        Ok(mut answer) => {
            let tokens = tokens.map(|tokens| (TOKENS, tokens.into()));
            answer.headers.extend(tokens);
            Verdict::Deliver(answer)
        }
        Err(exhausted) => exhausted.into(),
    }
}

/// What a host that lists these models (`ids`) tells of itself. `maker`: of the server, if it says so.
pub(super) fn info(api: &OpenAi, ids: Vec<String>, maker: Option<&str>) -> Info {
    // Ollama's names have a tag, which may be left out if it is this one.
    let untagged = ids.iter().filter_map(|id| id.strip_suffix(":latest"));
    let mut names: BTreeSet<String> = untagged.map(str::to_owned).collect();
    names.extend(ids);
    let listed = names.clone();
    for (called, name) in &api.model_alias {
        if listed.contains(name) {
            names.insert(called.clone());
        } else {
            names.remove(called);
        }
    }
    let maker = maker.map_or_else(String::new, |maker| format!(" ({maker})"));
    Info {
        device_name: format!("OpenAI API{maker}"),
        ..of_models(names.iter())
    }
}

/// What is known of one that lists none; `None`: nothing.
pub(super) fn unlisted(api: &OpenAi) -> Option<Info> {
    let info = of_models(api.model_alias.keys());
    (!api.model_alias.is_empty()).then_some(info)
}

fn of_models<'a>(names: impl Iterator<Item = &'a String>) -> Info {
    let names: Vec<String> = names.map(|name| format!("embed:{name}")).collect();
    Info {
        device_name: "OpenAI API".to_owned(),
        loaded_models: names.clone(),
        available_models: Some(names),
        ..Info::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::openai as api;
    use super::*;

    fn told(aliases: &[(&str, &str)], ids: &[&str]) -> Vec<String> {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        info(&api(aliases), ids, None).available_models.unwrap()
    }

    #[test]
    fn models_are_known_by_the_names_that_clients_use() {
        assert_eq!(told(&[], &["a", "org/b"]), ["embed:a", "embed:org/b"]);
        assert_eq!(
            told(&[("a", "org/a")], &["org/a"]),
            ["embed:a", "embed:org/a"]
        );
        assert_eq!(
            told(&[("a", "org/a")], &["a"]),
            [""; 0],
            "another model of that name"
        );
        assert_eq!(
            told(&[], &["a:latest", "a:v2"]),
            ["embed:a", "embed:a:latest", "embed:a:v2"]
        );
        assert_eq!(
            told(&[("x", "a")], &["a:latest"]),
            ["embed:a", "embed:a:latest", "embed:x"]
        );
        assert_eq!(unlisted(&api(&[])), None);
        let known = unlisted(&api(&[("x", "/data")])).unwrap();
        assert_eq!(known.available_models.unwrap(), ["embed:x"]);
    }

    #[test]
    fn what_a_complaint_means_its_words_say_first() {
        use Doubt::{Forbidden, Front, Limit, NoModel, ServerError};

        let budget = Budget::new(1 << 20);
        let table = [
            (400, Limit, "'b' is too long", 400, Limit),
            (413, Limit, "batch size 33 > 32", 413, Limit),
            (422, Limit, "batch size 33 > 32", 400, Limit),
            (500, ServerError, "out of memory", 500, ServerError),
            (424, ServerError, "inference failed", 500, ServerError),
            (404, NoModel, "no", 404, NoModel),
            (400, Limit, "Invalid model: b", 404, NoModel),
            (403, Forbidden, "The model `b` does not exist", 404, NoModel),
            (500, ServerError, "model b not found", 404, NoModel),
            (
                501,
                Front,
                "The model does not support Embeddings API",
                404,
                NoModel,
            ),
            (501, Front, "no", 501, Front),
            (500, ServerError, "b is too large to process", 413, Limit),
            (
                400,
                Limit,
                "embedding contains NaN or Inf values",
                500,
                ServerError,
            ),
        ];
        for (status, why, words, expected, meaning) in table {
            let told = json!({"error": {"message": words}})
                .to_string()
                .into_bytes();
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer::in_json(status, told, &budget).unwrap();
            match complaint(&answer, why, &budget) {
                Verdict::Sibling { answer, why } => {
                    assert_eq!(
                        (answer.status.as_u16(), why),
                        (expected, meaning),
                        "{words}"
                    );
                    let body = answer.body.joined().into_owned();
                    let detail = json!({"detail": words}).to_string();
                    assert_eq!(String::from_utf8(body).unwrap(), detail);
                }
                other => panic!("{words}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_host_is_asked_only_for_models_that_it_may_have() {
        type Names<'a> = &'a [&'a str];
        type Aliases<'a> = &'a [(&'a str, &'a str)];
        let body = br#"{"model":"x","texts":["a"]}"#;
        let asked = |aliases: &[(&str, &str)], ids: Option<&[&str]>| {
            let api = api(aliases);
            let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
            let info = ids.map(|ids| info(&api, owned(ids), None));
            let asked = translated(body, &api, info.as_ref());
            asked
                .ok()
                .map(|(_, wanted)| (wanted.name, wanted.is_listed))
        };
        let table: [(Aliases<'_>, Option<Names<'_>>, _); 8] = [
            (&[], None, Some(("x", false))),
            (&[], Some(&["x"]), Some(("x", true))),
            (&[], Some(&["y"]), None),
            (&[], Some(&[]), None),
            (&[("x", "y")], Some(&["y"]), Some(("y", true))),
            (&[("x", "y")], Some(&["x"]), None),
            (&[("x", "y")], None, Some(("y", false))),
            (&[("z", "y")], None, None),
        ];
        for (aliases, ids, expected) in table {
            let found = asked(aliases, ids);
            let found = found
                .as_ref()
                .map(|(name, is_listed)| (name.as_str(), *is_listed));
            assert_eq!(found, expected, "{aliases:?} {ids:?}");
        }
    }
}
