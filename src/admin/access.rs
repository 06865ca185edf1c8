//! Who may see and do what on the admin address.
//!
//! | | with `admin.key` | without |
//! | --- | --- | --- |
//! | `/healthz`, `/readyz`, the page's files | everybody | everybody |
//! | `/metrics` | the key | everybody |
//! | what shows the pool | the key | everybody, by an address or as localhost |
//! | what changes it | the key, the mark | this machine, by an address or as localhost, the mark |
//!
//! A web page that an operator visits must not get far with the operator's own connection. It can't
//! send the *mark*, a header of ours (a browser would ask us first, and we don't answer that). And it
//! can't use a name of its own that it makes resolve to our address (DNS rebinding), because only
//! addresses and localhost are taken as `Host`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use gpu_bridge_wire::API_KEY_HEADER;

use crate::config::Secret;
use crate::headers::bearer;

/// The mark; its value does not matter.
pub const MARK: HeaderName = HeaderName::from_static("x-gpu-bridge");

/// What a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// To be scraped, often by a name of the network.
    Scrape,
    /// To look at the pool.
    Look,
    /// To change something.
    Operate,
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("this needs admin.key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`")]
    Key,
    #[error(
        "without admin.key, the admin address must be called by its IP address or as localhost"
    )]
    Name,
    #[error("without admin.key, operations are allowed from the proxy's own machine only")]
    Remote,
    #[error("operations need the header `X-Gpu-Bridge: 1`, which shows that no web page sent them")]
    Mark,
}

impl Denied {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Key => StatusCode::UNAUTHORIZED,
            Self::Name | Self::Remote | Self::Mark => StatusCode::FORBIDDEN,
        }
    }
}

/// May a request with these headers from `peer` do what it needs? `key`: [`Admin::key`](crate::config::Admin).
pub(super) fn decide(
    key: Option<&Secret>,
    need: Need,
    peer: IpAddr,
    headers: &HeaderMap,
) -> Result<(), Denied> {
    match key {
        Some(key) if !presented(headers).any(|presented| key.matches(presented)) => {
            return Err(Denied::Key);
        }
        None if need != Need::Scrape && !is_called_locally(headers) => {
            return Err(Denied::Name);
        }
        None if need == Need::Operate && (!is_this_machine(peer) || is_relayed(headers)) => {
            return Err(Denied::Remote);
        }
        _ => {}
    }
    if need == Need::Operate && !headers.contains_key(MARK) {
        return Err(Denied::Mark);
    }
    Ok(())
}

/// Sidecars of service meshes connect from other addresses of the loopback network.
fn is_this_machine(peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    peer == Ipv4Addr::LOCALHOST || peer == Ipv6Addr::LOCALHOST
}

/// Does a proxy in front say that somebody else asks?
fn is_relayed(headers: &HeaderMap) -> bool {
    let told = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    told.iter().any(|name| headers.contains_key(*name))
}

/// The keys that a request shows, in either way.
fn presented(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(bearer);
    let plain = headers.get(API_KEY_HEADER).map(HeaderValue::as_bytes);
    bearer.into_iter().chain(plain)
}

/// Does `Host` name an address or localhost?
fn is_called_locally(headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let Some(name) = host.map(without_port) else {
        return false;
    };
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || address.unwrap_or(name).parse::<IpAddr>().is_ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "127.0.0.1";
    const AWAY: &str = "192.168.1.7";

    fn decide(
        key: Option<&str>,
        need: Need,
        peer: &str,
        headers: &[(&str, &str)],
    ) -> Result<(), Denied> {
        let key = key.map(|key| Secret::from(key.to_owned()));
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), value.parse().unwrap()));
        super::decide(
            key.as_ref(),
            need,
            peer.parse().unwrap(),
            &headers.collect(),
        )
    }

    #[test]
    fn without_a_key_operations_are_local_and_marked() {
        let ask = |need, peer, host, mark: bool| {
            let mut headers = vec![("host", host)];
            headers.extend(mark.then_some(("x-gpu-bridge", "1")));
            decide(None, need, peer, &headers)
        };
        assert_eq!(ask(Need::Operate, HERE, "localhost:9765", true), Ok(()));
        assert_eq!(ask(Need::Operate, "::1", "[::1]:9765", true), Ok(()));
        assert_eq!(
            ask(Need::Operate, "::ffff:127.0.0.1", "127.0.0.1", true),
            Ok(())
        );
        assert_eq!(
            ask(Need::Operate, "127.0.0.6", "localhost", true),
            Err(Denied::Remote),
            "a sidecar"
        );
        let relayed = [
            ("host", "127.0.0.1:9765"),
            ("x-gpu-bridge", "1"),
            ("x-forwarded-for", AWAY),
        ];
        assert_eq!(
            decide(None, Need::Operate, HERE, &relayed),
            Err(Denied::Remote)
        );
        assert_eq!(
            ask(Need::Operate, HERE, "localhost", false),
            Err(Denied::Mark)
        );
        assert_eq!(
            ask(Need::Operate, AWAY, "192.168.1.2:9765", true),
            Err(Denied::Remote)
        );
        assert_eq!(
            ask(Need::Operate, HERE, "evil.example:9765", true),
            Err(Denied::Name)
        );
        assert_eq!(
            ask(Need::Look, HERE, "evil.example", false),
            Err(Denied::Name)
        );
        assert_eq!(ask(Need::Look, AWAY, "192.168.1.2:9765", false), Ok(()));
        assert_eq!(
            ask(Need::Scrape, AWAY, "gpu-bridge.monitoring:9765", false),
            Ok(())
        );
        assert_eq!(decide(None, Need::Look, HERE, &[]), Err(Denied::Name));
    }

    #[test]
    fn with_a_key_everything_needs_it_from_everywhere() {
        let ask = |need, headers: &[(&str, &str)]| decide(Some("secret"), need, AWAY, headers);
        for need in [Need::Scrape, Need::Look] {
            assert_eq!(ask(need, &[]), Err(Denied::Key));
            assert_eq!(ask(need, &[("x-api-key", "wrong")]), Err(Denied::Key));
            assert_eq!(
                ask(need, &[("authorization", "Basic secret")]),
                Err(Denied::Key)
            );
            assert_eq!(ask(need, &[("authorization", "Bearer secret")]), Ok(()));
            assert_eq!(ask(need, &[("authorization", "bearer secret")]), Ok(()));
            assert_eq!(
                ask(need, &[("x-api-key", "secret"), ("host", "proxy.example")]),
                Ok(())
            );
        }
        let key = ("x-api-key", "secret");
        assert_eq!(ask(Need::Operate, &[key]), Err(Denied::Mark));
        assert_eq!(ask(Need::Operate, &[key, ("x-gpu-bridge", "1")]), Ok(()));
        assert_eq!(
            ask(Need::Operate, &[("x-gpu-bridge", "1")]),
            Err(Denied::Key)
        );
    }
}
