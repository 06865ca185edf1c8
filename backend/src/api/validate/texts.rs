//! A list that should be one of texts: read once, keeping no more of it than a request or a refusal
//! needs.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Limits, MAX_WRONG_ITEMS, Problem};

/// Reads a list that should be one of texts.
pub(super) struct Texts<'l> {
    pub(super) limits: &'l Limits,
}

/// What a list holds, as far as it matters.
#[derive(Default)]
pub(super) struct TextList<'a> {
    /// The first texts, as many as may be; meaningless if anything is wrong.
    pub(super) texts: Vec<String>,
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

impl<'a> TextList<'a> {
    /// What is wrong with this list, which is what field `name` holds.
    pub(super) fn problems(
        &self,
        name: &'static str,
        value: &'a RawValue,
        limits: &Limits,
    ) -> Vec<Problem<'a>> {
        if !self.wrong.is_empty() {
            let tell = |&(index, item): &(usize, &'a RawValue)| {
                Problem::not_a_string(name, Some(index), item)
            };
            return self.wrong.iter().map(tell).collect();
        }
        let excess = if self.count > limits.batch_size {
            let (count, most) = (self.count, limits.batch_size);
            format!("{name} array length {count} exceeds max batch size of {most}")
        } else if let Some((index, length)) = self.too_long {
            let most = limits.text_length;
            format!("{name}[{index}] length {length} exceeds max text length of {most}")
        } else {
            return Vec::new();
        };
        vec![Problem::excess(name, &excess, value)]
    }
}
