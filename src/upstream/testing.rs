//! Hosts for this module's tests.

use super::Member;
use crate::config::{Config, Discover};

/// A host with nothing special about it.
pub(super) fn member(name: &str, url: &str) -> Member {
    let hosts = format!("pool: {{hosts: [{{name: '{name}', url: '{url}'}}]}}");
    Member::new(&Config::for_testing(&hosts).pool.hosts[0])
}

/// One that stands for all that are found behind its name.
pub(super) fn discovered(name: &str, url: &str) -> Member {
    let mut member = member(name, url);
    member.host.discover = Some(Discover { interval: None });
    member
}
