//! Against a little hub of our own, on a real socket.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{StatusCode, header};
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::*;
use crate::engine::Purpose;
use crate::models::ModelSources;

const MODEL: &str = "org/mini";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";
const PREFIX: &str = "/base";

/// A hub with one model, whose weights it keeps as a large file.
#[derive(Default)]
struct FakeHub {
    files: BTreeMap<&'static str, Vec<u8>>,
    /// Asks for this token.
    token: Option<&'static str>,
    /// Its checksum is announced wrongly.
    misnamed: Option<&'static str>,
    /// So many transfers of the weights are cut off in their middle.
    cuts: AtomicUsize,
    /// So many bytes of the weights come before such a cut; none: half of what is left.
    crumb: Option<usize>,
    /// Sends those who want the weights there.
    elsewhere: Option<SocketAddr>,
    /// Sends whole files only.
    no_parts: bool,
    /// What was asked for: path, token, range.
    seen: Mutex<Vec<Seen>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    path: String,
    token: Option<String>,
    range: Option<String>,
}

fn weights() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
}

impl FakeHub {
    fn new() -> Self {
        let files = BTreeMap::from([
            ("config.json", b"{}".to_vec()),
            ("README.md", b"not needed".to_vec()),
            ("1_Pooling/config.json", b"{\"a\": 1}".to_vec()),
            (WEIGHTS, weights()),
        ]);
        Self {
            files,
            ..Self::default()
        }
    }

    async fn start(self) -> (SocketAddr, Arc<Self>) {
        let hub = Arc::new(self);
        let service = Router::new().fallback(answer).with_state(Arc::clone(&hub));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, service).await });
        (address, hub)
    }

    fn listing(&self) -> Response {
        let siblings = self.files.iter().map(|(path, content)| {
            let size = content.len();
            let git = Sha1::new_with_prefix(format!("blob {size}\0")).chain_update(content);
            let mut git = format!("{:x}", git.finalize());
            let mut sha = format!("{:x}", Sha256::digest(content));
            if self.misnamed == Some(*path) {
                (git, sha) = ("0".repeat(40), "0".repeat(64));
            }
            let lfs = (*path == WEIGHTS).then(|| json!({"sha256": sha, "size": size}));
            json!({"rfilename": path, "size": size, "blobId": git, "lfs": lfs})
        });
        let siblings: Vec<_> = siblings.collect();
        json!({"sha": COMMIT, "siblings": siblings})
            .to_string()
            .into_response()
    }

    fn file(&self, path: &str, offset: usize) -> Response {
        let Some(content) = self.files.get(path) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let offset = if self.no_parts { 0 } else { offset };
        let rest = Bytes::copy_from_slice(&content[offset..]);
        let cut = path == WEIGHTS
            && self
                .cuts
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |cuts| {
                    cuts.checked_sub(1)
                })
                .is_ok();
        let mut response = Response::builder().header(header::CONTENT_LENGTH, rest.len());
        if offset > 0 {
            let range = format!("bytes {offset}-{}/{}", content.len() - 1, content.len());
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, range);
        }
        let body = if cut {
            let piece = rest.slice(..self.crumb.unwrap_or(rest.len() / 2));
            let end = futures_util::stream::once(async {
                // What is pending is sent first.
                tokio::task::yield_now().await;
                Err(io::Error::other("cut"))
            });
            Body::from_stream(futures_util::stream::iter([Ok(piece)]).chain(end))
        } else {
            Body::from(rest)
        };
        response.body(body).unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn answer(State(hub): State<Arc<FakeHub>>, request: Request) -> Response {
    let header = |name| {
        let value = request.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let path = request.uri().path().to_owned();
    let (token, range) = (header(header::AUTHORIZATION), header(header::RANGE));
    let offset = range.as_deref().map_or(0, |range| {
        let offset = range.strip_prefix("bytes=").unwrap().strip_suffix('-');
        offset.unwrap().parse().unwrap()
    });
    hub.seen.lock().unwrap().push(Seen {
        path: path.clone(),
        token: token.clone(),
        range,
    });
    let wanted = hub.token.map(|token| format!("Bearer {token}"));
    if wanted.is_some() && wanted != token {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if path == format!("{PREFIX}/api/models/{MODEL}/revision/main") {
        assert_eq!(request.uri().query(), Some("blobs=true"));
        return hub.listing();
    }
    let Some(file) = path.strip_prefix(&format!("{PREFIX}/{MODEL}/resolve/{COMMIT}/")) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match hub.elsewhere.filter(|_| file == WEIGHTS) {
        Some(elsewhere) => {
            let location = format!("http://{elsewhere}{path}?signature=s");
            (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
        }
        None => hub.file(file, offset),
    }
}

/// Where a test downloads to.
struct Client {
    hub: Hub,
    cache: TempDir,
}

impl Client {
    fn of(address: SocketAddr, token: Option<&str>) -> Self {
        let cache = tempfile::tempdir().unwrap();
        let hub = Hub {
            endpoint: format!("http://{address}{PREFIX}").parse().unwrap(),
            token: token.map(|token| Token::from(token.to_owned())),
            cache: cache.path().join("hub"),
            retry: Retry {
                attempts: 2,
                pause: Duration::ZERO,
            },
        };
        Self { hub, cache }
    }

    async fn download(&self, model: &'static str) -> Result<(), HubError> {
        let hub = self.hub.clone();
        let downloaded = tokio::task::spawn_blocking(move || hub.download(model));
        downloaded.await.unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.cache.path().join("hub/models--org--mini")
    }

    fn snapshot(&self, path: &str) -> Option<Vec<u8>> {
        let snapshot = self.folder().join("snapshots").join(COMMIT);
        std::fs::read(snapshot.join(path)).ok()
    }

    fn is_installed(&self) -> bool {
        let sources = ModelSources {
            hub_cache: Some(self.hub.cache.clone()),
            ..ModelSources::default()
        };
        sources.find(MODEL, Purpose::Embed).is_ok()
    }

    fn partials(&self) -> usize {
        let blobs = std::fs::read_dir(self.folder().join("blobs")).unwrap();
        let names = blobs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("partial")).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_downloaded_into_the_cache() {
    let (address, hub) = FakeHub::new().start().await;
    let client = Client::of(address, None);
    client.download(MODEL).await.unwrap();
    assert_eq!(client.snapshot(WEIGHTS), Some(weights()));
    let pooling = client.snapshot("1_Pooling/config.json");
    assert_eq!(pooling.as_deref(), Some(&b"{\"a\": 1}"[..]));
    assert_eq!(client.snapshot("README.md"), None, "it is not needed");
    assert!(client.is_installed());
    assert_eq!(client.partials(), 0);
    assert!(hub.seen().iter().all(|seen| seen.token.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_downloaded_again() {
    let (address, hub) = FakeHub::new().start().await;
    let client = Client::of(address, None);
    client.download(MODEL).await.unwrap();
    let before = hub.seen().len();
    client.download(MODEL).await.unwrap();
    assert_eq!(hub.seen().len(), before + 1, "the listing alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_cut_off_goes_on_where_it_ended() {
    let cuts = AtomicUsize::new(3);
    let (address, hub) = FakeHub {
        cuts,
        ..FakeHub::new()
    }
    .start()
    .await;
    let client = Client::of(address, None);
    client.download(MODEL).await.unwrap();
    assert_eq!(client.snapshot(WEIGHTS), Some(weights()));
    let ranges: Vec<_> = hub
        .seen()
        .into_iter()
        .filter_map(|seen| seen.range)
        .collect();
    assert!(!ranges.is_empty(), "parts were asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_parts_is_asked_for_the_whole() {
    let hub = FakeHub {
        cuts: AtomicUsize::new(1),
        no_parts: true,
        ..FakeHub::new()
    };
    let (address, _) = hub.start().await;
    let client = Client::of(address, None);
    client.download(MODEL).await.unwrap();
    assert_eq!(client.snapshot(WEIGHTS), Some(weights()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_given_up_is_no_model_and_goes_on_later() {
    let hub = FakeHub {
        cuts: AtomicUsize::new(1000),
        ..FakeHub::new()
    };
    let (address, hub) = hub.start().await;
    let client = Client::of(address, None);
    let error = client.download(MODEL).await.unwrap_err();
    assert!(matches!(error, HubError::Connection { .. }), "{error}");
    assert!(!client.is_installed());
    assert_eq!(client.snapshot(WEIGHTS), None);

    hub.cuts.store(0, Ordering::SeqCst);
    client.download(MODEL).await.unwrap();
    assert_eq!(client.snapshot(WEIGHTS), Some(weights()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_brings_crumbs_is_given_up() {
    let hub = FakeHub {
        cuts: AtomicUsize::new(1000),
        crumb: Some(100),
        ..FakeHub::new()
    };
    let (address, hub) = hub.start().await;
    let error = Client::of(address, None).download(MODEL).await.unwrap_err();
    assert!(matches!(error, HubError::Connection { .. }), "{error}");
    assert_eq!(hub.cuts.load(Ordering::SeqCst), 998, "two attempts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_checksum_is_an_error_and_nothing_is_left() {
    for misnamed in [WEIGHTS, "config.json"] {
        let hub = FakeHub {
            misnamed: Some(misnamed),
            ..FakeHub::new()
        };
        let (address, _) = hub.start().await;
        let client = Client::of(address, None);
        let error = client.download(MODEL).await.unwrap_err();
        assert!(matches!(error, HubError::Checksum { .. }), "{error}");
        assert!(error.to_string().contains(misnamed), "{error}");
        assert!(!client.is_installed());
        assert_eq!(client.snapshot(misnamed), None);
        assert_eq!(client.partials(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_attempt_spoilt_is_downloaded_anew() {
    let (address, _) = FakeHub::new().start().await;
    let client = Client::of(address, None);
    let blobs = client.folder().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let partial = format!("{:x}.gpu-bridge-partial", Sha256::digest(weights()));
    std::fs::write(blobs.join(partial), "something else").unwrap();
    client.download(MODEL).await.unwrap();
    assert_eq!(client.snapshot(WEIGHTS), Some(weights()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_the_hub_lacks_is_named() {
    let (address, _) = FakeHub::new().start().await;
    let client = Client::of(address, None);
    let error = client.download("org/other").await.unwrap_err();
    assert_eq!(error.to_string(), "the hub does not have 'org/other'");
    assert!(!client.hub.cache.exists(), "nothing is made for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_a_model_is_told_about_the_token() {
    let hub = FakeHub {
        token: Some("s3cret"),
        ..FakeHub::new()
    };
    let (address, _) = hub.start().await;
    let error = Client::of(address, None).download(MODEL).await.unwrap_err();
    assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    let error = Client::of(address, Some("wr0ng")).download(MODEL).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("401") && !error.contains("wr0ng"), "{error}");
    let client = Client::of(address, Some("s3cret"));
    client.download(MODEL).await.unwrap();
    assert!(client.is_installed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_to_the_hub_alone() {
    let (other, elsewhere) = FakeHub::new().start().await;
    let hub = FakeHub {
        token: Some("s3cret"),
        elsewhere: Some(other),
        ..FakeHub::new()
    };
    let (address, _) = hub.start().await;
    let client = Client::of(address, Some("s3cret"));
    client.download(MODEL).await.unwrap();
    assert_eq!(client.snapshot(WEIGHTS), Some(weights()));
    let seen = elsewhere.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].token, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_cannot_be_reached_is_an_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::of(address, None).download(MODEL).await.unwrap_err();
    assert!(matches!(error, HubError::Connection { .. }), "{error}");
}

#[test]
fn a_token_is_never_shown() {
    let token = Token::from("s3cret".to_owned());
    assert_eq!(format!("{token:?}"), "Token(hidden)");
    assert!(token.is_sendable());
    for odd in ["a b", "a\nb", "\u{e4}"] {
        assert!(!Token::from(odd.to_owned()).is_sendable(), "{odd:?}");
    }
}
