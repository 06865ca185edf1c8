//! What is wrong with a configuration, for people.

use std::fmt;
use std::path::{Path, PathBuf};

use super::places::Place;
use super::sources::Sources;

/// One mistake or warning: where it is and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) place: Option<Place>,
    pub(super) text: String,
}

impl Problem {
    pub(super) fn of_file(text: String) -> Self {
        Self { place: None, text }
    }

    pub(super) fn of_syntax(error: &serde_yaml::Error) -> Self {
        let place = error.location().map(|location| Place {
            line: location.line(),
            column: location.column(),
        });
        let text = error.to_string();
        // The place is told by ourselves.
        let text = text.split(" at line ").next().unwrap_or(&text).to_owned();
        Self {
            place,
            text: format!("is not YAML that can be used: {text}"),
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

/// All that is wrong with a file; prints one line for each problem.
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

    /// It was read from files with this content, but can't be used after all.
    pub(crate) fn unusable(file: &Path, problem: &dyn fmt::Display, sources: Sources) -> Self {
        Self {
            file: file.to_owned(),
            problems: vec![Problem::of_file(problem.to_string())],
            sources,
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
        for (number, line) in self.lines().enumerate() {
            let newline = if number == 0 { "" } else { "\n" };
            write!(f, "{newline}{line}")?;
        }
        Ok(())
    }
}
