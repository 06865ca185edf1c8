//! Several requests in one attempt: those that wait with the same question, for a slot that one of them gets.

use std::time::Instant;

use super::{Grant, Member, State};
use crate::pool::HostId;
use crate::pool::alike::Sharing;
use crate::pool::company::{Company, Room};
use crate::pool::demand::{Demand, Offer, Work};
use crate::pool::estimate::{Cost, seconds};
use crate::pool::host::Host;
use crate::pool::queue::{Queued, Ticket};

/// Bytes of the bodies of an attempt's requests together. Hosts take more, but what is long saves little.
const MOST_BYTES: u64 = 1 << 20;
/// Items of them: what a host tells of each must fit into the head of its answer.
const MOST_ITEMS: u32 = 1000;

impl State {
    /// A request that waits has said with which others it may share an attempt.
    pub(in crate::pool) fn offer(&mut self, ticket: Ticket, offer: Offer) {
        let entry = self.queue.get(ticket);
        let sharing = entry.and_then(|it| self.sharing(&it.demand, offer.most, it.joined));
        self.queue.offer(ticket, offer, sharing);
    }

    /// How attempts will be that a request which waits shares; `None` if some hosts make none, or if too little has
    /// been seen.
    fn sharing(&self, demand: &Demand, most: u32, now: Instant) -> Option<Sharing> {
        let model = demand.model.as_ref()?;
        let shares = |host: &Host| {
            host.is_independent(Some(model)) && !(demand.counted && host.spec.tells_less)
        };
        let takes = self.hosts().map(|host| most_items(host, most, now));
        let most_items = takes.min().filter(|_| self.hosts().all(shares))?;
        let cost = self.estimator.cost(demand)?;
        Some(Sharing { cost, most_items })
    }

    /// Takes others along that wait with the question of `offer`, which is that of `first`.
    pub(super) fn merge(&mut self, first: &mut Grant, offer: &Offer, now: Instant) {
        let mut waiting = self.queue.with_question(&offer.question);
        if !self.tells_tokens_of_each(first.host) {
            waiting.retain(|it| !it.counted && !first.demand.counted);
        }
        let Some((mut company, cost)) = self.company(first, offer, &waiting, now) else {
            return;
        };
        let leader = Member {
            ticket: first.ticket,
            demand: first.demand.clone(),
        };
        let (mut all, mut members) = (leader.demand.work, vec![leader]);
        for Queued {
            ticket,
            work,
            until,
            ..
        } in waiting
        {
            if company.is_full() {
                break;
            }
            if self.queue.may_go(ticket, now)
                && company.admits(work, left(until, now))
                && let Some(entry) = self.queue.take(ticket, now)
            {
                all.items = all.items.saturating_add(work.items);
                all.bytes = all.bytes.saturating_add(work.bytes);
                let demand = entry.demand;
                members.push(Member { ticket, demand });
            }
        }
        if members.len() > 1 {
            let slowness = self.host(first.host).map_or(1.0, |it| it.slowness.factor());
            let saved = (members.len() - 1) as f64 * cost.fixed * slowness;
            (first.company, first.saves) = (members, seconds(saved));
            self.resize(first, all);
        }
    }

    /// Does a host tell the tokens of each text if it counts them at all? Else nobody knows whose they were.
    fn tells_tokens_of_each(&self, host: HostId) -> bool {
        self.host(host).is_some_and(|host| !host.spec.tells_less)
    }

    /// What `first` may fill; `None`: it goes alone.
    fn company(
        &self,
        first: &Grant,
        offer: &Offer,
        waiting: &[Queued],
        now: Instant,
    ) -> Option<(Company, Cost)> {
        let Demand { model, work, .. } = &first.demand;
        let model = model.as_ref()?;
        let host = self.host(first.host)?;
        if waiting.is_empty() || first.cold || !host.is_independent(Some(model)) {
            return None;
        }
        let cost = self.estimator.cost(&first.demand)?;
        let speed = |slowness: f64| 1.0 / slowness;
        let serving = self.serving(Some(model), now);
        let all: f64 = serving.map(|host| speed(host.slowness.factor())).sum();
        let slowness = host.slowness.factor();
        let units = waiting.iter().map(|it| it.work.units());
        let room = Room {
            items: most_items(host, offer.most, now),
            bytes: MOST_BYTES,
            share: (work.units() + units.sum::<f64>()) * (speed(slowness) / all).min(1.0),
            others_wait: self.queue.len() > waiting.len(),
        };
        let patience = left(offer.until, now);
        Some((Company::of(*work, patience, cost, slowness, room), cost))
    }

    /// A lease is for so much from now on.
    pub(in crate::pool) fn resize(&mut self, grant: &mut Grant, work: Work) {
        let demand = Demand {
            work,
            ..grant.demand.clone()
        };
        self.change(grant, demand);
    }
}

/// Items that an attempt on `host` may be for, if the requests say `most`.
fn most_items(host: &Host, most: u32, now: Instant) -> u32 {
    let takes = host.most_items(now).map_or(MOST_ITEMS, Into::into);
    most.min(takes).min(MOST_ITEMS)
}

/// In seconds, from `now` on.
fn left(until: Option<Instant>, now: Instant) -> f64 {
    until.map_or(f64::INFINITY, |until| {
        until.saturating_duration_since(now).as_secs_f64()
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::pool::estimate::Estimator;
    use crate::pool::state::tests::{ANSWERED, has, join_with, pool};
    use crate::pool::{Limits, Model, Outcome, Question};

    const SECOND: Duration = Duration::from_secs(1);

    fn demand(client: &str, model: &str, items: u32) -> Demand {
        Demand {
            client: Some(client.into()),
            model: Model::new(model),
            work: Work {
                items,
                bytes: u64::from(items) * 68,
            },
            ..Demand::default()
        }
    }

    fn offer(question: &str) -> Offer {
        Offer {
            question: Question::new(question.into()),
            most: 100,
            until: None,
        }
    }

    /// A host that takes 300 ms and 10 for each text, and of whose only slot there is a lease.
    fn scene(model: &str, now: Instant) -> (State, Grant) {
        let mut state = pool(&[1], now);
        let host = state.ids().next().unwrap();
        state.told(host, has(&[model]));
        for number in 0..100 {
            let items = 1 + number % 7 * 5;
            join_with(&mut state, demand("ann", model, items), now);
            let grant = state.grant(now).remove(0);
            let took = Duration::from_millis(300) + Duration::from_millis(10) * items;
            state.finish(&grant, ANSWERED, now + took);
        }
        join_with(&mut state, demand("zoe", "embed:other", 1), now);
        let grant = state.grant(now).remove(0);
        (state, grant)
    }

    /// Those that wait, by client and question, and who of them share the next attempt.
    fn next(
        model: &str,
        change: impl FnOnce(&mut State),
        waiting: &[(&str, &str)],
    ) -> (State, Grant, String) {
        let now = Instant::now();
        let (mut state, first) = scene(model, now);
        change(&mut state);
        let mut names = Vec::new();
        for (client, question) in waiting {
            let ticket = join_with(&mut state, demand(client, model, 1), now);
            state.offer(ticket, offer(question));
            names.push((ticket, *client));
        }
        state.finish(&first, Outcome::Abandoned, now);
        let grant = state.grant(now).remove(0);
        let name = |ticket| names.iter().find(|(it, _)| *it == ticket).unwrap().1;
        let told = grant.tickets().map(name).collect();
        (state, grant, told)
    }

    fn limit(state: &mut State, client: &str) {
        let limits = Limits {
            max_concurrent: NonZeroU32::new(1),
            max_per_second: None,
        };
        state.set_limits(vec![(client.into(), limits)]);
    }

    #[test]
    fn who_waits_with_the_same_question_goes_along_by_turns() {
        let waiting = [("a", "x"), ("a", "x"), ("b", "y"), ("b", "x"), ("c", "x")];
        let (state, grant, told) = next("embed:m", |_| (), &waiting);
        assert_eq!(told, "abca");
        assert_eq!((grant.demand.work.items, state.waiting()), (4, 1));
        let host = state.host(grant.host).unwrap();
        assert_eq!(host.in_flight, 1, "one slot");
        assert_eq!(state.running.len(), 1);
        assert!(
            (0.6..1.2).contains(&grant.saves.as_secs_f64()),
            "{:?}",
            grant.saves
        );
    }

    #[test]
    fn limits_of_clients_and_hosts_hold_for_companions() {
        let waiting = [("a", "x"), ("b", "x"), ("b", "x"), ("c", "x"), ("d", "x")];
        let (mut state, grant, told) = next("embed:m", |it| limit(it, "b"), &waiting);
        assert_eq!(told, "abcd");
        let now = Instant::now();
        assert_eq!(state.grant(now).len(), 0);
        state.finish(&grant, ANSWERED, now + SECOND);
        let last = state.grant(now).remove(0);
        assert_eq!(
            last.demand.client.as_deref(),
            Some("b"),
            "its place is free"
        );
        state.finish(&last, ANSWERED, now);
        let host = state.host(grant.host).unwrap();
        assert_eq!((host.in_flight, host.outstanding.terms()), (0, 0));
        let most = |state: &mut State| {
            let id = state.ids().next().unwrap();
            state.host_mut(id).unwrap().spec.max_items = NonZeroU32::new(3);
        };
        assert_eq!(next("embed:m", most, &waiting).2, "abc");
    }

    #[test]
    fn a_client_whose_request_came_along_has_had_its_turn() {
        let (mut state, grant, _) = next(
            "embed:m",
            |_| (),
            &[("a", "x"), ("b", "x"), ("b", "y"), ("c", "y")],
        );
        let now = Instant::now();
        state.finish(&grant, ANSWERED, now + SECOND);
        let clients = state.grant(now).remove(0);
        let clients: Vec<_> = clients
            .demands()
            .filter_map(|it| it.client.clone())
            .collect();
        assert_eq!(clients, [Arc::from("c"), Arc::from("b")]);
    }

    #[test]
    fn what_waits_to_be_merged_is_expected_to_take_no_longer_than_it_does() {
        let now = Instant::now();
        let (mut state, first) = scene("embed:m", now);
        let join = |state: &mut State| {
            let ticket = join_with(state, demand("a", "embed:m", 1), now);
            state.offer(ticket, offer("x"));
        };
        for _ in 0..200 {
            join(&mut state);
        }
        let expected = state.wait_of_all(now);
        state.finish(&first, Outcome::Abandoned, now);
        let mut took = Duration::ZERO;
        while let Some(grant) = state.grant(now).pop() {
            let items = grant.demand.work.items;
            let own = Duration::from_millis(300) + Duration::from_millis(10) * items;
            state.finish(&grant, ANSWERED, now + own);
            took += own;
        }
        let ratio = expected.as_secs_f64() / took.as_secs_f64();
        assert!((0.7..2.5).contains(&ratio), "{expected:?} for {took:?}");
        assert!(
            state.wait_of_all(now) < Duration::from_millis(1),
            "nothing is left of what is gone"
        );
    }

    #[test]
    fn whose_tokens_are_told_goes_along_only_where_they_can_be() {
        for (sums, expected) in [(false, "abc"), (true, "a")] {
            let now = Instant::now();
            let (mut state, first) = scene("embed:m", now);
            let id = state.ids().next().unwrap();
            state.host_mut(id).unwrap().spec.tells_less = sums;
            for (client, counted) in [("a", true), ("b", true), ("c", false)] {
                let demand = Demand {
                    counted,
                    ..demand(client, "embed:m", 1)
                };
                let ticket = join_with(&mut state, demand, now);
                state.offer(ticket, offer("x"));
            }
            state.finish(&first, Outcome::Abandoned, now);
            let grant = state.grant(now).remove(0);
            let told: String = grant
                .demands()
                .filter_map(|it| it.client.as_deref())
                .collect();
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn nobody_goes_along_where_that_is_not_known_to_be_right() {
        let waiting = [("a", "x"), ("b", "x")];
        let pads = next("bertscore:m", |_| (), &waiting);
        assert_eq!(pads.2, "a");
        let tells = |state: &mut State| {
            let id = state.ids().next().unwrap();
            let mut info = has(&["bertscore:m"]);
            info.bertscore_batch_independent = Some(true);
            state.told(id, info);
        };
        assert_eq!(next("bertscore:m", tells, &waiting).2, "ab");
        let must_load = |state: &mut State| {
            let id = state.ids().next().unwrap();
            state.told(id, has(&[]));
        };
        assert_eq!(next("embed:m", must_load, &waiting).2, "a");
        let forget = |state: &mut State| state.estimator = Estimator::default();
        assert_eq!(next("embed:m", forget, &waiting).2, "a");
    }
}
