//! Which models one host can serve, as far as is known.
//!
//! | what is known from | for how long |
//! | --- | --- |
//! | `/info`: what is in memory, and perhaps all that the host can serve | until it tells otherwise |
//! | a good answer: it has the model | until it shows otherwise |
//! | a 404, or an error that a sibling did not make: it lacks the model | [`REMEMBERED`], or until it may have restarted, or tells that it has the model now |
//! | an audit: it has the model, but answers wrong | until another audit shows otherwise |
//!
//! Of a host's default model, which a request gets that names none, it is not known which of its models that is: the
//! host lacks it if it tells of none, and answers wrong with it if it does with any.
//!
//! What is not known to be lacking may be there. Names come from clients, who may invent any number
//! of them, so that what is remembered is bounded: a lack that is forgotten costs one attempt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashSet};

use super::audited::{Audited, Audits, Trust};
use super::demand::Model;

/// How long a host that has shown that it lacks a model is not asked for it again …
const REMEMBERED: Duration = Duration::from_mins(1);
/// … and if it tells at the same time that it has it: until it tells the next time, about.
const DISPUTED: Duration = Duration::from_secs(5);
/// Lacks, and models answered with, that are remembered of a host.
const MOST: usize = 256;

/// How a host is known to lack a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The model is not among all that it tells.
    Told,
    /// It was asked.
    Shown,
    /// It has the model, but answers wrong.
    Deviates,
    /// It has the model, but its vectors lie in another space than is wanted.
    OtherSpace,
    /// It may have the model, but in which space its vectors lie is not known yet.
    UnknownSpace,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Models {
    /// In memory; `None` if it never told.
    loaded: Option<HashSet<Model>>,
    /// All that it can serve; `None` if it doesn't tell.
    available: Option<HashSet<Model>>,
    /// Nothing else has shown since what is in memory.
    as_told: bool,
    /// Answered with.
    served: HashSet<Model>,
    /// Once in memory, and nothing has shown since that it lacks them.
    had: HashSet<Model>,
    /// Until when what it has shown to lack is remembered.
    lacks: HashMap<Model, Instant>,
    /// What audits have shown, until others do.
    audits: Arc<Audits>,
    /// Grows whenever it may have other models than before.
    generation: u64,
}

impl Models {
    /// Is `model` in memory? A host that never told counts as one that has it there.
    pub(super) fn is_loaded(&self, model: &Model) -> bool {
        let loaded = self.loaded.as_ref();
        loaded.is_none_or(|loaded| include(loaded, model))
    }

    /// Has it told that `model` is in memory?
    pub(super) fn is_surely_loaded(&self, model: &Model) -> bool {
        has(self.loaded.as_ref(), model)
    }

    /// Is `model` among all that it tells that it can serve?
    pub(super) fn is_available(&self, model: &Model) -> bool {
        has(self.available.as_ref(), model)
    }

    /// Has it told that it has `model`?
    pub(super) fn is_told(&self, model: &Model) -> bool {
        self.is_surely_loaded(model) || self.is_available(model)
    }

    /// Is it known to have `model`, or to have had it when it was last asked?
    pub(super) fn is_known(&self, model: &Model) -> bool {
        self.is_told(model) || include(&self.served, model)
    }

    /// Is it known to have `model`, or to have had it at any time that it told of?
    pub(super) fn was_known(&self, model: &Model) -> bool {
        self.is_known(model) || include(&self.had, model)
    }

    /// Has it ever told what is in memory, or answered with a model?
    pub(super) fn is_heard(&self) -> bool {
        self.loaded.is_some() || self.has_served()
    }

    /// Has it answered with any model since it may have restarted?
    pub(super) fn has_served(&self) -> bool {
        !self.served.is_empty()
    }

    /// How it is known to lack `model`, if it is.
    pub(super) fn lack(&self, model: &Model, now: Instant) -> Option<Lack> {
        if self.lacks.get(model).is_some_and(|until| now < *until) {
            return Some(Lack::Shown);
        }
        if self.audit(model).is_some_and(Audited::is_out) {
            return Some(Lack::Deviates);
        }
        let available = self.available.as_ref()?;
        let has = include(available, model) || include(&self.served, model);
        (!has).then_some(Lack::Told)
    }

    /// What audits have shown.
    pub(super) fn audits(&self) -> &Arc<Audits> {
        &self.audits
    }

    /// What the last audit of `model` has shown. Of the default one only what is wrong; what is wrong with what may be the
    /// same model under another name holds for one that is not known to be right.
    pub(super) fn audit(&self, model: &Model) -> Option<&Audited> {
        if model.is_default() {
            return self.may_be_of(model).find(|it| it.is_out());
        }
        // Mostly there are none, or few.
        let own = self.audits.get(model);
        if own.is_some_and(|it| matches!(it.trust, Trust::Agrees | Trust::Deviates)) {
            return own;
        }
        let mut same = self.audits.iter().filter(|(it, _)| it.may_be(model));
        let wrong = same.find_map(|(_, audited)| audited.is_out().then_some(audited));
        wrong.or(own)
    }

    /// Do hosts disagree about what may be `model`, the default one?
    pub(super) fn may_be_disputed(&self, model: &Model) -> bool {
        let mut audits = self.may_be_of(model);
        model.is_default() && audits.any(|it| it.trust == Trust::Disputed)
    }

    /// What audits have shown of models of that route.
    fn may_be_of(&self, model: &Model) -> impl Iterator<Item = &Audited> {
        let audits = self.audits.iter();
        let audits = audits.filter(|(other, _)| other.is_on_route_of(model));
        audits.map(|(_, audited)| audited)
    }

    /// An audit has shown this. Returns the trust before.
    pub(super) fn set_audit(&mut self, model: &Model, audited: Option<Audited>) -> Option<Trust> {
        let audits = Arc::make_mut(&mut self.audits);
        let before = match audited {
            Some(audited) => audits.insert(model.clone(), audited),
            None => audits.remove(model),
        };
        before.map(|before| before.trust)
    }

    /// Models that can be audited, if it has told. `tells_memory`: what is told as loaded is; otherwise only what it has
    /// answered with, so that no audit loads a model that nobody asks for.
    pub(super) fn auditable(&self, tells_memory: bool) -> Option<Vec<Model>> {
        let loaded = self.loaded.as_ref().filter(|_| self.as_told)?;
        let is_loaded = |model: &&Model| tells_memory || self.served.contains(*model);
        let embeds = loaded.iter().filter(|it| it.embeds());
        let mut loaded: Vec<Model> = embeds.filter(is_loaded).cloned().collect();
        loaded.sort();
        Some(loaded)
    }

    /// A number that changes whenever the host may have other models than before.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Would it be no news, and change nothing, if it told the same again?
    pub(super) fn are_as_told(&self) -> bool {
        self.as_told
    }

    /// It told what is in its memory and, perhaps, all that it can serve. Returns whether the latter
    /// is news.
    pub(super) fn tell(&mut self, loaded: &[String], available: Option<&[String]>) -> bool {
        let loaded: HashSet<Model> = named(loaded);
        // What is in memory can be served, whatever the list says.
        let available = available.map(|names| {
            let mut all = named(names);
            all.extend(loaded.iter().cloned());
            all
        });
        let new = |model: &Model| {
            let now = loaded.contains(model) || has(available.as_ref(), model);
            now && !self.is_told(model)
        };
        let before = self.lacks.len();
        let gained: Vec<Model> = self.lacks.keys().filter(|it| new(it)).cloned().collect();
        for model in gained {
            self.lacks.remove(&model);
        }
        let is_news = available != self.available || self.lacks.len() != before;
        self.remember_loaded();
        if let Some(available) = available.as_ref().filter(|_| is_news) {
            self.served.retain(|model| include(available, model));
            self.had.retain(|model| include(available, model));
        }
        self.generation += u64::from(is_news);
        self.loaded = Some(loaded);
        self.available = available;
        self.as_told = true;
        is_news
    }

    /// It has answered with `model`. Returns whether that is more than it told.
    pub(super) fn serve(&mut self, model: &Model) -> bool {
        self.lacks.remove(model);
        let is_news = !self.is_known(model);
        if self.served.len() < MOST && !self.served.contains(model) {
            self.served.insert(model.clone());
        }
        if let Some(loaded) = &mut self.loaded
            && !loaded.contains(model)
        {
            loaded.insert(model.clone());
            self.as_told = false;
        }
        is_news
    }

    /// It was asked for `model` and lacks it. `matters`: which models some host is known to have
    /// answered with; others make room first. Returns whether that is news.
    pub(super) fn miss(
        &mut self,
        model: &Model,
        matters: impl Fn(&Model) -> bool,
        now: Instant,
    ) -> bool {
        let known = self.lack(model, now) == Some(Lack::Shown);
        let remembered = if self.is_told(model) {
            DISPUTED
        } else {
            REMEMBERED
        };
        self.served.remove(model);
        self.had.remove(model);
        self.make_room(matters, now);
        if self.lacks.len() < MOST || self.lacks.contains_key(model) {
            self.lacks.insert(model.clone(), now + remembered);
        }
        !known
    }

    fn make_room(&mut self, matters: impl Fn(&Model) -> bool, now: Instant) {
        if self.lacks.len() < MOST {
            return;
        }
        self.lacks.retain(|_, until| now < *until);
        let idle = self.lacks.iter().filter(|(model, _)| !matters(model));
        let oldest = idle.min_by_key(|(_, until)| **until);
        if let Some(model) = oldest.map(|(model, _)| model.clone())
            && self.lacks.len() >= MOST
        {
            self.lacks.remove(&model);
        }
    }

    /// Perhaps it restarts: nothing is in memory until it tells, and it may lack nothing any more.
    pub(super) fn forget(&mut self) {
        self.remember_loaded();
        if self.loaded.is_some() {
            self.as_told = false;
        }
        self.lacks.clear();
        self.generation += 1;
    }

    /// What was in memory may not be any more.
    fn remember_loaded(&mut self) {
        for model in self.loaded.iter_mut().flat_map(HashSet::drain) {
            if self.had.len() < MOST {
                self.had.insert(model);
            }
        }
    }
}

fn has(models: Option<&HashSet<Model>>, model: &Model) -> bool {
    models.is_some_and(|models| include(models, model))
}

/// Is it one of them, or may it be?
fn include(models: &HashSet<Model>, model: &Model) -> bool {
    if model.is_default() {
        return models.iter().any(|other| other.is_on_route_of(model));
    }
    models.contains(model)
}

fn named(names: &[String]) -> HashSet<Model> {
    names.iter().filter_map(|name| Model::new(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> Model {
        Model::new(name).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn nothing(_: &Model) -> bool {
        false
    }

    #[test]
    fn what_a_host_does_not_tell_it_may_have() {
        let now = Instant::now();
        let mut models = Models::default();
        assert_eq!(models.lack(&model("x"), now), None);
        models.tell(&names(&["y"]), None);
        assert_eq!(models.lack(&model("x"), now), None, "not in memory yet");
        models.tell(&names(&["y"]), Some(&names(&["z"])));
        assert_eq!(models.lack(&model("x"), now), Some(Lack::Told));
        assert_eq!(models.lack(&model("y"), now), None, "in memory");
        assert_eq!(models.lack(&model("z"), now), None);
        models.serve(&model("x"));
        assert_eq!(models.lack(&model("x"), now), None, "it has shown better");
        models.tell(&[], Some(&names(&["y"])));
        assert_eq!(models.lack(&model("x"), now), Some(Lack::Told), "newer");
    }

    #[test]
    fn a_lack_is_remembered_for_a_while() {
        let now = Instant::now();
        let mut models = Models::default();
        assert!(models.miss(&model("x"), nothing, now));
        assert!(!models.miss(&model("x"), nothing, now), "no news");
        let soon = now + REMEMBERED / 2;
        assert_eq!(models.lack(&model("x"), soon), Some(Lack::Shown));
        assert_eq!(models.lack(&model("x"), now + REMEMBERED), None);
        assert_eq!(models.lack(&model("y"), now), None);
    }

    #[test]
    fn a_lack_ends_with_a_restart_a_good_answer_and_news() {
        let now = Instant::now();
        let x = model("x");
        let missing = |models: &mut Models| {
            models.miss(&x, nothing, now);
            assert_eq!(models.lack(&x, now), Some(Lack::Shown));
            models.generation()
        };
        let mut models = Models::default();
        let generation = missing(&mut models);
        models.forget();
        assert_eq!(models.lack(&x, now), None);
        assert_ne!(models.generation(), generation);
        missing(&mut models);
        models.serve(&x);
        assert_eq!(models.lack(&x, now), None);
        let generation = missing(&mut models);
        assert!(models.tell(&names(&[]), Some(&names(&["x"]))));
        assert_eq!(models.lack(&x, now), None);
        assert_ne!(models.generation(), generation);
    }

    #[test]
    fn what_was_once_in_memory_is_remembered_until_the_host_shows_otherwise() {
        let now = Instant::now();
        let (x, y) = (model("x"), model("y"));
        let mut models = Models::default();
        assert!(!models.is_heard());
        models.tell(&names(&["x"]), None);
        models.forget();
        assert!(models.is_heard() && models.was_known(&x) && !models.is_known(&x));
        models.tell(&names(&["y"]), None);
        models.tell(&[], None);
        assert!(models.was_known(&x) && models.was_known(&y), "evicted");
        models.miss(&x, nothing, now);
        assert!(!models.was_known(&x) && models.was_known(&y));
        models.tell(&[], Some(&names(&["z"])));
        assert!(!models.was_known(&y), "the list is newer");
    }

    #[test]
    fn an_old_list_does_not_outdo_what_was_shown_but_is_tried_again_soon() {
        let now = Instant::now();
        let (x, list) = (model("x"), names(&["x"]));
        let mut models = Models::default();
        models.tell(&[], Some(&list));
        models.miss(&x, nothing, now);
        assert!(!models.tell(&[], Some(&list)), "no news");
        assert_eq!(models.lack(&x, now), Some(Lack::Shown));
        assert_eq!(models.lack(&x, now + DISPUTED), None);
    }

    #[test]
    fn of_a_host_that_tells_all_it_could_load_only_what_was_asked_for_is_audited() {
        let mut models = Models::default();
        let all = names(&["embed:a", "embed:b", "bertscore:a"]);
        models.tell(&all, Some(&all));
        let loaded = |models: &Models, tells| models.auditable(tells).unwrap();
        assert_eq!(loaded(&models, true), [model("embed:a"), model("embed:b")]);
        assert_eq!(loaded(&models, false), []);
        models.serve(&model("embed:b"));
        assert_eq!(loaded(&models, false), [model("embed:b")]);
    }

    #[test]
    fn the_default_model_may_be_any_of_its_route() {
        let now = Instant::now();
        let default = model("embed:");
        let mut models = Models::default();
        assert!(models.is_loaded(&default));
        models.tell(&[], Some(&names(&["bertscore:a"])));
        assert_eq!(models.lack(&default, now), Some(Lack::Told));
        models.serve(&default);
        assert_eq!(models.lack(&default, now), None, "it has shown better");
        models.tell(&names(&["embed:a"]), Some(&names(&["embed:b"])));
        assert!(models.is_loaded(&default) && models.is_known(&default));
        assert!(!models.is_known(&model("bertscore:")));

        let audited = |trust| Audited {
            trust,
            space: None,
            cosine: None,
            why: None,
        };
        models.set_audit(&model("embed:a"), Some(audited(Trust::Disputed)));
        assert_eq!(models.lack(&default, now), None);
        assert!(models.may_be_disputed(&default) && !models.may_be_disputed(&model("embed:a")));
        models.set_audit(&model("embed:b"), Some(audited(Trust::Deviates)));
        assert_eq!(models.lack(&default, now), Some(Lack::Deviates));
        assert_eq!(models.lack(&model("embed:a"), now), None);
        assert_eq!(
            models.lack(&model("bertscore:"), now),
            Some(Lack::Told),
            "of another route"
        );
    }

    #[test]
    fn a_model_that_is_wrong_is_wrong_under_another_name_until_it_is_right_under_that() {
        let now = Instant::now();
        let (short, long) = (model("embed:m"), model("embed:org/m"));
        let audited = |trust| Audited {
            trust,
            space: None,
            cosine: None,
            why: None,
        };
        for (wrong, other) in [(&short, &long), (&long, &short)] {
            let mut models = Models::default();
            models.set_audit(wrong, Some(audited(Trust::Deviates)));
            let lack = |models: &Models, it: &str| models.lack(&model(it), now);
            assert_eq!(models.lack(other, now), Some(Lack::Deviates));
            for another in ["embed:m2", "embed:org/m2", "bertscore:m", "bertscore:org/m"] {
                assert_eq!(lack(&models, another), None, "{another}");
            }
            for trust in [Trust::Unknown, Trust::Alone, Trust::Disputed] {
                models.set_audit(other, Some(audited(trust)));
                assert_eq!(models.lack(other, now), Some(Lack::Deviates), "{trust:?}");
            }
            models.set_audit(other, Some(audited(Trust::Agrees)));
            assert_eq!(models.lack(other, now), None);
        }
        let mut models = Models::default();
        models.set_audit(&long, Some(audited(Trust::Deviates)));
        assert_eq!(models.lack(&model("embed:else/m"), now), None);
    }

    #[test]
    fn invented_names_displace_each_other_but_not_what_matters() {
        let now = Instant::now();
        let mut models = Models::default();
        let matters = |it: &Model| it.as_str() == "real";
        models.miss(&model("real"), matters, now);
        for number in 0..10 * MOST {
            models.miss(&model(&format!("invented {number}")), matters, now);
        }
        assert_eq!(models.lacks.len(), MOST);
        assert_eq!(models.lack(&model("real"), now), Some(Lack::Shown));
        let last = model(&format!("invented {}", 10 * MOST - 1));
        assert_eq!(models.lack(&last, now), Some(Lack::Shown));
    }
}
