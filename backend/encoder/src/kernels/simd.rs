//! Elementary functions on vector registers, accurate to a few units in the last place of `f32`.
//! NaN comes out where NaN goes in.

use pulp::{Arch, Simd, WithSimd};

use super::gemm::Activation;

/// Runs `op` with the widest instructions that this processor has.
#[inline]
pub(crate) fn dispatch<Op: WithSimd>(op: Op) -> Op::Output {
    Arch::new().dispatch(op)
}

/// How many `f32` one register holds.
pub(super) struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// `c[0] + c[1]·x + c[2]·x² + …` by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::f32s, coefficients: [f32; N]) -> S::f32s {
    let mut sum = s.splat_f32s(coefficients[N - 1]);
    for c in coefficients.iter().rev().skip(1) {
        sum = s.mul_add_e_f32s(sum, x, s.splat_f32s(*c));
    }
    sum
}

#[inline(always)]
fn clamp<S: Simd>(s: S, x: S::f32s, least: f32, most: f32) -> S::f32s {
    at_most(s, at_least(s, x, least), most)
}

/// x, or `least` if x is less; unlike the instruction for a maximum, on every processor NaN for NaN.
#[inline(always)]
fn at_least<S: Simd>(s: S, x: S::f32s, least: f32) -> S::f32s {
    let least = s.splat_f32s(least);
    s.select_f32s(s.less_than_f32s(x, least), least, x)
}

/// x, or `most` if x is greater.
#[inline(always)]
fn at_most<S: Simd>(s: S, x: S::f32s, most: f32) -> S::f32s {
    let most = s.splat_f32s(most);
    s.select_f32s(s.greater_than_f32s(x, most), most, x)
}

/// eˣ; 0 (nearly) below −87, the largest power below infinity above 88.
///
/// x is split into n·ln 2 + r with |r| ≤ ½ ln 2; eʳ is Cephes' polynomial (`expf.c`, S. Moshier), and
/// 2ⁿ goes straight into the exponent's bits.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    /// 1.5 · 2²³: adding it rounds to a whole number, which then sits in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const EXPONENT_BIAS: u32 = 127 << 23;
    let x = clamp(s, x, -87.0, 88.0);
    let shifted = s.mul_add_e_f32s(
        x,
        s.splat_f32s(std::f32::consts::LOG2_E),
        s.splat_f32s(ROUND),
    );
    let n = s.sub_f32s(shifted, s.splat_f32s(ROUND));
    let r = s.mul_add_e_f32s(n, s.splat_f32s(-LN_2[0]), x);
    let r = s.mul_add_e_f32s(n, s.splat_f32s(-LN_2[1]), r);
    let tail = [
        0.5,
        0.166_666_66,
        4.166_579_6e-2,
        8.333_452e-3,
        1.398_2e-3,
        1.987_569_1e-4,
    ];
    let power = s.mul_add_e_f32s(polynomial(s, r, tail), s.mul_f32s(r, r), r);
    let power = s.add_f32s(power, s.splat_f32s(1.0));
    let bits = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    let scale = s.transmute_f32s_u32s(s.add_u32s(bits, s.splat_u32s(EXPONENT_BIAS)));
    s.mul_f32s(power, scale)
}

/// `x · numerator(x²) / denominator(x²)`, and exactly ±1 from ±`limit` on. Exactly, because
/// [`gelu`] multiplies what is missing there by numbers of any size. `limit · (1 / limit)` must be 1
/// in `f32`.
#[inline(always)]
fn saturating<S: Simd, const N: usize, const D: usize>(
    s: S,
    x: S::f32s,
    limit: f32,
    (numerator, denominator): ([f32; N], [f32; D]),
) -> S::f32s {
    let x = clamp(s, x, -limit, limit);
    let x2 = s.mul_f32s(x, x);
    let numerator = s.mul_f32s(x, polynomial(s, x2, numerator));
    let quotient = s.div_f32s(numerator, polynomial(s, x2, denominator));
    let inside = s.less_than_f32s(x2, s.splat_f32s(limit * limit));
    s.select_f32s(inside, quotient, s.mul_f32s(x, s.splat_f32s(1.0 / limit)))
}

/// The error function; beyond ±3.84 the approximation is farther from it than ±1 is.
/// Coefficients: Eigen 3, `generic_fast_erf_float`.
#[inline(always)]
fn erf<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let numerator = [
        -1.609_603_3e-2,
        -2.954_6e-3,
        -7.349_906e-4,
        -5.692_506_5e-5,
        -2.101_024e-6,
        2.770_681_4e-8,
        -2.726_142_3e-10,
    ];
    let denominator = [
        -1.426_473_9e-2,
        -7.373_329_2e-3,
        -1.682_827e-3,
        -2.133_740_6e-4,
        -1.456_607_2e-5,
    ];
    saturating(s, x, 3.84, (numerator, denominator))
}

/// The hyperbolic tangent. Limit and coefficients: Eigen 3, `generic_fast_tanh_float`.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let numerator = [
        4.893_524_6e-3,
        6.372_619e-4,
        1.485_722_4e-5,
        5.122_297e-8,
        -8.604_672e-11,
        2.000_188e-13,
        -2.760_768_5e-16,
    ];
    let denominator = [4.893_525_3e-3, 2.268_434_6e-3, 1.185_347e-4, 1.198_258_4e-6];
    saturating(s, x, 7.905_311, (numerator, denominator))
}

/// x · Φ(x), exact (with the error function). Hendrycks and Gimpel, "Gaussian Error Linear Units".
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    let half = s.mul_f32s(x, s.splat_f32s(0.5));
    let erf = erf(
        s,
        s.mul_f32s(x, s.splat_f32s(std::f32::consts::FRAC_1_SQRT_2)),
    );
    s.mul_add_e_f32s(half, erf, half)
}

/// The tanh approximation of [`gelu`], from the same paper.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let half = s.mul_f32s(x, s.splat_f32s(0.5));
    let cubic = s.mul_f32s(s.mul_f32s(x, x), s.splat_f32s(0.044_715 * SQRT_2_OVER_PI));
    let inner = s.mul_f32s(x, s.add_f32s(cubic, s.splat_f32s(SQRT_2_OVER_PI)));
    s.mul_add_e_f32s(half, tanh(s, inner), half)
}

/// x, or 0 where x is negative.
#[inline(always)]
pub(crate) fn relu<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    at_least(s, x, 0.0)
}

/// A function of one number, on a register of them. (A trait rather than closures, which the compiler
/// would not inline into code for another instruction set.)
pub(crate) trait Unary {
    fn of<S: Simd>(&self, s: S, x: S::f32s) -> S::f32s;
}

/// A function of two numbers, on registers of them.
pub(crate) trait Binary {
    fn of<S: Simd>(&self, s: S, x: S::f32s, y: S::f32s) -> S::f32s;
}

macro_rules! unary {
    ($(#[$doc:meta])* $name:ident $(($($field:ident: $type:ty),*))?, |$s:ident, $x:ident| $body:expr) => {
        $(#[$doc])*
        pub(crate) struct $name $(($(pub(crate) $type),*))?;
        impl Unary for $name {
            #[inline(always)]
            fn of<S: Simd>(&self, $s: S, $x: S::f32s) -> S::f32s {
                $(let Self($($field),*) = *self;)?
                $body
            }
        }
    };
}

macro_rules! binary {
    ($(#[$doc:meta])* $name:ident, |$s:ident, $x:ident, $y:ident| $body:expr) => {
        $(#[$doc])*
        pub(crate) struct $name;
        impl Binary for $name {
            #[inline(always)]
            fn of<S: Simd>(&self, $s: S, $x: S::f32s, $y: S::f32s) -> S::f32s {
                $body
            }
        }
    };
}

unary!(Gelu, |s, x| gelu(s, x));
unary!(GeluTanh, |s, x| gelu_tanh(s, x));
unary!(Relu, |s, x| relu(s, x));
unary!(Tanh, |s, x| tanh(s, x));
unary!(
    /// eˣ⁻ᶜ.
    ExpMinus(c: f32), |s, x| exp(s, s.sub_f32s(x, s.splat_f32s(c)))
);
unary!(
    /// x − c.
    Minus(c: f32), |s, x| s.sub_f32s(x, s.splat_f32s(c))
);
unary!(
    /// c·x.
    Times(c: f32), |s, x| s.mul_f32s(x, s.splat_f32s(c))
);
unary!(Identity, |_s, x| x);
unary!(Square, |s, x| s.mul_f32s(x, x));
binary!(Add, |s, x, y| s.add_f32s(x, y));
binary!(Multiply, |s, x, y| s.mul_f32s(x, y));

/// Replaces each number of `row` by `function` of it.
#[inline(always)]
pub(crate) fn map<S: Simd>(s: S, row: &mut [f32], function: &impl Unary) {
    let (whole, rest) = S::as_mut_simd_f32s(row);
    for x in whole {
        *x = function.of(s, *x);
    }
    if !rest.is_empty() {
        let x = function.of(s, s.partial_load_f32s(rest));
        s.partial_store_f32s(rest, x);
    }
}

/// Replaces each number of `row` by `function` of it and its counterpart in `other`, which is as
/// long.
#[inline(always)]
pub(crate) fn zip<S: Simd>(s: S, row: &mut [f32], other: &[f32], function: &impl Binary) {
    let (whole, rest) = S::as_mut_simd_f32s(row);
    let (others, others_rest) = S::as_simd_f32s(other);
    for (x, y) in whole.iter_mut().zip(others) {
        *x = function.of(s, *x, *y);
    }
    if !rest.is_empty() {
        let (x, y) = (s.partial_load_f32s(rest), s.partial_load_f32s(others_rest));
        s.partial_store_f32s(rest, function.of(s, x, y));
    }
}

/// The sum of `function` of each number; `function` of 0 must be 0.
#[inline(always)]
pub(crate) fn sum<S: Simd>(s: S, row: &[f32], function: &impl Unary) -> f32 {
    let (whole, rest) = S::as_simd_f32s(row);
    // Four sums at a time hide the latency of an addition.
    let (fours, ones) = whole.as_chunks::<4>();
    let mut sums = [s.splat_f32s(0.0); 4];
    for four in fours {
        for (sum, x) in sums.iter_mut().zip(four) {
            *sum = s.add_f32s(*sum, function.of(s, *x));
        }
    }
    let [first, second, third, fourth] = sums;
    let mut sum = s.add_f32s(s.add_f32s(first, second), s.add_f32s(third, fourth));
    for x in ones {
        sum = s.add_f32s(sum, function.of(s, *x));
    }
    if !rest.is_empty() {
        sum = s.add_f32s(sum, function.of(s, s.partial_load_f32s(rest)));
    }
    s.reduce_sum_f32s(sum)
}

/// Replaces each number of `row` by its activation.
#[inline(always)]
pub(crate) fn activate<S: Simd>(s: S, row: &mut [f32], activation: Activation) {
    match activation {
        Activation::Gelu => map(s, row, &Gelu),
        Activation::GeluTanh => map(s, row, &GeluTanh),
        Activation::Relu => map(s, row, &Relu),
        Activation::Tanh => map(s, row, &Tanh),
    }
}
