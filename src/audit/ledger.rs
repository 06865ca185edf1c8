//! What is known of each host and model, and whom to ask next. Pure: the time is passed in.
//!
//! A model is asked about when a host first has it in memory, whenever the host may have restarted, and
//! then at intervals: longer ones while nothing is wrong. Nothing is asked about that is not in memory,
//! since a question would load it, and perhaps evict another.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::judge::{Heard, Rule, Said, Witness, judge};
use crate::config;
use crate::embedding::Vectors;
use crate::pool::{Auditable, Audited, HostId, Model, Trust};

/// Models of one host that are audited: so many take a hundredth of a slot's time at most. Servers of
/// adapters may have thousands in memory.
const MOST_MODELS: usize = 16;
/// A host that gave no answer, or a wrong one, is asked again after this share of the interval.
const SOONER: u32 = 10;
/// What a host said holds until it has been asked so many times in vain.
const MOST_FAILURES: u32 = 3;
/// So long after it may have restarted a host that serves should have told what it has in memory.
const GRACE: Duration = Duration::from_mins(1);
/// Those that have answered wait for one that is being asked for so long before they are judged without it.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Default)]
pub(super) struct Ledger {
    rules: Option<config::Audit>,
    hosts: HashMap<HostId, Known>,
    /// What was right when that was last known, by model.
    right: HashMap<Model, Right>,
    /// Models of which something has changed since they were judged.
    unjudged: BTreeSet<Model>,
}

struct Right {
    vectors: Vectors,
    /// It still is.
    is_known: bool,
}

#[derive(Default)]
struct Known {
    generation: u64,
    /// Texts that it takes at once, as far as is known.
    most: Option<NonZeroU32>,
    models: BTreeMap<Model, Entry>,
    /// Since when it has been asked about one, if it is.
    asked: Option<Instant>,
}

struct Entry {
    /// Of the host's models, when it was asked last.
    generation: u64,
    /// When it is to be asked about next.
    due: Instant,
    is_loaded: bool,
    /// It shows up for the first time: whoever judges should wait for what the host says.
    is_awaited: bool,
    said: Option<Said>,
    /// Of the host's models, when it said that.
    said_in: u64,
    /// How often in a row nothing came that could be judged.
    failures: u32,
    /// Why, if that is to be told.
    why: Option<Arc<str>>,
    trust: Option<Trust>,
}

/// One question to one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) host: HostId,
    pub(super) model: Model,
    /// Texts that it is to be asked for at once.
    pub(super) most: usize,
    /// Of the host's models, when it was asked.
    generation: u64,
}

impl Ledger {
    /// These are the hosts now. Returns of which host and model nothing is known any more.
    pub(super) fn follow(
        &mut self,
        hosts: &[(HostId, Auditable)],
        now: Instant,
    ) -> Vec<(HostId, Model)> {
        let present: HashSet<HostId> = hosts.iter().map(|(id, _)| *id).collect();
        let gone = self.hosts.extract_if(|id, _| !present.contains(id));
        let gone = gone.flat_map(|(id, known)| {
            let models = known.models.into_keys();
            models.map(move |model| (id, model))
        });
        let mut forgotten: Vec<_> = gone.collect();
        for (id, host) in hosts {
            let known = self.hosts.entry(*id).or_default();
            let gone = known.follow(host, now);
            self.unjudged.extend(known.outdated(host, now));
            forgotten.extend(gone.into_iter().map(|model| (*id, model)));
        }
        let models = forgotten.iter().map(|(_, model)| model.clone());
        self.unjudged.extend(models);
        forgotten
    }

    /// Whom to ask now, one question for each host.
    pub(super) fn due(&self, now: Instant) -> Vec<Question> {
        let idle = self.hosts.iter().filter(|(_, known)| known.asked.is_none());
        let due = idle.filter_map(|(host, known)| {
            let models = known.models.iter();
            let due = models.filter(|(_, entry)| entry.is_loaded && entry.due <= now);
            let (model, _) = due.min_by_key(|(_, entry)| entry.due)?;
            Some(Question {
                host: *host,
                model: model.clone(),
                most: known.most.map_or(usize::MAX, |most| most.get() as usize),
                generation: known.generation,
            })
        });
        due.collect()
    }

    /// The host of `question` is being asked.
    pub(super) fn asks(&mut self, question: &Question, now: Instant) {
        if let Some(known) = self.hosts.get_mut(&question.host) {
            known.asked = Some(now);
        }
    }

    /// The host of `question` can't be asked now.
    pub(super) fn passes_over(&mut self, question: &Question) {
        let known = self.hosts.get_mut(&question.host);
        if let Some(entry) = known.and_then(|known| known.models.get_mut(&question.model)) {
            entry.is_awaited = false;
        }
    }

    /// What came of it. `next`: when to ask again if all is well.
    pub(super) fn hears(
        &mut self,
        question: &Question,
        heard: Heard,
        next: Duration,
        now: Instant,
    ) {
        let heard = match heard {
            Heard::Said(said) => Heard::Said(self.shared(&question.model, said)),
            other => other,
        };
        let Some(known) = self.hosts.get_mut(&question.host) else {
            return;
        };
        known.asked = None;
        let is_current = known.generation == question.generation;
        let Some(entry) = known.models.get_mut(&question.model) else {
            return;
        };
        entry.is_awaited = false;
        entry.due = match (is_current, &heard) {
            (true, Heard::Said(_)) => now + next,
            (true, Heard::Unjudged(_) | Heard::Passing(_)) => now + next / SOONER,
            // Perhaps it was another process that answered.
            (false, _) => now,
        };
        entry.generation = question.generation;
        if entry.hears(heard, is_current) {
            self.unjudged.insert(question.model.clone());
        }
    }

    /// Most hosts say the same to the last bit: it is kept once.
    fn shared(&self, model: &Model, said: Said) -> Said {
        let Said::Vectors(vectors) = &said else {
            return said;
        };
        let others = self
            .hosts
            .values()
            .filter_map(|known| known.models.get(model));
        let same = others.filter_map(|entry| match &entry.said {
            Some(Said::Vectors(other)) if other == vectors => Some(other.clone()),
            _ => None,
        });
        same.into_iter().next().map_or(said, Said::Vectors)
    }

    /// Judges by these from now on. If they are others than before, all are asked and judged anew.
    pub(super) fn set_rules(&mut self, rules: &config::Audit, now: Instant) {
        if self.rules.as_ref() == Some(rules) {
            return;
        }
        self.rules = Some(rules.clone());
        for known in self.hosts.values_mut() {
            for (model, entry) in &mut known.models {
                entry.due = now;
                self.unjudged.insert(model.clone());
            }
        }
    }

    /// How each host stands with the models of which something has changed. One that is wrong is asked again
    /// soon: it gets no requests until it is found right.
    pub(super) fn judge(&mut self, now: Instant) -> Vec<(HostId, Model, Audited)> {
        let mut found = Vec::new();
        let interval = self.rules.as_ref().map_or(Duration::ZERO, |it| it.interval);
        for model in std::mem::take(&mut self.unjudged) {
            if self.awaits(&model, now) {
                self.unjudged.insert(model);
                continue;
            }
            let hosts = self.hosts.iter_mut();
            let entries = hosts.filter_map(|(host, it)| Some((*host, it.models.get_mut(&model)?)));
            let (mut asked, unheard): (Vec<_>, Vec<_>) =
                entries.partition(|(_, entry)| entry.said.is_some());
            for (host, entry) in unheard {
                if let Some(audited) = entry.unknown() {
                    entry.trust = Some(audited.trust);
                    found.push((host, model.clone(), audited));
                }
            }
            // So that chance does not decide which of several opinions is told.
            asked.sort_by_key(|(host, _)| *host);
            let witnesses = asked.iter().filter_map(|(_, entry)| {
                Some(Witness {
                    said: entry.said.as_ref()?,
                    is_out: entry.trust == Some(Trust::Deviates),
                })
            });
            let rule = Rule {
                min_cosine: self
                    .rules
                    .as_ref()
                    .map_or_else(Default::default, |it| it.min_cosine),
                pinned: pinned(self.rules.as_ref(), &model),
                before: self.right.get(&model).map(|it| &it.vectors),
            };
            let judged = judge(rule, &witnesses.collect::<Vec<_>>());
            let is_told = !asked.is_empty();
            for ((host, entry), audited) in asked.into_iter().zip(judged.found) {
                entry.trust = Some(audited.trust);
                if audited.trust == Trust::Deviates {
                    entry.due = entry.due.min(now + interval / SOONER);
                }
                found.push((host, model.clone(), audited));
            }
            self.now_right(model, judged.right, is_told);
        }
        found
    }

    /// While hosts disagree it is remembered what was right before: one of them may say so again. `is_told`: some host
    /// says something of the model.
    fn now_right(&mut self, model: Model, right: Option<Vectors>, is_told: bool) {
        if let Some(vectors) = right {
            let is_known = true;
            self.right.insert(model, Right { vectors, is_known });
        } else if !is_told {
            self.right.remove(&model);
        } else if let Some(right) = self.right.get_mut(&model) {
            right.is_known = false;
        }
    }

    /// Is a host about to say for the first time what it makes of `model`? Of those that show up together
    /// the first few are no majority; but one that hangs keeps nobody from being judged.
    fn awaits(&self, model: &Model, now: Instant) -> bool {
        let hangs = |asked| now.saturating_duration_since(asked) >= PATIENCE;
        let mut hosts = self.hosts.values();
        hosts.any(|known| {
            let entry = known.models.get(model);
            let is_awaited = entry.is_some_and(|entry| entry.is_loaded && entry.is_awaited);
            is_awaited && !known.asked.is_some_and(hangs)
        })
    }

    /// What `host` says of its models; for `None`: what is right.
    pub(super) fn vectors(&self, host: Option<HostId>) -> BTreeMap<String, Vectors> {
        let named = |model: &Model, vectors: &Vectors| (model.as_str().to_owned(), vectors.clone());
        let Some(host) = host else {
            let right = self.right.iter().filter(|(_, right)| right.is_known);
            return right
                .map(|(model, right)| named(model, &right.vectors))
                .collect();
        };
        let models = self
            .hosts
            .get(&host)
            .into_iter()
            .flat_map(|known| &known.models);
        let said =
            models.filter_map(|(model, entry)| Some(named(model, entry.said.as_ref()?.vectors()?)));
        said.collect()
    }
}

fn pinned<'a>(rules: Option<&'a config::Audit>, model: &Model) -> Option<&'a Vectors> {
    let pinned = rules?.reference.as_ref()?;
    pinned.reference.models.get(model.as_str())
}

impl Entry {
    /// Returns whether that is to be judged anew. `is_current`: no other process may have taken the host's place since it
    /// was asked.
    fn hears(&mut self, heard: Heard, is_current: bool) -> bool {
        let (why, passes) = match heard {
            Heard::Said(said) => {
                self.said = Some(said);
                (self.said_in, self.failures, self.why) = (self.generation, 0, None);
                return true;
            }
            Heard::Unjudged(why) => (why, false),
            Heard::Passing(why) => (why, true),
        };
        self.failures += 1;
        let is_lasting = self.failures >= MOST_FAILURES;
        if passes && !is_lasting {
            return false;
        }
        self.why = Some(why.into());
        // Another process said it. But one that is out stays out until it agrees.
        let is_of_another = is_current && self.said_in != self.generation;
        if (is_lasting || is_of_another) && self.trust != Some(Trust::Deviates) {
            self.said = None;
        }
        true
    }

    /// What follows for one of which nothing is known that could be judged.
    fn unknown(&self) -> Option<Audited> {
        let why = self.why.as_ref().filter(|_| self.said.is_none())?;
        Some(Audited {
            trust: Trust::Unknown,
            space: None,
            cosine: None,
            why: Some(Arc::clone(why)),
        })
    }
}

impl Known {
    /// Returns of which models nothing is known any more.
    fn follow(&mut self, host: &Auditable, now: Instant) -> Vec<Model> {
        self.most = host.most_items;
        if self.generation != host.generation {
            self.generation = host.generation;
            for entry in self.models.values_mut() {
                entry.due = now;
                entry.is_loaded = false;
            }
        }
        let Some(loaded) = &host.loaded else {
            return Vec::new();
        };
        let mut gone = self.unload(loaded);
        for model in loaded {
            if !self.models.contains_key(model) && self.models.len() >= MOST_MODELS {
                let Some(other) = self.replaceable() else {
                    continue;
                };
                self.models.remove(&other);
                gone.push(other);
            }
            let generation = self.generation;
            let entry = self.models.entry(model.clone()).or_insert(Entry {
                generation,
                due: now,
                is_loaded: false,
                is_awaited: true,
                said: None,
                said_in: generation,
                failures: 0,
                why: None,
                trust: None,
            });
            if !entry.is_loaded {
                entry.is_loaded = true;
                entry.due = now;
            }
        }
        gone
    }

    /// What another process said of models that a host which serves does not tell of any more does not hold for ever.
    /// But one that is out stays out. Returns these models.
    fn outdated(&mut self, host: &Auditable, now: Instant) -> Vec<Model> {
        let mut found = Vec::new();
        for (model, entry) in &mut self.models {
            let is_of_another = entry.said.is_some() && entry.said_in != self.generation;
            if !is_of_another || entry.is_loaded || entry.trust == Some(Trust::Deviates) {
                continue;
            }
            if !host.is_serving {
                entry.due = now;
            } else if now.saturating_duration_since(entry.due) >= GRACE {
                entry.said = None;
                entry.why = Some("since it may have restarted it has not told its models".into());
                found.push(model.clone());
            }
        }
        found
    }

    /// What is not in memory any more can't be asked about, but still holds, until the host may have
    /// other files.
    fn unload(&mut self, loaded: &[Model]) -> Vec<Model> {
        let generation = self.generation;
        let mut gone = Vec::new();
        self.models.retain(|model, entry| {
            entry.is_loaded &= loaded.contains(model);
            let stays = entry.generation == generation || loaded.contains(model);
            if !stays {
                gone.push(model.clone());
            }
            stays
        });
        gone
    }

    /// A model that may be forgotten for another.
    fn replaceable(&self) -> Option<Model> {
        let mut models = self.models.iter();
        let is_idle = |entry: &Entry| !entry.is_loaded && entry.trust != Some(Trust::Deviates);
        let found = models.find(|(_, entry)| is_idle(entry));
        found.map(|(model, _)| model.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedding::testing::{model as numbers, vectors};

    const INTERVAL: Duration = Duration::from_mins(10);

    fn model(name: &str) -> Model {
        Model::new(&format!("embed:{name}")).unwrap()
    }

    fn host(number: u64) -> HostId {
        HostId::for_testing(number)
    }

    fn with(generation: u64, loaded: &[&str]) -> Auditable {
        let loaded = loaded.iter().map(|name| model(name));
        Auditable {
            generation,
            most_items: None,
            loaded: Some(loaded.collect()),
            is_serving: true,
        }
    }

    fn untold(generation: u64) -> Auditable {
        Auditable {
            generation,
            most_items: None,
            loaded: None,
            is_serving: true,
        }
    }

    fn said(seed: u64) -> Heard {
        Heard::Said(Said::Vectors(vectors(numbers(seed, 16))))
    }

    fn passing() -> Heard {
        Heard::Passing("it is full".to_owned())
    }

    /// A ledger, and the time.
    struct Scene(Ledger, Instant);

    impl Scene {
        fn new() -> Self {
            Self(Ledger::default(), Instant::now())
        }

        fn follow(&mut self, hosts: &[Auditable]) -> Vec<(HostId, Model)> {
            let hosts = hosts.iter().enumerate();
            let hosts = hosts.map(|(number, it)| (host(number as u64), it.clone()));
            self.0.follow(&hosts.collect::<Vec<_>>(), self.1)
        }

        fn due(&self) -> Vec<(u64, String)> {
            let due = self.0.due(self.1).into_iter();
            let number = |id| (0..9).find(|number| host(*number) == id).unwrap();
            let due = due.map(|it| (number(it.host), it.model.name().to_owned()));
            let mut due: Vec<_> = due.collect();
            due.sort();
            due
        }

        /// Asks all that are due; host `n` says what `answers[n]` is.
        fn ask(&mut self, answers: &[Heard]) -> Vec<(HostId, Model, Audited)> {
            for question in self.0.due(self.1) {
                self.0.asks(&question, self.1);
                let number = (0..9).find(|it| host(*it) == question.host).unwrap();
                let said = answers[usize::try_from(number).unwrap()].clone();
                self.0.hears(&question, said, INTERVAL, self.1);
            }
            self.0.judge(self.1)
        }
    }

    #[test]
    fn a_model_is_asked_about_when_it_shows_up_and_at_intervals() {
        let mut scene = Scene::new();
        scene.follow(&[with(1, &["a"]), untold(1)]);
        assert_eq!(
            scene.due(),
            [(0, "a".to_owned())],
            "nothing of one that tells nothing"
        );
        scene.ask(&[said(1)]);
        assert!(scene.due().is_empty());
        scene.follow(&[with(1, &["a", "b"]), with(1, &[])]);
        assert_eq!(scene.due(), [(0, "b".to_owned())]);
        scene.ask(&[passing()]);
        assert!(scene.due().is_empty(), "no answer: later");
        scene.1 += INTERVAL / SOONER;
        assert_eq!(scene.due(), [(0, "b".to_owned())]);
        scene.ask(&[said(1)]);
        scene.1 += INTERVAL / SOONER * (SOONER - 1);
        assert_eq!(scene.due(), [(0, "a".to_owned())]);
    }

    #[test]
    fn who_turns_out_to_be_wrong_is_asked_again_soon() {
        let mut scene = Scene::new();
        let rules = config::Audit {
            enabled: true,
            interval: INTERVAL,
            min_cosine: config::MinCosine::default(),
            reference: None,
        };
        scene.0.set_rules(&rules, scene.1);
        scene.follow(&[with(1, &["a"]), with(1, &["a"]), with(1, &["a"])]);
        scene.ask(&[said(1), said(2), said(1)]);
        assert!(scene.due().is_empty());
        scene.1 += INTERVAL / SOONER;
        assert_eq!(scene.due(), [(1, "a".to_owned())]);
        let found = scene.ask(&[passing(), said(1), passing()]);
        assert!(found.iter().all(|(_, _, it)| it.trust == Trust::Agrees));
        scene.1 += INTERVAL / SOONER;
        assert!(scene.due().is_empty(), "it is right now");
    }

    #[test]
    fn those_that_show_up_together_are_judged_together_unless_one_can_not_be_asked() {
        let mut scene = Scene::new();
        scene.follow(&[with(1, &["a"]), with(1, &["a"]), with(1, &["a"])]);
        let questions = scene.0.due(scene.1);
        for (question, seed) in questions[..2].iter().zip([1, 2]) {
            scene.0.asks(question, scene.1);
            scene.0.hears(question, said(seed), INTERVAL, scene.1);
        }
        assert!(scene.0.judge(scene.1).is_empty());
        scene.0.passes_over(&questions[2]);
        assert_eq!(scene.0.judge(scene.1).len(), 2);
    }

    #[test]
    fn one_that_hangs_keeps_the_others_waiting_for_a_moment_only() {
        let mut scene = Scene::new();
        scene.follow(&[with(1, &["a"]), with(1, &["a"]), with(1, &["a"])]);
        for (question, seed) in scene.0.due(scene.1).iter().zip([Some(1), Some(1), None]) {
            scene.0.asks(question, scene.1);
            if let Some(seed) = seed {
                scene.0.hears(question, said(seed), INTERVAL, scene.1);
            }
        }
        assert!(scene.0.judge(scene.1).is_empty(), "the third may answer");
        scene.1 += PATIENCE;
        let found = scene.0.judge(scene.1);
        let trusts: Vec<_> = found.iter().map(|(_, _, it)| it.trust).collect();
        assert_eq!(trusts, [Trust::Agrees; 2]);
    }

    #[test]
    fn what_was_right_before_hosts_disagreed_is_right_when_one_says_so_again() {
        let mut scene = Scene::new();
        scene.follow(&[with(1, &["a"]), with(1, &["a"]), with(1, &["a"])]);
        scene.ask(&[said(1), said(1), said(1)]);
        scene.1 += 2 * INTERVAL;
        let found = scene.ask(&[said(2), said(3), said(4)]);
        assert!(found.iter().all(|(_, _, it)| it.trust == Trust::Disputed));
        assert!(
            scene.0.vectors(None).is_empty(),
            "nobody knows what is right"
        );
        scene.1 += 2 * INTERVAL;
        let found = scene.ask(&[said(1), said(3), said(4)]);
        let trusts: Vec<_> = found.iter().map(|(_, _, it)| it.trust).collect();
        let expected = [Trust::Agrees, Trust::Deviates, Trust::Deviates];
        assert_eq!(trusts, expected);
    }

    #[test]
    fn a_host_that_can_not_be_judged_is_unknown_at_once_or_when_it_has_failed_for_long() {
        let mut scene = Scene::new();
        let fails = || Heard::Unjudged("it answered 422".to_owned());
        scene.follow(&[with(1, &["a"]), with(1, &["a"]), with(1, &["a"])]);
        let trusts = |found: Vec<(HostId, Model, Audited)>| {
            let mut found: Vec<_> = found
                .into_iter()
                .map(|(id, _, it)| (id, it.trust))
                .collect();
            found.sort_by_key(|(id, _)| *id);
            found.into_iter().map(|(_, it)| it).collect::<Vec<_>>()
        };
        let found = scene.ask(&[said(1), said(1), fails()]);
        let why = found.iter().find_map(|(_, _, it)| it.why.clone());
        assert_eq!(why.as_deref(), Some("it answered 422"));
        assert_eq!(
            trusts(found),
            [Trust::Agrees, Trust::Agrees, Trust::Unknown]
        );
        for round in 1..=MOST_FAILURES {
            scene.1 += 2 * INTERVAL;
            let expected = match round {
                MOST_FAILURES => [Trust::Agrees, Trust::Unknown, Trust::Agrees],
                _ => [Trust::Agrees; 3],
            };
            let found = trusts(scene.ask(&[said(1), fails(), said(1)]));
            assert_eq!(found, expected, "{round}");
        }
        scene.1 += 2 * INTERVAL;
        assert_eq!(
            trusts(scene.ask(&[said(1), said(2), said(1)]))[1],
            Trust::Deviates
        );
        for _ in 0..=MOST_FAILURES {
            scene.1 += 2 * INTERVAL;
            let found = trusts(scene.ask(&[said(1), fails(), said(1)]));
            assert_eq!(found[1], Trust::Deviates, "it is out until it agrees");
        }
        scene.1 += 2 * INTERVAL;
        let found = trusts(scene.ask(&[said(1), passing(), said(1)]));
        assert_eq!(found[1], Trust::Deviates);
    }

    #[test]
    fn a_host_that_may_have_restarted_and_can_not_be_judged_is_unknown_at_once_and_a_full_one_after_a_while()
     {
        let mut scene = Scene::new();
        let hosts = |generation| [with(1, &["a"]), with(generation, &["a"])];
        let trust = |found: &[(HostId, Model, Audited)]| {
            let of = found.iter().find(|(id, ..)| *id == host(1));
            of.map(|(_, _, it)| it.trust)
        };
        scene.follow(&hosts(1));
        assert_eq!(trust(&scene.ask(&[said(1), said(1)])), Some(Trust::Agrees));
        scene.follow(&hosts(2));
        let fails = Heard::Unjudged("it answered 500".to_owned());
        assert_eq!(trust(&scene.ask(&[said(1), fails])), Some(Trust::Unknown));
        scene.1 += 2 * INTERVAL;
        assert_eq!(trust(&scene.ask(&[said(1), said(1)])), Some(Trust::Agrees));
        for round in 1..=MOST_FAILURES {
            scene.1 += 2 * INTERVAL;
            let expected = if round < MOST_FAILURES {
                Trust::Agrees
            } else {
                Trust::Unknown
            };
            assert_eq!(
                trust(&scene.ask(&[said(1), passing()])),
                Some(expected),
                "{round}"
            );
        }
    }

    #[test]
    fn one_question_at_a_time() {
        let mut scene = Scene::new();
        scene.follow(&[with(1, &["a", "b"])]);
        let question = scene.0.due(scene.1).remove(0);
        scene.0.asks(&question, scene.1);
        assert!(scene.due().is_empty());
        scene.0.hears(&question, passing(), INTERVAL, scene.1);
        assert_eq!(scene.due().len(), 1, "the other");
    }

    #[test]
    fn a_host_that_never_tells_its_models_again_is_unknown_once_it_has_served_for_a_while() {
        let mut scene = Scene::new();
        let first = with(1, &["a"]);
        scene.follow(&[first.clone(), first.clone()]);
        scene.ask(&[said(1), said(1)]);
        let down = Auditable {
            is_serving: false,
            ..untold(2)
        };
        for (now, after) in [(&down, GRACE), (&down, GRACE / 2), (&untold(2), GRACE / 4)] {
            scene.follow(&[first.clone(), now.clone()]);
            assert!(scene.ask(&[said(1)]).is_empty());
            scene.1 += after;
        }
        scene.follow(&[first.clone(), untold(2)]);
        assert!(scene.ask(&[said(1)]).is_empty());
        scene.1 += GRACE / 2;
        scene.follow(&[first.clone(), untold(2)]);
        let trust = |found: Vec<(HostId, Model, Audited)>| {
            let found = found.into_iter().find(|(id, ..)| *id == host(1));
            found.map(|(_, _, audited)| audited.trust)
        };
        assert_eq!(trust(scene.ask(&[said(1)])), Some(Trust::Unknown));
        scene.follow(&[first.clone(), with(2, &["a"])]);
        assert_eq!(trust(scene.ask(&[said(1), said(1)])), Some(Trust::Agrees));
    }

    #[test]
    fn a_host_that_may_have_restarted_is_asked_at_once_and_what_it_said_before_holds_until_then() {
        let mut scene = Scene::new();
        let hosts = |generation, third| {
            [
                with(1, &["a"]),
                with(1, &["a"]),
                third,
                with(generation, &[]),
            ]
        };
        scene.follow(&hosts(1, with(1, &["a"])));
        let found = scene.ask(&[said(1), said(1), said(2), passing()]);
        let is_out = |found: &[(HostId, Model, Audited)]| {
            found.iter().any(|(_, _, it)| it.trust == Trust::Deviates)
        };
        assert!(is_out(&found));
        // It is down, then up, but has not told yet.
        assert!(scene.follow(&hosts(1, untold(2))).is_empty(), "still out");
        assert!(scene.due().is_empty(), "nothing would be in memory");
        assert!(
            scene.follow(&hosts(1, with(2, &["a"]))).is_empty(),
            "still out"
        );
        assert_eq!(scene.due(), [(2, "a".to_owned())]);
        assert!(!is_out(&scene.ask(&[
            passing(),
            passing(),
            said(1),
            passing()
        ])));
    }

    #[test]
    fn what_is_not_in_memory_is_not_asked_about_and_holds_until_there_may_be_other_files() {
        let mut scene = Scene::new();
        scene.follow(&[with(1, &["a"])]);
        scene.ask(&[said(1)]);
        assert!(scene.follow(&[with(1, &[])]).is_empty(), "evicted");
        scene.1 += INTERVAL;
        assert!(scene.due().is_empty());
        scene.follow(&[with(1, &["a"])]);
        assert_eq!(
            scene.due(),
            [(0, "a".to_owned())],
            "loaded again, from what is there now"
        );
        scene.ask(&[said(1)]);
        let forgotten = scene.follow(&[with(2, &[])]);
        assert_eq!(forgotten, [(host(0), model("a"))]);
    }

    #[test]
    fn an_answer_of_the_process_before_is_not_the_last_word() {
        let mut scene = Scene::new();
        scene.follow(&[with(1, &["a"])]);
        let question = scene.0.due(scene.1).remove(0);
        scene.0.asks(&question, scene.1);
        scene.follow(&[with(2, &["a"])]);
        scene.0.hears(&question, said(1), INTERVAL, scene.1);
        assert_eq!(scene.due(), [(0, "a".to_owned())]);
    }

    #[test]
    fn a_host_that_leaves_has_no_vote_any_more() {
        let mut scene = Scene::new();
        let all = [with(1, &["a"]), with(1, &["a"]), with(1, &["a"])];
        scene.follow(&all);
        let found = scene.ask(&[said(1), said(2), said(1)]);
        let trust = |found: &[(HostId, Model, Audited)]| {
            found.iter().map(|(_, _, it)| it.trust).collect::<Vec<_>>()
        };
        assert_eq!(
            trust(&found),
            [Trust::Agrees, Trust::Deviates, Trust::Agrees]
        );
        scene.follow(&all[..2]);
        let found = scene.0.judge(scene.1);
        assert_eq!(trust(&found), [Trust::Disputed, Trust::Deviates]);
        assert!(scene.0.judge(scene.1).is_empty(), "no news");
    }

    #[test]
    fn a_host_with_thousands_of_models_is_asked_about_some() {
        let mut scene = Scene::new();
        let names: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        scene.follow(&[with(1, &names)]);
        assert_eq!(scene.0.hosts[&host(0)].models.len(), MOST_MODELS);
        let gone = scene.follow(&[with(1, &names[500..])]);
        assert_eq!(gone.len(), MOST_MODELS, "for those that are in memory now");
    }

    #[test]
    fn what_hosts_say_alike_is_kept_once() {
        let mut scene = Scene::new();
        scene.follow(&[with(1, &["a"]), with(1, &["a"])]);
        scene.ask(&[said(1), said(1)]);
        let kept = |number| match &scene.0.hosts[&host(number)].models[&model("a")].said {
            Some(Said::Vectors(vectors)) => vectors.clone(),
            _ => panic!("it said something"),
        };
        assert!(kept(0).is_shared_with(&kept(1)));
        assert_eq!(scene.0.vectors(None).len(), 1);
        assert_eq!(scene.0.vectors(Some(host(1))).len(), 1);
    }
}
