//! The file that is written: only ever longer, by whole lines, so that whoever comes back goes on where it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::rows::Written;
use crate::cli::failure::Failure;

/// The longest time for which what is written may be lost if the machine fails; it is computed again then.
const AT_RISK: Duration = Duration::from_secs(1);
/// How much is read at once.
const STEP: usize = 256 << 10;
/// A line with the longest vector and the longest `id` is far below.
const LONGEST_LINE: u64 = 64 << 20;

/// See the module.
pub(super) struct Output {
    path: PathBuf,
    file: BufReader<File>,
    /// What was read last.
    line: Vec<u8>,
    /// How many lines were, and their bytes.
    lines: u64,
    end: u64,
    synced: Instant,
}

impl Output {
    /// Opens or makes the file at `path`, which nobody else may write. What it holds is to be read before anything
    /// is appended.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::of_file(path, &error);
        let because = |why: &str| Failure::Failed(format!("{}: {why}", path.display()));
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(because("it is no file that the command can go on with"));
        }
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(because("another process is writing it")),
            // Where files can't be locked, the operator has to see to it.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(STEP, file),
            line: Vec::new(),
            lines: 0,
            end: 0,
            synced: Instant::now(),
        })
    }

    /// What its next line says; `None` after the last. What follows that is to be [cut off](Self::cut_off).
    pub(super) fn next(&mut self) -> Result<Option<Written<'_>>, Failure> {
        let failed = |error| Failure::of_file(&self.path, &error);
        self.line.clear();
        let mut bounded = (&mut self.file).take(LONGEST_LINE);
        let read = bounded.read_until(b'\n', &mut self.line);
        let read = read.map_err(failed)? as u64;
        if self.line.ends_with(b"\n") {
            self.lines += 1;
            self.end += read;
            let written = serde_json::from_slice(&self.line).ok();
            let written = written.filter(Written::is_whole);
            return match written {
                Some(written) => Ok(Some(written)),
                None => Err(not_ours(&self.path, self.lines)),
            };
        }
        if read == LONGEST_LINE {
            return Err(not_ours(&self.path, self.lines + 1));
        }
        Ok(None)
    }

    /// Cuts off what follows the last whole line, of a process that was killed. Nobody else has written it if the
    /// lines before are ours; if there are none, `is_ours` tells.
    pub(super) fn cut_off(&mut self, is_ours: impl FnOnce(&[u8]) -> bool) -> Result<(), Failure> {
        if self.lines == 0 && !self.line.is_empty() && !is_ours(&self.line) {
            return Err(not_ours(&self.path, 1));
        }
        let failed = |error| Failure::of_file(&self.path, &error);
        self.file.get_mut().set_len(self.end).map_err(failed)?;
        self.file.seek(SeekFrom::Start(self.end)).map_err(failed)?;
        Ok(())
    }

    /// Appends whole lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), Failure> {
        let written = self.file.get_mut().write_all(lines);
        written.map_err(|error| Failure::of_file(&self.path, &error))?;
        if self.synced.elapsed() >= AT_RISK {
            self.sync()?;
        }
        Ok(())
    }

    /// What was appended stays, even if the machine fails.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        self.synced = Instant::now();
        self.file
            .get_mut()
            .sync_data()
            .map_err(|error| Failure::of_file(&self.path, &error))
    }
}

fn not_ours(path: &Path, line: u64) -> Failure {
    let text = format!("line {line} is not what this command writes; name another file");
    Failure::Failed(format!("{}: {text}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        r#"{"line":3,"text_sha256":"00","model":"m","dimensions":2,"embedding":[1,2]}"#;

    fn opened(content: &str) -> Result<(u64, String), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let words = |failure: Failure| failure.to_string();
        let mut output = Output::open(file.path()).map_err(words)?;
        let mut lines = 0;
        while let Some(written) = output.next().map_err(words)? {
            lines += 1;
            assert_eq!((written.line, written.embedding.is_some()), (3, true));
        }
        let begun = br#"{"line":1,"text_sha256":"#;
        output
            .cut_off(|rest| begun.starts_with(rest))
            .map_err(words)?;
        output.append(b"next\n").unwrap();
        let now = std::fs::read_to_string(file.path()).unwrap();
        Ok((lines, now))
    }

    #[test]
    fn it_goes_on_after_the_last_whole_line() {
        let long = " ".repeat(600_000);
        for (content, lines, kept) in [
            (String::new(), 0, String::new()),
            (format!("{LINE}\n"), 1, format!("{LINE}\n")),
            (format!("{LINE}\n{{\"line\":4"), 1, format!("{LINE}\n")),
            (format!("{LINE}\n\0\0\0"), 1, format!("{LINE}\n")),
            (
                format!("{LINE}{long}\n{LINE}\n{LINE}"),
                2,
                format!("{LINE}{long}\n{LINE}\n"),
            ),
            ("{\"line\":1,\"text_s".to_owned(), 0, String::new()),
            ("{\"l".to_owned(), 0, String::new()),
        ] {
            let (found, now) = opened(&content).unwrap();
            assert_eq!(found, lines);
            assert_eq!(now, format!("{kept}next\n"));
        }
    }

    #[test]
    fn what_is_not_ours_stays_as_it_is() {
        for content in [
            "my thesis",
            "{\"line\":1,\"text\":\"mine\"}",
            &LINE.replace("[1,2]", "null").replace('}', "}\n"),
            "my\nthesis\n",
            "[1]\n",
            "\n\n",
            "{\"line\":1}\n\n",
            &format!("what was before\n{LINE}\n"),
            &format!("{LINE}\n\0\0\n{LINE}\n"),
        ] {
            let refused = opened(content).unwrap_err();
            assert!(
                refused.contains("name another file"),
                "{content}: {refused}"
            );
        }
        let pipe = Output::open(Path::new("/dev/null")).err().unwrap();
        assert!(pipe.to_string().contains("no file"), "{pipe}");
    }

    #[test]
    fn one_process_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let _first = Output::open(file.path()).unwrap();
        let second = Output::open(file.path()).err().unwrap();
        assert!(second.to_string().contains("another process"), "{second}");
    }
}
