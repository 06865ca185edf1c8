//! What the hosts of a configuration make necessary to ask: names to look up, Services to watch.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{Discover, Host, Service};

/// What is asked about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) name: String,
    /// The shortest that any of its hosts wants.
    pub(super) interval: Option<Duration>,
    /// Whom to ask; `None`: as the system does.
    pub(super) server: Option<SocketAddr>,
}

impl Question {
    /// Is it asked for this host?
    pub(super) fn is_of(&self, host: &Host) -> bool {
        is_looked_up(host) && host.url.host() == self.name
    }
}

/// One question for each name that has to be looked up.
pub(super) fn questions(hosts: &[Host], server: Option<SocketAddr>) -> HashMap<String, Question> {
    let mut questions = HashMap::new();
    for host in hosts.iter().filter(|host| is_looked_up(host)) {
        let name = host.url.host().to_owned();
        let question = questions.entry(name.clone()).or_insert(Question {
            name,
            interval: None,
            server,
        });
        let wanted = match &host.discover {
            Some(Discover::Dns { interval }) => *interval,
            _ => None,
        };
        question.interval = question.interval.into_iter().chain(wanted).min();
    }
    questions
}

/// The Services that have to be watched.
pub(super) fn services(hosts: &[Host]) -> HashSet<Service> {
    let services = hosts.iter().filter_map(|host| match &host.discover {
        Some(Discover::Kubernetes(service)) => Some(service.clone()),
        _ => None,
    });
    services.collect()
}

fn is_looked_up(host: &Host) -> bool {
    !host.url.is_literal() && !matches!(host.discover, Some(Discover::Kubernetes(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_name_is_looked_up_once_and_that_of_a_service_not_at_all() {
        let hosts = "pool: {hosts: [
            {name: a, url: 'http://one:1'},
            {name: b, url: 'http://one:2', discover: dns, discover_interval: 5s},
            {name: c, url: 'http://one:3', discover: dns, discover_interval: 9s},
            {name: d, url: 'http://10.0.0.1:1'},
            {name: e, url: 'http://gpus:1', discover: kubernetes},
            {name: f, url: 'http://gpus.ml:1', discover: kubernetes}]}";
        let hosts = Config::for_testing(hosts).pool.hosts;
        let asked: Vec<_> = questions(&hosts, None).into_values().collect();
        let one = Question {
            name: "one".to_owned(),
            interval: Some(Duration::from_secs(5)),
            server: None,
        };
        assert_eq!(asked, std::slice::from_ref(&one));
        let is_of: Vec<bool> = hosts.iter().map(|host| one.is_of(host)).collect();
        assert_eq!(is_of, [true, true, true, false, false, false]);
        let watched = services(&hosts);
        let names = watched.iter().map(|service| service.namespace.as_deref());
        assert_eq!(names.collect::<HashSet<_>>(), [None, Some("ml")].into());
    }
}
