//! One request of HTTP/1 and its answer.

use std::io::{self, IoSlice, Write as _};
use std::time::Duration;

use bytes::Bytes;
use gpu_bridge_framing::Coming;
use http::request::Parts;
use http::{HeaderMap, Version, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::date::get_cached_date;

use super::connection::Connection;
use super::head::Request;
use crate::gateway::body::{BodyError, append};
use crate::gateway::session::Length;
use crate::headers;
use crate::message::PayloadBuilder;

/// How much a head has, nearly always.
const HEAD: usize = 512;

/// See the module.
pub(in crate::gateway) struct Exchange<'c> {
    pub(in crate::gateway) connection: &'c mut Connection,
    pub(in crate::gateway) head: Parts,
    /// What is to come of it.
    body: Coming,
    /// Another request may follow.
    is_kept: bool,
    /// The answer is sent in chunks.
    is_chunked: bool,
    /// For each write.
    patience: Duration,
}

impl<'c> Exchange<'c> {
    pub(super) fn new(
        connection: &'c mut Connection,
        request: Request,
        patience: Duration,
    ) -> Self {
        let Request { head, body } = request;
        Self {
            connection,
            is_kept: wants_more(head.version, &head.headers),
            is_chunked: false,
            body: body.into(),
            head,
            patience,
        }
    }

    /// Has the body been read?
    pub(in crate::gateway) fn is_body_done(&self) -> bool {
        self.body.is_over()
    }

    /// No request follows this one.
    pub(in crate::gateway) fn make_last(&mut self) {
        self.is_kept = false;
    }

    /// Can another request follow, now that this one is answered?
    pub(in crate::gateway) fn is_kept(&self) -> bool {
        self.is_kept && !self.connection.is_overrun()
    }

    /// Lets the client send the body.
    pub(in crate::gateway) async fn go_ahead(&mut self) -> io::Result<()> {
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n", &[], b"").await
    }

    /// Reads more of the body, of which no more than `limit` bytes may come. Returns how many bytes; `None`
    /// at its end.
    pub(in crate::gateway) async fn read_body(
        &mut self,
        read: &mut PayloadBuilder,
        limit: usize,
    ) -> Result<Option<usize>, BodyError> {
        match &mut self.body {
            Coming::Length(0) => Ok(None),
            Coming::Length(left) => {
                let room = read.room(usize::try_from(*left).unwrap_or(usize::MAX));
                let bytes = self.connection.read_into(room, *left).await;
                let bytes = bytes
                    .ok()
                    .filter(|bytes| *bytes > 0)
                    .ok_or(BodyError::Gone)?;
                *left -= bytes as u64;
                read.filled(bytes).map_err(|_| BodyError::NoMemory)?;
                Ok(Some(bytes))
            }
            Coming::Chunks(chunks) => match self.connection.next_data(chunks).await? {
                Some(data) => append(read, &data, limit).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Throws away what is left of the body.
    pub(in crate::gateway) async fn drain(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.body.skip(self.connection.unused())?;
            self.connection.used(bytes);
            if self.is_body_done() {
                return Ok(());
            }
            if self.connection.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Writes an answer; `body`: the whole of it or, if its length is unknown, its beginning.
    pub(in crate::gateway) async fn answer(
        &mut self,
        answer: ResponseHeader,
        length: Length,
        body: &[Bytes],
    ) -> io::Result<()> {
        let is_unknown = length == Length::Unknown;
        self.is_chunked = is_unknown && self.head.version == Version::HTTP_11;
        // Else the next request is not found, or the end of the answer is that of the connection.
        self.is_kept = self.is_kept() && self.is_body_done() && is_unknown == self.is_chunked;
        let length = if is_unknown && !self.is_chunked {
            Length::None
        } else {
            length
        };
        let mut front = head(answer, length, self.is_kept);
        self.write_body(&mut front, body).await
    }

    /// Writes more of an answer whose length is unknown.
    pub(in crate::gateway) async fn pass_on(&mut self, data: Bytes) -> io::Result<()> {
        self.write_body(&mut Vec::new(), &[data]).await
    }

    /// Ends an answer whose length is unknown.
    pub(in crate::gateway) async fn finish(&mut self) -> io::Result<()> {
        if self.is_chunked {
            self.write(b"0\r\n\r\n", &[], b"").await?;
        }
        Ok(())
    }

    /// `front`: what goes before the body.
    async fn write_body(&mut self, front: &mut Vec<u8>, body: &[Bytes]) -> io::Result<()> {
        let bytes: usize = body.iter().map(Bytes::len).sum();
        let is_chunk = self.is_chunked && bytes > 0;
        if is_chunk {
            write!(front, "{bytes:X}\r\n")?;
        }
        let back: &[u8] = if is_chunk { b"\r\n" } else { b"" };
        self.write(front, body, back).await
    }

    async fn write(&mut self, front: &[u8], body: &[Bytes], back: &[u8]) -> io::Result<()> {
        let body = body.iter().map(|bytes| &bytes[..]);
        let parts = [front].into_iter().chain(body).chain([back]);
        let mut slices: Vec<_> = parts.map(IoSlice::new).collect();
        self.connection.write(&mut slices, self.patience).await
    }
}

/// Does the client want to send another request after this one (RFC 9112, section 9.3)?
fn wants_more(version: Version, headers: &HeaderMap) -> bool {
    let is_named = |option: &[u8]| headers::lists(headers, &header::CONNECTION, option);
    !is_named(b"close") && (version == Version::HTTP_11 || is_named(b"keep-alive"))
}

/// The head of an answer; `is_kept`: another request may follow.
pub(super) fn head(mut answer: ResponseHeader, length: Length, is_kept: bool) -> Vec<u8> {
    answer.remove_header(&header::DATE);
    let mut head = Vec::with_capacity(HEAD);
    let status = answer.status;
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    head.extend_from_slice(b"\r\n");
    answer.header_to_h1_wire(&mut head);
    match length {
        Length::Known(bytes) => {
            head.extend_from_slice(b"Content-Length: ");
            head.extend_from_slice(itoa::Buffer::new().format(bytes).as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        Length::Unknown => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Length::None => {}
    }
    head.extend_from_slice(b"Date: ");
    head.extend_from_slice(get_cached_date().as_bytes());
    let connection = if is_kept { "keep-alive" } else { "close" };
    head.extend_from_slice(b"\r\nConnection: ");
    head.extend_from_slice(connection.as_bytes());
    head.extend_from_slice(b"\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use gpu_bridge_framing::Body;
    use http::{Method, StatusCode};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;
    use crate::budget::Budget;
    use crate::gateway::respond;

    const PATIENCE: Duration = Duration::from_secs(1);

    fn connection() -> (DuplexStream, Connection) {
        let (client, server) = tokio::io::duplex(1 << 20);
        let connection = Connection::new(Box::new(server), &Budget::new(1 << 20), 1 << 20);
        (client, connection)
    }

    fn request(version: Version, body: Body) -> Request {
        let (mut head, ()) = http::Request::new(()).into_parts();
        (head.version, head.method) = (version, Method::POST);
        Request { head, body }
    }

    /// The body that comes in these pieces, and what is left after it.
    async fn read(body: Body, pieces: &[&[u8]]) -> (Result<Vec<u8>, BodyError>, Vec<u8>) {
        let (mut client, mut connection) = connection();
        let mut exchange =
            Exchange::new(&mut connection, request(Version::HTTP_11, body), PATIENCE);
        let mut read = PayloadBuilder::new(Budget::new(1 << 20).open());
        let mut seen = Vec::new();
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            exchange.connection.fill().await.unwrap();
        }
        drop(client);
        loop {
            match exchange.read_body(&mut read, 1 << 20).await {
                Ok(Some(bytes)) => seen.extend_from_slice(read.last(bytes)),
                Ok(None) => break,
                Err(error) => return (Err(error), Vec::new()),
            }
        }
        assert!(exchange.is_body_done());
        assert_eq!(seen, &*read.finish().joined());
        (Ok(seen), exchange.connection.unused().to_vec())
    }

    #[tokio::test]
    async fn a_body_ends_where_it_says_and_the_rest_is_left() {
        let (body, rest) = read(Body::Length(5), &[b"he", b"lloGET"]).await;
        assert_eq!((body.unwrap(), rest), (b"hello".to_vec(), b"GET".to_vec()));
        let pieces: [&[u8]; 3] = [b"2\r\nhe\r", b"\n3\r\nllo\r\n0", b"\r\n\r\nGET"];
        let (body, rest) = read(Body::Chunked, &pieces).await;
        assert_eq!((body.unwrap(), rest), (b"hello".to_vec(), b"GET".to_vec()));

        let large = vec![7; 200_000];
        let mut whole = format!("{:x}\r\n", large.len()).into_bytes();
        whole.extend([&large, &b"\r\n0\r\n\r\n"[..]].concat());
        assert_eq!(read(Body::Chunked, &[&whole]).await.0.unwrap(), large);
        let (body, _) = read(Body::Length(200_000), &[&large]).await;
        assert_eq!(body.unwrap(), large);
    }

    #[tokio::test]
    async fn a_body_that_ends_early_or_is_misframed_is_none() {
        for (body, bytes) in [
            (Body::Length(9), &b"hello"[..]),
            (Body::Chunked, b"9\r\nhello"),
        ] {
            assert!(matches!(read(body, &[bytes]).await.0, Err(BodyError::Gone)));
        }
        let bad = read(Body::Chunked, &[b"x\r\n"]).await.0;
        assert!(matches!(bad, Err(BodyError::Malformed)));
    }

    /// What goes out for an answer to a request of `version`, and whether another request may follow.
    async fn written(version: Version, body: Body, length: Length) -> (String, bool) {
        let (mut client, mut connection) = connection();
        let mut exchange = Exchange::new(&mut connection, request(version, body), PATIENCE);
        let head = respond::head(StatusCode::OK, HeaderMap::new());
        let parts = ["one", "two"].map(|text| Bytes::from_static(text.as_bytes()));
        let parts = if length == Length::None {
            &[]
        } else {
            &parts[..]
        };
        exchange.answer(head, length, parts).await.unwrap();
        if length == Length::Unknown {
            exchange.pass_on(Bytes::new()).await.unwrap();
            exchange
                .pass_on(Bytes::from_static(b"three"))
                .await
                .unwrap();
            exchange.finish().await.unwrap();
        }
        let is_kept = exchange.is_kept();
        drop(connection);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        let date = text
            .lines()
            .position(|line| line.starts_with("Date: "))
            .unwrap();
        let mut lines: Vec<_> = text.split("\r\n").collect();
        lines.remove(date);
        (lines.join("|"), is_kept)
    }

    #[tokio::test]
    async fn an_answer_is_framed_as_its_client_understands() {
        let none = Body::Length(0);
        let (new, old) = (Version::HTTP_11, Version::HTTP_10);
        let kept = |text: &str| format!("HTTP/1.1 200 OK|{text}Connection: keep-alive||");
        let closed = |text: &str| format!("HTTP/1.1 200 OK|{text}Connection: close||");
        let table = [
            (
                new,
                none,
                Length::Known(6),
                kept("Content-Length: 6|") + "onetwo",
                true,
            ),
            (new, none, Length::None, kept(""), true),
            (
                new,
                none,
                Length::Unknown,
                kept("Transfer-Encoding: chunked|") + "6|onetwo|5|three|0||",
                true,
            ),
            (
                old,
                none,
                Length::Known(6),
                closed("Content-Length: 6|") + "onetwo",
                false,
            ),
            (
                old,
                none,
                Length::Unknown,
                closed("") + "onetwothree",
                false,
            ),
            // The next request would not be found.
            (
                new,
                Body::Length(1),
                Length::Known(6),
                closed("Content-Length: 6|") + "onetwo",
                false,
            ),
            (new, Body::Chunked, Length::None, closed(""), false),
        ];
        for (version, body, length, text, is_kept) in table {
            let found = written(version, body, length).await;
            assert_eq!(found, (text, is_kept), "{version:?} {body:?} {length:?}");
        }
    }

    #[test]
    fn a_client_says_whether_it_wants_more() {
        let table: [(&[&str], bool, bool); 7] = [
            (&[], true, false),
            (&["close"], false, false),
            (&["Keep-Alive"], true, true),
            (&["x, Close"], false, false),
            (&["x", "close"], false, false),
            (&["keep-alive, close"], false, false),
            (&["x, keep-alive"], true, true),
        ];
        for (lines, new, old) in table {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::CONNECTION, line.parse().unwrap());
            }
            let wants = |version| wants_more(version, &headers);
            assert_eq!(
                (wants(Version::HTTP_11), wants(Version::HTTP_10)),
                (new, old),
                "{lines:?}"
            );
        }
    }
}
