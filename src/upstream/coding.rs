//! Answers that come in another form than their type says (`Content-Encoding`). No host is asked for that, since what
//! can't be read can't be judged, cut or learned from; a front that compresses whatever it passes on does it all the
//! same. It is taken back while the answer comes, so that what follows knows nothing of it, however long that is.
//!
//! What browsers and curl read of gzip and deflate is read: `x-gzip`, up to three codings, several members one after the
//! other, zeros behind them, and `deflate` without the frame that it should have (zlib's).

use std::io::{self, BufRead, BufReader, Read};
use std::mem;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use flate2::bufread::{DeflateDecoder, GzDecoder, ZlibDecoder};
use http::{HeaderMap, header};
use parking_lot::Mutex;

use crate::headers;

/// Headers that are about the bytes that came, not about what they mean.
const OF_CODED: [&str; 5] = [
    "content-digest",
    "content-encoding",
    "content-md5",
    "digest",
    "repr-digest",
];
/// Codings of one answer.
const MOST: usize = 3;
/// What is wrong with an answer that is [`Undecodable`].
pub(super) const BROKEN: &str =
    "it is compressed, but not as its Content-Encoding says, or it ends early";
/// Bytes that are decoded at once.
const PIECE: usize = 64 << 10;

/// What is wrong with an answer with these headers, in which only codings are left that can't be taken back.
pub(super) fn unreadable(headers: &HeaderMap) -> Option<&'static str> {
    match headers::codings(headers).count() {
        0 => None,
        1..=MOST => Some(
            "it is compressed in a way that can't be read (Content-Encoding), which gzip and deflate can",
        ),
        _ => Some("it is compressed more than 3 times (Content-Encoding)"),
    }
}

/// Takes codings back.
pub(super) struct Decoder {
    came: Came,
    decoded: Input,
}

/// What comes next of an answer.
pub(super) enum Next {
    Decoded(Bytes),
    /// Something to decode is needed, or that nothing comes any more.
    Wanted,
    End,
}

/// It is not what its headers say.
pub(super) struct Undecodable;

type Input = Box<dyn BufRead + Send + Sync>;

/// Codings that can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    fn named(coding: &[u8]) -> Option<Self> {
        let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
        if is("gzip") || is("x-gzip") {
            return Some(Self::Gzip);
        }
        is("deflate").then_some(Self::Deflate)
    }

    /// Decodes what begins with the byte `first`.
    fn begin(self, first: u8, input: Input) -> Within {
        match self {
            Self::Gzip => Within::Gzip(GzDecoder::new(input)),
            // No compressor begins a bare stream so.
            Self::Deflate if first & 0xF == 8 => Within::Zlib(ZlibDecoder::new(input)),
            Self::Deflate => Within::Bare(DeflateDecoder::new(input)),
        }
    }
}

impl Decoder {
    /// For an answer with these headers, from which the codings are taken out; `None`: it has none, or not only such
    /// that can be taken back.
    pub(super) fn of(headers: &mut HeaderMap) -> Option<Self> {
        let codings: Option<Vec<_>> = headers::codings(headers).map(Coding::named).collect();
        let codings = codings.filter(|it| it.len() <= MOST)?;
        if codings.is_empty() {
            // It may be there, and say nothing.
            headers.remove(header::CONTENT_ENCODING);
            return None;
        }
        for name in OF_CODED {
            headers.remove(name);
        }
        let came = Came::default();
        let mut decoded: Input = Box::new(BufReader::new(came.clone()));
        for coding in codings.into_iter().rev() {
            let layer = Layer {
                coding,
                within: Within::Between(decoded),
                is_later: false,
            };
            decoded = Box::new(BufReader::new(layer));
        }
        Some(Self { came, decoded })
    }

    /// Takes what has come, once it is [wanted](Next::Wanted); `None`: the end.
    pub(super) fn take(&mut self, chunk: Option<Bytes>) {
        let mut came = self.came.0.lock();
        came.is_over = chunk.is_none();
        came.chunk = chunk.unwrap_or_default();
    }

    /// What comes next, a little of it.
    pub(super) fn next(&mut self) -> Result<Next, Undecodable> {
        let mut piece = vec![0; PIECE];
        match self.decoded.read(&mut piece) {
            Ok(0) => Ok(Next::End),
            Ok(length) => {
                piece.truncate(length);
                Ok(Next::Decoded(piece.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Next::Wanted),
            Err(_) => Err(Undecodable),
        }
    }
}

/// What has come and is not decoded yet.
#[derive(Clone, Default)]
struct Came(Arc<Mutex<Chunk>>);

#[derive(Default)]
struct Chunk {
    chunk: Bytes,
    is_over: bool,
}

impl Read for Came {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut came = self.0.lock();
        if came.chunk.is_empty() && !came.is_over {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = came.chunk.len().min(into.len());
        came.chunk
            .copy_to_slice(into.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}

/// One coding.
struct Layer {
    coding: Coding,
    within: Within,
    /// Something has been decoded.
    is_later: bool,
}

enum Within {
    /// Before a member, or behind the last.
    Between(Input),
    Gzip(GzDecoder<Input>),
    Zlib(ZlibDecoder<Input>),
    Bare(DeflateDecoder<Input>),
}

impl Within {
    fn input(self) -> Input {
        match self {
            Self::Between(input) => input,
            Self::Gzip(member) => member.into_inner(),
            Self::Zlib(stream) => stream.into_inner(),
            Self::Bare(stream) => stream.into_inner(),
        }
    }

    fn take(&mut self) -> Self {
        mem::replace(self, Self::Between(Box::new(io::empty())))
    }
}

impl Read for Layer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = match &mut self.within {
                Within::Gzip(member) => member.read(into)?,
                Within::Zlib(stream) => stream.read(into)?,
                Within::Bare(stream) => stream.read(into)?,
                Within::Between(input) => {
                    let Some(first) = first(input, self.is_later)? else {
                        return Ok(0);
                    };
                    if self.is_later && self.coding != Coding::Gzip {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    self.within = self.coding.begin(first, self.within.take().input());
                    continue;
                }
            };
            if length > 0 || into.is_empty() {
                return Ok(length);
            }
            self.within = Within::Between(self.within.take().input());
            self.is_later = true;
        }
    }
}

/// The first byte of what follows, which stays there. Zeros behind something mean nothing.
fn first(input: &mut Input, is_later: bool) -> io::Result<Option<u8>> {
    loop {
        match input.fill_buf()?.first() {
            Some(0) if is_later => input.consume(1),
            first => return Ok(first.copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn bare(text: &[u8], level: Compression) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), level);
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_not_read_says_why() {
        for (coding, why) in [
            ("identity", None),
            ("gzip, br", Some("can't be read")),
            ("gzip, gzip, gzip, gzip", Some("more than 3 times")),
        ] {
            let headers = (header::CONTENT_ENCODING, coding.parse().unwrap());
            let told = unreadable(&HeaderMap::from_iter([headers]));
            assert_eq!(told.is_some(), why.is_some(), "{coding}");
            assert!(told.unwrap_or_default().contains(why.unwrap_or_default()));
        }
    }

    /// What is read of `body`, which comes in chunks of this `size`. `coding` in lines.
    fn read(body: &[u8], coding: &[&str], size: usize) -> Option<Vec<u8>> {
        let mut headers = HeaderMap::new();
        headers.insert("content-md5", "1".parse().unwrap());
        for line in coding {
            let line = line.parse().unwrap();
            headers.append(header::CONTENT_ENCODING, line);
        }
        let decoder = Decoder::of(&mut headers);
        assert_eq!(headers.contains_key("content-md5"), decoder.is_none());
        let mut decoder = decoder?;
        let mut chunks = body.chunks(size).map(Bytes::copy_from_slice);
        let mut read = Vec::new();
        loop {
            match decoder.next().ok()? {
                Next::Decoded(piece) => read.extend(piece),
                Next::Wanted => decoder.take(chunks.next()),
                Next::End => return Some(read),
            }
        }
    }

    /// What comes, as what, and what is read of it.
    type Row<'a> = (Vec<u8>, &'a [&'a str], Option<&'a [u8]>);

    #[test]
    fn what_is_compressed_is_read_wherever_it_is_cut() {
        let text = b"[1,2,3]".repeat(20_000);
        let zip = gzip(&text);
        let with = |more: &[u8]| [&zip, more].concat();
        let twice = [&text[..], b"more"].concat();
        let (best, none) = (Compression::best(), Compression::none());
        let table: [Row<'_>; 19] = [
            (zip.clone(), &["gzip"], Some(&text)),
            (zip.clone(), &["X-GZIP"], Some(&text)),
            (
                zip.clone(),
                &["identity, GZip", "", "identity"],
                Some(&text),
            ),
            (with(&[0; 100]), &["gzip"], Some(&text)),
            (with(&gzip(b"more")), &["gzip"], Some(&twice)),
            (gzip(&zip), &["gzip, gzip"], Some(&text)),
            (gzip(&zlib(&text)), &["deflate", "gzip"], Some(&text)),
            (zlib(&text), &["deflate"], Some(&text)),
            (bare(&text, best), &["Deflate"], Some(&text)),
            (bare(&text, none), &["deflate"], Some(&text)),
            (Vec::new(), &["gzip"], Some(b"")),
            (zip.clone(), &["gzip, gzip"], None),
            (zip.clone(), &["br"], None),
            (zip.clone(), &["gzip, gzip, gzip, gzip"], None),
            (zip.clone(), &["deflate"], None),
            (zip[..50].to_vec(), &["gzip"], None),
            (zlib(&text)[..50].to_vec(), &["deflate"], None),
            (with(b"more"), &["gzip"], None),
            (b"{}".to_vec(), &["gzip"], None),
        ];
        for (body, coding, expected) in table {
            for size in [1, 13, 1 << 20] {
                let found = read(&body, coding, size);
                assert!(found.as_deref() == expected, "{coding:?} by {size}");
            }
        }
    }
}
