//! HTTP/2 is served like HTTP/1.1: with TLS where it is agreed on, and without to those who know.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use http::{Method, Request};
use http_body_util::{Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::harness::{
    Behaviour, Config, Proxy, Wire, embed_body, eventually, frame, padded, sim_host,
};

async fn connect(proxy: &Proxy) -> Wire {
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    Wire::http2(stream).await
}

/// The same connection once more.
fn share(wire: &Wire) -> Wire {
    match wire {
        Wire::Http2(sender) => Wire::Http2(sender.clone()),
        Wire::Http1(_) => panic!("HTTP/1 can't be shared"),
    }
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let host = sim_host("host").slots(8).start();
    let config = Config::with_hosts(&[&host]).set("batching", "merge", false);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let wire = connect(&proxy).await;

    let texts = (0..50).map(|number| format!("text {number}"));
    let requests = texts.map(|text| {
        let mut wire = share(&wire);
        async move { wire.embed(&text).await.assert_embedding_of(&text) }
    });
    join_all(requests).await;

    assert_eq!(host.arrivals(), 50);
}

#[tokio::test]
async fn hosts_get_http_1_with_the_host_and_length_that_it_needs() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut wire = connect(&proxy).await;

    wire.embed("x").await.assert_embedding_of("x");

    let seen = host.record().requests[0].clone();
    assert_eq!(seen.path_and_query, "/embed");
    assert_eq!(seen.headers["host"], host.address().to_string());
    let length = embed_body("x").to_string().len();
    assert_eq!(seen.headers["content-length"], length.to_string());
    assert!(!seen.headers.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn a_long_answer_arrives_whole() {
    let host = sim_host("host")
        .behaving(Behaviour::ServePadded(20 << 20))
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut wire = connect(&proxy).await;

    let reply = wire.embed("long").await;

    reply.assert_embedding_of("long");
    assert!(reply.body.len() > 20 << 20);
    assert!(!reply.headers.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn a_request_whose_client_resets_it_is_dropped_and_its_sibling_goes_on() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let wire = connect(&proxy).await;
    let (mut gone, mut stays) = (share(&wire), share(&wire));
    let gone = tokio::spawn(async move { gone.embed("gone").await });
    host.runs(1).await;
    let stays = tokio::spawn(async move { stays.embed("stays").await });
    host.runs(2).await;

    gone.abort();

    host.runs(1).await;
    host.release_all();
    stays.await.unwrap().assert_embedding_of("stays");
}

#[tokio::test]
async fn requests_are_dropped_with_their_connection() {
    let host = sim_host("host").behaving(Behaviour::Hang).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut wire = connect(&proxy).await;
    let request = tokio::spawn(async move { wire.embed("gone").await });
    eventually("the request is on the host", async || {
        host.record().present == 1
    })
    .await;

    request.abort();

    eventually("it is not any more", async || host.record().present == 0).await;
}

#[tokio::test]
async fn bounds_hold() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host])
        .set("limits", "max_body", "1KiB")
        .set("limits", "max_headers", 20);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut wire = connect(&proxy).await;

    let body: Bytes = padded(&embed_body("large"), 2 << 10).into();
    let request = wire.request(Method::POST, "/embed", body);
    wire.send(request).await.assert_error(413);

    let mut request = wire.embed_request("many");
    for number in 0..30 {
        let name: http::HeaderName = format!("x-{number}").parse().unwrap();
        request.headers_mut().insert(name, "1".parse().unwrap());
    }
    let detail = wire.send(request).await.assert_error(431);
    assert!(detail.contains("20"), "{detail}");

    let mut request = wire.embed_request("long");
    let long = "x".repeat(70 << 10).parse().unwrap();
    request.headers_mut().insert("x-long", long);
    assert_eq!(wire.send(request).await.status, 431);

    wire.embed("after").await.assert_embedding_of("after");
    assert_eq!(host.arrivals(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "client_idle", "500ms");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut wire = connect(&proxy).await;
    wire.embed("x").await.assert_embedding_of("x");

    let Wire::Http2(sender) = &wire else {
        panic!("not HTTP/2")
    };
    eventually("the connection is closed", async || sender.is_closed()).await;
}

/// Has one text embedded without ever taking any of the answer's body.
async fn open_unread<B>(proxy: &Proxy, body: B) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(0);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://proxy.example/embed");
    let request = request.header("content-type", "application/json");
    let answer = sender.send_request(request.body(body).unwrap());
    tokio::spawn(async move {
        let _unread = answer.await;
        pending::<()>().await;
    });
    sender
}

#[tokio::test]
async fn a_connection_on_which_nothing_gets_on_is_closed() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host])
        .set("timeouts", "client_read", "500ms")
        .set("timeouts", "client_idle", "500ms");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let unread = open_unread(&proxy, Full::new(embed_body("x").to_string().into())).await;
    let unsent = open_unread(
        &proxy,
        StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>()),
    )
    .await;
    eventually("who reads nothing is gone", async || unread.is_closed()).await;
    eventually("who sends nothing is gone", async || unsent.is_closed()).await;
}

/// Without the last stream that was served, a client doesn't know what it may repeat.
#[tokio::test]
async fn an_idle_connection_is_told_that_it_ends_even_if_it_does_not_listen() {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "client_idle", "100ms");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut client = proxy.connect().await;
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.send(SETTINGS).await;

    let told = client.rest().await;

    let mut rest = &told[..];
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *rest {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        kinds.push(kind);
        rest = &rest[9 + length..];
    }
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
}

#[tokio::test]
async fn a_slow_request_outlives_the_idle_time() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeAfter(Duration::from_millis(1200)))
        .start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "client_idle", "500ms");
    let proxy = Proxy::ready(&config, &[&host]).await;

    let mut wire = connect(&proxy).await;

    wire.embed("slow").await.assert_embedding_of("slow");
}

#[tokio::test]
async fn what_runs_when_the_proxy_stops_is_finished() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let mut proxy = Proxy::in_front_of(&[&host]).await;
    let mut wire = connect(&proxy).await;
    let request = tokio::spawn(async move { wire.embed("last").await });
    host.runs(1).await;

    proxy.terminate().await;
    eventually("the proxy is stopping", async || {
        proxy.log().contains("stopping")
    })
    .await;
    host.release_all();

    request.await.unwrap().assert_embedding_of("last");
    assert!(proxy.ended().await.success());
}

#[tokio::test]
async fn a_connection_that_a_successor_relieves_is_told_so_and_finishes_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host]);
    let mut old = Proxy::start_at(&socket, &config).await;
    let wire = connect(&old).await;
    let mut running = share(&wire);
    let running = tokio::spawn(async move { running.embed("running").await });
    host.runs(1).await;

    let new = Proxy::start_at(&socket, &config).await;
    old.logs("another process has taken over").await;
    host.release_all();

    running.await.unwrap().assert_embedding_of("running");
    let Wire::Http2(sender) = &wire else {
        panic!("not HTTP/2")
    };
    eventually("the connection is closed", async || sender.is_closed()).await;
    assert_eq!(old.ended().await.code(), Some(0));
    let mut wire = connect(&new).await;
    wire.embed("later").await.assert_embedding_of("later");
}

#[tokio::test]
async fn a_head_is_held_to_the_rules_of_http_1() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    for (target, named, status) in [
        ("https://proxy.example/embed?q=%C3%A9", "proxy.example", 200),
        ("https://proxy.example/embed?q=\u{e9}", "proxy.example", 400),
        ("https://proxy.example/embed", "other.example", 400),
        ("https://u@proxy.example/embed", "proxy.example", 400),
    ] {
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        for mut wire in [connect(&proxy).await, Wire::http1(stream).await] {
            let mut request = wire.embed_request("x");
            *request.uri_mut() = target.parse().unwrap();
            request.headers_mut().insert("host", named.parse().unwrap());
            let is_http2 = wire.is_http2();
            let reply = wire.send(request).await;
            assert_eq!(reply.status, status, "{target} {named}, HTTP/2: {is_http2}");
        }
    }
    assert_eq!(host.arrivals(), 2);
}

/// Makes the frames of each round of a flood.
type NumberedFrame = fn(u32) -> Vec<u8>;

#[tokio::test]
async fn a_flood_of_what_is_no_request_is_ended_and_counted() {
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u8 = 11;
    const GET: &[u8] = b"\x82\x86\x84\x41\x05proxy";
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let floods: [(&str, NumberedFrame); 6] = [
        ("SETTINGS", |_| frame(4, 0, 0, &[])),
        ("PING", |_| frame(6, 0, 0, &[0; 8])),
        ("PRIORITY", |_| frame(2, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", |_| frame(8, 0, 0, &[0, 0, 0, 1])),
        ("unknown", |_| frame(99, 0, 0, &[])),
        ("resets", |number| {
            let stream = 2 * number + 1;
            [frame(1, 5, stream, GET), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
        }),
    ];
    for (what, flood) in floods {
        let mut connection = proxy.connect().await;
        let start = [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &frame(4, 0, 0, &[]),
        ]
        .concat();
        let frames: Vec<u8> = (0..30_000).flat_map(flood).collect();
        connection.send([start, frames].concat()).await;

        let said = connection.rest().await;
        let mut said = &said[..];
        let mut last = None;
        while let [_, high, low, kind, rest @ ..] = said {
            let (payload, rest) = rest[5..].split_at(usize::from(*high) << 8 | usize::from(*low));
            last = Some((*kind, payload.get(7).copied()));
            said = rest;
        }
        assert_eq!(last, Some((GOAWAY, Some(ENHANCE_YOUR_CALM))), "{what}");
    }
    let name = "gpu_bridge_http2_connections_calmed_total";
    assert!(proxy.metrics().await.count(name, &[]) >= 5);
    // Others notice nothing.
    connect(&proxy)
        .await
        .embed("x")
        .await
        .assert_embedding_of("x");
}
