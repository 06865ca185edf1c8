//! Upgrades without a break: a new process takes the listening sockets over from the running one.
//!
//! ```text
//!  running process                              new process (same --upgrade-socket)
//!      │ ◀─────────────── connects ────────────────── │
//!      │ ── offer, listening sockets (SCM_RIGHTS) ──▶ │ binds what is new in its configuration,
//!      │                                              │ checks the hosts
//!      │ ◀───────────────── ready ─────────────────── │
//!      │ ───────────────── yours ───────────────────▶ │ accepts; offers its own upgrade socket
//!  finishes what runs and waits, ends                 ▼
//! ```
//!
//! Both hold the same sockets, so that the kernel's queue of new connections is never lost and no
//! connection is refused. Until `ready` has arrived the running process changes nothing: a successor
//! that refuses its configuration, finds no host, hangs or is killed leaves it as it was.
//!
//! pingora can hand sockets over as well, but its receiver waits in blocking sleeps, panics where its
//! path can't be bound, opens it to every user, and never says whether it came to serve.

mod activation;
mod leftovers;
mod notify;
mod predecessor;
mod sockets;
mod successor;
mod transfer;
mod upgrade;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

pub use activation::activated;
pub use notify::{Notice, notify};
pub use sockets::{Role, Socket, SocketName, Sockets};
pub use upgrade::Upgrade;

use predecessor::Predecessor;
use successor::{UpgradeSocket, start_successor};

/// What a successor must know of its predecessor beside its sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Standing {
    /// It has a host that can serve.
    pub serving: bool,
    /// The hosts that an operator drains.
    pub draining: Vec<String>,
}

/// The new process is ready to serve.
const READY: &[u8] = b"ready\n";
/// The running process stops accepting.
const YOURS: &[u8] = b"yours\n";

/// Why an upgrade, or the start as such, failed.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The path of the upgrade socket can't be used.
    #[error("upgrade socket {path}: {error}")]
    Path {
        /// As given.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The other end belongs to somebody else.
    #[error(
        "upgrade socket {path}: the process there runs as another user; nothing was taken from it"
    )]
    Stranger {
        /// As given.
        path: PathBuf,
    },
    /// The two processes did not come to an end with each other.
    #[error("the other process ended the upgrade before its end ({0}); try again")]
    Broken(io::Error),
    /// The two processes do not understand each other.
    #[error("the other process speaks another language; stop it, then start this one")]
    Foreign,
    /// Taking over would make things worse.
    #[error(
        "none of the hosts of this configuration can serve, though the running proxy has some; it \
         serves on"
    )]
    NoHost,
    /// Then no successor could be started.
    #[error("the program can't be found again: {0}")]
    Program(io::Error),
    /// What systemd opened for us is not what we can use.
    #[error("LISTEN_FDS: a socket that was opened for this process can't be used: {0}")]
    Activation(io::Error),
    /// A socket can't be opened.
    #[error("{key}: can't listen on {address}: {error}{}", hint(.error, .address))]
    Listen {
        /// Where in the configuration.
        key: String,
        /// Which address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

/// What may be behind it.
fn hint(error: &io::Error, address: &SocketAddr) -> &'static str {
    match (error.kind(), address.port()) {
        (io::ErrorKind::AddrInUse, gpu_bridge_wire::DEFAULT_PORT) => {
            "; perhaps a GPU host runs on this machine, whose port is 8765 as well unless told otherwise: \
             give one of them another"
        }
        (io::ErrorKind::AddrInUse, _) => {
            "; another process listens there: give one of them another port"
        }
        _ => "",
    }
}

/// Is the other end a process of our own user, or of root? Anybody else could pass us sockets of its
/// choice, or get hold of ours.
fn is_trusted(stream: &UnixStream) -> io::Result<bool> {
    let other = stream.peer_cred()?.uid();
    Ok(other == 0 || other == rustix::process::geteuid().as_raw())
}
