//! Answers that come in another form than their type says (`Content-Encoding`). No host is asked for that, since what
//! can't be read can't be judged, cut or learned from; a front that compresses whatever it passes on does it all the
//! same. What it makes of an answer is taken back, within the bounds of any other answer.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use tokio::task::spawn_blocking;

use crate::budget::{Budget, Exhausted};
use crate::headers;
use crate::message::{Answer, PayloadBuilder};

/// Headers that are about the bytes that came, not about what they mean.
const OF_CODED: [&str; 6] = [
    "content-digest",
    "content-encoding",
    "content-md5",
    "digest",
    "etag",
    "repr-digest",
];

/// Codings that can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
}

impl Coding {
    /// The one that there is; `None`: there are several, or it is another.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut codings = headers::codings(headers);
        let coding = codings.next().filter(|_| codings.next().is_none())?;
        let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
        if is("gzip") || is("x-gzip") {
            return Some(Self::Gzip);
        }
        is("deflate").then_some(Self::Deflate)
    }

    fn taken_back(self, chunks: &[Bytes], sink: Sink) -> io::Result<Sink> {
        match self {
            Self::Gzip => {
                let mut decoder = MultiGzDecoder::new(sink);
                chunks.iter().try_for_each(|it| decoder.write_all(it))?;
                decoder.finish()
            }
            Self::Deflate => {
                let mut decoder = ZlibDecoder::new(sink);
                chunks.iter().try_for_each(|it| decoder.write_all(it))?;
                decoder.finish()
            }
        }
    }
}

/// What comes out, up to a bound.
struct Sink {
    body: PayloadBuilder,
    most: usize,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.body.len() + bytes.len() > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let pushed = self.body.push(&Bytes::copy_from_slice(bytes));
        pushed.map_err(io::Error::other).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `answer` without its coding; as it came if that can't be read, or is more than `most` bytes without.
///
/// # Errors
/// [`Exhausted`] if `budget` does not allow what it is without.
pub(super) async fn decoded(
    mut answer: Answer,
    most: usize,
    budget: &Budget,
) -> Result<Answer, Exhausted> {
    let coding = Coding::of(&answer.headers).filter(|_| answer.rest.is_none());
    let Some(coding) = coding else {
        return Ok(answer);
    };
    let sink = Sink {
        body: PayloadBuilder::new(budget.open()),
        most,
    };
    let chunks = answer.body.chunks().to_vec();
    // However short it is, it may become long.
    let decoded = spawn_blocking(move || coding.taken_back(&chunks, sink)).await;
    match decoded {
        Ok(Ok(sink)) => {
            answer.body = sink.body.finish();
            for name in OF_CODED {
                answer.headers.remove(name);
            }
        }
        Ok(Err(error)) if is_exhausted(&error) => return Err(Exhausted),
        // Or the decoder has panicked.
        Ok(Err(_)) | Err(_) => {}
    }
    Ok(answer)
}

fn is_exhausted(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<Exhausted>)
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use http::{StatusCode, header};

    use super::*;
    use crate::message::Payload;

    const MOST: usize = 100_000;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(text: &str) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    /// The text that is read, if it is; `coding` in lines.
    async fn read(body: Vec<u8>, coding: &[&str], budget: &Budget) -> Option<String> {
        let mut answer = Answer::in_json(StatusCode::OK, Vec::new(), budget).unwrap();
        answer.body = Payload::counted([body], Budget::new(1 << 20).open()).unwrap();
        answer.headers.insert(header::ETAG, "1".parse().unwrap());
        for line in coding {
            let line = line.parse().unwrap();
            answer.headers.append(header::CONTENT_ENCODING, line);
        }
        let read = decoded(answer, MOST, budget).await.ok()?;
        let is_read = !headers::is_coded(&read.headers);
        assert_eq!(read.headers.contains_key(header::ETAG), !is_read);
        let text = || String::from_utf8(read.body.joined().into_owned()).unwrap();
        is_read.then(text)
    }

    #[tokio::test]
    async fn what_is_compressed_is_read_as_far_as_it_may_be() {
        let budget = Budget::new(1 << 20);
        let text = "[1,2,3]".repeat(1000);
        let zip = || gzip(&text);
        let twice = [gzip(&text), gzip("more")].concat();
        let longest = "x".repeat(MOST);
        let longer = "x".repeat(MOST + 1);
        let table: [(_, &[&str], Option<&str>); 12] = [
            (zip(), &["gzip"], Some(&text)),
            (zip(), &["X-GZIP"], Some(&text)),
            (zip(), &["identity, GZip", "identity"], Some(&text)),
            (deflate(&text), &["deflate"], Some(&text)),
            (twice, &["gzip"], Some(&[&text[..], "more"].concat())),
            (gzip(&longest), &["gzip"], Some(&longest)),
            (gzip(&longer), &["gzip"], None),
            (zip(), &["gzip, gzip"], None),
            (zip(), &["br"], None),
            (zip(), &["deflate"], None),
            (zip()[..50].to_vec(), &["gzip"], None),
            (b"{}".to_vec(), &["gzip"], None),
        ];
        for (body, coding, expected) in table {
            let found = read(body, coding, &budget).await;
            assert!(found.as_deref() == expected, "{coding:?}: {found:?}");
        }
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn it_is_held_only_if_there_is_memory_for_it() {
        let budget = Budget::new(1000);
        let answer = Answer::in_json(StatusCode::OK, gzip(&"x".repeat(2000)), &budget);
        let mut answer = answer.unwrap();
        let gzip = "gzip".parse().unwrap();
        answer.headers.insert(header::CONTENT_ENCODING, gzip);
        assert_eq!(decoded(answer, MOST, &budget).await.err(), Some(Exhausted));
        assert_eq!(budget.held(), 0);
    }
}
