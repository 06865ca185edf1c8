//! No byte of a body is ever taken for a request, however oddly the body is framed.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use crate::harness::{Backend, Proxy, RawConnection, SimHost, embed_body, embed_request, sim_host};

/// Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client's bytes in front of those that it wants to have taken for a request. Each is refused.
struct Case {
    what: &'static str,
    version: &'static str,
    target: &'static str,
    host: &'static str,
    headers: &'static str,
    body: &'static str,
}

const fn case(what: &'static str, headers: &'static str, body: &'static str) -> Case {
    Case {
        what,
        headers,
        body,
        ..PLAIN
    }
}

const fn chunks(what: &'static str, body: &'static str) -> Case {
    case(what, "Transfer-Encoding: chunked\r\n", body)
}

const PLAIN: Case = Case {
    what: "",
    version: "HTTP/1.1",
    target: "/embed",
    host: "Host: proxy\r\n",
    headers: "Content-Length: 2\r\n",
    body: "{}",
};

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
    chunks("a chunk without a size", "zz\r\n{}\r\n0\r\n\r\n"),
    chunks("a chunk without an end", "2\r\n{}XX0\r\n\r\n"),
    chunks("a negative chunk", "-2\r\n{}\r\n0\r\n\r\n"),
    chunks("a chunk with a prefix", "0x2\r\n{}\r\n0\r\n\r\n"),
    chunks("a chunk with a sign", "+2\r\n{}\r\n0\r\n\r\n"),
    chunks("an endless chunk", "FFFFFFFFFFFFFFFFF2\r\n{}\r\n0\r\n\r\n"),
    chunks("a chunk size with a bare line feed", "2\n{}\r\n0\r\n\r\n"),
    chunks(
        "a chunk with a bare line feed at its end",
        "2\r\n{}\n0\r\n\r\n",
    ),
    chunks("a chunk size with a zero byte", "2\0\r\n{}\r\n0\r\n\r\n"),
    chunks("no size", "\r\n{\"texts\":[]}\r\n\r\n"),
    chunks("an extension for a size", ";x\r\n{\"texts\":[]}\r\n\r\n"),
    chunks("blanks for a size", "  \r\n{\"texts\":[]}\r\n\r\n"),
    chunks("a blank before a size", " 2\r\n{}\r\n0\r\n\r\n"),
    chunks("a blank after a size", "2 \r\n{}\r\n0\r\n\r\n"),
    chunks("a size that is no end", "00000000000000000\r\n\r\n"),
    chunks("a line feed in an extension", "2;a\n\r\n{}\r\n0\r\n\r\n"),
    chunks("a zero byte in an extension", "2;a\0\r\n{}\r\n0\r\n\r\n"),
    chunks("an extension without a name", "2;\r\n{}\r\n0\r\n\r\n"),
    chunks("an open quote", "2;a=\"b\r\n{}\r\n0\r\n\r\n"),
    chunks("a line feed for the end", "2\r\n{}\r\n0\r\n\n"),
    chunks("no end of the data", "2\r\n{}0\r\n\r\n"),
    chunks("an object for a trailer", "0\r\n{\"texts\":[]}\r\n\r\n"),
    chunks("a request for a trailer", "0\r\nGET / HTTP/1.1\r\n\r\n"),
    chunks("a folded trailer", "0\r\nX-Odd: a\r\n b\r\n\r\n"),
    chunks("a trailer in two lines", "0\r\nX-Odd: a\nX-Even: b\r\n\r\n"),
    chunks("a length as a trailer", "0\r\nContent-Length: 9\r\n\r\n"),
    chunks(
        "a coding as a trailer",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    chunks("a host as a trailer", "0\r\nHost: other\r\n\r\n"),
    case(
        "two equal lengths",
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "{}",
    ),
    case("a list of lengths", "Content-Length: 2, 2\r\n", "{}"),
    case("a length with a blank", "Content-Length: 2 2\r\n", "{}"),
    case("an empty length", "Content-Length:\r\n", "{}"),
    case(
        "another coding before chunks",
        "Transfer-Encoding: gzip, chunked\r\n",
        "2\r\n{}\r\n0\r\n\r\n",
    ),
    case(
        "chunks twice",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "2\r\n{}\r\n0\r\n\r\n",
    ),
    case(
        "a coding with a parameter",
        "Transfer-Encoding: chunked;x=1\r\n",
        "2\r\n{}\r\n0\r\n\r\n",
    ),
    case(
        "a coding in an odd place of the line",
        "Transfer-Encoding:\x0bchunked\r\nContent-Length: 2\r\n",
        "{}",
    ),
    case(
        "a coding hidden in a folded line",
        "X-Odd: a\r\n\tTransfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        "{}",
    ),
    case(
        "a length hidden behind a bare line feed",
        "X-Odd: a\nContent-Length: 2\r\n",
        "{}",
    ),
    case(
        "a length hidden behind a bare carriage return",
        "X-Odd: a\rContent-Length: 2\r\n",
        "{}",
    ),
    case(
        "a zero byte in a value",
        "X-Odd: a\0b\r\nContent-Length: 2\r\n",
        "{}",
    ),
    case(
        "a control in a value",
        "X-Odd: a\x01b\r\nContent-Length: 2\r\n",
        "{}",
    ),
    case(
        "a line without a colon",
        "X-Odd\r\nContent-Length: 2\r\n",
        "{}",
    ),
    case(
        "a name with a blank",
        "X Odd: 1\r\nContent-Length: 2\r\n",
        "{}",
    ),
    case("two hosts", "Host: other\r\nContent-Length: 2\r\n", "{}"),
    Case {
        what: "no host",
        host: "",
        ..PLAIN
    },
    Case {
        what: "an empty host",
        host: "Host:\r\n",
        ..PLAIN
    },
    Case {
        what: "a host with a user",
        host: "Host: a@proxy\r\n",
        ..PLAIN
    },
    Case {
        what: "a host with a path",
        host: "Host: proxy/x\r\n",
        ..PLAIN
    },
    Case {
        what: "a host with a blank",
        host: "Host: a proxy\r\n",
        ..PLAIN
    },
    Case {
        what: "another host in the target",
        target: "http://other/embed",
        ..PLAIN
    },
    Case {
        what: "a user in the target",
        target: "http://a@proxy/embed",
        ..PLAIN
    },
    Case {
        what: "another scheme",
        target: "ftp://proxy/embed",
        ..PLAIN
    },
    Case {
        what: "half a scheme",
        target: "http:/proxy/embed",
        ..PLAIN
    },
    Case {
        what: "a target without a slash",
        target: "embed",
        ..PLAIN
    },
    Case {
        what: "a target with a blank",
        target: "/embed /x",
        ..PLAIN
    },
    Case {
        what: "a target with a fragment",
        target: "/embed#x",
        ..PLAIN
    },
    Case {
        what: "a target with a quote",
        target: "/embed?\"x",
        ..PLAIN
    },
    Case {
        what: "a target with an angle bracket",
        target: "/embed?<",
        ..PLAIN
    },
    Case {
        what: "a host with a port that is none",
        host: "Host: proxy:http\r\n",
        ..PLAIN
    },
    Case {
        what: "a host with brackets around a name",
        host: "Host: [proxy]\r\n",
        ..PLAIN
    },
    Case {
        what: "a target with a tab",
        target: "/embed\t",
        ..PLAIN
    },
    Case {
        what: "a target beyond ASCII",
        target: "/embed?\u{e9}",
        ..PLAIN
    },
    Case {
        what: "another version",
        version: "HTTP/1.2",
        ..PLAIN
    },
    Case {
        what: "a version in small letters",
        version: "http/1.1",
        ..PLAIN
    },
    Case {
        what: "HTTP/2 in the form of HTTP/1",
        version: "HTTP/2.0",
        ..PLAIN
    },
    Case {
        what: "chunks before HTTP/1.1",
        version: "HTTP/1.0",
        headers: "Transfer-Encoding: chunked\r\n",
        body: "2\r\n{}\r\n0\r\n\r\n",
        ..PLAIN
    },
];

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let Self {
            version,
            target,
            host,
            headers,
            body,
            ..
        } = self;
        format!("POST {target} {version}\r\n{host}{headers}\r\n{body}").into_bytes()
    }
}

fn assert_not_smuggled(host: &SimHost, what: &str) {
    let record = host.record();
    assert_eq!(record.taken_on, [""; 0], "{what}");
    assert!(record.requests.len() <= 1, "{what}");
}

/// Nothing at all has come through.
fn assert_untouched(host: &SimHost, what: &str) {
    assert_eq!(host.arrivals(), 0, "{what}");
}

#[tokio::test]
async fn what_follows_a_doubtful_body_is_not_a_request() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    for case in CASES {
        let mut connection = proxy.connect().await;

        let smuggled = embed_request("smuggled");
        connection.send([case.bytes(), smuggled].concat()).await;

        let rest = timeout(PATIENCE, connection.rest()).await;
        assert!(rest.is_ok(), "{}: the connection stays open", case.what);
        assert_untouched(&host, case.what);
    }
}

#[tokio::test]
async fn what_is_sent_after_the_answer_to_a_doubtful_body_is_not_a_request() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    for case in CASES {
        let mut connection = proxy.connect().await;

        connection.send(case.bytes()).await;
        let reply = connection.reply().await;
        assert_eq!(reply.status, 400, "{}: {reply:?}", case.what);
        reply.assert_error(400);
        // Fails if the proxy has hung up already, as it should.
        let _ = connection.try_send(embed_request("smuggled")).await;

        let rest = timeout(PATIENCE, connection.rest()).await;
        assert!(rest.is_ok(), "{}: the connection stays open", case.what);
        assert_untouched(&host, case.what);
    }
}

#[tokio::test]
async fn the_gpu_host_and_the_admin_address_refuse_the_same_in_the_same_words() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let no_models = tempfile::tempdir().unwrap();
    let backend = Backend::start_with("gpu", "", no_models.path()).await;
    let gpu: SocketAddr = backend.url()["http://".len()..].parse().unwrap();
    for case in CASES {
        let mut said = Vec::new();
        for address in [proxy.address(), gpu, proxy.admin().parse().unwrap()] {
            let mut connection = RawConnection::open(address).await;
            let next = b"GET /health HTTP/1.1\r\nHost: proxy\r\n\r\n";
            connection.send([&case.bytes()[..], next].concat()).await;
            let reply = connection.reply().await;
            said.push((reply.status.as_u16(), reply.json()["detail"].to_string()));
            let rest = timeout(PATIENCE, connection.rest()).await;
            assert_eq!(rest.as_deref(), Ok(&[][..]), "{}: {said:?}", case.what);
        }
        assert_eq!(said[0].0, 400, "{}", case.what);
        assert_eq!(said[0], said[1], "{}", case.what);
        // Bodies mean nothing to the admin address, which does not wait for them.
        if said[2].0 != 404 || !said[0].1.contains("parsing the body") {
            assert_eq!(said[0], said[2], "{}", case.what);
        }
    }
}

#[tokio::test]
async fn a_length_beyond_all_measure_is_too_large_everywhere() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let no_models = tempfile::tempdir().unwrap();
    let backend = Backend::start_with("gpu", "", no_models.path()).await;
    let admin = proxy.admin().parse().unwrap();
    for address in [proxy.address(), backend.address(), admin] {
        for length in [u64::MAX, u64::MAX - 1, u64::MAX / 2] {
            let mut connection = RawConnection::open(address).await;
            let head = "POST /embed HTTP/1.1\r\nHost: proxy\r\nContent-Length:";
            connection.send(format!("{head} {length}\r\n\r\n")).await;
            connection.reply().await.assert_error(413);
        }
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

#[tokio::test]
async fn what_means_nothing_is_not_read_for_ever() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    // Of the last one, all that it has sent is still on its way when it is refused.
    for (start, again) in [
        ("1;a", "b"),
        ("", "1;a=b\r\nx\r\n"),
        ("0\r\nX-A: b", "c"),
        ("0\r\n", "X-A: b\r\n"),
        ("\0", "0123456789abcdef"),
    ] {
        let mut connection = proxy.connect().await;
        let head = "POST /embed HTTP/1.1\r\nHost: proxy\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = again.repeat((8 << 20) / again.len());
        connection.send([head, start, &body].concat()).await;

        connection.reply().await.assert_error(400);
        let rest = timeout(PATIENCE, connection.rest()).await;
        assert_eq!(rest.as_deref(), Ok(&[][..]), "{start} {again}");
    }
    assert_untouched(&host, "endless");
}

#[tokio::test]
async fn good_chunks_and_what_follows_them_are_read_alike_wherever_they_are_cut() {
    let host = sim_host("host").slots(8).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let body = embed_body("first").to_string();
    let (start, end) = body.split_at(7);
    let first = format!(
        "POST /embed HTTP/1.1\r\nHost: proxy\r\nTransfer-Encoding: chunked\r\n\r\n\
         007\r\n{start}\r\n{:X};a;b=\"c;\\\"\"\r\n{end}\r\n0\r\nX-Sum: 1\r\n\r\n",
        end.len()
    );
    let both = [
        first.as_bytes(),
        &embed_request("second"),
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    .concat();
    for cut in 0..first.len() + 2 {
        let mut connection = proxy.connect().await;
        let (now, later) = both.split_at(cut);
        connection.send(now).await;
        connection.send(later).await;

        connection.reply().await.assert_embedding_of("first");
        connection.reply().await.assert_embedding_of("second");
        connection.reply().await.assert_error(400);
    }
}

#[tokio::test]
async fn what_is_more_than_a_length_says_is_no_part_of_the_body() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut connection = proxy.connect().await;
    connection
        .send([&embed_request("first")[..], b"}\r\n\r\n"].concat())
        .await;
    connection.reply().await.assert_embedding_of("first");
    connection.reply().await.assert_error(400);
    assert!(connection.rest().await.is_empty());
}
