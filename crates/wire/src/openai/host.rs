//! The other direction: a host that speaks only this dialect, asked for what `/embed` means.
//!
//! ```text
//! body of /embed ─ Question::read ─▶ body of /v1/embeddings ─ host ─▶ its answer ─ Question::answer ─▶ answer of /embed
//!                                                                    its error ── Complaint::read ──▶ {"detail": …}
//! ```
//!
//! Such a host may answer in any order, with a model of its own choice, or with something that is no number:
//! an answer is right, number by number and text by text, or it is [`Wrong`].

mod complaint;
mod listing;

use std::borrow::Cow;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::error::Category;
use serde_json::value::RawValue;
use thiserror::Error;

pub use self::complaint::Complaint;
pub use self::listing::listed_models;
use super::answer::numbers;
use crate::items::is_text;

/// Characters of a host's own words that are passed on.
const SHOWN: usize = 500;

/// What `/embed` is asked, as far as such a host can tell.
#[derive(Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// As the client calls it.
    pub model: Cow<'a, str>,
    /// A list of texts, as JSON.
    texts: &'a str,
    count: usize,
    dimensions: Option<NonZeroU32>,
}

/// How an answer has to be for its numbers to be used.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Embeddings.
    pub count: usize,
    /// Numbers of each, if that was asked for.
    pub dimensions: Option<usize>,
    /// The model, as the host was asked for it; `None`: whatever it says of that.
    pub model: Option<&'a str>,
    /// As the client calls it.
    pub called: &'a str,
    /// Scale each embedding to length 1.
    pub normalize: bool,
}

/// An answer of `/embed`.
#[derive(Debug, PartialEq, Eq)]
pub struct Embeddings {
    /// It.
    pub body: Vec<u8>,
    /// Tokens that were read; `None`: the host does not tell.
    pub tokens: Option<u64>,
}

/// Why a body of `/embed` can't be asked of such a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unaskable {
    /// It is none.
    #[error(
        "the body must be a JSON object with texts, a list of texts, and model, the name of one, each of them once"
    )]
    NotEmbed,
    /// Such hosts have no default.
    #[error("model is missing, and this host has no default; name one")]
    NoModel,
}

/// Why an answer can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Wrong {
    /// It ends early.
    #[error("it is no whole JSON")]
    NotWhole,
    /// A page, say.
    #[error("it is no JSON")]
    NotJson,
    /// It is not what `/v1/embeddings` answers.
    #[error(
        "it is no answer of /v1/embeddings, which holds data, a list of objects with embedding and, as a whole number, \
         index"
    )]
    Unreadable,
    /// Too few, or too many.
    #[error("it is for {found} texts, and {asked} were asked for")]
    Count {
        /// Embeddings there are.
        found: usize,
        /// And should be.
        asked: usize,
    },
    /// As many as there should be, but one twice, or of a text that there is not.
    #[error("it does not hold each index once")]
    NotEach,
    /// An embedding is neither a list nor a text.
    #[error("its embeddings are neither lists of numbers nor base64")]
    NotNumbers,
    /// It is none, or not of whole numbers.
    #[error("its embeddings are base64 that does not hold numbers of 4 bytes")]
    NotBase64,
    /// They differ in length.
    #[error("its embeddings are not equally long")]
    Uneven,
    /// They hold no numbers.
    #[error("its embeddings are empty")]
    Empty,
    /// NaN, infinite, or no number at all.
    #[error("it holds something that is no finite number where one belongs")]
    NotFinite,
    /// It was asked for another length.
    #[error(
        "embeddings of this model have {found} dimensions; the host does not know how to shorten them, so ask without \
         dimensions"
    )]
    Dimensions {
        /// Numbers of an embedding.
        found: usize,
    },
    /// It serves one model, whatever it is asked for.
    #[error(
        "the host answered with the model '{0}' instead; if that is the same, the operator should say so in the host's \
         model_alias"
    )]
    Model(String),
}

/// What programs write that is no JSON in the place of a number.
const NO_NUMBERS: [&str; 3] = ["NaN", "nan", "Inf"];

impl Wrong {
    /// What is wrong with an `answer` that could not be read because of `error`.
    fn unread(answer: &[u8], error: &serde_json::Error) -> Self {
        let line = answer.split(|byte| *byte == b'\n').nth(error.line() - 1);
        let rest = line.and_then(|line| line.get(error.column().saturating_sub(2)..));
        let begins = |rest: &[u8], word: &str| {
            let there = rest.iter().skip_while(|byte| !byte.is_ascii_alphabetic());
            there.take(word.len()).eq(word.as_bytes())
        };
        let is_no_number = rest.is_some_and(|rest| NO_NUMBERS.iter().any(|it| begins(rest, it)));
        match error.classify() {
            Category::Syntax if is_no_number => Self::NotFinite,
            Category::Syntax | Category::Io => Self::NotJson,
            Category::Eof => Self::NotWhole,
            Category::Data => Self::Unreadable,
        }
    }
}

impl<'a> Question<'a> {
    /// Reads a body of `/embed`.
    ///
    /// # Errors
    /// [`Unaskable`]; another kind of host may know what to do with it.
    pub fn read(body: &'a [u8]) -> Result<Self, Unaskable> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            texts: &'a RawValue,
            #[serde(borrow, default)]
            model: Option<Cow<'a, str>>,
            #[serde(default)]
            dimensions: Option<NonZeroU32>,
        }
        let body: Body<'_> = serde_json::from_slice(body).map_err(|_| Unaskable::NotEmbed)?;
        let texts = body.texts.get();
        let items: Vec<&RawValue> = serde_json::from_str(texts).map_err(|_| Unaskable::NotEmbed)?;
        if !items.iter().all(|item| is_text(item.get())) {
            return Err(Unaskable::NotEmbed);
        }
        let model = body.model.filter(|model| !model.is_empty());
        Ok(Self {
            model: model.ok_or(Unaskable::NoModel)?,
            texts,
            count: items.len(),
            dimensions: body.dimensions,
        })
    }

    /// The body for a host that calls the model `name`. `truncate`: ask for long texts to be cut.
    pub fn body(&self, name: &str, truncate: bool) -> Vec<u8> {
        let (name, texts) = (Value::from(name), self.texts);
        let length = self.dimensions.map(|it| format!(",\"dimensions\":{it}"));
        let length = length.unwrap_or_default();
        let cut = if truncate {
            ",\"truncate_prompt_tokens\":-1"
        } else {
            ""
        };
        format!(r#"{{"model":{name},"encoding_format":"float"{length}{cut},"input":{texts}}}"#)
            .into_bytes()
    }

    /// How many texts there are.
    pub fn texts(&self) -> usize {
        self.count
    }

    /// Numbers of each embedding, if that was asked for.
    pub fn dimensions(&self) -> Option<usize> {
        self.dimensions
            .and_then(|it| usize::try_from(it.get()).ok())
    }
}

impl Embeddings {
    /// Reads a host's answer. Numbers stay as they are written, unless they come in base64 or are scaled.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn read(answer: &[u8], expected: Expected<'_>) -> Result<Self, Wrong> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            data: Vec<Row<'a>>,
            /// Some name it in other ways than by a text.
            #[serde(default)]
            model: Value,
            #[serde(default)]
            usage: Value,
        }
        #[derive(Deserialize)]
        struct Row<'a> {
            /// Some leave out a 0, some all of them; their rows are in order.
            #[serde(default)]
            index: Option<usize>,
            #[serde(borrow)]
            embedding: &'a RawValue,
        }
        let answer: Answer<'_> =
            serde_json::from_slice(answer).map_err(|error| Wrong::unread(answer, &error))?;
        if let (Some(wanted), Some(told)) = (expected.model, answer.model.as_str())
            && !is_same_model(wanted, told)
        {
            return Err(Wrong::Model(shortened(told)));
        }
        let (found, asked) = (answer.data.len(), expected.count);
        if found != asked {
            return Err(Wrong::Count { found, asked });
        }
        let mut rows = vec![None; asked];
        for (at, row) in answer.data.iter().enumerate() {
            let place = rows.get_mut(row.index.unwrap_or(at));
            let place = place.ok_or(Wrong::NotEach)?;
            if place.replace(row.embedding.get()).is_some() {
                return Err(Wrong::NotEach);
            }
        }
        let rows: Option<Vec<&str>> = rows.into_iter().collect();
        let body = written(&rows.ok_or(Wrong::NotEach)?, expected)?;
        // Embeddings take no other tokens than those of the texts.
        let tokens = ["prompt_tokens", "total_tokens"].map(|key| whole(&answer.usage[key]));
        Ok(Self {
            body,
            tokens: tokens.into_iter().flatten().next(),
        })
    }

    /// Of no texts.
    pub fn none(called: &str) -> Vec<u8> {
        let model = Value::from(called);
        format!(r#"{{"embeddings":[],"model":{model},"dimensions":0}}"#).into_bytes()
    }
}

/// A number of things, however it is written.
fn whole(value: &Value) -> Option<u64> {
    /// Up to which each whole number can be written as an `f64`.
    const MOST: f64 = 9_007_199_254_740_992.0;
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is whole, and within bounds"
        )]
        let count = number as u64;
        (number.fract() == 0.0 && (0.0..MOST).contains(&number)).then_some(count)
    })
}

/// The answer of `/embed` with these embeddings, as the host wrote them.
fn written(rows: &[&str], expected: Expected<'_>) -> Result<Vec<u8>, Wrong> {
    let mut body = br#"{"embeddings":["#.to_vec();
    let mut dimensions = None;
    for (at, row) in rows.iter().enumerate() {
        let (row, length) = embedding(row, expected.normalize)?;
        if length == 0 {
            return Err(Wrong::Empty);
        }
        if dimensions.is_some_and(|dimensions| dimensions != length) {
            return Err(Wrong::Uneven);
        }
        dimensions = Some(length);
        if at > 0 {
            body.push(b',');
        }
        body.extend(row.as_bytes());
    }
    let found = dimensions.unwrap_or_default();
    if expected.dimensions.is_some_and(|wanted| wanted != found) {
        return Err(Wrong::Dimensions { found });
    }
    let model = Value::from(expected.called);
    body.extend(format!(r#"],"model":{model},"dimensions":{found}}}"#).into_bytes());
    Ok(body)
}

/// An embedding as a list of numbers, and how many they are. `row`: JSON.
fn embedding(row: &str, normalize: bool) -> Result<(Cow<'_, str>, usize), Wrong> {
    let is_list = row.starts_with('[');
    let floats = if is_list { listed(row) } else { decoded(row) }?;
    if !floats.iter().all(|number| number.is_finite()) {
        return Err(Wrong::NotFinite);
    }
    let length = floats.len();
    if is_list && !normalize {
        return Ok((row.into(), length));
    }
    let scale = if normalize { scale(&floats) } else { 1.0 };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rounded to the nearest f32, as hosts compute them"
    )]
    let scaled = |number: &f32| f64::from((f64::from(*number) * scale) as f32);
    let scaled: Vec<f64> = floats.iter().map(scaled).collect();
    let text = serde_json::to_string(&scaled).map_err(|_| Wrong::NotFinite)?;
    Ok((text.into(), length))
}

/// What makes the length of `floats` 1; a vector without a direction stays as it is.
fn scale(floats: &[f32]) -> f64 {
    let squares = floats.iter().map(|number| f64::from(*number).powi(2));
    let length = squares.sum::<f64>().sqrt();
    if length > 0.0 { length.recip() } else { 1.0 }
}

fn listed(row: &str) -> Result<Vec<f32>, Wrong> {
    let numbers = numbers(row).map_err(|_| Wrong::NotFinite)?;
    let parsed = numbers.map(|number| number.parse().map_err(|_| Wrong::NotFinite));
    parsed.collect()
}

/// From base64, in which some answer whatever they are asked for.
fn decoded(row: &str) -> Result<Vec<f32>, Wrong> {
    let text: Cow<'_, str> = serde_json::from_str(row).map_err(|_| Wrong::NotNumbers)?;
    let bytes = STANDARD.decode(text.as_bytes());
    let bytes = bytes.map_err(|_| Wrong::NotBase64)?;
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Wrong::NotBase64);
    }
    Ok(floats.iter().copied().map(f32::from_le_bytes).collect())
}

/// The hub's name of a model has an owner before it, which may be left out where everybody knows it.
pub fn is_same_model(wanted: &str, told: &str) -> bool {
    let is_end_of = |name: &str, whole: &str| {
        let owner = whole.strip_suffix(name);
        owner.is_some_and(|owner| owner.is_empty() || owner.ends_with('/'))
    };
    is_end_of(wanted, told) || is_end_of(told, wanted)
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests;
