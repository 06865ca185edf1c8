//! What the pool should know of a request: its model and how much it asks for.
//!
//! A body in one piece, as most are, is read through once without building anything but the model's
//! name. Of a larger one only the ends are looked at for the model, and how much it asks for is taken
//! from its size: reading all of it would cost more than passing it on. A body that is not what it
//! should be is no reason to refuse it here, since a host says better what is wrong.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::route::Route;
use crate::message::Payload;
use crate::pool::{Model, Work};

/// How much of either end of a large body is looked at.
const END: usize = 4 << 10;

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Peek {
    pub(super) model: Option<Model>,
    pub(super) work: Work,
}

/// Looks into the body of a request for `route`.
pub(super) fn peek(route: Route, body: &Payload) -> Peek {
    let content = match body.chunks() {
        [whole] => parse(whole),
        [first, .., last] => Content {
            model: model_in(ending(last)).or_else(|| model_in(beginning(first))),
            items: 0,
        },
        [] => Content::default(),
    };
    let Content { model, items } = content;
    // As hosts name what they have loaded.
    let model = model.and_then(|model| Model::new(&format!("{}:{model}", route.as_str())));
    Peek {
        model,
        work: Work {
            items,
            characters: body.len() as u64,
        },
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Content {
    /// `None` if it is absent or empty: the host's default.
    model: Option<String>,
    items: u32,
}

fn beginning(chunk: &[u8]) -> &[u8] {
    &chunk[..chunk.len().min(END)]
}

fn ending(chunk: &[u8]) -> &[u8] {
    &chunk[chunk.len().saturating_sub(END)..]
}

/// The model that a part of a body names. Quotes within a text are escaped, so that a key in plain
/// quotes with a colon after it is a key.
fn model_in(part: &[u8]) -> Option<String> {
    let name = |key: &str| {
        let at = memchr::memmem::rfind(part, key.as_bytes())?;
        if at > 0 && part[at - 1] == b'\\' {
            return None;
        }
        let value = part[at + key.len()..]
            .trim_ascii_start()
            .strip_prefix(b":")?;
        // The text ends before the part does, or the name is not all there.
        let mut value = serde_json::Deserializer::from_slice(value);
        String::deserialize(&mut value).ok()
    };
    let name = name("\"model\"").or_else(|| name("\"model_type\""))?;
    Some(name).filter(|name| !name.is_empty())
}

fn parse(body: &[u8]) -> Content {
    serde_json::from_slice(body).unwrap_or_default()
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut content = Content::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "texts" | "candidates" => content.items = map.next_value::<Count>()?.0,
                "model" | "model_type" => {
                    let name = map.next_value::<Cow<'de, str>>()?;
                    content.model = (!name.is_empty()).then(|| name.into_owned());
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(content)
    }
}

/// The length of a list.
struct Count(u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(CountVisitor).map(Self)
    }
}

struct CountVisitor;

impl<'de> Visitor<'de> for CountVisitor {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u32, A::Error> {
        let mut count = 0_u32;
        while items.next_element::<IgnoredAny>()?.is_some() {
            count = count.saturating_add(1);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::budget::Budget;
    use crate::message::PayloadBuilder;

    #[test]
    fn finds_the_model_and_counts_the_items() {
        let table = [
            (r#"{"texts":["a","b"],"model":"m"}"#, Some("m"), 2),
            (
                r#"{"model_type":"x/y","candidates":["a"],"references":["b"]}"#,
                Some("x/y"),
                1,
            ),
            (
                r#"{"model":"caf\u00e9","texts":[1,[2],{"z":3}]}"#,
                Some("café"),
                3,
            ),
            (r#"{"model":"a","model":"b"}"#, Some("b"), 0),
            (r#"{"texts":[],"model":""}"#, None, 0),
            (r#"{"texts":"a"}"#, None, 0),
            ("[]", None, 0),
            ("", None, 0),
            ("{", None, 0),
        ];
        for (body, model, items) in table {
            let model = model.map(str::to_owned);
            assert_eq!(parse(body.as_bytes()), Content { model, items }, "{body}");
        }
    }

    #[test]
    fn names_models_as_hosts_do_and_reads_bodies_in_pieces() {
        let mut body = PayloadBuilder::new(Budget::new(1 << 30).open());
        let text = "x".repeat(100_000);
        let whole = format!(r#"{{"texts":["{text}"],"model":"m"}}"#);
        for piece in whole.as_bytes().chunks(30_000) {
            body.push(&Bytes::copy_from_slice(piece)).unwrap();
        }
        let body = body.finish();
        assert!(body.chunks().len() > 1);
        let peek = peek(Route::Embed, &body);
        assert_eq!(peek.model, Model::new("embed:m"));
        assert_eq!(peek.work.characters, whole.len() as u64);
    }

    #[test]
    fn finds_the_model_at_the_end_of_a_part() {
        let table = [
            (r#"xxx"],"model":"m"}"#, Some("m")),
            (
                r#"xxx"], "model_type" : "x\/y" , "lang":"en"}"#,
                Some("x/y"),
            ),
            (r#"{"model":"m","texts":["xxx"#, Some("m")),
            (r#"xxx \"model\":\"fake\" xxx"#, None),
            (r#"xxx","model","xxx"#, None),
            (r#"xxx"],"model":"cut of"#, None),
            (r#"xxx"],"model":null}"#, None),
            (r#"xxx"],"model":""}"#, None),
            ("", None),
        ];
        for (part, expected) in table {
            assert_eq!(model_in(part.as_bytes()).as_deref(), expected, "{part}");
        }
    }
}
