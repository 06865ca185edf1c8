//! Heads: found by the [`Scanner`] as their bytes come, then judged as a whole by [`check`].

use std::net::Ipv6Addr;

use http::StatusCode;
use http::uri::Authority;

/// How a client begins that takes this for an address of `https://`.
const TLS_HANDSHAKE: u8 = 22;

/// What stands in no URI (RFC 3986, appendix A), as far as `http` does not take it either, and what
/// begins a fragment.
const NOT_IN_TARGETS: &[u8] = b"#\"<>`";
/// Bytes of a target; `http` takes no more.
const LONGEST_TARGET: usize = u16::MAX as usize - 1;

/// Bytes of a body, far more than anybody takes; hyper refuses the largest numbers in other words.
const LONGEST_BODY: u64 = 1 << 60;

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes, with the empty line at its end.
    pub bytes: usize,
    /// Header lines.
    pub headers: usize,
}

/// Why a head is refused. The text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each says what it is in its text")]
pub enum BadHead {
    #[error(
        "the head of the request exceeds the limit of {limit} bytes; send fewer or shorter headers"
    )]
    TooLarge { limit: usize },
    #[error("the request has more headers than the limit of {limit}; send fewer")]
    TooMany { limit: usize },
    #[error(
        "the head of the request has a control character or a line that does not end with CR LF"
    )]
    Control,
    #[error("this address speaks plain HTTP: use http://, not https://")]
    Tls,
    #[error("the first line of the request must be: METHOD /path HTTP/1.1")]
    RequestLine,
    #[error("CONNECT is not supported")]
    Connect,
    #[error("the target of the request has a user, or another host than its Host header")]
    Target,
    #[error("a header is not of the form 'Name: value' in one line")]
    HeaderLine,
    #[error("a request needs exactly one Host header: a name or address, perhaps with a port")]
    Host,
    #[error("Content-Length must stand once and be a whole number")]
    Length,
    #[error("Transfer-Encoding must stand once and be 'chunked'; use HTTP/1.1 for it")]
    Coding,
    #[error("a request must not have both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    #[error("the body is larger than any that is taken")]
    Endless,
}

impl BadHead {
    /// The status that says it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge { .. } | Self::TooMany { .. } => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Endless => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Finds the end of a head that arrives in pieces, and what must not be in one anywhere.
#[derive(Debug)]
pub struct Scanner {
    limits: HeadLimits,
    scanned: usize,
    line: usize,
    lines: usize,
}

impl Scanner {
    /// Nothing has arrived yet.
    pub fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            scanned: 0,
            line: 0,
            lines: 0,
        }
    }

    /// `head`: all that has arrived so far. Returns the length of the head once it is whole.
    ///
    /// # Errors
    /// It is too large, or holds what no head does.
    pub fn scan(&mut self, head: &[u8]) -> Result<Option<usize>, BadHead> {
        let limit = self.limits.bytes;
        if head.first() == Some(&TLS_HANDSHAKE) {
            return Err(BadHead::Tls);
        }
        let seen = head.get(..limit).unwrap_or(head);
        loop {
            let at = self.scanned + plain(seen.get(self.scanned..).unwrap_or_default());
            self.scanned = at;
            match seen.get(at..).unwrap_or_default() {
                [b'\r', b'\n', ..] => {
                    let is_empty = at == self.line;
                    if is_empty && self.lines > 0 {
                        return Ok(Some(at + 2));
                    }
                    self.scanned = at + 2;
                    self.end_line(is_empty)?;
                }
                // Perhaps the other half of the end of a line comes next.
                [] | [b'\r'] => break,
                _ => return Err(BadHead::Control),
            }
        }
        if head.len() > limit {
            return Err(BadHead::TooLarge { limit });
        }
        Ok(None)
    }

    /// Empty lines before the first are passed over (RFC 9112, section 2.2).
    fn end_line(&mut self, is_empty: bool) -> Result<(), BadHead> {
        self.line = self.scanned;
        self.lines += usize::from(!is_empty);
        let limit = self.limits.headers;
        // The first line is none of the headers.
        if self.lines > limit + 1 {
            return Err(BadHead::TooMany { limit });
        }
        Ok(())
    }
}

/// Bytes before the first control character; all if there is none.
fn plain(bytes: &[u8]) -> usize {
    /// Looked at in one step: nearly all are plain.
    const STEP: usize = 16;
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let has_one = |step: &&[u8]| {
        step.iter()
            .fold(false, |found, byte| found | is_control(byte))
    };
    let steps = bytes
        .chunks_exact(STEP)
        .take_while(|step| !has_one(step))
        .count();
    let rest = bytes.get(steps * STEP..).unwrap_or_default();
    steps * STEP + rest.iter().position(is_control).unwrap_or(rest.len())
}

/// What follows a head, before the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes; none if nothing was announced.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A head that can be read in one way only.
#[derive(Debug)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The target of the request.
    pub target: &'a [u8],
    /// Of HTTP/1.0, not of HTTP/1.1.
    pub is_1_0: bool,
    /// What follows it.
    pub body: Body,
    /// The number of its [headers](Self::headers).
    pub count: usize,
    whole: &'a [u8],
}

impl<'a> Head<'a> {
    /// Name and value of each header.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let lines = lines(self.whole).skip(1);
        lines.filter_map(|line| header(line).ok())
    }
}

/// Checks a whole head, as the [`Scanner`] found it.
///
/// # Errors
/// It could be read in two ways, or in none.
pub fn check(head: &[u8]) -> Result<Head<'_>, BadHead> {
    let mut lines = lines(head);
    let request = RequestLine::parse(lines.next().unwrap_or_default())?;
    let mut found = Found::default();
    let mut count = 0;
    for line in lines {
        let (name, value) = header(line)?;
        found.note(name, value)?;
        count += 1;
    }
    Ok(Head {
        method: request.method,
        target: request.target,
        is_1_0: request.is_1_0,
        body: found.check(&request)?,
        count,
        whole: head,
    })
}

/// The lines of a head that are not empty.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut from = 0;
    let ends = memchr::memchr_iter(b'\n', head).chain([head.len()]);
    ends.map(move |end| &head[std::mem::replace(&mut from, end + 1)..end])
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .skip_while(|line| line.is_empty())
        .take_while(|line| !line.is_empty())
}

/// Checks the head of a request of HTTP/2, which says in fields what stands in the first line of HTTP/1, by
/// the same rules. There is no need to find its end, but none of it must mean another thing to a host.
///
/// # Errors
/// It would be refused in HTTP/1.
pub fn check_fields<'a>(
    method: &[u8],
    target: &[u8],
    authority: Option<&'a [u8]>,
    headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<(), BadHead> {
    check_target(method, target)?;
    let mut found = Found::default();
    for (name, value) in headers {
        let is_text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
        // Blanks at the ends are no part of a value in HTTP/1, and forbidden here (RFC 9113, section 8.2.1).
        if !value.iter().all(is_text) || value.trim_ascii() != value {
            return Err(BadHead::HeaderLine);
        }
        found.note(name, value)?;
    }
    if authority.or(found.host).is_none() {
        return Err(BadHead::Host);
    }
    found.check_authority(authority)
}

fn check_target(method: &[u8], target: &[u8]) -> Result<(), BadHead> {
    let is_good = |byte: &u8| byte.is_ascii_graphic() && !NOT_IN_TARGETS.contains(byte);
    if !is_token(method) || target.is_empty() || !target.iter().all(is_good) {
        return Err(BadHead::RequestLine);
    }
    if target.len() > LONGEST_TARGET {
        let limit = LONGEST_TARGET;
        return Err(BadHead::TooLarge { limit });
    }
    if method == b"CONNECT" {
        return Err(BadHead::Connect);
    }
    Ok(())
}

struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    is_1_0: bool,
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, BadHead> {
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(BadHead::RequestLine);
        };
        let is_1_0 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(BadHead::RequestLine),
        };
        check_target(method, target)?;
        Ok(Self {
            method,
            target,
            is_1_0,
        })
    }

    /// The host that the target names, if it does.
    fn authority(&self) -> Result<Option<&'a [u8]>, BadHead> {
        if self.target.starts_with(b"/") || self.target == b"*" {
            return Ok(None);
        }
        let schemes: [&[u8]; 2] = [b"http://", b"https://"];
        let rest = schemes.iter().find_map(|scheme| {
            let (start, rest) = self.target.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        });
        let rest = rest.ok_or(BadHead::RequestLine)?;
        let authority = rest.split(|byte| b"/?".contains(byte)).next();
        Ok(authority)
    }
}

/// Name and value of a header line.
fn header(line: &[u8]) -> Result<(&[u8], &[u8]), BadHead> {
    let colon = memchr::memchr(b':', line);
    let (name, value) = line.split_at(colon.ok_or(BadHead::HeaderLine)?);
    // A line that goes on from the one before starts with a blank, which no name does.
    if !is_token(name) {
        return Err(BadHead::HeaderLine);
    }
    let value = value.get(1..).unwrap_or_default();
    Ok((name, value.trim_ascii()))
}

/// Is this a name, as methods and headers have them?
pub fn is_token(text: &[u8]) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128_u8 {
            table[byte as usize] = byte.is_ascii_alphanumeric();
            byte += 1;
        }
        let mut rest: &[u8] = b"!#$%&'*+-.^_`|~";
        while let Some((byte, after)) = rest.split_first() {
            table[*byte as usize] = true;
            rest = after;
        }
        table
    };
    !text.is_empty() && text.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// The headers that decide where a request goes and where it ends.
#[derive(Default)]
struct Found<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    is_chunked: bool,
}

impl<'a> Found<'a> {
    fn note(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), BadHead> {
        if name.eq_ignore_ascii_case(b"host") {
            if self.host.is_some() || !is_host(value) {
                return Err(BadHead::Host);
            }
            self.host = Some(value);
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let length = number(value).filter(|_| self.length.is_none());
            let length = length.ok_or(BadHead::Length)?;
            if length > LONGEST_BODY {
                return Err(BadHead::Endless);
            }
            self.length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(BadHead::Coding);
            }
            self.is_chunked = true;
        }
        Ok(())
    }

    fn check(&self, request: &RequestLine<'_>) -> Result<Body, BadHead> {
        if self.length.is_some() && self.is_chunked {
            return Err(BadHead::LengthAndCoding);
        }
        if request.is_1_0 && self.is_chunked {
            return Err(BadHead::Coding);
        }
        if !request.is_1_0 && self.host.is_none() {
            return Err(BadHead::Host);
        }
        self.check_authority(request.authority()?)?;
        Ok(if self.is_chunked {
            Body::Chunked
        } else {
            Body::Length(self.length.unwrap_or_default())
        })
    }

    /// `named`: the host that the target names, if it does.
    fn check_authority(&self, named: Option<&[u8]>) -> Result<(), BadHead> {
        match named {
            Some(named) if !is_host(named) => Err(BadHead::Target),
            Some(named) if self.host.is_some_and(|host| host != named) => Err(BadHead::Target),
            _ => Ok(()),
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).unwrap_or_default();
    text.parse().ok().filter(|_| digits)
}

/// A name or an address, perhaps with a port; no user.
fn is_host(value: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(value) else {
        return false;
    };
    let host = authority.host();
    let is_good = match host.strip_prefix('[') {
        Some(address) => {
            let address = address.strip_suffix(']').map(str::parse::<Ipv6Addr>);
            address.is_some_and(|address| address.is_ok())
        }
        None => !host.is_empty(),
    };
    // With a user, it does not begin with the host.
    let port = authority.as_str().strip_prefix(host);
    is_good && port.is_some_and(is_port)
}

/// None, an empty one or a number, after its colon.
fn is_port(text: &str) -> bool {
    let number = text.strip_prefix(':').unwrap_or(text);
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    number.is_empty() || (is_number && number.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes: 200,
        headers: 4,
    };

    /// `Ok` if it is let in.
    fn judge(head: &str) -> Result<(), BadHead> {
        let length = Scanner::new(LIMITS).scan(head.as_bytes())?;
        let length = length.expect("a whole head");
        check(&head.as_bytes()[..length]).map(|_| ())
    }

    fn with(headers: &str) -> Result<(), BadHead> {
        judge(&format!("POST /embed HTTP/1.1\r\nHost: a\r\n{headers}\r\n"))
    }

    fn line(line: &str) -> Result<(), BadHead> {
        judge(&format!("{line}\r\nHost: a.example:80\r\n\r\n"))
    }

    #[test]
    fn ordinary_heads_are_let_in() {
        for headers in [
            "",
            "Content-Length: 0\r\n",
            "Content-Length:17\r\n",
            "transfer-encoding: Chunked\r\n",
            "X-Empty:\r\nX-Tab:\ta\tb\r\nX-Colons: a:b::c\r\n",
            "X-Latin: caf\u{e9}\r\n",
        ] {
            assert_eq!(with(headers), Ok(()), "{headers:?}");
        }
        for request in [
            "GET / HTTP/1.1",
            "POST /embed?x=%20&y HTTP/1.0",
            "OPTIONS * HTTP/1.1",
            "GET http://a.example:80/embed HTTP/1.1",
            "GET HTTP://a.example:80 HTTP/1.1",
        ] {
            assert_eq!(line(request), Ok(()), "{request:?}");
        }
        for host in ["a:", "a:65535", "1.2.3.4:80", "[::1]", "[::1]:80", "a_b"] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(judge(&head), Ok(()), "{host}");
        }
        assert_eq!(judge("GET / HTTP/1.0\r\n\r\n"), Ok(()));
        assert_eq!(judge("\r\n\r\nGET / HTTP/1.0\r\n\r\n"), Ok(()));
    }

    #[test]
    fn what_follows_a_head_is_told() {
        for (headers, body) in [
            ("", Body::Length(0)),
            ("Content-Length: 017\r\n", Body::Length(17)),
            ("transfer-encoding: Chunked\r\n", Body::Chunked),
        ] {
            let head = format!("POST /embed HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
            let found = check(head.as_bytes()).map(|head| head.body);
            assert_eq!(found, Ok(body), "{headers:?}");
        }
    }

    #[test]
    fn doubtful_bodies_are_refused() {
        for (headers, expected) in [
            (
                "Content-Length: 1\r\nContent-Length: 1\r\n",
                BadHead::Length,
            ),
            ("Content-Length: 1, 1\r\n", BadHead::Length),
            ("Content-Length: +1\r\n", BadHead::Length),
            ("Content-Length: 0x1\r\n", BadHead::Length),
            ("Content-Length: 1 1\r\n", BadHead::Length),
            ("Content-Length:\r\n", BadHead::Length),
            ("Content-Length: 99999999999999999999\r\n", BadHead::Length),
            ("Transfer-Encoding: gzip, chunked\r\n", BadHead::Coding),
            ("Transfer-Encoding: chunked, identity\r\n", BadHead::Coding),
            ("Transfer-Encoding: xchunked\r\n", BadHead::Coding),
            ("Transfer-Encoding: \"chunked\"\r\n", BadHead::Coding),
            ("Transfer-Encoding:\r\n", BadHead::Coding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                BadHead::Coding,
            ),
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                BadHead::LengthAndCoding,
            ),
        ] {
            assert_eq!(with(headers), Err(expected), "{headers:?}");
        }
        let old = judge("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(old, Err(BadHead::Coding));
    }

    #[test]
    fn doubtful_lines_are_refused() {
        for (headers, expected) in [
            ("X : 1\r\n", BadHead::HeaderLine),
            (" X: 1\r\n", BadHead::HeaderLine),
            ("X: 1\r\n 2\r\n", BadHead::HeaderLine),
            ("X: 1\r\n\t2: 3\r\n", BadHead::HeaderLine),
            ("X\r\n", BadHead::HeaderLine),
            (": 1\r\n", BadHead::HeaderLine),
            ("X\u{e9}: 1\r\n", BadHead::HeaderLine),
            ("X(y): 1\r\n", BadHead::HeaderLine),
            ("X: 1\nY: 2\r\n", BadHead::Control),
            ("X: 1\rY: 2\r\n", BadHead::Control),
            ("X: 1\r\r\n", BadHead::Control),
            ("X: \0\r\n", BadHead::Control),
            ("X: \x0b\r\n", BadHead::Control),
            ("X: \x7f\r\n", BadHead::Control),
            ("Host: a\r\n", BadHead::Host),
        ] {
            assert_eq!(with(headers), Err(expected), "{headers:?}");
        }
    }

    #[test]
    fn a_client_that_speaks_tls_is_told_so() {
        for start in [&b"\x16"[..], b"\x16\x03\x01\x02\0\x01"] {
            assert_eq!(Scanner::new(LIMITS).scan(start), Err(BadHead::Tls));
        }
    }

    #[test]
    fn doubtful_targets_and_hosts_are_refused() {
        for (request, expected) in [
            ("GET  / HTTP/1.1", BadHead::RequestLine),
            ("GET /\t HTTP/1.1", BadHead::RequestLine),
            ("GET / HTTP/1.1 ", BadHead::RequestLine),
            (" GET / HTTP/1.1", BadHead::RequestLine),
            ("GET / HTTP/2.0", BadHead::RequestLine),
            ("GET / http/1.1", BadHead::RequestLine),
            ("GET /", BadHead::RequestLine),
            ("G@T / HTTP/1.1", BadHead::RequestLine),
            ("GET embed HTTP/1.1", BadHead::RequestLine),
            ("GET /\u{e9} HTTP/1.1", BadHead::RequestLine),
            ("GET /#x HTTP/1.1", BadHead::RequestLine),
            ("GET /<x> HTTP/1.1", BadHead::RequestLine),
            ("GET /?\"x HTTP/1.1", BadHead::RequestLine),
            ("GET /` HTTP/1.1", BadHead::RequestLine),
            ("GET ftp://a.example:80/ HTTP/1.1", BadHead::RequestLine),
            ("CONNECT a.example:80 HTTP/1.1", BadHead::Connect),
            ("GET http://b.example/ HTTP/1.1", BadHead::Target),
            ("GET http://a.example/ HTTP/1.1", BadHead::Target),
            ("GET http://u@a.example:80/ HTTP/1.1", BadHead::Target),
            ("GET http:///embed HTTP/1.1", BadHead::Target),
        ] {
            assert_eq!(line(request), Err(expected), "{request:?}");
        }
        for host in [
            "",
            "Host:\r\n",
            "Host: a b\r\n",
            "Host: u@a\r\n",
            "Host: a/b\r\n",
            "Host: a:b\r\n",
            "Host: a:+80\r\n",
            "Host: a:65536\r\n",
            "Host: :80\r\n",
            "Host: [a]\r\n",
            "Host: [::1\r\n",
            "Host: [::1]a\r\n",
        ] {
            let head = format!("GET / HTTP/1.1\r\n{host}\r\n");
            assert_eq!(judge(&head), Err(BadHead::Host), "{host:?}");
        }
    }

    /// Without a connection to smuggle anything on, HTTP/2 is held to the same.
    #[test]
    fn fields_are_judged_as_lines_are() {
        let fields = |method: &str,
                      target: &str,
                      authority: Option<&'static str>,
                      headers: &[(&str, &str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            check_fields(
                method.as_bytes(),
                target.as_bytes(),
                authority.map(str::as_bytes),
                headers,
            )
        };
        let a = Some("a");
        for (method, target, authority, headers, expected) in [
            ("POST", "/embed?x=%20", a, &[][..], Ok(())),
            ("OPTIONS", "*", a, &[("x", "caf\u{e9}\ty")], Ok(())),
            ("GET", "/", None, &[("host", "a")], Ok(())),
            (
                "GET",
                "/",
                a,
                &[("host", "a"), ("content-length", "1")],
                Ok(()),
            ),
            ("GET", "/\u{e9}", a, &[], Err(BadHead::RequestLine)),
            ("GET", "/\u{7f}", a, &[], Err(BadHead::RequestLine)),
            ("GET", "/a b", a, &[], Err(BadHead::RequestLine)),
            ("GET", "/#x", a, &[], Err(BadHead::RequestLine)),
            ("GET", "", a, &[], Err(BadHead::RequestLine)),
            ("CONNECT", "a:1", a, &[], Err(BadHead::Connect)),
            ("GET", "/", None, &[], Err(BadHead::Host)),
            ("GET", "/", a, &[("host", "")], Err(BadHead::Host)),
            (
                "GET",
                "/",
                a,
                &[("host", "a"), ("host", "a")],
                Err(BadHead::Host),
            ),
            ("GET", "/", a, &[("host", "b")], Err(BadHead::Target)),
            ("GET", "/", Some("u@a"), &[], Err(BadHead::Target)),
            ("GET", "/", Some(""), &[], Err(BadHead::Target)),
            (
                "GET",
                "/",
                a,
                &[("content-length", "+1")],
                Err(BadHead::Length),
            ),
            (
                "GET",
                "/",
                a,
                &[("transfer-encoding", "x")],
                Err(BadHead::Coding),
            ),
            ("GET", "/", a, &[("x", " a")], Err(BadHead::HeaderLine)),
            ("GET", "/", a, &[("x", "a\t")], Err(BadHead::HeaderLine)),
            ("GET", "/", a, &[("x", "a\rb")], Err(BadHead::HeaderLine)),
        ] {
            let judged = fields(method, target, authority, headers);
            assert_eq!(
                judged, expected,
                "{method} {target:?} {authority:?} {headers:?}"
            );
        }
    }

    #[test]
    fn the_end_is_found_however_a_head_arrives() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let mut scanner = Scanner::new(LIMITS);
        let found = (1..=head.len()).find_map(|length| {
            let whole = scanner.scan(&head[..length]).unwrap();
            whole.map(|end| (length, end))
        });
        assert_eq!(found, Some((27, 27)));
        assert_eq!(Scanner::new(LIMITS).scan(head), Ok(Some(27)));
    }

    #[test]
    fn heads_are_bounded() {
        let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(200));
        let limit = LIMITS.bytes;
        let result = Scanner::new(LIMITS).scan(long.as_bytes());
        assert_eq!(result, Err(BadHead::TooLarge { limit }));
        let whole = format!("{long}\r\n\r\n");
        let result = Scanner::new(LIMITS).scan(whole.as_bytes());
        assert_eq!(
            result,
            Err(BadHead::TooLarge { limit }),
            "however it arrives"
        );
        assert_eq!(with("A: 1\r\nB: 2\r\nC: 3\r\n"), Ok(()));
        let five = with("A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n");
        assert_eq!(five, Err(BadHead::TooMany { limit: 4 }));
        assert_eq!(five.unwrap_err().status(), 431);
    }

    /// Bytes like those of a head, with anything in between.
    fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            Just(b"GET / HTTP/1.1\r\n".to_vec()),
            Just(b"Host: a\r\n".to_vec()),
            Just(b"Content-Length: 1\r\n".to_vec()),
            Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn assert_as_httparse_reads(head: &Head<'_>) {
        let mut slots = [httparse::EMPTY_HEADER; 8];
        let mut request = httparse::Request::new(&mut slots);
        let parsed = request.parse(head.whole);
        assert_eq!(parsed, Ok(httparse::Status::Complete(head.whole.len())));
        assert_eq!(request.method.map(str::as_bytes), Some(head.method));
        assert_eq!(request.path.map(str::as_bytes), Some(head.target));
        let version = u8::from(!head.is_1_0);
        assert_eq!(request.version, Some(version));
        let theirs = request.headers.iter();
        let theirs: Vec<_> = theirs.map(|it| (it.name.as_bytes(), it.value)).collect();
        assert_eq!(head.headers().collect::<Vec<_>>(), theirs);
        assert_eq!(head.count, theirs.len());
    }

    proptest! {
        #[test]
        fn what_is_let_in_is_parsed_by_all(
            scheme in "(http://a(:80)?)?", target in "[/*a?][ -~]{0,9}", host in "[ -~]{0,9}",
        ) {
            let head = format!("GET {scheme}{target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            if let Ok(found) = check(head.as_bytes()) {
                assert_as_httparse_reads(&found);
                prop_assert!(http::Uri::try_from(found.target).is_ok(), "{head:?}");
            }
        }

        #[test]
        fn what_is_let_in_does_not_depend_on_how_it_arrives(
            head in nearly_a_head(),
            sizes in prop::collection::vec(1_usize..20, 0..40),
        ) {
            let at_once = Scanner::new(LIMITS).scan(&head);
            let mut scanner = Scanner::new(LIMITS);
            let ends = sizes.iter().scan(0, |end, size| {
                *end += size;
                Some((*end).min(head.len()))
            });
            let in_pieces = ends
                .chain([head.len()])
                .map(|end| scanner.scan(&head[..end]))
                .find(|found| *found != Ok(None))
                .unwrap_or(Ok(None));
            prop_assert_eq!(in_pieces, at_once);
            if let Ok(Some(length)) = at_once && let Ok(found) = check(&head[..length]) {
                assert_as_httparse_reads(&found);
                let text = String::from_utf8_lossy(&head[..length]).to_lowercase();
                let framings = text.matches("\r\ncontent-length:").count()
                    + text.matches("\r\ntransfer-encoding:").count();
                prop_assert!(framings <= 1, "{text:?}");
                prop_assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
            }
        }
    }
}
