//! Is this text JSON, and if not, where and why not, in the words of Python's `json` module.
//!
//! [`check`] reads a whole document and keeps nothing of it: no input makes it allocate more than
//! one string of the input, and nesting is bounded. What it accepts, later and more selective
//! readers need not check again. It is stricter than Python in three points, on purpose: unpaired
//! surrogates (`"\ud800"`, which are no text), the literals `NaN` and `Infinity` and numbers beyond
//! an `f64` (which are no JSON values) are refused wherever they stand.
//!
//! The reason is translated from `serde_json`'s message, which is the only place where it says what
//! went wrong; a test pins every message used. The position is exact but for malformed numbers and
//! cut-off `\u` escapes, where it may be a few characters off.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Why a text is no JSON document that we read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotJson {
    /// Nested deeper than 127 levels.
    TooDeep,
    /// Malformed.
    Malformed {
        reason: Cow<'static, str>,
        /// Where, in code points from the start.
        position: usize,
    },
}

/// Reads the whole of `text` and says whether it is one JSON document.
pub(super) fn check(text: &str) -> Result<(), NotJson> {
    serde_json::from_str::<WellFormed>(text)
        .map(|_| ())
        .map_err(|error| explain(&error, text))
}

fn explain(error: &serde_json::Error, text: &str) -> NotJson {
    let message = error.to_string();
    let message = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(what, _)| what);
    if message == "recursion limit exceeded" {
        return NotJson::TooDeep;
    }
    let offending = offset(error, text).saturating_sub(1);
    let (reason, byte) = translate(message, text, offending);
    NotJson::Malformed {
        reason,
        position: text.get(..byte).unwrap_or(text).chars().count(),
    }
}

/// How many bytes had been read when the error was noticed; the last one is the culprit unless the
/// text ended too early.
fn offset(error: &serde_json::Error, text: &str) -> usize {
    let breaks_before = error.line().saturating_sub(1);
    let line_start = match breaks_before {
        0 => 0,
        n => text
            .match_indices('\n')
            .nth(n - 1)
            .map_or(text.len(), |(at, _)| at + 1),
    };
    line_start + error.column()
}

/// Python's reason and byte offset for `serde_json`'s `message` about the byte at `offending`.
fn translate(message: &str, text: &str, offending: usize) -> (Cow<'static, str>, usize) {
    let read = text.get(..=offending).unwrap_or(text);
    let (reason, byte) = match message {
        "EOF while parsing a string" => ("Unterminated string starting at", last_string(text)),
        "EOF while parsing a value" => ("Expecting value", text.len()),
        "EOF while parsing a list" | "EOF while parsing an object" => (COMMA, text.len()),
        "expected `:`" => ("Expecting ':' delimiter", offending),
        "expected `,` or `]`" | "expected `,` or `}`" => (COMMA, offending),
        "key must be a string" => (KEY, offending),
        "trailing comma" if read.ends_with('}') => (KEY, offending),
        "trailing comma" | "expected value" => ("Expecting value", offending),
        "expected ident" => ("Expecting value", word(read)),
        "trailing characters" => ("Extra data", offending),
        "control character (\\u0000-\\u001F) found while parsing a string" => {
            ("Invalid control character at", offending)
        }
        "invalid escape" => ("Invalid \\escape", escape(read)),
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            ("Unpaired surrogate in \\uXXXX escape", escape(read))
        }
        other => return (other.to_owned().into(), offending),
    };
    (reason.into(), byte)
}

const COMMA: &str = "Expecting ',' delimiter";
const KEY: &str = "Expecting property name enclosed in double quotes";

/// Start of the string that `text` ends within.
fn last_string(text: &str) -> usize {
    let mut start = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' if start.is_some() => start = None,
            b'"' => start = Some(at),
            // Whatever is escaped, it does not end the string.
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    start.unwrap_or(text.len())
}

/// Start of the escape that `read` ends within.
fn escape(read: &str) -> usize {
    read.rfind('\\').unwrap_or(read.len())
}

/// Start of the word (as in `tru` for `true`) that `read` ends within or just behind.
fn word(read: &str) -> usize {
    let read = read
        .char_indices()
        .next_back()
        .map_or(read, |(last, _)| &read[..last]);
    read.len()
        - read
            .bytes()
            .rev()
            .take_while(u8::is_ascii_alphabetic)
            .count()
}

/// Any JSON value: everything is read and checked, nothing is kept.
struct WellFormed;

impl<'de> Deserialize<'de> for WellFormed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for WellFormed {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn malformed(reason: &'static str, position: usize) -> Result<(), NotJson> {
        Err(NotJson::Malformed {
            reason: reason.into(),
            position,
        })
    }

    #[test]
    fn json_is_json() {
        for text in [
            "3",
            " null ",
            r#"{"a":[1,-2.5e3,true,"é\ud83d\ude80\n",{"a":{}}],"a":[]}"#,
            "123456789012345678901234567890",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    /// Reasons and positions as Python 3.11's `json` gives them.
    #[test]
    fn faults_are_told_in_python_s_words() {
        let value = "Expecting value";
        let table = [
            (r#"{"texts":["a"}"#, COMMA, 13),
            (r#"{"texts":["a",]}"#, value, 14),
            (r#"{"a":1,}"#, KEY, 7),
            (r"{'texts':['a']}", KEY, 1),
            (r#"{"texts":["a"#, "Unterminated string starting at", 10),
            (r#"{"a\"b":"c\"#, "Unterminated string starting at", 8),
            ("{\"texts\":[\"a\nb\"]}", "Invalid control character at", 12),
            ("{\"texts\":[\"a\tb\"]}", "Invalid control character at", 12),
            (r#"{"texts":["\x"]}"#, "Invalid \\escape", 11),
            (r#"{"texts" ["a"]}"#, "Expecting ':' delimiter", 9),
            (r#"{"texts":["a"] "model":"b"}"#, COMMA, 15),
            (r#"{"é🚀":[NaN]}"#, value, 7),
            (r#"{"x":-Infinity}"#, "invalid number", 6),
            ("{\n\"a\": tru\n}", value, 7),
            ("{} x", "Extra data", 3),
            ("{}{", "Extra data", 2),
            ("[1\n2]", COMMA, 3),
            ("   ", value, 3),
            ("[", COMMA, 1),
            ("[1, ", value, 4),
            ("hello", value, 0),
        ];
        for (text, reason, position) in table {
            assert_eq!(check(text), malformed(reason, position), "{text}");
        }
    }

    #[test]
    fn unpaired_surrogates_are_no_text_wherever_they_stand() {
        let reason = "Unpaired surrogate in \\uXXXX escape";
        let table = [
            (r#"{"texts":["\ud800"]}"#, 11),
            (r#"{"texts":["\udc00"]}"#, 11),
            (r#"{"texts":["a\ud800b"]}"#, 12),
            (r#"{"texts":3,"x":"\ud800"}"#, 16),
            (r#"{"\ud800":1}"#, 2),
        ];
        for (text, position) in table {
            assert_eq!(check(text), malformed(reason, position), "{text}");
        }
    }

    #[test]
    fn absurd_nesting_is_refused_at_any_depth() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(&nested(127)), Ok(()));
        for depth in [128, 2_000, 200_000] {
            assert_eq!(check(&nested(depth)), Err(NotJson::TooDeep), "{depth}");
        }
        assert_eq!(check(&"{\"a\":".repeat(200_000)), Err(NotJson::TooDeep));
    }
}
