//! Which hosts answer wrong, from what they said of the fixed texts. Pure.
//!
//! What is right is, in this order:
//!
//! 1. what a reference says;
//! 2. what more than half of three or more hosts say, or all there are;
//! 3. what was right before, while one of three or more still says so: a new version of a model that is
//!    rolled out host by host is wrong until most have it, and at no time are both right.
//!
//! A host that says anything else deviates. If there is nothing that is right, those that disagree are in
//! dispute, which keeps nobody out; but one that is out stays out until it agrees with something.

use std::borrow::Cow;
use std::fmt;

use crate::config::MinCosine;
use crate::embedding::{Likeness, Space, Vectors};
use crate::pool::{Audited, Trust};

/// Precision changes lengths by a thousandth; whether vectors are normalised, by more than this many
/// times.
const MOST_STRETCH: f64 = 1.01;
/// Different opinions that are told apart where nobody knows who is right.
const MOST_OPINIONS: usize = 8;

/// What a host said when it was asked last.
#[derive(Clone, Debug)]
pub(super) enum Said {
    Vectors(Vectors),
    /// What nobody can compute with, and why.
    Nonsense(Cow<'static, str>),
}

/// What came of asking a host.
#[derive(Clone, Debug)]
pub(super) enum Heard {
    Said(Said),
    /// Nothing that could be judged, and why: it may be so for ever.
    Unjudged(String),
    /// Nothing, for a reason that mostly passes, such as that it is full.
    Passing(String),
}

/// A host, as far as the judge needs to know it.
pub(super) struct Witness<'a> {
    pub(super) said: &'a Said,
    /// It deviated when it was judged last.
    pub(super) is_out: bool,
}

/// What to judge by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rule<'a> {
    pub(super) min_cosine: MinCosine,
    /// What the reference says.
    pub(super) pinned: Option<&'a Vectors>,
    /// What was right before.
    pub(super) before: Option<&'a Vectors>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Judgement {
    /// Of each witness, in their order.
    pub(super) found: Vec<Audited>,
    /// What is right, if that is known.
    pub(super) right: Option<Vectors>,
}

/// Who says what is right, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authority {
    Reference,
    Most,
    Before,
    /// Nobody: it is only another opinion.
    Other,
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "the reference",
            Self::Most => "what most hosts say",
            Self::Before => "what most hosts said before",
            Self::Other => "another host",
        })
    }
}

/// Judges what hosts said of one model.
pub(super) fn judge(rule: Rule<'_>, witnesses: &[Witness<'_>]) -> Judgement {
    let sound: Vec<&Vectors> = witnesses
        .iter()
        .filter_map(|it| it.said.vectors())
        .collect();
    let Some((right, authority)) = rule.right(&sound) else {
        return rule.dispute(witnesses, &sound);
    };
    let space = Space::of(right);
    let found = witnesses.iter().map(|witness| {
        let compared = match witness.said {
            Said::Nonsense(what) => return nonsense(what),
            Said::Vectors(said) => rule.compare(said, right),
        };
        if compared.agrees {
            return Audited {
                trust: Trust::Agrees,
                space: Some(space),
                cosine: compared.cosine(),
                why: None,
            };
        }
        compared.differs(Trust::Deviates, authority, None)
    });
    Judgement {
        found: found.collect(),
        right: Some(right.clone()),
    }
}

impl Said {
    pub(super) fn vectors(&self) -> Option<&Vectors> {
        match self {
            Self::Vectors(vectors) => Some(vectors),
            Self::Nonsense(_) => None,
        }
    }
}

impl<'a> Rule<'a> {
    fn right(&self, sound: &[&'a Vectors]) -> Option<(&'a Vectors, Authority)> {
        if let Some(pinned) = self.pinned {
            return Some((pinned, Authority::Reference));
        }
        let most = self.candidate(sound)?;
        let count = self.count(sound, most);
        if count > 1 && (count == sound.len() || sound.len() > 2 && 2 * count > sound.len()) {
            return Some((most, Authority::Most));
        }
        let before = self.before.filter(|_| sound.len() > 2)?;
        (self.count(sound, before) > 0).then_some((before, Authority::Before))
    }

    /// What more than half say, if anything (Boyer and Moore, 1981): with many hosts, not each is to be
    /// compared with each.
    fn candidate(&self, sound: &[&'a Vectors]) -> Option<&'a Vectors> {
        let mut candidate = *sound.first()?;
        let mut lead = 0_usize;
        for said in sound {
            if lead == 0 {
                candidate = said;
            }
            if self.compare(said, candidate).agrees {
                lead += 1;
            } else {
                lead -= 1;
            }
        }
        Some(candidate)
    }

    fn count(&self, sound: &[&Vectors], right: &Vectors) -> usize {
        let agrees = |said: &&&Vectors| self.compare(said, right).agrees;
        sound.iter().filter(agrees).count()
    }

    /// Nobody knows what is right.
    fn dispute(&self, witnesses: &[Witness<'_>], sound: &[&Vectors]) -> Judgement {
        let mut opinions: Vec<&Vectors> = Vec::new();
        for said in sound {
            if opinions.len() < MOST_OPINIONS && self.count(&opinions, said) == 0 {
                opinions.push(said);
            }
        }
        let found = witnesses.iter().map(|witness| {
            let said = match witness.said {
                Said::Nonsense(what) => return nonsense(what),
                Said::Vectors(said) => said,
            };
            let agrees = |opinion: &&&Vectors| self.compare(said, opinion).agrees;
            let own = opinions.iter().find(agrees);
            let other = opinions.iter().find(|opinion| !agrees(opinion));
            let space = Space::of(own.map_or(said, |opinion| *opinion));
            let Some(other) = other else {
                return alone(witness.is_out, space);
            };
            let trust = trust(witness.is_out, Trust::Disputed);
            self.compare(said, other)
                .differs(trust, Authority::Other, Some(space))
        });
        Judgement {
            found: found.collect(),
            right: None,
        }
    }

    fn compare(&self, one: &Vectors, other: &Vectors) -> Compared {
        let dimensions = (one.dimensions(), other.dimensions());
        let likeness = one.likeness(other);
        let agrees = likeness
            .is_some_and(|it| it.cosine >= self.min_cosine.get() && it.stretch <= MOST_STRETCH);
        Compared {
            agrees,
            likeness,
            dimensions,
        }
    }
}

struct Compared {
    agrees: bool,
    likeness: Option<Likeness>,
    /// Of both.
    dimensions: (usize, usize),
}

impl Compared {
    /// Rounding may bring it above 1.
    fn cosine(&self) -> Option<f64> {
        self.likeness.map(|likeness| likeness.cosine.min(1.0))
    }

    fn differs(&self, trust: Trust, from: Authority, space: Option<Space>) -> Audited {
        let why = match self.likeness {
            None => {
                let (own, other) = self.dimensions;
                format!("{own} dimensions against {other} of {from}")
            }
            Some(Likeness { stretch, .. }) if stretch > MOST_STRETCH => format!(
                "cosine {:.4} with {from}, and lengths that differ by a factor of {stretch:.2}",
                self.cosine().unwrap_or_default()
            ),
            Some(_) => format!(
                "cosine {:.4} with {from}",
                self.cosine().unwrap_or_default()
            ),
        };
        Audited {
            trust,
            // Whoever pins a space must not get what is only near it.
            space: space.filter(|_| trust != Trust::Deviates),
            cosine: self.cosine(),
            why: Some(why.into()),
        }
    }
}

fn trust(is_out: bool, otherwise: Trust) -> Trust {
    if is_out { Trust::Deviates } else { otherwise }
}

fn nonsense(what: &str) -> Audited {
    Audited {
        trust: Trust::Deviates,
        space: None,
        cosine: None,
        why: Some(what.into()),
    }
}

fn alone(is_out: bool, space: Space) -> Audited {
    let why = is_out.then(|| "it deviated, and there is nothing left to compare it with".into());
    Audited {
        trust: trust(is_out, Trust::Alone),
        space: Some(space).filter(|_| !is_out),
        cosine: None,
        why,
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::seq::SliceRandom as _;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::embedding::testing::{model, noisy, vectors};

    fn exact(seed: u64) -> Said {
        Said::Vectors(vectors(model(seed, 64)))
    }

    /// As with half the precision.
    fn half(seed: u64, host: u64) -> Said {
        Said::Vectors(vectors(noisy(&model(seed, 64), 0.001, host)))
    }

    fn judged(rule: Rule<'_>, said: &[(Said, bool)]) -> Judgement {
        let witness = |(said, is_out): &'_ (Said, bool)| (said.clone(), *is_out);
        let said: Vec<_> = said.iter().map(witness).collect();
        let witnesses = said.iter().map(|(said, is_out)| Witness {
            said,
            is_out: *is_out,
        });
        judge(rule, &witnesses.collect::<Vec<_>>())
    }

    fn trusts(rule: Rule<'_>, said: Vec<Said>) -> Vec<Trust> {
        let said: Vec<_> = said.into_iter().map(|said| (said, false)).collect();
        let found = judged(rule, &said).found.into_iter();
        found.map(|audited| audited.trust).collect()
    }

    use Trust::{Agrees, Alone, Deviates, Disputed};

    #[test]
    fn who_deviates() {
        let nonsense = || Said::Nonsense("nothing but 0".into());
        let narrow = || Said::Vectors(vectors(model(1, 63)));
        let table = [
            ("nobody", vec![], vec![]),
            ("one", vec![exact(1)], vec![Alone]),
            ("one with nonsense", vec![nonsense()], vec![Deviates]),
            ("two", vec![exact(1), half(1, 2)], vec![Agrees; 2]),
            (
                "two that disagree",
                vec![exact(1), exact(2)],
                vec![Disputed; 2],
            ),
            (
                "nonsense is no vote",
                vec![exact(1), nonsense(), exact(2)],
                vec![Disputed, Deviates, Disputed],
            ),
            (
                "one of three",
                vec![exact(1), exact(2), half(1, 3)],
                vec![Agrees, Deviates, Agrees],
            ),
            (
                "other dimensions",
                vec![exact(1), narrow(), exact(1)],
                vec![Agrees, Deviates, Agrees],
            ),
            (
                "three of three",
                vec![exact(1), exact(2), exact(3)],
                vec![Disputed; 3],
            ),
            (
                "half of four",
                vec![exact(1), exact(2), exact(1), exact(2)],
                vec![Disputed; 4],
            ),
            (
                "three wrong in different ways, of seven",
                vec![
                    exact(3),
                    exact(1),
                    exact(2),
                    half(1, 1),
                    narrow(),
                    half(1, 2),
                    exact(1),
                ],
                vec![Deviates, Agrees, Deviates, Agrees, Deviates, Agrees, Agrees],
            ),
        ];
        for (what, said, expected) in table {
            assert_eq!(trusts(Rule::default(), said), expected, "{what}");
        }
    }

    #[test]
    fn a_reference_needs_no_majority() {
        let pinned = vectors(model(1, 64));
        let rule = Rule {
            pinned: Some(&pinned),
            ..Rule::default()
        };
        let said = vec![exact(2), exact(2), half(1, 1), exact(2)];
        assert_eq!(trusts(rule, said), [Deviates, Deviates, Agrees, Deviates]);
        assert_eq!(trusts(rule, vec![exact(2)]), [Deviates]);
    }

    #[test]
    fn a_new_version_is_wrong_until_most_have_it() {
        let before = vectors(model(1, 64));
        let rule = Rule {
            before: Some(&before),
            ..Rule::default()
        };
        let at = |new: usize| {
            (0..4)
                .map(|host| exact(if host < new { 2 } else { 1 }))
                .collect()
        };
        assert_eq!(trusts(rule, at(1)), [Deviates, Agrees, Agrees, Agrees]);
        assert_eq!(trusts(rule, at(2)), [Deviates, Deviates, Agrees, Agrees]);
        assert_eq!(trusts(rule, at(3)), [Agrees, Agrees, Agrees, Deviates]);
        assert_eq!(trusts(rule, at(4)), [Agrees; 4]);
        let nobody_says_so_any_more = vec![exact(2), exact(3), exact(4)];
        assert_eq!(trusts(rule, nobody_says_so_any_more), [Disputed; 3]);
        assert_eq!(
            trusts(rule, vec![exact(1), exact(2)]),
            [Disputed; 2],
            "only two"
        );
    }

    #[test]
    fn one_that_is_out_comes_back_only_when_it_agrees() {
        let judged = |said: &[(Said, bool)]| {
            let found = judged(Rule::default(), said).found;
            found.iter().map(|it| it.trust).collect::<Vec<_>>()
        };
        assert_eq!(judged(&[(exact(2), true)]), [Deviates], "alone");
        assert_eq!(
            judged(&[(exact(1), false), (exact(2), true)]),
            [Disputed, Deviates]
        );
        assert_eq!(
            judged(&[(exact(1), false), (half(1, 1), true)]),
            [Agrees; 2]
        );
    }

    #[test]
    fn each_says_by_how_much_and_from_what_it_differs() {
        let stretched = model(1, 64)
            .iter()
            .map(|it| it.iter().map(|n| n * 2.0).collect())
            .collect();
        let said = [
            exact(1),
            half(1, 1),
            exact(1),
            exact(2),
            Said::Vectors(vectors(stretched)),
        ];
        let said = said.map(|said| (said, false));
        let found = judged(Rule::default(), &said).found;
        let why = |of: usize| found[of].why.as_deref().unwrap_or_default();
        assert_eq!(why(0), "");
        assert!(found[1].cosine.unwrap() > 0.999 && found[1].cosine.unwrap() < 1.0);
        assert!(why(3).contains(" with what most hosts say"), "{}", why(3));
        assert!(found[3].cosine.unwrap() < 0.9);
        let expected =
            "cosine 1.0000 with what most hosts say, and lengths that differ by a factor of 2.00";
        assert_eq!(why(4), expected);
    }

    #[test]
    fn agreement_is_one_space_and_each_side_of_a_dispute_is_one() {
        let spaces = |said: Vec<Said>| {
            let said: Vec<_> = said.into_iter().map(|said| (said, false)).collect();
            let found = judged(Rule::default(), &said).found.into_iter();
            found.map(|it| it.space).collect::<Vec<_>>()
        };
        let found = spaces(vec![half(1, 1), half(1, 2), exact(2), exact(1)]);
        assert!(found[0].is_some() && found[0] == found[1] && found[0] == found[3]);
        assert_eq!(found[2], None, "whoever deviates has none");
        let found = spaces(vec![half(1, 1), exact(2), half(1, 2), exact(2)]);
        assert!(found.iter().all(Option::is_some));
        assert!(found[0] == found[2] && found[1] == found[3] && found[0] != found[1]);
    }

    /// Whatever wrong hosts say, together or each for itself: while they are fewer than half, exactly they
    /// are out, in any order and with any precision of the others.
    #[test]
    fn wrong_ones_in_the_minority_are_found_and_nobody_else() {
        for seed in 0..200 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let right: usize = rng.random_range(2..12);
            let wrong: usize = rng.random_range(0..right).max(usize::from(right == 2));
            let conspire = rng.random_bool(0.5);
            let mut said: Vec<(Said, bool)> = (0..right)
                .map(|host| (half(1, seed * 100 + host as u64), true))
                .collect();
            let lie = |host: usize| if conspire { 2 } else { 2 + host as u64 };
            said.extend((0..wrong).map(|host| (exact(lie(host)), false)));
            said.shuffle(&mut rng);
            let as_said: Vec<_> = said.iter().map(|(said, _)| (said.clone(), false)).collect();
            for (found, (_, is_right)) in judged(Rule::default(), &as_said).found.iter().zip(&said)
            {
                let expected = if *is_right { Agrees } else { Deviates };
                assert_eq!(found.trust, expected, "{seed}: {right} against {wrong}");
            }
        }
    }
}
