//! Which headers end at a proxy (RFC 9110, section 7.6.1) and which go on; what some of them say.

use std::collections::HashSet;

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
    /// By `Connection`; only headers that there are.
    named: HashSet<HeaderName>,
}

impl HopByHop {
    /// Those of a message with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let connection = headers.get_all(header::CONNECTION).iter();
        let tokens = connection
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim);
        let present = tokens.filter(|token| headers.contains_key(*token));
        Self {
            named: present.filter_map(|token| token.parse().ok()).collect(),
        }
    }

    /// Is `name` one of them?
    pub fn has(&self, name: &HeaderName) -> bool {
        HOP_BY_HOP.contains(name)
            || HOP_BY_HOP_UNREGISTERED.contains(&name.as_str())
            || is_for_proxies(name)
            || self.named.contains(name)
    }
}

/// Between a client and its proxy, except what tells how all proxies on the way fared (RFC 9209).
fn is_for_proxies(name: &HeaderName) -> bool {
    name.as_str().starts_with("proxy-") && name.as_str() != "proxy-status"
}

/// Does a header that is a list of words, perhaps over several lines, have this one?
pub fn lists(headers: &HeaderMap, name: &HeaderName, word: &[u8]) -> bool {
    let lines = headers.get_all(name).iter();
    let mut words = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    words.any(|it| it.trim_ascii().eq_ignore_ascii_case(word))
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

/// Changes the headers of a request to those of one in JSON, whose answer can be read here.
pub fn in_json(headers: &mut HeaderMap) {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::ACCEPT, JSON);
    headers.remove(header::ACCEPT_ENCODING);
}

/// Is the body JSON, as its headers say?
pub fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|it| it == "application/json" || it.ends_with("+json"))
}

/// In lower case, without parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = text.split(';').next()?;
    Some(essence.trim().to_ascii_lowercase())
}

/// The headers of a host's answer that go on to the client; framing is set anew there. Which pages may read it
/// (CORS) is the proxy's to say: a host says it of its own address.
pub fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    let hop_by_hop = HopByHop::of(&headers);
    let stays = |name: &HeaderName| {
        *name != header::CONTENT_LENGTH
            && !hop_by_hop.has(name)
            && !name.as_str().starts_with("access-control-")
    };
    let gone: Vec<_> = headers
        .keys()
        .filter(|name| !stays(name))
        .cloned()
        .collect();
    for name in gone {
        headers.remove(name);
    }
    headers
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
        assert_eq!(
            found.named,
            HashSet::from([HeaderName::from_static("x-private")])
        );
    }

    #[test]
    fn passes_on_what_is_end_to_end() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
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
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers.append("x-model", "b".parse().unwrap());
        let passed = end_to_end(headers);
        assert_eq!(passed.len(), 3);
        assert_eq!(passed[header::CONTENT_TYPE], "application/json");
        assert_eq!(passed.get_all("x-model").iter().count(), 2);
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
