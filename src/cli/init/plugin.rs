//! What the plugin `openclaw-gpu-bridge` is told, as it reads it itself: the hosts of 0.2, or else the one
//! of 0.1; a key for all that have none of their own.
//!
//! It stands in a file of its own, or in `OpenClaw`'s, whose syntax is JSON5, under the plugin's name.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::{Draft, Host, Key, Names, name_of};
use crate::cli::failure::Failure;
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
    Ok(draft)
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
    let listed = settings["hosts"]
        .as_array()
        .filter(|hosts| !hosts.is_empty());
    let single = [("serviceUrl", settings), ("url", settings)];
    let hosts: Vec<(&Value, &Value)> = match listed {
        Some(hosts) => hosts.iter().map(|host| (&host["url"], host)).collect(),
        None => single
            .iter()
            .map(|(name, holder)| (&holder[*name], *holder))
            .collect(),
    };
    let urls: Vec<&str> = hosts
        .iter()
        .filter_map(|(url, _)| url.as_str())
        .map(str::trim)
        .collect();
    let mut names = Names::default();
    let mut keys = Keys::default();
    let mut found: Vec<Host> = Vec::new();
    for (url, host) in hosts {
        let Some(url) = url.as_str() else { continue };
        let name = host["name"]
            .as_str()
            .map_or_else(|| name_of(url.trim(), &urls), str::to_owned);
        found.push(Host {
            name: names.unique(&name),
            url: url.trim().trim_end_matches('/').to_owned(),
            key: keys.of([&host["apiKey"], &settings["apiKey"]]),
        });
        if listed.is_none() {
            break;
        }
    }
    Draft {
        hosts: found,
        max_wait: settings["timeout"].as_f64().and_then(max_wait),
    }
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
#[derive(Default)]
struct Keys(HashMap<String, String>);

impl Keys {
    /// The first that is set.
    fn of(&mut self, keys: [&Value; 2]) -> Key {
        let is_set = |key: &&&Value| !key.is_null() && key.as_str() != Some("");
        let Some(key) = keys.iter().find(is_set) else {
            return Key::No;
        };
        // OpenClaw takes it from there, too.
        let reference = key
            .as_str()
            .and_then(|key| key.strip_prefix("${")?.strip_suffix('}'));
        if let Some(variable) = reference.filter(|name| is_variable(name)) {
            return Key::In(variable.to_owned());
        }
        let next = format!("GPU_KEY_{}", self.0.len() + 1);
        Key::In(self.0.entry(key.to_string()).or_insert(next).clone())
    }
}

fn is_variable(name: &str) -> bool {
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
