//! Downloads models from a hub into its cache folder, in the layout of the hub's own client, so that
//! other programs find them too:
//!
//! ```text
//! models--ORG--NAME/blobs/CHECKSUM            the files
//!                   snapshots/COMMIT/PATH     links to them
//!                   refs/main                 the commit; written last
//! ```
//!
//! What is looked up is `refs/main`; so a model that is not complete is not there. A file gets its
//! name in `blobs` only once its checksum is right; until then it has another, and a download that
//! was cut off goes on from there. One process at a time fills a model's folder.
//!
//! Who may cause a download is decided elsewhere: never a request.

mod cache;
mod checksum;
mod client;
mod error;
mod progress;
mod selection;

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tracing::{info, warn};
use url::Url;

pub use self::error::HubError;

use self::cache::Repository;
use self::client::{Client, Listing, RemoteFile};
use self::progress::Progress;

/// Bytes that are read and written at a time.
const BLOCK: usize = 1 << 16;

/// Where models come from and where they go.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Base of the hub's URLs.
    pub endpoint: Url,
    /// For private and gated models.
    pub token: Option<Token>,
    /// The cache folder; created if need be.
    pub cache: PathBuf,
    /// When to give up.
    pub retry: Retry,
}

/// How often a failing transfer is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Attempts in a row that bring nothing before it is given up.
    pub attempts: u32,
    /// Pause after the first of them; doubles with each.
    pub pause: Duration,
}

impl Default for Retry {
    /// Gives up after half a minute.
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_secs(2),
        }
    }
}

/// A secret that is sent but never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// True if none was given in fact.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if an HTTP header can carry it.
    pub fn is_sendable(&self) -> bool {
        self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Token {
    /// Space around it, such as the line end of the file that it came from, is no part of it.
    fn from(token: String) -> Self {
        Self(token.trim().to_owned())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(hidden)")
    }
}

impl Hub {
    /// Downloads the model that the hub calls `repository` (`ORG/NAME`, for some just `NAME`) as it
    /// is now. Blocks for as long as it takes.
    ///
    /// # Errors
    /// See [`HubError`]. What was transferred stays for the next attempt.
    pub fn download(&self, repository: &str) -> Result<(), HubError> {
        let client = Client::new(&self.endpoint, self.token.as_ref());
        let listing = self.patiently(|| 0, || client.listing(repository))?;
        let files = selection::wanted(&listing.files);
        if files.is_empty() {
            return Err(HubError::NoModel {
                repository: repository.to_owned(),
            });
        }
        let folder = Repository::open(&self.cache, repository)?;
        let total = files
            .iter()
            .map(|file| file.size)
            .fold(0, u64::saturating_add);
        info!(
            model = repository,
            bytes = total,
            "downloading from the hub"
        );
        let mut progress = Progress::new(repository, total);
        let transfer = Transfer {
            hub: self,
            client: &client,
            folder: &folder,
            repository,
            listing: &listing,
        };
        for file in &files {
            transfer.file(file, &mut progress)?;
            folder.link(&listing.commit, file)?;
        }
        folder.publish(&listing.commit)?;
        progress.end();
        info!(
            model = repository,
            commit = listing.commit,
            "downloaded from the hub"
        );
        Ok(())
    }

    /// Tries again what fails for a while only. `reached` tells how far it came, in bytes: an attempt
    /// that comes noticeably further than the one before does not count as failed.
    fn patiently<T>(
        &self,
        reached: impl Fn() -> u64,
        mut attempt: impl FnMut() -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            let before = reached();
            let error = match attempt() {
                Err(error) if error.is_transient() => error,
                done => return done,
            };
            let is_further = reached() >= before.saturating_add(client::LEAST);
            failures = if is_further { 0 } else { failures + 1 };
            if failures >= self.retry.attempts {
                return Err(error);
            }
            warn!(%error, "trying again");
            thread::sleep(self.retry.pause * 2_u32.saturating_pow(failures.saturating_sub(1)));
        }
    }
}

/// A download under way.
struct Transfer<'a> {
    hub: &'a Hub,
    client: &'a Client,
    folder: &'a Repository,
    repository: &'a str,
    listing: &'a Listing,
}

impl Transfer<'_> {
    /// Makes sure that the file is among the blobs.
    fn file(&self, file: &RemoteFile, progress: &mut Progress) -> Result<(), HubError> {
        let before = progress.done();
        if self.folder.has(file) {
            progress.reach(before.saturating_add(file.size));
            return Ok(());
        }
        let partial = self.folder.partial(file);
        let resumed = length(&partial) > 0;
        let complete = self.complete(file, &partial, progress).and_then(|()| {
            progress.reach(before.saturating_add(file.size));
            self.folder.accept(file, &partial)
        });
        match complete {
            // The fault may lie in what an earlier attempt left.
            Err(HubError::Checksum { .. }) if resumed => {
                self.complete(file, &partial, progress)?;
                self.folder.accept(file, &partial)
            }
            other => other,
        }
    }

    /// Transfers what is missing of the file.
    fn complete(
        &self,
        file: &RemoteFile,
        partial: &Path,
        progress: &mut Progress,
    ) -> Result<(), HubError> {
        let before = progress.done();
        self.hub.patiently(
            || length(partial),
            || self.attempt(file, partial, &mut |bytes| progress.reach(before + bytes)),
        )
    }

    /// One request for what is missing. `tell` learns how much of the file is there.
    fn attempt(
        &self,
        file: &RemoteFile,
        partial: &Path,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), HubError> {
        let have = length(partial);
        if have == file.size && have > 0 {
            return Ok(());
        }
        let have = if have > file.size { 0 } else { have };
        let commit = &self.listing.commit;
        let mut body = self
            .client
            .open(self.repository, commit, &file.path, have)?;
        let io = |source| HubError::io(partial, source);
        let mut target = OpenOptions::new()
            .create(true)
            .append(true)
            .open(partial)
            .map_err(io)?;
        target.set_len(body.offset).map_err(io)?;
        let mut reached = body.offset;
        let mut block = vec![0; BLOCK];
        while reached < file.size {
            let count = match body.reader.read(&mut block) {
                Ok(0) => return Err(self.cut_off(file, io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.cut_off(file, error)),
            };
            target.write_all(&block[..count]).map_err(io)?;
            reached += count as u64;
            tell(reached.min(file.size));
        }
        target.sync_all().map_err(io)
    }

    fn cut_off(&self, file: &RemoteFile, error: io::Error) -> HubError {
        let what = format!("{} of '{}'", file.path, self.repository);
        client::connection(&what, &error.into())
    }
}

/// How much of a file is there.
fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |found| found.len())
}

#[cfg(test)]
mod tests;
