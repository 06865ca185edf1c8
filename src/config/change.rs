//! What a new configuration changes for the one that runs, for people, and which of it a running proxy
//! can't take over.
//!
//! Pure: it compares two configurations and knows nothing of what runs. Never shows a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;

use super::{
    Api, ClientKey, Config, Discover, Host, HostName, Listen, OpenAi, Pinned, Policy, Service,
};
use gpu_bridge_certificates::{Authorities, Identity};

/// The differences, in the order of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change(Vec<Difference>);

/// One difference. Prints as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A host of the pool.
    Host(HostName, Happened),
    /// A client's key, by its name.
    Key(String, Happened),
    /// A setting, by its path.
    Setting {
        /// Such as `queue.max_wait`.
        path: &'static str,
        /// Such as `10s → 11s`.
        what: String,
        /// Only a restart applies it.
        needs_restart: bool,
    },
}

/// What became of something that is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is still there, but different: in which way.
    Changed(Vec<String>),
}

impl Change {
    /// From `old` to `new`.
    pub fn between(old: &Config, new: &Config) -> Self {
        let hosts = listed(&old.pool.hosts, &new.pool.hosts, HOST, |host| &host.name);
        let hosts = hosts.map(|(host, happened)| Difference::Host(host.name.clone(), happened));
        let keys = listed(&old.auth.keys, &new.auth.keys, KEY, |key| &key.name);
        let keys = keys.map(|(key, happened)| Difference::Key(key.name.to_string(), happened));
        let settings = SETTINGS.iter().filter_map(|setting| {
            Some(Difference::Setting {
                path: setting.name,
                what: (setting.what)(old, new)?,
                needs_restart: setting.needs_restart,
            })
        });
        Self(hosts.chain(keys).chain(settings).collect())
    }

    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All differences.
    pub fn differences(&self) -> &[Difference] {
        &self.0
    }

    /// Those that only a restart applies.
    pub fn needs_restart(&self) -> impl Iterator<Item = &Difference> {
        self.0.iter().filter(|difference| match difference {
            Difference::Setting { needs_restart, .. } => *needs_restart,
            _ => false,
        })
    }
}

impl Config {
    /// What runs once this has been taken over by a proxy that ran `before`: what only a restart can
    /// change stays as it was.
    #[must_use]
    pub fn taken_over(&self, before: &Self) -> Self {
        let mut running = self.clone();
        if doors(self) != doors(before) {
            let same = |old: &Listen| {
                let is_it = |new: &&Listen| door(new) == door(old);
                self.listen.iter().find(is_it).unwrap_or(old).clone()
            };
            running.listen = before.listen.iter().map(same).collect();
        }
        running.admin.address = before.admin.address;
        running.limits.max_buffered = before.limits.max_buffered;
        running.limits.max_connections = before.limits.max_connections;
        running
    }
}

/// One sentence a line.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, difference) in self.0.iter().enumerate() {
            let newline = if number == 0 { "" } else { "\n" };
            write!(f, "{newline}{difference}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name, happened) => write!(f, "host {name}{happened}"),
            Self::Key(name, happened) => write!(f, "key {name}{happened}"),
            Self::Setting {
                path,
                what,
                needs_restart,
            } => {
                let when = if *needs_restart {
                    " (takes effect after a restart)"
                } else {
                    ""
                };
                write!(f, "{path}: {what}{when}")
            }
        }
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added => f.write_str(" was added"),
            Self::Removed => f.write_str(" was removed"),
            Self::Changed(ways) => write!(f, ": {}", ways.join(", ")),
        }
    }
}

/// What became of the items of a list, which are told apart by `name`.
fn listed<'a, T: 'static, N: PartialEq + 'a>(
    old: &'a [T],
    new: &'a [T],
    settings: &'static [Setting<T>],
    name: impl Fn(&'a T) -> &'a N + Copy,
) -> impl Iterator<Item = (&'a T, Happened)> {
    let find =
        move |list: &'a [T], wanted: &'a T| list.iter().find(|item| name(item) == name(wanted));
    let now = new.iter().filter_map(move |item| {
        let Some(before) = find(old, item) else {
            return Some((item, Happened::Added));
        };
        let ways = settings.iter().filter_map(|setting| {
            let what = (setting.what)(before, item)?;
            Some(format!("{}{what}", setting.name))
        });
        let ways: Vec<_> = ways.collect();
        (!ways.is_empty()).then_some((item, Happened::Changed(ways)))
    });
    let gone = old.iter().filter(move |item| find(new, item).is_none());
    now.chain(gone.map(|item| (item, Happened::Removed)))
}

/// A setting of `T`.
struct Setting<T> {
    name: &'static str,
    needs_restart: bool,
    /// How it differs, if it does.
    what: fn(&T, &T) -> Option<String>,
}

/// A value that people may see.
trait Shown: PartialEq {
    fn show(&self) -> String;

    fn change(&self, new: &Self) -> Option<String> {
        (self != new).then(|| format!("{} → {}", self.show(), new.show()))
    }
}

macro_rules! shown {
    ($($type:ty),+) => {
        $(impl Shown for $type {
            fn show(&self) -> String {
                self.to_string()
            }
        })+
    };
}

shown!(
    bool,
    u8,
    u32,
    usize,
    std::num::NonZeroU32,
    String,
    SocketAddr,
    super::HostUrl,
    super::Network,
    super::MinCosine,
    super::PageOrigin,
    Policy
);

impl Shown for Duration {
    fn show(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

impl Shown for ByteSize {
    fn show(&self) -> String {
        self.display().iec().to_string()
    }
}

impl<T: Shown> Shown for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), Shown::show)
    }

    fn change(&self, new: &Self) -> Option<String> {
        match (self, new) {
            (Some(old), Some(new)) => old.change(new),
            _ => (self != new).then(|| format!("{} → {}", self.show(), new.show())),
        }
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn show(&self) -> String {
        let items: Vec<_> = self.iter().map(Shown::show).collect();
        items.join(" ")
    }
}

impl Shown for Discover {
    fn show(&self) -> String {
        match self {
            Self::Dns {
                interval: Some(interval),
            } => format!("dns every {}", interval.show()),
            Self::Dns { interval: None } => "dns".to_owned(),
            Self::Kubernetes(Service {
                port: Some(port), ..
            }) => format!("kubernetes, port {port}"),
            Self::Kubernetes(_) => "kubernetes".to_owned(),
        }
    }
}

/// A file by its path; what it holds may change as well.
impl Shown for Authorities {
    fn show(&self) -> String {
        self.path.display().to_string()
    }

    fn change(&self, new: &Self) -> Option<String> {
        of_file(&self.path, &new.path, self == new)
    }
}

impl Shown for Pinned {
    fn show(&self) -> String {
        self.path.display().to_string()
    }

    fn change(&self, new: &Self) -> Option<String> {
        of_file(&self.path, &new.path, self == new)
    }
}

impl Shown for Identity {
    fn show(&self) -> String {
        self.certificate.display().to_string()
    }

    fn change(&self, new: &Self) -> Option<String> {
        of_file(&self.certificate, &new.certificate, self == new)
    }
}

fn of_file(old: &Path, new: &Path, is_same: bool) -> Option<String> {
    let what = if old == new {
        format!("{} has a new content", new.display())
    } else {
        format!("{} → {}", old.display(), new.display())
    };
    (!is_same).then_some(what)
}

impl Shown for Listen {
    fn show(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// What an address is for those who connect.
fn door(listen: &Listen) -> (SocketAddr, bool) {
    (listen.address, listen.tls.is_some())
}

fn doors(config: &Config) -> Vec<(SocketAddr, bool)> {
    config.listen.iter().map(door).collect()
}

fn addresses(old: &Config, new: &Config) -> Option<String> {
    let changed = doors(old) != doors(new);
    changed.then(|| format!("{} → {}", old.listen.show(), new.listen.show()))
}

/// New certificates of addresses that stay.
fn certificates(old: &Config, new: &Config) -> Option<String> {
    let taken_over = new.taken_over(old);
    let pairs = std::iter::zip(&old.listen, &taken_over.listen);
    let renewed = pairs.filter(|(old, new)| old.tls != new.tls);
    let renewed: Vec<_> = renewed.map(|(_, new)| new.show()).collect();
    (!renewed.is_empty()).then(|| format!("new certificates for {}", renewed.join(" ")))
}

fn hidden<T: PartialEq>(old: &T, new: &T) -> Option<String> {
    (old != new).then(|| "its key changed".to_owned())
}

const HOST: &[Setting<Host>] = &[
    of("url ", |old, new| old.url.change(&new.url)),
    of("", |old, new| hidden(&old.api_key, &new.api_key)),
    of("max_concurrent ", |old, new| {
        old.max_concurrent.change(&new.max_concurrent)
    }),
    of("weight ", |old, new| old.weight.change(&new.weight)),
    of("max_items ", |old, new| {
        old.max_items.change(&new.max_items)
    }),
    of("tls.ca ", |old, new| old.tls.ca.change(&new.tls.ca)),
    of("tls.certificate ", |old, new| {
        old.tls.identity.change(&new.tls.identity)
    }),
    of("tls.server_name ", |old, new| {
        old.tls.server_name.change(&new.tls.server_name)
    }),
    of("tls.insecure ", |old, new| {
        old.tls.insecure.change(&new.tls.insecure)
    }),
    of("discover ", |old, new| old.discover.change(&new.discover)),
    of("api ", |old, new| {
        old.api.to_string().change(&new.api.to_string())
    }),
    of("", |old, new| {
        openai(old, new, "model_alias", |it| aliases(&it.model_alias))
    }),
    of("", |old, new| {
        openai(old, new, "health_path", |it| it.health_path.clone())
    }),
    of("", |old, new| {
        openai(old, new, "normalize", |it| it.normalize.to_string())
    }),
    of("", |old, new| {
        openai(old, new, "truncate", |it| it.truncate.to_string())
    }),
];

/// A difference between hosts that both speak OpenAI's API.
fn openai(old: &Host, new: &Host, name: &str, show: fn(&OpenAi) -> String) -> Option<String> {
    let (Api::OpenAi(old), Api::OpenAi(new)) = (&old.api, &new.api) else {
        return None;
    };
    let change = show(old).change(&show(new))?;
    Some(format!("{name} {change}"))
}

fn aliases(names: &BTreeMap<String, String>) -> String {
    let names = names
        .iter()
        .map(|(name, theirs)| format!("{name}: {theirs}"));
    format!("{{{}}}", names.collect::<Vec<_>>().join(", "))
}

const KEY: &[Setting<ClientKey>] = &[
    of("", |old, new| hidden(&old.key, &new.key)),
    of("priority ", |old, new| old.priority.change(&new.priority)),
    of("max_concurrent ", |old, new| {
        old.max_concurrent.change(&new.max_concurrent)
    }),
    of("max_per_second ", |old, new| {
        old.max_per_second.change(&new.max_per_second)
    }),
];

const fn of<T>(name: &'static str, what: fn(&T, &T) -> Option<String>) -> Setting<T> {
    Setting {
        name,
        needs_restart: false,
        what,
    }
}

/// A setting by its place in [`Config`], which is its path in the file.
macro_rules! setting {
    (@ $needs_restart:literal, $what:expr, $first:ident $(. $rest:ident)*) => {
        Setting {
            name: concat!(stringify!($first) $(, ".", stringify!($rest))*),
            needs_restart: $needs_restart,
            what: $what,
        }
    };
    (@ $restart:literal, $($path:ident).+) => {
        setting!(@ $restart, |old, new| old.$($path).+.change(&new.$($path).+), $($path).+)
    };
    (@ $restart:literal, bytes $($path:ident).+) => {
        setting!(@ $restart, |old, new| {
            let bytes = |config: &Config| ByteSize(config.$($path).+ as u64);
            bytes(old).change(&bytes(new))
        }, $($path).+)
    };
    (restart $($path:tt)+) => { setting!(@ true, $($path)+) };
    (live $($path:tt)+) => { setting!(@ false, $($path)+) };
}

/// All settings but the lists of hosts and keys. Sockets are opened once, at start.
const SETTINGS: &[Setting<Config>] = &[
    Setting {
        name: "listen",
        needs_restart: true,
        what: addresses,
    },
    of("listen.tls", certificates),
    setting!(restart admin.address),
    of("admin.key", |old, new| {
        hidden(&old.admin.key, &new.admin.key)
    }),
    setting!(live pool.policy),
    setting!(live pool.resolver),
    setting!(live health.interval),
    setting!(live health.timeout),
    setting!(live health.healthy_after),
    setting!(live health.unhealthy_after),
    setting!(live queue.max_waiting),
    setting!(live bytes queue.max_bytes),
    setting!(live queue.max_wait),
    setting!(live retries.max_faulted_hosts),
    setting!(live retries.budget_percent),
    setting!(live batching.split),
    setting!(live batching.merge),
    setting!(live batching.min_gain),
    setting!(live batching.max_items),
    setting!(live timeouts.connect),
    setting!(live timeouts.attempt),
    setting!(live timeouts.client_head),
    setting!(live timeouts.client_read),
    setting!(live timeouts.client_idle),
    setting!(live timeouts.shutdown),
    setting!(live bytes limits.max_body),
    setting!(restart bytes limits.max_buffered),
    setting!(restart limits.max_connections),
    setting!(live limits.max_connections_per_client),
    setting!(live bytes limits.max_head),
    setting!(live limits.max_headers),
    setting!(live headers.served_by),
    setting!(live headers.forwarded),
    setting!(live headers.trusted_proxies),
    setting!(live cors.allow_origins),
    setting!(live audit.enabled),
    setting!(live audit.interval),
    setting!(live audit.min_cosine),
    setting!(live audit.reference),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema;

    const OLD: &str = "
auth: {keys: [{name: ann, key: one}, {name: bob, key: two}]}
pool: {hosts: [{name: a, url: 'http://a'}, {name: b, url: 'http://b', api_key: three}]}
queue: {max_wait: 10s}
";

    fn config(text: &str) -> Config {
        Config::for_testing(text)
    }

    #[test]
    fn each_difference_is_a_sentence() {
        let table = [
            ("", "", ""),
            ("name: a, url: 'http://a'}, ", "", "host a was removed"),
            (
                "{name: a, url",
                "{name: c, url: 'http://c'}, {name: a, url",
                "host c was added",
            ),
            ("api_key: three", "api_key: four", "host b: its key changed"),
            ("http://b", "http://c", "host b: url http://b → http://c"),
            (
                "api_key: three",
                "max_concurrent: 2, weight: 3, max_items: 32, discover: dns",
                "host b: its key changed, max_concurrent none → 2, weight 1 → 3, max_items none → 32, discover none → dns",
            ),
            (
                "api_key: three",
                "api_key: three, discover: kubernetes, discover_port: http",
                "host b: discover none → kubernetes, port http",
            ),
            (
                "api_key: three",
                "api_key: three, api: openai",
                "host b: api gpu-bridge → openai",
            ),
            (
                "name: ann",
                "name: eve",
                "key eve was added\nkey ann was removed",
            ),
            ("key: two", "key: 2wo", "key bob: its key changed"),
            (
                "key: two",
                "key: two, priority: 1, max_concurrent: 4",
                "key bob: priority 0 → 1, max_concurrent none → 4",
            ),
            ("10s", "11s", "queue.max_wait: 10s → 11s"),
            ("10s", "10000ms", ""),
            (
                "queue:",
                "limits: {max_buffered: 2GiB}\nqueue:",
                "queue.max_bytes: 512.0 MiB → 1.0 GiB\n\
                 limits.max_buffered: 1.0 GiB → 2.0 GiB (takes effect after a restart)",
            ),
            (
                "queue:",
                "listen: [{address: '127.0.0.1:1'}]\nadmin: {key: four}\nqueue:",
                "listen: http://0.0.0.0:8765 → http://127.0.0.1:1 (takes effect after a restart)\n\
                 admin.key: its key changed",
            ),
        ];
        for (from, to, expected) in table {
            let from = if from.starts_with("name: a,") {
                format!("{{{from}")
            } else {
                from.to_owned()
            };
            assert!(OLD.contains(&from), "{from}");
            let new = OLD.replacen(&from, to, 1);
            let change = Change::between(&config(OLD), &config(&new));
            assert_eq!(change.to_string(), expected, "{from} -> {to}");
            assert_eq!(change.is_empty(), expected.is_empty());
        }
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let text =
            "listen: [{address: '127.0.0.1:1'}]\nadmin: {address: '127.0.0.1:2', key: four}\n";
        let change = Change::between(&config(OLD), &config(&format!("{text}{OLD}")));
        assert_eq!(change.differences().len(), 3);
        let named: Vec<_> = change.needs_restart().map(ToString::to_string).collect();
        assert!(named[0].starts_with("listen: "), "{named:?}");
        assert!(
            named[1].starts_with("admin.address: 127.0.0.1:9765 → 127.0.0.1:2 "),
            "{named:?}"
        );
    }

    #[test]
    fn what_needs_a_restart_stays_a_difference_until_it_is_taken_back() {
        let text =
            "listen: [{address: '127.0.0.1:1'}]\nlimits: {max_connections: 7, max_head: 2KiB}\n";
        let (old, new) = (config(OLD), config(&format!("{text}{OLD}")));
        let running = new.taken_over(&old);
        assert_eq!(running.listen, old.listen);
        assert_eq!(running.limits.max_head, 2048);
        let left = Change::between(&running, &new);
        assert_eq!(left.differences().len(), 2, "{left}");
        assert_eq!(left.needs_restart().count(), 2);
        let back = Change::between(&running, &old);
        assert_eq!(back.to_string(), "limits.max_head: 2.0 KiB → 64.0 KiB");
    }

    /// Every key of the schema is compared: by itself, with its section, or in its list.
    #[test]
    fn no_setting_is_forgotten() {
        let schema: serde_json::Value = serde_json::from_str(schema::SCHEMA).unwrap();
        for (section, value) in schema["properties"].as_object().unwrap() {
            let keys = value["properties"].as_object().into_iter().flatten();
            for (key, _) in keys.filter(|(key, _)| !key.ends_with("key_file")) {
                let path = format!("{section}.{key}");
                let listed = ["auth.keys", "pool.hosts"].contains(&path.as_str());
                assert!(
                    listed || SETTINGS.iter().any(|setting| setting.name == path),
                    "{path}"
                );
            }
        }
    }
}
