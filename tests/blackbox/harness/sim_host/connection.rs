//! Connections of a simulated host: served by hyper until they are cut, because hyper itself is too
//! well-bred to break off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Ending;
use super::api::{self, Api};

/// The connection of a request.
#[derive(Clone)]
pub(super) struct Line {
    end: mpsc::UnboundedSender<LastWords>,
    requests: Arc<AtomicUsize>,
}

/// How a connection ends.
struct LastWords {
    bytes: Bytes,
    ending: Ending,
}

impl Line {
    /// Counts a request; returns how many there were before.
    pub(super) fn count(&self) -> usize {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends `bytes` as they are, then ends the connection. Never returns: there is nothing that a
    /// request on it could still do.
    pub(super) async fn end<T>(&self, bytes: impl Into<Bytes>, ending: Ending) -> T {
        let bytes = bytes.into();
        // Fails only if the connection has ended already.
        let _ = self.end.send(LastWords { bytes, ending });
        std::future::pending().await
    }
}

/// A port of our own. Nobody else gets it while nothing listens on it, and connecting to it is
/// refused then.
pub(super) struct Port {
    address: SocketAddr,
    _bound: TcpSocket,
}

impl Port {
    /// `address`: with port 0, any free one.
    pub(super) fn reserve(address: SocketAddr) -> Self {
        let bound = shared_socket(address);
        let address = bound.local_addr().unwrap();
        Self {
            address,
            _bound: bound,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn listen(&self) -> TcpListener {
        shared_socket(self.address).listen(1024).unwrap()
    }
}

fn shared_socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.set_reuseaddr(true).unwrap();
    // Else the system may take many megabytes that the host has not read.
    socket.set_recv_buffer_size(256 << 10).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// Serves every connection until the task is dropped; that closes those that are open, as the death of
/// a process does.
pub(super) async fn accept(listener: TcpListener, tls: Option<Arc<ServerConfig>>, api: Arc<Api>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            Some(_) = connections.join_next() => continue,
        };
        api.record.connection();
        let api = Arc::clone(&api);
        match tls.clone() {
            Some(tls) => connections.spawn(serve_tls(stream, tls, api)),
            None => connections.spawn(serve(stream, api)),
        };
    }
}

async fn serve(stream: TcpStream, api: Arc<Api>) {
    stream.set_nodelay(true).unwrap();
    let (end, mut ends) = mpsc::unbounded_channel();
    let line = Line {
        end,
        requests: Arc::default(),
    };
    let service = service_fn(move |request| api::respond(Arc::clone(&api), line.clone(), request));
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let last_words = tokio::select! {
        biased;
        // An error here is the other side's hanging up.
        _ = &mut connection => return,
        Some(last_words) = ends.recv() => last_words,
    };
    let mut stream = connection.into_parts().io.into_inner();
    // Fails only if the other side is gone.
    let _ = stream.write_all(&last_words.bytes).await;
    match last_words.ending {
        Ending::Reset => stream.set_zero_linger().unwrap(),
        Ending::Close => close(stream).await,
        Ending::Silence => std::future::pending().await,
        Ending::Afterthought(later, bytes) => {
            tokio::time::sleep(later).await;
            // As above.
            let _ = stream.write_all(bytes.as_bytes()).await;
            std::future::pending::<()>().await;
        }
    }
}

/// Ends without a word if the handshake fails, as is the test's business.
async fn serve_tls(stream: TcpStream, tls: Arc<ServerConfig>, api: Arc<Api>) {
    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else {
        return;
    };
    let line = Line {
        end: mpsc::unbounded_channel().0,
        requests: Arc::default(),
    };
    let service = service_fn(move |request| api::respond(Arc::clone(&api), line.clone(), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // An error here is the other side's hanging up.
    let _ = connection.await;
}

/// Without a reset, which would follow if anything came in after we are gone.
async fn close(mut stream: TcpStream) {
    // Both fail only if the other side is gone.
    let _ = stream.shutdown().await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}
