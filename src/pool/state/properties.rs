//! The state machine in random histories, against its invariants.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;

use gpu_bridge_wire::Info;
use proptest::prelude::*;

use super::*;
use crate::pool::avoid::{Avoid, Extent};
use crate::pool::health::Phase;
use crate::pool::host::HostSpec;
use crate::pool::placement::{Placement, Scene};
use crate::pool::queue::Entry;
use crate::pool::{
    Audited, Check, Label, Model, Offer, Origin, Outcome, Question, Slots, Tells, Trust, Withdrawn,
    Work,
};

/// The route of audits.
const AUDIT: &str = "audit";
/// Of each request.
const WORK: Work = Work {
    items: 2,
    bytes: 100,
};
/// Items of an attempt.
const MOST: u32 = 4;

/// One step of a history. Numbers are reduced to what exists at that point.
#[derive(Clone, Debug)]
enum Step {
    Arrive {
        client: u8,
        priority: u8,
        model: u8,
        space: Option<bool>,
        bytes: usize,
        /// It may share an attempt with those that ask the same.
        question: Option<u8>,
    },
    Leave(usize),
    Finish(usize, Outcome),
    /// A batch with a lease is cut for all hosts.
    Share(usize),
    Blame(usize),
    BeginCheck(usize),
    /// The end of one.
    Check(usize, Check),
    Tell(usize, Vec<u8>, Option<Vec<u8>>),
    /// An audit has shown this, and in which space the vectors lie.
    Audit(usize, u8, Option<(Trust, Option<bool>)>),
    /// An audit wants a slot.
    Spare(usize, u8),
    Drain(usize, bool),
    Resize(Vec<(u8, u32)>),
    /// A reload, after which clients may have so many leases and requests each second; 0: any number.
    Limit(Vec<(u8, u32, u32)>),
    Wait(u64),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => any::<bool>().prop_map(|timed| Outcome::Answered { timed }),
        2 => (0..8u64).prop_map(|s| Outcome::Busy { retry_after: Duration::from_secs(s) }),
        1 => Just(Outcome::Refused),
        1 => Just(Outcome::Broke),
        1 => Just(Outcome::Doubtful),
        3 => Just(Outcome::LacksModel),
        2 => (1..3u32).prop_map(|most| Outcome::TooMany { most: NonZeroU32::new(most).unwrap() }),
        1 => Just(Outcome::Untried),
        1 => Just(Outcome::Misconfigured),
        1 => Just(Outcome::Abandoned),
    ]
}

fn check() -> impl Strategy<Value = Check> {
    let reason = String::new;
    prop_oneof![
        4 => Just(Check::Good { slots: Tells::Nothing }),
        2 => (0..5u32, 0..7u32, 0..3u32).prop_map(|(max_concurrent, in_flight, ours)| {
            let available = max_concurrent.saturating_sub(in_flight);
            Check::Good { slots: Tells::Slots(Slots { max_concurrent, available, in_flight, ours }) }
        }),
        1 => (0..8u64).prop_map(|s| Check::Busy { retry_after: Duration::from_secs(s) }),
        1 => any::<bool>().prop_map(move |reachable| Check::Failed { reason: reason(), reachable }),
        1 => Just(Check::NotReady { reason: reason(), slots: Tells::Nothing }),
        1 => Just(Check::NoAnswer { reason: reason(), silent_for: Duration::from_secs(2) }),
        1 => Just(Check::Misconfigured { reason: reason() }),
        1 => Just(Check::Ours { reason: reason() }),
    ]
}

fn models() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..3u8, 0..3)
}

fn trust() -> impl Strategy<Value = Trust> {
    prop_oneof![
        4 => Just(Trust::Agrees),
        1 => Just(Trust::Alone),
        1 => Just(Trust::Disputed),
        2 => Just(Trust::Deviates),
    ]
}

fn wanted() -> impl Strategy<Value = Option<bool>> {
    prop_oneof![6 => Just(None), 1 => any::<bool>().prop_map(Some)]
}

/// One of two.
fn space(which: bool) -> Space {
    let sketch = if which { "0" } else { "f" };
    format!("4-{}", sketch.repeat(32)).parse().unwrap()
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..3u8, 0..2u8, 0..3u8, wanted(), 0..12usize, prop::option::weighted(0.7, 0..2u8)).prop_map(|(client, priority, model, space, bytes, question)| Step::Arrive { client, priority, model, space, bytes, question }),
        3 => (any::<usize>(), 1..3u8, prop::option::of((trust(), prop::option::of(any::<bool>())))).prop_map(|(host, model, shown)| Step::Audit(host, model, shown)),
        2 => (any::<usize>(), 1..3u8).prop_map(|(host, model)| Step::Spare(host, model)),
        2 => any::<usize>().prop_map(Step::Leave),
        12 => (any::<usize>(), outcome()).prop_map(|(lease, outcome)| Step::Finish(lease, outcome)),
        3 => any::<usize>().prop_map(Step::Share),
        2 => any::<usize>().prop_map(Step::Blame),
        3 => any::<usize>().prop_map(Step::BeginCheck),
        6 => (any::<usize>(), check()).prop_map(|(host, check)| Step::Check(host, check)),
        3 => (any::<usize>(), models(), prop::option::of(models())).prop_map(|(host, loaded, all)| Step::Tell(host, loaded, all)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(host, draining)| Step::Drain(host, draining)),
        1 => prop::collection::vec((0..6u8, 0..4u32), 0..5).prop_map(Step::Resize),
        1 => prop::collection::vec((0..3u8, 0..3u32, 0..4u32), 0..3).prop_map(Step::Limit),
        4 => (0..4000u64).prop_map(Step::Wait),
    ]
}

/// Some of those that are called `h5` are withdrawn.
fn specs(hosts: &[(u8, u32)]) -> Vec<HostSpec> {
    let mut seen = Vec::new();
    let fresh = |(name, _): &&(u8, u32)| {
        let new = !seen.contains(name);
        seen.push(*name);
        new
    };
    let spec = |(name, slots): &(u8, u32)| HostSpec {
        max_concurrent: NonZeroU32::new(*slots),
        origin: match (name, slots) {
            (5, 1 | 3) => Origin::Kubernetes {
                pod: None,
                withdrawn: Some(Withdrawn::NotReady),
            },
            _ => Origin::Configured,
        },
        ..HostSpec::for_testing(&format!("h{name}"))
    };
    hosts.iter().filter(fresh).map(spec).collect()
}

fn model(number: u8) -> Option<Model> {
    // 0: unknown.
    Model::new(&format!("embed:{number}")).filter(|_| number > 0)
}

/// The world around the machine: who holds and who waits for a lease, kept apart from it.
struct World {
    state: State,
    now: Instant,
    leases: Vec<Grant>,
    waiting: HashMap<Ticket, Waiter>,
    avoids: HashMap<Ticket, Avoid>,
    /// Of those that have shared an attempt.
    questions: HashMap<Ticket, Question>,
    limits: HashMap<String, Limits>,
    /// Hosts that have failed since their last check began.
    suspects: HashSet<HostId>,
    /// Newcomers need not join a line in which nobody waits.
    at_once: bool,
}

#[derive(Clone, Debug)]
struct Waiter {
    demand: Demand,
    avoid: Avoid,
    joined: Instant,
    returning: bool,
    offer: Option<Offer>,
}

impl World {
    fn new(policy: Policy, hosts: &[(u8, u32)]) -> Self {
        let two = NonZeroU32::new(2).unwrap();
        let settings = Settings {
            policy,
            thresholds: Thresholds {
                healthy_after: NonZeroU32::MIN,
                unhealthy_after: two,
            },
            max_waiting: 8,
            max_waiting_bytes: 20,
            check_interval: Duration::from_secs(5),
        };
        let mut state = State::new(settings, 7);
        let now = Instant::now();
        for id in state.set_hosts(specs(hosts)) {
            state.checked(
                id,
                &Check::Good {
                    slots: Tells::Nothing,
                },
                now,
            );
        }
        teach(&mut state);
        Self {
            state,
            now,
            leases: Vec::new(),
            waiting: HashMap::new(),
            avoids: HashMap::new(),
            questions: HashMap::new(),
            limits: HashMap::new(),
            suspects: HashSet::new(),
            at_once: true,
        }
    }

    fn apply(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Arrive {
                client,
                priority,
                model: number,
                space: wanted,
                bytes,
                question,
            } => return self.arrive(client, priority, number, wanted, bytes, question),
            Step::Leave(which) => {
                let mut tickets: Vec<Ticket> = self.waiting.keys().copied().collect();
                tickets.sort_unstable();
                if let Some(ticket) = pick(&tickets, which) {
                    self.waiting.remove(ticket);
                    self.state.leave(*ticket);
                }
            }
            Step::Finish(which, outcome) => {
                if !self.leases.is_empty() {
                    let lease = self.leases.remove(which % self.leases.len());
                    match lease.demand.label.route {
                        AUDIT => _ = self.state.finish(&lease, outcome, self.now),
                        _ => self.finish(&lease, outcome),
                    }
                }
            }
            Step::Share(which) => return self.share(which),
            Step::Blame(which) => {
                if let Some(host) = self.host(which) {
                    let model = model(u8::try_from(which % 3).unwrap());
                    self.state.blame(host, model.as_ref(), self.now);
                }
            }
            Step::BeginCheck(which) => {
                if let Some(host) = self.host(which) {
                    self.suspects.remove(&host);
                    self.state.check_begins(host);
                }
            }
            Step::Check(which, check) => {
                if let Some(host) = self.host(which) {
                    self.state.checked(host, &check, self.now);
                }
            }
            Step::Tell(which, loaded, all) => self.tell(which, &loaded, all.as_deref()),
            Step::Audit(which, number, shown) => self.audit(which, number, shown),
            Step::Spare(which, number) => self.spare(which, number),
            Step::Drain(which, draining) => {
                if let Some(name) = self.host(which).and_then(|id| self.state.host(id)) {
                    let name = name.spec.name.clone();
                    self.state.set_draining(&name, draining);
                }
            }
            Step::Resize(hosts) => {
                self.state.set_hosts(specs(&hosts));
            }
            Step::Limit(limits) => self.limit(&limits),
            Step::Wait(millis) => self.now += Duration::from_millis(millis),
        }
        Ok(())
    }

    fn arrive(
        &mut self,
        client: u8,
        priority: u8,
        number: u8,
        wanted: Option<bool>,
        bytes: usize,
        question: Option<u8>,
    ) -> Result<(), TestCaseError> {
        let demand = Demand {
            client: Some(client.to_string().into()),
            priority,
            model: model(number),
            work: WORK,
            space: wanted.map(space),
            bytes,
            ..Demand::default()
        };
        let ticket = self.state.next_ticket();
        let avoid = Avoid::outside(demand.space);
        if self.at_once
            && let Some(grant) = self.state.lease_at_once(ticket, &demand, self.now)
        {
            self.expect(ticket, demand, avoid, false);
            return self.take(grant);
        }
        self.line_up(ticket, demand, avoid, false);
        for grant in self.state.grant(self.now) {
            self.take(grant)?;
        }
        let turned_away = match self.state.admit(ticket, Duration::from_secs(30), self.now) {
            Ok(others) => others,
            Err(_) => vec![ticket],
        };
        for ticket in turned_away {
            let waiter = self.waiting.remove(&ticket);
            prop_assert!(
                waiter.is_some_and(|waiter| !waiter.returning),
                "turned away in vain"
            );
        }
        if let Some(question) = question {
            let which = wanted.map_or(2, u8::from);
            self.offer(ticket, Question::new(vec![question, number, which]));
        }
        Ok(())
    }

    fn offer(&mut self, ticket: Ticket, question: Question) {
        let offer = Offer {
            question,
            most: MOST,
            until: None,
        };
        if let Some(waiter) = self.waiting.get_mut(&ticket) {
            waiter.offer = Some(offer.clone());
        }
        self.state.offer(ticket, offer);
    }

    fn audit(&mut self, which: usize, number: u8, shown: Option<(Trust, Option<bool>)>) {
        let Some((host, model)) = self.host(which).zip(model(number)) else {
            return;
        };
        let audited = shown.map(|(trust, which)| Audited {
            trust,
            space: which.map(space),
            cosine: None,
            why: None,
        });
        self.state.audited(host, &model, audited);
    }

    fn spare(&mut self, which: usize, number: u8) {
        let demand = Demand {
            label: Label {
                route: AUDIT,
                ..Label::default()
            },
            model: model(number),
            ..Demand::default()
        };
        let host = self.host(which);
        let grant = host.and_then(|host| self.state.spare(host, &demand, self.now));
        self.leases.extend(grant);
    }

    fn limit(&mut self, limits: &[(u8, u32, u32)]) {
        // Whose key is gone keeps the limits that it had, and is left out of what is checked.
        let limits = limits
            .iter()
            .map(|(client, max_concurrent, max_per_second)| {
                let limits = Limits {
                    max_concurrent: NonZeroU32::new(*max_concurrent),
                    max_per_second: NonZeroU32::new(*max_per_second),
                };
                (client.to_string(), limits)
            });
        self.limits = limits.collect();
        let limits = self.limits.iter();
        let limits = limits.map(|(name, limits)| (name.as_str().into(), *limits));
        self.state.set_limits(limits.collect());
    }

    /// Is a request held back by its client's limits?
    fn is_held_back(&self, demand: &Demand, returning: bool) -> bool {
        let client = demand.client.as_ref();
        let reached = self.state.limit_reached(client, returning, self.now);
        reached.is_some()
    }

    fn leases_of(&self, client: &str) -> usize {
        let leases = self.leases.iter();
        let demands = leases.flat_map(Grant::demands);
        let of_client = |demand: &&Demand| demand.client.as_deref() == Some(client);
        demands.filter(of_client).count()
    }

    fn line_up(&mut self, ticket: Ticket, demand: Demand, avoid: Avoid, returning: bool) {
        self.expect(ticket, demand.clone(), avoid.clone(), returning);
        self.state.join(ticket, demand, avoid, returning, self.now);
    }

    fn expect(&mut self, ticket: Ticket, demand: Demand, avoid: Avoid, returning: bool) {
        let waiter = Waiter {
            demand,
            avoid,
            joined: self.now,
            returning,
            offer: None,
        };
        self.waiting.insert(ticket, waiter);
    }

    fn tell(&mut self, which: usize, loaded: &[u8], all: Option<&[u8]>) {
        let named = |models: &[u8]| {
            let names = models.iter().map(|number| format!("embed:{number}"));
            names.collect()
        };
        let info = Info {
            loaded_models: named(loaded),
            available_models: all.map(named),
            ..Info::default()
        };
        if let Some(host) = self.host(which) {
            self.state.told(host, info);
        }
    }

    fn host(&self, number: usize) -> Option<HostId> {
        let ids: Vec<HostId> = self.state.ids().collect();
        pick(&ids, number).copied()
    }

    fn share(&mut self, which: usize) -> Result<(), TestCaseError> {
        if self.leases.is_empty() {
            return Ok(());
        }
        let at = which % self.leases.len();
        if !self.leases[at].company.is_empty() {
            return Ok(());
        }
        let mut first = self.leases.swap_remove(at);
        let demand = first.demand.clone();
        let others = self.state.ids().map(|id| (id, demand.clone())).collect();
        let somebody_waits = self.state.wants_slots(self.now);
        let granted = self
            .state
            .share_out(&mut first, demand.clone(), others, self.now);
        self.leases.push(first);
        for part in granted.into_iter().flatten() {
            prop_assert!(!somebody_waits, "a slot that somebody waits for");
            prop_assert!(
                !self.leases.iter().any(|it| it.host == part.host),
                "not idle"
            );
            self.leases.push(part);
            let client = demand.client.as_deref().unwrap_or_default();
            let limit = self.limits.get(client).and_then(|it| it.max_concurrent);
            prop_assert!(
                limit.is_none_or(|limit| self.leases_of(client) <= limit.get() as usize),
                "more leases than its limit"
            );
        }
        Ok(())
    }

    /// Ends an attempt as a dispatcher would: what failed joins the line again at its old place.
    fn finish(&mut self, lease: &Grant, outcome: Outcome) {
        let proof = self.state.finish(lease, outcome, self.now);
        if matches!(outcome, Outcome::Refused | Outcome::Broke) {
            self.suspects.insert(lease.host);
        }
        if !lease.company.is_empty() {
            return self.part(lease, outcome);
        }
        let mut avoid = self.avoids.remove(&lease.ticket).unwrap_or_default();
        match outcome {
            Outcome::Answered { .. } | Outcome::Abandoned => return,
            Outcome::Busy { .. } | Outcome::Untried => {}
            Outcome::Refused | Outcome::Misconfigured => avoid.add(lease.host, false, proof),
            Outcome::Broke | Outcome::Doubtful => avoid.add(lease.host, true, proof),
            Outcome::LacksModel => avoid.add_lack(lease.host, proof),
            // It can't be cut.
            Outcome::TooMany { .. } => avoid.set_extent(Extent::Whole),
        }
        self.line_up(lease.ticket, lease.demand.clone(), avoid, true);
    }

    /// The same for an attempt for several requests: of a busy host they may go together again, else alone.
    fn part(&mut self, lease: &Grant, outcome: Outcome) {
        for member in &lease.company {
            let avoid = self.avoids.remove(&member.ticket).unwrap_or_default();
            if matches!(outcome, Outcome::Answered { .. } | Outcome::Abandoned) {
                continue;
            }
            self.line_up(member.ticket, member.demand.clone(), avoid, true);
            if let Outcome::Busy { .. } = outcome
                && let Some(question) = self.questions.get(&member.ticket)
            {
                self.offer(member.ticket, question.clone());
            }
        }
    }

    /// Grants, then checks every invariant.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        let over: HashMap<HostId, u32> = self.overfull();
        for grant in self.state.grant(self.now) {
            self.take(grant)?;
        }
        self.dismiss()?;
        for (host, in_flight) in self.overfull() {
            // A host may shrink below what is in flight; nothing is added then.
            let before = over.get(&host).copied();
            prop_assert!(
                before.is_some_and(|before| before >= in_flight),
                "more leases than slots"
            );
        }
        self.check_counts()?;
        for host in self.state.ids().filter(|id| self.suspects.contains(id)) {
            let delay = self.state.check_delay(host, self.now);
            prop_assert!(
                delay <= timing::FIRST_RECHECK,
                "nobody looks after a suspect"
            );
        }
        self.check_nobody_waits_in_vain()
    }

    /// Takes in who was told that every host lacks the model.
    fn dismiss(&mut self) -> Result<(), TestCaseError> {
        for (ticket, _) in self.state.take_dismissed() {
            let waiter = self.waiting.remove(&ticket);
            prop_assert!(waiter.is_some(), "dismissed, but did not wait");
        }
        Ok(())
    }

    /// Hosts with more leases out than slots.
    fn overfull(&self) -> HashMap<HostId, u32> {
        // What may be there as a last resort depends on the model.
        let slots = |host: &Host| match host.health.phase() {
            Phase::Ejected { cause, .. } if cause.is_soft() => 1,
            Phase::NotReady { .. } => host.capacity.slots(),
            // One may wait there behind those of others.
            _ if host.capacity.foreign() > 0 && host.is_serving() => host.slots().max(1),
            _ => host.slots(),
        };
        let over = self
            .state
            .hosts
            .iter()
            .filter(|host| host.in_flight > slots(host));
        over.map(|host| (host.id, host.in_flight)).collect()
    }

    fn take(&mut self, grant: Grant) -> Result<(), TestCaseError> {
        let Some(waiter) = self.waiting.remove(&grant.ticket) else {
            return Err(TestCaseError::fail("a lease for nobody, or a second one"));
        };
        let overtaken = self.waiting.iter().any(|(ticket, other)| {
            *ticket < grant.ticket
                && !other.returning
                && !waiter.returning
                && equal(&other.demand, &waiter.demand)
        });
        prop_assert!(!overtaken, "an equal was overtaken");
        let outranked = self.waiting.values().any(|other| {
            !other.returning
                && !self.is_held_back(&other.demand, false)
                && !waiter.returning
                && other.demand.model == waiter.demand.model
                && other.demand.space == waiter.demand.space
                && other.demand.priority > waiter.demand.priority
        });
        prop_assert!(!outranked, "a higher priority was overtaken");
        self.check_model(&grant, &waiter)?;
        self.take_company(&grant, &waiter)?;
        self.avoids.insert(grant.ticket, waiter.avoid);
        let demands: Vec<_> = grant.demands().cloned().collect();
        self.leases.push(grant);
        for (client, limits) in &self.limits {
            let is_theirs = |demand: &Demand| demand.client.as_deref() == Some(client);
            let theirs = demands.iter().any(is_theirs);
            let limit = limits.max_concurrent.filter(|_| theirs);
            prop_assert!(
                limit.is_none_or(|limit| self.leases_of(client) <= limit.get() as usize),
                "more leases than its limit"
            );
        }
        Ok(())
    }

    /// Who goes along has waited with the same question, and has overtaken nobody with it.
    fn take_company(&mut self, grant: &Grant, first: &Waiter) -> Result<(), TestCaseError> {
        let Some(offer) = first.offer.as_ref().filter(|_| !grant.company.is_empty()) else {
            prop_assert!(grant.company.is_empty(), "company without an offer");
            return Ok(());
        };
        let question = &offer.question;
        prop_assert_eq!(grant.company[0].ticket, grant.ticket);
        let items: u32 = grant.company.iter().map(|it| it.demand.work.items).sum();
        prop_assert_eq!(items, grant.demand.work.items);
        prop_assert!(items <= MOST, "more than a host takes");
        let asks = |waiter: &Waiter| waiter.offer.as_ref().map(|it| it.question.clone());
        self.questions.insert(grant.ticket, question.clone());
        for member in &grant.company[1..] {
            let Some(waiter) = self.waiting.remove(&member.ticket) else {
                return Err(TestCaseError::fail("it did not wait"));
            };
            prop_assert_eq!(asks(&waiter), Some(question.clone()));
            self.check_model(grant, &waiter)?;
            let passed_over = self.waiting.iter().any(|(ticket, other)| {
                let is_before = match (other.returning, waiter.returning) {
                    (true, false) => true,
                    (false, true) => false,
                    _ => {
                        let (one, two) = (&other.demand, &waiter.demand);
                        one.priority > two.priority || (*ticket < member.ticket && equal(one, two))
                    }
                };
                is_before
                    && asks(other).as_ref() == Some(question)
                    && !self.is_held_back(&other.demand, other.returning)
                    && !grant.company.iter().any(|it| it.ticket == *ticket)
            });
            prop_assert!(!passed_over, "one that asks the same was overtaken");
            self.avoids.insert(member.ticket, waiter.avoid);
            self.questions.insert(member.ticket, question.clone());
        }
        Ok(())
    }

    /// No request goes to a host that is known to lack its model while another might have it that serves, is not
    /// checked yet or was seen with it, nor to one that is not ready while another could serve it.
    fn check_model(&self, grant: &Grant, waiter: &Waiter) -> Result<(), TestCaseError> {
        let model = waiter.demand.model.as_ref();
        let lacks = |host: &Host| {
            let shown = waiter.avoid.lacked_on(host.id, host.models.generation());
            let known = model.is_some_and(|model| host.models.lack(model, self.now).is_some());
            shown || known
        };
        let is_hopeless = |host: &Host| {
            let was_known = model.is_some_and(|model| host.models.was_known(model));
            let is_unknown = host.health.phase() == Phase::Unknown;
            lacks(host) || !(host.is_in_rotation() || is_unknown || was_known)
        };
        let mut hosts = self.state.hosts();
        let Some(chosen) = self.state.host(grant.host) else {
            return Ok(());
        };
        prop_assert!(
            !lacks(chosen) || hosts.all(is_hopeless),
            "it lacks the model"
        );
        let audit = |host: &Host| model.and_then(|model| host.models.audit(model).cloned());
        prop_assert!(
            !audit(chosen).as_ref().is_some_and(Audited::is_out),
            "it answers wrong"
        );
        let wanted = waiter.demand.space.filter(|_| model.is_some());
        let fits = |host: &Host| {
            let space = audit(host).and_then(|audited| audited.space);
            !lacks(host) && (wanted.is_none() || space == wanted)
        };
        let mut others = self.state.hosts();
        prop_assert!(
            fits(chosen) || others.all(is_hopeless),
            "its vectors lie elsewhere"
        );
        let is_whole = waiter.avoid.extent() == Extent::Whole;
        let takes = |host: &Host| {
            let may = host.is_serving() && !waiter.avoid.is_closed(host.id);
            may && fits(host) && host.takes(waiter.demand.work.items, self.now)
        };
        prop_assert!(
            !is_whole || takes(chosen) || !self.state.hosts().any(takes),
            "it is more than the host takes, and another takes it"
        );
        let mut hosts = self.state.hosts();
        let is_ready = chosen.health.phase().is_serving();
        prop_assert!(
            is_ready || !hosts.any(|host| host.is_serving() && fits(host)),
            "another could serve it"
        );
        Ok(())
    }

    fn check_counts(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.state.waiting(), self.waiting.len());
        for host in &self.state.hosts {
            let held = self.leases.iter().filter(|lease| lease.host == host.id);
            prop_assert_eq!(host.in_flight as usize, held.count());
            let running = self.state.running.keys();
            let running = running.filter(|(_, on)| *on == host.id);
            prop_assert_eq!(host.in_flight as usize, running.count());
            prop_assert!(
                !host.removed || host.in_flight > 0,
                "a removed host is kept for nothing"
            );
        }
        let known = |lease: &Grant| self.state.host(lease.host).is_some();
        prop_assert!(
            self.leases.iter().all(known),
            "a host was forgotten with a lease out"
        );
        Ok(())
    }

    /// No request waits that a free slot could serve, but for a host that has its model, and for that
    /// no longer than a load takes.
    fn check_nobody_waits_in_vain(&mut self) -> Result<(), TestCaseError> {
        for (ticket, waiter) in &self.waiting {
            if self.is_held_back(&waiter.demand, waiter.returning) {
                let runs = self.leases_of(waiter.demand.client.as_deref().unwrap_or_default()) > 0;
                prop_assert!(
                    runs || self.state.next_wakeup(self.now).is_some(),
                    "nobody will look again for one that is held back"
                );
                continue;
            }
            let entry = Entry {
                demand: waiter.demand.clone(),
                avoid: waiter.avoid.clone(),
                joined: waiter.joined,
                seconds: self.state.estimator.seconds(&waiter.demand),
                sure: 0.0,
                returning: waiter.returning,
                offer: None,
                sharing: None,
            };
            let scene = Scene {
                hosts: &self.state.hosts,
                policy: self.state.settings.policy,
                estimator: &self.state.estimator,
                now: self.now,
            };
            let model = entry.demand.model.as_ref();
            let reach = Reach::new(&self.state.hosts, model, &entry.avoid, self.now);
            prop_assert!(
                model.is_none() || reach.withheld().is_none(),
                "no host will serve {ticket:?}, which waits"
            );
            let line = self.state.queue.line_of(&entry);
            match scene.place(&entry, line) {
                Placement::Nowhere => {}
                Placement::Later(until) => {
                    let wakeup = self.state.next_wakeup(self.now);
                    prop_assert!(
                        wakeup.is_some_and(|at| at <= until),
                        "nobody will look again"
                    );
                }
                Placement::On { host, .. } => {
                    return Err(TestCaseError::fail(format!(
                        "{ticket:?} waits though {host:?} is free"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// What requests for each model take: half of it however few items they have, as far as the pool can tell.
fn teach(state: &mut State) {
    let ids: Vec<_> = state.ids().collect();
    for (id, number) in ids.into_iter().flat_map(|id| [(id, 1), (id, 2)]) {
        let Some(host) = find(&state.hosts, id).and_then(|at| state.hosts.get_mut(at)) else {
            continue;
        };
        for _ in 0..20 {
            let demand = Demand {
                model: model(number),
                work: WORK,
                ..Demand::default()
            };
            let took = Duration::from_millis(100);
            state.estimator.record(&demand, &mut host.slowness, took);
        }
    }
}

fn equal(a: &Demand, b: &Demand) -> bool {
    (&a.client, a.priority, &a.model, a.space) == (&b.client, b.priority, &b.model, b.space)
}

fn pick<T>(items: &[T], number: usize) -> Option<&T> {
    items.get(number.checked_rem(items.len())?)
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::LeastBusy),
        Just(Policy::RoundRobin),
        Just(Policy::LeastVram),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_in_every_history(
        policy in policy(),
        hosts in prop::collection::vec((0..6u8, 0..4u32), 1..5),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(policy, &hosts);
        for step in steps {
            world.apply(step)?;
            world.settle()?;
        }
    }

    #[test]
    fn who_need_not_wait_gets_what_the_line_would_give(
        policy in policy(),
        hosts in prop::collection::vec((0..6u8, 0..4u32), 1..5),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut with = World::new(policy, &hosts);
        let mut without = World { at_once: false, ..World::new(policy, &hosts) };
        for step in steps {
            for world in [&mut with, &mut without] {
                world.apply(step.clone())?;
                world.settle()?;
            }
            let leases = [&with, &without].map(|world| {
                let leases = world.leases.iter();
                leases.map(|it| (it.ticket, it.host, it.cold)).collect::<Vec<_>>()
            });
            prop_assert_eq!(&leases[0], &leases[1]);
        }
    }

    #[test]
    fn being_busy_never_ejects(
        answers in prop::collection::vec((0..100u64, any::<bool>()), 1..200),
    ) {
        let mut world = World::new(Policy::LeastBusy, &[(0, 2), (1, 2)]);
        let host = world.host(0).unwrap();
        for (seconds, by_check) in answers {
            let retry_after = Duration::from_secs(seconds);
            if by_check {
                world.state.checked(host, &Check::Busy { retry_after }, world.now);
            } else {
                world.arrive(0, 0, 0, None, 0, None)?;
                for grant in std::mem::take(&mut world.leases) {
                    world.state.finish(&grant, Outcome::Busy { retry_after }, world.now);
                }
            }
            world.now += Duration::from_millis(seconds * 10);
            prop_assert_eq!(world.state.host(host).unwrap().health.phase(), Phase::Up);
        }
    }
}
