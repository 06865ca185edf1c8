//! Asks the running proxy, over its admin address.

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use gpu_bridge_places::reachable;
use gpu_bridge_wire::{API_KEY_HEADER, ErrorBody};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::address::{self, VARIABLE};
use super::failure::Failure;
use crate::admin::access::MARK;
use crate::admin::reply;
use crate::config::{self, Secret};
use crate::file;
use crate::gateway::REQUEST_ID;

/// A proxy that is well answers in milliseconds; a reload may read files from a slow network.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer. All of a pool of 1,000 hosts are a tenth.
const MAX_ANSWER: usize = 64 << 20;
const OF_ARGUMENT: &str = "is it running, and is --admin right?";
const OF_FILE: &str = "is it running? If admin.address has changed since it started, it still listens at the old one: \
                       name that with --admin";
const HUNG_UP: &str = "it hung up without an answer; perhaps it wants TLS";
/// What GPU hosts say of a path or a method that they don't know, or without their key; the proxy's
/// admin address says more.
const OF_A_HOST: [&str; 3] = ["Not Found", "Method Not Allowed", "Unauthorized"];
const KEY_VARIABLE: &str = "GPU_BRIDGE_ADMIN_KEY";

type BoxError = Box<dyn Error + Send + Sync>;

/// Of a name, by whoever was asked for it.
#[derive(Debug, thiserror::Error)]
#[error("no address is known of that name; write HOST:PORT, e.g. 127.0.0.1:9765")]
struct NoAddress;

/// Which proxy is meant, and what lets us in.
#[derive(Args, Clone, Debug)]
pub(super) struct Where {
    /// The proxy's admin address. Without it, that of --config, else what `GPU_BRIDGE_ADMIN` says, else
    /// `127.0.0.1:9765`.
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<String>,
    /// Take the admin address and its key from this configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file that holds the admin key, which may also stand in `GPU_BRIDGE_ADMIN_KEY`.
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
}

/// A way to one proxy.
pub(super) struct Client {
    /// `HOST:PORT`.
    authority: String,
    key: Option<Secret>,
    /// What to look at if nothing answers there.
    hint: &'static str,
}

impl Client {
    /// Finds out where the proxy is and which key it wants, with the environment variables that `lookup` tells. What
    /// the command line says goes before what the file does, and that before a variable.
    fn new(
        place: Where,
        lookup: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, Failure> {
        let given = given_key(
            ("--admin-key-file", place.admin_key_file),
            (KEY_VARIABLE, lookup(KEY_VARIABLE)),
        )?;
        let explicit = place
            .admin
            .as_deref()
            .map(|it| address::authority("--admin", it));
        let explicit = explicit.transpose()?;
        // Whatever else is in it, a variable that is set for the proxy only.
        let load = |file: PathBuf| config::load_admin(&file, &super::variable);
        let (found, key) = match place.config.map(load).transpose()? {
            Some(admin) => (Some(reachable(admin.address).to_string()), admin.key),
            None => (None, None),
        };
        let hint = match (&explicit, &found) {
            (None, Some(_)) => OF_FILE,
            _ => OF_ARGUMENT,
        };
        let authority = match explicit.or(found) {
            Some(authority) => authority,
            None => address::usual(lookup(VARIABLE))?,
        };
        Ok(Self {
            authority,
            key: given.or(key),
            hint,
        })
    }

    /// As from the environment of this process.
    pub(super) fn from_environment(place: Where) -> Result<Self, Failure> {
        Self::new(place, std::env::var_os)
    }

    /// Asks for `path` and reads the answer, with every text in it fit to be shown.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path).await
    }

    /// Has the operation at `path` done and reads what came of it.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::POST, path).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, Failure> {
        let answer = timeout(PATIENCE, self.exchange(method, path)).await;
        let answer = answer
            .map_err(|_| self.unreachable("no answer in time"))?
            .map_err(|error| self.failed(&error))?;
        // On all that clients and GPU hosts are answered, and on nothing that operators are.
        if answer.headers().contains_key(REQUEST_ID) {
            return Err(self.not_admin("clients connect there, or it is a GPU host"));
        }
        let (head, body) = answer.into_parts();
        let key = self.key.as_ref().map(|key| key.expose().as_bytes());
        if key.is_some_and(|key| memchr::memmem::find(&body, key).is_some()) {
            return Err(self.not_admin("what answers there sends the key back"));
        }
        if !head.status.is_success() {
            return Err(self.refusal(head.status, &body));
        }
        let Ok(told) = serde_json::from_slice::<serde_json::Value>(&body) else {
            return Err(self.not_admin("its answer is not JSON"));
        };
        let told = reply::shown(&told).and_then(|told| serde_json::from_slice(&told));
        told.map_err(|_| self.not_admin("its answer is none of a proxy's of this version"))
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<Response<Bytes>, BoxError> {
        let addresses = lookup_host(&self.authority).await;
        let addresses: Vec<_> = addresses.map_err(|_| NoAddress)?.collect();
        let stream = TcpStream::connect(&addresses[..]).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = self.request(method, path)?;
        let exchange = async move {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?;
            Ok::<_, BoxError>(Response::from_parts(head, body.to_bytes()))
        };
        let (answer, connection) = tokio::join!(exchange, connection);
        // That no HTTP came says more than that the answer is missing.
        let told = connection.err().filter(hyper::Error::is_parse);
        answer.map_err(|error| told.map_or(error, Into::into))
    }

    fn request(&self, method: Method, path: &str) -> http::Result<Request<Empty<Bytes>>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority)
            .header(MARK, "1");
        let request = match &self.key {
            Some(key) => request.header(API_KEY_HEADER, key.expose()),
            None => request,
        };
        request.body(Empty::new())
    }

    fn failed(&self, error: &BoxError) -> Failure {
        if error.is::<NoAddress>() {
            return self.unreachable(&NoAddress.to_string());
        }
        if cause::<LengthLimitError>(error).is_some() {
            return self.not_admin("its answer does not end");
        }
        let http = cause::<hyper::Error>(error);
        if http.is_some_and(hyper::Error::is_parse) {
            return self
                .not_admin("what answers there does not speak plain HTTP; perhaps it wants TLS");
        }
        if http.is_some_and(hyper::Error::is_incomplete_message) {
            return self.unreachable(HUNG_UP);
        }
        let io = cause::<std::io::Error>(error);
        if io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused) {
            return self.unreachable("nothing listens there: connection refused");
        }
        let why = io.map(|error| error.kind().to_string());
        self.unreachable(why.as_deref().unwrap_or(HUNG_UP))
    }

    fn unreachable(&self, error: &str) -> Failure {
        Failure::Unreachable {
            address: self.authority.clone(),
            error: error.to_owned(),
            hint: self.hint,
        }
    }

    fn not_admin(&self, why: &'static str) -> Failure {
        Failure::NotAdmin {
            address: self.authority.clone(),
            why,
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> Failure {
        let Ok(ErrorBody { detail }) = serde_json::from_slice::<ErrorBody>(body) else {
            return self.not_admin("its answer is none of a proxy's");
        };
        if OF_A_HOST.contains(&detail.as_str()) {
            return self.not_admin("it is a GPU host");
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::NotAllowed { detail },
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => Failure::NoSuch { detail },
            StatusCode::UNPROCESSABLE_ENTITY => Failure::Refused { detail },
            // No command is one.
            StatusCode::BAD_REQUEST => {
                self.not_admin("it can't read what commands ask; perhaps it wants TLS")
            }
            _ => Failure::Failed(detail),
        }
    }
}

/// The error of this type that `error` is, or was caused by.
fn cause<E: Error + 'static>(error: &BoxError) -> Option<&E> {
    let error: &(dyn Error + 'static) = &**error;
    let mut chain = std::iter::successors(Some(error), |error| Error::source(*error));
    chain.find_map(<dyn Error>::downcast_ref)
}

/// The key from a file, else from the environment. Never from an argument, which all users of the
/// machine can see.
///
/// # Errors
/// Nothing is repeated of what may be the key itself, in the place of its file.
pub(super) fn given_key(
    (option, file): (&'static str, Option<PathBuf>),
    (name, variable): (&str, Option<OsString>),
) -> Result<Option<Secret>, Failure> {
    let no_file = |why: String| Failure::KeyFile { option, why };
    let is_of_file = file.is_some();
    let text = match (file, variable) {
        (Some(path), _) => file::read(&path, file::PATIENCE)
            .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
            .map_err(|error| no_file(config::no_file(&error)))?,
        (None, Some(text)) => text
            .into_string()
            .map_err(|_| Failure::Usage(format!("{name} is not text")))?,
        (None, None) => return Ok(None),
    };
    let key = text.trim();
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let text = "the key may hold visible ASCII characters only, without spaces";
        return Err(Failure::Usage(text.to_owned()));
    }
    if is_of_file && key.is_empty() {
        return Err(no_file("names a file that is empty".to_owned()));
    }
    Ok((!key.is_empty()).then(|| Secret::from(key.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::address::DEFAULT;

    #[test]
    fn the_command_line_goes_before_the_file_and_that_before_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "admin: {address: '127.0.0.1:2'}").unwrap();
        for (is_given, has_file, variable, expected) in [
            (true, true, Some("h:3"), "h:1"),
            (true, false, Some("h:3"), "h:1"),
            (false, true, Some("h:3"), "127.0.0.1:2"),
            (false, false, Some("h:3"), "h:3"),
            (false, false, Some(""), DEFAULT),
            (false, false, None, DEFAULT),
        ] {
            let place = Where {
                admin: is_given.then(|| "h:1".to_owned()),
                config: has_file.then(|| file.path().to_owned()),
                admin_key_file: None,
            };
            let lookup = |name| {
                let value = variable.filter(|_| name == VARIABLE);
                value.map(OsString::from)
            };
            let client = Client::new(place, lookup).ok().unwrap();
            assert_eq!(client.authority, expected);
        }
    }

    #[test]
    fn the_key_comes_from_a_file_or_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-file\n").unwrap();
        let given = |file: Option<PathBuf>, variable: Option<&str>| {
            let key = given_key(("--f", file), ("V", variable.map(OsString::from)));
            key.map_err(|failure| failure.to_string())
        };
        let key = |file: Option<PathBuf>, variable: Option<&str>| {
            let key = given(file, variable).unwrap();
            key.map(|key| key.expose().to_owned())
        };
        let path = || Some(file.path().to_owned());
        assert_eq!(key(path(), Some("x")).as_deref(), Some("from-file"));
        assert_eq!(
            key(None, Some("from-variable")).as_deref(),
            Some("from-variable")
        );
        assert_eq!(key(None, Some("")), None);
        assert_eq!(key(None, None), None);
        assert!(given(None, Some("two words")).is_err());
        let refused = |file: Option<PathBuf>| given(file, Some("x")).err().unwrap_or_default();
        let missing = refused(Some("sk-hunter2".into()));
        assert!(
            missing.starts_with("--f names a file that can't be read"),
            "{missing}"
        );
        assert!(!missing.contains("hunter2"), "{missing}");
        for empty in ["", "\n"] {
            std::fs::write(file.path(), empty).unwrap();
            let empty = refused(path());
            assert!(
                empty.starts_with("--f names a file that is empty"),
                "{empty}"
            );
        }
    }
}
