//! A matrix laid out for [`multiply`](super::gemm::multiply): panels of a few registers' width,
//! each with its rows one after the other, so that the inner loop reads it front to back.
//!
//! ```text
//! B: k × n, width w          panel 0              panel 1
//!                     [B[0][0..w], B[1][0..w], …] [B[0][w..2w], …]   columns beyond n are 0
//! ```
//!
//! A [`Packed`] cell may hold several rows of the matrix: then "row" means so many of them.

use super::simd::{Lanes, dispatch};

/// What a register of a packed matrix holds one of in each of its lanes.
pub(crate) trait Packed: Copy + Default {
    /// Numbers that follow each other in a column.
    const NUMBERS: usize;

    /// From at most so many numbers; what is missing is 0.
    fn pack(numbers: &[f32]) -> Self;
}

impl Packed for f32 {
    const NUMBERS: usize = 1;

    fn pack(numbers: &[f32]) -> Self {
        numbers.first().copied().unwrap_or_default()
    }
}

/// The widest panel: four registers of 16 numbers.
pub(crate) const MAX_WIDTH: usize = 64;

/// The right-hand side of a product: `k` rows, `n` columns.
#[derive(Clone, Debug)]
pub(crate) struct Panels<T = f32> {
    /// Of the registers that multiply it.
    lanes: usize,
    width: usize,
    rows: usize,
    columns: usize,
    data: Vec<T>,
}

impl<T: Packed> Default for Panels<T> {
    /// An empty one, for the registers that [`dispatch`] finds.
    fn default() -> Self {
        Self::for_lanes(dispatch(Lanes))
    }
}

impl<T: Packed> Panels<T> {
    /// An empty one, for registers of so many numbers.
    pub(super) fn for_lanes(lanes: usize) -> Self {
        Self {
            lanes,
            width: 0,
            rows: 0,
            columns: 0,
            data: Vec::new(),
        }
    }

    /// From a linear layer's weight, whose rows are the outputs: B = `weight`ᵀ, with `inputs` rows.
    pub(crate) fn from_linear(weight: &[f32], inputs: usize) -> Self {
        let mut panels = Self::default();
        panels.fill_transposed(inputs, weight.chunks_exact(inputs.max(1)));
        panels
    }

    /// Replaces the content: column j of B is the `j`th of `columns`, each `length` long.
    pub(crate) fn fill_transposed<'a>(
        &mut self,
        length: usize,
        mut columns: impl ExactSizeIterator<Item = &'a [f32]>,
    ) {
        self.reset(length.div_ceil(T::NUMBERS), columns.len());
        for panel in self.data.chunks_exact_mut((self.rows * self.width).max(1)) {
            let own: [&[f32]; MAX_WIDTH] =
                std::array::from_fn(|nth| take_if(&mut columns, nth < self.width));
            let count = own.iter().take_while(|column| !column.is_empty()).count();
            for (i, cells) in panel.chunks_exact_mut(self.width).enumerate() {
                let from = i * T::NUMBERS;
                let to = (from + T::NUMBERS).min(length);
                for (cell, column) in cells.iter_mut().zip(&own[..count]) {
                    *cell = T::pack(&column[from..to]);
                }
            }
        }
    }

    /// The numbers of B's rows `from..to` in panel `panel`.
    pub(crate) fn panel(&self, panel: usize, from: usize, to: usize) -> &[T] {
        let start = panel * self.rows * self.width;
        &self.data[start + from * self.width..start + to * self.width]
    }

    /// Columns of one panel.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that this holds.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.data.as_slice())
    }

    fn reset(&mut self, rows: usize, columns: usize) {
        self.width = width_for(columns, self.lanes);
        self.rows = rows;
        self.columns = columns;
        let padded = columns.next_multiple_of(self.width);
        self.data.clear();
        self.data.resize(rows * padded, T::default());
    }
}

impl Panels {
    /// Replaces the content: row i of B is the `i`th of `rows`, each `columns` long.
    pub(crate) fn fill<'a>(
        &mut self,
        columns: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
    ) {
        self.reset(rows.len(), columns);
        let (width, stride) = (self.width, self.width * self.rows);
        for (i, row) in rows.enumerate() {
            for (panel, cells) in row.chunks(width).enumerate() {
                let start = panel * stride + i * width;
                self.data[start..start + cells.len()].copy_from_slice(cells);
            }
        }
    }
}

/// The next of `columns`; nothing if there is none or none is wanted.
fn take_if<'a>(columns: &mut impl Iterator<Item = &'a [f32]>, wanted: bool) -> &'a [f32] {
    if wanted {
        columns.next().unwrap_or_default()
    } else {
        &[]
    }
}

/// The most registers across a panel: as many as leave room for [`TILE`](super::gemm::TILE) rows of
/// sums (16 registers with AVX2, 32 with AVX-512 and on aarch64).
pub(crate) fn most_registers(lanes: usize) -> usize {
    if lanes == 8 { 2 } else { 4 }
}

/// The width that pads `columns` least; of equals, the widest.
fn width_for(columns: usize, lanes: usize) -> usize {
    let mut best = lanes;
    for registers in [2, 4] {
        let width = registers * lanes;
        let fits = registers <= most_registers(lanes);
        if fits && columns.next_multiple_of(width) <= columns.next_multiple_of(best) {
            best = width;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers without vectors, on aarch64, with AVX2 and with AVX-512.
    const LANES: [usize; 4] = [1, 4, 8, 16];

    /// B\[i\]\[j\] = 100 i + j.
    fn expect_cells(panels: &Panels) {
        for i in 0..panels.rows() {
            for j in 0..panels.columns() {
                let row = panels.panel(j / panels.width(), i, i + 1);
                let expected = (100 * i + j) as f32;
                assert!((row[j % panels.width()] - expected).abs() < f32::EPSILON);
            }
        }
    }

    #[test]
    fn both_ways_of_filling_give_the_same_matrix() {
        let sizes = [(1, 1), (3, 5), (7, 64), (4, 65), (2, 130), (0, 3), (3, 0)];
        let cases = LANES.map(|lanes| sizes.map(|(k, n)| (lanes, k, n)));
        for (lanes, k, n) in cases.into_iter().flatten() {
            let b: Vec<Vec<f32>> = (0..k)
                .map(|i| (0..n).map(|j| (100 * i + j) as f32).collect())
                .collect();
            let columns: Vec<Vec<f32>> = (0..n)
                .map(|j| b.iter().map(|row| row[j]).collect())
                .collect();
            let mut panels = Panels::<f32>::for_lanes(lanes);
            panels.fill(n, b.iter().map(Vec::as_slice));
            expect_cells(&panels);
            panels.fill_transposed(k, columns.iter().map(Vec::as_slice));
            expect_cells(&panels);
            assert_eq!((panels.rows(), panels.columns()), (k, n));
        }
    }

    #[test]
    fn cells_beyond_the_last_column_are_zero() {
        for lanes in LANES {
            let mut panels = Panels::<f32>::for_lanes(lanes);
            panels.fill(1, [[7.0].as_slice()].into_iter());
            panels.fill(1, [[8.0].as_slice()].into_iter());
            let row = panels.panel(0, 0, 1);
            assert_eq!(row.len(), lanes, "the narrowest");
            assert!(row[1..].iter().all(|x| *x == 0.0));
        }
    }
}
