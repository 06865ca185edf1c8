//! The pairs of a `BERTScore` request, scored as soon as both sides are there. Each different text is
//! one side, however many pairs it is in, and is dropped after the last of them.

use super::bertscore::{self, Score, Side};
use crate::engine::Scores;

/// Pairs of texts, by number.
pub(crate) struct Pairs {
    /// Candidate and reference of each pair.
    sides_of: Vec<(usize, usize)>,
    scores: Vec<Option<Score>>,
    sides: Vec<Option<Side>>,
    /// For each text, the pairs that it is in.
    of_text: Vec<Vec<usize>>,
}

impl Pairs {
    /// Candidate and reference of each pair, which are numbers below `texts`.
    pub(crate) fn new(pairs: Vec<(usize, usize)>, texts: usize) -> Self {
        let mut of_text = vec![Vec::new(); texts];
        for (pair, (candidate, reference)) in pairs.iter().enumerate() {
            of_text[*candidate].push(pair);
            if reference != candidate {
                of_text[*reference].push(pair);
            }
        }
        Self {
            scores: vec![None; pairs.len()],
            sides_of: pairs,
            sides: (0..texts).map(|_| None).collect(),
            of_text,
        }
    }

    /// Text number `text` is there: scores the pairs that it completes. Gives how many.
    pub(crate) fn put(&mut self, text: usize, side: Side) -> usize {
        self.sides[text] = Some(side);
        let pairs = std::mem::take(&mut self.of_text[text]);
        let mut completed = 0;
        for pair in &pairs {
            let (candidate, reference) = self.sides_of[*pair];
            if let (Some(candidate), Some(reference)) =
                (&self.sides[candidate], &self.sides[reference])
            {
                self.scores[*pair] = Some(bertscore::score(candidate, reference));
                completed += 1;
            }
        }
        self.of_text[text] = pairs;
        self.drop_finished(text);
        completed
    }

    /// Drops `text` and those it was paired with, where all their pairs are scored.
    fn drop_finished(&mut self, text: usize) {
        let partners = self.of_text[text].iter().flat_map(|pair| {
            let (candidate, reference) = self.sides_of[*pair];
            [candidate, reference]
        });
        for text in partners.chain([text]).collect::<Vec<_>>() {
            if self.of_text[text]
                .iter()
                .all(|pair| self.scores[*pair].is_some())
            {
                self.sides[text] = None;
            }
        }
    }

    /// The scores, in order; `None` if a text was never put.
    pub(crate) fn scores(self) -> Option<Scores> {
        let scores: Vec<Score> = self.scores.into_iter().collect::<Option<_>>()?;
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
        let mut pairs = Pairs::new(vec![(0, 1), (2, 1), (2, 2)], 3);
        assert_eq!(pairs.put(1, side([0.0, 1.0])), 0);
        assert_eq!(pairs.put(2, side([0.0, 2.0])), 2);
        assert!(pairs.sides[1].is_some() && pairs.sides[2].is_none());
        assert_eq!(pairs.put(0, side([1.0, 0.0])), 1);
        assert!(pairs.sides.iter().all(Option::is_none));
        let scores = pairs.scores().expect("all there");
        assert_eq!(scores.precision, [0.0, 1.0, 1.0]);
    }

    #[test]
    fn a_text_that_never_came_is_noticed() {
        let mut pairs = Pairs::new(vec![(0, 1)], 2);
        pairs.put(0, side([1.0, 0.0]));
        assert_eq!(pairs.scores(), None);
    }
}
