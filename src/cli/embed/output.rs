//! The file that is written: only ever longer, by whole lines, so that whoever comes back goes on where it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::failed;
use super::rows::{Origin, Written};
use crate::cli::failure::Failure;

/// The longest time for which what is written may be lost if the machine fails; it is computed again then.
const AT_RISK: Duration = Duration::from_secs(1);
/// How much of the end is read at once to find the last line.
const STEP: u64 = 64 << 10;
/// A line with the longest vector and the longest `id` is far below.
const LONGEST_LINE: u64 = 64 << 20;

/// See the module.
pub(super) struct Output {
    path: PathBuf,
    file: File,
    synced: Instant,
}

/// Where the file ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Last {
    /// Of the input.
    pub(super) line: u64,
    pub(super) text_sha256: String,
    /// `None`: the row has no vector.
    pub(super) origin: Option<Origin>,
}

impl Output {
    /// Opens or makes the file at `path`, which nobody else may write, and cuts off a line that was begun.
    /// Returns its last line, if it has one.
    pub(super) fn open(path: &Path) -> Result<(Self, Option<Last>), Failure> {
        let failed = |error| failed(path, &error);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let text = format!("{}: another process is writing it", path.display());
                return Err(Failure::Failed(text));
            }
            // Where files can't be locked, the operator has to see to it.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let (last, end) = last_line(&mut file).map_err(failed)?;
        let not_ours = || {
            let text = "its end is not what this command writes; name another file";
            Failure::Failed(format!("{}: {text}", path.display()))
        };
        let last = match last {
            None => None,
            Some(json) => Some(read(&json).ok_or_else(not_ours)?),
        };
        if last.is_none() && file.metadata().map_err(failed)?.len() > 0 && !begins_ours(&mut file) {
            return Err(not_ours());
        }
        file.set_len(end).map_err(failed)?;
        file.seek(SeekFrom::Start(end)).map_err(failed)?;
        let output = Self {
            path: path.to_owned(),
            file,
            synced: Instant::now(),
        };
        Ok((output, last))
    }

    /// Appends whole lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(lines);
        written.map_err(|error| failed(&self.path, &error))?;
        if self.synced.elapsed() >= AT_RISK {
            self.sync()?;
        }
        Ok(())
    }

    /// What was appended stays, even if the machine fails.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        self.synced = Instant::now();
        self.file
            .sync_data()
            .map_err(|error| failed(&self.path, &error))
    }
}

fn read(json: &[u8]) -> Option<Last> {
    let written: Written<'_> = serde_json::from_slice(json).ok()?;
    Some(Last {
        line: written.line,
        text_sha256: written.text_sha256,
        origin: written.origin,
    })
}

/// The last line that has its end, without it, and where that is; what follows was begun and not written.
fn last_line(file: &mut File) -> std::io::Result<(Option<Vec<u8>>, u64)> {
    let mut start = file.metadata()?.len();
    let mut tail = Vec::new();
    loop {
        let step = start.min(STEP);
        start -= step;
        let mut piece = vec![0; usize::try_from(step).unwrap_or_default()];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut piece)?;
        piece.append(&mut tail);
        tail = piece;
        let mut ends = memchr::memrchr_iter(b'\n', &tail);
        let end = ends.next();
        let before = ends.next();
        if let Some(end) = end.filter(|_| before.is_some() || start == 0) {
            let begin = before.map_or(0, |before| before + 1);
            let line = tail.get(begin..end).map(<[u8]>::to_vec);
            return Ok((line, start + end as u64 + 1));
        }
        if start == 0 {
            return Ok((None, 0));
        }
        if tail.len() as u64 > LONGEST_LINE {
            return Err(std::io::Error::other("its last line is too long"));
        }
    }
}

/// Could a file without a whole line be ours, of a process that was killed at its first?
fn begins_ours(file: &mut File) -> bool {
    const FIRST: &[u8] = br#"{"line":"#;
    let mut begin = Vec::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.take(FIRST.len() as u64).read_to_end(&mut begin));
    read.is_ok() && FIRST.starts_with(&begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        r#"{"line":3,"text_sha256":"00","model":"m","dimensions":2,"embedding":[1,2]}"#;

    fn opened(content: &str) -> Result<(Option<u64>, String), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let opened = Output::open(file.path());
        let (mut output, last) = opened.map_err(|failure| failure.to_string())?;
        output.append(b"next\n").unwrap();
        let now = std::fs::read_to_string(file.path()).unwrap();
        Ok((last.map(|last| last.line), now))
    }

    #[test]
    fn it_goes_on_after_the_last_whole_line() {
        let long = " ".repeat(200_000);
        for (content, line, kept) in [
            (String::new(), None, String::new()),
            (format!("{LINE}\n"), Some(3), format!("{LINE}\n")),
            (
                format!("{LINE}\n{{\"line\":4"),
                Some(3),
                format!("{LINE}\n"),
            ),
            (
                format!("what was before\n{LINE}{long}\n{LINE}"),
                Some(3),
                format!("what was before\n{LINE}{long}\n"),
            ),
            ("{\"line\":1,\"te".to_owned(), None, String::new()),
            ("{\"l".to_owned(), None, String::new()),
        ] {
            let (found, now) = opened(&content).unwrap();
            assert_eq!(found, line);
            assert_eq!(now, format!("{kept}next\n"));
        }
    }

    #[test]
    fn what_is_not_ours_stays_as_it_is() {
        for content in [
            "my thesis",
            "my\nthesis\n",
            "[1]\n",
            "\n\n",
            "{\"line\":1}\n\n",
        ] {
            let refused = opened(content).unwrap_err();
            assert!(
                refused.contains("name another file"),
                "{content}: {refused}"
            );
        }
    }

    #[test]
    fn one_process_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let _first = Output::open(file.path()).unwrap();
        let second = Output::open(file.path()).err().unwrap();
        assert!(second.to_string().contains("another process"), "{second}");
    }
}
