//! The part of one process in upgrades: it may relieve a predecessor, and be relieved later.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::Signal;

use super::{Predecessor, RestartError, Socket, Sockets, Standing, UpgradeSocket, start_successor};

/// How often is looked whether a host can serve yet.
const LOOK: Duration = Duration::from_millis(20);

/// See the module.
pub struct Upgrade {
    predecessor: Option<Predecessor>,
    /// `None`: this process can't be relieved.
    socket: Option<UpgradeSocket>,
    /// Where this program was found; another version may have taken its place when it is needed.
    program: PathBuf,
}

impl Upgrade {
    /// Looks for a predecessor behind `path`. Without a path there is none, and no successor.
    ///
    /// # Errors
    /// If there is one that can't be relieved, or `path` can't be used.
    pub async fn begin(path: Option<&Path>) -> Result<Self, RestartError> {
        let program = std::env::current_exe().map_err(RestartError::Program)?;
        let (predecessor, socket) = match path {
            Some(path) => (
                Predecessor::find(path).await?,
                Some(UpgradeSocket::prepare(path).await?),
            ),
            None => (None, None),
        };
        Ok(Self {
            predecessor,
            socket,
            program,
        })
    }

    /// The listening sockets of the predecessor; once.
    pub fn inherited(&mut self) -> Vec<Socket> {
        let predecessor = self.predecessor.as_mut();
        predecessor
            .map(Predecessor::take_sockets)
            .unwrap_or_default()
    }

    /// The hosts that an operator told the predecessor to drain.
    pub fn draining(&self) -> Vec<String> {
        let predecessor = self.predecessor.as_ref();
        predecessor.map_or(Vec::new(), |found| found.standing().draining.clone())
    }

    /// Takes the predecessor's place, if there is one, once a host can serve.
    ///
    /// # Errors
    /// If the predecessor serves on.
    pub async fn relieve_predecessor(
        &mut self,
        serving: impl Fn() -> bool,
    ) -> Result<(), RestartError> {
        let Some(predecessor) = self.predecessor.take() else {
            return self.publish();
        };
        tracing::info!("taking over from a running proxy");
        let ready = async {
            while !serving() {
                tokio::time::sleep(LOOK).await;
            }
        };
        predecessor.relieve(ready).await?;
        if let Err(error) = self.publish() {
            // It is this process or none by now.
            tracing::error!(%error, "this proxy serves, but it can't be upgraded");
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), RestartError> {
        self.socket.as_mut().map_or(Ok(()), UpgradeSocket::publish)
    }

    /// Waits until a successor has taken over, and starts one whenever `wanted`.
    pub async fn relieved(
        &mut self,
        sockets: &Sockets,
        standing: impl Fn() -> Standing,
        wanted: &mut Signal,
    ) {
        let Some(socket) = &mut self.socket else {
            return no_successors(wanted).await;
        };
        let relieved = socket.relieved(sockets, standing);
        tokio::pin!(relieved);
        let mut successor: Option<JoinHandle<()>> = None;
        loop {
            tokio::select! {
                () = &mut relieved => return,
                _ = wanted.recv() => {}
            }
            if successor
                .as_ref()
                .is_some_and(|thread| !thread.is_finished())
            {
                tracing::warn!("SIGUSR2: a successor was started already, and has not ended");
                continue;
            }
            successor = start_successor(&self.program)
                .inspect_err(|error| tracing::error!(%error, "no successor can be started"))
                .ok();
        }
    }
}

async fn no_successors(wanted: &mut Signal) {
    loop {
        wanted.recv().await;
        tracing::error!("SIGUSR2: this proxy can't be upgraded; start it with --upgrade-socket");
    }
}
