//! What keeps us from learning of a Service's endpoints, by kind: errors of the library hold parts of what
//! came.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::io::ErrorKind;

use kube::config::KubeconfigError;
use kube::runtime::watcher;

use super::client::TooLong;

/// See the module. Its `Display` is a clause that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing says where the API server is.
    NoWay,
    /// The file that says so is not one.
    BadFile {
        /// As `KUBECONFIG` has it, if that is set: one or several.
        named: Option<String>,
        /// What is wrong with it.
        what: &'static str,
    },
    /// What says so can't be used.
    BadWay,
    /// It does not know us.
    Unauthorized,
    /// It knows us, and we may not.
    Forbidden {
        /// Where.
        namespace: String,
    },
    /// It answers with this status.
    Status(u16),
    /// What it sends is longer than anything that is read.
    TooLong,
    /// What it sends is not what was asked for.
    Odd,
    /// There is no connection, or none that lasts.
    Unreachable,
    /// The library gives up.
    Ended,
}

impl Trouble {
    /// What an error means that came while `namespace` was asked about.
    pub(super) fn of(error: &watcher::Error, namespace: &str) -> Self {
        if has_too_long(error) {
            return Self::TooLong;
        }
        match error {
            watcher::Error::WatchError(status) => Self::of_status(status.code, namespace),
            watcher::Error::NoResourceVersion => Self::Odd,
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => Self::of_request(error, namespace),
        }
    }

    /// Where there is no service account either. `named`: what `KUBECONFIG` says.
    pub(super) fn of_kubeconfig(error: &KubeconfigError, named: Option<&OsStr>) -> Self {
        let named = named.filter(|named| !named.is_empty());
        let what = match error {
            KubeconfigError::FindPath => return Self::NoWay,
            KubeconfigError::ReadConfig(error, _) => match error.kind() {
                ErrorKind::NotFound if named.is_none() => return Self::NoWay,
                ErrorKind::NotFound => "is not there",
                ErrorKind::PermissionDenied => "the proxy may not read",
                _ => "can't be read",
            },
            KubeconfigError::Parse(_)
            | KubeconfigError::KindMismatch
            | KubeconfigError::ApiVersionMismatch => "is no kubeconfig",
            KubeconfigError::CurrentContextNotSet => "names no current-context",
            KubeconfigError::LoadContext(_) | KubeconfigError::LoadClusterOfContext(_) => {
                "lacks the context that it names as the current one, or that context's cluster"
            }
            _ => "names an address, a certificate or a key that can't be used",
        };
        let named = named.map(|named| named.to_string_lossy().into_owned());
        Self::BadFile { named, what }
    }

    fn of_request(error: &kube::Error, namespace: &str) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status.code, namespace),
            kube::Error::Auth(_) => Self::BadWay,
            kube::Error::SerdeError(_)
            | kube::Error::FromUtf8(_)
            | kube::Error::LinesCodecMaxLineLengthExceeded => Self::Odd,
            _ => Self::Unreachable,
        }
    }

    fn of_status(code: u16, namespace: &str) -> Self {
        match code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden {
                namespace: namespace.to_owned(),
            },
            code => Self::Status(code),
        }
    }
}

/// Can the watch go on from where it was? Either it was cut, and nothing is lost; or the server no longer
/// knows what has happened since, and the watcher lists everything anew by itself.
pub(super) fn is_interruption(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchFailed(
            kube::Error::ReadEvents(_) | kube::Error::HyperError(_) | kube::Error::Service(_),
        ) => !has_too_long(error),
        watcher::Error::WatchError(status) => status.code == 410,
        _ => false,
    }
}

fn has_too_long(error: &(dyn Error + 'static)) -> bool {
    error.is::<TooLong>() || error.source().is_some_and(has_too_long)
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoWay => {
                "nothing says where the API server is: there is neither a service account's token \
                (automountServiceAccountToken) nor a kubeconfig that can be read"
            }
            Self::BadFile { named, what } => {
                let (of, file) = match named {
                    Some(named) => ("KUBECONFIG names ", named.as_str()),
                    None => ("there is ", "~/.kube/config"),
                };
                return write!(
                    f,
                    "{of}{file}, which {what}, and no service account's token; correct the file"
                );
            }
            Self::BadWay => {
                "the API server's certificate authority, or the credentials for it, can't be used; correct \
                the kubeconfig or the service account"
            }
            Self::Unauthorized => {
                "the API server refuses the credentials (401); correct the kubeconfig or the service account"
            }
            Self::Forbidden { namespace } => {
                return write!(
                    f,
                    "the API server forbids it (403): allow the proxy's service account to list and watch \
                    endpointslices (discovery.k8s.io) in the namespace {namespace}, as the Role in \
                    config/kubernetes/endpoints does"
                );
            }
            Self::Status(code) => return write!(f, "the API server answers {code}"),
            Self::TooLong => return write!(f, "the API server sends {TooLong}"),
            Self::Odd => "what the API server sends is no list or watch of EndpointSlices",
            Self::Unreachable => "the API server can't be reached, or not be trusted",
            Self::Ended => "the watch has ended",
        })
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use watcher::Error as Failure;

    use super::*;

    fn status(code: u16) -> Box<Status> {
        Box::new(Status::failure("secret", "Secret").with_code(code))
    }

    fn api(code: u16) -> kube::Error {
        kube::Error::Api(status(code))
    }

    fn cut(error: impl Into<Box<dyn Error + Send + Sync>>) -> kube::Error {
        // As the library wraps what a body ends with.
        kube::Error::ReadEvents(std::io::Error::other(kube::Error::Service(error.into())))
    }

    fn odd() -> kube::Error {
        kube::Error::SerdeError(serde_json::from_str::<u8>("secret").unwrap_err())
    }

    #[test]
    fn each_error_has_its_kind_and_only_a_cut_watch_goes_on() {
        let forbidden = || Trouble::Forbidden {
            namespace: "ml".to_owned(),
        };
        let table = [
            (
                Failure::InitialListFailed(api(401)),
                Trouble::Unauthorized,
                false,
            ),
            (Failure::InitialListFailed(api(403)), forbidden(), false),
            (
                Failure::InitialListFailed(api(410)),
                Trouble::Status(410),
                false,
            ),
            (Failure::WatchStartFailed(api(403)), forbidden(), false),
            // The watcher would go on from the same version, for ever.
            (
                Failure::WatchStartFailed(api(410)),
                Trouble::Status(410),
                false,
            ),
            (
                Failure::WatchStartFailed(cut("secret")),
                Trouble::Unreachable,
                false,
            ),
            (Failure::WatchError(status(410)), Trouble::Status(410), true),
            (
                Failure::WatchError(status(500)),
                Trouble::Status(500),
                false,
            ),
            (
                Failure::WatchFailed(cut("secret")),
                Trouble::Unreachable,
                true,
            ),
            (Failure::WatchFailed(cut(TooLong)), Trouble::TooLong, false),
            // A change is lost with a line that can't be read.
            (Failure::WatchFailed(odd()), Trouble::Odd, false),
            (Failure::InitialListFailed(odd()), Trouble::Odd, false),
            (Failure::NoResourceVersion, Trouble::Odd, false),
        ];
        for (error, kind, goes_on) in table {
            let trouble = Trouble::of(&error, "ml");
            assert_eq!(trouble, kind, "{error}");
            assert_eq!(is_interruption(&error), goes_on, "{error}");
            assert!(!trouble.to_string().contains("ecret"), "{trouble}");
        }
    }

    #[test]
    fn a_file_that_says_nothing_is_named() {
        let read = |kind: ErrorKind| KubeconfigError::ReadConfig(kind.into(), "secret".into());
        let no_context = KubeconfigError::CurrentContextNotSet;
        let bad = "KUBECONFIG names /k, which ";
        let table = [
            (read(ErrorKind::NotFound), None, "nothing says where"),
            (read(ErrorKind::NotFound), Some(""), "nothing says where"),
            (KubeconfigError::FindPath, None, "nothing says where"),
            (read(ErrorKind::NotFound), Some("/k"), bad),
            (
                read(ErrorKind::PermissionDenied),
                None,
                "there is ~/.kube/config, which the proxy may not read",
            ),
            (no_context, Some("/k"), bad),
            (
                KubeconfigError::LoadContext("secret".to_owned()),
                Some("/k"),
                bad,
            ),
        ];
        for (error, named, expected) in table {
            let trouble = Trouble::of_kubeconfig(&error, named.map(OsStr::new)).to_string();
            assert!(trouble.starts_with(expected), "{error}: {trouble}");
            assert!(!trouble.contains("secret"), "{trouble}");
        }
    }
}
