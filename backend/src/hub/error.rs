//! Why a model cannot be downloaded: sentences for the operator. They name the model and the file,
//! never a URL that the hub redirected to (it may be signed) nor the token.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A download failed.
#[derive(Debug, Error)]
pub enum HubError {
    /// The hub does not tell whether the model exists to those who may not see it.
    #[error(
        "the hub refuses {what} ({status}): it does not exist, or it is private or gated; for one \
         that you have access to, set HF_TOKEN"
    )]
    Refused {
        /// What was asked for.
        what: String,
        /// 401 or 403.
        status: u16,
    },
    /// 404.
    #[error("the hub does not have {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// Any other answer than was hoped for.
    #[error("the hub answers {status} for {what}")]
    Status {
        /// What was asked for.
        what: String,
        /// The status code.
        status: u16,
    },
    /// No answer, or not all of it.
    #[error("{what} cannot be downloaded: {reason}")]
    Connection {
        /// What was asked for.
        what: String,
        /// What went wrong.
        reason: String,
    },
    /// An answer that makes no sense.
    #[error("the hub's answer for {what} is unusable: {reason}")]
    Answer {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A repository without what every model has.
    #[error("'{repository}' on the hub has no config.json or no weights that can be loaded")]
    NoModel {
        /// Its name.
        repository: String,
    },
    /// What came is not what the hub announced; it has been removed.
    #[error("{file} does not have the checksum that the hub announced")]
    Checksum {
        /// Path in the repository.
        file: String,
    },
    /// The cache folder.
    #[error("{} cannot be written: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl HubError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { path, source }
    }

    /// Whether the same request may succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Connection { .. } => true,
            Self::Status { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            _ => false,
        }
    }
}
