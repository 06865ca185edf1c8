//! Embeddings in OpenAI's dialect, from numbers or from a host's answer to `/embed`.
//!
//! Numbers that a host wrote are passed on character by character where a list is wanted, and read as
//! the nearest `f32` where base64 is.

use std::fmt;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;
use thiserror::Error;

use super::request::{Encoding, Form};
use crate::without_mark;

/// Writes an answer, embedding by embedding.
#[derive(Debug)]
pub struct Writer {
    encoding: Encoding,
    written: Vec<u8>,
    rows: usize,
    /// Bytes of the numbers of one row.
    bytes: Vec<u8>,
}

/// Why a host's answer can't be said in this dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unusable {
    /// It is not what `/embed` answers to that request.
    #[error("the host's answer is not what /embed answers to such a request")]
    Unreadable,
    /// The host has not cut embeddings as it was asked to.
    #[error(
        "embeddings of this model have {found} dimensions; the host that served it does not know \
         how to shorten them, so ask without dimensions"
    )]
    Dimensions {
        /// Numbers of an embedding.
        found: usize,
    },
}

impl Writer {
    /// An answer without embeddings yet.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            written: br#"{"object":"list","data":["#.to_vec(),
            rows: 0,
            bytes: Vec::new(),
        }
    }

    /// Adds an embedding.
    pub fn numbers(&mut self, row: &[f32]) {
        self.begin();
        match self.encoding {
            Encoding::Float => {
                let widened: Vec<f64> = row.iter().copied().map(f64::from).collect();
                // Numbers in memory always serialise.
                let _ = serde_json::to_writer(&mut self.written, &widened);
            }
            Encoding::Base64 => {
                self.bytes
                    .extend(row.iter().flat_map(|number| number.to_le_bytes()));
                self.base64();
            }
        }
        self.written.push(b'}');
    }

    /// Adds an embedding as a host wrote it.
    fn json(&mut self, row: &str, dimensions: Option<usize>) -> Result<(), Unusable> {
        let numbers = numbers(row)?;
        if let Some(wanted) = dimensions {
            let found = numbers.clone().count();
            if found != wanted {
                return Err(Unusable::Dimensions { found });
            }
        }
        self.begin();
        match self.encoding {
            Encoding::Float => self.written.extend(row.as_bytes()),
            Encoding::Base64 => {
                for number in numbers {
                    self.bytes.extend(nearest(number)?.to_le_bytes());
                }
                self.base64();
            }
        }
        self.written.push(b'}');
        Ok(())
    }

    /// The whole answer. `model`: as served; `tokens`: that it read, 0 if nobody counted them.
    pub fn finish(mut self, model: &str, tokens: u64) -> Vec<u8> {
        let model = serde_json::Value::from(model);
        // Writing to memory does not fail.
        let _ = write!(
            self.written,
            r#"],"model":{model},"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}}}"#
        );
        self.written
    }

    fn begin(&mut self) {
        let comma = if self.rows == 0 { "" } else { "," };
        let index = self.rows;
        let _ = write!(
            self.written,
            r#"{comma}{{"object":"embedding","index":{index},"embedding":"#
        );
        self.rows += 1;
        self.bytes.clear();
    }

    fn base64(&mut self) {
        let encoded = STANDARD.encode(&self.bytes);
        self.written.push(b'"');
        self.written.extend(encoded.as_bytes());
        self.written.push(b'"');
    }
}

/// A host's `answer` to `/embed` in the `form` that was asked for. `tokens`: as the host counted them.
///
/// # Errors
/// [`Unusable`].
pub fn translate(answer: &[u8], form: Form, tokens: u64) -> Result<Vec<u8>, Unusable> {
    let mut fault = None;
    let reader = Answer {
        form,
        writer: Writer::new(form.encoding),
        fault: &mut fault,
    };
    let mut json = serde_json::Deserializer::from_slice(without_mark(answer));
    let read = reader.deserialize(&mut json);
    let whole = read.and_then(|read| json.end().map(|()| read));
    let (writer, model) = whole.map_err(|_| fault.unwrap_or(Unusable::Unreadable))?;
    if writer.rows != form.texts {
        return Err(Unusable::Unreadable);
    }
    Ok(writer.finish(&model, tokens))
}

/// The numbers of a row, which is JSON; `null` where there is none.
pub(super) fn numbers(row: &str) -> Result<impl Iterator<Item = &str> + Clone, Unusable> {
    let inner = row.strip_prefix('[').and_then(|row| row.strip_suffix(']'));
    // In JSON nothing but numbers and null is written with these alone.
    let is_of_numbers = |byte: &u8| b"0123456789+-.eE, \t\r\nnul".contains(byte);
    let inner = inner.filter(|inner| inner.as_bytes().iter().all(is_of_numbers));
    let inner = inner.ok_or(Unusable::Unreadable)?.trim();
    let numbers = inner.split(',').map(str::trim);
    Ok(numbers.filter(|number| !number.is_empty()))
}

/// `f32::from_str` rounds once, and to the nearest.
fn nearest(number: &str) -> Result<f32, Unusable> {
    if number == "null" {
        return Ok(f32::NAN);
    }
    number.parse().map_err(|_| Unusable::Unreadable)
}

/// Reads an answer of `/embed` and writes its rows at once, so that no more is kept than is wanted.
struct Answer<'f> {
    form: Form,
    writer: Writer,
    fault: &'f mut Option<Unusable>,
}

impl<'de> DeserializeSeed<'de> for Answer<'_> {
    type Value = (Writer, String);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Answer<'_> {
    type Value = (Writer, String);

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an answer of /embed")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut model = String::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "embeddings" => map.next_value_seed(Rows(&mut self))?,
                "model" => model = map.next_value::<Option<String>>()?.unwrap_or_default(),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok((self.writer, model))
    }
}

struct Rows<'r, 'f>(&'r mut Answer<'f>);

impl<'de> DeserializeSeed<'de> for Rows<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("embeddings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        let Answer {
            form,
            writer,
            fault,
        } = self.0;
        let dimensions = form
            .dimensions
            .and_then(|it| usize::try_from(it.get()).ok());
        while let Some(row) = rows.next_element::<&RawValue>()? {
            if writer.rows == form.texts {
                return Err(A::Error::custom("more than were asked for"));
            }
            if let Err(unusable) = writer.json(row.get(), dimensions) {
                **fault = Some(unusable);
                return Err(A::Error::custom(unusable));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn form(encoding: Encoding, texts: usize) -> Form {
        Form {
            encoding,
            dimensions: None,
            texts,
        }
    }

    fn floats(base64: &Value) -> Vec<f32> {
        let bytes = STANDARD.decode(base64.as_str().unwrap()).unwrap();
        let (numbers, rest) = bytes.as_chunks::<4>();
        assert!(rest.is_empty());
        numbers.iter().copied().map(f32::from_le_bytes).collect()
    }

    #[test]
    fn a_list_holds_the_characters_of_the_host() {
        let answer = br#" {"dimensions":3, "embeddings":[[0.10000000149011612, -1E-3,null],[ 1.50 ]],"model":"m\"x"} "#;
        let told = translate(answer, form(Encoding::Float, 2), 7).unwrap();
        let expected = concat!(
            r#"{"object":"list","data":["#,
            r#"{"object":"embedding","index":0,"embedding":[0.10000000149011612, -1E-3,null]},"#,
            r#"{"object":"embedding","index":1,"embedding":[ 1.50 ]}],"#,
            r#""model":"m\"x","usage":{"prompt_tokens":7,"total_tokens":7}}"#
        );
        assert_eq!(String::from_utf8(told).unwrap(), expected);
    }

    #[test]
    fn base64_holds_the_nearest_numbers() {
        // The second lies just above the middle between two f32, and in the middle as an f64.
        let answer = br#"{"embeddings":[[0.1 , 1.00000005960464477540, -0.0, null, 3e38]]}"#;
        let told = translate(answer, form(Encoding::Base64, 1), 0).unwrap();
        let told: Value = serde_json::from_slice(&told).unwrap();
        let numbers = floats(&told["data"][0]["embedding"]);
        let expected = [0.1, 1.000_000_1, -0.0, f32::NAN, 3e38];
        for (found, expected) in numbers.iter().zip(expected) {
            assert_eq!(found.to_bits(), f32::to_bits(expected), "{expected}");
        }
        assert_eq!(numbers.len(), expected.len());
    }

    #[test]
    fn numbers_in_memory_are_told_in_the_same_way() {
        for encoding in [Encoding::Float, Encoding::Base64] {
            let mut writer = Writer::new(encoding);
            writer.numbers(&[0.1, f32::NAN]);
            writer.numbers(&[]);
            let answer = br#"{"embeddings":[[0.10000000149011612,null],[]],"model":"m"}"#;
            let told = translate(answer, form(encoding, 2), 3).unwrap();
            assert_eq!(writer.finish("m", 3), told, "{encoding:?}");
        }
    }

    /// Whatever passes as an answer of `/embed` must be told: nobody else is asked for it any more.
    #[test]
    fn what_some_hosts_write_is_understood() {
        let plain = r#"{"embeddings":[[1]],"model":""}"#;
        for encoding in [Encoding::Float, Encoding::Base64] {
            let told = |answer: &str| translate(answer.as_bytes(), form(encoding, 1), 0).unwrap();
            for same in [
                "\u{feff}{\"embeddings\":[[1]],\"model\":\"\"}",
                r#"{"model":null,"embeddings":[[1]]}"#,
                r#"{"embeddings":[[1]]}"#,
            ] {
                assert_eq!(told(same), told(plain), "{same}");
            }
        }
    }

    #[test]
    fn what_is_no_such_answer_is_not_passed_on() {
        let table = [
            r#"{"embeddings":[[1]]"#,
            r#"{"embeddings":[[1]]} x"#,
            r#"{"embeddings":[[1],[2]]}"#,
            r#"{"embeddings":[]}"#,
            r#"{"embeddings":[1]}"#,
            r#"{"embeddings":{}}"#,
            r#"{"embeddings":[[[1]]]}"#,
            r#"{"embeddings":[["1"]]}"#,
            r#"{"embeddings":[[true]]}"#,
            r#"{"detail":"no"}"#,
            "[[1]]",
            "",
        ];
        for encoding in [Encoding::Float, Encoding::Base64] {
            for answer in table {
                let told = translate(answer.as_bytes(), form(encoding, 1), 0);
                assert_eq!(told, Err(Unusable::Unreadable), "{answer}");
            }
        }
    }

    #[test]
    fn embeddings_of_another_length_than_was_asked_for_are_refused() {
        for encoding in [Encoding::Float, Encoding::Base64] {
            let told = |answer: &str| {
                let dimensions = NonZeroU32::new(2);
                let form = Form {
                    dimensions,
                    ..form(encoding, 1)
                };
                translate(answer.as_bytes(), form, 0)
            };
            assert!(told(r#"{"embeddings":[[0.5, 1]]}"#).is_ok());
            let found = told(r#"{"embeddings":[[0.5, 1, 2]]}"#);
            assert_eq!(found, Err(Unusable::Dimensions { found: 3 }));
        }
    }

    proptest! {
        /// As a host writes an `f32`: widened, then in the shortest form that reads back as that.
        #[test]
        fn each_number_comes_back_bit_by_bit(rows in prop::collection::vec(
            prop::collection::vec(any::<f32>().prop_filter("finite", |it| it.is_finite()), 0..5),
            1..4,
        )) {
            let widened: Vec<Vec<f64>> =
                rows.iter().map(|row| row.iter().copied().map(f64::from).collect()).collect();
            let answer = serde_json::json!({"embeddings": widened, "model": "m"}).to_string();
            let told = translate(answer.as_bytes(), form(Encoding::Base64, rows.len()), 0).unwrap();
            let told: Value = serde_json::from_slice(&told).unwrap();
            for (number, row) in rows.iter().enumerate() {
                let found = floats(&told["data"][number]["embedding"]);
                let bits = |row: &[f32]| row.iter().copied().map(f32::to_bits).collect::<Vec<_>>();
                prop_assert_eq!(bits(&found), bits(row));
            }
        }
    }
}
