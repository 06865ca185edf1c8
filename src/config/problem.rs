//! What is wrong with a configuration, for people.

use std::fmt;
use std::path::{Path, PathBuf};

use super::excerpt::Excerpt;
use super::places::Place;
use super::sources::Sources;

/// One mistake or warning: where it is and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) place: Option<Place>,
    text: String,
    excerpt: Option<Excerpt>,
}

impl Problem {
    pub(super) fn of_file(text: String) -> Self {
        Self::at(None, text)
    }

    pub(super) fn at(place: Option<Place>, text: String) -> Self {
        Self {
            place,
            text,
            excerpt: None,
        }
    }

    /// With the line of `source` that it is in.
    pub(super) fn quoting(mut self, source: &str) -> Self {
        self.excerpt = self.place.and_then(|place| Excerpt::of(source, place));
        self
    }

    /// With the name of the file that it is in, and the line if there is one to show.
    pub fn explained(&self, file: &Path) -> String {
        match &self.excerpt {
            Some(excerpt) => format!("{}\n{excerpt}", self.in_file(file)),
            None => self.in_file(file).to_string(),
        }
    }

    /// With the name of the file that it is in: `FILE:LINE:COLUMN: TEXT`.
    pub fn in_file(&self, file: &Path) -> impl fmt::Display {
        let colon = if self.place.is_some() { ":" } else { ": " };
        format!("{}{colon}{self}", file.display())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.place {
            write!(f, "{line}:{column}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// All that is wrong with a file; prints each problem with the line that it is in.
#[derive(Clone, Debug)]
pub struct ConfigError {
    pub(super) file: PathBuf,
    pub(super) problems: Vec<Problem>,
    pub(super) sources: Sources,
}

impl ConfigError {
    /// Reading the file did not come to an end.
    pub(crate) fn unreadable(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            problems: vec![Problem::of_file("could not be read to its end".to_owned())],
            sources: Sources::of_unread(file),
        }
    }

    /// One line for each problem, with the file and the place in it.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let problems = self.problems.iter();
        problems.map(|problem| problem.in_file(&self.file).to_string())
    }

    /// The files that were read or looked for: a change of one of them may make it good.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            let newline = if number == 0 { "" } else { "\n" };
            write!(f, "{newline}{}", problem.explained(&self.file))?;
        }
        Ok(())
    }
}
