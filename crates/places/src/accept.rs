//! The next connection, once there is room for it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::{Places, Room};

/// The pause after `accept` has failed, which it may do again at once (too many open files, no memory).
const PAUSE: Duration = Duration::from_millis(100);

impl Places {
    /// The next connection. `free_a_file` is asked for help if the system can't open it; false: it
    /// can't help.
    pub async fn accept(
        &self,
        listener: &TcpListener,
        free_a_file: impl Fn() -> bool,
    ) -> (TcpStream, SocketAddr, Room) {
        let room = self.room().await;
        let mut told = false;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return (stream, peer, room),
                Err(error) if is_of_the_connection(&error) || free_a_file() => {}
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        let places = self.0.name;
                        tracing::warn!(places, %error, "cannot accept connections; trying on");
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// True if the connection failed before it was accepted; the next one may be fine.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionAborted | ConnectionReset
    )
}
