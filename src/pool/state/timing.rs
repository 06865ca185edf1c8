//! When things should happen: checks, wake-ups, and what a refused client is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{NOWHERE, State};
use crate::pool::HostId;
use crate::pool::demand::Model;
use crate::pool::estimate::seconds;
use crate::pool::health::Phase;
use crate::pool::host::Host;
use crate::pool::queue::Entry;
use crate::pool::reach::Reach;

/// Checks of a full host follow this fast on each other while requests wait …
pub(super) const POLL_WHILE_WAITING: Duration = Duration::from_millis(200);
/// … but all hosts together are polled no more often than this, so that a large pool is not flooded.
const POLL_SPACING: Duration = Duration::from_millis(4);
/// A request that has run for so long may be on a host that freezes: the host is checked this often, too, until it is
/// done, in a large pool too. With a check that gets no answer in the two seconds that it has by default, a frozen host
/// costs a request less than three; see [`Host::is_mute`].
pub(in crate::pool) const OVERDUE: Duration = Duration::from_millis(500);
/// Checks of a doubtful host start this fast and slow down to the interval.
pub(super) const FIRST_RECHECK: Duration = Duration::from_millis(200);
/// … but no slower than this while requests wait.
pub(super) const RECHECK_WHILE_WAITING: Duration = Duration::from_secs(1);
/// A model is loaded within seconds, or not at all.
pub(super) const RECHECK_NOT_READY: Duration = Duration::from_secs(1);

impl State {
    /// How long to wait before the next check of `id`, after the last one.
    pub(in crate::pool) fn check_delay(&self, id: HostId, now: Instant) -> Duration {
        let interval = self.settings.check_interval;
        let Some(host) = self.host(id) else {
            return interval;
        };
        let waiting = self.wants_slots(now);
        let hosts = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        let spaced = |delay: Duration| delay.max(POLL_SPACING.saturating_mul(hosts));
        let slowest = if waiting {
            RECHECK_WHILE_WAITING
        } else {
            interval
        };
        let slower = |steps: u32| (FIRST_RECHECK * (1 << steps.min(10))).min(slowest);
        let delay = if host.suspect {
            FIRST_RECHECK
        } else if host.unasked > 0 {
            slower(host.unasked)
        } else if host.health.is_well() {
            if waiting && is_full(host, now) {
                spaced(POLL_WHILE_WAITING)
            } else if host.overdue > 0 {
                OVERDUE
            } else {
                interval
            }
        } else if matches!(host.health.phase(), Phase::NotReady { .. }) {
            RECHECK_NOT_READY
        } else {
            slower(host.health.failed_checks()).max(host.health.hold_left(now))
        };
        delay.min(interval)
    }

    /// Hosts whose check should come sooner now that requests wait.
    pub(in crate::pool) fn worth_polling(&self, now: Instant) -> impl Iterator<Item = HostId> {
        let worth = move |host: &&Host| is_full(host, now) || !host.is_serving();
        self.hosts.iter().filter(worth).map(|host| host.id)
    }

    /// When time alone will make a grant possible.
    pub(in crate::pool) fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        let ends = self.hosts.iter().filter_map(|host| host.busy_until);
        let refill = self.queue.refill(now);
        let times = ends.chain(self.reconsider).chain(refill);
        times.filter(|at| *at > now).min()
    }

    /// How long a refused client should wait before it asks again: until those that wait now are
    /// served, but at least until the first busy host is free that could serve it, and until its own
    /// limits allow more. If nobody serves, the next checks may tell.
    pub(in crate::pool) fn retry_after(
        &self,
        client: Option<&Arc<str>>,
        model: Option<&Model>,
        now: Instant,
    ) -> Duration {
        let (requests, seconds) = self.queue.of_client(client);
        let own = self.time_within_limits(client, requests + 1, seconds, now);
        own.max(self.time_for_all(model, now))
    }

    fn time_for_all(&self, model: Option<&Model>, now: Instant) -> Duration {
        let serving = self.serving(model, now);
        let busy_for = |host: &Host| {
            let until = host.busy_until.unwrap_or(now);
            until.saturating_duration_since(now)
        };
        match serving.map(busy_for).min() {
            Some(first_free) => {
                let all = self.queue.seconds(now);
                let own = model.map_or(0.0, |model| self.queue.seconds_for(model));
                first_free.max(self.wait(all, own, model, now))
            }
            None => self.settings.check_interval,
        }
    }

    /// How long a client's own limits make the last of so many of its requests wait, if those before it
    /// take so many seconds of an average host.
    pub(super) fn time_within_limits(
        &self,
        client: Option<&Arc<str>>,
        requests: usize,
        work: f64,
        now: Instant,
    ) -> Duration {
        let clients = &self.queue.clients;
        let of_slots = clients.max_concurrent(client).map(|limit| {
            let serving = self.hosts.iter().filter(|host| host.is_serving());
            let slots = serving.map(|host| host.capacity.steady());
            let slots = slots.fold(0, u32::saturating_add);
            // With all slots it would take as long as for anybody.
            let share = f64::from(slots) / f64::from(limit.get());
            self.time_for(work * share.max(1.0), None, now)
        });
        clients
            .wait(client, requests, now)
            .max(of_slots.unwrap_or_default())
    }

    /// How long `newcomer`, the last of its client's requests in line, is going to wait.
    pub(super) fn wait_of(&self, newcomer: &Entry, now: Instant) -> Duration {
        let ahead = self.queue.seconds_ahead_of(newcomer, now);
        let model = newcomer.demand.model.as_ref();
        let before = |model| (self.queue.seconds_for(model) - newcomer.sure).max(0.0);
        self.wait(ahead, model.map_or(0.0, before), model, now)
    }

    /// How long all that waits is going to take.
    pub(super) fn wait_of_all(&self, now: Instant) -> Duration {
        let all = self.queue.seconds(now);
        let models = self.queue.by_model();
        let each = models.map(|(model, own)| self.wait(all, own, Some(model), now));
        each.fold(self.time_for(all, None, now), Duration::max)
    }

    /// How long `all` takes of which up to `own` is for `model`: all of it the whole pool, and its own
    /// part the hosts that could serve that.
    fn wait(&self, all: f64, own: f64, model: Option<&Model>, now: Instant) -> Duration {
        let own = self.time_for(own.min(all), model, now);
        own.max(self.time_for(all, None, now))
    }

    /// Hosts that serve and could serve a request for `model`.
    pub(super) fn serving<'a>(
        &'a self,
        model: Option<&'a Model>,
        now: Instant,
    ) -> impl Iterator<Item = &'a Host> {
        let reach = Reach::new(&self.hosts, model, &NOWHERE, now);
        let serving = self.hosts.iter().filter(|host| host.is_serving());
        serving.filter(move |host| reach.includes(host))
    }

    /// How long the hosts that could serve requests for `model` take for that many seconds of work on
    /// an average host.
    fn time_for(&self, work: f64, model: Option<&Model>, now: Instant) -> Duration {
        if work <= 0.0 || !self.estimator.is_trustworthy() {
            return Duration::ZERO;
        }
        let rate: f64 = self
            .serving(model, now)
            .map(|host| f64::from(host.capacity.steady()) / host.slowness.factor())
            .sum();
        if rate > 0.0 {
            seconds(work / rate)
        } else {
            Duration::ZERO
        }
    }
}

/// Can only a look at the host tell when it has a free slot?
fn is_full(host: &Host, now: Instant) -> bool {
    host.is_busy(now) || host.is_crowded() || host.capacity.nominal() == 0
}
