//! How much each token of a text counts in `BERTScore`.

use std::collections::{HashMap, HashSet};

/// A weight for every token id.
#[derive(Debug)]
pub(crate) enum TokenWeights {
    /// 0 for these ids, 1 for all others.
    Even { special: [u32; 2] },
    /// Inverse document frequencies, and the one of an id that no document has.
    Idf {
        known: HashMap<u32, f32>,
        unknown: f32,
    },
}

impl TokenWeights {
    /// Inverse document frequencies over the token ids of `documents`: log((N + 1) / (n + 1)) for an
    /// id that n of N documents have (`get_idf_dict` in bert-score 0.3.13). The ids that every
    /// document starts and ends with come to 0.
    pub(crate) fn idf<'a>(documents: impl ExactSizeIterator<Item = &'a [u32]>) -> Self {
        let total = documents.len();
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for document in documents {
            for id in document.iter().collect::<HashSet<_>>() {
                *counts.entry(*id).or_default() += 1;
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "weights are `f32`")]
        let idf = |count: usize| ((total + 1) as f64 / (count + 1) as f64).ln() as f32;
        Self::Idf {
            known: counts.iter().map(|(id, n)| (*id, idf(*n))).collect(),
            unknown: idf(0),
        }
    }

    /// The weight of each of `ids`.
    pub(crate) fn of(&self, ids: &[u32]) -> Vec<f32> {
        let weight = |id: &u32| match self {
            Self::Even { special } if special.contains(id) => 0.0,
            Self::Even { .. } => 1.0,
            Self::Idf { known, unknown } => known.get(id).copied().unwrap_or(*unknown),
        };
        ids.iter().map(weight).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_weights_leave_out_what_frames_a_text() {
        let weights = TokenWeights::Even { special: [1, 2] };
        assert_eq!(weights.of(&[1, 7, 2, 8, 2]), [0.0, 1.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn the_rarer_a_token_among_the_documents_the_more_it_weighs() {
        let documents: [&[u32]; 3] = [&[1, 7, 7, 2], &[1, 7, 8, 2], &[1, 2]];
        let weights = TokenWeights::idf(documents.into_iter());
        assert_eq!(weights.of(&[1, 2]), [0.0, 0.0]);
        let expected = [4.0_f32 / 3.0, 4.0 / 2.0, 4.0].map(f32::ln);
        for (weight, expected) in weights.of(&[7, 8, 9]).iter().zip(expected) {
            assert!((weight - expected).abs() < 1e-6, "{weight} {expected}");
        }
    }
}
