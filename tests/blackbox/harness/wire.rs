//! One connection of a client, in the protocol of the test's choice, with or without TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Reply, embed_body};

/// A connection that is ready for requests; clones share it where the protocol allows.
pub(crate) enum Wire {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Does the TLS handshake with whoever is at `address`, as with `name`.
pub(crate) async fn secure(
    address: SocketAddr,
    name: &str,
    config: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

impl Wire {
    pub(crate) async fn http1(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    pub(crate) async fn http2(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let executor = TokioExecutor::new();
        let handshake = http2::handshake(executor, TokioIo::new(io));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    /// As the handshake has agreed.
    pub(crate) async fn over_tls(stream: TlsStream<TcpStream>) -> Self {
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Self::http2(stream).await
        } else {
            Self::http1(stream).await
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Fails if the connection breaks.
    pub(crate) async fn try_send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Reply> {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => sender.clone().send_request(request).await?,
        };
        let (head, body) = response.into_parts();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Reply {
        self.try_send(request).await.expect("an answer")
    }

    /// Has one text embedded.
    pub(crate) async fn embed(&mut self, text: &str) -> Reply {
        self.send(self.embed_request(text)).await
    }

    pub(crate) fn embed_request(&self, text: &str) -> Request<Full<Bytes>> {
        let body = embed_body(text).to_string();
        self.request(Method::POST, "/embed", body)
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path, "")).await
    }

    /// A request with the headers that its protocol needs.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Request<Full<Bytes>> {
        let request = Request::builder()
            .method(method)
            .header("content-type", "application/json");
        let request = if self.is_http2() {
            request.uri(format!("https://proxy.example{path}"))
        } else {
            request.uri(path).header("host", "proxy.example")
        };
        request.body(Full::new(body.into())).unwrap()
    }
}
