//! Bodies of `/embed` and `/bertscore`, and their answers, as lists of items: where each item stands, and
//! what stands around the lists. Nothing is copied, unescaped or printed again, so what is put together
//! from pieces says the same, number by number and text by text.
//!
//! ```text
//! {"model":"m","texts":["a","b","c"]} ─ Cut::read ─▶ 3 items, option model
//!                                  └─ compose 1..3 ─▶ {"model":"m","texts":["b","c"]}
//! ```
//!
//! Only what is plain is cut: an object whose names are unescaped and different, its lists of items equally
//! long and not empty, everything else one value that says nothing of single items. Whatever else there
//! may be is [`None`], and goes as a whole.

mod shape;

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

pub use self::shape::{Glance, Misshapen};

/// Items of a body that is cut. Hosts take a hundred at once unless told otherwise.
pub const MOST_ITEMS: usize = 10_000;
/// Members beside the lists. The contract knows five.
const MOST_OPTIONS: usize = 32;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request for `/embed`.
    Texts,
    /// A request for `/bertscore`.
    Pairs,
    /// The answer to [`Kind::Texts`].
    Embeddings,
    /// The answer to [`Kind::Pairs`].
    Scores,
}

/// A body, cut. Ranges are of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// As [`Kind::lists`] has them; equally long, not empty.
    lists: Vec<Vec<Range<usize>>>,
    /// Which of these comes first in the body, and so on.
    order: Vec<usize>,
    /// Names, without their quotes, and values of all other members, by name.
    options: Vec<(Range<usize>, Range<usize>)>,
    len: usize,
}

/// Items of one of several bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whose, by its place.
    pub of: usize,
    /// Which.
    pub items: Range<usize>,
}

/// What a body is put together from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of one of several bodies, given by its place.
    Of(usize, Range<usize>),
    /// Between items of two of them.
    Comma,
}

impl Kind {
    /// Of the answer to such a request.
    #[must_use]
    pub fn answer(self) -> Self {
        match self {
            Self::Texts | Self::Embeddings => Self::Embeddings,
            Self::Pairs | Self::Scores => Self::Scores,
        }
    }

    /// Members that hold a part of each item.
    fn lists(self) -> &'static [&'static str] {
        match self {
            Self::Texts => &["texts"],
            Self::Pairs => &["candidates", "references"],
            Self::Embeddings => &["embeddings"],
            Self::Scores => &["precision", "recall", "f1"],
        }
    }

    fn is_item(self, json: &str) -> bool {
        match self {
            Self::Texts | Self::Pairs => is_text(json),
            Self::Embeddings => json.starts_with('['),
            Self::Scores => json == "null" || is_number(json),
        }
    }

    /// Is a member beside the lists about all items alike, and about no more than them? With `idf` a score
    /// depends on all references; a list may hold something for each item.
    fn is_option(self, name: &str, json: &str) -> bool {
        let is_known = match self {
            Self::Texts => true,
            Self::Pairs => matches!(name, "lang" | "model_type" | "rescale_with_baseline"),
            Self::Embeddings => matches!(name, "model" | "dimensions"),
            Self::Scores => name == "model",
        };
        let is_plain = match json.as_bytes().first() {
            Some(b'[' | b'{') => false,
            Some(b'"') => is_text(json),
            _ => true,
        };
        is_known && is_plain
    }
}

/// `json`: a value. An unpaired surrogate is no text, though it is JSON.
pub(crate) fn is_text(json: &str) -> bool {
    json.starts_with('"') && (!json.contains('\\') || serde_json::from_str::<String>(json).is_ok())
}

fn is_number(json: &str) -> bool {
    json.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// How many items a body has, also if it has none, or can't be cut; `None`: nobody but a host knows.
#[must_use]
pub fn count(kind: Kind, body: &[u8]) -> Option<usize> {
    Read { kind, body }.whole().ok()?.items()
}

/// How many there are in a list of them; none is read.
fn numbers(list: &[u8]) -> usize {
    let is_empty = list.iter().all(|byte| b"[] \t\r\n".contains(byte));
    memchr::memchr_iter(b',', list).count() + usize::from(!is_empty)
}

impl Cut {
    /// Cuts `body`, which is JSON; `None` if it is not as plain as it should be.
    #[must_use]
    pub fn read(kind: Kind, body: &[u8]) -> Option<Self> {
        let read = Read { kind, body };
        read.whole().ok()?.cut(read)
    }

    /// How many numbers each embedding has; `None` if not all have as many. `body`: what was cut.
    #[must_use]
    pub fn width(&self, body: &[u8]) -> Option<usize> {
        let rows = self.lists.first()?.iter();
        let mut widths = rows.map(|row| numbers(body.get(row.clone()).unwrap_or_default()));
        let first = widths.next()?;
        widths.all(|width| width == first).then_some(first)
    }

    /// How many there are; at least one.
    #[must_use]
    pub fn items(&self) -> usize {
        self.lists.first().map_or(0, Vec::len)
    }

    /// The bytes of an item, all its parts together, and what separates it from the next one.
    pub fn sizes(&self) -> impl Iterator<Item = usize> {
        (0..self.items()).map(|at| {
            let parts = self.lists.iter().filter_map(|list| list.get(at));
            parts.map(|part| part.len() + 1).sum()
        })
    }

    /// An item as it is written, part by part. `body`: what was cut.
    pub fn item<'a>(&self, body: &'a [u8], at: usize) -> Vec<&'a [u8]> {
        let parts = self.lists.iter().filter_map(|list| list.get(at));
        parts
            .map(|part| body.get(part.clone()).unwrap_or_default())
            .collect()
    }

    /// All members beside the lists as they are written, by name: equal if bodies differ in nothing but
    /// their items, the order of their members, and white space. `body`: what was cut.
    pub fn options<'a>(&self, body: &'a [u8]) -> Vec<(&'a [u8], &'a [u8])> {
        let of = |range: &Range<usize>| body.get(range.clone()).unwrap_or_default();
        let options = self.options.iter();
        options.map(|(name, value)| (of(name), of(value))).collect()
    }
}

/// The body that holds these `runs` of items of `cuts`, which have the same options, and for the rest is like
/// the first of them. It says something only with items.
#[must_use]
pub fn compose(cuts: &[Cut], runs: &[Run]) -> Vec<Piece> {
    let Some(first) = cuts.first() else {
        return Vec::new();
    };
    let mut pieces = Vec::with_capacity(first.lists.len() * 2 * (runs.len() + 1));
    let mut from = 0;
    for list in &first.order {
        let Some((start, end)) = first.lists.get(*list).and_then(|items| ends(items)) else {
            continue;
        };
        pieces.push(Piece::Of(0, from..start));
        let mut is_later = false;
        for run in runs {
            let items = cuts.get(run.of).and_then(|cut| cut.lists.get(*list));
            let items = items.and_then(|items| ends(items.get(run.items.clone())?));
            if let Some((start, end)) = items {
                pieces.extend(is_later.then_some(Piece::Comma));
                pieces.push(Piece::Of(run.of, start..end));
                is_later = true;
            }
        }
        from = end;
    }
    pieces.push(Piece::Of(0, from..first.len));
    pieces
}

/// Where these items begin and end.
fn ends(items: &[Range<usize>]) -> Option<(usize, usize)> {
    Some((items.first()?.start, items.last()?.end))
}

/// Reads the outermost object.
#[derive(Clone, Copy)]
struct Read<'a> {
    kind: Kind,
    body: &'a [u8],
}

impl<'a> Read<'a> {
    fn whole(self) -> serde_json::Result<Found<'a>> {
        let mut deserializer = serde_json::Deserializer::from_slice(self.body);
        let found = self.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(found)
    }

    /// Where a piece of the body stands in it.
    fn place(self, piece: &str) -> Range<usize> {
        let start = piece
            .as_ptr()
            .addr()
            .wrapping_sub(self.body.as_ptr().addr());
        start..start.wrapping_add(piece.len())
    }
}

/// What the outermost object holds.
struct Found<'a> {
    lists: Vec<Vec<Range<usize>>>,
    order: Vec<usize>,
    options: Vec<(&'a str, Range<usize>)>,
    /// There is nothing else in it.
    is_plain: bool,
}

impl<'de> DeserializeSeed<'de> for Read<'de> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Read<'de> {
    type Value = Found<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let names = self.kind.lists();
        let mut found = Found {
            lists: vec![Vec::new(); names.len()],
            order: Vec::with_capacity(names.len()),
            options: Vec::new(),
            is_plain: true,
        };
        // An escaped name can't be borrowed.
        while let Some(name) = map.next_key::<&'de str>()? {
            if let Some(at) = names.iter().position(|list| *list == name) {
                if found.order.contains(&at) {
                    return Err(A::Error::custom("twice"));
                }
                found.order.push(at);
                if let Some(list) = found.lists.get_mut(at) {
                    *list = map.next_value_seed(Items(self))?;
                }
                continue;
            }
            let value: &RawValue = map.next_value()?;
            let has_room = found.options.len() < MOST_OPTIONS;
            found.is_plain &= has_room && self.kind.is_option(name, value.get());
            if found.is_plain {
                found.options.push((name, self.place(value.get())));
            }
        }
        Ok(found)
    }
}

impl Found<'_> {
    /// How many there are, if all lists are there and equally long.
    fn items(&self) -> Option<usize> {
        let items = self.lists.first().map_or(0, Vec::len);
        let is_whole = self.order.len() == self.lists.len();
        let is_even = self.lists.iter().all(|list| list.len() == items);
        (is_whole && is_even).then_some(items)
    }

    /// All of it, if it is plain and fits together.
    fn cut(mut self, read: Read<'_>) -> Option<Cut> {
        let is_even = self.items().is_some_and(|items| items > 0);
        self.options.sort_unstable_by_key(|(name, _)| *name);
        let mut pairs = self.options.iter().zip(self.options.iter().skip(1));
        let is_told_twice = pairs.any(|((one, _), (next, _))| one == next);
        let options = self.options.into_iter();
        let options = options.map(|(name, value)| (read.place(name), value));
        (self.is_plain && is_even && !is_told_twice).then(|| Cut {
            lists: self.lists,
            order: self.order,
            options: options.collect(),
            len: read.body.len(),
        })
    }
}

/// Reads a list of items.
struct Items<'a>(Read<'a>);

impl<'de> DeserializeSeed<'de> for Items<'de> {
    type Value = Vec<Range<usize>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'de> {
    type Value = Vec<Range<usize>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<&RawValue>()? {
            if items.len() == MOST_ITEMS || !self.0.kind.is_item(item.get()) {
                return Err(A::Error::custom("no plain item, or too many"));
            }
            items.push(self.0.place(item.get()));
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests;
