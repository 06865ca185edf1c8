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
//! problem quotes as `input` is the client's own JSON, digit for digit.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::encoding;
use super::json::{self, NotJson};

/// Wrong items of a list that are told one by one; the rest goes unmentioned.
pub(super) const MAX_WRONG_ITEMS: usize = 1_000;

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
}

/// A valid request for scores; both lists have the same length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BertscoreRequest {
    pub(super) candidates: Vec<String>,
    pub(super) references: Vec<String>,
    /// Empty for the default.
    pub(super) model: String,
}

/// Why a body is no valid request.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Not text, or nested absurdly.
    Unparsable,
    /// What is wrong with which part.
    Invalid(Vec<Problem>),
    /// As many candidates as references are needed.
    UnequalLengths,
}

/// What is wrong with one part of a request, in pydantic's form.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    loc: Vec<Place>,
    msg: Cow<'static, str>,
    input: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctx: Option<Context>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Place {
    Name(&'static str),
    Index(usize),
}

#[derive(Debug, Serialize)]
struct Context {
    error: Cause,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Cause {
    /// A Python exception, which serialises as `{}`.
    Exception {},
    Reason(Cow<'static, str>),
}

/// Reads a body of `POST /embed`.
pub(super) fn embed(body: RawBody<'_>, limits: &Limits) -> Result<EmbedRequest, Refusal> {
    let text = text_of(body)?;
    let mut fields = Fields::read(&text, ["texts", "model"])?;
    let texts = fields.texts(0, limits);
    let model = fields.string(1);
    fields.valid(EmbedRequest { texts, model })
}

/// Reads a body of `POST /bertscore`.
pub(super) fn bertscore(body: RawBody<'_>, limits: &Limits) -> Result<BertscoreRequest, Refusal> {
    let text = text_of(body)?;
    let mut fields = Fields::read(&text, ["candidates", "references", "lang", "model_type"])?;
    let candidates = fields.texts(0, limits);
    let references = fields.texts(1, limits);
    fields.string(2);
    let model = fields.string(3);
    let request = fields.valid(BertscoreRequest {
        candidates,
        references,
        model,
    })?;
    if request.candidates.len() != request.references.len() {
        return Err(Refusal::UnequalLengths);
    }
    Ok(request)
}

/// The body's text, if there is one and it claims to be JSON.
fn text_of(body: RawBody<'_>) -> Result<Cow<'_, str>, Refusal> {
    if body.bytes.is_empty() {
        return Err(Problem::missing_body().into());
    }
    if body.is_json {
        return encoding::decode(body.bytes).map_err(|_| Refusal::Unparsable);
    }
    let text = str::from_utf8(body.bytes).map_err(|_| Refusal::Unparsable)?;
    let quoted = serde_json::value::to_raw_value(text).map_err(|_| Refusal::Unparsable)?;
    Err(Problem::not_an_object(quoted).into())
}

/// The wanted fields of an object, and what is wrong with them.
struct Fields<'a, const N: usize> {
    object: &'a RawValue,
    names: [&'static str; N],
    values: [Option<&'a RawValue>; N],
    problems: Vec<Problem>,
}

impl<'a, const N: usize> Fields<'a, N> {
    fn read(text: &'a str, names: [&'static str; N]) -> Result<Self, Refusal> {
        json::check(text)?;
        let object: &RawValue = serde_json::from_str(text).map_err(|_| Refusal::Unparsable)?;
        match object.get().as_bytes() {
            [b'{', ..] => {}
            b"null" => return Err(Problem::missing_body().into()),
            _ => return Err(Problem::not_an_object(object.to_owned()).into()),
        }
        let values = read_as(object, Pick { names }).map_err(|_| Refusal::Unparsable)?;
        Ok(Self {
            object,
            names,
            values,
            problems: Vec::new(),
        })
    }

    /// A list of texts that has to be there.
    fn texts(&mut self, field: usize, limits: &Limits) -> Vec<String> {
        let Some(value) = self.values[field] else {
            let (loc, input) = (self.loc(field), self.object.to_owned());
            self.problems
                .push(Problem::new("missing", loc, "Field required", input));
            return Vec::new();
        };
        let Ok(list) = read_as(value, Texts { limits }) else {
            let msg = "Input should be a valid list";
            self.problems.push(Problem::new(
                "list_type",
                self.loc(field),
                msg,
                value.to_owned(),
            ));
            return Vec::new();
        };
        self.judge(field, value, &list, limits);
        list.texts
    }

    fn judge(&mut self, field: usize, value: &RawValue, list: &TextList<'_>, limits: &Limits) {
        for &(index, item) in &list.wrong {
            let mut loc = self.loc(field);
            loc.push(Place::Index(index));
            self.problems.push(Problem::not_a_string(loc, item));
        }
        if !list.wrong.is_empty() {
            return;
        }
        let name = self.names[field];
        let excess = if list.count > limits.batch_size {
            let (count, most) = (list.count, limits.batch_size);
            format!("{name} array length {count} exceeds max batch size of {most}")
        } else if let Some((index, length)) = list.too_long {
            let most = limits.text_length;
            format!("{name}[{index}] length {length} exceeds max text length of {most}")
        } else {
            return;
        };
        self.problems
            .push(Problem::excess(self.loc(field), &excess, value));
    }

    /// A string that may be left out, and is then empty.
    fn string(&mut self, field: usize) -> String {
        let Some(value) = self.values[field] else {
            return String::new();
        };
        serde_json::from_str(value.get()).unwrap_or_else(|_| {
            self.problems
                .push(Problem::not_a_string(self.loc(field), value));
            String::new()
        })
    }

    fn loc(&self, field: usize) -> Vec<Place> {
        vec![Place::Name("body"), Place::Name(self.names[field])]
    }

    fn valid<T>(self, request: T) -> Result<T, Refusal> {
        if self.problems.is_empty() {
            Ok(request)
        } else {
            Err(Refusal::Invalid(self.problems))
        }
    }
}

impl Problem {
    fn new(
        kind: &'static str,
        loc: Vec<Place>,
        msg: impl Into<Cow<'static, str>>,
        input: Box<RawValue>,
    ) -> Self {
        Self {
            kind,
            loc,
            msg: msg.into(),
            input,
            ctx: None,
        }
    }

    fn missing_body() -> Self {
        let input = RawValue::NULL.to_owned();
        Self::new(
            "missing",
            vec![Place::Name("body")],
            "Field required",
            input,
        )
    }

    fn not_an_object(input: Box<RawValue>) -> Self {
        let msg = "Input should be a valid dictionary or object to extract fields from";
        Self::new(
            "model_attributes_type",
            vec![Place::Name("body")],
            msg,
            input,
        )
    }

    fn not_a_string(loc: Vec<Place>, input: &RawValue) -> Self {
        Self::new(
            "string_type",
            loc,
            "Input should be a valid string",
            input.to_owned(),
        )
    }

    fn excess(loc: Vec<Place>, what: &str, input: &RawValue) -> Self {
        let ctx = Some(Context {
            error: Cause::Exception {},
        });
        let msg = format!("Value error, {what}");
        Self {
            ctx,
            ..Self::new("value_error", loc, msg, input.to_owned())
        }
    }

    fn not_json(reason: Cow<'static, str>, position: usize) -> Self {
        let loc = vec![Place::Name("body"), Place::Index(position)];
        let ctx = Some(Context {
            error: Cause::Reason(reason),
        });
        let input = RawValue::from_string("{}".to_owned()).unwrap_or_default();
        Self {
            ctx,
            ..Self::new("json_invalid", loc, "JSON decode error", input)
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

impl From<NotJson> for Refusal {
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

/// Reads a list that should be one of texts.
struct Texts<'l> {
    limits: &'l Limits,
}

/// What a list holds, as far as it matters.
#[derive(Default)]
struct TextList<'a> {
    /// The first texts, as many as may be; meaningless if anything is wrong.
    texts: Vec<String>,
    /// Items in all.
    count: usize,
    /// The first items that are no strings, with their indexes.
    wrong: Vec<(usize, &'a RawValue)>,
    /// Index and length in code points of the first text that is too long.
    too_long: Option<(usize, usize)>,
}

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = TextList<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = TextList<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = TextList::default();
        while let Some(item) = items.next_element::<&'de RawValue>()? {
            list.add(item, self.limits);
        }
        Ok(list)
    }
}

impl<'de> TextList<'de> {
    fn add(&mut self, item: &'de RawValue, limits: &Limits) {
        let index = self.count;
        self.count += 1;
        if !item.get().starts_with('"') {
            if self.wrong.len() < MAX_WRONG_ITEMS {
                self.wrong.push((index, item));
            }
            return;
        }
        if index >= limits.batch_size || self.too_long.is_some() {
            return;
        }
        // `json::check` has read this string before, so it is one.
        let text: String = serde_json::from_str(item.get()).unwrap_or_default();
        let length = text.chars().count();
        if length > limits.text_length {
            self.too_long = Some((index, length));
        } else {
            self.texts.push(text);
        }
    }
}

#[cfg(test)]
mod tests;
