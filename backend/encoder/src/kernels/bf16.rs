//! Products of numbers that are rounded to bf16: 16 bits, 8 of them significant, in the range of `f32`.
//!
//! A [`Pair`] holds two that follow each other in a row of A or a column of B, the first in its lower
//! half, so that one step of the inner loop multiplies two: a sum gains a₀b₀ + a₁b₁, exact products added
//! in `f32`. Processors with AVX-512 BF16 do that in one instruction, twice as fast as `f32`'s;
//! elsewhere, and in tests, a pair is taken apart, which is slower than `f32` but gives the same numbers
//! up to the order of rounding. (The instruction takes numbers below 2⁻¹²⁶ as 0.)

use pulp::{Simd, WithSimd};

use super::gemm::{Multiply, Product, Step};
use super::panels::Packed;
use super::simd::dispatch;

/// Two bf16.
pub(crate) type Pair = u32;

/// The bits of the upper half of a [`Pair`], which are those of an `f32` of the same value.
const UPPER: u32 = 0xFFFF_0000;

impl Packed for Pair {
    const NUMBERS: usize = 2;

    fn pack(numbers: &[f32]) -> Self {
        let at = |nth: usize| numbers.get(nth).copied().unwrap_or_default();
        (round(at(0)) >> 16) | round(at(1))
    }
}

/// The nearest bf16, of two the even one, in the upper half.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    // Rounded, NaN could become infinite.
    let nan = bits | 0x40_0000;
    (if x.is_nan() { nan } else { nearest }) & UPPER
}

/// Rounds each row of `rows`, which have `length` numbers, to ⌈length / 2⌉ of `pairs`.
pub(crate) fn round_rows(rows: &[f32], length: usize, pairs: &mut [Pair]) {
    dispatch(RoundRows {
        rows,
        length,
        pairs,
    });
}

struct RoundRows<'a> {
    rows: &'a [f32],
    length: usize,
    pairs: &'a mut [Pair],
}

impl WithSimd for RoundRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let pairs = self.pairs.chunks_exact_mut(self.length.div_ceil(2));
        for (row, pairs) in self.rows.chunks_exact(self.length).zip(pairs) {
            let (whole, rest) = row.as_chunks::<2>();
            for (pair, [first, second]) in pairs.iter_mut().zip(whole) {
                *pair = (round(*first) >> 16) | round(*second);
            }
            if let ([last], Some(pair)) = (rest, pairs.last_mut()) {
                *pair = round(*last) >> 16;
            }
        }
    }
}

impl Product<'_, Pair> {
    /// Computes into `out`, whose rows are `stride` apart.
    pub(crate) fn write(self, out: &mut [f32], stride: usize) {
        let multiply = Multiply {
            product: self,
            out,
            stride,
        };
        match Native::find() {
            Some(native) => native.run(multiply),
            None => dispatch(multiply),
        }
    }
}

impl WithSimd for Multiply<'_, Pair> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        self.run(s, Apart);
    }
}

/// Takes pairs apart.
#[derive(Clone, Copy)]
struct Apart;

impl<S: Simd> Step<S> for Apart {
    type Number = Pair;
    type Register = S::u32s;

    #[inline(always)]
    fn registers(panel: &[Pair]) -> &[S::u32s] {
        S::as_simd_u32s(panel).0
    }

    #[inline(always)]
    fn splat(self, s: S, a: Pair) -> S::u32s {
        s.splat_u32s(a)
    }

    #[inline(always)]
    fn add_product(self, s: S, sum: S::f32s, a: S::u32s, b: S::u32s) -> S::f32s {
        let upper = |pair| s.transmute_f32s_u32s(s.and_u32s(pair, s.splat_u32s(UPPER)));
        let lower = |pair| s.transmute_f32s_u32s(s.wrapping_dyn_shl_u32s(pair, s.splat_u32s(16)));
        let sum = s.mul_add_e_f32s(lower(a), lower(b), sum);
        s.mul_add_e_f32s(upper(a), upper(b), sum)
    }
}

pub(crate) use native::Native;

#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "an instruction that not every processor has; see the arguments inside"
)]
mod native {
    use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};
    use std::mem::transmute;

    use pulp::x86::V4;
    use pulp::{Simd, f32x16, u32x16};

    use super::{Multiply, Pair, Step};

    /// The processor multiplies pairs itself. There is none unless [`Native::find`] has looked.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Native(V4);

    impl Native {
        /// `None`: it does not.
        #[inline]
        pub(crate) fn find() -> Option<Self> {
            let v4 = V4::try_new()?;
            std::arch::is_x86_feature_detected!("avx512bf16").then_some(Self(v4))
        }

        pub(in crate::kernels) fn run(self, multiply: Multiply<'_, Pair>) {
            // The instruction sets of pulp's V4, and one more.
            #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
            #[target_feature(enable = "fxsr,popcnt,bmi1,bmi2,fma,lzcnt")]
            fn run(native: Native, multiply: Multiply<'_, Pair>) {
                multiply.run(native.0, native);
            }
            // SAFETY: `find` saw that the processor has them all, and a `V4` exists only where it has its.
            unsafe { run(self, multiply) }
        }
    }

    impl Step<V4> for Native {
        type Number = Pair;
        type Register = u32x16;

        #[inline(always)]
        fn registers(panel: &[Pair]) -> &[u32x16] {
            V4::as_simd_u32s(panel).0
        }

        #[inline(always)]
        fn splat(self, s: V4, a: Pair) -> u32x16 {
            s.splat_u32s(a)
        }

        #[inline(always)]
        fn add_product(self, _: V4, sum: f32x16, a: u32x16, b: u32x16) -> f32x16 {
            // SAFETY: `find` saw that the processor has the instruction; all these types are 64 bytes of
            // which any value will do.
            unsafe {
                let sum = transmute::<f32x16, __m512>(sum);
                let a = transmute::<u32x16, __m512bh>(a);
                let b = transmute::<u32x16, __m512bh>(b);
                transmute::<__m512, f32x16>(_mm512_dpbf16_ps(sum, a, b))
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod native {
    use super::{Multiply, Pair};

    /// The processor multiplies pairs itself: none that we know.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Native {}

    impl Native {
        pub(crate) fn find() -> Option<Self> {
            None
        }

        pub(in crate::kernels) fn run(self, _: Multiply<'_, Pair>) {
            match self {}
        }
    }
}
