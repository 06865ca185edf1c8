//! The hosts that attempts can be made on, by id.
//!
//! The set is replaced as a whole; an attempt holds the [`Target`] that it began with, so that what
//! runs on a host that is removed or changed ends as it would have. Health checks are the other way
//! round: they end with the host, and begin anew when the way to it changes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use gpu_bridge_upkeep::Upkeep;
use parking_lot::Mutex;
use pingora::connectors::TransportConnector;

use super::attempt::Attempt;
use super::background::Background;
use super::check::Checker;
use super::kept::Kept;
use super::trouble::Trouble;
use super::{Member, Target, Terms, Upstream, Verdict};
use crate::budget::Budget;
use crate::config::Current;
use crate::message::Call;
use crate::pool::{HostId, Pool};

/// See the module.
pub struct Hosts {
    entries: ArcSwap<Entries>,
    checks: Mutex<HashMap<HostId, Background>>,
    means: Arc<Means>,
    pub(super) upkeep: Upkeep,
}

type Entries = HashMap<HostId, Entry>;

#[derive(Clone)]
struct Entry {
    member: Member,
    target: Arc<Target>,
}

/// What talking to any host takes.
pub(super) struct Means {
    pub(super) connector: TransportConnector,
    pub(super) kept: Kept,
    pub(super) config: Current,
    /// Bounds the answers that are held.
    pub(super) budget: Budget,
}

impl Hosts {
    /// No hosts yet. `budget` bounds the answers that are held, `upkeep` keeps the checks alive.
    pub fn new(config: Current, budget: Budget, upkeep: Upkeep) -> Self {
        let means = Means {
            connector: TransportConnector::new(None),
            kept: Kept::default(),
            config,
            budget,
        };
        Self {
            entries: ArcSwap::default(),
            checks: Mutex::default(),
            means: Arc::new(means),
            upkeep,
        }
    }

    /// Puts these hosts in the place of those there are, here and in `pool`. Needs a runtime.
    pub fn set(&self, pool: &Pool, members: Vec<Member>) {
        // Held to the end, so that of two changes at once the later one stays.
        let mut checks = self.checks.lock();
        let before = self.entries.load_full();
        let ids = pool.set_hosts(members.iter().map(Member::spec).collect());
        let after: Entries = ids
            .into_iter()
            .zip(members)
            .map(|(id, member)| (id, Entry::new(member, before.get(&id))))
            .collect();
        let after = Arc::new(after);
        // First this, then the checks: a host gets requests as soon as a check has found it well.
        self.entries.store(Arc::clone(&after));
        checks.retain(|id, _| match (before.get(id), after.get(id)) {
            (Some(before), Some(after)) => Arc::ptr_eq(&before.target, &after.target),
            _ => false,
        });
        for (id, entry) in &*after {
            checks
                .entry(*id)
                .or_insert_with(|| self.keep_checking(*id, &entry.target, pool));
        }
    }

    /// Takes in a look-up of `name`: the addresses that are known of it, or why there are none.
    pub(super) fn looked_up(&self, name: &str, known: &[IpAddr], trouble: Trouble) {
        for entry in self.entries.load().values() {
            entry.target.looked_up(name, known, trouble);
        }
    }

    /// Is a host with that name not to be found where it is said to be?
    pub(super) fn is_sought(&self, name: &str) -> bool {
        let entries = self.entries.load();
        entries.values().any(|entry| entry.target.is_sought(name))
    }

    /// Closes kept connections whose time is over, for ever.
    pub async fn keep_time(&self) {
        self.means.kept.keep_time().await;
    }

    fn keep_checking(&self, host: HostId, target: &Arc<Target>, pool: &Pool) -> Background {
        let checker = Arc::new(Checker {
            host,
            target: Arc::clone(target),
            told: Mutex::default(),
            means: Arc::clone(&self.means),
            pool: pool.clone(),
        });
        Background::spawn(self.upkeep.keep("check", move || {
            let checker = Arc::clone(&checker);
            async move { checker.run().await }
        }))
    }
}

impl Entry {
    /// Keeps the target of `before`, which is the same host, if the way to it is the same; else where it
    /// is.
    fn new(member: Member, before: Option<&Self>) -> Self {
        let same = before.filter(|before| before.member.is_reached_like(&member));
        if let Some(before) = same {
            let target = Arc::clone(&before.target);
            return Self { member, target };
        }
        let target = Target::new(&member);
        if let Some(before) = before {
            target.is_where(&before.target);
        }
        let target = Arc::new(target);
        Self { member, target }
    }
}

#[async_trait]
impl Upstream for Hosts {
    async fn attempt(&self, host: HostId, call: &Call, terms: Terms) -> Verdict {
        let entries = self.entries.load_full();
        let Some(entry) = entries.get(&host) else {
            return Verdict::Fault {
                sent: false,
                reason: "the host was removed just now".to_owned(),
            };
        };
        let attempt = Attempt {
            target: Arc::clone(&entry.target),
            means: &self.means,
            terms,
        };
        drop(entries);
        attempt.run(call).await
    }
}
