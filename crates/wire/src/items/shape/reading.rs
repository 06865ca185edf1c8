//! Reads an answer with a parser, and tells what is wrong with it.

use std::cell::Cell;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::super::Kind;
use super::Misshapen;
use crate::text::Text;

/// What stands in a list in the place of numbers, one of which is too large; otherwise it is their count.
pub(super) const TOO_LARGE: &[u8] = b"-1";
/// … and before the first thing that is neither a number nor null.
pub(super) const NOTHING: &[u8] = b"\"\",";

/// Reads with a parser what has been left of an answer.
pub(super) struct Reading {
    kind: Kind,
    /// What is wrong if it can't be read on.
    fault: Cell<Misshapen>,
}

impl Reading {
    /// Of an answer of this `kind`.
    pub(super) fn of(kind: Kind) -> Self {
        Self {
            kind: kind.answer(),
            fault: Cell::new(Misshapen::NoResult),
        }
    }

    /// For how many items it is.
    pub(super) fn whole(&self, answer: &[u8]) -> Result<usize, Misshapen> {
        let mut json = serde_json::Deserializer::from_slice(answer);
        let read = json.deserialize_map(self);
        let read = read.and_then(|count| json.end().map(|()| count));
        read.map_err(|error| match (error.classify(), self.fault.get()) {
            (Category::Data, fault) => fault,
            (Category::Syntax, Misshapen::NoNumbers) => Misshapen::NoNumbers,
            (Category::Eof, _) => Misshapen::NotWhole,
            (Category::Syntax | Category::Io, _) => Misshapen::NotJson,
        })
    }

    fn failed<E: serde::de::Error>(&self, fault: Misshapen) -> E {
        self.fault.set(fault);
        E::custom(fault)
    }
}

impl<'de> Visitor<'de> for &Reading {
    type Value = usize;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an answer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let names = self.kind.lists();
        let mut found: [Option<usize>; 3] = [None; 3];
        while let Some(list) = map.next_key_seed(Name(names))? {
            let list = match list {
                Found::List(list) => list,
                Found::Model if self.kind == Kind::Embeddings => {
                    self.fault.set(Misshapen::NoName);
                    map.next_value::<Option<Text>>()?;
                    self.fault.set(Misshapen::NoResult);
                    continue;
                }
                Found::Model | Found::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let Some(place) = found.get_mut(list) else {
                continue;
            };
            if place.is_some() {
                return Err(self.failed(Misshapen::Twice));
            }
            let count = match self.kind {
                Kind::Embeddings => map.next_value_seed(Rows(self))?,
                _ => map.next_value_seed(Row(self))?,
            };
            *place = Some(count);
            self.fault.set(Misshapen::NoResult);
        }
        let mut counts = found.into_iter().take(names.len());
        let first = counts.next().flatten();
        let first = first.ok_or_else(|| self.failed(Misshapen::NoResult))?;
        for count in counts {
            let count = count.ok_or_else(|| self.failed(Misshapen::NoResult))?;
            if count != first {
                return Err(self.failed(Misshapen::Uneven));
            }
        }
        Ok(first)
    }
}

/// Which of these a name is.
struct Name(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Found;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let list = self.0.iter().position(|list| *list == name);
        Ok(match (list, name) {
            (Some(list), _) => Found::List(list),
            (None, "model") => Found::Model,
            (None, _) => Found::Other,
        })
    }
}

/// What a name is that of.
enum Found {
    List(usize),
    Model,
    Other,
}

/// The list of embeddings; how many there are.
struct Rows<'r>(&'r Reading);

impl<'de> DeserializeSeed<'de> for Rows<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = usize;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a list of embeddings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<usize, A::Error> {
        let Self(reading) = self;
        let (mut count, mut length) = (0, None);
        reading.fault.set(Misshapen::NoNumbers);
        while let Some(found) = rows.next_element_seed(Row(reading))? {
            if found == 0 {
                return Err(reading.failed(Misshapen::Empty));
            }
            if *length.get_or_insert(found) != found {
                return Err(reading.failed(Misshapen::Uneven));
            }
            count += 1;
        }
        Ok(count)
    }
}

/// A list of numbers; how many there are.
struct Row<'r>(&'r Reading);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = usize;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a list of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut row: A) -> Result<usize, A::Error> {
        let Self(reading) = self;
        reading.fault.set(Misshapen::NoNumbers);
        let count: Option<i64> = row.next_element()?;
        let count = usize::try_from(count.unwrap_or_default());
        count.map_err(|_| reading.failed(Misshapen::TooLarge))
    }
}
