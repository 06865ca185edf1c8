//! Sockets on their way through a unix socket, as `SCM_RIGHTS` (see unix(7)): one line of JSON says
//! what they are, and they travel with its first byte.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

use super::Standing;
use super::sockets::SocketName;

/// More sockets than anybody listens on, and fewer than the kernel passes at once (253).
const MAX_SOCKETS: usize = 128;
/// Longer offers are nonsense.
const MAX_OFFER: usize = 64 << 10;

/// What the running process tells of itself.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Offer {
    /// How it stands.
    #[serde(flatten)]
    pub(super) standing: Standing,
    /// What the sockets are, in their order.
    pub(super) sockets: Vec<SocketName>,
}

/// Sends `offer` with its sockets.
pub(super) async fn send(
    stream: &mut UnixStream,
    offer: &Offer,
    sockets: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(offer)?;
    line.push(b'\n');
    let write = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::Error::other("too many sockets to hand over"));
        }
        let line = [IoSlice::new(&line)];
        Ok(sendmsg(&*stream, &line, &mut control, SendFlags::NOSIGNAL)?)
    };
    let sent = stream.async_io(Interest::WRITABLE, write).await?;
    stream.write_all(line.get(sent..).unwrap_or_default()).await
}

/// Receives an offer and its sockets.
pub(super) async fn receive(stream: &UnixStream) -> io::Result<(Offer, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut sockets = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut chunk = [0; 4096];
        let read = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut chunk = [IoSliceMut::new(&mut chunk)];
            let received = recvmsg(stream, &mut chunk, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    sockets.extend(rights);
                }
            }
            Ok(received.bytes)
        };
        let length = stream.async_io(Interest::READABLE, read).await?;
        if length == 0 || line.len() > MAX_OFFER {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&chunk[..length]);
    }
    Ok((serde_json::from_slice(&line)?, sockets))
}
