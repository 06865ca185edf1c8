//! What must hold of any bytes that are read as requests.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "compiled for tests and fuzzing only"
)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::strict::REFUSED;
use crate::{BadChunks, BadHead, Body, Chunks, Coming, Head, HeadLimits, Scanner, Strict, check};

/// As `gpu_bridge_fuzz` has them.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[("heads", heads), ("chunks", chunks), ("requests", requests)];

const LIMITS: HeadLimits = HeadLimits {
    bytes: 1 << 10,
    headers: 16,
};

/// The input's first byte says in pieces of which size the rest comes.
fn pieces(bytes: &[u8]) -> (usize, &[u8]) {
    let (size, rest) = bytes.split_first().unwrap_or((&1, &[]));
    (usize::from(*size).max(1), rest)
}

/// A head is found alike however it comes, and read as hyper's parser reads it.
fn heads(bytes: &[u8]) {
    let (size, bytes) = pieces(bytes);
    let mut scanner = Scanner::new(LIMITS);
    let ends = (size..bytes.len()).step_by(size).chain([bytes.len()]);
    let mut found = ends.map(|end| scanner.scan(&bytes[..end]));
    let found = found
        .find(|found| !matches!(found, Ok(None)))
        .unwrap_or(Ok(None));
    assert_eq!(found, Scanner::new(LIMITS).scan(bytes), "in pieces");
    if let Ok(Some(length)) = found
        && let Ok(head) = check(&bytes[..length])
    {
        assert_eq!(parsed(&bytes[..length]), length);
        is_read_alike(&bytes[..length], &head);
    }
}

/// The length of the head at the start, by httparse.
fn parsed(bytes: &[u8]) -> usize {
    let mut room = [httparse::EMPTY_HEADER; 17];
    match httparse::Request::new(&mut room).parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        other => panic!("httparse: {other:?}"),
    }
}

fn is_read_alike(bytes: &[u8], head: &Head<'_>) {
    let mut room = [httparse::EMPTY_HEADER; 17];
    let mut request = httparse::Request::new(&mut room);
    assert!(request.parse(bytes).is_ok());
    assert_eq!(request.method.map(str::as_bytes), Some(head.method));
    assert_eq!(request.path.map(str::as_bytes), Some(head.target));
    assert_eq!(request.version, Some(u8::from(!head.is_1_0)));
    let theirs: Vec<_> = request
        .headers
        .iter()
        .map(|it| (it.name.as_bytes(), it.value))
        .collect();
    assert!(head.headers().eq(theirs.iter().copied()), "{theirs:?}");
    assert_eq!(head.count, theirs.len());
    let values = |wanted: &str| -> Vec<&[u8]> {
        let wanted = |it: &&(&[u8], &[u8])| it.0.eq_ignore_ascii_case(wanted.as_bytes());
        theirs.iter().filter(wanted).map(|it| it.1).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match head.body {
        Body::Chunked => assert!(lengths.is_empty() && codings.len() == 1),
        Body::Length(length) => {
            let told = lengths
                .first()
                .map(|it| it.iter().fold(0, |sum, it| sum * 10 + u64::from(it - b'0')));
            assert!(codings.is_empty() && told.unwrap_or(0) == length);
        }
    }
}

/// A body in chunks ends in one place and holds the same data however it comes, and by httparse's reading.
fn chunks(bytes: &[u8]) {
    let (size, body) = pieces(bytes);
    let whole = read(body, body.len().max(1));
    assert_eq!(read(body, size), whole, "in pieces");
    assert_eq!(
        taken(body, size).map(|(_, length)| length),
        whole,
        "as data"
    );
    if let Ok(Some(length)) = whole {
        let (data, _) = taken(body, body.len()).expect("it is good");
        assert_eq!(by_httparse(&body[..length]), data);
    }
}

/// The length of the body; `None`: it goes on.
fn read(body: &[u8], size: usize) -> Result<Option<usize>, BadChunks> {
    let (mut chunks, mut length) = (Chunks::default(), 0);
    for piece in body.chunks(size) {
        length += chunks.read(piece)?;
    }
    Ok(chunks.is_over().then_some(length))
}

fn taken(body: &[u8], size: usize) -> Result<(Vec<u8>, Option<usize>), BadChunks> {
    let mut chunks = Chunks::default();
    let (mut data, mut came) = (Vec::new(), BytesMut::new());
    for piece in body.chunks(size.max(1)) {
        came.extend_from_slice(piece);
        while let Some(taken) = chunks.take(&mut came)? {
            data.extend(taken);
        }
    }
    Ok((data, chunks.is_over().then(|| body.len() - came.len())))
}

fn by_httparse(mut rest: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest) else {
            panic!("no size at {}", rest.escape_ascii());
        };
        rest = &rest[start..];
        if size == 0 {
            break;
        }
        let (chunk, after) = rest.split_at(usize::try_from(size).expect("it is there"));
        data.extend(chunk);
        rest = after.strip_prefix(b"\r\n").expect("the end of a chunk");
    }
    let mut room = [httparse::EMPTY_HEADER; 256];
    let trailers = httparse::parse_headers(rest, &mut room);
    assert!(
        trailers.is_ok_and(|it| it.is_complete() && it.unwrap().0 == rest.len()),
        "{}",
        rest.escape_ascii()
    );
    data
}

/// What is let through to hyper is what came, up to what is refused, and nothing but whole heads of requests and
/// their bodies, however it comes.
fn requests(bytes: &[u8]) {
    let (size, bytes) = pieces(bytes);
    let (passed, refused) = through(bytes, size);
    let (at_once, why) = through(bytes, bytes.len().max(1));
    // With bad chunks the rest of a piece that was read is of no use to anybody.
    let is_cut = passed.starts_with(&at_once) || at_once.starts_with(&passed);
    assert!(at_once == passed || (why.is_none() && is_cut), "in pieces");
    assert_eq!(why, refused, "in pieces");
    assert!(bytes.starts_with(&passed));
    let mut rest = &passed[..];
    while !rest.is_empty() {
        let (head, after) = rest.split_at(parsed(rest));
        let mut body = Coming::from(check(head).expect("it was let in").body);
        rest = &after[body.skip(after).unwrap_or(after.len())..];
        assert!(body.is_over() || rest.is_empty());
    }
}

/// What a connection lets through of `bytes`, which come in pieces of this size, and why not more: then another
/// request is passed on, which is left out here.
fn through(bytes: &[u8], size: usize) -> (Vec<u8>, Option<BadHead>) {
    let mut strict = Strict::new(Pieces(bytes, size), LIMITS);
    let refusal = strict.refusal();
    let (mut passed, mut context) = (Vec::new(), Context::from_waker(Waker::noop()));
    loop {
        let mut room = [0; 64];
        let mut read = ReadBuf::new(&mut room);
        match Pin::new(&mut strict).poll_read(&mut context, &mut read) {
            Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                passed.extend_from_slice(read.filled());
            }
            _ => break,
        }
    }
    if refusal.get().is_some() {
        let ends = ["GET", "HEAD"].map(|method| format!("{method}{REFUSED}"));
        let end = ends.iter().find(|end| passed.ends_with(end.as_bytes()));
        passed.truncate(passed.len() - end.expect("a request in place of the refused one").len());
    }
    (passed, refusal.get())
}

/// What comes, and in pieces of which size.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.1.min(self.0.len()).min(room.remaining());
        let (piece, rest) = self.0.split_at(length);
        room.put_slice(piece);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn whatever_comes() {
        gpu_bridge_fuzz::run(super::TARGETS);
    }
}
