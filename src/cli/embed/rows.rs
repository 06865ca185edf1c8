//! Rows: a JSON object, or just a text, on each line of the input; what is written for each. Pure.
//!
//! Neither texts nor numbers are read and printed again: their own characters go through.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use gpu_bridge_upkeep::printable;
use gpu_bridge_wire::without_mark;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::embedding::Space;

/// A row of the input.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Counted from 1, blank lines too.
    pub(super) line: u64,
    /// What its `id` is, if it has one.
    pub(super) id: Option<Box<RawValue>>,
    /// A JSON string.
    pub(super) text: Box<RawValue>,
}

/// What is written for a row. The order is that of the file.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Written<'a> {
    /// Of the input.
    pub(super) line: u64,
    /// As the input has it.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a RawValue>,
    /// Tells whether the input is still the one that this was written for.
    pub(super) text_sha256: String,
    /// How the vector came to be; `None`: there is none.
    #[serde(flatten)]
    pub(super) origin: Option<Origin>,
    /// The vector.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) embedding: Option<&'a RawValue>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// Vectors of different origins can't be compared with each other.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Origin {
    /// The model that the host names.
    pub(super) model: String,
    /// Numbers in each vector.
    pub(super) dimensions: u64,
    /// What `X-Embedding-Space` says, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) space: Option<String>,
}

/// Why a line is no row. What it holds is not told.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRow {
    #[error("it is not JSON (column {0}); each line must be an object or a text")]
    NotJson(usize),
    #[error("it has no field '{0}' that is a text; --field names the one with the text")]
    NoText(String),
}

impl Row {
    /// From line number `line`; `None`: it is blank.
    pub(super) fn read(line: u64, json: &[u8], field: &str) -> Result<Option<Self>, BadRow> {
        let json = without_mark(json);
        if json.trim_ascii().is_empty() {
            return Ok(None);
        }
        let whole: &RawValue =
            serde_json::from_slice(json).map_err(|error| BadRow::NotJson(error.column()))?;
        if is_text(whole) {
            let text = whole.to_owned();
            let id = None;
            return Ok(Some(Self { line, id, text }));
        }
        let no_text = || BadRow::NoText(field.to_owned());
        let mut fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(whole.get()).map_err(|_| no_text())?;
        let text = fields.remove(field).filter(|text| is_text(text));
        let text = text.ok_or_else(no_text)?.to_owned();
        let id = fields.remove("id").map(ToOwned::to_owned);
        Ok(Some(Self { line, id, text }))
    }

    /// Is it the one that this was written for?
    pub(super) fn is_of(&self, written: &Written<'_>) -> bool {
        let (ours, theirs) = (named(self.id.as_deref()), named(written.id));
        self.line == written.line && ours == theirs && self.digest() == written.text_sha256
    }

    /// Can what follows the last whole line of an output, which has none before, be what was begun for this row?
    pub(super) fn has_begun(&self, rest: &[u8]) -> bool {
        let whole = serde_json::to_string(&self.failed(None)).unwrap_or_default();
        let begin = whole.trim_end_matches('}').as_bytes();
        rest.starts_with(begin) || begin.starts_with(rest)
    }

    /// Of its text.
    pub(super) fn digest(&self) -> String {
        let digest = Sha256::digest(self.text.get());
        digest.iter().take(8).fold(String::new(), |mut hex, byte| {
            // Writing to a string fails never.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// With its vector.
    pub(super) fn embedded<'a>(&'a self, origin: &Origin, vector: &'a RawValue) -> Written<'a> {
        Written {
            origin: Some(origin.clone()),
            embedding: Some(vector),
            ..self.failed(None)
        }
    }

    /// Without one, and why.
    pub(super) fn failed(&self, error: Option<String>) -> Written<'_> {
        Written {
            line: self.line,
            id: self.id.as_deref(),
            text_sha256: self.digest(),
            origin: None,
            embedding: None,
            error,
        }
    }
}

impl Written<'_> {
    /// Does it hold what is written for a row: as many numbers as it says, or why there are none?
    pub(super) fn is_whole(&self) -> bool {
        match (&self.origin, self.embedding, &self.error) {
            (Some(origin), Some(vector), None) => {
                let numbers = vector.get().split(',').count() as u64;
                vector.get().starts_with('[') && numbers == origin.dimensions
            }
            (None, None, Some(_)) => true,
            _ => false,
        }
    }
}

impl Origin {
    /// Is it, for all that is known, the same space? One side may not know it, and another precision may differ in
    /// some bits, as for the proxy.
    pub(super) fn suits(&self, other: &Self) -> bool {
        let spaces = self.space.as_ref().zip(other.space.as_ref());
        self.model == other.model
            && self.dimensions == other.dimensions
            && spaces.is_none_or(|(one, another)| are_like(one, another))
    }
}

fn are_like(one: &str, another: &str) -> bool {
    let known = one.parse::<Space>().ok().zip(another.parse().ok());
    one == another || known.is_some_and(|(one, another)| one.is_like(another))
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} numbers", printable(&self.model), self.dimensions)?;
        match &self.space {
            Some(space) => write!(f, ", {}", printable(space)),
            None => Ok(()),
        }
    }
}

/// One that is null reads as none.
fn named(id: Option<&RawValue>) -> Option<&str> {
    id.map(RawValue::get).filter(|id| *id != "null")
}

fn is_text(json: &RawValue) -> bool {
    json.get().starts_with('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Option<Row>, BadRow> {
        Row::read(7, json.as_bytes(), "text")
    }

    #[test]
    fn a_row_is_an_object_or_a_text() {
        for (json, text, id) in [
            (r#""a\u00e9""#, r#""a\u00e9""#, None),
            ("\u{feff}\"a\"\r", "\"a\"", None),
            (
                r#" {"id": [1, "x"], "text": "a", "n": 1} "#,
                "\"a\"",
                Some(r#"[1, "x"]"#),
            ),
            (r#"{"text":""}"#, "\"\"", None),
        ] {
            let row = read(json).unwrap().unwrap();
            assert_eq!(row.line, 7);
            assert_eq!(row.text.get(), text);
            assert_eq!(row.id.as_deref().map(RawValue::get), id);
        }
        assert!(read(" \t\r").unwrap().is_none());
        assert_eq!(read("{").unwrap_err(), BadRow::NotJson(1));
        for json in ["[]", "1", "{}", r#"{"text":1}"#, r#"{"texts":"a"}"#] {
            assert_eq!(read(json).unwrap_err(), BadRow::NoText("text".to_owned()));
        }
    }

    #[test]
    fn what_is_written_can_be_read_and_has_its_own_characters() {
        let row = read(r#"{"id": 1.50, "text": "a"}"#).unwrap().unwrap();
        let vector: Box<RawValue> = serde_json::from_str("[1.0, -2e-3]").unwrap();
        let origin = Origin {
            model: "m".to_owned(),
            dimensions: 2,
            space: None,
        };
        let json = serde_json::to_string(&row.embedded(&origin, &vector)).unwrap();
        assert_eq!(
            json,
            r#"{"line":7,"id":1.50,"text_sha256":"ac8d8342bbb2362d","model":"m","dimensions":2,"embedding":[1.0, -2e-3]}"#
        );
        let written: Written<'_> = serde_json::from_str(&json).unwrap();
        assert_eq!(written.origin, Some(origin));
        let json = serde_json::to_string(&row.failed(Some("no".to_owned()))).unwrap();
        let written: Written<'_> = serde_json::from_str(&json).unwrap();
        assert_eq!((written.origin, written.line), (None, 7));
    }

    #[test]
    fn what_is_no_vector_and_no_error_was_not_written() {
        let vector = r#""model":"m","dimensions":2,"embedding":"#;
        for (rest, is_whole) in [
            (format!("{vector}[1,2]"), true),
            (r#""error":"no""#.to_owned(), true),
            (format!("{vector}[1]"), false),
            (format!("{vector}null"), false),
            (format!("{vector}\"1,2\""), false),
            (format!("{vector}[1,2],\"error\":\"no\""), false),
            (r#""embedding":[1,2]"#.to_owned(), false),
            (r#""n":1"#.to_owned(), false),
        ] {
            let line = format!(r#"{{"line":1,"text_sha256":"00",{rest}}}"#);
            let written: Written<'_> = serde_json::from_str(&line).unwrap();
            assert_eq!(written.is_whole(), is_whole, "{line}");
        }
    }

    #[test]
    fn a_line_that_was_begun_is_known_by_its_row() {
        let row = read(r#"{"id": 1, "text": "a"}"#).unwrap().unwrap();
        let line = r#"{"line":7,"id":1,"text_sha256":"ac8d8342bbb2362d","model":"m","dim"#;
        for length in 0..line.len() {
            assert!(row.has_begun(&line.as_bytes()[..length]), "{length}");
        }
        for other in ["{\"line\":8", "{\"line\":7,\"text\"", "my thesis", "\0\0"] {
            assert!(!row.has_begun(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn vectors_of_other_origins_do_not_suit() {
        let origin = |model: &str, dimensions, space: Option<&str>| Origin {
            model: model.to_owned(),
            dimensions,
            space: space.map(ToOwned::to_owned),
        };
        let sketch = |last: &str| format!("384-{}{last}", "0".repeat(30));
        let spaces = [sketch("00"), sketch("1f"), sketch("ff")];
        let of = |space: usize| origin("m", 384, Some(&spaces[space]));
        assert!(of(0).suits(&of(1)), "as with another precision");
        assert!(!of(0).suits(&of(2)));
        let first = origin("m", 384, Some("s"));
        for (other, suits) in [
            (origin("m", 384, Some("s")), true),
            (origin("m", 384, None), true),
            (origin("m", 384, Some("t")), false),
            (origin("m", 768, Some("s")), false),
            (origin("n", 384, None), false),
        ] {
            assert_eq!(first.suits(&other), suits, "{other:?}");
        }
    }
}
