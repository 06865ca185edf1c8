//! How a request comes to a lease: in its turn, and as often as it needs one.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use super::history::History;
use super::itinerary::{Itinerary, Mode};
use super::{Dispatcher, Refusal, shortage};
use crate::pool::{Lease, Model};
use crate::telemetry::NotedWait;

/// Only who waits for longer finds out what for: it costs a look at the pool.
const WORTH_ASKING: Duration = Duration::from_millis(100);

impl Dispatcher {
    /// Waits for a lease.
    pub(super) async fn set_off(&self, way: &mut Itinerary<'_>) -> Result<Lease, Refusal> {
        let joined = Instant::now();
        let lease = self.acquire(way).await?;
        way.sets_off(joined);
        Ok(lease)
    }

    /// A lease, in the request's turn.
    async fn acquire(&self, way: &mut Itinerary<'_>) -> Result<Lease, Refusal> {
        let left = way.left();
        let note = way.journal.wait();
        let demand = &way.call.demand;
        let mut waiting = if way.returning {
            let owed = way.takes_what_it_owes();
            if owed > 0.0 {
                // It slows retries down; it fails none.
                let _ = tokio::time::timeout(left / 2, self.budgeted(owed, &note)).await;
            }
            if let Some(lease) = self.elsewhere(way, left, &note).await {
                return lease;
            }
            self.pool.rejoin(way.ticket, demand, way.history.avoid())
        } else {
            self.pool.join(way.ticket, demand, left)?
        };
        if let Some(lease) = waiting.try_lease() {
            return Ok(lease?);
        }
        self.offer(way, &waiting);
        let leased = async {
            let mut leased = pin!(waiting.lease());
            if let Ok(lease) = tokio::time::timeout(WORTH_ASKING, leased.as_mut()).await {
                return lease;
            }
            let client = demand.client.as_ref();
            note.because(match self.pool.limit_reached(client, way.returning) {
                Some(limit) => limit.to_string(),
                None => shortage(&self.pool),
            });
            leased.await
        };
        tokio::select! {
            lease = tokio::time::timeout_at(note.started() + left, leased) => {
                Ok(lease.map_err(|_| Refusal::Deadline)??)
            }
            () = self.last_word(way.model(), &way.history) => Err(Refusal::HostsFailed),
            () = self.stranded(way) => Err(Refusal::HostsFailed),
        }
    }

    /// Ends when the request is a part of a batch that no host takes which serves.
    async fn stranded(&self, way: &Itinerary<'_>) {
        if way.mode != Mode::Part {
            std::future::pending::<()>().await;
        }
        while self.pool.takes_part(&way.call.demand) {
            tokio::time::sleep(WORTH_ASKING).await;
        }
    }

    /// Ends when no host is left that might know better than the answer in hand, if there is one.
    async fn last_word(&self, model: Option<&Model>, history: &History) {
        if !history.has_answer() {
            std::future::pending::<()>().await;
        }
        while !self.is_over(model, history) {
            tokio::time::sleep(WORTH_ASKING).await;
        }
    }

    /// After a failure of this machine: a lease on a host that did not meet it, or `None` when it is
    /// time to try all of them again.
    async fn elsewhere(
        &self,
        way: &mut Itinerary<'_>,
        left: Duration,
        note: &NotedWait,
    ) -> Option<Result<Lease, Refusal>> {
        let (avoid, pause) = way.history.pause()?;
        note.because("the proxy's machine is short of descriptors, ports or memory".to_owned());
        let mut waiting = self.pool.rejoin(way.ticket, &way.call.demand, avoid);
        // Those that wait together should not come together.
        let pause = pause.mul_f64(rand::random_range(1.0..1.5)).min(left);
        if let Ok(lease) = tokio::time::timeout(pause, waiting.lease()).await {
            return Some(lease.map_err(Refusal::from));
        }
        way.history.end_pause();
        (pause == left).then_some(Err(Refusal::Deadline))
    }

    /// Waits until the budget covers such a share of a retry.
    async fn budgeted(&self, share: f64, note: &NotedWait) {
        loop {
            let withdrawn = self.budget().withdraw(share, Instant::now().into_std());
            let Err(wait) = withdrawn else {
                return;
            };
            note.because("retries are held back, since many attempts fail".to_owned());
            // Those that wait together should not come together.
            tokio::time::sleep(wait.mul_f64(rand::random_range(1.0..2.0))).await;
        }
    }
}
