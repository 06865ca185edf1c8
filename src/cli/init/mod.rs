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

use super::failure::{self, Failure};
use super::print;
use crate::config::{self, HostName, HostUrl, Surroundings};

/// What clients send, as the documentation calls it.
const CLIENT_KEY: &str = "OPENCLAW_KEY";
const USUAL_FILE: &str = "gpu-bridge.yaml";
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
    /// The file to write, which must not exist; `-` for standard output.
    #[arg(long, value_name = "FILE", default_value = USUAL_FILE)]
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
    /// What is not taken over, in words.
    passed_over: Vec<String>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    /// In this one, if it has one: the operator knows.
    Perhaps(String),
    No,
    /// In this environment variable.
    In(String),
}

pub(super) fn init(order: &Init) -> Result<(), Failure> {
    let draft = match &order.from_plugin {
        Some(path) => plugin::read(path)?,
        None => of_urls(&order.hosts)?,
    };
    let is_shown = order.output == Path::new("-");
    let file = if is_shown {
        Path::new(USUAL_FILE)
    } else {
        &order.output
    };
    let text = draft.to_yaml(file);
    validate(&draft.with_known_urls().to_yaml(file), file)?;
    draft.passed_over.iter().for_each(failure::tell);
    if is_shown {
        print(&text)?;
        failure::tell(draft.next_steps(file));
        return Ok(());
    }
    write_new(file, &text)?;
    print(&format!(
        "{}: written\n{}",
        file.display(),
        draft.next_steps(file)
    ))
}

fn of_urls(urls: &[String]) -> Result<Draft, Failure> {
    let urls: Vec<&str> = urls.iter().map(|url| url.trim()).collect();
    for (number, url) in (1..).zip(&urls) {
        // It is not repeated, since it may hold a password.
        let refuse = |why| Failure::Usage(format!("--host, URL {number} of {}: {why}", urls.len()));
        url.parse::<HostUrl>().map_err(refuse)?;
    }
    let mut names = Names::default();
    let hosts = (1..).zip(&urls).map(|(number, url)| Host {
        name: names.unique(&name_of(url, &urls)),
        url: url.trim_end_matches('/').to_owned(),
        key: Key::Perhaps(format!("GPU_KEY_{number}")),
    });
    Ok(Draft {
        hosts: hosts.collect(),
        ..Draft::default()
    })
}

/// What the host at `url` is called if nobody says: as in its URL, with the port if that tells it from others of `all`.
fn name_of(url: &str, all: &[&str]) -> String {
    let Ok(url) = url.parse::<HostUrl>() else {
        return "gpu".to_owned();
    };
    let mut others = all.iter().filter_map(|other| other.parse::<HostUrl>().ok());
    let host = match url.host() {
        // As `::1`, of which not much would be left.
        host if host.starts_with(':') => format!("ipv6{host}"),
        host => host.to_owned(),
    };
    if others.any(|other| other.host() == url.host() && other.port() != url.port()) {
        format!("{host}-{}", url.port())
    } else {
        host
    }
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

/// The names in `${…}`.
fn variables_in(text: &str) -> impl Iterator<Item = &str> {
    let references = text.split("${").skip(1);
    let names = references.filter_map(|it| Some(it.split_once('}')?.0));
    names.filter(|name| plugin::is_variable(name))
}

impl Draft {
    /// The variable with what clients send, unless a host's key is in that of this name.
    fn client_key(&self) -> &'static str {
        let has = |host: &Host, name: &str| {
            host.key == Key::In(name.to_owned()) || variables_in(&host.url).any(|it| it == name)
        };
        let names = [CLIENT_KEY, "CLIENT_KEY", "GPU_BRIDGE_CLIENT_KEY"];
        let free = |name: &&str| !self.hosts.iter().any(|host| has(host, name));
        names.into_iter().find(free).unwrap_or(CLIENT_KEY)
    }

    /// With others in the place of those that are known only once variables are set.
    fn with_known_urls(&self) -> Self {
        let known = |(position, host): (usize, &Host)| {
            let is_open = variables_in(&host.url).next().is_some();
            let url = if is_open {
                format!("http://to-be-set-{position}.invalid:8765")
            } else {
                host.url.clone()
            };
            let (name, key) = (host.name.clone(), host.key.clone());
            Host { name, url, key }
        };
        Self {
            hosts: self.hosts.iter().enumerate().map(known).collect(),
            passed_over: Vec::new(),
            max_wait: self.max_wait,
        }
    }

    fn to_yaml(&self, file: &Path) -> String {
        let file = file.display().to_string();
        let mut text = TEMPLATE
            .replace("{file}", &file)
            .replace("{client_key}", self.client_key());
        self.hosts.iter().for_each(|host| host.write(&mut text));
        if let Some(seconds) = self.max_wait {
            text.push_str(&MAX_WAIT.replace("{seconds}", &seconds.to_string()));
        }
        text
    }

    /// What to do once the file is there.
    fn next_steps(&self, file: &Path) -> String {
        let (file, client_key) = (file.display(), self.client_key());
        let mut text = format!(
            "set in the environment of the proxy:\n  {client_key}: the key that clients \
             send; choose one, e.g. with `openssl rand -hex 24`\n"
        );
        let mut told = BTreeSet::from([client_key]);
        for Host { name, key, url } in &self.hosts {
            for variable in variables_in(url) {
                if told.insert(variable) {
                    // Writing to a string does not fail, here and below.
                    let _ = writeln!(text, "  {variable}: stands in the url of {name}");
                }
            }
            let (variable, what) = match key {
                Key::In(variable) => (variable, "its apiKey in the plugin's configuration"),
                Key::Perhaps(variable) => {
                    (variable, "if it has one: take the # before its api_key out")
                }
                Key::No => continue,
            };
            if told.insert(variable) {
                let _ = writeln!(text, "  {variable}: the key of {name}, {what}");
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
            Key::Perhaps(variable) => format!(
                "      # api_key: \"${{{variable}}}\"   # what the host calls API_KEY, if it has one\n"
            ),
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
        let told = told.collect::<Vec<_>>().join("\n");
        Failure::Usage(format!("{told}\n{} was not written", file.display()))
    })
}

fn write_new(file: &Path, text: &str) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(text.as_bytes()));
    written.map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            let file = file.display();
            return Failure::Usage(format!(
                "{file} exists, and is not overwritten; name another file"
            ));
        }
        Failure::of_file(file, &error)
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
            .unwrap()
        };
        let file = Path::new("made.yaml");
        validate(&draft.to_yaml(file), file).unwrap();
        let twice = of_urls(&["http://a:1".to_owned(), "http://a:1/".to_owned()]).unwrap();
        let told = validate(&twice.to_yaml(file), file)
            .unwrap_err()
            .to_string();
        assert!(told.ends_with("made.yaml was not written"), "{told}");
        for (bad, why) in [
            ("10.0.0.1:8765", "put http:// before it"),
            ("http://10.0.0.1/v1", "must not end in /v1"),
            (
                "http://u:hunter2@10.0.0.1",
                "must not hold a user or password",
            ),
            ("\"\n", "put http:// before it"),
            ("", "put http:// before it"),
        ] {
            let told = of_urls(&["http://a:1".to_owned(), bad.to_owned()]);
            let told = told.unwrap_err().to_string();
            assert!(told.starts_with("--host, URL 2 of 2: "), "{told}");
            assert!(told.contains(why) && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn hosts_are_named_by_what_tells_them_apart() {
        let urls = [
            "http://127.0.0.1:8765",
            "http://127.0.0.1:8766/",
            "http://[::1]:8765",
            "http://[2001:db8::1]:1",
            "http://192.168.1.20:8765",
        ];
        let draft = of_urls(&urls.map(str::to_owned)).unwrap();
        let named = draft.hosts.iter().map(|host| host.name.as_str());
        let expected = [
            "127.0.0.1-8765",
            "127.0.0.1-8766",
            "ipv6--1",
            "2001-db8--1",
            "192.168.1.20",
        ];
        assert_eq!(named.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn each_variable_that_the_file_names_is_told() {
        let urls = ["http://10.0.0.1:1", "http://10.0.0.2:1"].map(str::to_owned);
        let draft = of_urls(&urls).unwrap();
        let (file, told) = (Path::new("f"), draft.next_steps(Path::new("f")));
        let text = draft.to_yaml(file);
        for variable in ["OPENCLAW_KEY", "GPU_KEY_1", "GPU_KEY_2"] {
            assert!(text.contains(&format!("${{{variable}}}")), "{text}");
            assert!(told.contains(&format!("  {variable}: ")), "{told}");
        }
        let uncommented = text.replace("# api_key", "api_key");
        validate(&uncommented, file).unwrap();
    }
}
