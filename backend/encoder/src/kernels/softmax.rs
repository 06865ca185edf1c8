//! Softmax without its division: eˣ⁻ᵐᵃˣ of each number, and the factor that makes the row sum to 1,
//! which is cheaper to apply after the product that follows.

use pulp::{Simd, WithSimd};

use super::simd::{self, ExpMinus, Identity, dispatch};

/// Replaces each row of `rows`, `length` numbers `stride` apart, by its exponentials; `factors[i]`
/// becomes the factor of row i.
pub(crate) fn exponentials(rows: &mut [f32], stride: usize, length: usize, factors: &mut [f32]) {
    dispatch(Exponentials {
        rows,
        stride,
        length,
        factors,
    });
}

pub(super) struct Exponentials<'a> {
    pub(super) rows: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) length: usize,
    pub(super) factors: &'a mut [f32],
}

impl WithSimd for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for (row, factor) in self.rows.chunks_mut(self.stride).zip(self.factors) {
            let row = &mut row[..self.length];
            let largest = largest(s, row);
            simd::map(s, row, &ExpMinus(largest));
            *factor = 1.0 / simd::sum(s, row, &Identity);
        }
    }
}

#[inline(always)]
fn largest<S: Simd>(s: S, row: &[f32]) -> f32 {
    let (whole, rest) = S::as_simd_f32s(row);
    let mut largest = s.splat_f32s(f32::NEG_INFINITY);
    for x in whole {
        largest = s.max_f32s(largest, *x);
    }
    let largest = s.reduce_max_f32s(largest);
    rest.iter().copied().fold(largest, f32::max)
}
