//! The API server of a cluster, as far as `EndpointSlice`s go: lists them in pages, and tells of changes to
//! whoever watches. It remembers what has happened, so that a watch can go on from where it was, and
//! misbehaves as told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::{Authority, eventually};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/ml/endpointslices?";
const SELECTOR: &str = "labelSelector=kubernetes.io%2Fservice-name%3Dgpus";
const TOKEN: &str = "token-of-the-service-account";

/// See the module. It knows the slices of the Service `gpus` in the namespace `ml`.
pub(crate) struct ApiServer {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    state: Arc<watch::Sender<State>>,
    folder: TempDir,
    accepting: JoinHandle<()>,
}

/// What there is, and what has happened.
#[derive(Default)]
struct State {
    slices: BTreeMap<String, Value>,
    version: u64,
    /// Lines of a watch, by their versions.
    history: Vec<(u64, String)>,
    /// Nobody can go on from an earlier version.
    forgotten: u64,
    /// Each answer is of this status.
    refusal: Option<u16>,
    /// Watches that are open.
    watching: usize,
    /// Connections and watches of an earlier age are ended...
    age: u64,
    /// ...with these bytes, and as a whole answer if there are none.
    last_words: Vec<u8>,
    /// What was asked for, in order.
    requests: Vec<String>,
}

/// One endpoint: its address, its pod, and whether it is ready, serving and terminating.
pub(crate) type Endpoint<'a> = (&'a str, &'a str, [bool; 3]);

pub(crate) const READY: [bool; 3] = [true, true, false];
pub(crate) const UNREADY: [bool; 3] = [false, false, false];
pub(crate) const LEAVING: [bool; 3] = [false, true, true];

/// A slice as the controller writes it.
pub(crate) fn endpoint_slice(name: &str, port: u16, endpoints: &[Endpoint<'_>]) -> Value {
    let endpoint = |(address, pod, [ready, serving, terminating]): &Endpoint<'_>| {
        json!({
            "addresses": [address],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "nodeName": "node-1",
            "targetRef": {"kind": "Pod", "name": pod, "namespace": "ml", "uid": pod},
            "zone": "zone-1",
        })
    };
    json!({
        "addressType": "IPv4",
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "ml",
            "generateName": "gpus-",
            "generation": 3,
            "creationTimestamp": "2026-11-28T10:00:00Z",
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "gpus",
                "service.kubernetes.io/headless": "",
            },
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-28T10:00:00Z"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "gpus", "uid": "u", "controller": true}],
            "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "fieldsType": "FieldsV1",
                "apiVersion": "discovery.k8s.io/v1", "time": "2026-11-28T10:00:00Z", "fieldsV1": {"f:endpoints": {}}}],
        },
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [
            {"name": "metrics", "port": 9, "protocol": "TCP"},
            {"name": "http", "port": port, "protocol": "TCP"},
        ],
    })
}

impl ApiServer {
    /// Starts one that has these slices.
    pub(crate) async fn start(slices: &[Value]) -> Self {
        Self::start_with(slices, None).await
    }

    /// The same over TLS.
    pub(crate) async fn start_secure(slices: &[Value], authority: &Authority) -> Self {
        Self::start_with(slices, Some(authority)).await
    }

    async fn start_with(slices: &[Value], authority: Option<&Authority>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = authority.map(|authority| authority.issue(&["127.0.0.1"]));
        let tls = identity.map(|identity| TlsAcceptor::from(Arc::new(identity.server(None))));
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(watch::Sender::new(State::default()));
        let server = Self {
            accepting: accept(listener, tls.clone(), Arc::clone(&state)),
            address,
            tls,
            state,
            folder,
        };
        server.set(slices);
        server.write_kubeconfig(authority);
        server
    }

    fn write_kubeconfig(&self, authority: Option<&Authority>) {
        let scheme = if authority.is_some() { "https" } else { "http" };
        let mut cluster = json!({"server": format!("{scheme}://{}", self.address)});
        if let Some(authority) = authority {
            cluster["certificate-authority"] = json!(authority.path());
        }
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"tokenFile": "token"}}],
            "contexts": [
                {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "ml"}},
            ],
        });
        std::fs::write(self.folder.path().join("token"), TOKEN).unwrap();
        std::fs::write(self.kubeconfig(), kubeconfig.to_string()).unwrap();
    }

    /// For `KUBECONFIG`.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Has these slices from now on, and no others.
    pub(crate) fn set(&self, slices: &[Value]) {
        self.state.send_modify(|state| state.set(slices));
    }

    /// Tells those who watch how far they are.
    pub(crate) fn bookmark(&self) {
        self.state.send_modify(|state| {
            state.version += 1;
            let metadata = json!({"resourceVersion": state.version.to_string()});
            let object = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata});
            state.tell("BOOKMARK", &object);
        });
    }

    /// Forgets what has happened so far.
    pub(crate) fn forget(&self) {
        self.state
            .send_modify(|state| state.forgotten = state.version);
    }

    /// Answers with this status only; `None`: as it should.
    pub(crate) fn refuse(&self, status: Option<u16>) {
        self.state.send_modify(|state| state.refusal = status);
    }

    /// Ends the watch, once there is one, with these bytes: well if there are none, else in the middle of
    /// an answer.
    pub(crate) async fn end_watch(&self, last_words: &[u8]) {
        eventually("a watch", async || self.state.borrow().watching > 0).await;
        self.begin_age(last_words);
    }

    fn begin_age(&self, last_words: &[u8]) {
        self.state.send_modify(|state| {
            state.age += 1;
            state.last_words = last_words.to_vec();
        });
    }

    /// Is not there any more.
    pub(crate) async fn stop(&mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        self.begin_age(b" ");
    }

    /// Is there again.
    pub(crate) async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.accepting = accept(listener, self.tls.clone(), Arc::clone(&self.state));
    }

    /// The last version that there was.
    pub(crate) fn version(&self) -> u64 {
        self.state.borrow().version
    }

    /// How often the slices were listed, from the first page on.
    pub(crate) fn lists(&self) -> usize {
        let requests = &self.state.borrow().requests;
        let is_list = |line: &&String| !line.contains("watch=") && !line.contains("continue=");
        requests.iter().filter(is_list).count()
    }

    /// The versions from which watches were begun.
    pub(crate) fn watched_from(&self) -> Vec<u64> {
        let requests = &self.state.borrow().requests;
        requests
            .iter()
            .filter_map(|line| watched_from(line))
            .collect()
    }

    /// Returns once so many watches have been begun.
    pub(crate) async fn watches(&self, times: usize) {
        eventually(&format!("{times} watches"), async || {
            self.watched_from().len() >= times
        })
        .await;
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    fn set(&mut self, slices: &[Value]) {
        let name = |slice: &Value| slice["metadata"]["name"].as_str().unwrap().to_owned();
        let mut before = std::mem::take(&mut self.slices);
        for slice in slices {
            let (kind, mut slice) = match before.remove(&name(slice)) {
                None => ("ADDED", slice.clone()),
                Some(_) => ("MODIFIED", slice.clone()),
            };
            self.stamp(&mut slice);
            self.tell(kind, &slice);
            self.slices.insert(name(&slice), slice);
        }
        for mut gone in before.into_values() {
            self.stamp(&mut gone);
            self.tell("DELETED", &gone);
        }
    }

    fn stamp(&mut self, slice: &mut Value) {
        self.version += 1;
        slice["metadata"]["resourceVersion"] = json!(self.version.to_string());
    }

    fn tell(&mut self, kind: &str, object: &Value) {
        let line = json!({"type": kind, "object": object});
        self.history.push((self.version, format!("{line}\n")));
    }

    /// A page of the list, from that slice on.
    fn list(&self, from: usize, most: usize) -> Value {
        let items: Vec<_> = self.slices.values().skip(from).take(most).collect();
        let next = from + items.len();
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if next < self.slices.len() {
            metadata["continue"] = json!(next.to_string());
        }
        let kind = "EndpointSliceList";
        json!({"kind": kind, "apiVersion": "discovery.k8s.io/v1", "metadata": metadata, "items": items})
    }
}

fn status(code: u16) -> Value {
    let message = "endpointslices.discovery.k8s.io is forbidden: words that nobody should log";
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
        "reason": "Reason", "code": code, "metadata": {}})
}

fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    state: Arc<watch::Sender<State>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, state) = (tls.clone(), Arc::clone(&state));
            tokio::spawn(async move {
                match tls {
                    None => serve(stream, &state).await,
                    Some(tls) => serve(tls.accept(stream).await?, &state).await,
                }
            });
        }
    })
}

/// Answers one request after the other, until the client or the age ends.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    state: &watch::Sender<State>,
) -> std::io::Result<()> {
    let mut news = state.subscribe();
    let age = news.borrow().age;
    loop {
        let head = tokio::select! {
            head = head(&mut stream) => head?,
            _ = news.wait_for(|state| state.age != age && !state.last_words.is_empty()) => return Ok(()),
        };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        assert!(
            path.starts_with(SLICES) && path.contains(SELECTOR),
            "{path}"
        );
        assert!(
            head.contains(&format!("authorization: Bearer {TOKEN}")),
            "{head}"
        );
        state.send_modify(|state| state.requests.push(path.clone()));
        let refusal = state.borrow().refusal;
        match (refusal, watched_from(&path)) {
            (Some(code), _) => answer(&mut stream, code, &status(code)).await?,
            (None, Some(from)) => {
                let mut age = 0;
                state.send_modify(|state| (state.watching, age) = (state.watching + 1, state.age));
                let end = tell(&mut stream, from, age, state).await;
                state.send_modify(|state| state.watching -= 1);
                end?;
            }
            (None, None) => {
                let number = |name| query(&path, name).map(|text| text.parse().unwrap());
                let (from, most) = (number("continue"), number("limit").unwrap());
                let list = state.borrow().list(from.unwrap_or(0), most);
                answer(&mut stream, 200, &list).await?;
            }
        }
    }
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    code: u16,
    body: &Value,
) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {code} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await
}

/// Tells what has happened since that version, and whatever happens, until the age ends.
async fn tell(
    stream: &mut (impl AsyncWrite + Unpin),
    from: u64,
    age: u64,
    state: &watch::Sender<State>,
) -> std::io::Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut news = state.subscribe();
    let mut told = from;
    loop {
        let (lines, end) = {
            let now = news.borrow_and_update();
            let is_new = |(version, _): &&(u64, String)| *version > told;
            let lines = now.history.iter().filter(is_new).cloned();
            let end = (now.age != age).then(|| now.last_words.clone());
            (lines.collect::<Vec<_>>(), end)
        };
        if told < news.borrow().forgotten {
            let gone = json!({"type": "ERROR", "object": status(410)});
            chunk(stream, format!("{gone}\n").as_bytes()).await?;
            return stream.write_all(b"0\r\n\r\n").await;
        }
        for (version, line) in lines {
            // In two pieces: lines and chunks need not agree.
            let (first, rest) = line.as_bytes().split_at(line.len() / 2);
            chunk(stream, first).await?;
            chunk(stream, rest).await?;
            told = version;
        }
        match end {
            None => _ = news.changed().await,
            Some(none) if none.is_empty() => return stream.write_all(b"0\r\n\r\n").await,
            Some(last_words) => {
                chunk(stream, &last_words).await?;
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
        }
    }
}

async fn chunk(stream: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> std::io::Result<()> {
    let head = format!("{:x}\r\n", data.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(data).await?;
    stream.write_all(b"\r\n").await?;
    stream.flush().await
}

fn query<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}

fn watched_from(path: &str) -> Option<u64> {
    query(path, "watch")?;
    query(path, "resourceVersion")?.parse().ok()
}
