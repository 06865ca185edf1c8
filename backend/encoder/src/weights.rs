//! What a user hands over: the shape of a model and plain matrices.

use thiserror::Error;

use crate::kernels::gemm::Activation;
use crate::kernels::norm::LayerNorm;

/// What all layers of a model have in common.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Length of a token's vector.
    pub hidden: usize,
    /// Attention heads; each works on `hidden / heads` numbers.
    pub heads: usize,
    /// Width of the feed-forward layers.
    pub intermediate: usize,
    /// Between the two halves of a feed-forward layer.
    pub activation: Activation,
    /// Whether the first half gives two values for each of the `intermediate` numbers: one for the
    /// activation, one that multiplies its result (Shazeer, "GLU Variants Improve Transformer").
    pub gated: bool,
    /// Whether each half-layer normalises its input (and adds its result to what came in) rather
    /// than the sum.
    pub norm_first: bool,
}

impl Shape {
    /// Refuses heads that cannot share a token's vector evenly.
    pub(crate) fn check(&self) -> Result<(), ShapeError> {
        let Self { hidden, heads, .. } = *self;
        if hidden > 0 && heads > 0 && hidden.is_multiple_of(heads) {
            return Ok(());
        }
        Err(ShapeError::Heads { hidden, heads })
    }

    /// Numbers of each head.
    pub fn head(&self) -> usize {
        self.hidden / self.heads
    }
}

/// A matrix, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// `rows × columns` numbers.
    pub data: Vec<f32>,
    /// How many rows.
    pub rows: usize,
    /// How many numbers in a row.
    pub columns: usize,
}

impl Matrix {
    /// Row `index`.
    ///
    /// # Panics
    /// There is no such row.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.columns..(index + 1) * self.columns]
    }
}

/// y = W x + b.
#[derive(Clone, Debug, Default)]
pub struct LinearWeights {
    /// W: a row for each output.
    pub weight: Matrix,
    /// b: one for each output.
    pub bias: Option<Vec<f32>>,
}

/// A layer normalisation.
#[derive(Clone, Debug)]
pub struct NormWeights {
    /// One for each number of a row.
    pub weight: Vec<f32>,
    /// As many, or none.
    pub bias: Option<Vec<f32>>,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Weights that do not fit the [`Shape`] or each other.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ShapeError {
    /// A part has another size.
    #[error("{what} is {found_rows} × {found_columns}; expected {rows} × {columns}")]
    Part {
        /// The part of the model.
        what: &'static str,
        /// What was handed over.
        found_rows: usize,
        /// What was handed over.
        found_columns: usize,
        /// What would fit.
        rows: usize,
        /// What would fit.
        columns: usize,
    },
    /// The heads cannot share a token's vector evenly.
    #[error("{hidden} numbers cannot be shared out evenly among {heads} heads")]
    Heads {
        /// Length of a token's vector.
        hidden: usize,
        /// Attention heads.
        heads: usize,
    },
    /// [`Rotation`](crate::Rotation) turns pairs of numbers.
    #[error("a head of {head} numbers cannot be rotated: they must be an even count")]
    Rotation {
        /// Numbers of a head.
        head: usize,
    },
}

impl Matrix {
    /// Checks the size, and that the numbers are all there.
    pub(crate) fn expect(
        &self,
        what: &'static str,
        rows: usize,
        columns: usize,
    ) -> Result<(), ShapeError> {
        let whole = self.data.len() == self.rows * self.columns;
        if whole && (self.rows, self.columns) == (rows, columns) {
            return Ok(());
        }
        Err(ShapeError::Part {
            what,
            found_rows: self.rows,
            found_columns: self.columns,
            rows,
            columns,
        })
    }
}

impl NormWeights {
    /// The normalisation of rows of `size` numbers.
    pub(crate) fn build(self, what: &'static str, size: usize) -> Result<LayerNorm, ShapeError> {
        let bias = self.bias.unwrap_or_else(|| vec![0.0; self.weight.len()]);
        for found in [self.weight.len(), bias.len()] {
            expect_length(what, found, size)?;
        }
        Ok(LayerNorm {
            weight: self.weight,
            bias,
            epsilon: self.epsilon,
        })
    }
}

pub(crate) fn expect_length(
    what: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), ShapeError> {
    if found == expected {
        return Ok(());
    }
    Err(ShapeError::Part {
        what,
        found_rows: 1,
        found_columns: found,
        rows: 1,
        columns: expected,
    })
}
