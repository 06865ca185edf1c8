//! The files in a model's folder, which strangers made: only regular ones are opened, since opening
//! a pipe waits for its other end and a device may never end; and of each no more is read than it
//! held when it was opened, and nothing of one that is larger than its kind may be.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a file with settings. The largest ones published list tokens with their flags (30,000 of
/// them in 5 MB) or the tensors of language models (`index.json` with 92,000 names in 9 MB).
pub(crate) const MOST_SETTINGS: u64 = 16 << 20;
/// Bytes of a tokenizer's file. The largest one published for an encoder, XLM-V's `tokenizer.json`
/// with 901,629 pieces, has about 63 MB.
pub(crate) const MOST_TOKENIZER: u64 = 128 << 20;
/// Values in a file of settings; the largest ones have about 250,000. Each takes some 100 bytes.
const MOST_VALUES: usize = 1 << 20;
/// The same for a tokenizer; XLM-V's has 2.8 million.
pub(crate) const MOST_TOKENIZER_VALUES: usize = 4 << 20;

/// The system's number for a link that leads back to itself, for which the library has no name yet.
const LOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };

/// Whether something has this name, be it a pipe, or a link to what is not there: whoever put it into the
/// folder meant it to be read.
pub(crate) fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// With which files in UTF-8 begin on some systems, and those in UTF-16 on all.
const MARKS: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];

/// Opens the file at `path`, links followed, and tells its length in bytes.
///
/// # Errors
/// It is not there ([`NotFound`](io::ErrorKind::NotFound) only if nothing has this name), cannot be read, or
/// is no regular file.
pub(crate) fn open(path: &Path) -> io::Result<(File, u64)> {
    // Looked at before it is opened: for some kinds of file opening alone does something.
    let found = fs::metadata(path).map_err(|error| explained(path, error))?;
    if !found.is_file() {
        return Err(refused("it is not a regular file"));
    }
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn explained(path: &Path, error: io::Error) -> io::Error {
    let is_missing = error.kind() == io::ErrorKind::NotFound && is_there(path);
    if is_missing || error.raw_os_error() == Some(LOOP) {
        return refused("it is a link that leads to no file");
    }
    error
}

/// All of the file at `path`, which may have `most` bytes.
///
/// # Errors
/// As [`open`], or it is larger.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, length) = open(path)?;
    if length > most {
        return Err(refused(format!(
            "it has {length} bytes, the limit is {most}"
        )));
    }
    let mut content = Vec::new();
    file.take(length).read_to_end(&mut content)?;
    Ok(content)
}

/// The JSON text in a file of settings.
///
/// # Errors
/// As [`read`], or there is too much in it.
pub(crate) fn read_settings(path: &Path) -> io::Result<Vec<u8>> {
    let text = read(path, MOST_SETTINGS)?;
    check_json(&text, MOST_VALUES)?;
    Ok(text)
}

/// Refuses JSON with more than about `most` values, since a value takes many times the memory of its
/// text: those that a comma, a bracket or a brace comes before are counted. And what editors make of it: nothing,
/// or a file in another encoding.
pub(crate) fn check_json(json: &[u8], most: usize) -> io::Result<()> {
    if json.trim_ascii().is_empty() {
        return Err(refused("it is empty"));
    }
    if MARKS.iter().any(|mark| json.starts_with(mark)) {
        let problem = "it begins with a byte order mark; save it as UTF-8 without one";
        return Err(refused(problem));
    }
    let values = values(json);
    if values > most {
        return Err(refused(format!(
            "it has {values} values, the limit is {most}"
        )));
    }
    Ok(())
}

/// About how many values JSON has.
pub(crate) fn values(json: &[u8]) -> usize {
    let (mut values, mut quoted, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => values += 1,
            _ => {}
        }
    }
    values
}

/// An error in our own words, which clients may read.
pub(crate) fn refused(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::models::test_support::folder_with;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = folder_with(&[("file", "12345")]);
        let path = |name: &str| folder.path().join(name);
        let pipe = std::process::Command::new("mkfifo")
            .arg(path("pipe"))
            .status();
        assert!(pipe.expect("mkfifo").success());
        let _socket = UnixListener::bind(path("socket")).expect("binds");
        for (link, target) in [
            ("zero", Path::new("/dev/zero")),
            ("to-pipe", &path("pipe")),
            ("to-folder", folder.path()),
            ("link", &path("file")),
        ] {
            symlink(target, path(link)).expect("link");
        }
        for (link, target) in [("to-nothing", "nothing"), ("to-itself", "to-itself")] {
            symlink(target, path(link)).expect("link");
            let error = read(&path(link), 100).expect_err(link);
            assert_eq!(error.to_string(), "it is a link that leads to no file");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{link}");
        }
        let error = read(&path("nothing"), 100).expect_err("nothing");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        for name in ["pipe", "to-pipe", "socket", "zero", "to-folder"] {
            let error = read(&path(name), 100).expect_err(name);
            assert_eq!(error.to_string(), "it is not a regular file", "{name}");
        }
        assert_eq!(read(&path("link"), 5).expect("a file"), b"12345");
        let error = read(&path("file"), 4).expect_err("too large");
        assert_eq!(error.to_string(), "it has 5 bytes, the limit is 4");
    }

    /// As files of `/proc` do, whose length is told as 0.
    #[test]
    fn no_more_is_read_than_was_there_at_first() {
        assert!(read(Path::new("/proc/self/status"), 100).is_ok_and(|text| text.is_empty()));
    }

    #[test]
    fn files_of_odd_editors_are_told_apart_from_broken_ones() {
        for (text, told) in [
            (&b""[..], "it is empty"),
            (b" \r\n", "it is empty"),
            (b"\xef\xbb\xbf{}", "a byte order mark"),
            (b"\xff\xfe{\0}\0", "a byte order mark"),
            (b"\xfe\xff\0{\0}", "a byte order mark"),
        ] {
            let error = check_json(text, 10).expect_err(told).to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn values_are_counted_outside_of_texts() {
        for (json, values) in [
            ("1", 0),
            ("[1, 2, 3]", 3),
            (r#"{"a": [1, {}], "b": 2}"#, 5),
            (r#"{"a,[{\",": "\\", "b": ",,"}"#, 2),
        ] {
            assert!(check_json(json.as_bytes(), values).is_ok(), "{json}");
            assert_eq!(
                check_json(json.as_bytes(), values.saturating_sub(1)).is_ok(),
                values == 0,
                "{json}"
            );
        }
    }
}
