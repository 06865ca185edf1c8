//! Who may use the proxy: clients with one of the configured keys, or everybody if there are none.
//!
//! A key comes as `X-API-Key` or as `Authorization: Bearer`. A request that shows two different keys
//! shows none: guessing which one is meant would let two parties see it differently.
//!
//! The keys can be replaced while requests are served. What their holders may use is the pool's to
//! know.

use std::sync::Arc;

use arc_swap::ArcSwap;
use gpu_bridge_wire::API_KEY_HEADER;
use http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use crate::config::{ClientKey, Secret};
use crate::headers::bearer;

/// The keys of all clients.
pub struct Auth {
    clients: ArcSwap<Vec<Arc<Client>>>,
}

/// The holder of a key.
pub struct Client {
    name: Arc<str>,
    key: Secret,
    priority: u8,
}

/// Who a request comes from.
#[derive(Clone)]
pub enum Identity {
    /// No keys are configured.
    Anyone,
    /// The holder of a key.
    Client(Arc<Client>),
}

/// The request shows no key that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unauthorized;

impl Auth {
    /// `keys`: none = open.
    pub fn new(keys: Vec<ClientKey>) -> Self {
        let auth = Self {
            clients: ArcSwap::default(),
        };
        auth.set(keys);
        auth
    }

    /// Lets the holders of `keys` in from now on, and nobody else.
    pub fn set(&self, keys: Vec<ClientKey>) {
        let client = |key: ClientKey| {
            Arc::new(Client {
                name: key.name.into(),
                key: key.key,
                priority: key.priority,
            })
        };
        let clients: Vec<_> = keys.into_iter().map(client).collect();
        self.clients.store(Arc::new(clients));
    }

    /// May everybody in?
    pub fn is_open(&self) -> bool {
        self.clients.load().is_empty()
    }

    /// Whose key a request with these headers shows. Looks at all keys in any case, so that the time
    /// it takes does not tell which one was close.
    ///
    /// # Errors
    /// [`Unauthorized`] if it is nobody's.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Identity, Unauthorized> {
        let clients = self.clients.load();
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
        Ok(Identity::Client(Arc::clone(client)))
    }
}

impl Client {
    /// Its name in the configuration.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Identity {
    /// The client's name, if it has one.
    pub fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Anyone => None,
            Self::Client(client) => Some(client.name()),
        }
    }

    /// Requests of a higher priority are served first.
    pub fn priority(&self) -> u8 {
        match self {
            Self::Anyone => 0,
            Self::Client(client) => client.priority,
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

    fn key(name: &str, key: &str) -> ClientKey {
        ClientKey {
            name: name.to_owned(),
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

    fn identify(auth: &Auth, pairs: &[(&'static str, &str)]) -> Option<String> {
        let identity = auth.identify(&headers(pairs)).ok()?;
        Some(identity.name().map_or("anyone", |name| name).to_owned())
    }

    #[test]
    fn without_keys_everybody_is_let_in() {
        let auth = Auth::new(Vec::new());
        assert!(auth.is_open());
        assert_eq!(identify(&auth, &[]).as_deref(), Some("anyone"));
        let odd = [("x-api-key", "x"), ("authorization", "Bearer y")];
        assert_eq!(identify(&auth, &odd).as_deref(), Some("anyone"));
    }

    #[test]
    fn with_keys_only_their_holders_are() {
        let auth = Auth::new(vec![key("one", "aaaa"), key("two", "bbbb")]);
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
            let found = identify(&auth, &presented);
            assert_eq!(found.as_deref(), expected, "{presented:?}");
        }
    }

    #[test]
    fn new_keys_replace_the_old() {
        let auth = Auth::new(vec![key("one", "old"), key("gone", "other")]);
        let identity = auth.identify(&headers(&[("x-api-key", "old")])).unwrap();
        assert_eq!(identity.priority(), 3);

        auth.set(vec![key("one", "new")]);

        assert_eq!(identify(&auth, &[("x-api-key", "old")]), None);
        assert_eq!(identify(&auth, &[("x-api-key", "other")]), None);
        let one = identify(&auth, &[("x-api-key", "new")]);
        assert_eq!(one.as_deref(), Some("one"));
    }
}
