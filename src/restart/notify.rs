//! Tells systemd where a start, or a stop, is at (`Type=notify`; see `sd_notify(3)`): one datagram to
//! the socket that `NOTIFY_SOCKET` names. Does nothing where there is none.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What a supervisor is to know of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It serves; after an upgrade it is the service's main process from now on.
    Serving,
    /// It was told to stop.
    Stopping,
}

/// Tells it.
pub fn notify(notice: Notice) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, &message(notice, std::process::id())) {
        tracing::warn!(%error, "systemd can't be told of the service's state (NOTIFY_SOCKET)");
    }
}

fn message(notice: Notice, pid: u32) -> String {
    match notice {
        Notice::Serving => format!("READY=1\nMAINPID={pid}"),
        Notice::Stopping => "STOPPING=1".to_owned(),
    }
}

fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let ours = UnixDatagram::unbound()?;
    // A supervisor that does not read is not waited for.
    ours.set_nonblocking(true)?;
    ours.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_that_does_not_read_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let refused = (0..100_000).find_map(|_| send(path.as_os_str(), "x").err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_message_arrives_in_one_piece() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();

        send(path.as_os_str(), &message(Notice::Serving, 7)).unwrap();

        let mut received = [0; 64];
        let length = systemd.recv(&mut received).unwrap();
        assert_eq!(&received[..length], b"READY=1\nMAINPID=7");
    }
}
