//! Reads the head of an HTTP/1 request from a connection: within a bound of time for all of it,
//! however slowly its bytes come, and only if [`gpu_bridge_framing`] lets it in.

use std::mem;
use std::time::Duration;

use bytes::Bytes;
use gpu_bridge_framing::{self as framing, BadHead, Body, Head, HeadLimits, Scanner};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use crate::config::Config;

/// What a client of HTTP/2 sends first if it knows that the server speaks it.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
/// How a request begins whose answer has no body.
const HEAD: &[u8] = b"HEAD ";
/// A client that has just connected is about to send; when the proxy stops it gets this long.
const LAST_CALL: Duration = Duration::from_millis(500);

/// Bounds on heads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) limits: HeadLimits,
    /// Time for a head, from its first byte or from the start of its connection.
    pub(super) head: Duration,
    /// Time between two requests.
    pub(super) idle: Duration,
}

impl From<&Config> for Bounds {
    fn from(config: &Config) -> Self {
        Self {
            limits: HeadLimits {
                bytes: config.limits.max_head,
                headers: config.limits.max_headers,
            },
            head: config.timeouts.client_head,
            idle: config.timeouts.client_idle,
        }
    }
}

/// A request, without its body.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) head: Parts,
    /// What follows.
    pub(super) body: Body,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub(in crate::gateway) enum NoRequest {
    /// It is one of HTTP/2, and nothing of it is used yet.
    #[error("the client speaks HTTP/2")]
    Http2,
    /// The client has nothing to ask (any more).
    #[error("the client is done")]
    Done,
    /// The connection has to make room for another one.
    #[error("the connection has to make room")]
    Displaced,
    /// It started, and did not finish in time.
    #[error(
        "the head of the request was not received within {} s (timeouts.client_head); send it at \
         once", .0.as_secs_f64()
    )]
    TooSlow(Duration),
    /// Refused.
    #[error("{bad}{setting}", bad = .0, setting = setting(*.0))]
    Bad(#[from] BadHead),
}

/// The setting that decides, for those who may change it.
fn setting(bad: BadHead) -> &'static str {
    match bad {
        BadHead::TooLarge { .. } => " (limits.max_head)",
        BadHead::TooMany { .. } => " (limits.max_headers)",
        _ => "",
    }
}

/// Reads the heads of one connection.
pub(super) struct Heads {
    bounds: Bounds,
    stopping: watch::Receiver<bool>,
    /// Nothing was read from the connection yet.
    fresh: bool,
    /// A part of a head was read.
    in_one: bool,
    /// The last request was for a head only, as far as it could be read.
    wants_no_body: bool,
}

impl Heads {
    pub(super) fn new(bounds: Bounds, stopping: watch::Receiver<bool>) -> Self {
        Self {
            bounds,
            stopping,
            fresh: true,
            in_one: false,
            wants_no_body: false,
        }
    }

    /// Must an answer to the last request go without a body, even if that request is refused?
    pub(super) fn wants_no_body(&self) -> bool {
        self.wants_no_body
    }

    /// Is a head only half there?
    pub(super) fn is_in_one(&self) -> bool {
        self.in_one
    }

    /// The next request.
    pub(super) async fn next(&mut self, connection: &mut Connection) -> Result<Request, NoRequest> {
        let started = Instant::now();
        if connection.unused().is_empty() {
            self.first_bytes(connection, started).await?;
        }
        let from = if self.fresh { started } else { Instant::now() };
        let is_first = mem::replace(&mut self.fresh, false);
        self.in_one = true;
        let whole = self.whole(connection, is_first);
        let found = timeout_at(from + self.bounds.head, whole).await;
        self.in_one = false;
        let read = connection.unused();
        self.wants_no_body = read.trim_ascii_start().starts_with(HEAD);
        match found {
            Ok(found) => found,
            // Some clients send an empty line after a body, and mean nothing by it.
            Err(_) if read.iter().all(|byte| b"\r\n".contains(byte)) => Err(NoRequest::Done),
            Err(_) => Err(NoRequest::TooSlow(self.bounds.head)),
        }
    }

    /// Waits for a request to begin.
    async fn first_bytes(
        &mut self,
        connection: &mut Connection,
        started: Instant,
    ) -> Result<(), NoRequest> {
        let patience = if self.fresh {
            self.bounds.head
        } else {
            self.bounds.idle
        };
        let fresh = self.fresh;
        let stopping = &mut self.stopping;
        let last_call = async {
            // Fails only if nobody can say stop any more.
            let _ = stopping.wait_for(|stop| *stop).await;
            if fresh {
                tokio::time::sleep(LAST_CALL).await;
            }
        };
        tokio::select! {
            biased;
            read = timeout_at(started + patience, fill(connection)) => {
                read.unwrap_or(Err(NoRequest::Done))
            }
            () = last_call => Err(NoRequest::Done),
        }
    }

    /// Reads the head to its end.
    async fn whole(
        &self,
        connection: &mut Connection,
        is_first: bool,
    ) -> Result<Request, NoRequest> {
        let mut scanner = Scanner::new(self.bounds.limits);
        loop {
            let read = connection.unused();
            if let Some(length) = scanner.scan(read)? {
                let head = read.get(..length).unwrap_or_default();
                if is_first && head == HTTP_2 {
                    return Err(NoRequest::Http2);
                }
                let request = parse(head)?;
                connection.used(length);
                return Ok(request);
            }
            fill(connection).await?;
        }
    }
}

async fn fill(connection: &mut Connection) -> Result<(), NoRequest> {
    match connection.fill().await {
        Ok(1..) => Ok(()),
        // There is nobody left to tell, whatever the reason.
        Ok(0) | Err(_) => Err(NoRequest::Done),
    }
}

/// A head that was let in, in the terms of those who use it; the values of headers share one copy of it.
fn parse(head: &[u8]) -> Result<Request, BadHead> {
    let head = Bytes::copy_from_slice(head);
    let checked = framing::check(&head)?;
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::from_bytes(checked.method).map_err(|_| BadHead::RequestLine)?;
    let target = head.slice_ref(checked.target);
    parts.uri = Uri::from_maybe_shared(target).map_err(|_| BadHead::RequestLine)?;
    parts.version = if checked.is_1_0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    parts.headers = headers(&head, &checked).ok_or(BadHead::HeaderLine)?;
    Ok(Request {
        head: parts,
        body: checked.body,
    })
}

/// `None`: `http` takes something for none that is one, as a name of more than 64 KiB.
fn headers(head: &Bytes, checked: &Head<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::try_with_capacity(checked.count).ok()?;
    for (name, value) in checked.headers() {
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::budget::Budget;

    const BOUNDS: Bounds = Bounds {
        limits: HeadLimits {
            bytes: 1000,
            headers: 10,
        },
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
    };
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    struct Client {
        sending: DuplexStream,
        connection: Connection,
        heads: Heads,
        stop: watch::Sender<bool>,
    }

    fn connection() -> Client {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (stop, stopping) = watch::channel(false);
        Client {
            sending: client,
            connection: Connection::new(Box::new(server), &Budget::new(0), 0),
            heads: Heads::new(BOUNDS, stopping),
            stop,
        }
    }

    impl Client {
        async fn send(&mut self, bytes: &[u8]) {
            self.sending.write_all(bytes).await.unwrap();
        }

        async fn next(&mut self) -> Result<Request, NoRequest> {
            self.heads.next(&mut self.connection).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_told_in_parts_and_what_was_read_after_it_is_left() {
        let mut client = connection();
        let head = "\r\nPUT http://a/b?c HTTP/1.1\r\nHost: a\r\nX-One:1\r\nx-two: 2 \r\nX-ONE: \t3\r\n\
            Transfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}0\r\n\r\n").as_bytes()).await;
        let Ok(Request { head, body }) = client.next().await else {
            panic!("no request");
        };
        assert_eq!((head.method, head.version), (Method::PUT, Version::HTTP_11));
        assert_eq!((head.uri.path(), head.uri.query()), ("/b", Some("c")));
        let ones: Vec<_> = head.headers.get_all("x-one").iter().collect();
        assert_eq!(ones, ["1", "3"]);
        assert_eq!(head.headers["x-two"], "2");
        assert_eq!(head.headers.len(), 5);
        assert_eq!(body, Body::Chunked);
        assert_eq!(client.connection.unused(), b"0\r\n\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_in_is_cut_however_often_a_byte_comes() {
        let mut connection = connection();
        let started = Instant::now();
        let mut client = connection.sending;
        tokio::spawn(async move {
            for byte in REQUEST.iter().cycle() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if client.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
        });
        let result = connection.heads.next(&mut connection.connection).await;
        assert!(matches!(result, Err(NoRequest::TooSlow(_))), "{result:?}");
        assert_eq!(started.elapsed(), BOUNDS.head);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_left_after_its_time() {
        let mut connection = connection();
        let started = Instant::now();
        assert!(matches!(connection.next().await, Err(NoRequest::Done)));
        assert_eq!(started.elapsed(), BOUNDS.head, "a new connection");

        connection = self::connection();
        connection.send(REQUEST).await;
        connection.next().await.unwrap();
        let started = Instant::now();
        assert!(matches!(connection.next().await, Err(NoRequest::Done)));
        assert_eq!(started.elapsed(), BOUNDS.idle, "between two requests");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_when_the_proxy_stops_but_not_before_what_has_arrived() {
        let mut connection = connection();
        connection.stop.send_replace(true);
        connection.send(REQUEST).await;
        assert!(connection.next().await.is_ok());
        let started = Instant::now();
        assert!(matches!(connection.next().await, Err(NoRequest::Done)));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_request_for_a_head_is_known_as_one() {
        for (bytes, expected) in [
            (&b"HEAD / HTTP/1.1\r\n\r\n"[..], true),
            (b"\r\nHEAD / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", true),
            (b"HEADER / HTTP/1.1\r\n\r\n", false),
            (b"GET / HTTP/1.1\r\n\r\n", false),
        ] {
            let mut connection = connection();
            connection.send(bytes).await;
            assert!(matches!(connection.next().await, Err(NoRequest::Bad(_))));
            assert_eq!(connection.heads.wants_no_body(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_is_recognised_at_the_start_only() {
        let mut connection = connection();
        connection.send(HTTP_2).await;
        assert!(matches!(connection.next().await, Err(NoRequest::Http2)));
        connection.send(HTTP_2).await;
        assert!(matches!(connection.next().await, Err(NoRequest::Bad(_))));
    }
}
