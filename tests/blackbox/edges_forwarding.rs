//! Hosts and the log are told where a request comes from, and nobody can make that up.

use http::{HeaderMap, HeaderName, Method};
use serde_json::json;
use tokio::net::TcpStream;

use crate::harness::{Config, Proxy, Reply, SimHost, Wire, embed_body, eventually, sim_host};

const CLAIMS: [(&str, &str); 4] = [
    ("X-Forwarded-For", "203.0.113.7, 198.51.100.2"),
    ("X-Forwarded-Proto", "https"),
    ("Forwarded", "for=203.0.113.7"),
    ("X-Real-IP", "203.0.113.7"),
];

/// What the host is told of a request that claims all that.
async fn told(host: &SimHost, proxy: &Proxy) -> HeaderMap {
    let request = proxy.client().request(Method::POST, "/embed");
    let request = request.json(&embed_body("x"));
    let request = CLAIMS.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    Reply::to(request).await.assert_embedding_of("x");
    host.record().requests.last().unwrap().headers.clone()
}

async fn logs_address(proxy: &Proxy, address: &str) {
    eventually(&format!("{address} in the log"), async || {
        proxy.log().contains(&format!("\"address\":\"{address}\""))
    })
    .await;
}

/// Hosts that hand headers on in variables (CGI, WSGI) can't tell such names from ours.
#[tokio::test]
async fn names_that_hosts_may_take_for_others_are_left_out() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let stream = async || TcpStream::connect(proxy.address()).await.unwrap();
    for mut wire in [
        Wire::http1(stream().await).await,
        Wire::http2(stream().await).await,
    ] {
        let mut request = wire.embed_request("x");
        for name in ["api-key", "forwarded-for", "content-length", "x"] {
            for odd in ["_", ".", "!", "~"] {
                let name = format!("x-{name}").replace('-', odd).try_into();
                let name: HeaderName = name.unwrap();
                request.headers_mut().insert(name, "1".parse().unwrap());
            }
        }
        let plain = HeaderName::from_static("x-plain-1");
        request.headers_mut().insert(plain, "yes".parse().unwrap());
        wire.send(request).await.assert_embedding_of("x");

        let headers = host.record().requests.last().unwrap().headers.clone();
        let is_plain = |it: u8| it.is_ascii_alphanumeric() || it == b'-';
        let odd = |name: &&HeaderName| !name.as_str().bytes().all(is_plain);
        assert_eq!(headers.keys().find(odd), None);
        assert_eq!(headers["x-plain-1"], "yes");
    }
}

#[tokio::test]
async fn what_a_stranger_claims_is_replaced() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    let headers = told(&host, &proxy).await;

    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert!(!headers.contains_key("forwarded"));
    assert!(!headers.contains_key("x-real-ip"));
    logs_address(&proxy, "127.0.0.1").await;
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_believed_and_added_to() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host])
        .set(
            "headers",
            "trusted_proxies",
            json!(["127.0.0.0/8", "198.51.100.0/24"]),
        )
        .set("headers", "forwarded", true);
    let proxy = Proxy::ready(&config, &[&host]).await;

    let headers = told(&host, &proxy).await;

    let chain = "203.0.113.7, 198.51.100.2, 127.0.0.1";
    assert_eq!(headers["x-forwarded-for"], chain);
    assert_eq!(headers["x-forwarded-proto"], "https");
    let forwarded = format!(
        "for=203.0.113.7, for=127.0.0.1;host=\"{}\";proto=http",
        proxy.address()
    );
    assert_eq!(headers["forwarded"], forwarded);
    logs_address(&proxy, "203.0.113.7").await;
}

#[tokio::test]
async fn the_host_that_answered_is_not_named_if_so_wished() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("headers", "served_by", false);
    let proxy = Proxy::ready(&config, &[&host]).await;

    let reply = proxy.client().embed("x").await;

    reply.assert_embedding_of("x");
    assert_eq!(reply.header("x-served-by"), None);
    assert!(reply.header("server-timing").is_some());
}
