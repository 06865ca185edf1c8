//! `gpu-bridge init`: a first configuration, with comments, from the URLs of hosts or from what the
//! plugin `openclaw-gpu-bridge` is told.
//!
//! Keys are never copied: the file refers to environment variables, and what each must hold is told.
//! What is written has been read by the same code as `check`'s, so that it lacks nothing but these.

mod plugin;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use url::Url;

use super::failure::Failure;
use super::print;
use crate::config::{self, HostName, Surroundings};

/// What clients send, as the documentation calls it.
const CLIENT_KEY: &str = "OPENCLAW_KEY";
/// The file up to its hosts, which come last.
const TEMPLATE: &str = include_str!("template.yaml");
const MAX_WAIT: &str = "
# How long a request may wait for a host. That and the time to compute it must be less than the plugin's
# `timeout`, after which it gives a request up.
queue:
  max_wait: {seconds}s
";

/// Where the hosts are, and where to write.
#[derive(Args, Debug)]
pub(super) struct Init {
    /// The file to write; it must not exist.
    #[arg(long, value_name = "FILE", default_value = "gpu-bridge.yaml")]
    output: PathBuf,
    /// URLs of GPU hosts, e.g. `http://192.168.1.20:8765`.
    #[arg(long = "host", value_name = "URL", num_args = 1.., required_unless_present = "from_plugin")]
    hosts: Vec<String>,
    /// Take the hosts from the plugin's configuration: a file of its own, or `openclaw.json`.
    #[arg(long, value_name = "FILE", conflicts_with = "hosts")]
    from_plugin: Option<PathBuf>,
}

/// What the file is to say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Draft {
    hosts: Vec<Host>,
    /// `queue.max_wait` in seconds, if not the default.
    max_wait: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
struct Host {
    name: String,
    url: String,
    key: Key,
}

/// Of a host.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    /// The operator knows whether it has one.
    Perhaps,
    No,
    /// In this environment variable.
    In(String),
}

pub(super) fn init(order: &Init) -> Result<(), Failure> {
    let draft = match &order.from_plugin {
        Some(path) => plugin::read(path)?,
        None => of_urls(&order.hosts),
    };
    let text = draft.to_yaml(&order.output);
    validate(&text, &order.output)?;
    write_new(&order.output, &text)?;
    print(&draft.next_steps(&order.output))
}

fn of_urls(urls: &[String]) -> Draft {
    let mut names = Names::default();
    let hosts = urls.iter().map(|url| Host {
        name: names.unique(&address_in(url)),
        url: url.trim().trim_end_matches('/').to_owned(),
        key: Key::Perhaps,
    });
    Draft {
        hosts: hosts.collect(),
        max_wait: None,
    }
}

/// What a host is called if nobody says: as in its URL.
fn address_in(url: &str) -> String {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(Url::host_str);
    host.unwrap_or("gpu").to_owned()
}

/// Names that were given.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    /// What is like `wanted`, may be the name of a host, and is nobody else's.
    fn unique(&mut self, wanted: &str) -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let plain: String = wanted
            .chars()
            .map(|c| if allowed(c) { c } else { '-' })
            .collect();
        // Room for a number after it.
        let plain: String = plain.trim_matches('-').chars().take(50).collect();
        let plain = if plain.parse::<HostName>().is_ok() {
            plain
        } else {
            "gpu".to_owned()
        };
        let numbered = (2..).map(|number| format!("{plain}-{number}"));
        let mut names = std::iter::once(plain.clone()).chain(numbered);
        let name = names.find(|name| !self.0.contains(name)).unwrap_or(plain);
        self.0.insert(name.clone());
        name
    }
}

impl Draft {
    fn to_yaml(&self, file: &Path) -> String {
        let file = file.display().to_string();
        let mut text = TEMPLATE
            .replace("{file}", &file)
            .replace("{client_key}", CLIENT_KEY);
        self.hosts.iter().for_each(|host| host.write(&mut text));
        if let Some(seconds) = self.max_wait {
            text.push_str(&MAX_WAIT.replace("{seconds}", &seconds.to_string()));
        }
        text
    }

    /// What to do once the file is there.
    fn next_steps(&self, file: &Path) -> String {
        let file = file.display();
        let mut text = format!(
            "{file}: written\nset in the environment of the proxy:\n  {CLIENT_KEY}: the key that clients \
             send; choose one, e.g. with `openssl rand -hex 24`\n"
        );
        let mut told = BTreeSet::from([CLIENT_KEY]);
        for Host { name, key, .. } in &self.hosts {
            if let Key::In(variable) = key
                && told.insert(variable)
            {
                // Writing to a string does not fail, here and below.
                let _ = writeln!(
                    text,
                    "  {variable}: the key of {name}, its apiKey in the plugin's configuration"
                );
            }
        }
        let _ = writeln!(text, "then: gpu-bridge check {file}");
        text
    }
}

impl Host {
    fn write(&self, text: &mut String) {
        let Self { name, url, key } = self;
        // JSON's strings are YAML's too, quotes and all.
        let url = serde_json::Value::from(url.as_str());
        let key = match key {
            Key::No => String::new(),
            Key::In(variable) => format!("      api_key: \"${{{variable}}}\"\n"),
            Key::Perhaps => {
                "      # api_key: \"${GPU_KEY}\"   # what the host calls API_KEY, if it has one\n"
                    .to_owned()
            }
        };
        let _ = write!(text, "    - name: \"{name}\"\n      url: {url}\n{key}");
    }
}

/// Refuses what `check` would refuse for more than a variable that is not set yet.
fn validate(text: &str, file: &Path) -> Result<(), Failure> {
    let unset = |name: &str| Some(format!("to-be-set-{name}"));
    let surroundings = Surroundings {
        variable: &|name| super::variable(name).or_else(|| unset(name)),
        folder: Path::new(""),
    };
    let read = config::parse(text, &surroundings);
    read.map(drop).map_err(|problems| {
        let told = problems.iter().map(|problem| problem.explained(file));
        Failure::Usage(told.collect::<Vec<_>>().join("\n"))
    })
}

fn write_new(file: &Path, text: &str) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(text.as_bytes()));
    written.map_err(|error| {
        let file = file.display();
        if error.kind() == ErrorKind::AlreadyExists {
            return Failure::Usage(format!(
                "{file} exists, and is not overwritten; name another file"
            ));
        }
        Failure::Failed(format!("{file}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_and_unique() {
        let mut names = Names::default();
        for (wanted, expected) in [
            ("192.168.1.20", "192.168.1.20"),
            ("192.168.1.20", "192.168.1.20-2"),
            ("192.168.1.20", "192.168.1.20-3"),
            ("[2001:db8::1]", "2001-db8--1"),
            ("Büro, links", "B-ro--links"),
            ("显卡", "gpu"),
            ("", "gpu-2"),
            (&"x".repeat(99), &"x".repeat(50)),
            (&"x".repeat(60), &format!("{}-2", "x".repeat(50))),
        ] {
            let name = names.unique(wanted);
            assert_eq!(name, expected, "{wanted}");
            assert!(name.parse::<HostName>().is_ok());
        }
    }

    #[test]
    fn what_is_written_is_a_good_configuration() {
        let draft = Draft {
            max_wait: Some(20),
            ..of_urls(&[
                "http://10.0.0.1:8765/".to_owned(),
                "https://gpu.example".to_owned(),
            ])
        };
        let file = Path::new("made.yaml");
        validate(&draft.to_yaml(file), file).unwrap();
        for bad in [
            "10.0.0.1:8765",
            "http://10.0.0.1/v1",
            "http://u:p@10.0.0.1",
            "\"\n",
            "",
        ] {
            let draft = of_urls(&[bad.to_owned()]);
            assert!(validate(&draft.to_yaml(file), file).is_err(), "{bad}");
        }
    }
}
