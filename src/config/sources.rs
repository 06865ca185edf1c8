//! The files that a configuration is made of: itself, its secrets, its certificates.
//!
//! What they held when they were read is remembered as a hash, so that a change is noticed whatever
//! made it (an editor, a renamed file, a swapped symbolic link) and whenever it came.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// Each file with the hash of its content; `None` for one that can't be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<PathBuf, Option<u64>>);

impl Sources {
    /// One file with this content, for tests.
    #[cfg(test)]
    pub(crate) fn made_of(path: &str, content: &str) -> Self {
        let content = Ok(content.as_bytes().to_vec());
        Self(BTreeMap::from([(path.into(), fingerprint(&content))]))
    }

    /// One file whose content is not known.
    pub(super) fn of_unread(path: &Path) -> Self {
        Self(BTreeMap::from([(path.to_owned(), None)]))
    }

    /// Reads a file and notes what it holds.
    pub(super) fn read(&mut self, path: &Path) -> std::io::Result<String> {
        let content = std::fs::read(path);
        self.0.insert(path.to_owned(), fingerprint(&content));
        String::from_utf8(content?).map_err(|_| {
            let text = "it is not UTF-8 text";
            std::io::Error::new(std::io::ErrorKind::InvalidData, text)
        })
    }

    /// Notes a file that others will read.
    pub(super) fn note(&mut self, path: &Path) {
        let content = std::fs::read(path);
        self.0.insert(path.to_owned(), fingerprint(&content));
    }

    /// Adds what was noted elsewhere.
    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The same files with what they hold now.
    #[must_use]
    pub fn now(&self) -> Self {
        let mut now = Self::default();
        self.0.keys().for_each(|path| now.note(path));
        now
    }
}

fn fingerprint(content: &std::io::Result<Vec<u8>>) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    content.as_ref().ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_content_is_seen_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let mut sources = Sources::default();
        assert!(sources.read(&path).is_err());
        assert_eq!(sources.now(), sources, "still missing");
        std::fs::write(&path, "one").unwrap();
        assert_ne!(sources.now(), sources, "it is there now");
        assert_eq!(sources.read(&path).unwrap(), "one");
        std::fs::write(&path, "one").unwrap();
        assert_eq!(sources.now(), sources, "written again, but the same");
        std::fs::write(folder.path().join("next"), "two").unwrap();
        std::fs::rename(folder.path().join("next"), &path).unwrap();
        assert_ne!(sources.now(), sources, "another file in its place");
    }

    #[test]
    fn a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("one"), "one").unwrap();
        std::fs::write(at("two"), "two").unwrap();
        std::os::unix::fs::symlink("one", at("current")).unwrap();
        let mut sources = Sources::default();
        sources.note(&at("current"));
        std::os::unix::fs::symlink("two", at("next")).unwrap();
        std::fs::rename(at("next"), at("current")).unwrap();
        assert_ne!(sources.now(), sources);
    }
}
