//! A bare connection, for what a proper HTTP client would never do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::Reply;

/// What a client of HTTP/2 begins with: the preface, and settings without any.
pub(crate) const HTTP_2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame of HTTP/2.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// Dropping it hangs up.
pub(crate) struct RawConnection {
    stream: TcpStream,
    unread: BytesMut,
}

impl RawConnection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_from(Ipv4Addr::LOCALHOST.into(), address).await
    }

    /// From one of this machine's addresses.
    pub(crate) async fn open_from(own: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((own, 0).into()).unwrap();
        let stream = socket.connect(address).await.expect("a connection");
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            unread: BytesMut::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Fails if the proxy has hung up.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Sends a whole request for the embedding of `text`.
    pub(crate) async fn send_embed(&mut self, text: &str) {
        self.send(embed_request(text)).await;
    }

    /// Hangs up with a reset, as a process does that is killed with something left to read.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn shut_down(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next answer, interim ones included. Reads bodies that announce their length only.
    pub(crate) async fn reply(&mut self) -> Reply {
        let (status, headers) = self.head().await;
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.map_or(0, |length| length.to_str().unwrap().parse().unwrap());
        let body = self.body(length).await;
        Reply {
            status,
            headers,
            body,
        }
    }

    /// The next so many bytes.
    pub(crate) async fn body(&mut self, length: usize) -> Bytes {
        while self.unread.len() < length {
            self.read_more().await;
        }
        self.unread.split_to(length).freeze()
    }

    /// Reads until the proxy hangs up.
    pub(crate) async fn rest(&mut self) -> Bytes {
        let mut rest = self.unread.split().to_vec();
        // A reset is a way to hang up too.
        let _ = self.stream.read_to_end(&mut rest).await;
        rest.into()
    }

    /// The head of the next answer, interim ones included.
    pub(crate) async fn head(&mut self) -> (StatusCode, HeaderMap) {
        loop {
            if let Some(head) = self.parsed_head() {
                return head;
            }
            self.read_more().await;
        }
    }

    fn parsed_head(&mut self) -> Option<(StatusCode, HeaderMap)> {
        let mut slots = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut slots);
        let length = match head.parse(&self.unread).expect("an HTTP answer") {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return None,
        };
        let status = StatusCode::from_u16(head.code?).unwrap();
        let header = |header: &httparse::Header<'_>| {
            let name = HeaderName::from_bytes(header.name.as_bytes()).unwrap();
            (name, HeaderValue::from_bytes(header.value).unwrap())
        };
        let headers = head.headers.iter().map(header).collect();
        let _ = self.unread.split_to(length);
        Some((status, headers))
    }

    async fn read_more(&mut self) {
        let read = self.stream.read_buf(&mut self.unread).await.unwrap();
        assert!(read > 0, "hung up in the middle of an answer");
    }
}

/// A whole request for the embedding of `text`.
pub(crate) fn embed_request(text: &str) -> Vec<u8> {
    let body = super::client::embed_body(text).to_string();
    let head = format!(
        "POST /embed HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}
