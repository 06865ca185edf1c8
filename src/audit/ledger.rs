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
    /// When it is to be asked about next. While the host does not tell that it has it in memory: when it may have
    /// restarted, or when it was last seen not serving since.
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
mod tests;
