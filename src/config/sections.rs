//! The sections of the configuration: their keys, their defaults, and what must fit together.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use serde_yaml::Value;

use super::reader::{Report, Section};
use super::{
    Auth, ClientKey, Config, Health, Host, Limits, Policy, Pool, Queue, Surroundings, Timeouts,
};

const DEFAULT_LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, gpu_bridge_wire::DEFAULT_PORT);
const DEFAULT_ADMIN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9765);

const MISSING_HOSTS: &str = "is missing; list at least one host with name and url";

const SECOND: Duration = Duration::from_secs(1);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Reads everything. `None` only if something is wrong that was reported.
pub(super) fn read(
    value: &Value,
    surroundings: &Surroundings<'_>,
    report: &Report,
) -> Option<Config> {
    Section::read(value, String::new(), surroundings, report, |root| {
        let listen = listen(root);
        let admin = root.section("admin", |admin| address(admin, DEFAULT_ADMIN.into()));
        let auth = root.section("auth", auth);
        let pool = root.section("pool", pool);
        let health = root.section("health", health);
        let queue = root.section("queue", queue);
        let timeouts = root.section("timeouts", timeouts);
        let limits = root.section("limits", limits);
        Some(Config {
            listen: listen?,
            admin: admin?,
            auth: auth?,
            pool: pool?,
            health,
            queue,
            timeouts,
            limits,
        })
    })
}

fn listen(root: &Section<'_>) -> Option<Vec<SocketAddr>> {
    let listed = root.list("listen", |item| {
        item.not_yet("tls", "put a TLS terminator in front");
        address(item, DEFAULT_LISTEN.into())
    });
    let Some(listed) = listed else {
        return (!root.has("listen")).then(|| vec![DEFAULT_LISTEN.into()]);
    };
    if listed.is_empty() {
        return root.problem(
            "listen",
            "lists no address; leave the key out for 0.0.0.0:8765",
        );
    }
    let fixed = listed.iter().enumerate().filter_map(|(position, address)| {
        address
            .filter(|address| address.port() != 0)
            .map(|address| (position, address))
    });
    refuse_repeated(root, "listen", "address", fixed);
    listed.into_iter().collect()
}

fn address(section: &Section<'_>, default: SocketAddr) -> Option<SocketAddr> {
    let Some(text) = section.text("address") else {
        return (!section.has("address")).then_some(default);
    };
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => section.problem("address", "must be IP:PORT, e.g. 0.0.0.0:8765 or [::]:8765"),
    }
}

fn auth(section: &Section<'_>) -> Option<Auth> {
    let listed = section.list("keys", |item| {
        let name = item.required_text("name");
        let key = item.secret("key", "key_file");
        if !item.has("key") && !item.has("key_file") {
            return item.problem("key", "is missing; write key or key_file");
        }
        Some(ClientKey {
            name: name?,
            key: key?,
        })
    });
    let listed = listed.unwrap_or_default();
    let names = values(&listed, |client| client.name.clone());
    refuse_repeated(section, "keys", "name", names);
    let keys = values(&listed, |client| client.key.expose().to_owned());
    refuse_repeated(section, "keys", "key", keys);
    listed
        .into_iter()
        .collect::<Option<_>>()
        .map(|keys| Auth { keys })
}

fn pool(section: &Section<'_>) -> Option<Pool> {
    let policy = policy(section);
    let Some(listed) = section.list("hosts", host) else {
        if !section.has("hosts") {
            section.complain("hosts", MISSING_HOSTS);
        }
        return None;
    };
    if listed.is_empty() {
        return section.problem("hosts", MISSING_HOSTS);
    }
    refuse_repeated(
        section,
        "hosts",
        "name",
        values(&listed, |host| host.name.clone()),
    );
    refuse_repeated(
        section,
        "hosts",
        "url",
        values(&listed, |host| host.url.to_string()),
    );
    let hosts = listed.into_iter().collect::<Option<_>>()?;
    Some(Pool {
        policy: policy?,
        hosts,
    })
}

fn policy(section: &Section<'_>) -> Option<Policy> {
    let supported = "use least-busy or round-robin";
    match section.text("policy").as_deref() {
        None => (!section.has("policy")).then_some(Policy::default()),
        Some("least-busy") => Some(Policy::LeastBusy),
        Some("round-robin") => Some(Policy::RoundRobin),
        Some("power-of-two" | "least-vram") => {
            section.problem("policy", format!("is not supported yet; {supported}"))
        }
        Some(_) => section.problem("policy", format!("is not a policy; {supported}")),
    }
}

fn host(section: &Section<'_>) -> Option<Host> {
    let name = section.required("name");
    let url = section.required("url");
    let api_key = section.secret("api_key", "api_key_file");
    section.not_yet("discover", "list each host with its own url");
    section.not_yet("weight", "leave it out");
    let max_concurrent = section
        .has("max_concurrent")
        .then(|| section.positive("max_concurrent", NonZeroU32::MIN));
    Some(Host {
        name: name?,
        url: url?,
        api_key,
        max_concurrent,
    })
}

fn health(section: &Section<'_>) -> Health {
    let two = NonZeroU32::MIN.saturating_add(1);
    Health {
        interval: section.duration("interval", 5 * SECOND),
        timeout: section.duration("timeout", 2 * SECOND),
        healthy_after: section.positive("healthy_after", NonZeroU32::MIN),
        unhealthy_after: section.positive("unhealthy_after", two),
    }
}

fn queue(section: &Section<'_>) -> Queue {
    Queue {
        max_waiting: section.count("max_waiting", 512, 0..=1_000_000) as usize,
        max_wait: section.duration("max_wait", 30 * SECOND),
    }
}

fn timeouts(section: &Section<'_>) -> Timeouts {
    Timeouts {
        connect: section.duration("connect", SECOND),
        attempt: section.duration("attempt", 60 * SECOND),
        client_read: section.duration("client_read", 30 * SECOND),
        shutdown: section.duration("shutdown", 60 * SECOND),
    }
}

fn limits(section: &Section<'_>) -> Limits {
    let limits = Limits {
        max_body: section.bytes("max_body", 32 * MIB),
        max_buffered: section.bytes("max_buffered", GIB),
        max_connections: section.count("max_connections", 4096, 1..=1_000_000) as usize,
    };
    if limits.max_body < KIB {
        section.complain("max_body", "must be at least 1KiB");
    }
    if limits.max_buffered < limits.max_body {
        section.complain("max_buffered", "must be at least max_body");
    }
    limits
}

/// The values of the items that could be read, with their positions.
fn values<T, V>(items: &[Option<T>], value: impl Fn(&T) -> V) -> impl Iterator<Item = (usize, V)> {
    items
        .iter()
        .enumerate()
        .filter_map(move |(position, item)| Some((position, value(item.as_ref()?))))
}

/// Reports values that stand more than once, without repeating them (they may be keys).
fn refuse_repeated<V: Eq + Hash>(
    section: &Section<'_>,
    key: &'static str,
    field: &str,
    values: impl Iterator<Item = (usize, V)>,
) {
    let mut first = HashMap::new();
    for (position, value) in values {
        if let Some(earlier) = first.get(&value) {
            let text = format!("is the same as of {key}[{earlier}]; each must be unique");
            section.problem_in(key, position, field, &text);
        } else {
            first.insert(value, position);
        }
    }
}
