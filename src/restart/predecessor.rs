//! The process that serves until now, as its successor sees it.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::sockets::Socket;
use super::{READY, RestartError, Standing, YOURS, is_trusted, transfer};

/// A running process answers at once, unless another upgrade is under way.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the hosts get to show that they can serve.
const HOSTS: Duration = Duration::from_secs(10);

/// See the module. Dropping it leaves the running process as it is.
pub(super) struct Predecessor {
    stream: UnixStream,
    standing: Standing,
    sockets: Vec<Socket>,
}

impl Predecessor {
    /// Asks the process behind `path` for its sockets. `None`: there is none.
    ///
    /// # Errors
    /// If there is one that can't be relieved.
    pub(super) async fn find(path: &Path) -> Result<Option<Self>, RestartError> {
        let at_path = |error| RestartError::Path {
            path: path.to_owned(),
            error,
        };
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) if is_nobody(&error) => return Ok(None),
            Err(error) => return Err(at_path(error)),
        };
        if !is_trusted(&stream).map_err(at_path)? {
            return Err(RestartError::Stranger {
                path: path.to_owned(),
            });
        }
        let (offer, sockets) = within(ANSWER, transfer::receive(&stream)).await?;
        if offer.sockets.len() != sockets.len() {
            return Err(RestartError::Foreign);
        }
        let sockets = offer.sockets.into_iter().zip(sockets);
        let sockets = sockets.map(|(name, socket)| Socket {
            name,
            listener: TcpListener::from(socket),
        });
        Ok(Some(Self {
            stream,
            standing: offer.standing,
            sockets: sockets.collect(),
        }))
    }

    /// Its listening sockets; once.
    pub(super) fn take_sockets(&mut self) -> Vec<Socket> {
        std::mem::take(&mut self.sockets)
    }

    /// How it stands.
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Takes its place as soon as `ready`, which ends once a host can serve. If none can, neither
    /// here nor there, that is no reason to wait for ever.
    ///
    /// # Errors
    /// If the running process serves on.
    pub(super) async fn relieve(
        mut self,
        ready: impl Future<Output = ()>,
    ) -> Result<(), RestartError> {
        if timeout(HOSTS, ready).await.is_err() && self.standing.serving {
            return Err(RestartError::NoHost);
        }
        within(ANSWER, async {
            self.stream.write_all(READY).await?;
            let mut answer = [0; YOURS.len()];
            self.stream.read_exact(&mut answer).await?;
            if answer == YOURS {
                Ok(())
            } else {
                Err(io::ErrorKind::InvalidData.into())
            }
        })
        .await
    }
}

async fn within<T>(
    time: Duration,
    exchange: impl Future<Output = io::Result<T>>,
) -> Result<T, RestartError> {
    let result = timeout(time, exchange).await;
    result
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => RestartError::Foreign,
            _ => RestartError::Broken(error),
        })
}

/// No such file, or one that a process left behind when it was killed.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}
