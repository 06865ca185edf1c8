//! A host as it is to be: what the configuration says of it, at one place if it was discovered.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::tls::Tls;
use crate::config::{self, Api};
use crate::pool::{HostSpec, Origin};

/// See the module.
#[derive(Clone, Debug)]
pub struct Member {
    /// Under its own name, which holds the address of a discovered host.
    pub(super) host: config::Host,
    /// Where a discovered host is; others are looked up by the name in their URL.
    pub(super) place: Option<Place>,
    pub(super) tls: Option<Arc<Tls>>,
}

/// Where a host was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    /// Who told of it.
    pub(super) origin: Origin,
}

impl Member {
    /// A host of the configuration.
    pub fn new(host: &config::Host) -> Self {
        Self {
            host: host.clone(),
            place: None,
            tls: Tls::new(&host.url, &host.tls).map(Arc::new),
        }
    }

    /// The host that was found behind the name of this one.
    #[must_use]
    pub(super) fn at(&self, place: Place) -> Self {
        let mut found = self.clone();
        found.host.name = self.host.name.at(place.address.ip());
        found.place = Some(place);
        found
    }

    /// Where it is, if it was discovered.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.place.as_ref().map(|place| place.address)
    }

    /// What the pool needs to know of it. Another endpoint is another host, even under the same name.
    pub(super) fn spec(&self) -> HostSpec {
        HostSpec {
            name: self.host.name.clone(),
            endpoint: self.endpoint(),
            max_concurrent: self.host.max_concurrent,
            weight: self.host.weight,
            max_items: self.host.max_items,
            tells_less: matches!(self.host.api, Api::OpenAi(_)),
            origin: self.origin(),
        }
    }

    fn origin(&self) -> Origin {
        let found = self.place.as_ref();
        found.map_or(Origin::Configured, |place| place.origin.clone())
    }

    /// An address may pass from one pod to another.
    fn endpoint(&self) -> String {
        let url = &self.host.url;
        let Some(address) = self.address() else {
            return url.to_string();
        };
        let at = if address.port() == url.port() {
            format!("{url} at {}", address.ip())
        } else {
            format!("{url} at {address}")
        };
        match self.origin().pod() {
            Some(pod) => format!("{at}, pod {pod}"),
            None => at,
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
        self.address() == other.address() && way(self) == way(other)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{member, openai};
    use super::*;
    use crate::config::Secret;
    use crate::pool::Withdrawn;

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
        let found = |address: &str| {
            let address = address.parse().unwrap();
            one.at(Place {
                address,
                origin: Origin::Dns,
            })
        };
        let first = found("10.0.0.1:1");
        assert_ne!(first.endpoint(), found("10.0.0.2:1").endpoint());
        assert_ne!(first.endpoint(), found("10.0.0.1:2").endpoint());
        assert_ne!(first.endpoint(), one.endpoint());
        assert_eq!(first.host.name.to_string(), "a-10.0.0.1");
    }

    #[test]
    fn an_address_of_another_pod_is_another_host_and_a_withdrawn_one_is_the_same() {
        let one = member("a", "http://gpus:1");
        let found = |pod: &str, withdrawn| {
            let origin = Origin::Kubernetes {
                pod: Some(pod.into()),
                withdrawn,
            };
            let address = "10.0.0.1:8080".parse().unwrap();
            one.at(Place { address, origin })
        };
        let first = found("gpu-0", None);
        assert_eq!(
            first.endpoint(),
            "http://gpus:1 at 10.0.0.1:8080, pod gpu-0"
        );
        assert_ne!(first.endpoint(), found("gpu-1", None).endpoint());
        let withdrawn = found("gpu-0", Some(Withdrawn::Terminating));
        assert_eq!(first.endpoint(), withdrawn.endpoint());
        assert!(first.is_reached_like(&withdrawn));
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
