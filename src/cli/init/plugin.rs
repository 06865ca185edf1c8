//! What the plugin `openclaw-gpu-bridge` is told, as it reads it itself: the hosts of 0.2, or else the one
//! of 0.1; a key for all that have none of their own.
//!
//! It stands in a file of its own, or in `OpenClaw`'s, whose syntax is JSON5, under the plugin's name.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;

use super::{CLIENT_KEY, Draft, Host, Key, Names, name_of, variables_in};
use crate::cli::failure::Failure;
use crate::config::HostUrl;
use crate::file;

/// With and without the scope of its package.
const NAME: &str = "openclaw-gpu-bridge";
/// Levels of lists and objects in it.
const MAX_DEPTH: usize = 128;
/// `queue.max_wait` unless set, in seconds.
const DEFAULT_WAIT: f64 = 30.0;
/// How much of the plugin's `timeout` a request may wait: 30 s of its default, 45 s.
const SHARE_TO_WAIT: f64 = DEFAULT_WAIT / 45.0;

pub(super) fn read(path: &Path) -> Result<Draft, Failure> {
    let refuse = |why: &str| Failure::Usage(format!("{}: {why}", path.display()));
    let bytes = file::read(path, file::PATIENCE).map_err(|error| refuse(&error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| refuse("is not text"))?;
    if is_too_deep(&text) {
        return Err(refuse(&format!(
            "is nested deeper than {MAX_DEPTH} levels, as no configuration is"
        )));
    }
    // Its own words might quote a key.
    let root: Value = json5::from_str(&text).map_err(|error| {
        let place = error.position();
        let place = place.map_or_else(String::new, |place| format!(" (line {})", place.line + 1));
        refuse(&format!("is not JSON{place}"))
    })?;
    let draft = draft(settings(&root));
    if draft.hosts.is_empty() {
        let why =
            format!("holds no configuration of {NAME}: neither hosts with a url nor serviceUrl");
        return Err(refuse(&why));
    }
    match mistake(&draft.hosts) {
        Some(why) => Err(refuse(&why)),
        None => Ok(draft),
    }
}

/// What is wrong with the URL of one of them, which is not repeated: it may hold a password.
fn mistake(hosts: &[Host]) -> Option<String> {
    hosts.iter().enumerate().find_map(|(position, host)| {
        let Host { name, url, .. } = host;
        if hosts[..position].iter().any(|other| other.url == *url) {
            return Some(format!("the url of {name} stands there twice"));
        }
        if variables_in(url).next().is_some() {
            // What it becomes is known once they are set.
            return None;
        }
        let bad = url.parse::<HostUrl>().err();
        bad.map(|why| format!("the url of {name} {why}"))
    })
}

/// The parser's stack would not hold it.
fn is_too_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

/// Those of the plugin, wherever they stand.
fn settings(root: &Value) -> &Value {
    let plugins = &root["plugins"];
    let entry = [&plugins["entries"], plugins]
        .into_iter()
        .find_map(|entries| {
            let mut entries = entries.as_object()?.iter();
            let ours = entries.find(|(name, _)| name.rsplit('/').next() == Some(NAME));
            ours.map(|(_, entry)| entry)
        });
    match entry {
        Some(entry) if entry["config"].is_object() => &entry["config"],
        Some(entry) => entry,
        None => root,
    }
}

fn draft(settings: &Value) -> Draft {
    let hosts = written(settings);
    let urls: Vec<&str> = hosts.iter().filter_map(|(url, _)| *url).collect();
    let mut names = Names::default();
    let holders = hosts.iter().map(|(_, host)| *host);
    let mut keys = Keys::beside(holders.chain([settings]), &urls);
    let (mut found, mut passed_over) = (Vec::new(), Vec::new());
    for (position, (url, host)) in hosts.iter().enumerate() {
        let Some(url) = url else {
            passed_over.push(format!("hosts[{position}] is passed over: it has no url"));
            continue;
        };
        let name = host["name"].as_str();
        let name = name.map_or_else(|| name_of(url, &urls), str::to_owned);
        found.push(Host {
            name: names.unique(&name),
            url: url.trim_end_matches('/').to_owned(),
            key: keys.of([&host["apiKey"], &settings["apiKey"]]),
        });
    }
    Draft {
        hosts: found,
        passed_over,
        max_wait: settings["timeout"].as_f64().and_then(max_wait),
    }
}

/// The hosts, each with its URL, if it has one. Without a list there may be one, under either name.
fn written(settings: &Value) -> Vec<(Option<&str>, &Value)> {
    let listed = settings["hosts"].as_array();
    if let Some(hosts) = listed.filter(|hosts| !hosts.is_empty()) {
        return hosts.iter().map(|host| (url_of(host), host)).collect();
    }
    let single = [&settings["serviceUrl"], &settings["url"]];
    let url = single.into_iter().find_map(Value::as_str);
    url.map(|url| (Some(url.trim()), settings))
        .into_iter()
        .collect()
}

/// Some write no more of a host than that.
fn url_of(host: &Value) -> Option<&str> {
    let url = if host.is_string() { host } else { &host["url"] };
    url.as_str().map(str::trim)
}

/// In whole seconds; `None`: the default will do.
fn max_wait(timeout: f64) -> Option<u64> {
    let wait = (timeout * SHARE_TO_WAIT).floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "1 to 30"
    )]
    let whole = |wait: f64| wait.max(1.0) as u64;
    (wait < DEFAULT_WAIT).then(|| whole(wait))
}

/// The variables for the keys that were seen; the same key needs only one.
struct Keys {
    variables: HashMap<String, String>,
    /// Variables that hold something else already.
    taken: BTreeSet<String>,
}

impl Keys {
    /// Those that `holders` and `urls` name themselves are taken, and that of clients.
    fn beside<'a>(holders: impl Iterator<Item = &'a Value>, urls: &[&str]) -> Self {
        let named = holders.filter_map(|holder| reference(&holder["apiKey"]));
        let in_urls = urls.iter().flat_map(|url| variables_in(url));
        let taken = named.chain(in_urls).chain([CLIENT_KEY]);
        Self {
            variables: HashMap::new(),
            taken: taken.map(str::to_owned).collect(),
        }
    }

    /// The first that is set.
    fn of(&mut self, keys: [&Value; 2]) -> Key {
        let is_set = |key: &&&Value| !key.is_null() && key.as_str() != Some("");
        let Some(key) = keys.iter().find(is_set) else {
            return Key::No;
        };
        if let Some(variable) = reference(key) {
            return Key::In(variable.to_owned());
        }
        let next = || {
            let mut names = (1..).map(|number| format!("GPU_KEY_{number}"));
            let name = names.find(|name| !self.taken.contains(name));
            let name = name.unwrap_or_default();
            self.taken.insert(name.clone());
            name
        };
        let variable = self.variables.entry(key.to_string()).or_insert_with(next);
        Key::In(variable.clone())
    }
}

/// The variable that `key` is taken from, by `OpenClaw` too.
fn reference(key: &Value) -> Option<&str> {
    let name = key.as_str()?.strip_prefix("${")?.strip_suffix('}')?;
    is_variable(name).then_some(name)
}

pub(super) fn is_variable(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(allowed) && name.starts_with(|first: char| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Draft {
        draft(settings(&json5::from_str(text).unwrap()))
    }

    /// Name, URL and variable of each host.
    fn hosts(text: &str) -> Vec<String> {
        let variable = |key: Key| match key {
            Key::In(variable) => variable,
            _ => "-".to_owned(),
        };
        let hosts = read(text).hosts.into_iter();
        hosts
            .map(|host| format!("{} {} {}", host.name, host.url, variable(host.key)))
            .collect()
    }

    #[test]
    fn every_form_that_the_plugin_reads() {
        let two = r#"{"hosts": [{"name": "a", "url": "http://10.0.0.1:8765/", "apiKey": "one"},
                                {"url": "http://10.0.0.2:8765"}], "apiKey": "all", "url": "http://10.0.0.9"}"#;
        let expected = [
            "a http://10.0.0.1:8765 GPU_KEY_1",
            "10.0.0.2 http://10.0.0.2:8765 GPU_KEY_2",
        ];
        for file in [
            two.to_owned(),
            format!(r#"{{"plugins": {{"@elvatis_com/openclaw-gpu-bridge": {two}}}}}"#),
            format!(
                "{{plugins: {{ // a comment\n allow: ['x'], entries: {{'openclaw-gpu-bridge': \
                 {{enabled: true, config: {two},}}}}}}}}"
            ),
        ] {
            assert_eq!(hosts(&file), expected, "{file}");
        }
        for (file, expected) in [
            (
                r#"{"serviceUrl": "http://a:1", "url": "http://b:1", "apiKey": "k"}"#,
                "a http://a:1 GPU_KEY_1",
            ),
            (r#"{"hosts": [], "url": "http://b:1"}"#, "b http://b:1 -"),
            (
                r#"{"url": "http://b:1", "apiKey": "${MY_KEY}"}"#,
                "b http://b:1 MY_KEY",
            ),
            (
                r#"{"url": "http://b:1", "apiKey": {"source": "exec"}}"#,
                "b http://b:1 GPU_KEY_1",
            ),
            (r#"{"url": "http://b:1", "apiKey": ""}"#, "b http://b:1 -"),
        ] {
            assert_eq!(hosts(file), [expected], "{file}");
        }
        for empty in [
            "{}",
            "[]",
            "7",
            r#"{"hosts": [{"name": "a"}], "url": "http://b:1"}"#,
        ] {
            assert_eq!(read(empty).hosts, [], "{empty}");
        }
    }

    #[test]
    fn what_is_passed_over_is_told_and_a_text_is_a_url() {
        let file = r#"{"hosts": ["http://a:1", {"name": "b"}, 7, {"url": "http://c:1"}]}"#;
        assert_eq!(hosts(file), ["a http://a:1 -", "c http://c:1 -"]);
        let told = read(file).passed_over;
        let expected = [1, 2].map(|at| format!("hosts[{at}] is passed over: it has no url"));
        assert_eq!(told, expected);
    }

    #[test]
    fn a_mistake_is_told_by_its_host() {
        let told = |text: &str| mistake(&read(text).hosts).unwrap_or_default();
        for (file, expected) in [
            (
                r#"{"hosts": ["http://a:1", "10.0.0.2"]}"#,
                "the url of gpu has no scheme",
            ),
            (
                r#"{"hosts": ["http://a:1", "http://a:1/"]}"#,
                "the url of a-2 stands there twice",
            ),
            (r#"{"hosts": ["http://a:1", "${URL}"]}"#, ""),
        ] {
            let told = told(file);
            assert!(told.starts_with(expected), "{told}");
            assert_eq!(told.is_empty(), expected.is_empty(), "{told}");
        }
    }

    #[test]
    fn no_key_gets_a_variable_that_another_has() {
        let file = r#"{"hosts": [{"url": "http://a:1", "apiKey": "k"},
                                 {"url": "http://b:1", "apiKey": "${GPU_KEY_1}"},
                                 {"url": "http://${GPU_KEY_2}:1", "apiKey": "${OPENCLAW_KEY}"}]}"#;
        let draft = read(file);
        assert_eq!(
            hosts(file),
            [
                "a http://a:1 GPU_KEY_3",
                "b http://b:1 GPU_KEY_1",
                "gpu_key_2 http://${GPU_KEY_2}:1 OPENCLAW_KEY"
            ]
        );
        let path = Path::new("f");
        let (text, told) = (draft.to_yaml(path), draft.next_steps(path));
        assert!(text.contains("key: \"${CLIENT_KEY}\""), "{text}");
        for line in [
            "  CLIENT_KEY: the key that clients send",
            "  OPENCLAW_KEY: the key of gpu_key_2",
            "  GPU_KEY_2: stands in the url of gpu_key_2",
        ] {
            assert!(told.contains(line), "{told}");
        }
    }

    #[test]
    fn the_same_key_is_one_variable() {
        let file = r#"{"hosts": [{"url": "http://a:1", "apiKey": "k"}, {"url": "http://b:1", "apiKey": "l"},
                                 {"url": "http://c:1", "apiKey": "k"}]}"#;
        let variables = hosts(file)
            .into_iter()
            .map(|host| host[host.len() - 1..].to_owned());
        assert_eq!(variables.collect::<Vec<_>>(), ["1", "2", "1"]);
    }

    #[test]
    fn a_request_never_waits_for_longer_than_the_plugin() {
        for (timeout, expected) in [
            (45.0, None),
            (600.0, None),
            (44.0, Some(29)),
            (3.0, Some(2)),
            (0.5, Some(1)),
            (-1.0, Some(1)),
        ] {
            assert_eq!(max_wait(timeout), expected, "{timeout}");
        }
    }
}
