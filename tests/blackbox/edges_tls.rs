//! Clients may talk TLS, in either protocol; certificates are replaced while they do.

use std::path::Path;

use bytes::Bytes;
use http::Method;
use rustls::ClientConfig;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::harness::{
    Authority, Config, Identity, Proxy, SimHost, Wire, embed_body, embed_request, eventually,
    padded, secure, sim_host,
};

const NAME: &str = "proxy.example";
const BOTH: &[&str] = &["h2", "http/1.1"];

fn with_tls(hosts: &[&SimHost], identity: &Identity, client_ca: Option<&Path>) -> Config {
    let mut tls = json!({"certificate": identity.certificate(), "key": identity.key()});
    if let Some(client_ca) = client_ca {
        tls["client_ca"] = json!(client_ca);
    }
    Config::with_hosts(hosts).replace("listen", json!([{"address": "127.0.0.1:0", "tls": tls}]))
}

async fn connect(proxy: &Proxy, config: ClientConfig) -> Wire {
    let stream = secure(proxy.address(), NAME, config).await;
    Wire::over_tls(stream.expect("a handshake")).await
}

#[tokio::test]
async fn both_protocols_are_spoken_over_tls_and_the_client_chooses() {
    let (host, authority) = (sim_host("host").start(), Authority::new());
    let identity = authority.issue(&[NAME]);
    let proxy = Proxy::ready(&with_tls(&[&host], &identity, None), &[&host]).await;

    for (protocols, is_http2) in [(BOTH, true), (&["http/1.1"], false), (&[], false)] {
        let mut wire = connect(&proxy, authority.client(None, protocols)).await;
        assert_eq!(wire.is_http2(), is_http2, "{protocols:?}");
        for text in ["first", "second"] {
            let reply = wire.embed(text).await;
            reply.assert_embedding_of(text);
            let length = reply.body.len().to_string();
            assert_eq!(reply.header("content-length"), Some(&*length));
            assert!(!reply.headers.contains_key("transfer-encoding"));
        }
        wire.get("/nowhere").await.assert_error(404);
    }
    for seen in host.record().requests {
        assert_eq!(seen.headers["x-forwarded-proto"], "https");
    }
}

#[tokio::test]
async fn large_bodies_arrive_whole_over_tls() {
    let (host, authority) = (sim_host("host").start(), Authority::new());
    let identity = authority.issue(&[NAME]);
    let proxy = Proxy::ready(&with_tls(&[&host], &identity, None), &[&host]).await;
    let body: Bytes = padded(&embed_body("large"), 8 << 20).into();
    let hash: [u8; 32] = Sha256::digest(&body).into();

    for protocols in [BOTH, &["http/1.1"]] {
        let mut wire = connect(&proxy, authority.client(None, protocols)).await;
        let request = wire.request(Method::POST, "/embed", body.clone());
        wire.send(request).await.assert_embedding_of("large");
        assert_eq!(host.record().requests.last().unwrap().sha256, Some(hash));
    }
}

#[tokio::test]
async fn where_client_certificates_are_asked_for_only_their_holders_get_in() {
    let host = sim_host("host").start();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let identity = authority.issue(&[NAME]);
    let config = with_tls(&[&host], &identity, Some(authority.path()));
    let proxy = Proxy::ready(&config, &[&host]).await;

    let known = authority.issue(&["client"]);
    let mut wire = connect(&proxy, authority.client(Some(&known), &["http/1.1"])).await;
    wire.embed("known").await.assert_embedding_of("known");

    let unknown = stranger.issue(&["client"]);
    let ended = authority.issue_until(&["client"], 2000);
    for identity in [None, Some(&unknown), Some(&ended)] {
        let config = authority.client(identity, &["http/1.1"]);
        // In TLS 1.3 the client is done before the server has seen its certificate.
        let Ok(stream) = secure(proxy.address(), NAME, config).await else {
            continue;
        };
        let mut wire = Wire::over_tls(stream).await;
        let request = wire.embed_request("unknown");
        assert!(wire.try_send(request).await.is_err());
    }
    assert_eq!(host.arrivals(), 1);
    eventually("the reason is in the log", async || {
        proxy.log().contains("a TLS handshake with a client failed")
    })
    .await;
}

async fn presented(proxy: &Proxy, authority: &Authority) -> Vec<u8> {
    let stream = secure(proxy.address(), NAME, authority.client(None, &[])).await;
    let stream = stream.expect("a handshake");
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    certificates[0].to_vec()
}

#[tokio::test]
async fn a_new_certificate_is_used_while_open_connections_go_on() {
    let (host, authority) = (sim_host("host").start(), Authority::new());
    let identity = authority.issue(&[NAME]);
    let proxy = Proxy::ready(&with_tls(&[&host], &identity, None), &[&host]).await;
    let before = presented(&proxy, &authority).await;
    let mut wires = Vec::new();
    for protocols in [BOTH, &["http/1.1"]] {
        wires.push(connect(&proxy, authority.client(None, protocols)).await);
    }

    authority.issue(&[NAME]).replace(&identity);

    eventually("the new certificate is presented", async || {
        presented(&proxy, &authority).await != before
    })
    .await;
    for wire in &mut wires {
        wire.embed("still open")
            .await
            .assert_embedding_of("still open");
    }
}

#[tokio::test]
async fn a_broken_certificate_is_told_and_the_old_one_stays_in_use() {
    let (host, authority) = (sim_host("host").start(), Authority::new());
    let identity = authority.issue(&[NAME]);
    let proxy = Proxy::ready(&with_tls(&[&host], &identity, None), &[&host]).await;
    let before = presented(&proxy, &authority).await;

    std::fs::write(identity.key(), "nonsense").unwrap();

    eventually("the problem is in the log", async || {
        let log = proxy.log();
        log.contains("the old one goes on") && log.contains("no private key")
    })
    .await;
    assert_eq!(presented(&proxy, &authority).await, before);
}

#[tokio::test]
async fn a_certificate_that_can_not_be_used_is_an_error_at_start() {
    let host = sim_host("host").start();
    let authority = Authority::new();
    let (identity, other) = (authority.issue(&[NAME]), authority.issue(&[NAME]));
    std::fs::copy(other.key(), identity.key()).unwrap();

    let log = Proxy::fails_to_start(&with_tls(&[&host], &identity, None)).await;

    let key = identity.key().display().to_string();
    assert!(
        log.contains("listen[0].tls.key") && log.contains(&key),
        "{log}"
    );
}

#[tokio::test]
async fn who_takes_a_port_of_tls_for_one_of_http_or_the_reverse_is_told_so() {
    let (host, authority) = (sim_host("host").start(), Authority::new());
    let identity = authority.issue(&[NAME]);
    let secured = Proxy::ready(&with_tls(&[&host], &identity, None), &[&host]).await;
    for request in [embed_request("x"), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut plain = secured.connect().await;
        plain.send(request).await;
        let detail = plain.reply().await.assert_error(400);
        assert!(detail.contains("use https://"), "{detail}");
        assert!(plain.rest().await.is_empty());
    }

    let plain = Proxy::in_front_of(&[&host]).await;
    let refused = secure(plain.address(), NAME, authority.client(None, BOTH)).await;
    assert!(refused.is_err());
    plain.logs("this address speaks plain HTTP").await;
}

#[tokio::test]
async fn a_handshake_that_does_not_get_on_is_cut() {
    let (host, authority) = (sim_host("host").start(), Authority::new());
    let identity = authority.issue(&[NAME]);
    let config = with_tls(&[&host], &identity, None).set("timeouts", "client_head", "1s");
    let proxy = Proxy::ready(&config, &[&host]).await;

    let mut silent = TcpStream::connect(proxy.address()).await.unwrap();
    let mut silent_http2 = secure(proxy.address(), NAME, authority.client(None, BOTH))
        .await
        .unwrap();
    let mut plain = proxy.connect().await;
    plain.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;

    // Each is ended by the proxy; an error is an end too.
    let _ = silent.read(&mut [0]).await;
    let _ = silent_http2.read_to_end(&mut Vec::new()).await;
    plain.rest().await;
}
