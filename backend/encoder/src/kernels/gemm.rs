//! Matrix products with the work that follows them: bias, activation, residual.
//!
//! A tile of the result, [`TILE`] rows by one panel, is summed in registers over the whole depth.
//! The right-hand side is packed in [`Panels`] beforehand (weights: once, at load), the left-hand
//! side is read where it lies. Blocks of [`BLOCK`] rows keep the left side in the second-level
//! cache while all panels pass over it. (Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication"; the packing of the left side that they describe gained nothing here, since a
//! tile's few rows are streams that the prefetcher follows.)

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::panels::{MAX_WIDTH, Panels, most_registers};
use super::simd::{self, Add, Times, dispatch};

/// Rows of a tile.
pub(crate) const TILE: usize = 6;
/// Rows that one pass over the panels works on.
const BLOCK: usize = 32 * TILE;

/// What follows a linear layer, elementwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·Φ(x), with the error function.
    Gelu,
    /// The tanh approximation of it.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// The hyperbolic tangent.
    Tanh,
}

/// Rows of numbers that lie `stride` apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, stride }
    }

    fn from(self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride..]
    }
}

/// What is done with each number of the result, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Epilogue<'a> {
    /// Added; one for each column.
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Option<Activation>,
    /// Added; of the result's shape.
    pub(crate) residual: Option<Rows<'a>>,
    /// Multiplied; one for each row.
    pub(crate) row_scale: Option<&'a [f32]>,
}

/// `out` = epilogue(A · B) for `rows` rows of A.
pub(crate) struct Product<'a> {
    pub(crate) rows: usize,
    pub(crate) a: Rows<'a>,
    pub(crate) b: &'a Panels,
    /// The part of the depth to sum over: columns of A (counted from the first of this range) and
    /// rows of B.
    pub(crate) depth: Range<usize>,
    /// The panels of B to use; the result's columns are counted from the first of them.
    pub(crate) panels: Range<usize>,
    pub(crate) epilogue: Epilogue<'a>,
}

impl<'a> Product<'a> {
    /// With all of B.
    pub(crate) fn new(rows: usize, a: Rows<'a>, b: &'a Panels) -> Self {
        let panels = 0..b.columns().div_ceil(b.width().max(1));
        Self {
            rows,
            a,
            b,
            depth: 0..b.rows(),
            panels,
            epilogue: Epilogue::default(),
        }
    }

    /// Computes into `out`, whose rows are `stride` apart.
    pub(crate) fn write(self, out: &mut [f32], stride: usize) {
        dispatch(Multiply {
            product: self,
            out,
            stride,
        });
    }
}

pub(super) struct Multiply<'a> {
    pub(super) product: Product<'a>,
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let registers = self.product.b.width() / S::F32_LANES;
        debug_assert!(registers <= most_registers(S::F32_LANES));
        match registers {
            4 => self.run::<S, 4>(s),
            2 => self.run::<S, 2>(s),
            _ => self.run::<S, 1>(s),
        }
    }
}

impl Multiply<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(mut self, s: S) {
        let panels = self.product.panels.clone();
        for start in (0..self.product.rows).step_by(BLOCK) {
            let end = (start + BLOCK).min(self.product.rows);
            for panel in panels.clone() {
                self.column_of_tiles::<S, N>(s, start..end, panel);
            }
        }
    }

    #[inline(always)]
    fn column_of_tiles<S: Simd, const N: usize>(&mut self, s: S, rows: Range<usize>, panel: usize) {
        let mut row = rows.start;
        while row + TILE <= rows.end {
            self.tile::<S, TILE, N>(s, row, panel);
            row += TILE;
        }
        if row + 4 <= rows.end {
            self.tile::<S, 4, N>(s, row, panel);
            row += 4;
        }
        if row + 2 <= rows.end {
            self.tile::<S, 2, N>(s, row, panel);
            row += 2;
        }
        if row < rows.end {
            self.tile::<S, 1, N>(s, row, panel);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(&mut self, s: S, row: usize, panel: usize) {
        let Product { a, b, depth, .. } = &self.product;
        let (numbers, _) = S::as_simd_f32s(b.panel(panel, depth.start, depth.end));
        let sums = sums::<S, M, N>(s, a.from(row), a.stride, numbers);
        let column = (panel - self.product.panels.start) * b.width();
        let width = b.width().min(b.columns() - panel * b.width());
        for (nth, sums) in sums.into_iter().enumerate() {
            let start = (row + nth) * self.stride + column;
            let out = &mut self.out[start..start + width];
            store::<S, N>(s, out, sums);
            self.product.epilogue.finish(s, out, row + nth, column);
        }
    }
}

/// The sums of `M` rows of A (`stride` apart) against one panel: the inner loop.
#[inline(always)]
fn sums<S: Simd, const M: usize, const N: usize>(
    s: S,
    a: &[f32],
    stride: usize,
    panel: &[S::f32s],
) -> [[S::f32s; N]; M] {
    let (panel, _) = panel.as_chunks::<N>();
    let depth = panel.len();
    let rows: [&[f32]; M] = std::array::from_fn(|i| &a[i * stride..i * stride + depth]);
    let mut sums = [[s.splat_f32s(0.0); N]; M];
    for (k, b) in panel.iter().enumerate() {
        for i in 0..M {
            let a = s.splat_f32s(rows[i][k]);
            for j in 0..N {
                sums[i][j] = s.mul_add_e_f32s(a, b[j], sums[i][j]);
            }
        }
    }
    sums
}

#[inline(always)]
fn store<S: Simd, const N: usize>(s: S, out: &mut [f32], sums: [S::f32s; N]) {
    if out.len() == N * S::F32_LANES {
        let (out, _) = S::as_mut_simd_f32s(out);
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum;
        }
        return;
    }
    let _ = s;
    let mut row = [0.0; MAX_WIDTH];
    let (cells, _) = S::as_mut_simd_f32s(&mut row);
    for (cell, sum) in cells.iter_mut().zip(sums) {
        *cell = sum;
    }
    out.copy_from_slice(&row[..out.len()]);
}

impl Epilogue<'_> {
    /// Finishes the numbers of `row` from `column` on, which have just been stored.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, out: &mut [f32], row: usize, column: usize) {
        let columns = column..column + out.len();
        if let Some(bias) = self.bias {
            simd::zip(s, out, &bias[columns.clone()], &Add);
        }
        if let Some(activation) = self.activation {
            simd::activate(s, out, activation);
        }
        if let Some(residual) = self.residual {
            simd::zip(s, out, &residual.from(row)[columns], &Add);
        }
        if let Some(scale) = self.row_scale {
            simd::map(s, out, &Times(scale[row]));
        }
    }
}
