//! The socket: accepts connections, serves until told to stop, lets running requests finish.
//!
//! What a client can keep busy is bounded: connections in number, of which those that idle make room for
//! others ([`gpu_bridge_places`]); a head in size, and with the wait for it in time; an answer in the time
//! during which nobody takes any of it. Bodies are the [`api`](crate::api)'s to bound.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use axum::{Extension, Router};
use gpu_bridge_framing::{HeadLimits, Strict};
use gpu_bridge_places::Room;
use gpu_bridge_upkeep::StopSignals;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::api::Https;
use crate::metrics::HttpMetrics;

/// How long running requests may take to finish once the service is told to stop.
const GRACE: Duration = Duration::from_mins(1);

/// Bounds on a head: what hyper takes too.
const HEADS: HeadLimits = HeadLimits {
    bytes: 64 << 10,
    headers: 100,
};

/// How long a connection may lie idle, and how long the next head may take from then on.
const NEXT_HEAD: Duration = Duration::from_secs(75);

/// How long a new connection may take to its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// The answer where there is no place.
const NO_PLACE: &str = r#"{"detail":"too many connections are open; close some or retry later"}"#;

/// How long a client may take none of what is sent to it.
#[cfg(target_os = "linux")]
const STALLED: Duration = Duration::from_mins(1);

/// Open files for all but connections: models that are read, downloads, the log.
const OWN_FILES: u64 = 64;

/// How long a connection without a place may take to be told so.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What is served, and to how many at once.
pub struct Server {
    /// Answers requests.
    pub service: Router,
    /// Most connections at once.
    pub connections: usize,
    /// Of these, what one address may have; none = three quarters.
    pub connections_per_client: Option<usize>,
    /// Counts connections.
    pub metrics: HttpMetrics,
    /// HTTPS instead of HTTP.
    pub tls: Option<TlsAcceptor>,
}

/// A connection that is let in.
struct Guest {
    service: Router,
    tls: Option<TlsAcceptor>,
    /// Sees to it that requests which run are finished.
    watcher: Watcher,
    /// Changes when the host stops.
    stopping: watch::Receiver<()>,
}

/// Listens on `address`.
///
/// # Errors
/// The address is taken or not ours.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

impl Server {
    /// Serves until `stop` is ready, then accepts nothing new and waits up to a minute for what
    /// runs. Connections without a request end at once.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let connections = GracefulShutdown::new();
        self.accept(&listener, &connections, stop).await;
        drop(listener);
        info!("stopping: finishing what runs");
        if timeout(GRACE, connections.shutdown()).await.is_err() {
            warn!("some requests did not finish in time");
        }
    }

    async fn accept(
        &self,
        listener: &TcpListener,
        connections: &GracefulShutdown,
        stop: impl Future<Output = ()>,
    ) {
        let places = self.metrics.places(self.connections);
        let most = self
            .connections_per_client
            .unwrap_or_else(|| places.share());
        let (_serving, stopping) = watch::channel(());
        let mut stop = pin!(stop);
        loop {
            let (stream, peer, room) = tokio::select! {
                accepted = places.accept(listener, || false) => accepted,
                () = &mut stop => return,
            };
            if let Err(error) = prepare(&stream) {
                debug!(%error, "a connection has the system's defaults");
            }
            let Ok(place) = places.enter(Some(peer.ip()), most, Instant::now()) else {
                self.turn_away(stream, room);
                continue;
            };
            let guest = Guest {
                service: self.service.clone().layer(Extension(place.clone())),
                tls: self.tls.clone(),
                watcher: connections.watcher(),
                stopping: stopping.clone(),
            };
            let counted = self.metrics.connection();
            tokio::spawn(async move {
                let held = place.hold(FIRST_REQUEST, guest.serve(stream)).await;
                if let Some(Err(error)) = held {
                    debug!(%error, "a connection broke off");
                }
                drop((counted, room));
            });
        }
    }

    fn turn_away(&self, mut stream: TcpStream, room: Room) {
        self.metrics.refused_connection();
        if self.tls.is_some() {
            return; // A handshake would cost more than the news is worth.
        }
        let length = NO_PLACE.len();
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
             connection: close\r\ncontent-length: {length}\r\n\r\n{NO_PLACE}"
        );
        tokio::spawn(timeout(LAST_WORDS, async move {
            let _room = room;
            stream.write_all(answer.as_bytes()).await
        }));
    }
}

impl Guest {
    async fn serve(mut self, stream: TcpStream) -> anyhow::Result<()> {
        let Some(tls) = self.tls.take() else {
            return self.converse(stream).await;
        };
        let secure = tokio::select! {
            secure = tls.accept(stream) => secure.context("no TLS handshake")?,
            // The other end is dropped: nobody who has asked for nothing yet holds up the end.
            _ = self.stopping.changed() => return Ok(()),
        };
        self.service = self.service.layer(Extension(Https));
        self.converse(secure).await
    }

    async fn converse<S>(self, stream: S) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = Strict::new(stream, HEADS);
        let service = self.service.layer(Extension(stream.refusal()));
        let service = TowerToHyperService::new(service);
        let connection = http().serve_connection(TokioIo::new(stream), service);
        Ok(self.watcher.watch(connection).await?)
    }
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(NEXT_HEAD)
        .max_header_size(HEADS.bytes)
        .max_buf_size(HEADS.bytes);
    http
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(STALLED))?;
    Ok(())
}

/// Allows as many open files as the system lets us, since each connection is one. Returns how many
/// connections that leaves of those that are `wanted`.
pub fn allow_open_files(wanted: usize) -> usize {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        warn!(%error, "the limit of open files can't be raised");
        rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(soft, _)| soft)
    });
    let connections = connections_of(limit, wanted);
    if connections < wanted {
        warn!(
            open_files = limit,
            needed = wanted as u64 + OWN_FILES,
            connections,
            wanted,
            "too few open files are allowed for --max-connections: fewer may connect; raise the limit to \
             what is needed (LimitNOFILE, ulimit -n)"
        );
    }
    connections
}

fn connections_of(limit: u64, wanted: usize) -> usize {
    let left = limit - OWN_FILES.min(limit / 2);
    usize::try_from(left).unwrap_or(usize::MAX).clamp(1, wanted)
}

/// Ready at the first SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
/// The system refuses the handlers.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut signals = StopSignals::new().context("cannot await signals")?;
    Ok(async move { signals.stop().await })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_models() {
        for (limit, wanted, connections) in [
            (u64::MAX, 1024, 1024),
            (1088, 1024, 1024),
            (1087, 1024, 1023),
            (64, 1024, 32),
            (1, 1024, 1),
            (0, 1, 1),
        ] {
            assert_eq!(connections_of(limit, wanted), connections, "{limit} files");
        }
        let documents = include_str!("../../docs/tls-and-limits.md");
        let asked = format!("{} for the default of 1024", 1024 + OWN_FILES);
        assert!(documents.contains(&asked));
    }
}
