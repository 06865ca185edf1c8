//! The admin address's connections: few, and none may dawdle over a head or over reading an answer, so
//! that whoever can reach it can't use up the files that clients' connections need, nor the places.

use std::fs::File;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// Connections at once: some pages that stay open, Prometheus, commands. Further ones wait in the
/// system's queue.
pub const MAX_CONNECTIONS: usize = 128;
/// How long a connection may idle, and how long the next head may take from then on.
const NEXT_HEAD: Duration = Duration::from_secs(75);
/// The same for those that come when half of the places are taken: whoever waits for one gets it soon,
/// however many idle.
const NEXT_HEAD_IF_MANY: Duration = Duration::from_secs(1);
/// How long the other end may take in nothing of what was sent, in milliseconds: it is gone, or does
/// not read.
const UNREAD: u32 = 30_000;
/// Bytes of a head.
const MAX_HEAD: usize = 16 << 10;
/// The pause after `accept` has failed, which it may do again at once (too many open files).
const PAUSE: Duration = Duration::from_millis(100);

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

/// Serves `router` on `places` connections until `stop` ends. Connections that are there then finish
/// their request by themselves.
pub(super) async fn serve(
    listener: &TcpListener,
    router: Router,
    places: usize,
    stop: impl Future<Output = ()>,
) {
    let few = places / 2;
    let places = Arc::new(Semaphore::new(places));
    let reserve = Arc::new(Reserve::default());
    reserve.fill();
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let (stream, peer, place) = tokio::select! {
            accepted = accept(listener, &places, &reserve) => accepted,
            () = &mut stop => break,
        };
        let router = router.clone().layer(Extension(ConnectInfo(peer)));
        let service = TowerToHyperService::new(router);
        let is_one_of_many = places.available_permits() < few;
        let connection = http(is_one_of_many).serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        let reserve = Arc::clone(&reserve);
        tokio::spawn(async move {
            // An error is the other end's: it went away, or sent no HTTP.
            let _ = connection.await;
            reserve.fill();
            drop(place);
        });
    }
    connections.shutdown().await;
}

fn http(is_one_of_many: bool) -> http1::Builder {
    let next_head = if is_one_of_many {
        NEXT_HEAD_IF_MANY
    } else {
        NEXT_HEAD
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(next_head)
        .max_buf_size(MAX_HEAD);
    http
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    reserve: &Reserve,
) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    // Nobody closes the semaphore, so that there always is a place in the end.
    let place = Arc::clone(places).acquire_owned().await.ok();
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Where the system does not know it, connections end with TCP's own patience.
                let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD);
                return (stream, peer, place);
            }
            Err(_) if reserve.give_up_one() => {}
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "the admin address can't accept a connection; it goes on trying");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::oneshot;
    use tokio::time::timeout;

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
    async fn the_last_place_is_for_whoever_waits_longest() {
        let (address, _stop, _serving) = start(1).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        let told = answer(&mut first).await;
        let own = first.local_addr().unwrap().to_string();
        assert!(told.ends_with(&own), "the peer is known: {told}");
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();

        first.write_all(REQUEST).await.unwrap();
        assert!(
            answer(&mut first).await.starts_with("HTTP/1.1 200"),
            "it keeps its place"
        );
        drop(first);

        assert!(answer(&mut second).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn idle_connections_leave_room_for_whoever_asks_something() {
        let (address, _stop, _serving) = start(4).await;
        let mut idle = Vec::new();
        for _ in 0..8 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }

        let mut last = TcpStream::connect(address).await.unwrap();
        last.write_all(REQUEST).await.unwrap();

        let told = timeout(10 * NEXT_HEAD_IF_MANY, answer(&mut last)).await;
        assert!(told.unwrap().starts_with("HTTP/1.1 200"));
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
