//! A model's folder in the hub's cache.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::client::RemoteFile;
use super::error::HubError;

/// Behind the name of a file that is not complete. Not the ending that the hub's own client uses,
/// so that the two do not write into one file.
const PARTIAL: &str = "gpu-bridge-partial";
const LOCK: &str = ".gpu-bridge-lock";

/// The folder, locked: other processes that want to fill it wait until this is dropped.
pub(super) struct Repository {
    folder: PathBuf,
    _lock: File,
}

impl Repository {
    /// Creates the folder if need be. `name` is `ORG/NAME` or `NAME`.
    pub(super) fn open(cache: &Path, name: &str) -> Result<Self, HubError> {
        let folder = cache.join(format!("models--{}", name.replace('/', "--")));
        for part in ["blobs", "refs", "snapshots"] {
            create(&folder.join(part))?;
        }
        let path = folder.join(LOCK);
        let lock = File::create(&path).and_then(|lock| lock.lock().map(|()| lock));
        match lock {
            Ok(lock) => Ok(Self {
                folder,
                _lock: lock,
            }),
            Err(source) => Err(HubError::Io { path, source }),
        }
    }

    fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.folder.join("blobs").join(file.checksum.digits())
    }

    /// Where the file grows until it is complete.
    pub(super) fn partial(&self, file: &RemoteFile) -> PathBuf {
        self.blob(file).with_extension(PARTIAL)
    }

    /// Whether the complete file is there, from us or from the hub's own client.
    pub(super) fn has(&self, file: &RemoteFile) -> bool {
        let found = self.blob(file).metadata();
        found.is_ok_and(|found| found.is_file() && found.len() == file.size)
    }

    /// Gives the file in `partial` its name, if it is the right one; else removes it.
    pub(super) fn accept(&self, file: &RemoteFile, partial: &Path) -> Result<(), HubError> {
        let io = |source| HubError::io(partial, source);
        if !file.checksum.matches(partial).map_err(io)? {
            fs::remove_file(partial).map_err(io)?;
            return Err(HubError::Checksum {
                file: file.path.clone(),
            });
        }
        fs::rename(partial, self.blob(file)).map_err(io)
    }

    /// Puts the file into the snapshot of `commit`.
    pub(super) fn link(&self, commit: &str, file: &RemoteFile) -> Result<(), HubError> {
        let link = self.folder.join("snapshots").join(commit).join(&file.path);
        if let Some(folder) = link.parent() {
            create(folder)?;
        }
        // From snapshots/COMMIT up to the repository, and one more for each folder of the path.
        let up = "../".repeat(2 + file.path.matches('/').count());
        let target = format!("{up}blobs/{}", file.checksum.digits());
        let io = |source| HubError::io(&link, source);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        symlink(target, &link).map_err(io)
    }

    /// Makes the snapshot of `commit` the one that is found.
    pub(super) fn publish(&self, commit: &str) -> Result<(), HubError> {
        let reference = self.folder.join("refs/main");
        let new = reference.with_extension(PARTIAL);
        fs::write(&new, commit)
            .and_then(|()| fs::rename(&new, &reference))
            .map_err(|source| HubError::io(&reference, source))
    }
}

fn create(folder: &Path) -> Result<(), HubError> {
    fs::create_dir_all(folder).map_err(|source| HubError::io(folder, source))
}
