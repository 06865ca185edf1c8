//! `gpu-bridge-backend health`: asks the host that runs on this machine how it is, for probes of
//! containers, which have no other client.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use gpu_bridge_upkeep::printable;
use rustls::{ClientConnection, StreamOwned};

use crate::tls;

/// Both questions are answered from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of an answer; reasons why models can't be used are far below.
const MAX_ANSWER: u64 = 64 << 10;

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
    let answer =
        exchange(address, over_tls, path).with_context(|| format!("no answer from {address}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_ascii_whitespace().nth(1) {
        Some("200") => Ok(()),
        Some(status) => bail!(
            "{address} answers {}: {}",
            printable(status),
            printable(body)
        ),
        None => bail!("what answers on {address} is no GPU host"),
    }
}

fn exchange(address: SocketAddr, over_tls: bool, path: &str) -> anyhow::Result<Vec<u8>> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    if !over_tls {
        return Ok(converse(stream, &request)?);
    }
    let session = ClientConnection::new(tls::of_this_machine()?, address.ip().into())?;
    Ok(converse(StreamOwned::new(session, stream), &request)?)
}

fn converse(mut stream: impl Read + Write, request: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

/// An address to listen on, as one to connect to: "all of this machine's" is this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}
