//! What a new configuration changes, for the log, and which of it a running proxy can't take over.
//!
//! Pure: it compares two configurations and knows nothing of what runs.

use std::fmt;

use super::{Config, HostName};

/// The differences, in the order of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change(Vec<Difference>);

/// One difference. Prints as a sentence; never shows a secret.
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
        /// Only a restart applies it.
        needs_restart: bool,
    },
}

/// What became of something that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is still there, but different.
    Changed,
}

impl Change {
    /// From `old` to `new`.
    pub fn between(old: &Config, new: &Config) -> Self {
        let hosts = listed(&old.pool.hosts, &new.pool.hosts, |host| &host.name);
        let hosts = hosts.map(|(host, happened)| Difference::Host(host.name.clone(), happened));
        let keys = listed(&old.auth.keys, &new.auth.keys, |key| &key.name);
        let keys = keys.map(|(key, happened)| Difference::Key(key.name.clone(), happened));
        let settings = SETTINGS.iter().filter(|setting| !(setting.same)(old, new));
        let settings = settings.map(|setting| Difference::Setting {
            path: setting.path,
            needs_restart: setting.needs_restart,
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

    /// The paths of the settings that only a restart applies.
    pub fn needs_restart(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().filter_map(|difference| match difference {
            Difference::Setting {
                path,
                needs_restart: true,
            } => Some(*path),
            _ => None,
        })
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
            Self::Host(name, happened) => write!(f, "host {name} was {happened}"),
            Self::Key(name, happened) => write!(f, "the key of client {name} was {happened}"),
            Self::Setting {
                path,
                needs_restart: false,
            } => write!(f, "{path} was changed"),
            Self::Setting {
                path,
                needs_restart: true,
            } => write!(f, "{path} was changed, which takes effect after a restart"),
        }
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        })
    }
}

/// What became of the items of a list, which are told apart by `name`.
fn listed<'a, T: PartialEq, N: PartialEq + 'a>(
    old: &'a [T],
    new: &'a [T],
    name: impl Fn(&'a T) -> &'a N + Copy,
) -> impl Iterator<Item = (&'a T, Happened)> {
    let find =
        move |list: &'a [T], wanted: &'a T| list.iter().find(|item| name(item) == name(wanted));
    let now = new.iter().filter_map(move |item| match find(old, item) {
        None => Some((item, Happened::Added)),
        Some(before) if before != item => Some((item, Happened::Changed)),
        Some(_) => None,
    });
    let gone = old.iter().filter(move |item| find(new, item).is_none());
    now.chain(gone.map(|item| (item, Happened::Removed)))
}

struct Setting {
    path: &'static str,
    needs_restart: bool,
    same: fn(&Config, &Config) -> bool,
}

/// A setting by its place in [`Config`], which is its path in the file.
macro_rules! setting {
    (@ $needs_restart:literal, $first:ident $(. $rest:ident)*) => {
        Setting {
            path: concat!(stringify!($first) $(, ".", stringify!($rest))*),
            needs_restart: $needs_restart,
            same: |old, new| old.$first$(.$rest)* == new.$first$(.$rest)*,
        }
    };
    (restart $($path:tt)+) => { setting!(@ true, $($path)+) };
    (live $($path:tt)+) => { setting!(@ false, $($path)+) };
}

/// All settings but the lists of hosts and keys. Sockets are opened once, at start.
const SETTINGS: &[Setting] = &[
    setting!(restart listen),
    setting!(restart admin.address),
    setting!(live admin.key),
    setting!(live pool.policy),
    setting!(live pool.resolver),
    setting!(live health.interval),
    setting!(live health.timeout),
    setting!(live health.healthy_after),
    setting!(live health.unhealthy_after),
    setting!(live queue.max_waiting),
    setting!(live queue.max_bytes),
    setting!(live queue.max_wait),
    setting!(live retries.max_faulted_hosts),
    setting!(live retries.budget_percent),
    setting!(live retries.hedge),
    setting!(live timeouts.connect),
    setting!(live timeouts.attempt),
    setting!(live timeouts.client_head),
    setting!(live timeouts.client_read),
    setting!(live timeouts.client_idle),
    setting!(live timeouts.shutdown),
    setting!(live limits.max_body),
    setting!(restart limits.max_buffered),
    setting!(restart limits.max_connections),
    setting!(live limits.max_head),
    setting!(live limits.max_headers),
    setting!(live headers.served_by),
    setting!(live headers.forwarded),
    setting!(live headers.trusted_proxies),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Surroundings, parse, schema};

    const OLD: &str = "
auth: {keys: [{name: ann, key: one}, {name: bob, key: two}]}
pool: {hosts: [{name: a, url: 'http://a'}, {name: b, url: 'http://b', api_key: three}]}
queue: {max_wait: 10s}
";

    fn config(text: &str) -> Config {
        let surroundings = Surroundings {
            variable: &|_| None,
            folder: Path::new(""),
        };
        parse(text, &surroundings).unwrap()
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
            ("api_key: three", "api_key: four", "host b was changed"),
            ("http://b", "http://c", "host b was changed"),
            (
                "name: ann",
                "name: eve",
                "the key of client eve was added\nthe key of client ann was removed",
            ),
            ("key: two", "key: 2wo", "the key of client bob was changed"),
            (
                "key: two",
                "key: two, priority: 1",
                "the key of client bob was changed",
            ),
            ("10s", "11s", "queue.max_wait was changed"),
            ("10s", "10000ms", ""),
            (
                "queue:",
                "limits: {max_buffered: 2GiB}\nqueue:",
                "queue.max_bytes was changed\nlimits.max_buffered was changed, which takes effect after a restart",
            ),
            (
                "queue:",
                "listen: [{address: '127.0.0.1:1'}]\nadmin: {key: four}\nqueue:",
                "listen was changed, which takes effect after a restart\nadmin.key was changed",
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
        assert!(change.needs_restart().eq(["listen", "admin.address"]));
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
                    listed || SETTINGS.iter().any(|setting| setting.path == path),
                    "{path}"
                );
            }
        }
    }
}
