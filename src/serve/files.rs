//! Who may have how many files open: each connection is one, and the system allows only so many.
//!
//! ```text
//! all ─┬─ the proxy's own: what it listens on, the log, files and names that it looks up, and the last
//!      │  words of connections that had to make room
//!      ├─ an eighth, but no more than the admin address takes at all
//!      └─ the rest ─┬─ half: clients
//!                   └─ half: hosts, of whose connections each serves one request; more if there are so
//!                      many hosts, since the checks of each keep one, but not all that clients have
//! ```
//!
//! Shared out once, at the start, so that no client can use up what hosts and operators need: with
//! all files in use the proxy could neither check nor reach a host, nor tell anybody.

use crate::admin;

/// The proxy's own, half of them for connections that have no place any more but have yet to end.
const OWN: u64 = 64;
/// What is left for operators where little is allowed.
const LEAST_OPERATORS: u64 = 4;

/// Connections at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) clients: usize,
    pub(super) operators: usize,
}

/// How many files must be allowed for so many connections of clients, each of which may need one to a
/// host, and for one to each host: its checks keep it.
fn needed(clients: usize, hosts: usize) -> u64 {
    let connections = clients + clients.max(hosts) + admin::MAX_CONNECTIONS;
    OWN + connections as u64
}

/// Allows as many open files as the system lets us, and shares them out. `wanted`: the most
/// connections that clients are to have; `hosts`: how many there are.
pub(super) fn share(wanted: usize, hosts: usize) -> Shares {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of open files can't be raised");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(soft, _)| soft)
    });
    let shares = Shares::of(limit, wanted, hosts);
    let needed = needed(wanted, hosts);
    if limit < needed {
        tracing::warn!(
            open_files = limit,
            needed,
            connections = shares.clients,
            wanted,
            "too few open files are allowed for limits.max_connections and the hosts: fewer clients may \
             connect; raise the limit to what is needed (LimitNOFILE, ulimit -n)"
        );
    }
    shares
}

impl Shares {
    fn of(limit: u64, wanted: usize, hosts: usize) -> Self {
        let own = OWN.min(limit / 2);
        let most = admin::MAX_CONNECTIONS as u64;
        let operators = (limit / 8).clamp(LEAST_OPERATORS, most);
        let rest = limit.saturating_sub(own + operators);
        let beside_hosts = rest.saturating_sub(hosts as u64).max(rest / 4);
        let clients = beside_hosts.min(rest / 2);
        let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            clients: whole(clients).clamp(1, wanted),
            operators: whole(operators),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Surroundings};

    #[test]
    fn what_is_needed_is_enough_and_no_more_than_that() {
        for (clients, hosts) in [(1, 0), (100, 2), (100, 1000), (4096, 8)] {
            let needed = needed(clients, hosts);
            // The admin address takes an eighth where that is less than all of its own.
            if needed < 8 * admin::MAX_CONNECTIONS as u64 {
                continue;
            }
            let shares = Shares::of(needed, clients, hosts);
            assert_eq!(shares.clients, clients);
            let own = usize::try_from(OWN).unwrap() + shares.operators;
            let left = usize::try_from(needed).unwrap() - own - clients;
            assert_eq!(left, clients.max(hosts), "for hosts");
        }
    }

    #[test]
    fn many_hosts_need_more_than_half() {
        for (hosts, clients) in [(0, 416), (432, 400), (500, 332), (1000, 208)] {
            assert_eq!(
                Shares::of(1024, 4096, hosts).clients,
                clients,
                "{hosts} hosts"
            );
        }
    }

    #[test]
    fn all_places_ask_for_the_same_number() {
        let surroundings = Surroundings {
            variable: &|_| None,
            folder: std::path::Path::new(""),
        };
        let text = "pool: {hosts: [{name: a, url: 'http://a:1'}]}";
        let config = config::parse(text, &surroundings);
        let needed = needed(config.unwrap().limits.max_connections, 1);
        let unit = include_str!("../../config/gpu-bridge.service");
        assert!(
            unit.contains(&format!("\nLimitNOFILE={needed}\n")),
            "{needed}"
        );
        let documents = include_str!("../../docs/tls-and-limits.md");
        let asked = format!("`LimitNOFILE` must be {needed} or more");
        assert!(documents.contains(&asked), "{needed}");
    }

    #[test]
    fn nobody_gets_what_others_need() {
        let table = [
            (u64::MAX, 4096, 4096, 128),
            (1 << 20, 4096, 4096, 128),
            (1024, 4096, 416, 128),
            (1024, 100, 100, 128),
            (256, 4096, 80, 32),
            (60, 4096, 11, 7),
            (20, 4096, 3, 4),
            (8, 4096, 1, 4),
            (0, 4096, 1, 4),
        ];
        for (limit, wanted, clients, operators) in table {
            let expected = Shares { clients, operators };
            assert_eq!(Shares::of(limit, wanted, 2), expected, "{limit} files");
        }
    }
}
