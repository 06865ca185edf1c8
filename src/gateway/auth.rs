//! Who may use the proxy: clients with one of the configured keys, or everybody if there are none.

use crate::config::ClientKey;

/// The keys of all clients.
pub struct Auth {
    keys: Vec<ClientKey>,
}

/// Who a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client<'a> {
    /// No keys are configured.
    Anyone,
    /// The holder of the key with this name.
    Named(&'a str),
}

impl Auth {
    /// `keys`: none = open.
    pub fn new(keys: Vec<ClientKey>) -> Self {
        Self { keys }
    }

    /// May everybody in?
    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who presents `key`; `None` if nobody that we know. Looks at all keys in any case, so that the
    /// time it takes does not tell which one was close.
    pub fn identify(&self, key: Option<&[u8]>) -> Option<Client<'_>> {
        if self.is_open() {
            return Some(Client::Anyone);
        }
        let presented = key?;
        self.keys.iter().fold(None, |found, known| {
            if known.key.matches(presented) {
                Some(Client::Named(&known.name))
            } else {
                found
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn auth(keys: &[(&str, &str)]) -> Auth {
        let key = |(name, key): &(&str, &str)| ClientKey {
            name: (*name).to_owned(),
            key: Secret::from((*key).to_owned()),
            priority: 0,
            max_concurrent: None,
            max_per_second: None,
        };
        Auth::new(keys.iter().map(key).collect())
    }

    #[test]
    fn without_keys_everybody_is_let_in() {
        assert_eq!(auth(&[]).identify(None), Some(Client::Anyone));
        assert_eq!(auth(&[]).identify(Some(b"x")), Some(Client::Anyone));
    }

    #[test]
    fn with_keys_only_their_holders_are() {
        let auth = auth(&[("one", "aaaa"), ("two", "bbbb")]);
        assert_eq!(auth.identify(Some(b"bbbb")), Some(Client::Named("two")));
        for wrong in [
            None,
            Some(&b""[..]),
            Some(b"aaa"),
            Some(b"aaaab"),
            Some(b"AAAA"),
        ] {
            assert_eq!(auth.identify(wrong), None, "{wrong:?}");
        }
    }
}
