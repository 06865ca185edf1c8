//! Signals that mean the same to the proxy and to the GPU host.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that ask a program to stop in order: SIGTERM, SIGINT and SIGQUIT.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl StopSignals {
    /// Takes them, which would end the process otherwise, from now on.
    ///
    /// # Errors
    /// If the system refuses the handlers.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Ready at the next one.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

/// Takes SIGUSR1, with which many programs are asked to open their log files again, and which would end the process otherwise, from now on, and says each time that there is nothing to do:
/// log lines go to standard error.
///
/// # Errors
/// If the system refuses the handler.
pub fn no_log_files() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut asked = signal(SignalKind::user_defined1())?;
    Ok(async move {
        while asked.recv().await.is_some() {
            tracing::info!(
                "SIGUSR1 is ignored: log lines go to standard error, and there is no file to be opened again"
            );
        }
    })
}
