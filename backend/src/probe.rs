//! `gpu-bridge-backend health`: asks the host that runs on this machine how it is, for probes of
//! containers, which have no other client.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use gpu_bridge_places::reachable;
use gpu_bridge_upkeep::printable;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls;

/// Both questions are answered from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of an answer; reasons why models can't be used are far below.
const MAX_ANSWER: usize = 64 << 10;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Does it live?
    Health,
    /// Can one of its models be used?
    Ready,
}

/// Good if the host that listens on `listen` says yes.
pub(crate) fn ask(listen: SocketAddr, over_tls: bool, question: Question) -> anyhow::Result<()> {
    let path = match question {
        Question::Health => "/health",
        Question::Ready => "/ready",
    };
    let address = reachable(listen);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(async {
        let answer = tokio::time::timeout(PATIENCE, exchange(address, over_tls, path));
        answer.await.unwrap_or_else(|late| Err(late.into()))
    });
    let answer = answer.with_context(|| format!("no answer from {address}"))?;
    if answer.status() == http::StatusCode::OK {
        return Ok(());
    }
    let said = String::from_utf8_lossy(answer.body());
    bail!(
        "{address} answers {}: {}",
        answer.status().as_u16(),
        printable(&said)
    )
}

async fn exchange(
    address: SocketAddr,
    over_tls: bool,
    path: &str,
) -> anyhow::Result<Response<Bytes>> {
    let stream = TcpStream::connect(address).await?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::new())?;
    if !over_tls {
        return converse(stream, request).await;
    }
    let tls = TlsConnector::from(tls::of_this_machine()?);
    converse(tls.connect(address.ip().into(), stream).await?, request).await
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
) -> anyhow::Result<Response<Bytes>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // What goes wrong there, the request is told.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!(error))?;
    Ok(Response::from_parts(head, body.to_bytes()))
}
