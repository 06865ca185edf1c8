//! How a body in chunks must look, to the byte (RFC 9112, section 7.1).
//!
//! ```text
//! size [;extensions] CR LF  data CR LF   …   0 [;extensions] CR LF  [trailers]  CR LF
//! ```
//!
//! Parsers differ in what else they take for a size, for the end of a line and for a trailer, and so in
//! where a body ends. [`Chunks`] takes only what all read alike, however it is cut into pieces: it hands out
//! the data, or reads along before another parser does. Extensions and trailers mean nothing here; they are
//! bounded, and go no further.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::coming::up_to;
use crate::head::is_token;

/// Digits of a size, leading zeros included: no body is larger than 2⁶⁰ bytes.
const SIZE_DIGITS: u32 = 15;
/// Bytes of all extensions of a body, which hardly anybody sends; as hyper allows.
const EXTENSION_BYTES: usize = 16 << 10;
/// Bytes of all trailers, line ends included; as hyper allows.
const TRAILER_BYTES: usize = 16 << 10;
/// Trailers, as many as headers by default.
const TRAILERS: usize = 100;
/// What a trailer must not say (RFC 9110, section 6.5.1), since it would come too late: where the message
/// ends, whom it is for, and who sends it.
const NOT_IN_TRAILERS: [&[u8]; 11] = [
    b"transfer-encoding",
    b"content-length",
    b"host",
    b"connection",
    b"te",
    b"trailer",
    b"upgrade",
    b"expect",
    b"authorization",
    b"x-api-key",
    b"cookie",
];

/// A body that may be read in two ways, or in none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunks of the body are not framed as HTTP says")]
pub struct BadChunks;

impl From<BadChunks> for io::Error {
    fn from(bad: BadChunks) -> Self {
        Self::new(io::ErrorKind::InvalidData, bad)
    }
}

/// One body, as far as it has come.
#[derive(Debug, Default)]
pub struct Chunks {
    at: At,
    /// Of the chunk; of its data, what is to come.
    size: u64,
    digits: u32,
    extension_bytes: usize,
    /// The trailer that is coming.
    trailer: Vec<u8>,
    trailer_bytes: usize,
    trailers: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    Extension(Extension),
    /// The line feed after a size.
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    Trailer,
    TrailerEnd,
    /// The next message.
    Over,
    Bad,
}

/// `;name`, `;name=token` or `;name="text"`, any number of them and without blanks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// `true`: its first byte has come.
    Name(bool),
    Value(bool),
    Quoted,
    Escaped,
    Closed,
}

impl Chunks {
    /// Has the body come whole?
    pub fn is_over(&self) -> bool {
        self.at == At::Over
    }

    /// Reads what comes next. Returns how much of it belongs to the body: all but what follows its end.
    ///
    /// # Errors
    /// [`BadChunks`], from then on each time.
    pub fn read(&mut self, piece: &[u8]) -> Result<usize, BadChunks> {
        let mut rest = piece;
        while let Some((byte, after)) = rest.split_first() {
            rest = match self.at {
                At::Over => break,
                At::Data => self.data(rest),
                at => {
                    self.at = self.next(at, *byte).unwrap_or(At::Bad);
                    after
                }
            };
            if self.at == At::Bad {
                break;
            }
        }
        if self.at == At::Bad {
            return Err(BadChunks);
        }
        Ok(piece.len() - rest.len())
    }

    /// Takes the next data out of `came`, and what frames them. `None`: there are none before more has come,
    /// or the body [is over](Self::is_over); what follows it is left.
    ///
    /// # Errors
    /// [`BadChunks`], from then on each time.
    pub fn take(&mut self, came: &mut BytesMut) -> Result<Option<Bytes>, BadChunks> {
        loop {
            let byte = match (self.at, came.first()) {
                (At::Bad, _) => return Err(BadChunks),
                (At::Over, _) | (_, None) => return Ok(None),
                (At::Data, Some(_)) => {
                    let left = self.data(came).len();
                    return Ok(Some(came.split_to(came.len() - left).freeze()));
                }
                (_, Some(byte)) => *byte,
            };
            self.at = self.next(self.at, byte).unwrap_or(At::Bad);
            came.advance(1);
        }
    }

    /// Skips data; returns what follows.
    fn data<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let skipped = up_to(&mut self.size, piece.len());
        if self.size == 0 {
            self.at = At::DataReturn;
        }
        piece.get(skipped..).unwrap_or_default()
    }

    /// What comes after `byte`; `None`: nothing good.
    fn next(&mut self, at: At, byte: u8) -> Option<At> {
        match (at, byte) {
            (At::Size, _) => self.size(byte),
            (At::Extension(extension), _) => self.extension(extension, byte),
            (At::SizeEnd, b'\n') => {
                self.digits = 0;
                Some(if self.size == 0 {
                    At::Trailer
                } else {
                    At::Data
                })
            }
            (At::DataReturn, b'\r') => Some(At::DataEnd),
            (At::DataEnd, b'\n') => Some(At::Size),
            (At::Trailer, _) => self.trailer(byte),
            (At::TrailerEnd, b'\n') => self.end_trailer(),
            _ => None,
        }
    }

    fn size(&mut self, byte: u8) -> Option<At> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            self.digits += 1;
            self.size = (self.size << 4) | u64::from(digit);
            return (self.digits <= SIZE_DIGITS).then_some(At::Size);
        }
        match byte {
            _ if self.digits == 0 => None,
            b'\r' => Some(At::SizeEnd),
            b';' => self.extension(Extension::Closed, byte),
            _ => None,
        }
    }

    fn extension(&mut self, at: Extension, byte: u8) -> Option<At> {
        use Extension::{Closed, Escaped, Name, Quoted, Value};
        self.extension_bytes += 1;
        let is_text = byte == b'\t' || !byte.is_ascii_control();
        let next = match (at, byte) {
            (Name(true) | Value(true) | Closed, b'\r') => return Some(At::SizeEnd),
            (Name(true) | Value(true) | Closed, b';') => Name(false),
            (Name(true), b'=') => Value(false),
            (Value(false), b'"') => Quoted,
            (Name(_), _) if is_token(&[byte]) => Name(true),
            (Value(_), _) if is_token(&[byte]) => Value(true),
            (Quoted, b'"') => Closed,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, _) if is_text => Quoted,
            _ => return None,
        };
        (self.extension_bytes <= EXTENSION_BYTES).then_some(At::Extension(next))
    }

    fn trailer(&mut self, byte: u8) -> Option<At> {
        self.trailer_bytes += 1;
        if byte == b'\r' {
            return Some(At::TrailerEnd);
        }
        self.trailer.push(byte);
        let is_text = byte == b'\t' || !byte.is_ascii_control();
        (is_text && self.trailer_bytes <= TRAILER_BYTES).then_some(At::Trailer)
    }

    fn end_trailer(&mut self) -> Option<At> {
        if self.trailer.is_empty() {
            return Some(At::Over);
        }
        let name = self.trailer.split(|byte| *byte == b':').next()?;
        let has_value = name.len() < self.trailer.len();
        let is_good = has_value && is_token(name) && !is_forbidden(name);
        self.trailer.clear();
        self.trailers += 1;
        (is_good && self.trailers <= TRAILERS).then_some(At::Trailer)
    }
}

fn is_forbidden(trailer: &[u8]) -> bool {
    let mut forbidden = NOT_IN_TRAILERS.iter();
    forbidden.any(|name| trailer.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How much of it is the body, at once and byte by byte.
    fn judge(body: &[u8]) -> Result<usize, BadChunks> {
        let at_once = Chunks::default();
        let whole = read(at_once, &[body]);
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(whole, read(Chunks::default(), &bytes), "in single bytes");
        assert_eq!(whole, take(&[body]).map(|(_, length)| length), "as data");
        whole
    }

    /// The data of a body that comes in these pieces, and its length; `usize::MAX`: it goes on.
    fn take(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize), BadChunks> {
        let mut chunks = Chunks::default();
        let (mut data, mut came) = (Vec::new(), BytesMut::new());
        for piece in pieces {
            came.extend_from_slice(piece);
            while let Some(taken) = chunks.take(&mut came)? {
                assert!(!taken.is_empty());
                data.extend(taken);
            }
        }
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let is_over = chunks.is_over();
        let length = if is_over {
            length - came.len()
        } else {
            usize::MAX
        };
        Ok((data, length))
    }

    #[test]
    fn data_are_handed_out_without_what_frames_them() {
        let body = b"5;a=b\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nX-Sum: 1\r\n\r\nGET /";
        let expected = Ok((b"hello world".to_vec(), body.len() - 5));
        assert_eq!(take(&[body]), expected);
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(take(&bytes), expected);
        let data = vec![7; 0x1_0000];
        let large = [b"10000\r\n", data.as_slice(), b"\r\n0\r\n\r\n"].concat();
        assert_eq!(take(&[&large]), Ok((data, large.len())));
    }

    /// `usize::MAX`: it goes on.
    fn read(mut chunks: Chunks, pieces: &[&[u8]]) -> Result<usize, BadChunks> {
        let mut length = 0;
        for piece in pieces {
            length += chunks.read(piece)?;
        }
        Ok(if chunks.is_over() { length } else { usize::MAX })
    }

    #[test]
    fn what_all_read_alike_is_let_in() {
        let many = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(EXTENSION_BYTES - 2));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(TRAILERS));
        for body in [
            "0\r\n\r\n",
            "000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
            "000000000000005\r\nhello\r\n0\r\n\r\n",
            "2\r\n\r\n\r\n0\r\n\r\n",
            "1;a\r\nx\r\n0;b=c;d\r\n\r\n",
            "1;a=\"b ;\\\"\t\"\r\nx\r\n0\r\n\r\n",
            "0\r\nX-Sum: 1\r\nX-Empty:\r\n\r\n",
            &many,
            &trailers,
        ] {
            let next = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(judge(body.as_bytes()), Ok(body.len()), "{body:?}");
            assert_eq!(judge(next.as_bytes()), Ok(body.len()), "{next:?}");
        }
    }

    #[test]
    fn all_else_is_refused() {
        let after = "\r\nx\r\n0\r\n\r\n";
        let sizes = [
            "",
            " ",
            "\t",
            ";x",
            " 1",
            "1 ",
            "\t1",
            "1\t",
            "+1",
            "-1",
            "0x1",
            "1_0",
            "g",
            "1,1",
            "1.",
            "\0",
            "1\0",
            "\r",
            "1\r",
            "0000000000000001",
            "fffffffffffffffff",
            "１",
        ];
        let extensions = [
            ";",
            ";;a",
            ";a;",
            ";=b",
            ";a=",
            ";a=;b",
            "; a",
            ";a b",
            ";a =b",
            " ;a",
            ";a\0",
            ";a\n",
            ";a\x7f",
            ";a\r",
            ";a=\"b",
            ";a=\"b\\\"",
            ";a=\"b\"c",
            ";a=\"\n\"",
            ";a=\"\0\"",
            ";a=\"\\\n\"",
            ";a=b\"c\"",
            ";a=b=c",
            ";\u{e9}",
            ";a(b)",
        ];
        for size in sizes {
            let body = format!("{size}{after}");
            assert_eq!(judge(body.as_bytes()), Err(BadChunks), "{body:?}");
        }
        for extension in extensions {
            let body = format!("1{extension}{after}");
            assert_eq!(judge(body.as_bytes()), Err(BadChunks), "{body:?}");
            let last = format!("0{extension}\r\n\r\n");
            assert_eq!(judge(last.as_bytes()), Err(BadChunks), "{last:?}");
        }
        for body in [
            "1\nx\r\n0\r\n\r\n",
            "1\r\nx\n0\r\n\r\n",
            "1\r\nx0\r\n\r\n",
            "1\r\nxx\r\n0\r\n\r\n",
            "1\r\nx\r0\r\n\r\n",
            "1\r\nx\r\n\r\n0\r\n\r\n",
            "0\n\r\n",
            "0\r\n\n",
            "0\r\n\rx",
            "{\"texts\":[]}",
            "0\r\n{\"a\":1}\r\n\r\n",
            "0\r\na\r\n\r\n",
            "0\r\n: a\r\n\r\n",
            "0\r\na : b\r\n\r\n",
            "0\r\n a: b\r\n\r\n",
            "0\r\na: b\r\n c\r\n\r\n",
            "0\r\na: b\nc: d\r\n\r\n",
            "0\r\na: \0\r\n\r\n",
            "0\r\nGET / HTTP/1.1\r\n\r\n",
            "0\r\nContent-Length: 1\r\n\r\n",
            "0\r\ntransfer-encoding: chunked\r\n\r\n",
            "0\r\nHost: a\r\n\r\n",
            "0\r\na: b\r\nX-API-Key: c\r\n\r\n",
        ] {
            assert_eq!(judge(body.as_bytes()), Err(BadChunks), "{body:?}");
        }
    }

    #[test]
    fn nothing_that_means_nothing_is_endless() {
        let longest = "a".repeat(EXTENSION_BYTES);
        let short = format!("1;{}\r\nx\r\n", "a".repeat(30)).repeat(1000);
        let trailer = format!("0\r\na: {}", "b".repeat(TRAILER_BYTES));
        let trailers = format!("0\r\n{}", "a:\r\n".repeat(TRAILERS + 1));
        for body in [
            format!("1;{longest}"),
            short,
            trailer,
            trailers,
            "0".repeat(16),
        ] {
            assert_eq!(judge(body.as_bytes()), Err(BadChunks), "{}…", &body[..10]);
        }
    }

    #[test]
    fn what_was_bad_stays_bad() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.read(b"x"), Err(BadChunks));
        assert_eq!(chunks.read(b""), Err(BadChunks));
        assert_eq!(chunks.read(b"0\r\n\r\n"), Err(BadChunks));
    }

    /// Bytes like those of a body in chunks, with anything in between.
    fn nearly_chunks() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            3 => prop::sample::select(vec!["1\r\nx\r\n", "0\r\n", "\r\n", "a: b\r\n", ";a=\"b\"", "2"])
                .prop_map(|piece| piece.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(pieces, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference_and_what_is_let_in_is_what_httparse_reads(body in nearly_chunks()) {
            if let Ok(length) = judge(&body) && length < usize::MAX {
                let mut rest = &body[..length];
                while let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest)
                    && size > 0
                {
                    rest = &rest[start + usize::try_from(size).unwrap()..];
                    prop_assert!(rest.starts_with(b"\r\n"));
                    rest = &rest[2..];
                }
                let trailers = &rest[rest.iter().position(|byte| *byte == b'\n').unwrap() + 1..];
                let end = [b"\r\n", trailers].concat();
                let end = end.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
                prop_assert_eq!(end + 2, trailers.len());
            }
        }
    }
}
