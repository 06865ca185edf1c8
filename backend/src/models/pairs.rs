//! The pairs of a `BERTScore` request, scored as soon as both sides are there. Each different text is
//! one side, however many pairs it is in, and is dropped after the last of them.

use std::collections::HashMap;

use super::bertscore::{self, Score, Side};
use crate::engine::Scores;

/// Pairs of texts, by number.
pub(crate) struct Pairs {
    /// The different pairs.
    distinct: Vec<Pair>,
    /// Which of them each pair of the request is.
    wanted: Vec<usize>,
    texts: Vec<Text>,
}

struct Pair {
    candidate: usize,
    reference: usize,
    /// How often the request has it.
    times: usize,
    score: Option<Score>,
}

#[derive(Default)]
struct Text {
    side: Option<Side>,
    /// The pairs that it is in.
    pairs: Vec<usize>,
}

impl Pairs {
    /// Candidate and reference of each pair, which are numbers below `texts`.
    pub(crate) fn new(pairs: &[(usize, usize)], texts: usize) -> Self {
        let mut all = Self {
            distinct: Vec::new(),
            wanted: Vec::with_capacity(pairs.len()),
            texts: (0..texts).map(|_| Text::default()).collect(),
        };
        let mut numbers = HashMap::new();
        for (candidate, reference) in pairs {
            let number = *numbers
                .entry((candidate, reference))
                .or_insert_with(|| all.add(*candidate, *reference));
            all.distinct[number].times += 1;
            all.wanted.push(number);
        }
        all
    }

    fn add(&mut self, candidate: usize, reference: usize) -> usize {
        let number = self.distinct.len();
        self.texts[candidate].pairs.push(number);
        if reference != candidate {
            self.texts[reference].pairs.push(number);
        }
        self.distinct.push(Pair {
            candidate,
            reference,
            times: 0,
            score: None,
        });
        number
    }

    /// Text number `text` is there: scores the pairs that it completes. Gives how many of the
    /// request's they are.
    pub(crate) fn put(&mut self, text: usize, side: Side) -> usize {
        self.texts[text].side = Some(side);
        let mut completed = 0;
        for number in &self.texts[text].pairs {
            let pair = &mut self.distinct[*number];
            let sides = [pair.candidate, pair.reference].map(|text| &self.texts[text].side);
            if let [Some(candidate), Some(reference)] = sides {
                pair.score = Some(bertscore::score(candidate, reference));
                completed += pair.times;
            }
        }
        self.drop_finished(text);
        completed
    }

    /// Drops `text` and those it was paired with, where all their pairs are scored.
    fn drop_finished(&mut self, text: usize) {
        let pairs = self.texts[text]
            .pairs
            .iter()
            .map(|pair| &self.distinct[*pair]);
        let partners = pairs.flat_map(|pair| [pair.candidate, pair.reference]);
        for text in partners.collect::<Vec<_>>() {
            let Text { side, pairs } = &mut self.texts[text];
            if pairs
                .iter()
                .all(|pair| self.distinct[*pair].score.is_some())
            {
                *side = None;
            }
        }
    }

    /// The scores, in order; `None` if a text was never put.
    pub(crate) fn scores(self) -> Option<Scores> {
        let scores = self.wanted.iter().map(|pair| self.distinct[*pair].score);
        let scores: Vec<Score> = scores.collect::<Option<_>>()?;
        Some(Scores {
            precision: scores.iter().map(|score| score.precision).collect(),
            recall: scores.iter().map(|score| score.recall).collect(),
            f1: scores.iter().map(|score| score.f1).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(direction: [f32; 2]) -> Side {
        Side::new(&direction, 2, vec![1.0], false)
    }

    #[test]
    fn a_pair_is_scored_when_its_second_side_comes() {
        let mut pairs = Pairs::new(&[(0, 1), (2, 1), (2, 2)], 3);
        assert_eq!(pairs.put(1, side([0.0, 1.0])), 0);
        assert_eq!(pairs.put(2, side([0.0, 2.0])), 2);
        assert!(pairs.texts[1].side.is_some() && pairs.texts[2].side.is_none());
        assert_eq!(pairs.put(0, side([1.0, 0.0])), 1);
        assert!(pairs.texts.iter().all(|text| text.side.is_none()));
        let scores = pairs.scores().expect("all there");
        assert_eq!(scores.precision, [0.0, 1.0, 1.0]);
    }

    #[test]
    fn a_text_that_never_came_is_noticed() {
        let mut pairs = Pairs::new(&[(0, 1)], 2);
        pairs.put(0, side([1.0, 0.0]));
        assert_eq!(pairs.scores(), None);
    }

    #[test]
    fn a_pair_is_scored_once_however_often_it_is_wanted() {
        let mut pairs = Pairs::new(&[(0, 1), (1, 0), (0, 1), (0, 1)], 2);
        assert_eq!(pairs.distinct.len(), 2);
        assert_eq!(pairs.put(0, side([1.0, 0.0])), 0);
        assert_eq!(pairs.put(1, side([1.0, 1.0])), 4);
        let f1 = pairs.scores().expect("all there").f1;
        assert_eq!(f1.len(), 4);
        assert!(f1.iter().all(|f1| (f1 - 0.5_f32.sqrt()).abs() < 1e-6));
    }
}
