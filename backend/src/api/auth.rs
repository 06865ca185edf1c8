//! Who may ask: one shared key in `X-API-Key` or as a bearer token, or everybody where none is configured.
//!
//! Checked before anything else, so that without the key nobody learns which paths exist. Only
//! `/health` and `/ready`, exactly, are open, for load balancers and orchestrators.

use std::fmt;

use gpu_bridge_wire::API_KEY_HEADER;
use http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use super::route;

/// A secret that can be compared but never shown.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// True if no key was given in fact: an empty one means that everybody may ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if every client can present this key: of other characters one sends the bytes of UTF-8, another those
    /// of Latin-1, and some nothing at all.
    pub fn is_sendable(&self) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        self.0.bytes().all(is_plain) && self.0.trim() == self.0
    }

    /// Compares in time that depends on the lengths alone.
    fn matches(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }
}

impl From<String> for ApiKey {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(hidden)")
    }
}

/// True if a request for `path` with `headers` may go on; `key` is `None` where auth is off.
pub(super) fn permits(key: Option<&ApiKey>, path: &str, headers: &HeaderMap) -> bool {
    key.is_none() || route::is_open(path) || shows(key, headers)
}

/// True if it shows the key that there is.
pub(super) fn shows(key: Option<&ApiKey>, headers: &HeaderMap) -> bool {
    let Some(key) = key else { return false };
    headers
        .get(API_KEY_HEADER)
        .is_some_and(|presented| key.matches(presented.as_bytes()))
        || bearer(headers).is_some_and(|token| key.matches(token))
}

/// The token of `Authorization: Bearer TOKEN`; the scheme's case doesn't matter (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn presenting(key: Option<&'static str>) -> HeaderMap {
        key.map(|key| {
            (
                http::HeaderName::from_static(API_KEY_HEADER),
                HeaderValue::from_static(key),
            )
        })
        .into_iter()
        .collect()
    }

    #[test]
    fn only_the_exact_key_opens_anything_but_the_probes() {
        let key = ApiKey::from("s3cret-Key".to_owned());
        let table = [
            ("/info", Some("s3cret-Key"), true),
            ("/info", None, false),
            ("/info", Some(""), false),
            ("/info", Some("S3CRET-KEY"), false),
            ("/info", Some("s3cret-Key2"), false),
            ("/nope", None, false),
            ("/health", None, true),
            ("/health", Some("wrong"), true),
            ("/ready", None, true),
            ("/ready/", None, false),
            ("/health/", None, false),
            ("/Health", None, false),
        ];
        for (path, presented, expected) in table {
            let headers = presenting(presented);
            assert_eq!(
                permits(Some(&key), path, &headers),
                expected,
                "{path} {presented:?}"
            );
        }
    }

    #[test]
    fn a_bearer_token_opens_what_the_key_opens() {
        let key = ApiKey::from("s3cret-Key".to_owned());
        let table = [
            ("/metrics", "Bearer s3cret-Key", true),
            ("/metrics", "bearer s3cret-Key", true),
            ("/metrics", "Bearer wrong", false),
            ("/metrics", "Basic s3cret-Key", false),
            ("/metrics", "s3cret-Key", false),
            ("/metrics", "", false),
            ("/v1/embeddings", "Bearer s3cret-Key", true),
            ("/v1/other", "Bearer s3cret-Key", true),
            ("/v1/models", "Bearer wrong", false),
            ("/nope", "Bearer s3cret-Key", true),
            ("/embed", "Bearer s3cret-Key", true),
            ("/info", "Bearer s3cret-Key2", false),
        ];
        for (path, value, expected) in table {
            let headers =
                HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]);
            assert_eq!(
                permits(Some(&key), path, &headers),
                expected,
                "{path} {value}"
            );
        }
        assert!(!permits(Some(&key), "/metrics", &presenting(None)));
        assert!(permits(
            Some(&key),
            "/metrics",
            &presenting(Some("s3cret-Key"))
        ));
        assert!(permits(None, "/metrics", &presenting(None)));
    }

    #[test]
    fn without_a_key_everybody_may_ask() {
        assert!(permits(None, "/info", &presenting(None)));
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::from("s3cret-Key".to_owned());
        assert!(!format!("{key:?} {:#?}", Some(&key)).contains("s3cret"));
    }

    #[test]
    fn a_key_that_not_every_client_can_send_is_noticed() {
        assert!(ApiKey::from("a b".to_owned()).is_sendable());
        for odd in [
            "a\nb",
            " padded ",
            "key\n",
            " ",
            "a\tb",
            "cl\u{e9}",
            "\u{5bc6}\u{94a5}",
        ] {
            assert!(!ApiKey::from(odd.to_owned()).is_sendable(), "{odd:?}");
        }
    }
}
