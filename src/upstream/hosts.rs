//! The hosts that attempts can be made on, by id.
//!
//! The set is replaced as a whole; an attempt holds the [`Target`] that it began with, so that what
//! runs on a host that is removed or changed ends as it would have. Health checks are the other way
//! round: they end with the host, and begin anew when the way to it changes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use foldhash::HashMap;
use gpu_bridge_upkeep::Upkeep;
use parking_lot::Mutex;
use pingora::connectors::TransportConnector;

use super::attempt::Attempt;
use super::background::Background;
use super::check::Checker;
use super::kept::Kept;
use super::trouble::Trouble;
use super::{Member, Target, Terms, Upstream, Verdict};
use crate::authorities;
use crate::budget::Budget;
use crate::config::Current;
use crate::message::Call;
use crate::pool::{HostId, Pool};

/// See the module.
pub struct Hosts {
    targets: ArcSwap<Targets>,
    checks: Mutex<HashMap<HostId, Background>>,
    means: Arc<Means>,
    pub(super) upkeep: Upkeep,
}

type Targets = HashMap<HostId, Arc<Target>>;

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
            connector: authorities::connector(),
            kept: Kept::default(),
            config,
            budget,
        };
        Self {
            targets: ArcSwap::default(),
            checks: Mutex::default(),
            means: Arc::new(means),
            upkeep,
        }
    }

    /// Puts these hosts in the place of those there are, here and in `pool`. Needs a runtime.
    pub fn set(&self, pool: &Pool, members: Vec<Member>) {
        // Held to the end, so that of two changes at once the later one stays.
        let mut checks = self.checks.lock();
        let before = self.targets.load_full();
        let ids = pool.set_hosts(members.iter().map(Member::spec).collect());
        let after: Targets = ids
            .into_iter()
            .zip(members)
            .map(|(id, member)| (id, target(member, before.get(&id))))
            .collect();
        let after = Arc::new(after);
        // First this, then the checks: a host gets requests as soon as a check has found it well.
        self.targets.store(Arc::clone(&after));
        checks.retain(|id, _| match (before.get(id), after.get(id)) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            _ => false,
        });
        for (id, target) in &*after {
            checks
                .entry(*id)
                .or_insert_with(|| self.keep_checking(*id, target, pool));
        }
    }

    /// Takes in a look-up of `name`: the addresses that are known of it, or why there are none.
    pub(super) fn looked_up(&self, name: &str, known: &[IpAddr], trouble: Trouble) {
        for target in self.targets.load().values() {
            target.looked_up(name, known, trouble);
        }
    }

    /// Is a host with that name not to be found where it is said to be?
    pub(super) fn is_sought(&self, name: &str) -> bool {
        let targets = self.targets.load();
        targets.values().any(|target| target.is_sought(name))
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
            is_short: AtomicBool::default(),
            means: Arc::clone(&self.means),
            pool: pool.clone(),
        });
        Background::spawn(self.upkeep.keep("check", move || {
            let checker = Arc::clone(&checker);
            async move { checker.run().await }
        }))
    }
}

/// That of `before`, which is the same host, if the way to it is the same; else one that knows what that does.
fn target(member: Member, before: Option<&Arc<Target>>) -> Arc<Target> {
    if let Some(same) = before.filter(|before| before.reaches(&member)) {
        return Arc::clone(same);
    }
    let target = Target::new(member);
    if let Some(before) = before {
        target.is_like(before);
    }
    Arc::new(target)
}

#[async_trait]
impl Upstream for Hosts {
    async fn attempt(&self, host: HostId, call: &Call, terms: Terms) -> Verdict {
        let target = self.targets.load().get(&host).cloned();
        let Some(target) = target else {
            return Verdict::Fault {
                sent: false,
                reason: "the host was removed just now".to_owned(),
            };
        };
        let attempt = Attempt {
            target,
            means: &self.means,
            terms,
        };
        attempt.run(call).await
    }
}
