//! Layer normalisation: (x − mean) / √(variance + ε) · weight + bias, over each row. Ba, Kiros,
//! Hinton, "Layer Normalization" (2016). Mean and variance are computed in two passes.

use pulp::{Simd, WithSimd};

use super::simd::{self, dispatch};

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

struct Apply<'a> {
    norm: &'a LayerNorm,
    rows: &'a mut [f32],
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let norm = self.norm;
        for row in self.rows.chunks_exact_mut(norm.weight.len()) {
            let count = row.len() as f32;
            let mean = s.splat_f32s(sum(s, row, |x| x) / count);
            simd::map(s, row, |x| s.sub_f32s(x, mean));
            let variance = sum(s, row, |x| s.mul_f32s(x, x)) / count;
            let scale = s.splat_f32s(1.0 / (variance + norm.epsilon).sqrt());
            simd::zip(s, row, &norm.weight, |x, w| {
                s.mul_f32s(s.mul_f32s(x, scale), w)
            });
            simd::zip(s, row, &norm.bias, |x, b| s.add_f32s(x, b));
        }
    }
}

/// The sum of `function` of each number; `function` of 0 must be 0.
#[inline(always)]
pub(super) fn sum<S: Simd>(s: S, row: &[f32], function: impl Fn(S::f32s) -> S::f32s) -> f32 {
    let (whole, rest) = S::as_simd_f32s(row);
    // Four sums at a time hide the latency of an addition.
    let (fours, ones) = whole.as_chunks::<4>();
    let mut sums = [s.splat_f32s(0.0); 4];
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four) {
            *sum = s.add_f32s(*sum, function(*x));
        }
    }
    let [a, b, c, d] = sums;
    let mut sum = s.add_f32s(s.add_f32s(a, b), s.add_f32s(c, d));
    for x in ones {
        sum = s.add_f32s(sum, function(*x));
    }
    if !rest.is_empty() {
        sum = s.add_f32s(sum, function(s.partial_load_f32s(rest)));
    }
    s.reduce_sum_f32s(sum)
}
