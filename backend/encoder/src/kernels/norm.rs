//! Layer normalisation: (x − mean) / √(variance + ε) · weight + bias, over each row. Ba, Kiros,
//! Hinton, "Layer Normalization" (2016). Mean and variance are computed in two passes.

use pulp::{Simd, WithSimd};

use super::simd::{self, Add, Identity, Minus, Multiply, Square, Times, dispatch};

/// The parameters of one normalisation.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    pub(crate) weight: Vec<f32>,
    /// As long as the weight.
    pub(crate) bias: Vec<f32>,
    pub(crate) epsilon: f32,
}

impl LayerNorm {
    /// Normalises each row of `rows` in place.
    pub(crate) fn apply(&self, rows: &mut [f32]) {
        dispatch(Apply { norm: self, rows });
    }

    /// Bytes that this holds.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<f32>() * (self.weight.len() + self.bias.len())
    }
}

pub(super) struct Apply<'a> {
    pub(super) norm: &'a LayerNorm,
    pub(super) rows: &'a mut [f32],
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let norm = self.norm;
        for row in self.rows.chunks_exact_mut(norm.weight.len()) {
            let count = row.len() as f32;
            let mean = simd::sum(s, row, &Identity) / count;
            simd::map(s, row, &Minus(mean));
            let variance = simd::sum(s, row, &Square) / count;
            simd::map(s, row, &Times(1.0 / (variance + norm.epsilon).sqrt()));
            simd::zip(s, row, &norm.weight, &Multiply);
            simd::zip(s, row, &norm.bias, &Add);
        }
    }
}
