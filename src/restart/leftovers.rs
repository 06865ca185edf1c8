//! Sockets under a process's own name beside the upgrade socket, `PATH.PID`, which it left behind when it
//! was killed. One goes only if there is no such process and nobody listens there: a process may be out
//! of sight (another container), and another may have got its number.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use tokio::net::UnixStream;

/// The name of process `pid` beside `path`.
pub(super) fn name(path: &Path, pid: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{pid}"));
    PathBuf::from(name)
}

/// Removes what is left behind beside `path`.
pub(super) async fn sweep(path: &Path) {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let Ok(entries) = fs::read_dir(folder.unwrap_or(Path::new("."))) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| pid(path, name));
        if pid.is_some_and(is_gone) && is_deserted(&entry.path()).await {
            // Whoever removed it first is welcome.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whose name this is.
fn pid(path: &Path, name: &str) -> Option<Pid> {
    let own = path.file_name()?.to_str()?;
    let digits = name.strip_prefix(own)?.strip_prefix('.')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    Pid::from_raw(digits.parse().ok().filter(|_| is_number)?)
}

fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid) == Err(Errno::SRCH)
}

/// False for what is no socket, too.
async fn is_deserted(socket: &Path) -> bool {
    let answer = UnixStream::connect(socket).await;
    let is_socket = fs::symlink_metadata(socket).is_ok_and(|found| {
        use std::os::unix::fs::FileTypeExt as _;
        found.file_type().is_socket()
    });
    is_socket && answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Of a process that has ended and has been waited for.
    fn nobody() -> u32 {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    #[tokio::test]
    async fn only_what_nobody_can_miss_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let gone = nobody();
        let deserted = |name: &Path| drop(UnixListener::bind(name).unwrap());
        let beside = |end: &str| folder.path().join(format!("upgrade.sock{end}"));
        deserted(&name(&path, gone));
        deserted(&path);
        deserted(&name(&path, std::process::id()));
        deserted(&beside(".7x"));
        deserted(&beside(".+7"));
        deserted(&folder.path().join(format!("other.sock.{gone}")));
        let _alive = UnixListener::bind(name(&path, nobody())).unwrap();
        fs::write(name(&path, nobody()), "no socket").unwrap();

        sweep(&path).await;

        assert!(!name(&path, gone).exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 7);
    }
}
