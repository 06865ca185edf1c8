//! A task that ends when nobody holds it any more.

use tokio::task::AbortHandle;

/// Dropping it aborts the task at its next wait.
#[derive(Debug)]
pub(super) struct Background(AbortHandle);

impl Background {
    /// Runs `task` until it is done or this is dropped.
    pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}
