//! The process that serves from now on, as the running one sees it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::leftovers;
use super::transfer::{self, Offer};
use super::{READY, RestartError, Sockets, Standing, YOURS, is_trusted};

/// A successor that is not ready by then never will be; another may try.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause after `accept` has failed, which it may do again at once (too many open files).
const PAUSE: Duration = Duration::from_secs(1);

/// Where successors ask for the listening sockets. Bound under a name of its own and moved to its place at
/// once, so that there is always one process to be found there, and a process that is killed leaves
/// nothing else behind.
#[derive(Debug)]
pub(super) struct UpgradeSocket {
    path: PathBuf,
    /// `None`: nobody finds this process there yet, or any more.
    listener: Option<UnixListener>,
}

impl UpgradeSocket {
    /// Finds out whether it can be made at `path`; nobody finds it there yet.
    ///
    /// # Errors
    /// If it can't.
    pub(super) async fn prepare(path: &Path) -> Result<Self, RestartError> {
        leftovers::sweep(path).await;
        let socket = Self {
            path: path.to_owned(),
            listener: None,
        };
        // It would be replaced, and lost.
        if fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
            let error = "something else than a socket is there";
            return Err(socket.cannot(io::Error::other(error)));
        }
        let tried = socket.bind().and_then(|_| fs::remove_file(socket.first()));
        tried.map_err(|error| socket.cannot(error))?;
        Ok(socket)
    }

    /// Puts it in its place, which a predecessor may have held.
    ///
    /// # Errors
    /// If its folder does not allow that.
    pub(super) fn publish(&mut self) -> Result<(), RestartError> {
        let listener = self.bind().map_err(|error| self.cannot(error))?;
        if let Err(error) = fs::rename(self.first(), &self.path) {
            let _ = fs::remove_file(self.first());
            return Err(self.cannot(error));
        }
        self.listener = Some(listener);
        Ok(())
    }

    /// Its name before it is in its place.
    fn first(&self) -> PathBuf {
        leftovers::name(&self.path, std::process::id())
    }

    fn bind(&self) -> io::Result<UnixListener> {
        let first = self.first();
        match fs::remove_file(&first) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&first)?;
        fs::set_permissions(&first, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    fn cannot(&self, error: io::Error) -> RestartError {
        let path = self.path.clone();
        RestartError::Path { path, error }
    }

    /// Waits until a successor has taken over. `standing` is what it is told of this process.
    pub(super) async fn relieved(&mut self, sockets: &Sockets, standing: impl Fn() -> Standing) {
        let Some(listener) = &self.listener else {
            return std::future::pending().await;
        };
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the upgrade socket can't be served");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let offer = Offer {
                standing: standing(),
                sockets: sockets.names(),
            };
            tracing::info!("another process asks to take over");
            match hand_over(stream, &offer, sockets).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "it does not; serving on"),
            }
        }
        // The path is the successor's now.
        self.listener = None;
    }
}

impl Drop for UpgradeSocket {
    fn drop(&mut self) {
        if self.listener.take().is_some() {
            // If it is gone already, so much the better.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns once the successor is ready and has been told that it is its turn.
async fn hand_over(mut stream: UnixStream, offer: &Offer, sockets: &Sockets) -> io::Result<()> {
    if !is_trusted(&stream)? {
        return Err(io::Error::other("it runs as another user"));
    }
    transfer::send(&mut stream, offer, &sockets.fds()).await?;
    let mut word = [0; READY.len()];
    timeout(PATIENCE, stream.read_exact(&mut word)).await??;
    if word != READY {
        return Err(io::Error::other("it is not a proxy"));
    }
    stream.write_all(YOURS).await
}

/// Starts a process like this one: the same program, which may have been replaced meanwhile, with the
/// same arguments. It asks for the sockets like any other. The thread, on which starting it may hang,
/// lives as long as it does.
///
/// # Errors
/// If there is no thread.
pub(super) fn start_successor(program: &Path) -> io::Result<JoinHandle<()>> {
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        // Sockets that systemd opened for this process come by the upgrade socket as well.
        .env_remove("LISTEN_FDS");
    let thread = thread::Builder::new().name("successor".to_owned());
    thread.spawn(move || {
        // It outlives this process unless it fails; then its own log says why.
        let ended = command.spawn().and_then(|mut child| {
            tracing::info!(pid = child.id(), "started a successor");
            child.wait()
        });
        match ended {
            Ok(status) => tracing::warn!(%status, "the successor ended"),
            Err(error) => {
                let program = command.get_program().display();
                tracing::error!(%error, %program, "no successor can be started");
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_path_is_taken_in_one_step_and_nothing_else_is_left_in_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let mut first = UpgradeSocket::prepare(&path).await.unwrap();
        assert_eq!(names(), 0, "not before it is published");
        first.publish().unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, names()), (0o600, 1));

        drop(first);
        assert_eq!(names(), 0);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_not_replaced() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "listen: []").unwrap();
        let error = UpgradeSocket::prepare(file.path()).await.unwrap_err();
        assert!(error.to_string().contains("something else"), "{error}");
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "listen: []");
    }

    #[tokio::test]
    async fn a_folder_that_is_missing_is_named() {
        let error = UpgradeSocket::prepare(Path::new("/no/such/folder/socket"));
        let error = error.await.unwrap_err();
        assert!(
            error.to_string().contains("/no/such/folder/socket"),
            "{error}"
        );
    }
}
