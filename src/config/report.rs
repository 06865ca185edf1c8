//! What is found while the configuration is read: problems and warnings, by path, and the files that
//! it refers to.

use std::cell::RefCell;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use super::places::Places;
use super::problem::Problem;
use super::sources::Sources;
use crate::file;

/// See the module. Shared by all sections, hence the cells.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: RefCell<Vec<Entry>>,
    warnings: RefCell<Vec<Entry>>,
    sources: RefCell<Sources>,
    /// The file whose read hangs.
    hanging: RefCell<Option<PathBuf>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    path: String,
    at_key: bool,
    text: String,
}

impl Report {
    /// A problem of the key or of the value at `path`.
    pub(super) fn add(&self, path: &str, at_key: bool, text: &str) {
        self.add_as(path, path, at_key, text);
    }

    /// The same, told as one of `told_as`.
    pub(super) fn add_as(&self, told_as: &str, path: &str, at_key: bool, text: &str) {
        let entry = Entry::new(told_as, path, at_key, text);
        self.problems.borrow_mut().push(entry);
    }

    /// Something of the value at `path` that can be used, but is perhaps not meant.
    pub(super) fn warn(&self, path: &str, text: &str) {
        let entry = Entry::new(path, path, false, text);
        let mut warnings = self.warnings.borrow_mut();
        // A value may be read more than once.
        if !warnings.contains(&entry) {
            warnings.push(entry);
        }
    }

    /// Reads a file that belongs to the configuration. Once the read of one hangs, the others are left
    /// alone: they are most likely on the same mount, and each would cost the same wait and a thread.
    pub(super) fn read_source(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        let mut hanging = self.hanging.borrow_mut();
        if let Some(other) = hanging.as_ref().filter(|other| *other != path) {
            let text = format!("it was left alone, as {} hangs", other.display());
            return Err(Error::new(ErrorKind::TimedOut, text));
        }
        let content = self.sources.borrow_mut().read(path);
        *hanging = file::hangs(&content).then(|| path.to_owned());
        content
    }

    /// Those files.
    pub(super) fn take_sources(&self) -> Sources {
        self.sources.take()
    }

    /// All problems, and all warnings, each in the order of the text.
    pub(super) fn into_parts(self, places: &Places) -> (Vec<Problem>, Vec<Problem>) {
        let in_order = |entries: RefCell<Vec<Entry>>| {
            let entries = entries.into_inner().into_iter();
            let mut sorted: Vec<_> = entries.map(|entry| entry.placed(places)).collect();
            sorted.sort_by_key(|problem| problem.place);
            sorted
        };
        (in_order(self.problems), in_order(self.warnings))
    }
}

impl Entry {
    fn new(told_as: &str, path: &str, at_key: bool, text: &str) -> Self {
        let text = if told_as.is_empty() {
            text.to_owned()
        } else {
            format!("{told_as}: {text}")
        };
        let path = path.to_owned();
        Self { path, at_key, text }
    }

    fn placed(self, places: &Places) -> Problem {
        let place = if self.at_key {
            places.of_key(&self.path)
        } else {
            places.of_value(&self.path)
        };
        let text = self.text;
        Problem::at(place, text)
    }
}
