//! Why a command failed, and the exit code that tells scripts so.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use gpu_bridge_upkeep::printable_lines;

/// For `--help`.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage, or a configuration that can't be used
  3  the proxy can't be reached, or its admin address is another
  4  not allowed: the admin key is missing or wrong, or the proxy wants to be asked from its own machine
  5  no host of that name; no recent request of that id, or several";

/// Each a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Config(#[from] crate::config::ConfigError),
    #[error("{option} {why}; write the path of a file that holds the key")]
    KeyFile { option: &'static str, why: String },
    #[error("the proxy can't be reached at {address} ({error}); {hint}")]
    Unreachable {
        address: String,
        error: String,
        hint: &'static str,
    },
    #[error(
        "{address} is not the admin address of a proxy: {why}; it is admin.address in the configuration, \
         port 9765 unless set"
    )]
    NotAdmin { address: String, why: &'static str },
    #[error("{detail} (--admin-key-file FILE or GPU_BRIDGE_ADMIN_KEY)")]
    NotAllowed { detail: String },
    #[error("{detail}")]
    NoSuch { detail: String },
    #[error("{detail}\nthe new configuration is refused; the old one goes on")]
    Refused { detail: String },
    #[error(transparent)]
    Output(#[from] io::Error),
}

impl Failure {
    /// The file at `path` can't be read or written.
    pub(super) fn of_file(path: &Path, error: &io::Error) -> Self {
        Self::Failed(format!("{}: {error}", path.display()))
    }

    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Output(_) => 1,
            Self::Usage(_) | Self::Config(_) | Self::KeyFile { .. } | Self::Refused { .. } => 2,
            Self::Unreachable { .. } | Self::NotAdmin { .. } => 3,
            Self::NotAllowed { .. } => 4,
            Self::NoSuch { .. } => 5,
        }
    }

    /// Tells it on standard error. A reader that has read enough (`| head`) is no failure.
    pub(super) fn tell(&self) -> ExitCode {
        if let Self::Output(error) = self
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        tell(self);
        ExitCode::from(self.code())
    }
}

/// On standard error, line by line as it can be shown; if that is closed, there is nobody to tell.
pub(super) fn tell(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{}", printable_lines(&text.to_string()));
}
