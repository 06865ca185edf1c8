//! The ledger with a time of its own.

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
