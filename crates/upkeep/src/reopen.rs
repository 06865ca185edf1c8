//! SIGUSR1, with which many programs are asked to open their log files again after these were rotated.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Takes SIGUSR1, which would end the process otherwise, from now on, and says each time that there is nothing to do:
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
