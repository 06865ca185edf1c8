//! How long a client may take to take its answer: so long for each piece of it and, once others are refused because
//! of the bytes that are held, a moment.

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::budget::Budget;

/// Bytes of an answer that may take as long as a write may.
pub(super) const PIECE: usize = 64 << 10;
/// Who takes none for so long makes room once there is none.
const STALLED: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Clone)]
pub(super) struct Pace {
    pub(super) budget: Budget,
    /// For each piece.
    pub(super) patience: Duration,
}

impl Pace {
    /// Does `work`: the writing of one piece.
    ///
    /// # Errors
    /// Its client has had its time.
    pub(super) async fn bound<T>(&self, work: impl Future<Output = T>) -> io::Result<T> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.over(Instant::now()) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Returns once a client that has taken nothing `since` then has had its time.
    async fn over(&self, since: Instant) {
        let needed = async {
            sleep_until(since + STALLED).await;
            self.budget.refuses().await;
        };
        // Either way.
        let _ = timeout_at(since + self.patience, needed).await;
    }

    /// Returns once the client of a connection has: see [`Stall`].
    pub(super) async fn stalled(&self, mut stalled: watch::Receiver<Option<Instant>>) {
        loop {
            let since = *stalled.borrow_and_update();
            let over = async {
                match since {
                    Some(since) => self.over(since).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = stalled.changed() => match changed {
                    Ok(()) => {}
                    // The connection has ended.
                    Err(_) => std::future::pending().await,
                },
                () = over => return,
            }
        }
    }
}

/// Since when what is to be sent on a connection waits for its client to take a piece of it.
#[derive(Debug, Default)]
pub(super) struct Stall {
    since: watch::Sender<Option<Instant>>,
    /// Bytes that it has taken since.
    taken: usize,
}

impl Stall {
    pub(super) fn watch(&self) -> watch::Receiver<Option<Instant>> {
        self.since.subscribe()
    }

    /// No more can be sent now.
    pub(super) fn waits(&mut self, now: Instant) {
        if self.since.borrow().is_none() {
            self.begin(Some(now));
        }
    }

    /// So many bytes were.
    pub(super) fn takes(&mut self, bytes: usize, now: Instant) {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken >= PIECE && self.since.borrow().is_some() {
            self.begin(Some(now));
        }
    }

    /// All is sent.
    pub(super) fn is_empty(&mut self) {
        if self.since.borrow().is_some() {
            self.begin(None);
        }
    }

    fn begin(&mut self, since: Option<Instant>) {
        self.taken = 0;
        self.since.send_replace(since);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn pace() -> Pace {
        Pace {
            budget: Budget::new(10),
            patience: PATIENCE,
        }
    }

    /// How long a client is waited for that takes nothing, if others are refused bytes once so long after that.
    async fn waited(refused: Duration) -> Duration {
        let (pace, begin) = (pace(), Instant::now());
        let mut other = pace.budget.open();
        tokio::spawn(async move {
            tokio::time::sleep(refused).await;
            assert!(other.grow(11).is_err());
        });
        assert!(pace.bound(pending::<()>()).await.is_err());
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_makes_room_once_others_need_it() {
        assert_eq!(waited(2 * PATIENCE).await, PATIENCE);
        assert_eq!(waited(STALLED / 2).await, PATIENCE, "too early to tell");
        assert_eq!(waited(STALLED * 2).await, STALLED * 2);
        assert_eq!(pace().bound(async { 7 }).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_stalls_until_a_piece_is_taken_or_all() {
        let mut stall = Stall::default();
        let stalled = |stall: &Stall| {
            let watch = stall.watch();
            async move {
                let pace = pace();
                let stalled = tokio::time::timeout(2 * PATIENCE, pace.stalled(watch));
                stalled.await.is_ok()
            }
        };
        assert!(!stalled(&stall).await, "nothing is to be sent");
        stall.waits(Instant::now());
        let begin = Instant::now();
        assert!(stalled(&stall).await);
        assert_eq!(begin.elapsed(), PATIENCE);

        stall.takes(PIECE - 1, Instant::now());
        stall.waits(Instant::now());
        let begin = Instant::now();
        assert!(stalled(&stall).await, "a byte now and then is not enough");
        assert_eq!(begin.elapsed(), Duration::ZERO);

        stall.takes(1, Instant::now());
        assert!(stalled(&stall).await);
        assert_eq!(begin.elapsed(), PATIENCE);
        stall.is_empty();
        assert!(!stalled(&stall).await);
    }
}
