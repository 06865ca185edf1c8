//! Every kernel against the plain formula in `f64`, with the instructions of this processor and, for
//! what does not depend on a panel's width, without any.

use std::f64::consts::PI;

use proptest::prelude::*;
use pulp::{Scalar, Simd, WithSimd};

use super::gemm::{Activation, Epilogue, Product, Rows};
use super::norm::LayerNorm;
use super::panels::Panels;
use super::simd::{self, ExpMinus, Unary, dispatch};
use super::softmax;

struct Map<'a, F>(&'a F, &'a mut [f32]);

impl<F: Unary> WithSimd for Map<'_, F> {
    type Output = ();

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
    let (mut wide, mut narrow) = (values.clone(), values.clone());
    dispatch(Map(ours, &mut wide));
    Map(ours, &mut narrow).with_simd(Scalar::new());
    for results in [wide, narrow] {
        for (x, y) in values.iter().zip(results) {
            let expected = theirs(f64::from(*x));
            let error = (f64::from(y) - expected).abs() / expected.abs().max(1.0);
            let both_nan = y.is_nan() && expected.is_nan();
            assert!(both_nan || error < tolerance, "{x}: {y}, not {expected}");
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

impl Case {
    fn panels(&self) -> Panels {
        let mut panels = Panels::default();
        panels.fill(self.columns, self.b.chunks_exact(self.columns));
        panels
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

proptest! {
    #[test]
    fn products_agree_with_plain_sums(case in case()) {
        let panels = case.panels();
        let mut product = Product::new(case.rows, Rows::new(&case.a, case.depth), &panels);
        product.epilogue = Epilogue {
            bias: Some(&case.bias),
            activation: Some(Activation::Relu),
            residual: Some(Rows::new(&case.residual, case.columns)),
            row_scale: Some(&case.scale),
        };
        let mut out = vec![f32::NAN; case.rows * case.columns];
        product.write(&mut out, case.columns);
        for row in 0..case.rows {
            for column in 0..case.columns {
                let (ours, plain) = (out[row * case.columns + column], case.expected(row, column));
                prop_assert!((f64::from(ours) - plain).abs() < 1e-4, "{ours} {plain}");
            }
        }
    }

    /// Some of the panels, some of the depth, and an output with a gap after each row.
    #[test]
    fn parts_of_a_product_are_parts_of_the_whole(case in case(), from in 0..40_usize, skip in 0..3_usize) {
        let panels = case.panels();
        let from = from.min(case.depth);
        let first = skip.min(case.columns.div_ceil(panels.width()) - 1);
        let start = first * panels.width();
        let (columns, stride) = (case.columns - start, case.columns - start + 3);
        let left = case.a.get(from..).unwrap_or_default();
        let mut product = Product::new(case.rows, Rows::new(left, case.depth), &panels);
        product.panels.start = first;
        product.depth.start = from;
        let mut out = vec![7.0; case.rows * stride];
        product.write(&mut out, stride);
        for (row, cells) in out.chunks_exact(stride).enumerate() {
            for (column, ours) in cells[..columns].iter().enumerate() {
                let product = |k: usize| {
                    let b = case.b[k * case.columns + start + column];
                    f64::from(case.a[row * case.depth + k]) * f64::from(b)
                };
                let plain = (from..case.depth).map(product).sum::<f64>();
                prop_assert!((f64::from(*ours) - plain).abs() < 1e-4, "{ours} {plain}");
            }
            prop_assert_eq!(&cells[columns..], [7.0; 3]);
        }
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_the_ratios(row in prop::collection::vec(-60.0_f32..60.0, 1..70)) {
        let (mut ours, mut factor) = (row.clone(), [0.0]);
        softmax::exponentials(&mut ours, row.len(), row.len(), &mut factor);
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let powers = row.iter().map(|x| f64::from(x - largest).exp());
        let total: f64 = powers.clone().sum();
        for (ours, plain) in ours.iter().zip(powers) {
            let ours = f64::from(ours * factor[0]);
            prop_assert!((ours - plain / total).abs() < 1e-6, "{ours} {}", plain / total);
        }
    }

    #[test]
    fn normalised_rows_agree_with_the_formula(
        rows in prop::collection::vec(-3.0_f32..3.0, 37 * 2), weight in numbers(37), bias in numbers(37)
    ) {
        let norm = LayerNorm { weight, bias, epsilon: 1e-5 };
        let mut ours = rows.clone();
        norm.apply(&mut ours);
        for (row, ours) in rows.chunks_exact(37).zip(ours.chunks_exact(37)) {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / 37.0;
            let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 37.0;
            for (i, ours) in ours.iter().enumerate() {
                let plain = (f64::from(row[i]) - mean) / (variance + 1e-5).sqrt();
                let plain = plain * f64::from(norm.weight[i]) + f64::from(norm.bias[i]);
                prop_assert!((f64::from(*ours) - plain).abs() < 1e-5, "{ours} {plain}");
            }
        }
    }
}

#[test]
fn what_is_no_number_spreads() {
    let (mut row, mut factor) = ([1.0, f32::NAN, 3.0], [0.0]);
    softmax::exponentials(&mut row, 3, 3, &mut factor);
    assert!(factor[0].is_nan());
    let norm = LayerNorm {
        weight: vec![1.0; 3],
        bias: vec![0.0; 3],
        epsilon: 1e-5,
    };
    let mut row = [1.0, f32::NAN, 3.0];
    norm.apply(&mut row);
    assert!(row.iter().all(|x| x.is_nan()));
}
