//! The sections of the configuration: their keys, their defaults, and what must fit together.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use serde_yaml::Value;

use super::reader::{Report, Section};
use super::{
    Admin, Auth, ClientKey, ClientTls, Config, Discover, Headers, Health, Host, Limits, Listen,
    Network, Policy, Pool, Queue, Retries, ServerTls, Surroundings, Timeouts,
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
        let admin = root.section("admin", admin);
        let auth = root.section("auth", auth);
        let pool = root.section("pool", pool);
        let health = root.section("health", health);
        let queue = root.section("queue", queue);
        let retries = root.section("retries", retries);
        let timeouts = root.section("timeouts", timeouts);
        let limits = root.section("limits", limits);
        let headers = root.section("headers", headers);
        Some(Config {
            listen: listen?,
            admin: admin?,
            auth: auth?,
            pool: pool?,
            health,
            queue,
            retries,
            timeouts,
            limits,
            headers: headers?,
        })
    })
}

fn listen(root: &Section<'_>) -> Option<Vec<Listen>> {
    let listed = root.list("listen", |item| {
        let address = address(item, DEFAULT_LISTEN.into());
        let tls = if item.has("tls") {
            Some(item.section("tls", server_tls)?)
        } else {
            None
        };
        Some(Listen {
            address: address?,
            tls,
        })
    });
    let Some(listed) = listed else {
        let default = Listen {
            address: DEFAULT_LISTEN.into(),
            tls: None,
        };
        return (!root.has("listen")).then(|| vec![default]);
    };
    if listed.is_empty() {
        return root.problem(
            "listen",
            "lists no address; leave the key out for 0.0.0.0:8765",
        );
    }
    let addresses = values(&listed, |listen| listen.address);
    let fixed = addresses.filter(|(_, address)| address.port() != 0);
    refuse_repeated(root, "listen", "address", fixed);
    listed.into_iter().collect()
}

fn server_tls(section: &Section<'_>) -> Option<ServerTls> {
    let certificate = section.required_path("certificate");
    let key = section.required_path("key");
    let client_ca = section.path("client_ca");
    Some(ServerTls {
        certificate: certificate?,
        key: key?,
        client_ca,
    })
}

fn admin(section: &Section<'_>) -> Option<Admin> {
    let address = address(section, DEFAULT_ADMIN.into());
    let key = section.secret("key", "key_file");
    Some(Admin {
        address: address?,
        key,
    })
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
        let priority = item.count("priority", 0, 0..=9);
        let max_concurrent = optional_positive(item, "max_concurrent");
        let max_per_second = optional_positive(item, "max_per_second");
        Some(ClientKey {
            name: name?,
            key: key?,
            priority: u8::try_from(priority).unwrap_or(u8::MAX),
            max_concurrent,
            max_per_second,
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
    match section.text("policy").as_deref() {
        None => (!section.has("policy")).then_some(Policy::default()),
        Some("least-busy") => Some(Policy::LeastBusy),
        Some("round-robin") => Some(Policy::RoundRobin),
        Some("power-of-two") => Some(Policy::PowerOfTwo),
        Some("least-vram") => Some(Policy::LeastVram),
        Some(_) => section.problem(
            "policy",
            "is not a policy; use least-busy, round-robin, power-of-two or least-vram",
        ),
    }
}

fn host(section: &Section<'_>) -> Option<Host> {
    let name = section.required("name");
    let url = section.required("url");
    let api_key = section.secret("api_key", "api_key_file");
    let max_concurrent = optional_positive(section, "max_concurrent");
    let weight = section.count("weight", 1, 1..=1000);
    let tls = section.section("tls", client_tls);
    let discover = discover(section);
    Some(Host {
        name: name?,
        url: url?,
        api_key,
        max_concurrent,
        weight: NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN),
        tls: tls?,
        discover: discover?,
    })
}

fn client_tls(section: &Section<'_>) -> Option<ClientTls> {
    let certificate = section.path("certificate");
    let key = section.path("key");
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => return section.problem("key", "is missing; certificate needs it"),
        (None, Some(_)) => return section.problem("certificate", "is missing; key needs it"),
    };
    Some(ClientTls {
        ca: section.path("ca"),
        identity,
        server_name: section.text("server_name"),
        insecure: section.flag("insecure", false),
    })
}

fn discover(section: &Section<'_>) -> Option<Option<Discover>> {
    let interval = section
        .has("discover_interval")
        .then(|| section.duration("discover_interval", 30 * SECOND));
    if section.has("discover_interval") && !section.has("discover") {
        section.complain("discover_interval", "has no effect without discover: dns");
    }
    match section.text("discover").as_deref() {
        None => (!section.has("discover")).then_some(None),
        Some("dns") => Some(Some(Discover { interval })),
        Some(_) => section.problem("discover", "is not a way to find hosts; use dns"),
    }
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
        max_bytes: section.bytes("max_bytes", 512 * MIB),
        max_wait: section.duration("max_wait", 30 * SECOND),
    }
}

fn retries(section: &Section<'_>) -> Retries {
    let two = NonZeroU32::MIN.saturating_add(1);
    Retries {
        max_faulted_hosts: section.positive("max_faulted_hosts", two),
        budget_percent: section.count("budget_percent", 20, 1..=1000),
        hedge: section.flag("hedge", false),
    }
}

fn headers(section: &Section<'_>) -> Option<Headers> {
    Some(Headers {
        served_by: section.flag("served_by", true),
        forwarded: section.flag("forwarded", false),
        trusted_proxies: section.texts::<Network>("trusted_proxies")?,
    })
}

fn timeouts(section: &Section<'_>) -> Timeouts {
    Timeouts {
        connect: section.duration("connect", SECOND),
        attempt: section.duration("attempt", 60 * SECOND),
        client_head: section.duration("client_head", 10 * SECOND),
        client_read: section.duration("client_read", 30 * SECOND),
        client_idle: section.duration("client_idle", 75 * SECOND),
        shutdown: section.duration("shutdown", 60 * SECOND),
    }
}

fn limits(section: &Section<'_>) -> Limits {
    let limits = Limits {
        max_body: section.bytes("max_body", 32 * MIB),
        max_buffered: section.bytes("max_buffered", GIB),
        max_connections: section.count("max_connections", 4096, 1..=1_000_000) as usize,
        max_head: section.bytes("max_head", 64 * KIB),
        max_headers: section.count("max_headers", 100, 1..=1000) as usize,
    };
    if limits.max_head < KIB {
        section.complain("max_head", "must be at least 1KiB");
    }
    if limits.max_body < KIB {
        section.complain("max_body", "must be at least 1KiB");
    }
    if limits.max_buffered < limits.max_body {
        section.complain("max_buffered", "must be at least max_body");
    }
    limits
}

fn optional_positive(section: &Section<'_>, key: &'static str) -> Option<NonZeroU32> {
    section
        .has(key)
        .then(|| section.positive(key, NonZeroU32::MIN))
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
