//! Reads small files that may lie on a mount that hangs, or be something that never ends.
//!
//! Each file is read on a thread of its own, which is left alone once it has taken too long: the system
//! offers no way to call it off. While it hangs, whoever wants the file is refused at once, but for a new
//! try each time that the hang has lasted twice as long: another file, or another mount, may have taken
//! the place of the one that hangs. So all goes on by itself, and a hang of a day has cost a dozen threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

/// A mount that is slow, or wakes up first, answers within that; what waits for it meanwhile is a reload
/// or a start, which nothing else waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// A longer file is a mistake: a bundle of all public authorities has a twentieth of that.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

/// The files that are being read in this process.
static UNDER_WAY: Mutex<BTreeMap<PathBuf, Tries>> = Mutex::new(BTreeMap::new());
/// One of them has been read.
static ENDED: Condvar = Condvar::new();

/// When the reads of one file began that have not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tries {
    first: Instant,
    last: Instant,
}

/// What the file holds, waiting no longer than `patience` for it, or for the read before.
///
/// # Errors
/// What the system says; [`ErrorKind::TimedOut`] if it says nothing, see [`hangs`].
pub(crate) fn read(path: &Path, patience: Duration) -> std::io::Result<Vec<u8>> {
    let begun = begin(path, patience)?;
    let (tell, told) = mpsc::channel();
    let work = move || {
        let content = File::open(&begun.path).and_then(content);
        drop(begun);
        // Nobody may wait any more.
        let _ = tell.send(content);
    };
    thread::Builder::new()
        .name("read-file".into())
        .spawn(work)?;
    told.recv_timeout(patience).unwrap_or_else(|_| {
        let (path, seconds) = (path.display(), patience.as_secs_f64());
        tracing::warn!(%path, seconds, "reading a file hangs; is it on a mount that does not answer?");
        Err(silent(patience))
    })
}

/// Does reading hang, as opposed to failing?
pub(crate) fn hangs<T>(read: &std::io::Result<T>) -> bool {
    matches!(read, Err(error) if error.kind() == ErrorKind::TimedOut)
}

/// Was there nothing left to read with (open files, memory, threads)? That says nothing of the file.
pub(crate) fn is_out_of_means<T>(read: &std::io::Result<T>) -> bool {
    let errno = read.as_ref().err().and_then(Errno::from_io_error);
    matches!(
        errno,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN)
    )
}

/// All that comes from there. What never ends must not be read to its end.
///
/// # Errors
/// What the system says; or it is too long.
pub(crate) fn content(source: impl Read) -> std::io::Result<Vec<u8>> {
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

/// A read that is under way; when it is dropped, it has ended.
struct Begun {
    path: PathBuf,
    at: Instant,
    patience: Duration,
}

/// Waits for the one that is under way, if that has begun just now.
fn begin(path: &Path, patience: Duration) -> std::io::Result<Begun> {
    let mut under_way = UNDER_WAY.lock();
    while let Some(tries) = under_way.get(path).copied() {
        if tries.last.elapsed() < patience {
            ENDED.wait_until(&mut under_way, tries.last + patience);
        } else if tries.are_over(Instant::now(), patience) {
            break;
        } else {
            return Err(silent(tries.first.elapsed()));
        }
    }
    let now = Instant::now();
    let (first, path) = (now, path.to_owned());
    let tries = under_way.entry(path.clone());
    let tries = tries.or_insert(Tries { first, last: now });
    tries.last = now;
    Ok(Begun {
        path,
        at: now,
        patience,
    })
}

impl Tries {
    /// Is it time for another one?
    fn are_over(self, now: Instant, patience: Duration) -> bool {
        now - self.first >= 2 * (self.last - self.first).max(patience)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        UNDER_WAY.lock().remove(&self.path);
        ENDED.notify_all();
        let taken = self.at.elapsed();
        if taken >= self.patience {
            let (path, seconds) = (self.path.display(), taken.as_secs_f64());
            tracing::info!(%path, seconds, "reading a file that hung has ended");
        }
    }
}

fn silent(taken: Duration) -> Error {
    let text = format!(
        "nothing came for {} s; is it on a mount that does not answer?",
        taken.as_secs()
    );
    Error::new(ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody writes into it.
    fn fifo(folder: &tempfile::TempDir) -> PathBuf {
        let path = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        path
    }

    #[test]
    fn what_never_ends_is_no_file() {
        let error = read(Path::new("/dev/zero"), PATIENCE).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 4 MiB");
    }

    #[test]
    fn a_read_that_hangs_is_given_up_and_seldom_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(&folder);
        assert!(hangs(&read(&path, Duration::from_millis(1))));
        let begun = Instant::now();
        let minute = Duration::from_mins(1);
        let tries = Tries {
            first: begun.checked_sub(minute).unwrap(),
            last: begun,
        };
        UNDER_WAY.lock().insert(path.clone(), tries);
        assert!(hangs(&read(&path, Duration::ZERO)));
        assert_eq!(UNDER_WAY.lock()[&path], tries, "no other one");
        assert!(!tries.are_over(begun + minute / 2, PATIENCE));
        assert!(tries.are_over(begun + minute, PATIENCE));

        // The thread that hangs gets this, and nobody takes it from there.
        std::fs::write(&path, "late").unwrap();
        let mut under_way = UNDER_WAY.lock();
        while under_way.contains_key(&path) {
            ENDED.wait(&mut under_way);
        }
        drop(under_way);
        let writer = path.clone();
        let writer = thread::spawn(move || std::fs::write(writer, "now"));

        assert_eq!(read(&path, PATIENCE).unwrap(), b"now");
        writer.join().unwrap().unwrap();
        assert!(!UNDER_WAY.lock().contains_key(&path));
    }

    #[test]
    fn another_file_in_the_place_of_one_that_hangs_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(&folder);
        assert!(hangs(&read(&path, Duration::from_millis(1))));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "well").unwrap();
        let late = UNDER_WAY.lock()[&path]
            .last
            .checked_sub(2 * PATIENCE)
            .unwrap();
        let tries = Tries {
            first: late,
            last: late,
        };
        UNDER_WAY.lock().insert(path.clone(), tries);
        assert_eq!(read(&path, PATIENCE).unwrap(), b"well");
    }

    #[test]
    fn a_file_that_several_read_at_once_is_no_file_that_hangs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "secret").unwrap();
        let readers: Vec<_> = (0..20)
            .map(|_| path.clone())
            .map(|path| thread::spawn(move || read(&path, PATIENCE).unwrap()))
            .collect();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), b"secret");
        }
    }
}
