//! Which headers end at a proxy (RFC 9110, section 7.6.1) and which go on; what some of them say.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers that are about one connection, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const HOP_BY_HOP_UNREGISTERED: [&str; 2] = ["keep-alive", "http2-settings"];

/// Which headers of a message are about the connection on which it came. `Connection` is read once, since
/// it may be as long as the whole head.
pub struct HopByHop {
    /// By `Connection`; only headers that there are, which are few.
    named: Vec<HeaderName>,
}

impl HopByHop {
    /// Those of a message with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let connection = headers.get_all(header::CONNECTION).iter();
        Self {
            named: named(connection.map(HeaderValue::as_bytes), headers),
        }
    }

    /// Is `name` one of them?
    pub fn has(&self, name: &HeaderName) -> bool {
        is_always_hop_by_hop(name) || self.named.contains(name)
    }
}

/// Which of `headers` the lines of `connection` name, each once.
pub fn named<'a>(
    connection: impl Iterator<Item = &'a [u8]>,
    headers: &HeaderMap,
) -> Vec<HeaderName> {
    let mut named = Vec::new();
    for token in words(connection).filter(|token| !is_usual(token)) {
        let name = HeaderName::from_bytes(token).ok();
        let new = name.filter(|name| headers.contains_key(name) && !named.contains(name));
        named.extend(new);
    }
    named
}

/// Does `Connection` name a header that is known, or none? It nearly always does.
fn is_usual(token: &[u8]) -> bool {
    token.is_empty() || token.eq_ignore_ascii_case(b"keep-alive")
}

fn is_always_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
        || HOP_BY_HOP_UNREGISTERED.contains(&name.as_str())
        || is_for_proxies(name)
}

/// Between a client and its proxy, except what tells how all proxies on the way fared (RFC 9209).
fn is_for_proxies(name: &HeaderName) -> bool {
    name.as_str().starts_with("proxy-") && name.as_str() != "proxy-status"
}

/// Does a header that is a list of words, perhaps over several lines, have this one?
pub fn lists(headers: &HeaderMap, name: &HeaderName, word: &[u8]) -> bool {
    let lines = headers.get_all(name).iter();
    words(lines.map(HeaderValue::as_bytes)).any(|it| it.eq_ignore_ascii_case(word))
}

/// The words of such lists.
pub fn words<'a>(lines: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    let words = lines.flat_map(|line| line.split(|byte| *byte == b','));
    words.map(<[u8]>::trim_ascii)
}

/// Is the body in another form than its type says (`Content-Encoding`)?
pub fn is_coded(headers: &HeaderMap) -> bool {
    codings(headers).next().is_some()
}

/// How the body is coded, first things first.
pub fn codings(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::CONTENT_ENCODING).iter();
    let codings = words(lines.map(HeaderValue::as_bytes));
    codings.filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// Is the name made of letters, digits and `-`, as all names in use are? Many a host hands headers on in
/// variables (CGI, WSGI), in which `X_Api_Key` or `X.Api.Key` can't be told from `X-Api-Key`.
pub fn is_plain(name: &HeaderName) -> bool {
    let mut bytes = name.as_str().bytes();
    bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// What follows the scheme in `Authorization: Bearer TOKEN`; `None` for another scheme.
pub fn bearer(authorization: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = authorization
        .as_bytes()
        .split_at_checked(b"bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// Changes the headers of a request to those of one in JSON.
pub fn in_json(headers: &mut HeaderMap) {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::ACCEPT, JSON);
}

/// Is the body JSON, as its headers say?
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let essence = value.as_bytes().split(|byte| *byte == b';').next();
    let essence = essence.unwrap_or_default().trim_ascii();
    let suffix = essence.len().checked_sub(b"+json".len());
    let suffix = suffix
        .and_then(|from| essence.get(from..))
        .unwrap_or_default();
    essence.eq_ignore_ascii_case(b"application/json") || suffix.eq_ignore_ascii_case(b"+json")
}

/// What a client asks only if, or of which part, which hosts are not told: they compute a result anew, and it may be put
/// together from what several of them say.
pub const CONDITIONS: [HeaderName; 6] = [
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
];
/// What a host says of such results, and of the address at which the proxy finds it, not a client.
const OF_HOSTS: [HeaderName; 7] = [
    header::ACCEPT_RANGES,
    header::ALT_SVC,
    header::CONTENT_RANGE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::SERVER,
    header::STRICT_TRANSPORT_SECURITY,
];

/// Does a header of a host's answer go on to the client, unless `Connection` names it? Framing is set anew there.
/// Which pages may read the answer (CORS) is the proxy's to say: a host says it of its own address.
pub fn goes_on(name: &HeaderName) -> bool {
    *name != header::CONTENT_LENGTH
        && !is_always_hop_by_hop(name)
        && !OF_HOSTS.contains(name)
        && !name.as_str().starts_with("access-control-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connection_names_is_noted_once_however_much_it_is() {
        let mut headers = HeaderMap::new();
        let tokens: String = "X-Private, n,".repeat(20_000);
        headers.append("connection", tokens.parse().unwrap());
        headers.append("x-private", "1".parse().unwrap());
        let found = HopByHop::of(&headers);
        assert_eq!(found.named, [HeaderName::from_static("x-private")]);
    }

    #[test]
    fn json_is_told_by_the_type_of_the_content() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/html", false),
            ("text/plain; note=application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(is_json(&headers), expected, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
