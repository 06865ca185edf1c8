//! Operations on rows that users of hidden states need, too.

use pulp::{Simd, WithSimd};

use crate::kernels::gemm::{Activation, Product, Rows, TILE};
use crate::kernels::panels::Panels;
use crate::kernels::simd::{self, Multiply, dispatch};

/// `out` = activation(first half) × second half, for each row of `wide`, which has `2 × width`
/// numbers.
pub(crate) fn gate(activation: Activation, wide: &[f32], out: &mut [f32], width: usize) {
    dispatch(Gate {
        activation,
        wide,
        out,
        width,
    });
}

struct Gate<'a> {
    activation: Activation,
    wide: &'a [f32],
    out: &'a mut [f32],
    width: usize,
}

impl WithSimd for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let rows = self.wide.chunks_exact(2 * self.width);
        for (wide, out) in rows.zip(self.out.chunks_exact_mut(self.width)) {
            let (first, second) = wide.split_at(self.width);
            out.copy_from_slice(first);
            simd::activate(s, out, self.activation);
            simd::zip(s, out, second, &Multiply);
        }
    }
}

/// Rows of a block of dot products.
const BLOCK: usize = 8 * TILE;

/// Every dot product of a row of `left` with a row of `right`, both of which have rows of `width`
/// numbers: `each` gets `[some left rows, right rows]` after the other, in order.
pub fn dot_products(left: &[f32], right: &[f32], width: usize, mut each: impl FnMut(&[f32])) {
    let mut panels = Panels::default();
    panels.fill_transposed(width, right.chunks_exact(width));
    let columns = panels.columns();
    let mut out = vec![0.0; BLOCK * columns];
    for left in left.chunks(BLOCK * width) {
        let rows = left.len() / width;
        let out = &mut out[..rows * columns];
        Product::new(rows, Rows::new(left, width), &panels).write(out, columns);
        each(out);
    }
}

/// Adds each row of `rows`, as long as `sum`, to `sum`.
pub fn add_rows(rows: &[f32], sum: &mut [f32]) {
    for row in rows.chunks_exact(sum.len()) {
        for (total, x) in sum.iter_mut().zip(row) {
            *total += x;
        }
    }
}

/// Whether there is neither NaN nor infinity among `numbers`: without a branch for each, which the compiler
/// makes quick.
pub fn are_finite(numbers: &[f32]) -> bool {
    let mut blocks = numbers.chunks(BLOCK);
    blocks.all(|block| block.iter().fold(true, |all, x| all & x.is_finite()))
}
