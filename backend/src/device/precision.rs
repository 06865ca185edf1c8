//! How precisely a device computes.

use std::fmt;
use std::str::FromStr;

use crate::engine::Purpose;

/// The numbers that weights and intermediate results are kept in on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// `f32` for `BERTScore`, whose contract is a difference of at most 1e-4 from the reference, and
    /// on the processor. For embeddings on a GPU `f16`, which changes a vector's direction by less
    /// than its users can tell, where the model's numbers stay in its range; else `f32`.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// 16 bits, 11 of them significant, up to 65,504.
    F16,
    /// 16 bits, 8 of them significant, in the range of 32: for what overflows in [`F16`](Self::F16), and
    /// for processors that multiply it faster. There, only what linear layers multiply is rounded to it.
    Bf16,
}

impl Precision {
    const NAMES: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("f32", Self::F32),
        ("f16", Self::F16),
        ("bf16", Self::Bf16),
    ];

    /// What models for `purpose` get.
    pub(crate) fn serving(self, purpose: Purpose) -> Self {
        match (self, purpose) {
            (Self::Auto, Purpose::BertScore) => Self::F32,
            (given, _) => given,
        }
    }

    /// Bytes of a number, at most.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Auto | Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, UnknownPrecision> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, precision)| *precision)
            .ok_or(UnknownPrecision)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::NAMES.iter().find(|(_, precision)| precision == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

/// None of the names above.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("use auto, f32, f16 or bf16")]
pub struct UnknownPrecision;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_back() {
        for name in ["auto", "f32", "f16", "bf16"] {
            let precision: Precision = name.parse().expect(name);
            assert_eq!(precision.to_string(), name);
        }
        for name in ["", "F32", "float16", "int8"] {
            assert_eq!(name.parse::<Precision>(), Err(UnknownPrecision));
        }
    }

    #[test]
    fn scores_are_exact_unless_the_operator_says_otherwise() {
        let score = |given: Precision| given.serving(Purpose::BertScore);
        assert_eq!(score(Precision::Auto), Precision::F32);
        assert_eq!(score(Precision::F16), Precision::F16);
        assert_eq!(Precision::Auto.serving(Purpose::Embed), Precision::Auto);
    }
}
