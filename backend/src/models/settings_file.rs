//! One JSON settings file of a model. Its keys are read one at a time, so that an error can name
//! the file and the key.
//!
//! A setting that is overlooked would give other numbers, silently. So each file has a table of
//! [`Rule`]s for the keys that nothing reads, and [`SettingsFile::settle`] goes through what is
//! left: it is known to change nothing, or refused by name, or warned of by name.

mod kind;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tracing::warn;

pub(crate) use self::kind::Setting;
use super::error::LoadError;
use super::file;

thread_local! {
    /// Whether this thread reads settings without a word in the log.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Reads settings without a word in the log: a load reads them again and says what is to be said.
///
/// Not by another subscriber: to set one costs a look at every place in the program that logs.
pub(crate) fn quietly<T>(read: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            QUIET.set(self.0);
        }
    }
    let _before = Before(QUIET.replace(true));
    read()
}

/// Says that nothing reads what is at `path`.
pub(crate) fn warn_unread(path: &Path, why: &str) {
    if !QUIET.get() {
        warn!(file = %path.display(), why, "settings not used");
    }
}

/// What the JSON in a file of settings says.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let text = file::read_settings(path).map_err(|source| LoadError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| LoadError::Json {
        path: path.to_owned(),
        source,
    })
}

/// What a key that nothing reads may hold. Null is as good as absent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// Anything: it changes no number that this program gives.
    Any,
    /// What turns it off: false, 0, an empty text, list or object.
    Off,
    /// This text.
    Is(&'static str),
}

impl Rule {
    fn allows(self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Is(text) => value == text,
            Self::Off => match value {
                Value::Null | Value::Bool(false) => true,
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Object(object) => object.is_empty(),
                Value::Bool(true) => false,
            },
        }
    }
}

/// The object in one JSON file.
pub(crate) struct SettingsFile {
    path: PathBuf,
    values: Map<String, Value>,
    /// Keys that were asked for.
    read: RefCell<BTreeSet<String>>,
}

impl SettingsFile {
    /// Reads the file, which must exist.
    pub(crate) fn read(path: PathBuf) -> Result<Self, LoadError> {
        let values = read_json(&path)?;
        Ok(Self::of(path, values))
    }

    /// Reads the file; one that does not exist has no keys.
    pub(crate) fn read_or_empty(path: PathBuf) -> Result<Self, LoadError> {
        match Self::read(path) {
            Err(LoadError::Read { path, source }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::of(path, Map::new()))
            }
            other => other,
        }
    }

    /// Reads a file with a list of objects: each as a file of its own.
    pub(crate) fn read_list(path: &Path) -> Result<Vec<Self>, LoadError> {
        let all: Vec<Map<String, Value>> = read_json(path)?;
        let all = all.into_iter();
        Ok(all
            .map(|values| Self::of(path.to_owned(), values))
            .collect())
    }

    fn of(path: PathBuf, values: Map<String, Value>) -> Self {
        let read = RefCell::default();
        Self { path, values, read }
    }

    /// The object under `key`, as a file of its own; empty if it is absent or null.
    pub(crate) fn object(&self, key: &str) -> Result<Self, LoadError> {
        let values = self.get(key)?.unwrap_or_default();
        Ok(Self::of(self.path.clone(), values))
    }

    /// Whether there is no key at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether there is such a key, be it null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Whether there is such a key, and it is null.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(Value::is_null)
    }

    /// Accounts for the keys that were not asked for: by the rules, else by a line in the log.
    ///
    /// # Errors
    /// See [`unknown`](Self::unknown).
    pub(crate) fn settle(&self, rules: &[(&str, Rule)]) -> Result<(), LoadError> {
        let unknown = self.unknown(rules)?;
        for key in unknown.into_iter().filter(|_| !QUIET.get()) {
            warn!(file = %self.path.display(), key, "setting not known, not used");
        }
        Ok(())
    }

    /// The keys that were not asked for and have no rule.
    ///
    /// # Errors
    /// A key that holds what would change numbers and is not supported.
    pub(crate) fn unknown(&self, rules: &[(&str, Rule)]) -> Result<Vec<&str>, LoadError> {
        let read = self.read.borrow();
        let left = self.values.iter().filter(|(key, _)| !read.contains(*key));
        let mut unknown = Vec::new();
        for (key, value) in left.filter(|(_, value)| !value.is_null()) {
            match rules.iter().find(|(known, _)| known == key) {
                None => unknown.push(key.as_str()),
                Some((_, rule)) if rule.allows(value) => {}
                Some((_, Rule::Is(text))) => {
                    return Err(self.problem(key, format!("is not '{text}'; that is unsupported")));
                }
                Some(_) => return Err(self.problem(key, "is set; that is unsupported".to_owned())),
            }
        }
        Ok(unknown)
    }

    /// The value of `key`; `None` if it is absent or null.
    pub(crate) fn get<T: Setting>(&self, key: &str) -> Result<Option<T>, LoadError> {
        self.read.borrow_mut().insert(key.to_owned());
        let Some(value) = self.values.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let parsed = T::deserialize(value);
        parsed.map(Some).map_err(|source| LoadError::Value {
            path: self.path.clone(),
            key: key.to_owned(),
            expected: T::KIND,
            source,
        })
    }

    /// The value of `key`, which must be there.
    pub(crate) fn require<T: Setting>(&self, key: &str) -> Result<T, LoadError> {
        self.get(key)?
            .ok_or_else(|| self.problem(key, "is missing".to_owned()))
    }

    /// A number of things of which there must be at least one, and at most `most`.
    pub(crate) fn require_count(&self, key: &str, most: usize) -> Result<usize, LoadError> {
        self.within(key, self.require(key)?, most)
    }

    /// The same; `None` if the key is absent or null.
    pub(crate) fn count(&self, key: &str, most: usize) -> Result<Option<usize>, LoadError> {
        let count = self.get(key)?;
        count.map(|count| self.within(key, count, most)).transpose()
    }

    /// The same; `default` if the key is absent or null.
    pub(crate) fn count_or(
        &self,
        key: &str,
        default: usize,
        most: usize,
    ) -> Result<usize, LoadError> {
        self.within(key, self.get(key)?.unwrap_or(default), most)
    }

    /// A finite number of at least `least`; `None` if the key is absent or null.
    pub(crate) fn number(&self, key: &str, least: f32) -> Result<Option<f32>, LoadError> {
        match self.get::<f32>(key)? {
            Some(number) if !(least..f32::INFINITY).contains(&number) => {
                let problem = format!("must be a number from {least:?} to {:?}", f32::MAX);
                Err(self.problem(key, problem))
            }
            number => Ok(number),
        }
    }

    fn within(&self, key: &str, count: usize, most: usize) -> Result<usize, LoadError> {
        let problem = match count {
            0 => "must be at least 1".to_owned(),
            count if count > most => format!("is {count}, the limit is {most}"),
            count => return Ok(count),
        };
        Err(self.problem(key, problem))
    }

    /// All keys with their values, of a file whose keys are data.
    pub(crate) fn all<T: DeserializeOwned>(&self) -> Result<T, LoadError> {
        T::deserialize(&Value::Object(self.values.clone())).map_err(|source| LoadError::Json {
            path: self.path.clone(),
            source,
        })
    }

    /// An error about the value of `key`; `problem` continues a sentence that begins with the key.
    pub(crate) fn problem(&self, key: &str, problem: String) -> LoadError {
        LoadError::Setting {
            path: self.path.clone(),
            key: key.to_owned(),
            problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::test_support::folder_with;

    #[test]
    fn errors_name_the_file_and_the_key() {
        let folder = folder_with(&[(
            "config.json",
            r#"{"layers": "six", "heads": null, "n": 0, "many": 6, "less": -1, "much": 1e39}"#,
        )]);
        let file = SettingsFile::read(folder.path().join("config.json")).expect("valid JSON");
        for (error, expected) in [
            (
                file.require::<usize>("layers").expect_err("a string"),
                "config.json: 'layers' must be a whole number of 0 or more: ",
            ),
            (
                file.require::<usize>("heads").expect_err("null"),
                "config.json: 'heads' is missing",
            ),
            (
                file.require::<usize>("width").expect_err("absent"),
                "'width' is missing",
            ),
            (
                file.require_count("n", 5).expect_err("zero"),
                "'n' must be at least 1",
            ),
            (
                file.require_count("many", 5).expect_err("too many"),
                "'many' is 6, the limit is 5",
            ),
            (
                file.number("less", 0.0).expect_err("negative"),
                "'less' must be a number from 0.0 to ",
            ),
            (
                file.number("much", 0.0).expect_err("infinite"),
                "'much' must be a number from 0.0 to ",
            ),
        ] {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn each_key_that_is_not_read_is_known_or_refused() {
        let settled = |text: &str| {
            let folder = folder_with(&[("config.json", text)]);
            let file = SettingsFile::read(folder.path().join("config.json")).expect("valid JSON");
            file.get::<u32>("read").expect("a number");
            let rules = [
                ("any", Rule::Any),
                ("off", Rule::Off),
                ("is", Rule::Is("x")),
            ];
            file.settle(&rules).map_err(|error| error.to_string())
        };
        for good in [
            r#"{"read": 1, "any": [1], "off": false, "is": "x"}"#,
            r#"{"off": 0, "is": null, "unknown": 1}"#,
            r#"{"off": {}}"#,
            r#"{"off": []}"#,
        ] {
            assert_eq!(settled(good), Ok(()), "{good}");
        }
        for (bad, told) in [
            (r#"{"off": true}"#, "config.json: 'off' is set"),
            (r#"{"off": 0.5}"#, "'off' is set"),
            (r#"{"off": {"a": 1}}"#, "'off' is set"),
            (r#"{"is": "y"}"#, "'is' is not 'x'"),
        ] {
            let error = settled(bad).expect_err(bad);
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_missing_file_and_a_broken_one_are_told_apart() {
        let folder = folder_with(&[("broken.json", "{"), ("list.json", "[1]")]);
        let read = |name: &str| SettingsFile::read_or_empty(folder.path().join(name));
        assert_eq!(
            read("none.json")
                .expect("empty")
                .get::<u32>("a")
                .expect("absent"),
            None
        );
        for name in ["broken.json", "list.json"] {
            let error = read(name).err().expect(name);
            assert!(error.to_string().contains("is not valid JSON"), "{error}");
        }
    }
}
