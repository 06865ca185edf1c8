//! For how many items an answer is, if it can be one: all of it JSON, and its numbers all there.
//!
//! Nearly every answer is *plain*, which one look at the speed of memory tells, while it comes: numbers as programs
//! write them are skipped, a count in the place of each list of them, and a parser reads the few bytes that are left.
//!
//! ```text
//! {"embeddings":[[0.1,-2e-5],[3,4]],"model":"m"} ─▶ {"embeddings":[[2],[2]],"model":"m"}
//! ```
//!
//! Whatever is not plain (`null`, `1E5`, `[1,,2]`) the parser reads as it is, which takes longer. It decides alone what
//! is wrong with an answer that is held: a look that is in doubt costs time, never an answer. What looks plain may
//! still be no JSON (`1.2.3`), as nobody writes it. A null passes: by the contract it stands for a number that is none.

mod reading;

use std::io::Write as _;

use thiserror::Error;

use self::reading::{Numbers, Reading};
use super::Kind;

/// Bytes beside the numbers of an answer that is plain: 25 for each of 10,000 items, and those of a count in its place.
const MOST_BESIDE: usize = 256 << 10;
/// … and of that to few texts.
const USUALLY_BESIDE: usize = 256;
/// A number that is longer than this may be too large; those that programs write have 25 characters at most.
const BLOCK: usize = 64;
/// As some write it before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Why an answer is none, whatever was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Misshapen {
    /// A page, say, or something follows its end.
    #[error("it is no JSON")]
    NotJson,
    /// It ends early.
    #[error("it is no whole JSON")]
    NotWhole,
    /// It is no object, or one of its lists is missing.
    #[error("it holds no result")]
    NoResult,
    /// Nobody knows which of them counts.
    #[error("it holds a list of its results twice")]
    Twice,
    /// Embeddings, or the three lists of scores.
    #[error("its lists are not equally long")]
    Uneven,
    /// An embedding of no numbers.
    #[error("its embeddings are empty")]
    Empty,
    /// NaN, say, or a text.
    #[error("it holds something that is no number where numbers should be")]
    NoNumbers,
    /// `1e999`, say.
    #[error("it holds a number that is larger than any that is read")]
    TooLarge,
}

/// Sees an answer as it comes, keeping little of it.
#[derive(Debug)]
pub struct Glance {
    kind: Kind,
    look: Look,
}

impl Glance {
    /// At an answer of this `kind`.
    #[must_use]
    pub fn at(kind: Kind) -> Self {
        let look = Look {
            beside: Vec::with_capacity(USUALLY_BESIDE),
            ..Look::default()
        };
        Self { kind, look }
    }

    /// Sees what comes next of it.
    pub fn see(&mut self, chunk: &[u8]) {
        self.look.on(chunk);
    }

    /// For how many items the answer is that has been seen to its end; `None`: only a parser can tell.
    #[must_use]
    pub fn end(self) -> Option<Result<usize, Misshapen>> {
        let whole = self.look.end()?;
        let read = |beside: Vec<u8>| read(self.kind, Numbers::Counted, &beside);
        Some(whole.and_then(read))
    }
}

/// For how many items an answer is that is held: `chunks`, all of which `glance` has seen.
///
/// # Errors
/// [`Misshapen`].
pub fn answered<'a>(
    glance: Glance,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Result<usize, Misshapen> {
    let kind = glance.kind;
    if let Some(Ok(count)) = glance.end() {
        return Ok(count);
    }
    let answer = chunks.into_iter().collect::<Vec<_>>().concat();
    read(kind, Numbers::Written, &answer)
}

fn read(kind: Kind, numbers: Numbers, answer: &[u8]) -> Result<usize, Misshapen> {
    let answer = answer.strip_prefix(BYTE_ORDER_MARK).unwrap_or(answer);
    Reading::of(kind, numbers).whole(answer)
}

/// Where it is looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Outside,
    /// In a string; after a backslash if true.
    Text(bool),
    /// Where a list has just begun, perhaps one of numbers.
    List,
    Numbers,
}

/// Looks whether an answer is plain.
#[derive(Debug, Default)]
struct Look {
    at: At,
    /// The answer, with a count in the place of each list of numbers.
    beside: Vec<u8>,
    /// Commas of this list, its last byte, and how many there are since a comma.
    commas: usize,
    last: u8,
    since: usize,
    is_odd: bool,
    /// Something that is no number stands in an embedding.
    is_wrong: bool,
}

impl Look {
    fn on(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() && !self.is_odd {
            chunk = match self.at {
                At::Outside => self.outside(chunk),
                At::Text(is_escaped) => self.text(chunk, is_escaped),
                At::List => self.list(chunk),
                At::Numbers => self.numbers(chunk),
            };
        }
    }

    /// What is to be read; `None`: it is not plain.
    fn end(self) -> Option<Result<Vec<u8>, Misshapen>> {
        if self.is_wrong {
            return Some(Err(Misshapen::NoNumbers));
        }
        let is_whole = self.at == At::Outside;
        let seen = is_whole.then_some(self.beside).ok_or(Misshapen::NotWhole);
        (!self.is_odd).then_some(seen)
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.is_odd |= self.beside.len() + bytes.len() > MOST_BESIDE;
        if !self.is_odd {
            self.beside.extend_from_slice(bytes);
        }
    }

    /// Up to the next thing of interest; returns what follows it, as the others do.
    fn outside<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let end = chunk.iter().position(|byte| matches!(byte, b'"' | b'['));
        let (skipped, after) = chunk.split_at(end.map_or(chunk.len(), |end| end + 1));
        self.at = match skipped.last() {
            Some(b'"') => At::Text(false),
            Some(b'[') => At::List,
            _ => At::Outside,
        };
        self.keep(skipped);
        after
    }

    /// Is the list that has begun one of several in a list?
    fn is_in_embedding(&self) -> bool {
        let before = self.beside.strip_suffix(b"[").unwrap_or_default();
        matches!(before.trim_ascii_end().last(), Some(b'[' | b','))
    }

    fn text<'a>(&mut self, chunk: &'a [u8], is_escaped: bool) -> &'a [u8] {
        let end = if is_escaped {
            Some(0)
        } else {
            memchr::memchr2(b'"', b'\\', chunk)
        };
        let (skipped, after) = chunk.split_at(end.map_or(chunk.len(), |end| end + 1));
        self.at = match skipped.last() {
            _ if is_escaped => At::Text(false),
            Some(b'"') => At::Outside,
            Some(b'\\') => At::Text(true),
            _ => At::Text(false),
        };
        self.keep(skipped);
        after
    }

    fn list<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let start = chunk.iter().position(|byte| !is_space(*byte));
        let rest = chunk
            .get(start.unwrap_or(chunk.len())..)
            .unwrap_or_default();
        if let Some(first) = rest.first() {
            // Perhaps a null, for a number that is none.
            self.is_odd |= *first == b'n';
            let is_of_numbers = *first == b'-' || first.is_ascii_digit();
            self.at = if is_of_numbers {
                At::Numbers
            } else {
                At::Outside
            };
            // As after a comma, one of the things that a number may follow.
            (self.commas, self.last, self.since) = (0, b',', 0);
        }
        rest
    }

    fn numbers<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr(b']', chunk);
        let (numbers, after) = chunk.split_at(end.unwrap_or(chunk.len()));
        if let Some(commas) = commas(self.last, numbers) {
            self.commas += commas;
        } else {
            self.is_odd = true;
            let is_right = numbers.iter().copied().all(may_stand);
            self.is_wrong = self.is_in_embedding() && !is_right;
        }
        self.last = numbers.last().copied().unwrap_or(self.last);
        let comma = memchr::memrchr(b',', numbers);
        self.since = comma.map_or(self.since, |_| 0) + numbers.len() - comma.unwrap_or_default();
        self.is_odd |= self.since > BLOCK;
        if end.is_some() {
            self.is_odd |= !self.last.is_ascii_digit();
            self.at = At::Outside;
            // Writing to memory does not fail.
            let _ = write!(self.beside, "{}", self.commas + 1);
        }
        after
    }
}

/// May the byte stand in a list of numbers and nulls?
fn may_stand(byte: u8) -> bool {
    byte.is_ascii_digit() || is_space(byte) || b"+-.,eEnul".contains(&byte)
}

/// Commas of a piece of a list of numbers that comes after the byte `last`; `None`: it is not plain.
fn commas(last: u8, numbers: &[u8]) -> Option<usize> {
    let Some((first, later)) = numbers.split_first() else {
        return Some(0);
    };
    let mut found = usize::from(commas_after(&[last], &[*first])?);
    let (blocks, rest) = later.as_chunks::<BLOCK>();
    let (before, _) = numbers.as_chunks::<BLOCK>();
    for (before, block) in std::iter::zip(before, blocks) {
        found += usize::from(commas_after(before, block).filter(|commas| *commas > 0)?);
    }
    let before = numbers.get(later.len() - rest.len()..).unwrap_or_default();
    found += usize::from(commas_after(before, rest)?);
    Some(found)
}

/// The same of a block of up to 255 `bytes`, each with the one `before` it. The compiler looks at 16 of them together,
/// since nothing depends on where the first odd one is.
fn commas_after(before: &[u8], bytes: &[u8]) -> Option<u8> {
    let (mut odd, mut commas) = (0, 0_u8);
    for (before, byte) in std::iter::zip(before, bytes) {
        odd |= u8::from(!may_follow(*before, *byte));
        // It can't overflow, and a check of that would keep the compiler from looking at several together: 2.5 ns for
        // a byte instead of 0.4.
        commas = commas.wrapping_add(u8::from(*byte == b','));
    }
    (odd == 0).then_some(commas)
}

/// May `byte` follow `before` where only numbers stand, perhaps with a space after each comma, and none too large: a
/// power of ten is negative?
#[expect(
    clippy::needless_bitwise_bool,
    reason = "without branches it takes half the time"
)]
fn may_follow(before: u8, byte: u8) -> bool {
    let is_digit = |byte: u8| byte.wrapping_sub(b'0') < 10;
    let is_power = |byte: u8| byte | 0x20 == b'e';
    // They differ in this bit only.
    let ends_digits = (byte | 2 == b'.') | is_power(byte);
    let starts = (before == b',') | (before == b' ') | is_power(before);
    (is_digit(byte) & !is_power(before))
        | (ends_digits & is_digit(before))
        | ((byte == b'-') & starts)
        | ((byte == b' ') & (before == b','))
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

#[cfg(test)]
mod tests;
