//! The admin address's connections: few, with [places](gpu_bridge_places) of their own, and none may
//! dawdle over its first head or over reading an answer, so that whoever can reach it can't use up the
//! files that clients' connections need.

use std::fs::File;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use gpu_bridge_framing::{HeadLimits, Strict};
use gpu_bridge_places::Places;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// Connections at once: some pages that stay open, Prometheus, commands.
pub const MAX_CONNECTIONS: usize = 128;
/// How long a connection may idle, and how long the next head may take from then on.
const NEXT_HEAD: Duration = Duration::from_secs(75);
/// How long a new connection may take to its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long the other end may take in nothing of what was sent, in milliseconds: it is gone, or does
/// not read.
const UNREAD: u32 = 30_000;
/// At the end, connections may still ask for so long: on one that was just accepted, a request may be on its way.
const LAST_REQUESTS: Duration = Duration::from_millis(300);
/// Bounds on a head.
const HEADS: HeadLimits = HeadLimits {
    bytes: 16 << 10,
    headers: 100,
};
/// Connections that can be accepted however few files may be opened.
const RESERVE: usize = 4;

/// Files that are kept open for nothing but to be closed when a connection can't be accepted for want of
/// one: an operator must be able to look at a proxy that is in trouble.
#[derive(Default)]
struct Reserve(Mutex<Vec<File>>);

impl Reserve {
    /// As far as it is possible now.
    fn fill(&self) {
        let mut files = self.0.lock();
        while files.len() < RESERVE
            && let Ok(file) = File::open("/dev/null")
        {
            files.push(file);
        }
    }

    /// False: there is none.
    fn give_up_one(&self) -> bool {
        self.0.lock().pop().is_some()
    }
}

/// Serves `router` on connections that have one of `places` until `stop` ends. Connections that are there then finish
/// their request by themselves.
pub(super) async fn serve(
    listener: &TcpListener,
    router: Router,
    places: Places,
    stop: impl Future<Output = ()>,
) {
    let reserve = Arc::new(Reserve::default());
    reserve.fill();
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let (stream, peer, room) = tokio::select! {
            accepted = places.accept(listener, || reserve.give_up_one()) => accepted,
            () = &mut stop => break,
        };
        // Where the system does not know it, connections end with TCP's own patience.
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD);
        // There is always one: no request runs here in the sense of `places`, so that somebody makes room.
        let Ok(place) = places.enter(Some(peer.ip()), places.share(), Instant::now()) else {
            continue;
        };
        let stream = Strict::new(stream, HEADS);
        let router = router.clone().layer(Extension(place.clone()));
        let router = router.layer(Extension(stream.refusal()));
        let service = TowerToHyperService::new(router.layer(Extension(ConnectInfo(peer))));
        let connection = http().serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        let reserve = Arc::clone(&reserve);
        tokio::spawn(async move {
            // An error is the other end's: it went away, or sent no HTTP.
            let _ = place.hold(FIRST_REQUEST, connection).await;
            drop(room);
            reserve.fill();
        });
    }
    if connections.count() > 0 {
        tokio::time::sleep(LAST_REQUESTS).await;
    }
    connections.shutdown().await;
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(NEXT_HEAD)
        .max_buf_size(HEADS.bytes);
    http
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    async fn start(
        places: usize,
    ) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route(
            "/",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
        );
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = async move {
            let told = async move {
                let _ = stopped.await;
            };
            let displaced = prometheus::IntCounter::new("displaced", "Displaced.").unwrap();
            let places = Places::new("admin", places, displaced);
            serve(&listener, router, places, told).await;
        };
        (address, stop, tokio::spawn(serving))
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut read = vec![0; 1024];
        let length = stream.read(&mut read).await.unwrap();
        String::from_utf8_lossy(&read[..length]).into_owned()
    }

    #[tokio::test]
    async fn whoever_has_idled_for_longest_makes_room() {
        let (address, _stop, _serving) = start(2).await;
        let mut open = Vec::new();
        for _ in 0..4 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(REQUEST).await.unwrap();
            let told = answer(&mut stream).await;
            let own = stream.local_addr().unwrap().to_string();
            assert!(told.ends_with(&own), "the peer is known: {told}");
            open.push(stream);
        }
        for (number, stream) in open.iter_mut().enumerate() {
            let _ = stream.write_all(REQUEST).await;
            let read = stream.read(&mut [0; 1024]).await;
            assert_eq!(read.is_ok_and(|length| length > 0), number >= 2, "{number}");
        }
    }

    #[tokio::test]
    async fn a_request_on_its_way_is_answered_at_the_end() {
        let (address, stop, serving) = start(2).await;
        let mut new = TcpStream::connect(address).await.unwrap();
        // It has been accepted once a later one is answered.
        let mut later = TcpStream::connect(address).await.unwrap();
        later.write_all(REQUEST).await.unwrap();
        answer(&mut later).await;

        stop.send(()).unwrap();
        tokio::task::yield_now().await;
        new.write_all(REQUEST).await.unwrap();

        assert!(answer(&mut new).await.starts_with("HTTP/1.1 200"));
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn idle_connections_are_closed_at_the_end() {
        let (address, stop, serving) = start(2).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(REQUEST).await.unwrap();
        answer(&mut idle).await;

        stop.send(()).unwrap();

        assert_eq!(answer(&mut idle).await, "");
        serving.await.unwrap();
    }
}
