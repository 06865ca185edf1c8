//! The process that serves from now on, as the running one sees it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::transfer::{self, Offer};
use super::{READY, RestartError, Sockets, Standing, YOURS, is_trusted};

/// A successor that is not ready by then never will be; another may try.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause after `accept` has failed, which it may do again at once (too many open files).
const PAUSE: Duration = Duration::from_secs(1);

/// Where successors ask for the listening sockets. Bound under a name of its own first, so that the
/// running process stays to be found until its successor has taken over.
#[derive(Debug)]
pub(super) struct UpgradeSocket {
    listener: UnixListener,
    path: PathBuf,
    /// What is to be removed on drop.
    file: Option<PathBuf>,
}

impl UpgradeSocket {
    /// Prepares it; nobody finds it yet.
    ///
    /// # Errors
    /// If it can't be made at `path`.
    pub(super) fn bind(path: &Path) -> Result<Self, RestartError> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let file = PathBuf::from(name);
        let bind = || {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&file)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = bind().map_err(|error| RestartError::Path {
            path: path.to_owned(),
            error,
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: Some(file),
        })
    }

    /// Puts it in its place, which a predecessor may have held.
    ///
    /// # Errors
    /// If its folder does not allow that.
    pub(super) fn publish(&mut self) -> Result<(), RestartError> {
        let Some(file) = self.file.as_deref() else {
            return Ok(());
        };
        fs::rename(file, &self.path).map_err(|error| RestartError::Path {
            path: self.path.clone(),
            error,
        })?;
        self.file = Some(self.path.clone());
        Ok(())
    }

    /// Waits until a successor has taken over. `standing` is what it is told of this process.
    pub(super) async fn relieved(&mut self, sockets: &Sockets, standing: impl Fn() -> Standing) {
        loop {
            let stream = match self.listener.accept().await {
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
        self.file = None;
    }
}

impl Drop for UpgradeSocket {
    fn drop(&mut self) {
        // If it is gone already, so much the better.
        let _ = self.file.take().map(fs::remove_file);
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
/// same arguments. It asks for the sockets like any other.
///
/// # Errors
/// If it can't be started.
pub(super) fn start_successor(program: &Path) -> io::Result<()> {
    let mut child = tokio::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        // Sockets that systemd opened for this process come by the upgrade socket as well.
        .env_remove("LISTEN_FDS")
        .spawn()?;
    tracing::info!(pid = child.id(), "started a successor");
    tokio::spawn(async move {
        // It outlives this process unless it fails; then its own log says why.
        if let Ok(status) = child.wait().await {
            tracing::warn!(%status, "the successor ended");
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_path_is_taken_over_in_one_step_and_left_to_the_successor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let mut first = UpgradeSocket::bind(&path).unwrap();
        assert!(!path.exists(), "not before it is published");
        first.publish().unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        drop(first);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_folder_that_is_missing_is_named() {
        let error = UpgradeSocket::bind(Path::new("/no/such/folder/socket")).unwrap_err();
        assert!(
            error.to_string().contains("/no/such/folder/socket"),
            "{error}"
        );
    }
}
