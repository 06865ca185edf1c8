//! For how many items an answer is, if it can be one: all of it JSON, and its numbers all there.
//!
//! It is judged while it comes, whether it is held or not, and little of it is kept: a count in the place of each list
//! of numbers, no long texts. A parser reads what is left.
//!
//! ```text
//! {"embeddings":[[0.1,-2e-5],[3,4]],"model":"m"} ─▶ {"embeddings":[[2],[2]],"model":"m"}
//! ```
//!
//! Numbers as programs write them are seen at the speed of memory, others one by one ([`numbers`]). A null passes: by
//! the contract it stands for a number that is none. Beside the lists of results numbers may be as large as they like,
//! and texts hold half of a surrogate pair: that is JSON, and nothing of ours.

mod numbers;
mod reading;

use std::borrow::Cow;
use std::io::Write as _;
use std::mem;
use std::str;

use thiserror::Error;

use self::reading::{NOTHING, Reading, TOO_LARGE};
use super::Kind;
use crate::without_mark;

/// Bytes that are kept: 40 for each of 10,000 items, and some.
const MOST_BESIDE: usize = 512 << 10;
/// … and of that to few texts.
const USUALLY_BESIDE: usize = 256;
/// No name that matters is longer, though each of its characters is escaped.
const MOST_NAME: usize = 64;

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
    /// `1e39`, say.
    #[error("it holds a number that is larger than any that models compute")]
    TooLarge,
    /// Some say of which model they are with something else than its name.
    #[error("its model is no name")]
    NoName,
    /// Hundreds of thousands of small things.
    #[error("it holds too much beside its numbers")]
    TooMuch,
}

/// Sees an answer as it comes, keeping little of it.
#[derive(Debug)]
pub struct Glance {
    kind: Kind,
    look: Look,
}

impl Glance {
    /// At an answer of this `kind`, or to a request of it.
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

    /// For how many items the answer is that has been seen to its end.
    ///
    /// # Errors
    /// [`Misshapen`].
    pub fn end(self) -> Result<usize, Misshapen> {
        let beside = self.look.end()?;
        Reading::of(self.kind).whole(without_mark(&beside))
    }
}

/// Where it is looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Outside,
    Text,
    /// In a text, after a backslash.
    Escape,
    /// … and `u`, before so many digits.
    Hex(u8),
    /// Where a list has just begun, perhaps one of numbers.
    List,
    Numbers,
}

/// What is seen of an answer.
#[derive(Debug, Default)]
struct Look {
    at: At,
    /// The answer, with a count in the place of each list of numbers, and nothing in that of long texts.
    beside: Vec<u8>,
    /// Where in it this text stands, which is a long one.
    text: usize,
    is_long: bool,
    /// The beginning of a character that goes on in the next chunk.
    character: Vec<u8>,
    /// The same of a number.
    number: Vec<u8>,
    /// Numbers of this list, one of which is too large.
    count: usize,
    is_too_large: bool,
    fault: Option<Misshapen>,
}

impl Look {
    fn on(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() && self.fault.is_none() {
            chunk = match self.at {
                At::Outside => self.outside(chunk),
                At::Text => self.text(chunk),
                At::Escape | At::Hex(_) => self.escaped(chunk),
                At::List => self.list(chunk),
                At::Numbers => self.numbers(chunk),
            };
        }
    }

    /// What is to be read.
    fn end(self) -> Result<Vec<u8>, Misshapen> {
        let is_whole = self.at == At::Outside;
        let fault = self.fault.or((!is_whole).then_some(Misshapen::NotWhole));
        fault.map_or(Ok(self.beside), Err)
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.beside.extend_from_slice(bytes);
        if self.beside.len() > MOST_BESIDE {
            self.fault = Some(Misshapen::TooMuch);
        }
    }

    /// Up to the next thing of interest; returns what follows it, as the others do.
    fn outside<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let end = chunk.iter().position(|byte| matches!(byte, b'"' | b'['));
        let (skipped, after) = chunk.split_at(end.map_or(chunk.len(), |end| end + 1));
        for byte in skipped {
            let is_more_space = self.beside.last().is_some_and(|last| is_space(*last));
            if !is_space(*byte) || !is_more_space {
                self.keep(&[*byte]);
            }
        }
        self.at = match skipped.last() {
            Some(b'"') => At::Text,
            Some(b'[') => At::List,
            _ => At::Outside,
        };
        (self.text, self.is_long) = (self.beside.len(), false);
        after
    }

    fn text<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr2(b'"', b'\\', chunk);
        let (run, rest) = chunk.split_at(end.unwrap_or(chunk.len()));
        if !self.is_text(run, end.is_some()) {
            self.fault = Some(Misshapen::NotJson);
        }
        self.note(run);
        let Some((special, after)) = rest.split_first() else {
            return rest;
        };
        if *special == b'"' {
            self.at = At::Outside;
            self.keep(b"\"");
        } else {
            self.at = At::Escape;
            self.note(b"\\");
        }
        after
    }

    /// Can these bytes of a text stand there, and is the last character whole if it must be?
    fn is_text(&mut self, run: &[u8], is_over: bool) -> bool {
        let begun = mem::take(&mut self.character);
        let run = joined(&begun, run);
        let has_control = run.iter().any(|byte| *byte < b' ');
        let is_right = match str::from_utf8(&run) {
            Ok(_) => true,
            Err(error) if error.error_len().is_none() && !is_over => {
                let begun = run.get(error.valid_up_to()..);
                self.character = begun.unwrap_or_default().to_vec();
                true
            }
            Err(_) => false,
        };
        is_right && !has_control
    }

    /// Keeps a piece of a text, unless it is too long to be a name.
    fn note(&mut self, piece: &[u8]) {
        self.is_long |= self.beside.len() - self.text + piece.len() > MOST_NAME;
        if self.is_long {
            self.beside.truncate(self.text);
        } else {
            self.keep(piece);
        }
    }

    fn escaped<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let (first, after) = chunk.split_at(1);
        self.note(first);
        self.at = match (self.at, first) {
            (At::Hex(left), [digit]) if digit.is_ascii_hexdigit() && left > 1 => At::Hex(left - 1),
            (At::Hex(_), [digit]) if digit.is_ascii_hexdigit() => At::Text,
            (At::Escape, b"u") => At::Hex(4),
            (At::Escape, [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't']) => At::Text,
            (at, _) => {
                self.fault = Some(Misshapen::NotJson);
                at
            }
        };
        after
    }

    fn list<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let start = chunk.iter().position(|byte| !is_space(*byte));
        let (_, rest) = chunk.split_at(start.unwrap_or(chunk.len()));
        if let Some(first) = rest.first() {
            // Perhaps a null, for a number that is none.
            let is_of_numbers = matches!(first, b'-' | b'0'..=b'9' | b'n');
            self.at = if is_of_numbers {
                At::Numbers
            } else {
                At::Outside
            };
            (self.count, self.is_too_large) = (0, false);
        }
        rest
    }

    fn numbers<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr(b']', chunk);
        let Some(last) = end.or_else(|| memchr::memrchr(b',', chunk)) else {
            self.number.extend_from_slice(chunk);
            let is_too_long = self.number.len() > MOST_BESIDE;
            self.fault = is_too_long.then_some(Misshapen::TooMuch);
            return &[];
        };
        let (whole, after) = chunk.split_at(last);
        let begun = mem::take(&mut self.number);
        let whole = joined(&begun, whole);
        let found = numbers::count(&whole);
        self.count += found.numbers;
        self.is_too_large |= found.is_too_large;
        if let Some(other) = found.other {
            self.at = At::Outside;
            self.keep(NOTHING);
            self.on(whole.get(other..).unwrap_or_default());
            return after;
        }
        if end.is_none() {
            // Behind the comma.
            self.number = after.get(1..).unwrap_or_default().to_vec();
            return &[];
        }
        self.at = At::Outside;
        // Writing to memory does not fail.
        let _ = if self.is_too_large {
            self.beside.write_all(TOO_LARGE)
        } else {
            write!(self.beside, "{}", self.count)
        };
        after
    }
}

/// What has begun in an earlier chunk, and goes on in this one.
fn joined<'a>(begun: &[u8], piece: &'a [u8]) -> Cow<'a, [u8]> {
    if begun.is_empty() {
        return piece.into();
    }
    [begun, piece].concat().into()
}

fn is_space(byte: u8) -> bool {
    b" \t\r\n".contains(&byte)
}

#[cfg(test)]
mod tests;
