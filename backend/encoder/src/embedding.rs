//! The first step: from token ids to vectors.

use rayon::prelude::*;

use crate::encoder::ForwardError;
use crate::kernels::gemm::Epilogue;
use crate::kernels::norm::LayerNorm;
use crate::limits::{Limits, to_index};
use crate::linear::{Factors, Linear};
use crate::weights::{LinearWeights, Matrix, NormWeights, Shape, ShapeError};

/// Tokens that one task works on.
const TASK: usize = 64;

/// Weights of the embedding.
#[derive(Clone, Debug)]
pub struct EmbeddingWeights {
    /// A row for each token id. What every token gets besides (the vector of token type 0) is
    /// already added.
    pub words: Matrix,
    /// A row for each position, as wide as the words.
    pub positions: Option<(Matrix, PositionIds)>,
    /// From the words' width to the hidden size, where they differ.
    pub projection: Option<LinearWeights>,
    /// Applied last.
    pub norm: NormWeights,
}

/// Which row of the position embedding a token gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionIds {
    /// The first token 0, the next 1, and so on.
    FromZero,
    /// Counted from `padding` + 1, leaving out tokens with the id `padding`, which get that row
    /// themselves (RoBERTa and its heirs).
    AfterPadding {
        /// The id of the padding token.
        padding: u32,
    },
}

impl PositionIds {
    /// How many tokens a sequence can have if there are `rows` positions.
    pub fn longest(self, rows: usize) -> usize {
        match self {
            Self::FromZero => rows,
            Self::AfterPadding { padding } => rows.saturating_sub(to_index(padding) + 1),
        }
    }

    /// The row of each token of a sequence.
    pub fn rows(self, ids: &[u32]) -> impl Iterator<Item = usize> {
        let mut seen = 0;
        ids.iter().map(move |id| match self {
            Self::FromZero => {
                seen += 1;
                seen - 1
            }
            Self::AfterPadding { padding } if *id == padding => to_index(padding),
            Self::AfterPadding { padding } => {
                seen += 1;
                seen + to_index(padding)
            }
        })
    }
}

impl EmbeddingWeights {
    /// What a model with this embedding takes.
    pub fn limits(&self) -> Limits {
        let positions = self.positions.as_ref();
        Limits {
            vocabulary: self.words.rows,
            longest: positions.map(|(rows, ids)| ids.longest(rows.rows)),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Embedding {
    limits: Limits,
    words: Matrix,
    positions: Option<(Matrix, PositionIds)>,
    projection: Option<Linear>,
    norm: LayerNorm,
    hidden: usize,
}

impl Embedding {
    pub(crate) fn build(
        weights: EmbeddingWeights,
        shape: &Shape,
        factors: Factors,
    ) -> Result<Self, ShapeError> {
        let limits = weights.limits();
        let EmbeddingWeights {
            words,
            positions,
            projection,
            norm,
        } = weights;
        let width = if projection.is_some() {
            words.columns
        } else {
            shape.hidden
        };
        words.expect("the word embedding", words.rows, width)?;
        if let Some((rows, _)) = &positions {
            rows.expect("the position embedding", rows.rows, width)?;
        }
        let sizes = (width, shape.hidden);
        let projection = projection
            .map(|linear| Linear::build("the embedding's projection", linear, sizes, factors));
        Ok(Self {
            limits,
            words,
            positions,
            projection: projection.transpose()?,
            norm: norm.build("the embedding's norm", shape.hidden)?,
            hidden: shape.hidden,
        })
    }

    /// The most tokens of a sequence; `None`: no limit.
    pub(crate) fn longest(&self) -> Option<usize> {
        self.limits.longest
    }

    /// Bytes that this holds.
    pub(crate) fn bytes(&self) -> usize {
        let positions = self
            .positions
            .as_ref()
            .map_or(0, |(rows, _)| rows.data.len());
        let projection = self.projection.as_ref().map_or(0, Linear::bytes);
        size_of::<f32>() * (self.words.data.len() + positions) + projection + self.norm.bytes()
    }

    /// Refuses ids and lengths that the tables don't have.
    pub(crate) fn check(&self, batch: &[&[u32]]) -> Result<(), ForwardError> {
        self.limits.check(batch)
    }

    /// Vectors of a batch's tokens, into `hidden`. The batch has been checked.
    pub(crate) fn run(&self, batch: &[&[u32]], hidden: &mut [f32]) {
        let tokens = self.tokens(batch);
        let tasks = hidden.par_chunks_mut(TASK * self.hidden);
        tasks
            .zip(tokens.par_chunks(TASK))
            .for_each(|(rows, tokens)| {
                match &self.projection {
                    None => self.look_up(tokens, self.hidden, rows),
                    Some(projection) => {
                        let width = self.words.columns;
                        let mut words = vec![0.0; tokens.len() * width];
                        self.look_up(tokens, width, &mut words);
                        projection.apply(&mut Vec::new(), &words, rows, Epilogue::default());
                    }
                }
                self.norm.apply(rows);
            });
    }

    /// The rows of words and positions for each token.
    fn tokens(&self, batch: &[&[u32]]) -> Vec<(usize, usize)> {
        let ids = self
            .positions
            .as_ref()
            .map_or(PositionIds::FromZero, |(_, ids)| *ids);
        let rows = |sequence: &&[u32]| -> Vec<(usize, usize)> {
            let words = sequence.iter().map(|id| to_index(*id));
            words.zip(ids.rows(sequence)).collect()
        };
        batch.iter().flat_map(rows).collect()
    }

    fn look_up(&self, tokens: &[(usize, usize)], width: usize, rows: &mut [f32]) {
        for ((word, position), row) in tokens.iter().zip(rows.chunks_exact_mut(width)) {
            row.copy_from_slice(self.words.row(*word));
            let Some((positions, _)) = &self.positions else {
                continue;
            };
            for (x, y) in row.iter_mut().zip(positions.row(*position)) {
                *x += y;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_after_padding_leave_padding_out() {
        let ids = PositionIds::AfterPadding { padding: 1 };
        let rows: Vec<usize> = ids.rows(&[0, 7, 1, 8, 1, 2]).collect();
        assert_eq!(rows, [2, 3, 1, 4, 1, 5]);
        assert_eq!(ids.longest(514), 512);
    }

    #[test]
    fn positions_from_zero_count() {
        let rows: Vec<usize> = PositionIds::FromZero.rows(&[5, 5, 0]).collect();
        assert_eq!(rows, [0, 1, 2]);
        assert_eq!(PositionIds::FromZero.longest(512), 512);
    }
}
