//! Who may use the proxy: clients with one of the configured keys, or everybody if there are none.
//!
//! A key comes as `X-API-Key` or as `Authorization: Bearer`. A request that shows two different keys
//! shows none: guessing which one is meant would let two parties see it differently.
//!
//! What the holders of keys may use is the pool's to know.

use std::sync::Arc;

use gpu_bridge_wire::API_KEY_HEADER;
use http::{HeaderMap, HeaderName, header};
use subtle::ConstantTimeEq;

use crate::config::ClientKey;
use crate::headers::{self, bearer};

const PRIORITY: HeaderName = HeaderName::from_static("priority");
/// The lowest.
const BACKGROUND: u8 = 0;

/// Who a request comes from.
#[derive(Clone)]
pub(super) enum Identity {
    /// No keys are configured.
    Anyone,
    /// The holder of a key.
    Client {
        /// Its name in the configuration.
        name: Arc<str>,
        /// Requests of a higher priority are served first.
        priority: u8,
    },
}

/// The request shows no key that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unauthorized;

/// Whose of these `clients`' keys a request with these headers shows; if there are no clients, everybody is
/// let in. Looks at all keys in any case, so that the time it takes does not tell which one was close.
///
/// # Errors
/// [`Unauthorized`] if it is nobody's.
pub(super) fn identify(
    clients: &[ClientKey],
    headers: &HeaderMap,
) -> Result<Identity, Unauthorized> {
    if clients.is_empty() {
        return Ok(Identity::Anyone);
    }
    let presented = presented(headers).ok_or(Unauthorized)?;
    let found = clients.iter().fold(None, |found, client| {
        if client.key.matches(presented) {
            Some(client)
        } else {
            found
        }
    });
    let client = found.ok_or(Unauthorized)?;
    Ok(Identity::Client {
        name: Arc::clone(&client.name),
        priority: client.priority,
    })
}

impl Identity {
    /// The client's name, if it has one.
    pub(super) fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Anyone => None,
            Self::Client { name, .. } => Some(name),
        }
    }

    /// Of a request with these headers, which may ask to run in the background of all others (RFC 9218, section
    /// 4.1). It can't ask for more than its key gives.
    pub(super) fn priority(&self, headers: &HeaderMap) -> u8 {
        match self {
            _ if headers::lists(headers, &PRIORITY, b"u=7") => BACKGROUND,
            Self::Anyone => BACKGROUND + 1,
            Self::Client { priority, .. } => priority.saturating_add(BACKGROUND + 1),
        }
    }
}

/// How many keys the headers show, for those who wonder why theirs is not known.
pub(super) fn keys_shown(headers: &HeaderMap) -> usize {
    keys(headers).count()
}

/// The one key that the headers show; `None` if they show none, or different ones.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let mut keys = keys(headers);
    let first = keys.next()?;
    keys.all(|other| bool::from(first.ct_eq(other)))
        .then_some(first)
}

fn keys(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let plain = headers
        .get_all(API_KEY_HEADER)
        .iter()
        .map(http::HeaderValue::as_bytes);
    let bearer = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .filter_map(bearer)
        .map(<[u8]>::trim_ascii);
    plain.chain(bearer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn key(name: &str, key: &str) -> ClientKey {
        ClientKey {
            name: name.into(),
            key: Secret::from(key.to_owned()),
            priority: 3,
            max_concurrent: None,
            max_per_second: None,
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, value.parse().unwrap())
            })
            .collect()
    }

    fn name(clients: &[ClientKey], pairs: &[(&'static str, &str)]) -> Option<String> {
        let identity = identify(clients, &headers(pairs)).ok()?;
        Some(identity.name().map_or("anyone", |name| name).to_owned())
    }

    #[test]
    fn a_request_may_ask_for_less_than_its_key_gives_and_for_nothing_else() {
        let client = identify(&[key("ann", "k")], &headers(&[("x-api-key", "k")]))
            .ok()
            .unwrap();
        let of = |identity: &Identity, value| identity.priority(&headers(&[("priority", value)]));
        for usual in ["u=0", "u=3, i", "i", "u=77", "7"] {
            assert_eq!(of(&client, usual), 4, "{usual}");
            assert_eq!(of(&Identity::Anyone, usual), 1, "{usual}");
        }
        for background in ["u=7", "i, u=7"] {
            assert_eq!(of(&client, background), 0, "{background}");
            assert_eq!(of(&Identity::Anyone, background), 0, "{background}");
        }
    }

    #[test]
    fn without_keys_everybody_is_let_in() {
        assert_eq!(name(&[], &[]).as_deref(), Some("anyone"));
        let odd = [("x-api-key", "x"), ("authorization", "Bearer y")];
        assert_eq!(name(&[], &odd).as_deref(), Some("anyone"));
    }

    #[test]
    fn with_keys_only_their_holders_are() {
        let clients = [key("one", "aaaa"), key("two", "bbbb")];
        let (plain, bearer) = ("x-api-key", "authorization");
        let table = [
            (vec![(plain, "bbbb")], Some("two")),
            (vec![(bearer, "Bearer aaaa")], Some("one")),
            (vec![(bearer, "bearer  aaaa ")], Some("one")),
            (vec![(plain, "aaaa"), (bearer, "Bearer aaaa")], Some("one")),
            (vec![(plain, "aaaa"), (plain, "aaaa")], Some("one")),
            (vec![(plain, "aaaa"), (bearer, "Basic eDp5")], Some("one")),
            (vec![(plain, "aaaa"), (bearer, "Bearer bbbb")], None),
            (vec![(plain, "aaaa"), (bearer, "Bearer wrong")], None),
            (vec![(plain, "aaaa"), (plain, "bbbb")], None),
            (vec![(bearer, "Basic aaaa")], None),
            (vec![(bearer, "aaaa")], None),
            (vec![(bearer, "Bearer")], None),
            (vec![(bearer, "Bearer ")], None),
            (vec![(plain, "")], None),
            (vec![(plain, "aaa")], None),
            (vec![(plain, "aaaab")], None),
            (vec![(plain, "AAAA")], None),
            (vec![], None),
        ];
        for (presented, expected) in table {
            let found = name(&clients, &presented);
            assert_eq!(found.as_deref(), expected, "{presented:?}");
        }
    }
}
