//! Hosts for this module's tests.

use std::num::NonZeroU32;

use super::Member;
use crate::config::{ClientTls, Discover, Host};

/// A host with nothing special about it.
pub(super) fn member(name: &str, url: &str) -> Member {
    let host = Host {
        name: name.parse().unwrap(),
        url: url.parse().unwrap(),
        api_key: None,
        max_concurrent: None,
        weight: NonZeroU32::MIN,
        tls: ClientTls::default(),
        discover: None,
    };
    Member::new(&host)
}

/// One that stands for all that are found behind its name.
pub(super) fn discovered(name: &str, url: &str) -> Member {
    let mut member = member(name, url);
    member.host.discover = Some(Discover { interval: None });
    member
}
