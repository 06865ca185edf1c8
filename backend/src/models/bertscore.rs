//! `BERTScore` of one pair, from the vectors of its tokens (Zhang et al., "BERTScore: Evaluating
//! Text Generation with BERT", ICLR 2020; details as in bert-score 0.3.13).
//!
//! ```text
//! s[i][j] = cosine of candidate token i and reference token j
//! P = Σᵢ wᵢ · maxⱼ s[i][j] / Σᵢ wᵢ      w: see `token_weights`
//! R = Σⱼ wⱼ · maxᵢ s[i][j] / Σⱼ wⱼ
//! F = 2PR / (P + R)
//! ```
//!
//! Special tokens weigh nothing but are there to be matched. A side without any text scores 0/0/0;
//! one whose text is special tokens alone has weights that sum to 0, hence NaN. NaN spreads through
//! maxima and sums, except to F, where it becomes 0. Nothing is clamped.

use gpu_bridge_encoder::ops;

/// One text of a pair, ready to be matched.
pub(crate) struct Side {
    /// The tokens' vectors, each of length 1: `[tokens, width]`, flat.
    directions: Vec<f32>,
    width: usize,
    /// How much each token counts.
    weights: Vec<f32>,
    empty: bool,
}

impl Side {
    /// The text that was encoded as `hidden` (`[tokens, width]`, flat), whose tokens have these
    /// `weights`. `empty`: there is nothing in it but the tokens around every text.
    pub(crate) fn new(hidden: &[f32], width: usize, weights: Vec<f32>, empty: bool) -> Self {
        let mut directions = hidden.to_vec();
        for row in directions.chunks_exact_mut(width) {
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            for x in row {
                *x /= length;
            }
        }
        Self {
            directions,
            width,
            weights,
            empty,
        }
    }
}

/// Precision, recall and their harmonic mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Score {
    pub(crate) precision: f32,
    pub(crate) recall: f32,
    pub(crate) f1: f32,
}

impl Score {
    const NOTHING: Self = Self {
        precision: 0.0,
        recall: 0.0,
        f1: 0.0,
    };

    fn new(precision: f32, recall: f32) -> Self {
        let f1 = 2.0 * precision * recall / (precision + recall);
        Self {
            precision,
            recall,
            f1: if f1.is_nan() { 0.0 } else { f1 },
        }
    }
}

/// Scores one pair.
pub(crate) fn score(candidate: &Side, reference: &Side) -> Score {
    if candidate.empty || reference.empty {
        return Score::NOTHING;
    }
    let (of_candidate, of_reference) = best_matches(candidate, reference);
    let precision = weighted_mean(&of_candidate, &candidate.weights);
    let recall = weighted_mean(&of_reference, &reference.weights);
    Score::new(precision, recall)
}

/// The best match of each candidate token and of each reference token.
fn best_matches(candidate: &Side, reference: &Side) -> (Vec<f32>, Vec<f32>) {
    let columns = reference.weights.len();
    let mut of_reference = vec![f32::NEG_INFINITY; columns];
    let mut of_candidate = Vec::with_capacity(candidate.weights.len());
    let (left, right) = (&candidate.directions, &reference.directions);
    // A block of rows at a time: for long texts the whole matrix would be large.
    ops::dot_products(left, right, candidate.width, |similarity| {
        for row in similarity.chunks_exact(columns) {
            of_candidate.push(row.iter().copied().fold(f32::NEG_INFINITY, larger));
            for (best, x) in of_reference.iter_mut().zip(row) {
                *best = larger(*best, *x);
            }
        }
    });
    (of_candidate, of_reference)
}

/// The larger of two numbers, NaN if either is: unlike `f32::max`, which drops NaN.
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

/// NaN if the weights sum to 0.
fn weighted_mean(values: &[f32], weights: &[f32]) -> f32 {
    let weighted: f32 = values
        .iter()
        .zip(weights)
        .map(|(value, weight)| value * weight)
        .sum();
    weighted / weights.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::token_weights::TokenWeights;

    /// Start and end of every text below.
    const START: u32 = 1;
    const END: u32 = 2;

    /// A text between [`START`] and [`END`]: ids and vectors of its tokens. The frame's own vectors
    /// point away from everything else.
    fn side(tokens: &[(u32, [f32; 3])]) -> Side {
        let away = [0.0, 0.0, -1.0];
        let framed: Vec<(u32, [f32; 3])> = [&[(START, away)], tokens, &[(END, away)]].concat();
        side_of(&framed)
    }

    fn side_of(tokens: &[(u32, [f32; 3])]) -> Side {
        let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
        let hidden: Vec<f32> = tokens.iter().flat_map(|(_, vector)| *vector).collect();
        let weights = TokenWeights::Even {
            special: [START, END],
        };
        Side::new(&hidden, 3, weights.of(&ids), ids.len() <= 2)
    }

    fn scored(candidate: &Side, reference: &Side) -> (f32, f32, f32) {
        let Score {
            precision,
            recall,
            f1,
        } = score(candidate, reference);
        (precision, recall, f1)
    }

    fn close(a: (f32, f32, f32), b: (f32, f32, f32)) -> bool {
        [a.0 - b.0, a.1 - b.1, a.2 - b.2]
            .iter()
            .all(|difference| difference.abs() < 1e-6)
    }

    const X: [f32; 3] = [2.0, 0.0, 0.0];
    const Y: [f32; 3] = [0.0, 0.5, 0.0];

    #[test]
    fn equal_texts_score_one() {
        let text = side(&[(10, X), (11, Y)]);
        assert!(close(scored(&text, &text), (1.0, 1.0, 1.0)));
    }

    #[test]
    fn each_token_takes_its_best_match() {
        let candidate = side(&[(10, X)]);
        let reference = side(&[(10, X), (11, Y), (12, [3.0, 4.0, 0.0])]);
        // P: X finds X. R: X finds X, Y finds nothing near (0), [3, 4] finds X at 3/5.
        let recall = (1.0 + 0.0 + 0.6) / 3.0;
        let f1 = 2.0 * recall / (1.0 + recall);
        assert!(close(scored(&candidate, &reference), (1.0, recall, f1)));
    }

    #[test]
    fn special_tokens_are_targets_without_weight() {
        let like_the_frame = side(&[(10, [0.0, 0.0, -5.0])]);
        let (precision, recall, _) = scored(&like_the_frame, &side(&[(11, X)]));
        assert!(
            (precision - 1.0).abs() < 1e-6,
            "the frame of the other side is matched"
        );
        assert!(
            recall.abs() < 1e-6,
            "X finds nothing, and the frame's own matches don't count"
        );
    }

    #[test]
    fn special_tokens_inside_the_text_weigh_nothing_either() {
        let plain = side(&[(10, X)]);
        let written_out = side(&[(10, X), (END, Y), (START, Y)]);
        assert!(close(scored(&written_out, &plain), (1.0, 1.0, 1.0)));
    }

    #[test]
    fn an_empty_side_scores_zero() {
        let (empty, text) = (side(&[]), side(&[(10, X)]));
        for (candidate, reference) in [(&empty, &text), (&text, &empty), (&empty, &empty)] {
            assert_eq!(scored(candidate, reference), (0.0, 0.0, 0.0));
        }
    }

    #[test]
    fn a_text_of_special_tokens_alone_is_nan_on_its_side() {
        let (special, text) = (side(&[(END, X)]), side(&[(10, X)]));
        let (precision, recall, f1) = scored(&special, &text);
        assert!(precision.is_nan());
        assert!((recall - 1.0).abs() < 1e-6);
        assert!(f1.abs() < f32::EPSILON);
    }

    #[test]
    fn nan_and_zero_vectors_spread() {
        for vector in [[f32::NAN, 0.0, 0.0], [0.0; 3]] {
            let (odd, text) = (side(&[(10, X), (11, vector)]), side(&[(10, X)]));
            let (precision, recall, f1) = scored(&odd, &text);
            assert!(
                precision.is_nan() && recall.is_nan(),
                "{precision} {recall}"
            );
            assert!(f1.abs() < f32::EPSILON);
        }
    }

    #[test]
    fn opposite_texts_may_score_below_zero() {
        let candidate = side_of(&[(START, X), (10, X), (END, X)]);
        let reference = side_of(&[
            (START, [-1.0, 0.0, 0.0]),
            (10, [-2.0, 0.0, 0.0]),
            (END, [-3.0, 0.0, 0.0]),
        ]);
        assert!(close(scored(&candidate, &reference), (-1.0, -1.0, -1.0)));
    }
}
