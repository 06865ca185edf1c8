//! A host as it is to be: what the configuration says of it, at one address if it was discovered.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::tls::Tls;
use crate::config::{self, Api};
use crate::pool::HostSpec;

/// See the module.
#[derive(Clone, Debug)]
pub struct Member {
    /// Under its own name, which holds the address of a discovered host.
    pub(super) host: config::Host,
    /// Where a discovered host is; others are looked up by the name in their URL.
    pub(super) address: Option<IpAddr>,
    pub(super) tls: Option<Arc<Tls>>,
}

impl Member {
    /// A host of the configuration.
    pub fn new(host: &config::Host) -> Self {
        Self {
            host: host.clone(),
            address: None,
            tls: Tls::new(&host.url, &host.tls).map(Arc::new),
        }
    }

    /// The host that was found behind the name of this one.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Self {
        let mut found = self.clone();
        found.host.name = self.host.name.at(address);
        found.address = Some(address);
        found
    }

    /// What the pool needs to know of it. Another endpoint is another host, even under the same name.
    pub(super) fn spec(&self) -> HostSpec {
        HostSpec {
            name: self.host.name.clone(),
            endpoint: self.endpoint(),
            max_concurrent: self.host.max_concurrent,
            weight: self.host.weight,
            max_items: self.host.max_items,
            sums_tokens: matches!(self.host.api, Api::OpenAi(_)),
        }
    }

    fn endpoint(&self) -> String {
        match self.address {
            Some(address) => format!("{} at {address}", self.host.url),
            None => self.host.url.to_string(),
        }
    }

    /// Is it connected to in the same way, with the same key, and asked the same?
    pub(super) fn is_reached_like(&self, other: &Self) -> bool {
        let way = |member: &Self| config::Host {
            // What the pool decides by, and how hosts are found.
            max_concurrent: None,
            weight: NonZeroU32::MIN,
            max_items: None,
            discover: None,
            ..member.host.clone()
        };
        self.address == other.address && way(self) == way(other)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{member, openai};
    use super::*;
    use crate::config::Secret;

    #[test]
    fn what_makes_it_another_host_and_what_another_way_to_the_same_one() {
        let one = member("a", "http://gpu.example:1");
        let mut rekeyed = one.clone();
        rekeyed.host.api_key = Some(Secret::from("new".to_owned()));
        assert_eq!(one.endpoint(), rekeyed.endpoint());
        assert!(!one.is_reached_like(&rekeyed));
        let mut heavier = one.clone();
        heavier.host.weight = std::num::NonZeroU32::new(7).unwrap();
        assert!(one.is_reached_like(&heavier));
        let mut other = one.clone();
        other.host.api = Api::OpenAi(openai(&[]).into());
        assert!(!one.is_reached_like(&other));
        let moved = member("a", "http://gpu.example:2");
        assert_ne!(one.endpoint(), moved.endpoint());
        let found = |address: &str| one.at(address.parse().unwrap());
        assert_ne!(found("10.0.0.1").endpoint(), found("10.0.0.2").endpoint());
        assert_ne!(found("10.0.0.1").endpoint(), one.endpoint());
        assert_eq!(found("10.0.0.1").host.name.to_string(), "a-10.0.0.1");
    }

    #[test]
    fn tls_is_the_same_while_its_settings_and_files_are() {
        let one = member("a", "https://gpu.example:1");
        assert!(one.is_reached_like(&member("a", "https://gpu.example:1")));
        let mut config = one.host.clone();
        config.tls.server_name = Some("other.example".to_owned());
        assert!(!one.is_reached_like(&Member::new(&config)));
    }
}
