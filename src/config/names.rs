//! Names of settings: which there are, and which was meant by another spelling.

use std::collections::HashSet;
use std::sync::OnceLock;

use super::schema;

/// Spellings at least this similar to a setting's name (Jaro-Winkler, 0 to 1) are taken for it.
const SIMILAR: f64 = 0.8;
/// A longer word is no setting.
const MAX_LENGTH: usize = 24;
/// Words in the names of secrets, ours or others'.
const SECRETS: [&str; 5] = ["key", "secret", "token", "pass", "cred"];

/// What a word in the place of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A setting that holds no secret, or a word for one.
    Harmless,
    /// The same, of one that may hold a secret.
    Secret,
    /// Could be meant as one, but nobody knows which.
    Unknown,
    /// Perhaps a secret itself, in the wrong place.
    Odd,
}

/// What `word` is.
pub(super) fn name(word: &str) -> Name {
    let settings = settings();
    let known = settings.iter().map(|(name, _)| name.as_str());
    let Some(meant) = nearest(word, known) else {
        return if looks_like_a_setting(word) {
            Name::Unknown
        } else {
            Name::Odd
        };
    };
    let spelling = spelled(word);
    let is_secret = |text: &str| SECRETS.iter().any(|secret| text.contains(secret));
    let is_value = settings
        .iter()
        .any(|(name, is_value)| name == meant && *is_value);
    if is_value && !is_secret(meant) && !is_secret(&spelling) {
        Name::Harmless
    } else {
        Name::Secret
    }
}

/// Is it a value that a setting may have, of those that are words?
pub(super) fn is_word(word: &str) -> bool {
    words().contains(word)
}

/// The sections that `setting` stands in, or in whose items.
pub(super) fn sections_of(setting: &str) -> Vec<&'static str> {
    let sections = schema()["properties"].as_object().into_iter().flatten();
    let has_it = |section: &serde_json::Value| section["properties"][setting].is_object();
    let with_it = sections.filter(|(_, section)| has_it(section) || has_it(&section["items"]));
    with_it.map(|(name, _)| name.as_str()).collect()
}

/// The names at the top of a configuration.
pub(super) fn top() -> impl Iterator<Item = &'static str> {
    let sections = schema()["properties"].as_object().into_iter().flatten();
    sections.map(|(name, _)| name.as_str())
}

/// The one of `known` that `word` was meant to be, if one is near enough.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_LENGTH || !word.bytes().all(is_of_a_name) {
        return None;
    }
    let word = spelled(word);
    let similarity = |name: &&str| strsim::jaro_winkler(&word, &spelled(name));
    let nearest = known.max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    nearest.filter(|name| similarity(name) >= SIMILAR)
}

/// May it be repeated, though it is none of ours?
pub(super) fn looks_like_a_setting(word: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    word.len() <= 20 && word.bytes().all(is_plain)
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || b"-_.".contains(&byte)
}

/// Without what differs between `max_wait`, `maxWait`, `max-wait` and `MAX_WAIT`.
fn spelled(name: &str) -> String {
    let letters = name.chars().filter(char::is_ascii_alphabetic);
    letters.map(|letter| letter.to_ascii_lowercase()).collect()
}

/// All names of the schema; and whether each holds a value, rather than other settings.
fn settings() -> &'static [(String, bool)] {
    static SETTINGS: OnceLock<Vec<(String, bool)>> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let mut found = Vec::new();
        collect(schema(), &mut found);
        found
    })
}

fn schema() -> &'static serde_json::Value {
    static SCHEMA: OnceLock<serde_json::Value> = OnceLock::new();
    // It is a part of the program, and tests read it.
    SCHEMA.get_or_init(|| serde_json::from_str(schema::SCHEMA).unwrap_or_default())
}

fn words() -> &'static HashSet<String> {
    static WORDS: OnceLock<HashSet<String>> = OnceLock::new();
    WORDS.get_or_init(|| {
        let mut found = HashSet::from(["true", "false"].map(str::to_owned));
        collect_words(schema(), &mut found);
        found
    })
}

fn collect_words(schema: &serde_json::Value, found: &mut HashSet<String>) {
    let words = schema["enum"].as_array().into_iter().flatten();
    found.extend(words.filter_map(|word| Some(word.as_str()?.to_owned())));
    let settings = schema["properties"].as_object().into_iter().flatten();
    let inner = settings.map(|(_, setting)| setting);
    for setting in inner.chain(schema.get("items")) {
        collect_words(setting, found);
    }
}

fn collect(schema: &serde_json::Value, found: &mut Vec<(String, bool)>) {
    let settings = schema["properties"].as_object().into_iter().flatten();
    for (name, setting) in settings {
        let items = &setting["items"];
        let holds_settings = |schema: &serde_json::Value| schema["properties"].is_object();
        found.push((
            name.clone(),
            !holds_settings(setting) && !holds_settings(items),
        ));
        collect(setting, found);
        collect(items, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_spellings_are_recognised() {
        let known = ["api_key", "max_concurrent", "hosts", "url", "weight"];
        for (word, expected) in [
            ("apiKey", Some("api_key")),
            ("API_KEY", Some("api_key")),
            ("api-key", Some("api_key")),
            ("maxConcurrent", Some("max_concurrent")),
            ("max_concurency", Some("max_concurrent")),
            ("host", Some("hosts")),
            ("uri", Some("url")),
            ("wieght", Some("weight")),
            ("nonsense", None),
            ("weight1", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), expected, "{word}");
        }
    }

    #[test]
    fn what_holds_a_secret_is_told_from_what_does_not() {
        for (word, expected) in [
            ("max_wait", Name::Harmless),
            ("maxWait", Name::Harmless),
            ("key_file", Name::Secret),
            ("key", Name::Secret),
            ("apiKey", Name::Secret),
            ("auth", Name::Secret),
            ("nonsense", Name::Unknown),
            ("hunter2", Name::Odd),
            ("Correct-Horse", Name::Odd),
        ] {
            assert_eq!(name(word), expected, "{word}");
        }
    }
}
