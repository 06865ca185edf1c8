//! No byte of a body is ever taken for a request, however oddly the body is framed.

use std::time::Duration;

use tokio::time::timeout;

use crate::harness::{Proxy, SimHost, embed_request, sim_host};

/// Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client's bytes in front of those that it wants to have taken for a request.
struct Case {
    what: &'static str,
    version: &'static str,
    headers: &'static str,
    body: &'static str,
}

const fn case(what: &'static str, headers: &'static str, body: &'static str) -> Case {
    Case {
        what,
        version: "HTTP/1.1",
        headers,
        body,
    }
}

const CASES: &[Case] = &[
    case(
        "a length and chunks",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
    ),
    case(
        "chunks and a length",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        "0\r\n\r\n",
    ),
    case(
        "two lengths",
        "Content-Length: 4\r\nContent-Length: 2\r\n",
        "{}xx",
    ),
    case("a length with a sign", "Content-Length: +2\r\n", "{}"),
    case("a negative length", "Content-Length: -2\r\n", "{}"),
    case("a hexadecimal length", "Content-Length: 0x2\r\n", "{}"),
    case(
        "an endless length",
        "Content-Length: 99999999999999999999999\r\n",
        "{}",
    ),
    case(
        "an unknown coding",
        "Transfer-Encoding: xchunked\r\n",
        "2\r\n{}\r\n0\r\n\r\n",
    ),
    case(
        "chunks that are not the last coding",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "2\r\n{}\r\n0\r\n\r\n",
    ),
    case(
        "a blank before the colon",
        "Transfer-Encoding : chunked\r\nContent-Length: 2\r\n",
        "{}",
    ),
    case(
        "a folded header",
        "X-Odd: a\r\n b\r\nContent-Length: 2\r\n",
        "{}",
    ),
    case(
        "a chunk without a size",
        "Transfer-Encoding: chunked\r\n",
        "zz\r\n{}\r\n0\r\n\r\n",
    ),
    case(
        "a chunk without an end",
        "Transfer-Encoding: chunked\r\n",
        "2\r\n{}XX0\r\n\r\n",
    ),
    Case {
        what: "chunks before HTTP/1.1",
        version: "HTTP/1.0",
        headers: "Transfer-Encoding: chunked\r\n",
        body: "2\r\n{}\r\n0\r\n\r\n",
    },
];

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let Self {
            version,
            headers,
            body,
            ..
        } = self;
        format!("POST /embed {version}\r\nHost: proxy\r\n{headers}\r\n{body}").into_bytes()
    }
}

fn assert_not_smuggled(host: &SimHost, what: &str) {
    let record = host.record();
    assert_eq!(record.taken_on, [""; 0], "{what}");
    assert!(record.requests.len() <= 1, "{what}");
}

#[tokio::test]
async fn what_follows_a_doubtful_body_is_not_a_request() {
    for case in CASES {
        let host = sim_host("host").start();
        let proxy = Proxy::in_front_of(&[&host]).await;
        let mut connection = proxy.connect().await;

        let smuggled = embed_request("smuggled");
        connection.send([case.bytes(), smuggled].concat()).await;

        let rest = timeout(PATIENCE, connection.rest()).await;
        assert!(rest.is_ok(), "{}: the connection stays open", case.what);
        assert_not_smuggled(&host, case.what);
    }
}

#[tokio::test]
async fn what_is_sent_after_the_answer_to_a_doubtful_body_is_not_a_request() {
    for case in CASES {
        let host = sim_host("host").start();
        let proxy = Proxy::in_front_of(&[&host]).await;
        let mut connection = proxy.connect().await;

        connection.send(case.bytes()).await;
        connection.head().await;
        // Fails if the proxy has hung up already, as it should.
        let _ = connection.try_send(embed_request("smuggled")).await;

        let rest = timeout(PATIENCE, connection.rest()).await;
        assert!(rest.is_ok(), "{}: the connection stays open", case.what);
        assert_not_smuggled(&host, case.what);
    }
}

#[tokio::test]
async fn what_follows_a_refused_body_is_not_a_request() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let smuggled = embed_request("smuggled");
    let length = smuggled.len();

    for request in ["POST /nowhere", "PUT /embed", "GET /health"] {
        let mut connection = proxy.connect().await;
        let head = format!("{request} HTTP/1.1\r\nHost: proxy\r\nContent-Length: {length}\r\n\r\n");
        connection
            .send([head.into_bytes(), smuggled.clone()].concat())
            .await;
        connection.reply().await;
        drop(connection);
        assert_not_smuggled(&host, request);
    }
}
