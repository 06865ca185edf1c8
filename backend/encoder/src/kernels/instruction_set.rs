//! For tests: kernels with each instruction set that this machine has, not just the widest.

use pulp::{Scalar, Simd, WithSimd};

use super::simd::Lanes;

#[derive(Clone, Copy, Debug)]
pub(crate) enum InstructionSet {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    V3(pulp::x86::V3),
    #[cfg(target_arch = "x86_64")]
    V4(pulp::x86::V4),
    #[cfg(target_arch = "aarch64")]
    Neon(pulp::aarch64::Neon),
}

impl InstructionSet {
    /// Those that this machine has.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Scalar(Scalar::new())];
        #[cfg(target_arch = "x86_64")]
        all.extend(pulp::x86::V3::try_new().map(Self::V3));
        #[cfg(target_arch = "x86_64")]
        all.extend(pulp::x86::V4::try_new().map(Self::V4));
        #[cfg(target_arch = "aarch64")]
        all.extend(pulp::aarch64::Neon::try_new().map(Self::Neon));
        all
    }

    pub(crate) fn run<Op: WithSimd>(self, op: Op) -> Op::Output {
        match self {
            Self::Scalar(simd) => Simd::vectorize(simd, op),
            #[cfg(target_arch = "x86_64")]
            Self::V3(simd) => Simd::vectorize(simd, op),
            #[cfg(target_arch = "x86_64")]
            Self::V4(simd) => Simd::vectorize(simd, op),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(simd) => Simd::vectorize(simd, op),
        }
    }

    /// How many `f32` one register holds.
    pub(crate) fn lanes(self) -> usize {
        self.run(Lanes)
    }
}
