//! Reads the head of an HTTP/1 request from a connection: within a bound of time for all of it,
//! however slowly its bytes come, and only if [`gpu_bridge_framing`] lets it in.

use std::time::Duration;

use bytes::BytesMut;
use gpu_bridge_framing::{self as framing, BadHead, Body, HeadLimits, Scanner};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// What a client of HTTP/2 sends first if it knows that the server speaks it.
const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
/// How a request begins whose answer has no body.
const HEAD: &[u8] = b"HEAD ";
/// Room for one read.
const READ: usize = 4 << 10;
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

/// What came, with whatever came after it.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A request that is fit to be parsed. `chunks`: where its body begins, if it comes in chunks.
    Request {
        read: BytesMut,
        chunks: Option<usize>,
    },
    /// A client that speaks HTTP/2 from the start.
    Http2(BytesMut),
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoRequest {
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

    /// The next request. `carried`: what was read beyond the one before.
    pub(super) async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        carried: BytesMut,
    ) -> Result<Arrival, NoRequest> {
        let started = Instant::now();
        let mut buffer = carried;
        if buffer.is_empty() {
            self.first_bytes(stream, &mut buffer, started).await?;
        }
        let from = if self.fresh { started } else { Instant::now() };
        let is_first = std::mem::replace(&mut self.fresh, false);
        self.in_one = true;
        let rest = self.rest(stream, &mut buffer, is_first);
        let read = timeout_at(from + self.bounds.head, rest).await;
        self.in_one = false;
        self.wants_no_body = buffer.trim_ascii_start().starts_with(HEAD);
        let chunks = match read {
            Ok(result) => result?,
            // Some clients send an empty line after a body, and mean nothing by it.
            Err(_) if buffer.iter().all(|byte| b"\r\n".contains(byte)) => {
                return Err(NoRequest::Done);
            }
            Err(_) => return Err(NoRequest::TooSlow(self.bounds.head)),
        };
        Ok(if is_first && buffer.starts_with(HTTP_2) {
            Arrival::Http2(buffer)
        } else {
            let read = buffer;
            Arrival::Request { read, chunks }
        })
    }

    /// Waits for a request to begin.
    async fn first_bytes(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut BytesMut,
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
            read = timeout_at(started + patience, read(stream, buffer)) => {
                read.unwrap_or(Err(NoRequest::Done))
            }
            () = last_call => Err(NoRequest::Done),
        }
    }

    /// Reads the head to its end; where its body begins, if it comes in chunks.
    async fn rest(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        buffer: &mut BytesMut,
        is_first: bool,
    ) -> Result<Option<usize>, NoRequest> {
        let mut scanner = Scanner::new(self.bounds.limits);
        loop {
            if let Some(length) = scanner.scan(buffer)? {
                let head = buffer.get(..length).unwrap_or_default();
                if is_first && head == HTTP_2 {
                    return Ok(None);
                }
                let body = framing::check(head)?;
                return Ok((body == Body::Chunked).then_some(length));
            }
            read(stream, buffer).await?;
        }
    }
}

async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> Result<(), NoRequest> {
    buffer.reserve(READ);
    match stream.read_buf(buffer).await {
        Ok(bytes) if bytes > 0 => Ok(()),
        // There is nobody left to tell, whatever the reason.
        Ok(_) | Err(_) => Err(NoRequest::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::protocols::Stream;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    const BOUNDS: Bounds = Bounds {
        limits: HeadLimits {
            bytes: 1000,
            headers: 10,
        },
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
    };
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    struct Connection {
        client: DuplexStream,
        stream: Stream,
        heads: Heads,
        stop: watch::Sender<bool>,
    }

    fn connection() -> Connection {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (stop, stopping) = watch::channel(false);
        Connection {
            client,
            stream: Box::new(server),
            heads: Heads::new(BOUNDS, stopping),
            stop,
        }
    }

    impl Connection {
        async fn send(&mut self, bytes: &[u8]) {
            self.client.write_all(bytes).await.unwrap();
        }

        async fn next(&mut self) -> Result<Arrival, NoRequest> {
            self.heads.next(&mut self.stream, BytesMut::new()).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_comes_with_what_was_read_after_it() {
        let mut connection = connection();
        let bytes = [b"\r\n", REQUEST, b"body"].concat();
        connection.send(&bytes).await;
        let Ok(Arrival::Request { read, chunks: None }) = connection.next().await else {
            panic!("no request");
        };
        assert_eq!(read, bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn where_chunks_begin_is_told() {
        let mut connection = connection();
        let head = b"\r\nPUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.send(&[&head[..], b"0\r\n\r\n"].concat()).await;
        let Ok(Arrival::Request { chunks, .. }) = connection.next().await else {
            panic!("no request");
        };
        assert_eq!(chunks, Some(head.len()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_in_is_cut_however_often_a_byte_comes() {
        let mut connection = connection();
        let started = Instant::now();
        let mut client = connection.client;
        tokio::spawn(async move {
            for byte in REQUEST.iter().cycle() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if client.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
        });
        let result = connection
            .heads
            .next(&mut connection.stream, BytesMut::new())
            .await;
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
        assert!(matches!(connection.next().await, Ok(Arrival::Http2(_))));
        connection.send(HTTP_2).await;
        assert!(matches!(connection.next().await, Err(NoRequest::Bad(_))));
    }
}
