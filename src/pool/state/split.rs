//! A batch in parts: on several hosts at once only with slots that nobody waits for; where a host does not take all
//! of it, one after the other.

use std::num::NonZeroU32;
use std::time::Instant;

use super::{Grant, NOWHERE, State};
use crate::embedding::Space;
use crate::pool::HostId;
use crate::pool::avoid::Extent;
use crate::pool::demand::{Demand, Model};
use crate::pool::fit::Fit;
use crate::pool::health::Phase;
use crate::pool::host::Host;
use crate::pool::parts::{self, Batch, Candidate, Plan, Wish};
use crate::pool::reach::Reach;

impl State {
    /// How the batch of `first` had better be cut for it and the hosts that idle; `None`: not at all.
    pub(in crate::pool) fn plan_parts(
        &self,
        first: &Grant,
        wish: Wish,
        now: Instant,
    ) -> Option<Plan> {
        let Demand { model, work, .. } = &first.demand;
        let model = model.as_ref()?;
        let host = self.host(first.host)?;
        let may_differ = self.hosts().any(|host| host.models.may_be_disputed(model));
        if work.items < 2 || !host.is_independent(Some(model)) || may_differ {
            return None;
        }
        let is_spread = wish.spread && !first.cold && !self.wants_slots(now);
        let known = self.estimator.early_cost(&first.demand);
        if first.fits() && (!is_spread || known.is_none()) {
            return None;
        }
        let own = candidate(host, now);
        let mut idle = Vec::new();
        if is_spread {
            let others = self.idle(model, first.space, now);
            let others = others.filter(|host| host.id != first.host);
            idle.extend(others.map(|host| candidate(host, now)));
        }
        if known.is_none() {
            // As few parts as will do.
            idle.truncate((work.items as usize).div_ceil(own.most).saturating_sub(1));
        }
        let spare = self.queue.clients.spare(first.demand.client.as_ref());
        let batch = Batch {
            units: work.units(),
            hosts: work.items.min(spare.saturating_add(1)) as usize,
            cost: known.unwrap_or_else(|| self.estimator.blind_cost(&first.demand)),
            min_gain: first.fits().then_some(wish.min_gain),
        };
        parts::plan(batch, own, idle)
    }

    /// See [`crate::pool::Pool::takes_part`].
    pub(in crate::pool) fn takes_part(&self, demand: &Demand, now: Instant) -> bool {
        let mut serving = self.serving(demand.model.as_ref(), now);
        serving.any(|host| host.fit(demand, Extent::Part, now) != Fit::Not)
    }

    /// Leaves `own` of the work to the lease of `first`, and leases out the rest where it is planned; `None` for
    /// what can't begin there any more.
    pub(in crate::pool) fn share_out(
        &mut self,
        first: &mut Grant,
        own: Demand,
        others: Vec<(HostId, Demand)>,
        now: Instant,
    ) -> Vec<Option<Grant>> {
        let others = others.into_iter();
        let others = others.map(|(host, demand)| self.lease_part(host, demand, now));
        let others = others.collect();
        self.change(first, own);
        others
    }

    fn lease_part(&mut self, host: HostId, demand: Demand, now: Instant) -> Option<Grant> {
        let client = demand.client.as_ref();
        let may = self.queue.clients.may_return(client) && !self.wants_slots(now);
        let is_idle = self
            .idle(demand.model.as_ref()?, demand.space, now)
            .any(|it| it.id == host && it.takes(demand.work.items, now));
        if !may || !is_idle {
            return None;
        }
        self.queue.clients.lease(client, true, now);
        let seconds = self.estimator.seconds(&demand);
        let ticket = self.next_ticket();
        Some(self.lease_out(ticket, demand, seconds, host, false, now))
    }

    /// A lease is for this from now on.
    pub(super) fn change(&mut self, grant: &mut Grant, demand: Demand) {
        let seconds = self.estimator.seconds(&demand);
        let slowness = self.host_mut(grant.host).map(|host| {
            host.outstanding.remove(grant.seconds);
            host.outstanding.add(seconds);
            host.slowness
        });
        grant.expected = slowness.and_then(|it| self.estimator.expected(&demand, it));
        (grant.demand, grant.seconds) = (demand, seconds);
        self.running
            .insert((grant.ticket, grant.host), grant.clone());
    }

    /// Hosts that do nothing, for anybody, and are well and ready for a part of a batch for `model`, whose vectors
    /// lie in `space`, if that is known of others.
    fn idle<'a>(
        &'a self,
        model: &'a Model,
        space: Option<Space>,
        now: Instant,
    ) -> impl Iterator<Item = &'a Host> {
        let reach = Reach::new(&self.hosts, Some(model), &NOWHERE, now);
        self.hosts.iter().filter(move |host| {
            let idles = host.in_flight == 0 && host.capacity.foreign() == 0;
            idles
                && host.health.phase() == Phase::Up
                && !host.capacity.is_starting()
                && host.can_take(Some(model), false, now).is_some()
                && host.models.is_loaded(model)
                && host.is_independent(Some(model))
                && host.models.audit(model).and_then(|it| it.space) == space
                && reach.includes(host)
        })
    }
}

fn candidate(host: &Host, now: Instant) -> Candidate {
    let most = host.most_items(now).map_or(u32::MAX, NonZeroU32::get);
    Candidate {
        host: host.id,
        slowness: host.slowness.factor(),
        most: most as usize,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use gpu_bridge_wire::Info;

    use crate::pool::state::tests::{ANSWERED, has, pool};
    use crate::pool::{Audited, Avoid, Limits, Outcome, Trust, Work};

    const GAIN: Wish = Wish {
        spread: true,
        min_gain: Duration::from_millis(20),
    };
    const SECOND: Duration = Duration::from_secs(1);

    type Change = fn(&mut State, HostId, Instant);

    fn batch(model: &str) -> Demand {
        Demand {
            client: Some("ann".into()),
            model: Model::new(model),
            work: Work {
                items: 100,
                bytes: 10_000,
            },
            ..Demand::default()
        }
    }

    fn join(state: &mut State, demand: Demand, now: Instant) -> Vec<Grant> {
        let ticket = state.next_ticket();
        state.join(ticket, demand, crate::pool::Avoid::default(), false, now);
        state.grant(now)
    }

    /// Four hosts with two slots, known to take a second for a batch; one batch has its lease.
    fn scene(model: &str, now: Instant) -> (State, Grant) {
        let mut state = pool(&[2; 4], now);
        let ids: Vec<_> = state.ids().collect();
        for id in ids {
            state.told(id, has(&[model]));
        }
        for _ in 0..100 {
            let grant = join(&mut state, batch(model), now).remove(0);
            state.finish(&grant, ANSWERED, now + SECOND);
        }
        let grant = join(&mut state, batch(model), now).remove(0);
        (state, grant)
    }

    fn hosts(plan: Option<Plan>) -> usize {
        let parts = plan.map_or(Vec::new(), |plan| plan.parts(&[1; 100]));
        parts.iter().filter(|part| part.host.is_some()).count()
    }

    #[test]
    fn a_batch_is_cut_for_hosts_that_idle_and_are_well() {
        let now = Instant::now();
        let table: [(&str, Change, usize); 7] = [
            ("nothing", |_, _, _| (), 4),
            (
                "it drains",
                |state, host, _| {
                    let name = state.host(host).unwrap().spec.name.clone();
                    state.set_draining(&name, true);
                },
                3,
            ),
            (
                "it does something",
                |state, host, now| {
                    state.lease_out(
                        super::super::Ticket(0),
                        batch("embed:m"),
                        1.0,
                        host,
                        false,
                        now,
                    );
                },
                3,
            ),
            (
                "it is full of others' requests",
                |state, host, _| {
                    state.host_mut(host).unwrap().capacity.tell(2, 1, 0);
                },
                3,
            ),
            (
                "it lacks the model",
                |state, host, _| state.told(host, has(&["embed:other"])),
                3,
            ),
            (
                "its vectors lie elsewhere",
                |state, host, _| {
                    let audited = Audited {
                        trust: Trust::Disputed,
                        space: format!("4-{}", "0".repeat(32)).parse().ok(),
                        cosine: None,
                        why: None,
                    };
                    let model = Model::new("embed:m").unwrap();
                    state.audited(host, &model, Some(audited));
                },
                3,
            ),
            (
                "somebody waits",
                |state, _, now| {
                    for _ in 0..8 {
                        join(state, batch("embed:m"), now);
                    }
                },
                0,
            ),
        ];
        for (what, change, expected) in table {
            let (mut state, first) = scene("embed:m", now);
            let other = state.ids().find(|id| *id != first.host).unwrap();
            change(&mut state, other, now);
            let plan = state.plan_parts(&first, GAIN, now);
            assert_eq!(hosts(plan), expected, "{what}");
        }
    }

    #[test]
    fn pairs_are_cut_only_for_hosts_where_the_batch_makes_no_difference() {
        let now = Instant::now();
        let (mut state, first) = scene("bertscore:m", now);
        assert_eq!(state.plan_parts(&first, GAIN, now), None);
        let ids: Vec<_> = state.ids().collect();
        for (position, id) in ids.into_iter().enumerate() {
            if position < 3 || id == first.host {
                let mut facts = has(&["bertscore:m"]);
                facts.bertscore_batch_independent = Some(true);
                state.told(id, facts);
            }
        }
        assert!(hosts(state.plan_parts(&first, GAIN, now)) >= 3);
    }

    /// As one told that takes 32 items.
    fn limited(model: &str, independent: bool) -> Info {
        Info {
            max_batch_size: NonZeroU32::new(32),
            bertscore_batch_independent: Some(independent),
            ..has(&[model])
        }
    }

    #[test]
    fn what_a_host_does_not_take_is_cut_whoever_waits_if_that_is_right() {
        let now = Instant::now();
        for (model, independent, is_cut) in [
            ("embed:m", false, true),
            ("bertscore:m", true, true),
            ("bertscore:m", false, false),
        ] {
            let mut state = pool(&[1], now);
            let id = state.ids().next().unwrap();
            state.told(id, limited(model, independent));
            let first = join(&mut state, batch(model), now).remove(0);
            assert_eq!(join(&mut state, batch(model), now).len(), 0, "it waits");
            let wish = Wish {
                spread: false,
                ..GAIN
            };
            let plan = state.plan_parts(&first, wish, now);
            let parts = plan.map_or(Vec::new(), |plan| plan.parts(&[1; 100]));
            let sizes: Vec<_> = parts.iter().map(|part| part.items.len()).collect();
            let expected = if is_cut { &[32, 23, 23, 22][..] } else { &[] };
            assert_eq!(sizes, expected, "{model} {independent}");
        }
    }

    #[test]
    fn what_cannot_be_cut_waits_for_a_host_that_takes_it_while_there_is_one() {
        let now = Instant::now();
        let mut state = pool(&[1, 1], now);
        let [small, large] = [0, 1].map(|at| state.ids().nth(at).unwrap());
        state.told(small, limited("embed:m", true));
        state.told(large, has(&["embed:m"]));
        let first = join(&mut state, batch("embed:m"), now).remove(0);
        assert_eq!(
            (first.host, first.fits()),
            (large, true),
            "better than parts"
        );

        let ticket = state.next_ticket();
        let mut whole = Avoid::default();
        whole.set_extent(Extent::Whole);
        state.join(ticket, batch("embed:m"), whole, true, now);
        assert_eq!(state.grant(now).len(), 0);
        let second = join(&mut state, batch("embed:m"), now).remove(0);
        assert_eq!((second.host, second.fits()), (small, false), "in parts");
        state.finish(&second, ANSWERED, now);
        assert_eq!(state.grant(now).len(), 0);
        let name = state.host(large).unwrap().spec.name.clone();
        state.set_draining(&name, true);
        let last = state.grant(now).remove(0);
        assert_eq!((last.ticket, last.host), (ticket, small), "to be refused");
    }

    #[test]
    fn pairs_of_more_than_is_taken_wait_for_a_host_that_may_have_them_in_parts() {
        let now = Instant::now();
        let mut state = pool(&[1, 1], now);
        let [pads, cuts] = [0, 1].map(|at| state.ids().nth(at).unwrap());
        state.told(pads, limited("bertscore:m", false));
        state.told(cuts, limited("bertscore:m", true));
        let first = join(&mut state, batch("bertscore:m"), now).remove(0);
        assert_eq!((first.host, first.fits()), (cuts, false), "in parts");
        assert_eq!(join(&mut state, batch("bertscore:m"), now).len(), 0);
        for client in ["zoe", "ann"] {
            let small = Demand {
                client: Some(client.into()),
                work: Work { items: 1, bytes: 9 },
                ..batch("bertscore:m")
            };
            let small = join(&mut state, small, now).remove(0);
            assert_eq!(small.host, pads, "{client} does not wait behind it");
            state.finish(&small, Outcome::Abandoned, now);
        }
        let name = state.host(cuts).unwrap().spec.name.clone();
        state.set_draining(&name, true);
        assert_eq!(state.grant(now).remove(0).host, pads, "to be refused");
    }

    #[test]
    fn what_names_no_model_is_cut_unless_hosts_disagree_about_any() {
        let now = Instant::now();
        let (mut state, first) = scene("embed:", now);
        let ids: Vec<_> = state.ids().collect();
        for id in &ids {
            state.told(*id, has(&["embed:m"]));
        }
        assert_eq!(hosts(state.plan_parts(&first, GAIN, now)), 4);
        let disputed = Audited {
            trust: Trust::Disputed,
            space: None,
            cosine: None,
            why: None,
        };
        let model = Model::new("embed:m").unwrap();
        state.audited(ids[0], &model, Some(disputed));
        assert_eq!(state.plan_parts(&first, GAIN, now), None);
    }

    #[test]
    fn each_part_counts_for_its_client_and_only_what_there_is_to_do_for_its_host() {
        let now = Instant::now();
        let (mut state, mut first) = scene("embed:m", now);
        let limits = Limits {
            max_concurrent: NonZeroU32::new(2),
            max_per_second: None,
        };
        state.set_limits(vec![("ann".into(), limits)]);
        let part = |items| Demand {
            work: Work {
                items,
                bytes: u64::from(items) * 100,
            },
            ..batch("embed:m")
        };
        let others: Vec<_> = state.ids().filter(|id| *id != first.host).collect();
        let others = others.into_iter().map(|id| (id, part(25))).collect();
        let plan = state.plan_parts(&first, GAIN, now);
        assert_eq!(hosts(plan), 2, "two in all");
        let granted = state.share_out(&mut first, part(50), others, now);
        let granted: Vec<_> = granted.into_iter().flatten().collect();
        assert_eq!(granted.len(), 1, "two in all");
        let outstanding = |host| state.host(host).unwrap().outstanding.total();
        let (own, other) = (outstanding(first.host), outstanding(granted[0].host));
        assert!((own / other - 2.0).abs() < 0.01, "{own} and {other}");
        state.finish(&first, Outcome::Abandoned, now);
        state.finish(&granted[0], ANSWERED, now);
        assert!(
            state
                .hosts()
                .all(|host| host.in_flight == 0 && host.outstanding.terms() == 0)
        );
    }
}
