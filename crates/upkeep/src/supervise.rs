//! Tasks that must live as long as the program.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::Upkeep;

/// Between the death of a task and its next life, so that one that dies at once does not spin.
const PAUSE: Duration = Duration::from_secs(1);

impl Upkeep {
    /// Runs the task that `start` makes until it is done; after a panic, another one.
    pub fn keep<F>(
        &self,
        task: &'static str,
        mut start: impl FnMut() -> F + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        F: Future<Output = ()> + Send,
    {
        let upkeep = self.clone();
        upkeep.knows(task);
        async move {
            loop {
                // What the task shares with others is locked, counted or replaced as a whole.
                let life = AssertUnwindSafe(async { start().await });
                if life.catch_unwind().await.is_ok() {
                    return;
                }
                upkeep.died(task);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// So that its restarts are shown from the start, as none.
    fn knows(&self, task: &str) {
        self.restarts.with_label_values(&[task]);
    }

    fn died(&self, task: &str) {
        self.restarts.with_label_values(&[task]).inc();
        tracing::error!(task, "a background task died of a bug; it is started again");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use gpu_bridge_metrics::Maker;
    use prometheus::Registry;
    use tokio::time::Instant;

    use super::*;

    fn upkeep() -> Upkeep {
        Upkeep::new(&Maker::new(&Registry::new(), "test")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_dies_is_started_again_after_a_pause_and_counted() {
        let upkeep = upkeep();
        let lives = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&lives);
        let begin = Instant::now();

        let task = upkeep.keep("task", move || {
            let life = counted.fetch_add(1, Ordering::Relaxed);
            assert!(life != 0, "in its making");
            async move {
                tokio::task::yield_now().await;
                assert!(life != 1, "in its life");
            }
        });
        let restarts = upkeep.restarts.with_label_values(&["task"]);
        assert_eq!(restarts.get(), 0, "shown before it has run");
        tokio::spawn(task).await.unwrap();

        assert_eq!(lives.load(Ordering::Relaxed), 3);
        assert_eq!(restarts.get(), 2);
        assert_eq!(begin.elapsed(), 2 * PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_done_or_given_up_is_not_started_again() {
        let upkeep = upkeep();
        upkeep.keep("done", || async {}).await;
        let endless = tokio::spawn(upkeep.keep("endless", std::future::pending));
        tokio::task::yield_now().await;
        endless.abort();
        assert!(endless.await.unwrap_err().is_cancelled());
        for task in ["done", "endless"] {
            assert_eq!(upkeep.restarts.with_label_values(&[task]).get(), 0);
        }
    }
}
