//! The files that a configuration is made of: itself, its secrets, its certificates.
//!
//! What they held when they were read is remembered as a hash, so that a change is noticed whatever
//! made it (an editor, a renamed file, a swapped symbolic link) and whenever it came.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::file::{self, PATIENCE};

/// Each file with the hash of its content; `None` for one that can't be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    files: BTreeMap<PathBuf, Option<u64>>,
    /// The configuration itself, which is looked at before what it refers to: it may do without a file
    /// that hangs from now on.
    first: Option<PathBuf>,
}

impl Sources {
    /// One file with this content, for tests.
    #[cfg(test)]
    pub(crate) fn made_of(path: &str, content: &str) -> Self {
        let mut sources = Self::of_unread(Path::new(path));
        sources.note(Path::new(path), &Ok(content.as_bytes().to_vec()));
        sources
    }

    /// One file whose content is not known.
    pub(super) fn of_unread(path: &Path) -> Self {
        let mut sources = Self::default();
        sources.note(path, &Err(ErrorKind::Other.into()));
        sources
    }

    /// Reads a file and notes what it holds.
    pub(super) fn read(&mut self, path: &Path) -> std::io::Result<Vec<u8>> {
        let content = file::read(path, PATIENCE);
        self.note(path, &content);
        content
    }

    /// Adds what was noted elsewhere.
    pub(super) fn extend(&mut self, others: Self) {
        self.files.extend(others.files);
    }

    /// The same files with what they hold now. Once the read of one hangs, the others count as unchanged; so
    /// does one that there is nothing to read with.
    #[must_use]
    pub fn now(&self) -> Self {
        let mut now = self.clone();
        let others = self.files.keys();
        let others = others.filter(|path| self.first.as_ref() != Some(*path));
        for path in self.first.iter().chain(others) {
            let content = file::read(path, PATIENCE);
            if file::is_out_of_means(&content) {
                break;
            }
            now.note(path, &content);
            if file::hangs(&content) {
                break;
            }
        }
        now
    }

    fn note(&mut self, path: &Path, content: &std::io::Result<Vec<u8>>) {
        self.first.get_or_insert_with(|| path.to_owned());
        self.files.insert(path.to_owned(), fingerprint(content));
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
        assert_eq!(sources.read(&path).unwrap(), b"one");
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
        sources.read(&at("current")).unwrap();
        std::os::unix::fs::symlink("two", at("next")).unwrap();
        std::fs::rename(at("next"), at("current")).unwrap();
        assert_ne!(sources.now(), sources);
    }
}
