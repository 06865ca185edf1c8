//! What clients could go on sending for ever: each kind costs little, and ends with its connection.

use std::time::Duration;

use tokio::time::timeout;

use crate::harness::{Config, HTTP_2, Proxy, frame, sim_host};
use crate::hostile::Bill;

/// Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_mins(1);

/// The head of a request, as HTTP/2 writes it.
const GET: &[u8] = b"\x82\x86\x84\x41\x05proxy";

/// What is sent once, and what again and again after it.
type Flood = (&'static str, Vec<u8>, Vec<u8>);

/// So of two thousand requests.
fn heads(of_one: fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..2000_u32).flat_map(|at| of_one(2 * at + 1)).collect()
}

/// Frames that are about nothing that there is.
fn idle_frames() -> Vec<Flood> {
    vec![
        (
            "data after the end",
            frame(1, 5, 1, GET),
            frame(0, 0, 1, b"x").repeat(1000),
        ),
        (
            "windows of what has ended",
            frame(1, 5, 1, GET),
            frame(8, 0, 1, b"\0\0\0\x01").repeat(1000),
        ),
        (
            "priorities by the thousand",
            Vec::new(),
            frame(2, 0, 1, b"\0\0\0\0\x10").repeat(1000),
        ),
        (
            "a table that grows and shrinks",
            heads(|stream| {
                let sizes = b"\x20\x3f\xe1\x1f".repeat(500);
                frame(1, 5, stream, &[&sizes, GET].concat())
            }),
            Vec::new(),
        ),
        (
            "trailers without end",
            frame(1, 4, 1, b"\x83\x86\x84\x41\x05proxy"),
            frame(1, 4, 1, b"\0\x01a\x01b").repeat(1000),
        ),
        (
            "promises of a client",
            frame(1, 5, 1, GET),
            frame(5, 4, 1, &[b"\0\0\0\x02", GET].concat()).repeat(100),
        ),
        (
            "frames of no kind",
            Vec::new(),
            frame(0x2a, 0, 0, b"x").repeat(1000),
        ),
    ]
}

/// Frames that a client of HTTP/2 goes on sending, after those that it begins with.
fn frames() -> Vec<Flood> {
    let head = frame(1, 0, 1, GET);
    // A header of 4,000 bytes goes into the table, and is then named in a byte.
    let entry = [b"\x40\x01x\x7f\xa1\x1e", &[b'y'; 4000][..]].concat();
    let bomb = [GET, &entry, &[0xbe; 8000]].concat();
    vec![
        (
            "a head without end",
            head.clone(),
            frame(9, 0, 1, b"\0\x01a\x01b").repeat(1000),
        ),
        (
            "a head without end that is empty",
            head,
            frame(9, 0, 1, b"").repeat(1000),
        ),
        ("a head that grows", Vec::new(), frame(1, 5, 1, &bomb)),
        (
            "settings by the thousand",
            Vec::new(),
            frame(4, 0, 0, &b"\0\x05\0\0\x40\0".repeat(2700)),
        ),
        (
            "windows that open and close",
            Vec::new(),
            [
                frame(4, 0, 0, b"\0\x04\0\0\0\0"),
                frame(4, 0, 0, b"\0\x04\x7f\xff\xff\xff"),
            ]
            .concat()
            .repeat(500),
        ),
        (
            "windows of nothing",
            heads(|stream| [frame(1, 5, stream, GET), frame(8, 0, stream, &[0; 4])].concat()),
            Vec::new(),
        ),
        (
            "windows beyond all numbers",
            heads(|stream| {
                [
                    frame(1, 5, stream, GET),
                    frame(8, 0, stream, b"\x7f\xff\xff\xff"),
                ]
                .concat()
            }),
            Vec::new(),
        ),
        (
            "heads after the end",
            heads(|stream| [frame(1, 5, stream, GET), frame(1, 5, stream, GET)].concat()),
            Vec::new(),
        ),
        (
            "heads that are none",
            heads(|stream| frame(1, 5, stream, b"\x82\x82\x86\x84")),
            Vec::new(),
        ),
        (
            "data of nothing but padding",
            frame(1, 4, 1, b"\x83\x86\x84\x41\x05proxy"),
            frame(0, 8, 1, &[b"\xff", &[0; 255][..]].concat()).repeat(100),
        ),
        (
            "farewells",
            Vec::new(),
            frame(7, 0, 0, &[0; 8]).repeat(1000),
        ),
        (
            "a frame that is too long",
            Vec::new(),
            [b"\xff\xff\xff\0\0\0\0\0\x01", &[0; 9000][..]].concat(),
        ),
    ]
}

/// Who sends `first`, and `next` for as long as it can, is hung up on, and others are served.
async fn is_ended(proxy: &Proxy, what: &str, first: &[u8], next: &[u8]) {
    let mut connection = proxy.connect().await;
    let flood = async {
        connection.try_send(first).await?;
        while connection.try_send(next).await.is_ok() {}
        Ok::<_, std::io::Error>(())
    };
    // An error: it was hung up on before that.
    let _ = timeout(PATIENCE, flood)
        .await
        .unwrap_or_else(|_| panic!("{what} is borne"));
    proxy.client().embed("x").await.assert_embedding_of("x");
}

/// However long the client would go on, it is hung up on.
#[tokio::test]
async fn floods_in_http_2_cost_little_and_are_ended() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let bill = Bill::open(&proxy);
    for (what, first, next) in frames().into_iter().chain(idle_frames()) {
        let next = if next.is_empty() { &first } else { &next };
        is_ended(&proxy, what, &[HTTP_2, &first].concat(), next).await;
    }
    bill.is_small(8).await;
}

/// What a client of HTTP/1 goes on sending, after what it begins with.
fn words() -> Vec<(&'static str, String, String)> {
    const POST: &str = "POST /embed HTTP/1.1\r\nHost: p\r\n";
    let chunked = format!("{POST}Transfer-Encoding: chunked\r\n\r\n");
    vec![
        (
            "empty lines before a request",
            String::new(),
            "\r\n".repeat(1000),
        ),
        (
            "a chunk's extension without end",
            format!("{chunked}1;"),
            "a".repeat(4000),
        ),
        (
            "a chunk's size without end",
            chunked.clone(),
            "0".repeat(4000),
        ),
        (
            "trailers without end",
            format!("{chunked}2\r\n{{}}\r\n0\r\n"),
            "A: b\r\n".repeat(1000),
        ),
        (
            "a body that nobody asked for, before the go-ahead",
            format!("{POST}Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n"),
            "x".repeat(4000),
        ),
        (
            "requests without end, whose answers nobody reads",
            String::new(),
            "GET /nowhere HTTP/1.1\r\nHost: p\r\n\r\n".repeat(100),
        ),
        (
            "a body after a request that has none",
            "GET /health HTTP/1.1\r\nHost: p\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "x".repeat(4000),
        ),
    ]
}

#[tokio::test]
async fn what_goes_on_for_ever_in_http_1_costs_little_and_is_ended() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "client_read", "2s");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let bill = Bill::open(&proxy);
    for (what, first, next) in words() {
        is_ended(&proxy, what, first.as_bytes(), next.as_bytes()).await;
    }
    bill.is_small(8).await;
}
