//! Where a request comes from, and how hosts are told (`X-Forwarded-*`, RFC 7239's `Forwarded`).
//!
//! Anybody can write these headers. They are believed only if the peer, who last touched them, is one
//! of `headers.trusted_proxies`; what it wrote is then gone through from the right, since each proxy
//! appends the address that it saw, and the first address that is no trusted proxy is the client's.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::protocols::SocketDigest;
use pingora::protocols::l4::socket::SocketAddr;

use super::session::Session;
use crate::config;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What else is only worth something from a proxy that is trusted.
const OTHERS: [HeaderName; 4] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
];

/// Where one request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The other end of the connection.
    peer: Option<IpAddr>,
    /// May what it says of others be believed?
    is_trusted: bool,
    is_tls: bool,
    /// The client, as far as we can know.
    pub(super) client: Option<IpAddr>,
}

/// Where the request of `session` comes from, for who believes whom these settings say.
pub(super) fn origin(settings: &config::Headers, session: &Session<'_>) -> Origin {
    let headers = &session.head().headers;
    judge(settings, session.peer(), session.is_tls(), headers)
}

fn judge(
    settings: &config::Headers,
    peer: Option<IpAddr>,
    is_tls: bool,
    headers: &HeaderMap,
) -> Origin {
    let is_trusted = peer.is_some_and(|peer| settings.trusts(peer));
    let mut client = peer;
    if is_trusted {
        // From the right; an entry that can't be read ends what can be known.
        for entry in list(headers, &FORWARDED_FOR).into_iter().rev() {
            let Some(address) = parse(&entry) else { break };
            client = Some(address);
            if !settings.trusts(address) {
                break;
            }
        }
    }
    Origin {
        peer,
        is_trusted,
        is_tls,
        client,
    }
}

impl Origin {
    /// Is `name` of a header that says where a request comes from, of a client that can't be believed?
    pub(super) fn disbelieves(&self, name: &HeaderName) -> bool {
        let is_claim =
            || *name == FORWARDED_FOR || *name == FORWARDED_PROTO || OTHERS.contains(name);
        !self.is_trusted && is_claim()
    }
}

/// Tells hosts: changes `headers`, the client's without those that are not [believed](Origin::disbelieves).
pub(super) fn tell(
    settings: &config::Headers,
    origin: &Origin,
    host: Option<&str>,
    headers: &mut HeaderMap,
) {
    if let Some(peer) = origin.peer {
        append(headers, &FORWARDED_FOR, &written(peer));
    }
    let proto = if origin.is_tls { "https" } else { "http" };
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static(proto));
    if settings.forwarded {
        let element = element(origin.peer, proto, host);
        append(headers, &header::FORWARDED, &element);
    }
}

/// The address at the other end of a connection.
pub(super) fn peer_of(digest: Option<&SocketDigest>) -> Option<IpAddr> {
    address_of(digest?.peer_addr()?)
}

fn address_of(address: &SocketAddr) -> Option<IpAddr> {
    Some(address.as_inet()?.ip().to_canonical())
}

/// One element of `Forwarded`.
fn element(peer: Option<IpAddr>, proto: &str, host: Option<&str>) -> String {
    let node = match peer {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    };
    // A host that was let in has neither quotes nor backslashes.
    let host = host.filter(|host| !host.contains(['"', '\\']));
    let host = host.map_or(String::new(), |host| format!(";host=\"{host}\""));
    format!("for={node}{host};proto={proto}")
}

/// As text; by hand for the usual kind, as its `Display` takes five times as long.
fn written(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else {
        return address.to_string();
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    for octet in address.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(itoa::Buffer::new().format(octet));
    }
    text
}

/// The entries of a list that may be spread over several lines. Empty ones mean nothing (RFC 9110, 5.6.1).
fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter();
    let entries = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let entries = entries.map(<[u8]>::trim_ascii);
    entries
        .filter(|entry| !entry.is_empty())
        .map(|entry| String::from_utf8_lossy(entry).into_owned())
        .collect()
}

/// Appends to a list, making one line of it.
fn append(headers: &mut HeaderMap, name: &HeaderName, entry: &str) {
    if !headers.contains_key(name) {
        // What can't be written is left out.
        let line = HeaderValue::from_str(entry).ok();
        headers.extend(line.map(|line| (name.clone(), line)));
        return;
    }
    let entries = list(headers, name);
    let line = match entries.as_slice() {
        [] => HeaderValue::from_str(entry),
        before => HeaderValue::from_str(&format!("{}, {entry}", before.join(", "))),
    };
    // What can't be written is left out rather than passed on half.
    let line = line.or_else(|_| HeaderValue::from_str(entry));
    if let Ok(line) = line {
        headers.insert(name, line);
    }
}

/// An address, with or without a port.
fn parse(entry: &str) -> Option<IpAddr> {
    let bare = entry
        .strip_prefix('[')
        .and_then(|entry| entry.strip_suffix(']'));
    let address = bare.unwrap_or(entry).parse::<IpAddr>().ok();
    let with_port = || Some(entry.parse::<std::net::SocketAddr>().ok()?.ip());
    Some(address.or_else(with_port)?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(trusted: &[&str], forwarded: bool) -> config::Headers {
        config::Headers {
            served_by: true,
            forwarded,
            trusted_proxies: trusted.iter().map(|range| range.parse().unwrap()).collect(),
        }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_no_trusted_proxy() {
        let settings = settings(&["10.0.0.0/8"], false);
        let table: &[(&str, &[&str], &str)] = &[
            ("192.0.2.9", &["203.0.113.1"], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.1"], "203.0.113.1"),
            ("10.0.0.1", &["198.51.100.1, 203.0.113.1"], "203.0.113.1"),
            ("10.0.0.1", &["203.0.113.1, 10.0.0.2"], "203.0.113.1"),
            ("10.0.0.1", &["203.0.113.1", "10.0.0.2"], "203.0.113.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["203.0.113.1, nonsense"], "10.0.0.1"),
            (
                "10.0.0.1",
                &[",, 203.0.113.1, ,10.0.0.2,", ","],
                "203.0.113.1",
            ),
            ("10.0.0.1", &["nonsense, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["203.0.113.1:4711"], "203.0.113.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
        ];
        for (peer, lines, expected) in table {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            let origin = judge(&settings, Some(ip(peer)), false, &headers);
            assert_eq!(origin.client, Some(ip(expected)), "{peer} {lines:?}");
        }
    }

    fn told(
        settings: &config::Headers,
        peer: &str,
        is_tls: bool,
        lines: &[(&'static str, &str)],
    ) -> HeaderMap {
        let claimed = headers(lines);
        let origin = judge(settings, Some(ip(peer)), is_tls, &claimed);
        let mut headers = HeaderMap::new();
        for (name, value) in &claimed {
            if !origin.disbelieves(name) {
                headers.append(name, value.clone());
            }
        }
        tell(settings, &origin, Some("proxy.example:8765"), &mut headers);
        headers
    }

    const CLAIMS: &[(&str, &str)] = &[
        ("x-forwarded-for", "203.0.113.1"),
        ("x-forwarded-for", "203.0.113.2"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=203.0.113.1"),
        ("x-real-ip", "203.0.113.1"),
        ("x-other", "1"),
    ];

    #[test]
    fn what_a_stranger_claims_is_replaced() {
        let headers = told(
            &settings(&["10.0.0.0/8"], false),
            "192.0.2.9",
            false,
            CLAIMS,
        );
        assert_eq!(headers["x-forwarded-for"], "192.0.2.9");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-other"], "1");
        assert_eq!(headers.len(), 3, "{headers:?}");
    }

    #[test]
    fn what_a_trusted_proxy_says_is_added_to() {
        let headers = told(&settings(&["10.0.0.0/8"], true), "10.0.0.1", false, CLAIMS);
        let chain = "203.0.113.1, 203.0.113.2, 10.0.0.1";
        assert_eq!(headers["x-forwarded-for"], chain);
        assert_eq!(headers["x-forwarded-proto"], "https");
        let forwarded = "for=203.0.113.1, for=10.0.0.1;host=\"proxy.example:8765\";proto=http";
        assert_eq!(headers["forwarded"], forwarded);
        assert_eq!(headers["x-real-ip"], "203.0.113.1");
    }

    #[test]
    fn empty_entries_are_not_multiplied() {
        let commas = [("x-forwarded-for", ",".repeat(60_000))];
        let claims = commas
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let headers = told(
            &settings(&["10.0.0.0/8"], false),
            "10.0.0.1",
            false,
            &claims,
        );
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
    }

    #[test]
    fn forwarded_is_written_if_asked_for_with_ipv6_quoted() {
        let headers = told(&settings(&[], true), "2001:db8::7", true, &[]);
        let forwarded = "for=\"[2001:db8::7]\";host=\"proxy.example:8765\";proto=https";
        assert_eq!(headers["forwarded"], forwarded);
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-for"], "2001:db8::7");
    }
}
