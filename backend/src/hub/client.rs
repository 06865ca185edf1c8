//! The hub's HTTP interface: what a repository holds, and its files.
//!
//! Redirects are followed here rather than by the HTTP library: the token goes to the hub's own
//! origin only (scheme, host and port), and the hub redirects large files to another one.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Response, StatusCode, header};
use serde::Deserialize;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body};
use url::Url;

use super::Token;
use super::checksum::{self, Checksum};
use super::error::HubError;

/// The branch that is downloaded.
const REVISION: &str = "main";
const MOST_REDIRECTS: usize = 5;
/// Bytes of a listing; real ones have some kilobytes.
const LONGEST_LISTING: u64 = 16 << 20;
/// For connecting, and for each silence afterwards.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that must come in that time: 1 KiB a second, a fifth of what a modem brings.
pub(super) const LEAST: u64 = 30 << 10;

/// One file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Path in the repository.
    pub(super) path: String,
    /// In bytes.
    pub(super) size: u64,
    pub(super) checksum: Checksum,
}

/// A repository as it is now.
#[derive(Debug)]
pub(super) struct Listing {
    /// The commit's name: 40 hexadecimal digits.
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

/// A file's content from `offset` on, which is 0 if the server does not send parts.
pub(super) struct Content {
    pub(super) offset: u64,
    pub(super) reader: Box<dyn Read>,
}

/// See the module.
pub(super) struct Client {
    agent: Agent,
    endpoint: Url,
    token: Option<Token>,
}

impl Client {
    pub(super) fn new(endpoint: &Url, token: Option<&Token>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // The machine's own certificates, so that a company's authority counts.
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .user_agent(concat!("gpu-bridge-backend/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: Agent::new_with_config(config),
            endpoint: endpoint.clone(),
            token: token.cloned(),
        }
    }

    /// What `repository` holds, with sizes and checksums.
    pub(super) fn listing(&self, repository: &str) -> Result<Listing, HubError> {
        let what = format!("'{repository}'");
        let path = ["api", "models"]
            .into_iter()
            .chain(repository.split('/'))
            .chain(["revision", REVISION]);
        let mut url = self.url(path);
        url.set_query(Some("blobs=true"));
        let response = self.get(url, 0, &what)?;
        let body = response.into_body().into_with_config();
        let mut text = Vec::new();
        Paced::new(body.limit(LONGEST_LISTING).reader())
            .read_to_end(&mut text)
            .map_err(|error| connection(&what, &error.into()))?;
        serde_json::from_slice(&text)
            .map_err(|_| "it is no list of files".to_owned())
            .and_then(ListingAnswer::check)
            .map_err(|reason| HubError::Answer { what, reason })
    }

    /// The content of a file, from `offset` on if the server can.
    pub(super) fn open(
        &self,
        repository: &str,
        commit: &str,
        path: &str,
        offset: u64,
    ) -> Result<Content, HubError> {
        let what = format!("{path} of '{repository}'");
        let segments = repository.split('/').chain(["resolve", commit]);
        let url = self.url(segments.chain(path.split('/')));
        let response = self.get(url, offset, &what)?;
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        let range = response.headers().get(header::CONTENT_RANGE);
        let begins = format!("bytes {offset}-");
        let right = range.is_some_and(|range| range.as_bytes().starts_with(begins.as_bytes()));
        if is_part && !right {
            let reason = "another part of the file than was asked for".to_owned();
            return Err(HubError::Answer { what, reason });
        }
        Ok(Content {
            offset: if is_part { offset } else { 0 },
            reader: Box::new(Paced::new(response.into_body().into_reader())),
        })
    }

    /// The endpoint with `segments` behind its path.
    fn url<'a>(&self, segments: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// A good answer to a request for `url`, wherever it is redirected to.
    fn get(&self, mut url: Url, offset: u64, what: &str) -> Result<Response<Body>, HubError> {
        for _ in 0..=MOST_REDIRECTS {
            let response = self
                .send(&url, offset)
                .map_err(|error| connection(what, &error))?;
            if !response.status().is_redirection() {
                return verdict(response, what);
            }
            let location = response.headers().get(header::LOCATION);
            let target = location.and_then(|location| url.join(location.to_str().ok()?).ok());
            url = target.ok_or_else(|| HubError::Answer {
                what: what.to_owned(),
                reason: "a redirect to nowhere".to_owned(),
            })?;
        }
        Err(HubError::Answer {
            what: what.to_owned(),
            reason: "too many redirects".to_owned(),
        })
    }

    fn send(&self, url: &Url, offset: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(url.as_str());
        if let Some(token) = self.token.as_ref().filter(|_| self.is_own(url)) {
            let value = format!("Bearer {}", token.expose());
            request = request.header(header::AUTHORIZATION, value);
        }
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        // The bytes as they are: offsets count in them.
        request.header(header::ACCEPT_ENCODING, "identity").call()
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }
}

fn verdict(response: Response<Body>, what: &str) -> Result<Response<Body>, HubError> {
    let what = || what.to_owned();
    match response.status().as_u16() {
        200 | 206 => Ok(response),
        status @ (401 | 403) => Err(HubError::Refused {
            what: what(),
            status,
        }),
        404 => Err(HubError::NotFound { what: what() }),
        status => Err(HubError::Status {
            what: what(),
            status,
        }),
    }
}

pub(super) fn connection(what: &str, error: &ureq::Error) -> HubError {
    HubError::Connection {
        what: what.to_owned(),
        reason: reason(error),
    }
}

/// By kind: texts of errors quote what came, and addresses, which may be signed.
fn reason(error: &ureq::Error) -> String {
    let reason = match error {
        ureq::Error::Io(error) => return error.kind().to_string(),
        ureq::Error::BadUri(_) => "the hub redirects to an address that cannot be used",
        ureq::Error::Timeout(_) => "no answer in time",
        ureq::Error::HostNotFound => "the hub's name has no address",
        ureq::Error::BodyExceedsLimit(_) => "the answer is too long",
        ureq::Error::Rustls(rustls::Error::InvalidCertificate(_)) => {
            "the hub's certificate is not trusted"
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => "the TLS handshake failed",
        ureq::Error::Protocol(_) | ureq::Error::Http(_) => "the answer is not HTTP",
        _ => "the connection failed",
    };
    reason.to_owned()
}

/// Gives up what brings less than [`LEAST`] in [`PATIENCE`].
struct Paced<R> {
    inner: R,
    pace: Pace,
}

impl<R> Paced<R> {
    fn new(inner: R) -> Self {
        let pace = Pace::new(Instant::now());
        Self { inner, pace }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count == 0 || self.pace.is_kept(count as u64, Instant::now()) {
            return Ok(count);
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

struct Pace {
    since: Instant,
    came: u64,
}

impl Pace {
    fn new(since: Instant) -> Self {
        Self { since, came: 0 }
    }

    /// So many more bytes have come.
    fn is_kept(&mut self, bytes: u64, now: Instant) -> bool {
        self.came = self.came.saturating_add(bytes);
        if self.came >= LEAST {
            *self = Self::new(now);
        }
        now.duration_since(self.since) < PATIENCE
    }
}

/// The part of the hub's answer that matters here.
#[derive(Deserialize)]
struct ListingAnswer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

/// A file that git itself knows only a pointer to.
#[derive(Deserialize)]
struct LargeFile {
    sha256: String,
    size: u64,
}

impl ListingAnswer {
    fn check(self) -> Result<Listing, String> {
        if !checksum::is_hex(&self.sha, 40) {
            return Err("it names no commit".to_owned());
        }
        let files = self.siblings.into_iter().map(Sibling::check);
        Ok(Listing {
            commit: self.sha,
            files: files.collect::<Result<_, _>>()?,
        })
    }
}

impl Sibling {
    fn check(self) -> Result<RemoteFile, String> {
        let known = match &self.lfs {
            Some(large) => Checksum::sha256(&large.sha256).zip(Some(large.size)),
            None => self
                .blob_id
                .as_deref()
                .and_then(Checksum::git_blob)
                .zip(self.size),
        };
        let Some((checksum, size)) = known else {
            return Err(format!("no checksum or size for {}", self.rfilename));
        };
        Ok(RemoteFile {
            path: self.rfilename,
            size,
            checksum,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_is_given_up_and_a_slow_line_is_not() {
        let kept = |bytes: u64, every: u64| {
            let start = Instant::now();
            let mut pace = Pace::new(start);
            let seconds = (1..=120).map(|n| n * every);
            seconds
                .take_while(|second| *second <= 120)
                .all(|second| pace.is_kept(bytes, start + Duration::from_secs(second)))
        };
        for (bytes, every, expected) in [
            (1, 29, false),
            (1, 1, false),
            (1000, 1, false),
            (1100, 1, true),
            (31 << 10, 29, true),
            (1 << 16, 1, true),
        ] {
            assert_eq!(kept(bytes, every), expected, "{bytes} every {every} s");
        }
    }
}
