//! Matrix products with the work that follows them: bias, activation, residual.
//!
//! A tile of the result, [`TILE`] rows by one panel, is summed in registers over the whole depth.
//! The right-hand side is packed in [`Panels`] beforehand (weights: once, at load), the left-hand
//! side is read where it lies. Blocks of [`BLOCK`] rows keep the left side in the second-level
//! cache while all panels pass over it. (Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication"; the packing of the left side that they describe gained nothing here, since a
//! tile's few rows are streams that the prefetcher follows.)
//!
//! Both sides are `f32`, or both are pairs of bf16 (see [`bf16`](super::bf16)); a [`Step`] multiplies them.
//! Sums are `f32` in any case.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::panels::{MAX_WIDTH, Packed, Panels, most_registers};
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
pub(crate) struct Rows<'a, T = f32> {
    pub(crate) data: &'a [T],
    pub(crate) stride: usize,
}

impl<'a, T: Copy> Rows<'a, T> {
    pub(crate) fn new(data: &'a [T], stride: usize) -> Self {
        Self { data, stride }
    }

    fn from(self, row: usize) -> &'a [T] {
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
pub(crate) struct Product<'a, T = f32> {
    pub(crate) rows: usize,
    pub(crate) a: Rows<'a, T>,
    pub(crate) b: &'a Panels<T>,
    /// The part of the depth to sum over: columns of A (counted from the first of this range) and
    /// rows of B.
    pub(crate) depth: Range<usize>,
    /// The panels of B to use; the result's columns are counted from the first of them.
    pub(crate) panels: Range<usize>,
    pub(crate) epilogue: Epilogue<'a>,
}

impl<'a, T: Packed> Product<'a, T> {
    /// With all of B.
    pub(crate) fn new(rows: usize, a: Rows<'a, T>, b: &'a Panels<T>) -> Self {
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
}

impl Product<'_> {
    /// Computes into `out`, whose rows are `stride` apart.
    pub(crate) fn write(self, out: &mut [f32], stride: usize) {
        dispatch(Multiply {
            product: self,
            out,
            stride,
        });
    }
}

/// How the inner loop multiplies, in registers of `S`.
pub(super) trait Step<S: Simd>: Copy {
    /// What is multiplied.
    type Number: Packed;
    /// As many of them as there are sums in a register.
    type Register: Copy;

    fn registers(panel: &[Self::Number]) -> &[Self::Register];

    fn splat(self, s: S, a: Self::Number) -> Self::Register;

    /// sum + a · b
    fn add_product(self, s: S, sum: S::f32s, a: Self::Register, b: Self::Register) -> S::f32s;
}

/// Plain numbers.
#[derive(Clone, Copy)]
struct Single;

impl<S: Simd> Step<S> for Single {
    type Number = f32;
    type Register = S::f32s;

    #[inline(always)]
    fn registers(panel: &[f32]) -> &[S::f32s] {
        S::as_simd_f32s(panel).0
    }

    #[inline(always)]
    fn splat(self, s: S, a: f32) -> S::f32s {
        s.splat_f32s(a)
    }

    #[inline(always)]
    fn add_product(self, s: S, sum: S::f32s, a: S::f32s, b: S::f32s) -> S::f32s {
        s.mul_add_e_f32s(a, b, sum)
    }
}

pub(super) struct Multiply<'a, T = f32> {
    pub(super) product: Product<'a, T>,
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        self.run(s, Single);
    }
}

impl<T: Packed> Multiply<'_, T> {
    #[inline(always)]
    pub(super) fn run<S: Simd>(self, s: S, step: impl Step<S, Number = T>) {
        let registers = self.product.b.width() / S::F32_LANES;
        debug_assert!(registers <= most_registers(S::F32_LANES));
        match registers {
            4 => self.pass::<S, 4>(s, step),
            2 => self.pass::<S, 2>(s, step),
            _ => self.pass::<S, 1>(s, step),
        }
    }

    #[inline(always)]
    fn pass<S: Simd, const N: usize>(mut self, s: S, step: impl Step<S, Number = T>) {
        let panels = self.product.panels.clone();
        for start in (0..self.product.rows).step_by(BLOCK) {
            let end = (start + BLOCK).min(self.product.rows);
            for panel in panels.clone() {
                self.column_of_tiles::<S, N>(s, step, start..end, panel);
            }
        }
    }

    #[inline(always)]
    fn column_of_tiles<S: Simd, const N: usize>(
        &mut self,
        s: S,
        step: impl Step<S, Number = T>,
        rows: Range<usize>,
        panel: usize,
    ) {
        let mut row = rows.start;
        while row + TILE <= rows.end {
            self.tile::<S, TILE, N>(s, step, row, panel);
            row += TILE;
        }
        if row + 4 <= rows.end {
            self.tile::<S, 4, N>(s, step, row, panel);
            row += 4;
        }
        if row + 2 <= rows.end {
            self.tile::<S, 2, N>(s, step, row, panel);
            row += 2;
        }
        if row < rows.end {
            self.tile::<S, 1, N>(s, step, row, panel);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &mut self,
        s: S,
        step: impl Step<S, Number = T>,
        row: usize,
        panel: usize,
    ) {
        let Product { a, b, depth, .. } = &self.product;
        let numbers = b.panel(panel, depth.start, depth.end);
        let sums = sums::<S, _, M, N>(s, step, a.from(row), a.stride, numbers);
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
fn sums<S: Simd, K: Step<S>, const M: usize, const N: usize>(
    s: S,
    step: K,
    a: &[K::Number],
    stride: usize,
    panel: &[K::Number],
) -> [[S::f32s; N]; M] {
    let (panel, _) = K::registers(panel).as_chunks::<N>();
    let depth = panel.len();
    let rows: [&[K::Number]; M] = std::array::from_fn(|i| &a[i * stride..i * stride + depth]);
    let mut sums = [[s.splat_f32s(0.0); N]; M];
    for (k, b) in panel.iter().enumerate() {
        for i in 0..M {
            let a = step.splat(s, rows[i][k]);
            for j in 0..N {
                sums[i][j] = step.add_product(s, sums[i][j], a, b[j]);
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
