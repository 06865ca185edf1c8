//! One JSON settings file of a model. Its keys are read one at a time, so that an error can name
//! the file and the key; keys that nobody asks for are ignored, as the original libraries do.

use std::io;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::LoadError;

/// The object in one JSON file.
pub(crate) struct SettingsFile {
    path: PathBuf,
    values: Map<String, Value>,
}

impl SettingsFile {
    /// Reads the file, which must exist.
    pub(crate) fn read(path: PathBuf) -> Result<Self, LoadError> {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(source) => return Err(LoadError::Read { path, source }),
        };
        match serde_json::from_slice(&text) {
            Ok(values) => Ok(Self { path, values }),
            Err(source) => Err(LoadError::Json { path, source }),
        }
    }

    /// Reads the file; one that does not exist has no keys.
    pub(crate) fn read_or_empty(path: PathBuf) -> Result<Self, LoadError> {
        match Self::read(path) {
            Err(LoadError::Read { path, source }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self {
                    path,
                    values: Map::new(),
                })
            }
            other => other,
        }
    }

    /// The value of `key`; `None` if it is absent or null.
    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, LoadError> {
        let Some(value) = self.values.get(key).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let parsed = T::deserialize(value);
        parsed.map(Some).map_err(|source| LoadError::Value {
            path: self.path.clone(),
            key: key.to_owned(),
            source,
        })
    }

    /// The value of `key`, which must be there.
    pub(crate) fn require<T: DeserializeOwned>(&self, key: &str) -> Result<T, LoadError> {
        self.get(key)?
            .ok_or_else(|| self.problem(key, "is missing".to_owned()))
    }

    /// A number of things of which there must be at least one.
    pub(crate) fn require_count(&self, key: &str) -> Result<usize, LoadError> {
        match self.require(key)? {
            0 => Err(self.problem(key, "must be at least 1".to_owned())),
            count => Ok(count),
        }
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
        let folder = folder_with(&[("config.json", r#"{"layers": "six", "heads": null, "n": 0}"#)]);
        let file = SettingsFile::read(folder.path().join("config.json")).expect("valid JSON");
        for (error, expected) in [
            (
                file.require::<usize>("layers").expect_err("a string"),
                "config.json: 'layers' is unu",
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
                file.require_count("n").expect_err("zero"),
                "'n' must be at least 1",
            ),
        ] {
            assert!(error.to_string().contains(expected), "{error}");
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
