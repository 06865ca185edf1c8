//! Heads of hosts' answers: where one ends, what it says, and how its body is framed. Pure.
//!
//! Where two of what tells a body's end disagree, one host's answer could be taken for another's (RFC 9112,
//! section 6.3): what can't be read in one way is no HTTP, and what is merely odd is its connection's last.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::headers::{goes_on, named, words};

/// How each begins; who begins otherwise may never end a line.
const START: &[u8] = b"HTTP/1.";
/// Bytes of a head, that of interim answers included; many times what any server sends.
const LONGEST: usize = 256 << 10;
/// Header lines.
pub(super) const MOST_HEADERS: usize = 256;
/// Headers that we add to an answer, mostly.
const ADDED: usize = 4;

/// What a host sends is not an answer in HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotHttp;

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// Those that go on to the client.
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// The connection ends with this answer.
    pub(super) is_last: bool,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// All that comes until the connection ends.
    Unframed,
}

/// Finds heads in what has come.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// Bytes that have been looked at.
    scanned: usize,
    /// Bytes of heads before this one.
    before: usize,
}

impl Heads {
    /// Takes a head out of `came` if it is there whole.
    pub(super) fn take(&mut self, came: &mut BytesMut) -> Result<Option<Head>, NotHttp> {
        // First, so that it does not depend on how much comes at once: httparse passes over empty lines.
        if came
            .iter()
            .zip(START)
            .any(|(byte, expected)| byte != expected)
        {
            return Err(NotHttp);
        }
        let new = came.get(self.scanned..).unwrap_or_default();
        for at in memchr::memchr_iter(b'\n', new) {
            let length = self.scanned + at + 1;
            let head = came.get(..length).unwrap_or_default();
            if head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n") {
                self.before += length;
                self.scanned = 0;
                return Head::parse(&came.split_to(length).freeze()).map(Some);
            }
        }
        self.scanned = came.len();
        if self.before + came.len() > LONGEST {
            return Err(NotHttp);
        }
        Ok(None)
    }
}

impl Head {
    fn parse(bytes: &Bytes) -> Result<Self, NotHttp> {
        let mut room = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            bytes,
            &mut room,
        );
        let status = response.code.filter(|_| parsed.is_ok()).ok_or(NotHttp)?;
        let is_1_0 = response.version == Some(0);
        let status = StatusCode::from_u16(status).map_err(|_| NotHttp)?;
        let lines = Lines(response.headers);
        let (framing, is_odd) = framing(status, is_1_0, lines)?;
        Ok(Self {
            status,
            framing,
            is_last: is_odd || framing == Framing::Unframed || !is_kept(is_1_0, lines),
            headers: lines.end_to_end(bytes)?,
        })
    }
}

/// The header lines of an answer.
#[derive(Clone, Copy)]
struct Lines<'a>(&'a [httparse::Header<'a>]);

impl<'a> Lines<'a> {
    /// What those of this name say.
    fn of(self, name: HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let same =
            move |line: &&httparse::Header<'_>| line.name.eq_ignore_ascii_case(name.as_str());
        self.0.iter().filter(same).map(|line| line.value)
    }

    /// Those that go on to the client; their values are parts of `head`.
    fn end_to_end(self, head: &Bytes) -> Result<HeaderMap, NotHttp> {
        let mut headers = HeaderMap::with_capacity(self.0.len() + ADDED);
        for line in self.0 {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| NotHttp)?;
            let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value));
            let value = value.map_err(|_| NotHttp)?;
            if goes_on(&name) {
                headers.append(name, value);
            }
        }
        for name in named(self.of(header::CONNECTION), &headers) {
            headers.remove(name);
        }
        Ok(headers)
    }
}

/// How the body is framed, and whether that is odd.
fn framing(status: StatusCode, is_1_0: bool, lines: Lines<'_>) -> Result<(Framing, bool), NotHttp> {
    let mut codings = lines.of(header::TRANSFER_ENCODING);
    let (length, is_repeated) = length(lines)?;
    if status.is_informational() || matches!(status.as_u16(), 204 | 304) {
        // A 304 may tell the length of what it stands for.
        let is_odd = codings.next().is_some() || (status == 204 && length.unwrap_or(0) > 0);
        return Ok((Framing::Length(0), is_odd));
    }
    let Some(coding) = codings.next() else {
        let framing = length.map_or(Framing::Unframed, Framing::Length);
        return Ok((framing, is_repeated));
    };
    let is_chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if !is_chunked || is_1_0 || codings.next().is_some() {
        return Err(NotHttp);
    }
    Ok((Framing::Chunked, length.is_some()))
}

/// What `Content-Length` says, and whether it says so more than once.
fn length(lines: Lines<'_>) -> Result<(Option<u64>, bool), NotHttp> {
    let (mut found, mut is_repeated) = (None, false);
    for text in words(lines.of(header::CONTENT_LENGTH)) {
        let length = number(text).ok_or(NotHttp)?;
        is_repeated = found.is_some();
        if found.is_some_and(|found| found != length) {
            return Err(NotHttp);
        }
        found = Some(length);
    }
    Ok((found, is_repeated))
}

fn number(text: &[u8]) -> Option<u64> {
    let is_number = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()?
        .parse()
        .ok()
        .filter(|_| is_number)
}

/// Does the host keep the connection (RFC 9112, section 9.3)?
fn is_kept(is_1_0: bool, lines: Lines<'_>) -> bool {
    let wanted: &[u8] = if is_1_0 { b"keep-alive" } else { b"close" };
    words(lines.of(header::CONNECTION)).any(|word| word.eq_ignore_ascii_case(wanted)) == is_1_0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Option<(u16, Framing, bool)> {
        let mut came = BytesMut::from(format!("{head}\r\n\r\nbody").as_bytes());
        let head = Heads::default().take(&mut came).ok()?.expect("it is whole");
        assert_eq!(came, "body");
        Some((head.status.as_u16(), head.framing, head.is_last))
    }

    #[test]
    fn a_body_ends_where_all_that_tells_its_end_agrees() {
        use Framing::{Chunked, Length, Unframed};
        let good = |framing, is_last| Some((framing, is_last));
        let table: [(&str, Option<(Framing, bool)>); 25] = [
            ("200 OK\r\nContent-Length: 5", good(Length(5), false)),
            (
                "200 OK\r\nContent-Length: 5\r\nConnection: x, Close",
                good(Length(5), true),
            ),
            (
                "200\r\nContent-Length: 5, 5\r\nContent-Length: 5",
                good(Length(5), true),
            ),
            ("200 OK\r\nTransfer-Encoding: Chunked", good(Chunked, false)),
            ("200 OK", good(Unframed, true)),
            ("200 OK\r\nConnection: keep-alive", good(Unframed, true)),
            ("204 No Content", good(Length(0), false)),
            (
                "204 No Content\r\nContent-Length: 0",
                good(Length(0), false),
            ),
            (
                "304 Not Modified\r\nContent-Length: 7",
                good(Length(0), false),
            ),
            ("100 Continue", good(Length(0), false)),
            // Odd: what follows it is not trusted to be the next answer.
            ("204 No Content\r\nContent-Length: 5", good(Length(0), true)),
            (
                "304 Not Modified\r\nTransfer-Encoding: chunked",
                good(Length(0), true),
            ),
            (
                "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
                good(Chunked, true),
            ),
            // No HTTP.
            ("200 OK\r\nContent-Length: 5\r\nContent-Length: 6", None),
            ("200 OK\r\nContent-Length: 5, 6", None),
            ("200 OK\r\nContent-Length: +5", None),
            ("200 OK\r\nContent-Length: -5", None),
            ("200 OK\r\nContent-Length:", None),
            ("200 OK\r\nContent-Length: 18446744073709551616", None),
            ("200 OK\r\nTransfer-Encoding: gzip, chunked", None),
            ("200 OK\r\nTransfer-Encoding: gzip", None),
            (
                "200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                None,
            ),
            ("200 OK\r\nA: b\r\n c", None),
            ("200 OK\r\nA b: c", None),
            ("20 OK", None),
        ];
        for (head, expected) in table {
            let found = parse(&format!("HTTP/1.1 {head}"));
            let found = found.map(|(_, framing, is_last)| (framing, is_last));
            assert_eq!(found, expected, "{head}");
        }
        for (head, expected) in [
            ("200 OK\r\nContent-Length: 5", Some((200, Length(5), true))),
            (
                "200 OK\r\nContent-Length: 5\r\nConnection: Keep-Alive",
                Some((200, Length(5), false)),
            ),
            ("200 OK\r\nTransfer-Encoding: chunked", None),
        ] {
            assert_eq!(parse(&format!("HTTP/1.0 {head}")), expected, "{head}");
        }
        assert_eq!(parse("HTTP/2.0 200 OK"), None);
        assert_eq!(parse("SSH-2.0-OpenSSH_9.9"), None);
    }

    #[test]
    fn heads_are_found_however_they_come_and_no_byte_is_looked_at_twice() {
        let answers = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 1\n\n";
        let (mut heads, mut came) = (Heads::default(), BytesMut::new());
        let mut found = Vec::new();
        for byte in answers.bytes() {
            came.extend_from_slice(&[byte]);
            if let Some(head) = heads.take(&mut came).unwrap() {
                found.push(head.status.as_u16());
            }
            assert_eq!(heads.scanned, came.len());
        }
        assert_eq!((found.as_slice(), &came[..]), (&[100, 200][..], &b""[..]));
    }

    #[test]
    fn another_protocol_is_known_by_its_first_words() {
        for (words, is_other) in [
            ("", false),
            ("HTTP/", false),
            ("HTTP/2", true),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", true),
            ("SSH-2.0", true),
        ] {
            let found = Heads::default().take(&mut BytesMut::from(words.as_bytes()));
            assert_eq!(found.is_err(), is_other, "{words}");
        }
    }

    #[test]
    fn no_head_is_endless() {
        let interim = "HTTP/1.1 100 Continue\r\nA: b\r\n\r\n".repeat(LONGEST / 30);
        let lines = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "a: b\r\n".repeat(MOST_HEADERS + 1)
        );
        let endless = format!("HTTP/1.1 200 {}", "x".repeat(LONGEST));
        for endless in [endless, interim, lines] {
            let (mut heads, mut came) = (Heads::default(), BytesMut::from(endless.as_bytes()));
            let end = std::iter::from_fn(|| heads.take(&mut came).transpose()).find(Result::is_err);
            assert!(end.is_some());
        }
    }

    #[test]
    fn passes_on_what_is_end_to_end() {
        let lines = [
            ("connection", "close, X-Private"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authorization", "Basic eDp5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-features", "1"),
            ("te", "trailers"),
            ("trailer", "x-private"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("x-private", "1"),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("content-type", "application/json"),
            ("x-model", "a"),
            ("X-Model", "b"),
        ];
        let lines = lines.map(|(name, value)| format!("{name}: {value}\r\n"));
        let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", lines.concat());
        let passed = Head::parse(&head.into()).unwrap().headers;
        assert_eq!(passed.len(), 3);
        assert_eq!(passed[header::CONTENT_TYPE], "application/json");
        assert_eq!(passed.get_all("x-model").iter().count(), 2);
    }
}
