//! Every kernel against the plain formula in `f64`, with each of the machine's instruction sets.

use std::f64::consts::PI;

use proptest::prelude::*;
use pulp::{Simd, WithSimd};

use super::bf16::{Native, Pair, round_rows};
use super::gemm::{Activation, Epilogue, Multiply, Product, Rows};
use super::instruction_set::InstructionSet;
use super::norm::{Apply, LayerNorm};
use super::panels::{Packed, Panels};
use super::simd::{self, ExpMinus, Unary};
use super::softmax::Exponentials;

struct Map<'a, F>(&'a F, &'a mut [f32]);

impl<F: Unary> WithSimd for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        simd::map(s, self.1, self.0);
    }
}

/// Values from −`end` to `end`, and NaN.
fn grid(end: f32) -> Vec<f32> {
    let steps = 4_001_u16;
    let at = |n: u16| end * (f32::from(n) / f32::from(steps - 1) * 2.0 - 1.0);
    (0..steps).map(at).chain([f32::NAN]).collect()
}

/// `ours` of each value is `theirs` but for an error of `tolerance`, relative above 1.
fn expect_function(ours: &impl Unary, end: f32, tolerance: f64, theirs: impl Fn(f64) -> f64) {
    let values = grid(end);
    for set in InstructionSet::all() {
        let mut results = values.clone();
        set.run(Map(ours, &mut results));
        for (x, y) in values.iter().zip(results) {
            let expected = theirs(f64::from(*x));
            let error = (f64::from(y) - expected).abs() / expected.abs().max(1.0);
            let both_nan = y.is_nan() && expected.is_nan();
            assert!(
                both_nan || error < tolerance,
                "{set:?}, {x}: {y}, not {expected}"
            );
        }
    }
}

/// erf by the series whose terms all have one sign (Abramowitz and Stegun, 7.1.6); ±1 from 6 on,
/// where it differs from that by 2 · 10⁻¹⁷.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..400 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

#[test]
fn exponentials_are_exact_to_the_last_places() {
    expect_function(&ExpMinus(0.0), 87.0, 3e-7, f64::exp);
}

#[test]
fn activations_are_exact_to_the_last_places() {
    let gelu = |x: f64| 0.5 * x * (1.0 + erf(x / 2.0_f64.sqrt()));
    for end in [6.0, 12.0, 1000.0] {
        expect_function(&simd::Gelu, end, 1e-6, gelu);
    }
    let gelu_tanh = |x: f64| {
        let inner = (2.0 / PI).sqrt() * (x + 0.044_715 * x.powi(3));
        0.5 * x * (1.0 + inner.tanh())
    };
    for end in [6.0, 12.0, 1000.0] {
        expect_function(&simd::GeluTanh, end, 1e-6, gelu_tanh);
        expect_function(&simd::Tanh, end, 4e-7, f64::tanh);
    }
    let relu = |x: f64| if x < 0.0 { 0.0 } else { x };
    expect_function(&simd::Relu, 3.0, 1e-9, relu);
}

fn numbers(count: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-2.0_f32..2.0, count)
}

#[derive(Clone, Debug)]
struct Case {
    rows: usize,
    depth: usize,
    columns: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    scale: Vec<f32>,
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (0..20_usize, 1..40_usize, 1..150_usize);
    sizes.prop_flat_map(|(rows, depth, columns)| {
        let parts = (
            numbers(rows * depth),
            numbers(depth * columns),
            numbers(columns),
            numbers(rows * columns),
            numbers(rows),
        );
        parts.prop_map(move |(a, b, bias, residual, scale)| Case {
            rows,
            depth,
            columns,
            a,
            b,
            bias,
            residual,
            scale,
        })
    })
}

/// Numbers between two rows of a [`Part`].
const GAP: usize = 3;

struct Part {
    out: Vec<f32>,
    /// The first row of B.
    depth: usize,
    /// The first column.
    column: usize,
}

impl Case {
    fn panels(&self, set: InstructionSet) -> Panels {
        let mut panels = Panels::for_lanes(set.lanes());
        panels.fill(self.columns, self.b.chunks_exact(self.columns));
        panels
    }

    /// The columns of B, one after the other.
    fn columns_of_b(&self) -> Vec<f32> {
        let cells = (0..self.columns * self.depth).map(|nth| (nth % self.depth, nth / self.depth));
        cells.map(|(k, j)| self.b[k * self.columns + j]).collect()
    }

    /// A · B of rounded numbers, which `run` multiplies in registers of so many `lanes`.
    fn product_of_pairs(&self, lanes: usize, run: impl FnOnce(Multiply<'_, Pair>)) -> Vec<f32> {
        let mut panels = Panels::<Pair>::for_lanes(lanes);
        let columns = self.columns_of_b();
        panels.fill_transposed(self.depth, columns.chunks_exact(self.depth));
        let mut rounded = vec![Pair::MAX; self.rows * panels.rows()];
        round_rows(&self.a, self.depth, &mut rounded);
        let mut out = vec![f32::NAN; self.rows * self.columns];
        run(Multiply {
            product: Product::new(self.rows, Rows::new(&rounded, panels.rows()), &panels),
            out: &mut out,
            stride: self.columns,
        });
        out
    }

    /// The same by the plain formula.
    fn expected_of_pairs(&self, row: usize, column: usize) -> f64 {
        let products = (0..self.depth).map(|k| {
            let a = self.a[row * self.depth + k];
            rounded(a) * rounded(self.b[k * self.columns + column])
        });
        products.sum()
    }

    /// The whole product, with everything that may follow it.
    fn whole(&self, set: InstructionSet) -> Vec<f32> {
        let panels = self.panels(set);
        let mut product = Product::new(self.rows, Rows::new(&self.a, self.depth), &panels);
        product.epilogue = Epilogue {
            bias: Some(&self.bias),
            activation: Some(Activation::Relu),
            residual: Some(Rows::new(&self.residual, self.columns)),
            row_scale: Some(&self.scale),
        };
        let mut out = vec![f32::NAN; self.rows * self.columns];
        set.run(Multiply {
            product,
            out: &mut out,
            stride: self.columns,
        });
        out
    }

    /// Some of the panels, some of the depth, and an output with a gap after each row, in which is
    /// 7.
    fn part(&self, set: InstructionSet, from: usize, skip: usize) -> Part {
        let panels = self.panels(set);
        let depth = from.min(self.depth);
        let first = skip.min(self.columns.div_ceil(panels.width()) - 1);
        let column = first * panels.width();
        let left = self.a.get(depth..).unwrap_or_default();
        let mut product = Product::new(self.rows, Rows::new(left, self.depth), &panels);
        product.panels.start = first;
        product.depth.start = depth;
        let stride = self.columns - column + GAP;
        let mut out = vec![7.0; self.rows * stride];
        set.run(Multiply {
            product,
            out: &mut out,
            stride,
        });
        Part { out, depth, column }
    }

    /// A · B + bias, at least 0, + residual, × scale.
    fn expected(&self, row: usize, column: usize) -> f64 {
        let product = |k: usize| {
            let (a, b) = (
                self.a[row * self.depth + k],
                self.b[k * self.columns + column],
            );
            f64::from(a) * f64::from(b)
        };
        let sum = (0..self.depth).map(product).sum::<f64>() + f64::from(self.bias[column]);
        let residual = f64::from(self.residual[row * self.columns + column]);
        (sum.max(0.0) + residual) * f64::from(self.scale[row])
    }
}

/// The nearest number with 8 significant bits; of two, the one whose last bit is 0. Zero, and numbers
/// that are neither tiny nor huge.
fn rounded(x: f32) -> f64 {
    let x = f64::from(x);
    if x == 0.0 {
        return x;
    }
    let unit = 2.0_f64.powi(7) / 2.0_f64.powf(x.abs().log2().floor());
    (x * unit).round_ties_even() / unit
}

/// As an `f32`, the half of a pair that is in its `lower` bits or in the upper ones.
fn half(pair: Pair, lower: bool) -> f32 {
    f32::from_bits(if lower {
        pair << 16
    } else {
        pair & 0xFFFF_0000
    })
}

#[test]
fn numbers_are_rounded_to_the_nearest_of_8_bits_ties_to_even() {
    /// Half of the last significant bit of numbers from 1 to 2.
    const HALF_A_BIT: f32 = 1.0 / 256.0;
    let ties = [
        1.0 + HALF_A_BIT,
        1.0 + 3.0 * HALF_A_BIT,
        -1.0 - HALF_A_BIT,
        0.0,
        -0.0,
        3.0,
    ];
    for x in ties.into_iter().chain(grid(1000.0)).filter(|x| !x.is_nan()) {
        let [both, one] = [Pair::pack(&[x, -x]), Pair::pack(&[x])];
        assert!(
            (f64::from(half(both, true)) - rounded(x)).abs() < f64::EPSILON,
            "{x}"
        );
        assert!(
            (f64::from(half(both, false)) - rounded(-x)).abs() < f64::EPSILON,
            "{x}"
        );
        assert_eq!((one & 0xFFFF, one >> 16), (both & 0xFFFF, 0), "{x}");
    }
    for x in [
        f32::NAN,
        f32::from_bits(0xFFFF_FFFF),
        f32::from_bits(0x7F80_0001),
    ] {
        assert!(half(Pair::pack(&[x]), true).is_nan(), "{:x}", x.to_bits());
    }
    for x in [f32::MAX, f32::INFINITY] {
        assert!(half(Pair::pack(&[x]), true).is_infinite(), "{x}");
    }
}

proptest! {
    #[test]
    fn rows_are_rounded_as_single_numbers_are(row in prop::collection::vec(-1e30_f32..1e30, 0..40)) {
        let mut pairs = vec![0; row.len().div_ceil(2)];
        round_rows(&row, row.len().max(1), &mut pairs);
        let singly: Vec<Pair> = row.chunks(2).map(Pair::pack).collect();
        prop_assert_eq!(pairs, singly);
    }

    #[test]
    fn products_of_pairs_agree_with_plain_sums(case in case()) {
        let mut results: Vec<(String, Vec<f32>)> = InstructionSet::all()
            .into_iter()
            .map(|set| (format!("{set:?}"), case.product_of_pairs(set.lanes(), |op| set.run(op))))
            .collect();
        if let Some(native) = Native::find() {
            results.push(("native".to_owned(), case.product_of_pairs(16, |op| native.run(op))));
        }
        for (set, out) in results {
            for (nth, ours) in out.iter().enumerate() {
                let plain = case.expected_of_pairs(nth / case.columns, nth % case.columns);
                prop_assert!((f64::from(*ours) - plain).abs() < 1e-4, "{}: {} {}", set, ours, plain);
            }
        }
    }

    #[test]
    fn products_agree_with_plain_sums(case in case()) {
        for set in InstructionSet::all() {
            let out = case.whole(set);
            for (nth, ours) in out.iter().enumerate() {
                let plain = case.expected(nth / case.columns, nth % case.columns);
                prop_assert!((f64::from(*ours) - plain).abs() < 1e-4, "{set:?}: {ours} {plain}");
            }
        }
    }

    #[test]
    fn parts_of_a_product_are_parts_of_the_whole(case in case(), from in 0..40_usize, skip in 0..3_usize) {
        for set in InstructionSet::all() {
            let Part { out, depth, column } = case.part(set, from, skip);
            let columns = case.columns - column;
            for (row, cells) in out.chunks_exact(columns + GAP).enumerate() {
                for (nth, ours) in cells[..columns].iter().enumerate() {
                    let product = |k: usize| {
                        let b = case.b[k * case.columns + column + nth];
                        f64::from(case.a[row * case.depth + k]) * f64::from(b)
                    };
                    let plain = (depth..case.depth).map(product).sum::<f64>();
                    prop_assert!((f64::from(*ours) - plain).abs() < 1e-4, "{set:?}: {ours} {plain}");
                }
                prop_assert_eq!(&cells[columns..], [7.0; GAP]);
            }
        }
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_the_ratios(row in prop::collection::vec(-60.0_f32..60.0, 1..70)) {
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let powers = row.iter().map(|x| f64::from(x - largest).exp());
        let total: f64 = powers.clone().sum();
        for set in InstructionSet::all() {
            let (mut ours, mut factor) = (row.clone(), [0.0]);
            exponentials(set, &mut ours, &mut factor);
            for (ours, power) in ours.iter().zip(powers.clone()) {
                let (ours, plain) = (f64::from(ours * factor[0]), power / total);
                prop_assert!((ours - plain).abs() < 1e-6, "{set:?}: {ours} {plain}");
            }
        }
    }

    #[test]
    fn normalised_rows_agree_with_the_formula(
        rows in prop::collection::vec(-3.0_f32..3.0, 37 * 2), weight in numbers(37), bias in numbers(37)
    ) {
        let norm = LayerNorm { weight, bias, epsilon: 1e-5 };
        for set in InstructionSet::all() {
            let mut ours = rows.clone();
            set.run(Apply { norm: &norm, rows: &mut ours });
            for (row, ours) in rows.chunks_exact(37).zip(ours.chunks_exact(37)) {
                for (ours, plain) in ours.iter().zip(normalised(row, &norm)) {
                    prop_assert!((f64::from(*ours) - plain).abs() < 1e-5, "{set:?}: {ours} {plain}");
                }
            }
        }
    }
}

fn exponentials(set: InstructionSet, row: &mut [f32], factors: &mut [f32]) {
    let length = row.len();
    set.run(Exponentials {
        rows: row,
        stride: length,
        length,
        factors,
    });
}

fn normalised(row: &[f32], norm: &LayerNorm) -> Vec<f64> {
    let count = row.len() as f64;
    let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
    let mean = row.iter().sum::<f64>() / count;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let parameters = norm.weight.iter().zip(&norm.bias);
    let numbers = row.iter().zip(parameters).map(|(x, (weight, bias))| {
        let plain = (x - mean) / (variance + f64::from(norm.epsilon)).sqrt();
        plain * f64::from(*weight) + f64::from(*bias)
    });
    numbers.collect()
}

#[test]
fn what_is_no_number_spreads() {
    let norm = LayerNorm {
        weight: vec![1.0; 3],
        bias: vec![0.0; 3],
        epsilon: 1e-5,
    };
    for set in InstructionSet::all() {
        let (mut row, mut factor) = ([1.0, f32::NAN, 3.0], [0.0]);
        exponentials(set, &mut row, &mut factor);
        assert!(factor[0].is_nan(), "{set:?}");
        let mut row = [1.0, f32::NAN, 3.0];
        set.run(Apply {
            norm: &norm,
            rows: &mut row,
        });
        assert!(row.iter().all(|x| x.is_nan()), "{set:?}");
    }
}
