//! Connections that nobody uses lock nobody out: not at the proxy, the GPU host or the admin address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{
    Authority, Backend, Behaviour, Config, HTTP_2, Proxy, RawConnection, Wire, embed_request,
    eventually, secure, sim_host,
};

/// Only a failing test waits that long; much less than idle connections are kept.
const PATIENCE: Duration = Duration::from_secs(30);
const LIMIT: usize = 8;
const KEY: &str = "key-1";

/// What somebody without a key may do with a connection, so that it stays open.
#[derive(Clone, Copy, Debug)]
enum Idler {
    Silent,
    InAHead,
    AfterARequest,
    Http2,
    /// Asks for something and takes no answer.
    Http2Unread,
}

impl Idler {
    const ALL: [Self; 5] = [
        Self::Silent,
        Self::InAHead,
        Self::AfterARequest,
        Self::Http2,
        Self::Http2Unread,
    ];

    /// Open until what is returned is dropped.
    async fn open(self, address: SocketAddr) -> Box<dyn Send> {
        let mut connection = RawConnection::open(address).await;
        match self {
            Self::Silent => {}
            Self::InAHead => connection.send("GET /health HTTP/1.1\r\nHost:").await,
            Self::AfterARequest => {
                connection.send(get("/health", "")).await;
                connection.reply().await;
            }
            Self::Http2 => {
                connection.send(HTTP_2).await;
                // It has been let in once it is greeted.
                connection.body(9).await;
            }
            Self::Http2Unread => return Self::ask_in_http2(address).await,
        }
        Box::new(connection)
    }

    async fn ask_in_http2(address: SocketAddr) -> Box<dyn Send> {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(0);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://proxy.example/health");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        Box::new((sender.send_request(request).await.unwrap(), sender))
    }
}

/// A request without a body, with these further lines in its head.
fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n")
}

/// [`embed_request`] with the key.
fn with_key(text: &str) -> Vec<u8> {
    let request = String::from_utf8(embed_request(text)).unwrap();
    let line = format!("HTTP/1.1\r\nX-API-Key: {KEY}\r\n");
    request.replacen("HTTP/1.1\r\n", &line, 1).into_bytes()
}

async fn fill(address: SocketAddr, idlers: &[Idler], rounds: usize) -> Vec<Box<dyn Send>> {
    let mut open = Vec::new();
    for _ in 0..rounds {
        for idler in idlers {
            open.push(idler.open(address).await);
        }
    }
    open
}

#[tokio::test]
async fn holders_of_a_key_get_in_and_stay_however_many_others_idle_in_whatever_way() {
    let host = sim_host("host").start();
    let config =
        Config::with_hosts(&[&host])
            .client_key("one", KEY)
            .set("limits", "max_connections", LIMIT);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut kept = proxy.connect().await;
    kept.send(with_key("kept")).await;
    kept.reply().await.assert_embedding_of("kept");

    for idler in Idler::ALL {
        let _open = fill(proxy.address(), &[idler], 2 * LIMIT).await;
        let mut new = proxy.connect().await;
        new.send(with_key("new")).await;
        new.reply().await.assert_embedding_of("new");
        kept.send(with_key("kept")).await;
        kept.reply().await.assert_embedding_of("kept");
    }

    let metrics = proxy.metrics().await;
    let displaced = [("places", "clients")];
    assert!(metrics.count("gpu_bridge_connections_displaced_total", &displaced) > 0);
    assert_eq!(
        metrics.count("gpu_bridge_connections_refused_total", &[]),
        0
    );
    proxy.logs("connections are many").await;
}

#[tokio::test]
async fn handshakes_that_are_not_finished_lock_nobody_out() {
    let (host, authority) = (sim_host("host").start(), Authority::new());
    let identity = authority.issue(&["proxy.example"]);
    let tls = json!({"certificate": identity.certificate(), "key": identity.key()});
    let config = Config::with_hosts(&[&host])
        .replace("listen", json!([{"address": "127.0.0.1:0", "tls": tls}]))
        .set("limits", "max_connections", LIMIT);
    let proxy = Proxy::ready(&config, &[&host]).await;

    let _open = fill(proxy.address(), &[Idler::Silent], 2 * LIMIT).await;
    let client = authority.client(None, &["h2"]);
    let stream = secure(proxy.address(), "proxy.example", client).await;
    let mut wire = Wire::over_tls(stream.unwrap()).await;
    wire.embed("x").await.assert_embedding_of("x");
}

/// Without keys all are equal: what is used stays, and of the rest what was used last.
#[tokio::test]
async fn requests_that_run_and_bodies_on_their_way_stay_and_the_oldest_idle_connection_goes() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host]).set("limits", "max_connections", LIMIT);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut running = proxy.connect().await;
    running.send_embed("running").await;
    host.runs(1).await;
    let mut sending = proxy.connect().await;
    let request = embed_request("sending");
    let (first, second) = request.split_at(request.len() - 5);
    sending.send(first).await;
    let mut idle = proxy.connect().await;
    idle.send(get("/health", "")).await;
    assert_eq!(idle.reply().await.status, 200);

    let _open = fill(proxy.address(), &Idler::ALL, LIMIT).await;
    let mut last = proxy.connect().await;
    last.send(get("/health", "")).await;
    assert_eq!(last.reply().await.status, 200);
    assert_eq!(idle.rest().await, "", "it made room");
    sending.send(second).await;
    eventually("both run", async || host.arrivals() >= 2).await;
    host.release_all();
    sending.reply().await.assert_embedding_of("sending");
    running.reply().await.assert_embedding_of("running");
}

/// Runs a request, if it is let in.
async fn run(from: &str, proxy: &Proxy) -> RawConnection {
    let from: IpAddr = from.parse().unwrap();
    let mut connection = RawConnection::open_from(from, proxy.address()).await;
    // It may have been hung up on already, with an answer.
    let _ = connection.try_send(embed_request("x")).await;
    connection
}

#[tokio::test]
async fn an_address_has_its_share_and_a_trusted_proxy_any_number() {
    let host = sim_host("host")
        .slots(LIMIT)
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host])
        .set_host("host", "max_concurrent", LIMIT)
        .set("limits", "max_connections_per_client", 2);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut open = vec![
        run("127.0.0.1", &proxy).await,
        run("127.0.0.1", &proxy).await,
    ];
    host.runs(2).await;

    let refusal = run("127.0.0.1", &proxy).await.reply().await;
    refusal.assert_come_again();
    let detail = refusal.assert_error(503);
    assert!(detail.contains("max_connections_per_client"), "{detail}");
    open.push(run("127.0.0.2", &proxy).await);
    host.runs(3).await;

    proxy
        .takes_over(&config.set("headers", "trusted_proxies", json!(["127.0.0.1"])))
        .await;
    open.push(run("127.0.0.1", &proxy).await);
    host.runs(4).await;
    host.release_all();
    for connection in &mut open {
        connection.reply().await.assert_embedding_of("x");
    }
}

#[tokio::test]
async fn a_connection_that_never_asks_for_anything_has_a_short_time_everywhere() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "client_head", "300ms");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::start_with("backend", "", folder.path()).await;

    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    let Wire::Http2(sender) = Wire::http2(stream).await else {
        panic!("not HTTP/2")
    };
    eventually("the connection is closed", async || sender.is_closed()).await;
    let end = async |address: SocketAddr| {
        let mut silent = RawConnection::open(address).await;
        timeout(PATIENCE, silent.rest()).await.expect("the end")
    };
    let admin = proxy.admin().parse().unwrap();
    let ends = tokio::join!(end(admin), end(backend.address()));
    assert_eq!(ends, ("".into(), "".into()));
}

#[tokio::test]
async fn idle_connections_lock_nobody_out_of_the_gpu_host() {
    let folder = tempfile::tempdir().unwrap();
    let limit = [("GPU_BRIDGE_MAX_CONNECTIONS", "8")];
    let backend = Backend::start_as("backend", KEY, folder.path(), &limit).await;
    let info = get("/info", &format!("X-API-Key: {KEY}\r\n"));
    let mut kept = RawConnection::open(backend.address()).await;
    kept.send(&info).await;
    assert_eq!(kept.reply().await.status, 200);

    for idler in [Idler::Silent, Idler::InAHead, Idler::AfterARequest] {
        let _open = fill(backend.address(), &[idler], 2 * LIMIT).await;
        let mut new = RawConnection::open(backend.address()).await;
        new.send(&info).await;
        assert_eq!(new.reply().await.status, 200);
        kept.send(&info).await;
        assert_eq!(kept.reply().await.status, 200);
    }
}

#[tokio::test]
async fn idle_connections_lock_nobody_out_of_the_admin_address() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let address = proxy.admin().parse().unwrap();
    let mut page = RawConnection::open(address).await;
    page.send(get("/api/v1/events", "")).await;
    assert_eq!(page.head().await.0, 200);

    for idler in [Idler::Silent, Idler::InAHead, Idler::AfterARequest] {
        let _open = fill(address, &[idler], 200).await;
        let (code, ..) = proxy.command(&["status"]).await;
        assert_eq!(code, Some(0));
    }
    page.body(4).await;
    let metrics = proxy.metrics().await;
    let displaced = [("places", "admin")];
    assert!(metrics.count("gpu_bridge_connections_displaced_total", &displaced) > 0);
}
