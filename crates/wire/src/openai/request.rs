//! From a request for embeddings in OpenAI's dialect to the body of `/embed`.
//!
//! Texts are not copied one by one, nor unescaped: the list that the client wrote is the list that a
//! host reads. They are only looked at, since a host would not know what a token is.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::text::Text;

/// A valid request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What a host is asked: the body of `/embed`.
    pub body: Vec<u8>,
    /// How its answer is wanted.
    pub form: Form,
}

/// How an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// How numbers are written.
    pub encoding: Encoding,
    /// Numbers of each embedding, if that was asked for.
    pub dimensions: Option<NonZeroU32>,
    /// Texts, and so embeddings.
    pub texts: usize,
}

/// How the numbers of an embedding are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As a list.
    #[default]
    Float,
    /// As the bytes of `f32`s, the lowest first, in base64. What the Python SDK asks for by default.
    Base64,
}

/// Why a request is none, status 400.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Refusal {
    /// What is wrong and what to do, without anything of the client's texts.
    pub message: String,
    /// The parameter that it is about.
    pub param: Option<&'static str>,
}

const INPUT: &str = "input";
/// Fields that say nothing of the embeddings that are wanted.
const WITHOUT_EFFECT: [&str; 5] = [
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
];
/// Bytes of a field's name that are repeated to the client.
const SHOWN: usize = 40;

impl Request {
    /// Reads a body of `POST /v1/embeddings`.
    ///
    /// # Errors
    /// [`Refusal`]; limits of size are for hosts to know.
    pub fn read(body: &[u8]) -> Result<Self, Refusal> {
        let fields: Fields<'_> =
            serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
        if let Some(name) = fields.unknown {
            let message = format!(
                "Unrecognized request argument supplied: {name}; it would change nothing here"
            );
            return Err(Refusal {
                message,
                param: None,
            });
        }
        let model = model(fields.model)?;
        let encoding = encoding(fields.encoding_format)?;
        let dimensions = dimensions(fields.dimensions)?;
        let (list, texts) = texts(fields.input)?;
        let cut = dimensions.map(|length| format!("\"dimensions\":{length},"));
        let cut = cut.unwrap_or_default();
        Ok(Self {
            body: format!("{{\"model\":{model},{cut}\"texts\":{list}}}").into_bytes(),
            form: Form {
                encoding,
                dimensions,
                texts,
            },
        })
    }
}

impl Refusal {
    fn of(param: &'static str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: Some(param),
        }
    }
}

/// Of an error of the type the words would hold a piece of the body.
fn unreadable(error: &serde_json::Error) -> Refusal {
    let message = if error.is_data() {
        "the body must be a JSON object".to_owned()
    } else {
        format!("could not parse the JSON body of the request: {error}")
    };
    Refusal {
        message,
        param: None,
    }
}

fn model(value: Option<&RawValue>) -> Result<&str, Refusal> {
    let value = value.ok_or_else(|| Refusal::of("model", "you must provide a model parameter"))?;
    let name: Result<String, _> = serde_json::from_str(value.get());
    match name {
        Ok(name) if !name.is_empty() => Ok(value.get()),
        _ => Err(Refusal::of("model", "model must be the name of a model")),
    }
}

fn encoding(value: Option<&RawValue>) -> Result<Encoding, Refusal> {
    match value.map(RawValue::get) {
        None => Ok(Encoding::default()),
        Some("\"float\"") => Ok(Encoding::Float),
        Some("\"base64\"") => Ok(Encoding::Base64),
        Some(_) => Err(Refusal::of(
            "encoding_format",
            "encoding_format must be \"float\" or \"base64\"",
        )),
    }
}

fn dimensions(value: Option<&RawValue>) -> Result<Option<NonZeroU32>, Refusal> {
    let length = value.map(|value| serde_json::from_str(value.get()));
    length
        .transpose()
        .map_err(|_| Refusal::of("dimensions", "dimensions must be a whole number above 0"))
}

/// The list of texts as JSON, and how many there are.
fn texts(input: Option<&RawValue>) -> Result<(Cow<'_, str>, usize), Refusal> {
    let input = input.ok_or_else(|| Refusal::of(INPUT, "you must provide an input parameter"))?;
    let json = input.get();
    match json.as_bytes().first() {
        Some(b'"') => {
            fault_of(json).map_or(Ok(()), |fault| Err(fault.at("input")))?;
            Ok((format!("[{json}]").into(), 1))
        }
        Some(b'[') => {
            let Checked(count, fault) =
                serde_json::from_str(json).map_err(|error| unreadable(&error))?;
            match fault {
                Some((at, fault)) => Err(fault.at(&format!("input[{at}]"))),
                None if count == 0 => Err(Refusal::of(INPUT, "input must hold at least one text")),
                None => Ok((json.into(), count)),
            }
        }
        _ => Err(Refusal::of(
            INPUT,
            "input must be a text or a list of texts",
        )),
    }
}

/// What is wrong with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ItemFault {
    Empty,
    Tokens,
    NoText,
    Unpaired,
}

impl ItemFault {
    fn at(self, place: &str) -> Refusal {
        let what = match self {
            Self::Empty => "is an empty text; leave it out",
            Self::Tokens => {
                "holds token ids, which mean nothing to another tokenizer than the one that made \
                 them; send texts (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
            }
            Self::NoText => "must be a text",
            Self::Unpaired => "holds an unpaired surrogate (\\ud800 to \\udfff), which is no text",
        };
        Refusal::of(INPUT, format!("{place} {what}"))
    }
}

/// `item`: a JSON value.
fn fault_of(item: &str) -> Option<ItemFault> {
    match item.as_bytes() {
        b"\"\"" => Some(ItemFault::Empty),
        [b'"', ..] => {
            let is_text = !item.contains('\\') || serde_json::from_str::<Text>(item).is_ok();
            (!is_text).then_some(ItemFault::Unpaired)
        }
        [b'-' | b'0'..=b'9', ..] => Some(ItemFault::Tokens),
        [b'[', rest @ ..] => {
            let first = rest.trim_ascii_start().first();
            let is_number = first.is_some_and(|first| matches!(first, b'-' | b'0'..=b'9'));
            Some(if is_number {
                ItemFault::Tokens
            } else {
                ItemFault::NoText
            })
        }
        _ => Some(ItemFault::NoText),
    }
}

/// The fields as they stand in the body; the last of duplicates counts, and `null` is the same as none.
#[derive(Default)]
struct Fields<'a> {
    model: Option<&'a RawValue>,
    input: Option<&'a RawValue>,
    encoding_format: Option<&'a RawValue>,
    dimensions: Option<&'a RawValue>,
    /// A field that may be meant to change embeddings.
    unknown: Option<String>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    let value: &RawValue = map.next_value()?;
                    fields.set(&name, Some(value).filter(|value| value.get() != "null"));
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Read)
    }
}

impl<'de> Fields<'de> {
    fn set(&mut self, name: &str, value: Option<&'de RawValue>) {
        match name {
            "model" => self.model = value,
            INPUT => self.input = value,
            "encoding_format" => self.encoding_format = value,
            "dimensions" => self.dimensions = value,
            _ if value.is_none() || WITHOUT_EFFECT.contains(&name) => {}
            _ => {
                let shown = &name[..name.floor_char_boundary(SHOWN)];
                self.unknown
                    .get_or_insert_with(|| shown.escape_debug().to_string());
            }
        }
    }
}

/// A list of which nothing is kept: its length, and the first item that is no text.
struct Checked(usize, Option<(usize, ItemFault)>);

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Check;

        impl<'de> Visitor<'de> for Check {
            type Value = Checked;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Checked, A::Error> {
                let mut count = 0;
                while let Some(item) = items.next_element::<&RawValue>()? {
                    if let Some(fault) = fault_of(item.get()) {
                        while items.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(Checked(count, Some((count, fault))));
                    }
                    count += 1;
                }
                Ok(Checked(count, None))
            }
        }

        deserializer.deserialize_seq(Check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Request {
        Request::read(body.as_bytes()).unwrap_or_else(|refusal| panic!("{body}: {refusal}"))
    }

    fn refused(body: &str) -> (Option<&'static str>, String) {
        let refusal = Request::read(body.as_bytes()).expect_err(body);
        (refusal.param, refusal.message)
    }

    #[test]
    fn texts_go_on_as_they_are_written() {
        let table = [
            (
                r#"{"model":"m","input":"a \u00e9"}"#,
                r#"{"model":"m","texts":["a \u00e9"]}"#,
                1,
            ),
            (
                r#" { "input" : [ "a" , "\"]\ud83d\ude80" ], "model" : "org/m", "user":"u" } "#,
                r#"{"model":"org/m","texts":[ "a" , "\"]\ud83d\ude80" ]}"#,
                2,
            ),
            (
                r#"{"input":1,"model":"a","input":["x"," "],"model":"b","dimensions":null,"x":null}"#,
                r#"{"model":"b","texts":["x"," "]}"#,
                2,
            ),
            (
                r#"{"model":"m","input":["a"],"dimensions":64}"#,
                r#"{"model":"m","dimensions":64,"texts":["a"]}"#,
                1,
            ),
        ];
        for (body, expected, texts) in table {
            let request = read(body);
            assert_eq!(String::from_utf8_lossy(&request.body), expected);
            assert_eq!(request.form.texts, texts, "{body}");
        }
    }

    #[test]
    fn numbers_are_wanted_as_a_list_unless_said_otherwise() {
        let table = [
            ("", Encoding::Float),
            (r#","encoding_format":null"#, Encoding::Float),
            (r#","encoding_format":"float""#, Encoding::Float),
            (r#","encoding_format":"base64""#, Encoding::Base64),
        ];
        for (field, expected) in table {
            let request = read(&format!(r#"{{"model":"m","input":"a"{field}}}"#));
            assert_eq!(request.form.encoding, expected, "{field}");
        }
    }

    #[test]
    fn what_cannot_be_obeyed_is_refused_by_name() {
        let with = |field: &str| format!(r#"{{"model":"m","input":"a",{field}}}"#);
        let of = |input: &str| format!(r#"{{"model":"m","input":{input}}}"#);
        let table = [
            (
                r#"{"input":"a"}"#.to_owned(),
                Some("model"),
                "must provide a model",
            ),
            (
                r#"{"model":"","input":"a"}"#.to_owned(),
                Some("model"),
                "the name of a model",
            ),
            (
                r#"{"model":3,"input":"a"}"#.to_owned(),
                Some("model"),
                "the name of a model",
            ),
            (
                r#"{"model":"m"}"#.to_owned(),
                Some("input"),
                "must provide an input",
            ),
            (of("\"\""), Some("input"), "input is an empty text"),
            (of("[]"), Some("input"), "at least one text"),
            (
                of("[\"a\",\"\"]"),
                Some("input"),
                "input[1] is an empty text",
            ),
            (
                of("[\"a\",null,7]"),
                Some("input"),
                "input[1] must be a text",
            ),
            (of("{\"a\":1}"), Some("input"), "a text or a list of texts"),
            (of("7"), Some("input"), "a text or a list of texts"),
            (
                of("[1, 2]"),
                Some("input"),
                "check_embedding_ctx_length=False",
            ),
            (of("[[\"a\"]]"), Some("input"), "input[0] must be a text"),
            (
                of("[[1, 2], [3]]"),
                Some("input"),
                "check_embedding_ctx_length=False",
            ),
            (
                of("[\"a\", \"\\ud800\"]"),
                Some("input"),
                "input[1] holds an unpaired",
            ),
            (
                with(r#""encoding_format":"bytes""#),
                Some("encoding_format"),
                "\"base64\"",
            ),
            (with(r#""dimensions":0"#), Some("dimensions"), "above 0"),
            (with(r#""dimensions":"64""#), Some("dimensions"), "above 0"),
            (with(r#""dimensions":1.5"#), Some("dimensions"), "above 0"),
            (
                with(r#""input_type":"query""#),
                None,
                "argument supplied: input_type;",
            ),
            (
                with(r#""normalize":false"#),
                None,
                "argument supplied: normalize;",
            ),
            (r#"["a"]"#.to_owned(), None, "must be a JSON object"),
            (r#"{"model":"m","#.to_owned(), None, "line 1 column 13"),
            (String::new(), None, "could not parse"),
        ];
        for (body, param, expected) in table {
            let (found, message) = refused(&body);
            assert_eq!(found, param, "{body}");
            assert!(message.contains(expected), "{body}: {message}");
        }
    }

    #[test]
    fn a_refusal_repeats_no_text() {
        for body in [r#""a secret""#, r#"{"model":"m","input":["a secret",1]}"#] {
            assert!(!refused(body).1.contains("secret"), "{body}");
        }
        let (_, message) = refused(&format!(r#"{{"{}\n":1}}"#, "é".repeat(5000)));
        assert!(message.len() < 200, "{message}");
    }
}
