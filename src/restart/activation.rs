//! Listening sockets that systemd opened for us (socket activation, see `sd_listen_fds(3)`): ports below
//! 1024 without privileges, and none that is refused while the service restarts.

use std::net::TcpListener;

use listenfd::ListenFd;

use super::RestartError;

/// Those of this process; none unless a supervisor says so in `LISTEN_FDS`.
///
/// # Errors
/// If one of them is something else than a TCP socket that listens.
pub fn activated() -> Result<Vec<TcpListener>, RestartError> {
    let mut given = ListenFd::from_env();
    let taken = (0..given.len()).filter_map(|position| {
        let listener = given.take_tcp_listener(position).transpose()?;
        Some(listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        }))
    });
    taken
        .collect::<Result<_, _>>()
        .map_err(RestartError::Activation)
}
