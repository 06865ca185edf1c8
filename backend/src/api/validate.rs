//! From the bytes of a request to texts to compute on, or to a refusal in the form of the Python
//! service (`FastAPI` with pydantic). Pure; the order of the checks is part of the contract:
//!
//! 1. no body, then not JSON by its content type, then not text, then not a JSON document;
//! 2. field by field in the order of the model: missing, wrong type, wrong type of items, too many
//!    items, the first item that is too long. Only the first kind of problem of a field is told,
//!    but for wrong items, which are told one by one (up to [`MAX_WRONG_ITEMS`]).
//!
//! Unknown fields are ignored and the last of duplicate keys wins. A document is never turned into
//! a tree: fields are borrowed slices of it, and at most the permitted number of texts is kept, so
//! that memory stays within a small multiple of the body's size whatever the body is. What a
//! problem quotes as `input` is the client's own JSON, digit for digit, written from where it stands
//! in the body into the refusal.

mod texts;

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::encoding;
use super::json::{self, NotJson};
use super::problem::Problem;
use crate::engine::Scoring;
use texts::Texts;

/// Wrong items of a list that are told one by one; the rest goes unmentioned.
pub(super) const MAX_WRONG_ITEMS: usize = 1_000;

/// Bytes of a body that is not JSON which are quoted; written as JSON they may be six times as many.
const QUOTED: usize = 64 * 1024;

/// The largest request, counted in items and Unicode code points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most items of a list.
    pub batch_size: usize,
    /// Most code points of a text.
    pub text_length: usize,
}

impl Limits {
    /// Size in bytes that no legal request exceeds, however its JSON is written: two lists of
    /// texts, each code point escaped as a surrogate pair (`\ud83d\ude80`, 12 bytes), and room for
    /// indentation, names and fields that we ignore.
    pub fn max_body(&self) -> usize {
        const LISTS: usize = 2;
        const BYTES_PER_CODE_POINT: usize = 12;
        const AROUND_A_TEXT: usize = 64;
        const AROUND_THE_LISTS: usize = 64 * 1024;
        let text = self.text_length.saturating_mul(BYTES_PER_CODE_POINT);
        let list = text
            .saturating_add(AROUND_A_TEXT)
            .saturating_mul(self.batch_size);
        list.saturating_mul(LISTS).saturating_add(AROUND_THE_LISTS)
    }
}

/// A body as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawBody<'a> {
    pub(super) bytes: &'a [u8],
    /// The content type says that it is JSON.
    pub(super) is_json: bool,
}

/// A valid request for embeddings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EmbedRequest {
    pub(super) texts: Vec<String>,
    /// Empty for the default.
    pub(super) model: String,
    /// Numbers of each embedding; `None`: as many as the model gives.
    pub(super) dimensions: Option<NonZeroUsize>,
}

/// A valid request for scores; both lists have the same length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BertscoreRequest {
    pub(super) candidates: Vec<String>,
    pub(super) references: Vec<String>,
    /// Empty for the default.
    pub(super) model: String,
    /// How they are scored.
    pub(super) scoring: Scoring,
}

/// Why a body is no valid request.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Not text, or nested absurdly.
    Unparsable,
    /// `{"detail": [...]}`: what is wrong with which part.
    Invalid(Vec<u8>),
    /// As many candidates as references are needed.
    UnequalLengths,
}

/// The same, while the body is at hand.
enum Fault<'a> {
    Unparsable,
    Invalid(Vec<Problem<'a>>),
    UnequalLengths,
}

/// Reads a body of `POST /embed`.
pub(super) fn embed(body: RawBody<'_>, limits: &Limits) -> Result<EmbedRequest, Refusal> {
    with_text(body, |text| {
        let mut fields = Fields::read(text, ["texts", "model", "dimensions"])?;
        let texts = fields.texts(0, limits);
        let model = fields.string(1);
        let dimensions = fields.count(2);
        fields.valid(EmbedRequest {
            texts,
            model,
            dimensions,
        })
    })
}

const BERTSCORE_FIELDS: [&str; 6] = [
    "candidates",
    "references",
    "lang",
    "model_type",
    "idf",
    "rescale_with_baseline",
];

/// Reads a body of `POST /bertscore`.
pub(super) fn bertscore(body: RawBody<'_>, limits: &Limits) -> Result<BertscoreRequest, Refusal> {
    with_text(body, |text| {
        let mut fields = Fields::read(text, BERTSCORE_FIELDS)?;
        let candidates = fields.texts(0, limits);
        let references = fields.texts(1, limits);
        let language = fields.string(2).to_lowercase();
        let model = fields.string(3);
        let idf = fields.flag(4);
        let rescale = fields.flag(5);
        let baseline = rescale.then(|| or_english(language));
        let request = fields.valid(BertscoreRequest {
            candidates,
            references,
            model,
            scoring: Scoring { idf, baseline },
        })?;
        if request.candidates.len() != request.references.len() {
            return Err(Fault::UnequalLengths);
        }
        Ok(request)
    })
}

/// The language of a request that names none, as in the Python service.
fn or_english(language: String) -> String {
    if language.is_empty() {
        "en".to_owned()
    } else {
        language
    }
}

/// What `read` makes of the body's text. Faults borrow from the text: they are written out before
/// it goes.
fn with_text<T>(
    body: RawBody<'_>,
    read: impl FnOnce(&str) -> Result<T, Fault<'_>>,
) -> Result<T, Refusal> {
    let text = text_of(body)?;
    Ok(read(&text)?)
}

/// The body's text, if there is one and it claims to be JSON.
fn text_of(body: RawBody<'_>) -> Result<Cow<'_, str>, Fault<'static>> {
    if body.bytes.is_empty() {
        return Err(Problem::missing_body().into());
    }
    if body.is_json {
        return encoding::decode(body.bytes).map_err(|_| Fault::Unparsable);
    }
    let text = str::from_utf8(body.bytes).map_err(|_| Fault::Unparsable)?;
    let beginning = &text[..text.floor_char_boundary(QUOTED)];
    let quoted = serde_json::value::to_raw_value(beginning).map_err(|_| Fault::Unparsable)?;
    Err(Problem::not_json_at_all(quoted).into())
}

/// The wanted fields of an object, and what is wrong with them.
struct Fields<'a, const N: usize> {
    object: &'a RawValue,
    names: [&'static str; N],
    values: [Option<&'a RawValue>; N],
    problems: Vec<Problem<'a>>,
}

impl<'a, const N: usize> Fields<'a, N> {
    fn read(text: &'a str, names: [&'static str; N]) -> Result<Self, Fault<'a>> {
        json::check(text)?;
        let object: &RawValue = serde_json::from_str(text).map_err(|_| Fault::Unparsable)?;
        match object.get().as_bytes() {
            [b'{', ..] => {}
            b"null" => return Err(Problem::missing_body().into()),
            _ => return Err(Problem::not_an_object(object).into()),
        }
        let values = read_as(object, Pick { names }).map_err(|_| Fault::Unparsable)?;
        Ok(Self {
            object,
            names,
            values,
            problems: Vec::new(),
        })
    }

    /// A list of texts that has to be there.
    fn texts(&mut self, field: usize, limits: &Limits) -> Vec<String> {
        let name = self.names[field];
        let Some(value) = self.values[field] else {
            self.problems.push(Problem::missing(name, self.object));
            return Vec::new();
        };
        let Ok(list) = read_as(value, Texts { limits }) else {
            self.problems.push(Problem::not_a_list(name, value));
            return Vec::new();
        };
        self.problems.extend(list.problems(name, value, limits));
        list.texts
    }

    /// A string that may be left out, and is then empty.
    fn string(&mut self, field: usize) -> String {
        let Some(value) = self.values[field] else {
            return String::new();
        };
        serde_json::from_str(value.get()).unwrap_or_else(|_| {
            let problem = Problem::not_a_string(self.names[field], None, value);
            self.problems.push(problem);
            String::new()
        })
    }

    /// True or false, and false if it is left out.
    fn flag(&mut self, field: usize) -> bool {
        let Some(value) = self.values[field] else {
            return false;
        };
        serde_json::from_str(value.get()).unwrap_or_else(|_| {
            let problem = Problem::not_a_flag(self.names[field], value);
            self.problems.push(problem);
            false
        })
    }

    /// A whole number above 0 that may be left out or null.
    fn count(&mut self, field: usize) -> Option<NonZeroUsize> {
        let value = self.values[field]?;
        serde_json::from_str(value.get()).unwrap_or_else(|_| {
            let problem = Problem::not_a_count(self.names[field], value);
            self.problems.push(problem);
            None
        })
    }

    fn valid<T>(self, request: T) -> Result<T, Fault<'a>> {
        if self.problems.is_empty() {
            Ok(request)
        } else {
            Err(Fault::Invalid(self.problems))
        }
    }
}

impl From<Fault<'_>> for Refusal {
    fn from(fault: Fault<'_>) -> Self {
        #[derive(Serialize)]
        struct Told<'a> {
            detail: Vec<Problem<'a>>,
        }
        match fault {
            Fault::Unparsable => Self::Unparsable,
            Fault::UnequalLengths => Self::UnequalLengths,
            Fault::Invalid(detail) => {
                // Strings, numbers and JSON always serialise.
                Self::Invalid(serde_json::to_vec(&Told { detail }).unwrap_or_default())
            }
        }
    }
}

impl<'a> From<Problem<'a>> for Fault<'a> {
    fn from(problem: Problem<'a>) -> Self {
        Self::Invalid(vec![problem])
    }
}

impl From<NotJson> for Fault<'_> {
    fn from(fault: NotJson) -> Self {
        match fault {
            NotJson::TooDeep => Self::Unparsable,
            NotJson::Malformed { reason, position } => Problem::not_json(reason, position).into(),
        }
    }
}

fn read_as<'a, S: DeserializeSeed<'a>>(
    value: &'a RawValue,
    seed: S,
) -> serde_json::Result<S::Value> {
    seed.deserialize(&mut serde_json::Deserializer::from_str(value.get()))
}

/// Reads an object and borrows the named fields; the last of duplicates wins.
struct Pick<const N: usize> {
    names: [&'static str; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for Pick<N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Pick<N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut values = [None; N];
        while let Some(key) = entries.next_key::<Cow<'de, str>>()? {
            match self.names.iter().position(|name| *name == key) {
                Some(field) => values[field] = Some(entries.next_value()?),
                None => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests;
