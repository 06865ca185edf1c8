//! Whether hosts answer right: each is asked for the vectors of a handful of fixed texts, and what they say
//! is compared. A host can be healthy and yet serve another model under the same name, another pooling, or
//! what a broken memory makes of it; nobody notices, until searches find the wrong things.
//!
//! ```text
//! pool ─ who has what in memory ─▶ ledger ─ whom to ask ─▶ a spare slot ─ /embed ─▶ host
//!   ▲                                 ▲                                              │
//!   └──── who deviates ──── judge ────┴────────────────── vectors ───────────────────┘
//! ```
//!
//! [`ledger`] and [`judge`] decide, without I/O; here, and in [`asking`], it is done. An audit uses a slot that no request
//! waits for, so that under full load it waits, too; and whatever becomes of it says nothing of a host's
//! health, which is for checks to find out.

mod asking;
mod judge;
mod ledger;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::asking::{Asking, demand};
use self::ledger::{Ledger, Question};
use crate::budget::Budget;
use crate::config::Current;
use crate::embedding::{Reference, TEXTS};
use crate::pool::{HostId, Lease, Pool};
use crate::upstream::Upstream;

/// Time between two looks at who is to be asked.
const TICK: Duration = Duration::from_secs(1);
/// Hosts that are asked at once: those of a large pool all show up together.
const MOST_AT_ONCE: usize = 16;
/// A host that takes longer for the fixed texts gives no answer: some milliseconds on a GPU, a second on
/// a slow processor.
const LIMIT: Duration = Duration::from_secs(10);
/// Intervals differ by up to this share, so that audits of several proxies don't fall together.
const JITTER: f64 = 0.1;

/// See the module.
pub struct Auditor {
    pool: Pool,
    upstream: Arc<dyn Upstream>,
    config: Current,
    budget: Budget,
    ledger: Mutex<Ledger>,
}

impl Auditor {
    /// Nobody has been asked yet. What is held counts against `budget`.
    pub fn new(pool: Pool, upstream: Arc<dyn Upstream>, config: Current, budget: Budget) -> Self {
        Self {
            pool,
            upstream,
            config,
            budget,
            ledger: Mutex::default(),
        }
    }

    /// Audits for ever.
    pub async fn run(&self) {
        let mut asked = FuturesUnordered::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Some(()) = asked.next() => {}
            }
            let begun = self.begin(MOST_AT_ONCE.saturating_sub(asked.len()));
            asked.extend(
                begun
                    .into_iter()
                    .map(|(question, lease)| self.ask(question, lease)),
            );
            self.judge();
        }
    }

    /// What hosts say that agree, or what the host of that name says.
    pub fn vectors(&self, host: Option<HostId>) -> Reference {
        Reference::new(self.ledger.lock().vectors(host))
    }

    /// Who is asked now, each with a slot.
    fn begin(&self, most: usize) -> Vec<(Question, Lease)> {
        let now = Instant::now().into_std();
        let rules = &self.config.get().audit;
        let mut ledger = self.ledger.lock();
        let hosts = if rules.enabled {
            self.pool.auditable()
        } else {
            Vec::new()
        };
        ledger.set_rules(rules, now);
        for (host, model) in ledger.follow(&hosts, now) {
            self.pool.audited(host, &model, None);
        }
        let mut begun = Vec::new();
        for question in ledger.due(now) {
            if begun.len() == most {
                break;
            }
            match self
                .pool
                .spare(question.host, &demand(&question.model, &TEXTS))
            {
                None => ledger.passes_over(&question),
                Some(lease) => {
                    ledger.asks(&question, now);
                    begun.push((question, lease));
                }
            }
        }
        begun
    }

    async fn ask(&self, question: Question, lease: Lease) {
        let asking = Asking {
            upstream: &*self.upstream,
            budget: &self.budget,
            model: &question.model,
            lease: &lease,
            until: Instant::now() + LIMIT,
        };
        let heard = asking.ask(question.most).await;
        drop(lease);
        let interval = self.config.get().audit.interval;
        let next = interval.mul_f64(1.0 + rand::random_range(-JITTER..JITTER));
        let now = Instant::now().into_std();
        self.ledger.lock().hears(&question, heard, next, now);
    }

    fn judge(&self) {
        // Held until the pool knows, so that of two judgements the later one stays.
        let mut ledger = self.ledger.lock();
        for (host, model, audited) in ledger.judge(Instant::now().into_std()) {
            self.pool.audited(host, &model, Some(audited));
        }
    }
}
