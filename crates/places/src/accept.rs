//! The next connection, once there is room for it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::{Places, Room};

/// The pause after `accept` has failed, which it may do again at once (too many open files, no memory).
const PAUSE: Duration = Duration::from_millis(100);

/// An address to listen on, as one to connect to: "all of this machine's" is this machine.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_everywhere_is_reached_on_this_machine() {
        let reachable = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(reachable("0.0.0.0:9765"), "127.0.0.1:9765");
        assert_eq!(reachable("[::]:9765"), "[::1]:9765");
        assert_eq!(reachable("10.1.2.3:1"), "10.1.2.3:1");
    }
}
