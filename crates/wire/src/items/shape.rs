//! For how many items an answer is, and whether all of it are numbers: as far as can be told at the speed of memory,
//! without reading a number, and however the answer is cut into chunks.
//!
//! What passes may still be no JSON (`1.2.3`); what doesn't is no answer, whoever reads it. A null passes: by the
//! contract it stands for a number that is none. Measured: 0.13 ms for 1 MB.

use thiserror::Error;

use super::Kind;

/// The longest name that matters.
const LONGEST_NAME: usize = 10;

/// Why an answer is none, whatever was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Misshapen {
    /// It has none of its lists, or not each of them once.
    #[error("it is no answer to such a request")]
    NoResult,
    /// It ends early, or ends more than it has begun.
    #[error("it is no whole JSON")]
    NotWhole,
    /// Embeddings, or the three lists of scores.
    #[error("its lists are not equally long")]
    Uneven,
    /// NaN, say, or a text.
    #[error("it holds something that is no number where numbers should be")]
    NoNumbers,
}

/// For how many items an answer of this `kind` is.
///
/// # Errors
/// [`Misshapen`].
pub fn answered<'a>(
    kind: Kind,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Result<usize, Misshapen> {
    let mut look = Look::at(kind.answer());
    for chunk in chunks {
        look.on(chunk);
    }
    look.end()
}

/// Where it is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Between the rows of embeddings, and wherever nothing of interest is.
    Outside,
    /// In a string; after a backslash if true.
    Text(bool),
    /// In a list of numbers.
    Numbers,
}

#[derive(Debug)]
struct Look {
    kind: Kind,
    at: At,
    depth: usize,
    /// The last text of the outermost object: the name of the list that follows.
    name: Vec<u8>,
    /// In `embeddings`.
    in_rows: bool,
    /// Names of lists that have come.
    lists: Vec<Vec<u8>>,
    rows: usize,
    /// Numbers of the first row, and of this one.
    length: Option<usize>,
    commas: usize,
    has_numbers: bool,
    fault: Option<Misshapen>,
}

impl Look {
    fn at(kind: Kind) -> Self {
        Self {
            kind,
            at: At::Outside,
            depth: 0,
            name: Vec::with_capacity(LONGEST_NAME + 1),
            in_rows: false,
            lists: Vec::new(),
            rows: 0,
            length: None,
            commas: 0,
            has_numbers: false,
            fault: None,
        }
    }

    fn on(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() && self.fault.is_none() {
            chunk = match self.at {
                At::Outside => self.outside(chunk),
                At::Text(is_escaped) => self.text(chunk, is_escaped),
                At::Numbers => self.numbers(chunk),
            };
        }
    }

    /// Up to the next thing of interest; returns what follows it, as the others do.
    fn outside<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        for (at, byte) in chunk.iter().enumerate() {
            match byte {
                b'"' => {
                    self.name.clear();
                    self.at = At::Text(false);
                }
                b'{' | b'[' => self.open(*byte),
                b'}' | b']' => self.close(),
                b',' | b' ' | b'\t' | b'\r' | b'\n' => continue,
                _ if self.in_rows => self.fault = Some(Misshapen::NoNumbers),
                _ => continue,
            }
            if self.at != At::Outside || self.fault.is_some() {
                return chunk.get(at + 1..).unwrap_or_default();
            }
        }
        &[]
    }

    fn open(&mut self, byte: u8) {
        self.depth += 1;
        let is_list = byte == b'['
            && self
                .kind
                .lists()
                .iter()
                .any(|it| it.as_bytes() == self.name);
        if self.in_rows {
            if byte == b'[' {
                self.begin_numbers();
            } else {
                self.fault = Some(Misshapen::NoNumbers);
            }
        } else if self.depth == 2 && is_list {
            if self.lists.contains(&self.name) {
                self.fault = Some(Misshapen::NoResult);
            }
            self.lists.push(self.name.clone());
            match self.kind {
                Kind::Embeddings => self.in_rows = true,
                _ => self.begin_numbers(),
            }
        }
    }

    fn close(&mut self) {
        match self.depth.checked_sub(1) {
            Some(depth) => self.depth = depth,
            None => self.fault = Some(Misshapen::NotWhole),
        }
        self.in_rows = false;
    }

    fn begin_numbers(&mut self) {
        (self.at, self.commas, self.has_numbers) = (At::Numbers, 0, false);
    }

    fn text<'a>(&mut self, chunk: &'a [u8], is_escaped: bool) -> &'a [u8] {
        if self.in_rows {
            self.fault = Some(Misshapen::NoNumbers);
        }
        if is_escaped {
            self.at = At::Text(false);
            // An escaped name is none that matters.
            self.name.resize(LONGEST_NAME + 1, b'\\');
            return chunk.get(1..).unwrap_or_default();
        }
        let end = memchr::memchr2(b'"', b'\\', chunk);
        let text = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        if self.depth == 1 {
            let room = (LONGEST_NAME + 1).saturating_sub(self.name.len());
            self.name.extend(text.iter().take(room));
        }
        let Some(end) = end else {
            return &[];
        };
        let ends = chunk.get(end) == Some(&b'"');
        self.at = if ends { At::Outside } else { At::Text(true) };
        chunk.get(end + 1..).unwrap_or_default()
    }

    fn numbers<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr(b']', chunk);
        let numbers = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        self.commas += memchr::memchr_iter(b',', numbers).count();
        // Of texts, NaN and false, and Infinity; nothing else that a program writes in place of a number.
        if memchr::memchr3(b'"', b'a', b'I', numbers).is_some() {
            self.fault = Some(Misshapen::NoNumbers);
        }
        self.has_numbers |=
            !self.has_numbers && numbers.iter().any(|byte| !byte.is_ascii_whitespace());
        let Some(end) = end else {
            return &[];
        };
        self.end_numbers();
        chunk.get(end + 1..).unwrap_or_default()
    }

    fn end_numbers(&mut self) {
        self.at = At::Outside;
        self.depth = self.depth.saturating_sub(1);
        self.rows += 1;
        let length = if self.has_numbers { self.commas + 1 } else { 0 };
        if *self.length.get_or_insert(length) != length {
            self.fault = Some(Misshapen::Uneven);
        }
    }

    fn end(self) -> Result<usize, Misshapen> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.depth > 0 || self.at != At::Outside {
            return Err(Misshapen::NotWhole);
        }
        if self.lists.len() != self.kind.lists().len() {
            return Err(Misshapen::NoResult);
        }
        Ok(match self.kind {
            Kind::Embeddings => self.rows,
            _ => self.length.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(kind: Kind, answer: &str) -> Result<usize, Misshapen> {
        answered(kind, [answer.as_bytes()])
    }

    #[test]
    fn an_answer_tells_for_how_many_it_is() {
        let embeddings = [
            (r#"{"embeddings":[],"model":"m","dimensions":0}"#, 0),
            (
                r#"{"embeddings":[[0.5,-1e-3],[1,null]],"model":"m","dimensions":2}"#,
                2,
            ),
            (
                "{ \"model\" : \"]\\\"[\", \"embeddings\" :\n[ [ 1 ] , [ 2 ] ,[3]] }",
                3,
            ),
            (
                r#"{"x":[[1,2],{"embeddings":[[1]]},"embeddings",[3]],"embeddings":[[1]]}"#,
                1,
            ),
        ];
        for (answer, expected) in embeddings {
            assert_eq!(count(Kind::Texts, answer), Ok(expected), "{answer}");
        }
        let scores = [
            (
                r#"{"precision":[1,0.5],"recall":[1,null],"f1":[0,0],"model":"m"}"#,
                2,
            ),
            (r#"{"f1":[],"recall":[],"precision":[ ],"model":"m"}"#, 0),
        ];
        for (answer, expected) in scores {
            assert_eq!(count(Kind::Pairs, answer), Ok(expected), "{answer}");
        }
    }

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        use Misshapen::{NoNumbers, NoResult, NotWhole, Uneven};

        let embeddings = [
            ("", NoResult),
            (r#"{"detail":"no"}"#, NoResult),
            (r#"{"embeddings":[[1,2],[3,"#, NotWhole),
            (r#"{"embeddings":[[1,2]],"model":"m"#, NotWhole),
            (r#"{"embeddings":[[[1]]]}"#, NotWhole),
            (r#"{"embeddings":[[1]],"embeddings":[[1]]}"#, NoResult),
            (r#"{"x":{"embeddings":[[1]]}}"#, NoResult),
            (r#"{"embedd\u0069ngs":[[1]]}"#, NoResult),
            (r#"{"embeddings":"[[1]]"}"#, NoResult),
            (r#"{"embeddings":[[1,2],[3]]}"#, Uneven),
            (r#"{"embeddings":[[1],[]]}"#, Uneven),
            (r#"{"embeddings":[[1,NaN]]}"#, NoNumbers),
            (r#"{"embeddings":[[1,-Infinity]]}"#, NoNumbers),
            (r#"{"embeddings":[["1"]]}"#, NoNumbers),
            (r#"{"embeddings":[[false]]}"#, NoNumbers),
            (r#"{"embeddings":[[1],null]}"#, NoNumbers),
            (r#"{"embeddings":[1]}"#, NoNumbers),
            (r#"{"embeddings":["a"]}"#, NoNumbers),
            (r#"{"embeddings":[{"a":1}]}"#, NoNumbers),
        ];
        for (answer, expected) in embeddings {
            assert_eq!(count(Kind::Texts, answer), Err(expected), "{answer}");
        }
        let scores = [
            (r#"{"precision":[1],"recall":[1],"model":"m"}"#, NoResult),
            (r#"{"precision":[1],"recall":[1],"f1":[1,2]}"#, Uneven),
            (r#"{"precision":[1],"recall":[1],"f1":[NaN]}"#, NoNumbers),
        ];
        for (answer, expected) in scores {
            assert_eq!(count(Kind::Pairs, answer), Err(expected), "{answer}");
        }
    }

    proptest! {
        /// Where chunks end does not matter.
        #[test]
        fn chunks_may_end_anywhere(
            rows in prop::collection::vec(prop::collection::vec(-9.0..9.0, 3..600), 1..5),
            sizes in prop::collection::vec(1..400usize, 1..9),
        ) {
            let model = "a \"quoted\" [name]";
            let answer = serde_json::json!({"model": model, "embeddings": rows}).to_string();
            let mut rest = answer.as_bytes();
            let mut sizes = sizes.iter().cycle();
            let chunks = std::iter::from_fn(|| {
                let size = (*sizes.next()?).min(rest.len());
                let (chunk, after) = rest.split_at(size);
                rest = after;
                (size > 0).then_some(chunk)
            });
            let is_even = rows.iter().all(|row| row.len() == rows[0].len());
            let expected = if is_even { Ok(rows.len()) } else { Err(Misshapen::Uneven) };
            prop_assert_eq!(answered(Kind::Embeddings, chunks), expected);
        }
    }
}
