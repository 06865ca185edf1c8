//! The files that a configuration is made of: itself, its secrets, its certificates.
//!
//! What they held when they were read is remembered as a hash, so that a change is noticed whatever
//! made it (an editor, a renamed file, a swapped symbolic link) and whenever it came.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// A longer file is a mistake.
const MAX_BYTES: u64 = 4 << 20;

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
    pub(super) fn read(&mut self, path: &Path) -> std::io::Result<Vec<u8>> {
        let content = File::open(path).and_then(content);
        self.0.insert(path.to_owned(), fingerprint(&content));
        content
    }

    /// Adds what was noted elsewhere.
    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The same files with what they hold now.
    #[must_use]
    pub fn now(&self) -> Self {
        let mut now = Self::default();
        for path in self.0.keys() {
            now.0.insert(
                path.clone(),
                fingerprint(&File::open(path).and_then(content)),
            );
        }
        now
    }
}

/// A device that never ends must not be read to its end.
pub(super) fn content(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut source = source.take(MAX_BYTES + 1);
    if source.read_to_end(&mut content)? as u64 > MAX_BYTES {
        return Err(Error::new(
            ErrorKind::InvalidData,
            "it is longer than 4 MiB",
        ));
    }
    Ok(content)
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
        assert_eq!(sources.read(&path).unwrap(), b"one");
        std::fs::write(&path, "one").unwrap();
        assert_eq!(sources.now(), sources, "written again, but the same");
        std::fs::write(folder.path().join("next"), "two").unwrap();
        std::fs::rename(folder.path().join("next"), &path).unwrap();
        assert_ne!(sources.now(), sources, "another file in its place");
    }

    #[test]
    fn what_never_ends_is_no_file() {
        let error = Sources::default().read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 4 MiB");
    }

    #[test]
    fn a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("one"), "one").unwrap();
        std::fs::write(at("two"), "two").unwrap();
        std::os::unix::fs::symlink("one", at("current")).unwrap();
        let mut sources = Sources::default();
        sources.read(&at("current")).unwrap();
        std::os::unix::fs::symlink("two", at("next")).unwrap();
        std::fs::rename(at("next"), at("current")).unwrap();
        assert_ne!(sources.now(), sources);
    }
}
