//! Connections to whom is measured: of HTTP/1 or HTTP/2, plain or by TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::HOST;
use hyper::http::request;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

type Body = Full<Bytes>;

/// Which kind of connections.
#[derive(Debug, clap::Args)]
#[group(id = "link")]
pub(crate) struct Arguments {
    /// Use TLS, and trust the certificate in this PEM file.
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Use HTTP/2, one request at a time on each connection.
    #[arg(long, requires = "tls")]
    http2: bool,
    /// Use a new connection for each request, with a full handshake where there is TLS.
    #[arg(long)]
    fresh: bool,
}

/// Makes them.
pub(crate) struct Link {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    http2: bool,
    fresh: bool,
}

/// An open one.
pub(crate) enum Connection {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Link {
    pub(crate) fn new(address: SocketAddr, arguments: &Arguments) -> anyhow::Result<Self> {
        let tls = arguments.tls.as_ref();
        let tls = tls.map(|trusted| connector(trusted, arguments.http2));
        Ok(Self {
            address,
            tls: tls.transpose()?,
            http2: arguments.http2,
            fresh: arguments.fresh,
        })
    }

    /// Whether a connection may be used again.
    pub(crate) fn keeps(&self) -> bool {
        !self.fresh
    }

    pub(crate) async fn open(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::from(self.address.ip());
                self.speak(tls.connect(name, stream).await?).await
            }
            None => self.speak(stream).await,
        }
    }

    async fn speak<S>(&self, stream: S) -> anyhow::Result<Connection>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        if self.http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            return Ok(Connection::Two(sender));
        }
        let (sender, connection) = http1::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Connection::One(sender))
    }

    /// A POST, as the protocol wants it to be addressed.
    pub(crate) fn post(&self, path: &str) -> request::Builder {
        let address = self.address;
        if self.http2 {
            Request::post(format!("https://{address}{path}"))
        } else {
            Request::post(path).header(HOST, address.to_string())
        }
    }
}

impl Connection {
    /// Whether it can take another request, as soon as it can.
    pub(crate) async fn is_ready(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Two(sender) => sender.ready().await.is_ok(),
        }
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(sender) => sender.send_request(request).await,
            Self::Two(sender) => sender.send_request(request).await,
        }
    }
}

fn connector(trusted: &PathBuf, http2: bool) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(trusted)
        .with_context(|| format!("can't read {}", trusted.display()))?;
    roots.add(certificate)?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let protocol: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}
