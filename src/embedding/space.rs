//! Which space vectors lie in, in a few bytes.
//!
//! Not a name that somebody gives, but a sketch of the vectors themselves (random hyperplanes: Charikar,
//! 2002): each bit says on which side of a plane through the origin the vector of one of the fixed texts
//! lies. So the same model has the same space after a restart, behind another proxy, and within a bit or
//! two with another precision, while that of another model differs in about half of the bits. It says which
//! vectors can be compared with one another; whether they are exact, the audit says.

use std::fmt;
use std::str::FromStr;

use super::TEXTS;
use super::vectors::Vectors;

/// Planes for each text.
const PLANES: usize = u128::BITS as usize / TEXTS.len();
/// So many bits may differ. At a cosine of 0.999 it is 1.8 on average, and more than this once in some
/// hundred times; at 0.9, of another pooling perhaps, 18.
const MAX_DISTANCE: u32 = 6;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Space {
    dimensions: u32,
    sketch: u128,
}

/// A text that names no space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be as answers have it: the number of dimensions, '-', and 32 hexadecimal digits")]
pub struct BadSpace;

impl Space {
    /// That of these vectors.
    pub fn of(vectors: &Vectors) -> Self {
        let mut sketch = 0;
        for (text, vector) in vectors.each().enumerate() {
            for plane in text * PLANES..(text + 1) * PLANES {
                sketch = sketch << 1 | u128::from(is_above(vector, plane as u64));
            }
        }
        Self {
            dimensions: u32::try_from(vectors.dimensions()).unwrap_or(u32::MAX),
            sketch,
        }
    }

    /// Can vectors of both be compared with one another?
    pub fn is_like(self, other: Self) -> bool {
        let distance = (self.sketch ^ other.sketch).count_ones();
        self.dimensions == other.dimensions && distance <= MAX_DISTANCE
    }
}

/// On which side of a plane, whose normal has as many numbers, each 1 or -1 by chance?
fn is_above(vector: &[f32], plane: u64) -> bool {
    let mut signs = 0;
    let projection: f64 = (0_u64..)
        .zip(vector)
        .map(|(position, number)| {
            if position % 64 == 0 {
                signs = mixed(plane << 32 | position);
            }
            let is_minus = signs >> (position % 64) & 1 == 1;
            f64::from(if is_minus { -number } else { *number })
        })
        .sum();
    projection > 0.0
}

/// Bits that look like chance, but are the same for ever (`SplitMix64`: Steele, Lea and Flood, 2014).
fn mixed(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:032x}", self.dimensions, self.sketch)
    }
}

impl FromStr for Space {
    type Err = BadSpace;

    fn from_str(text: &str) -> Result<Self, BadSpace> {
        let (dimensions, sketch) = text.trim().split_once('-').ok_or(BadSpace)?;
        let is_hexadecimal = sketch.len() == 32 && sketch.bytes().all(|it| it.is_ascii_hexdigit());
        let is_decimal = dimensions.bytes().all(|it| it.is_ascii_digit());
        if !is_hexadecimal || !is_decimal {
            return Err(BadSpace);
        }
        Ok(Self {
            dimensions: dimensions.parse().map_err(|_| BadSpace)?,
            sketch: u128::from_str_radix(sketch, 16).map_err(|_| BadSpace)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::testing::{model, noisy, vectors};
    use super::*;

    #[test]
    fn a_space_is_known_again_whatever_the_precision_and_others_are_told_apart() {
        for seed in 0..20 {
            let exact = vectors(model(seed, 384));
            let space = Space::of(&exact);
            assert_eq!(Space::of(&vectors(model(seed, 384))), space);
            // As with half the precision, and with what is just let through (a cosine of 0.999).
            for (noise, most) in [(0.001, 2), (0.03, MAX_DISTANCE)] {
                let near = Space::of(&vectors(noisy(&model(seed, 384), noise, seed)));
                assert!(space.is_like(near), "{space} {near}");
                assert!((space.sketch ^ near.sketch).count_ones() <= most);
            }
            let other = Space::of(&vectors(model(seed + 100, 384)));
            assert!(!space.is_like(other), "{space} {other}");
            let wider = Space {
                dimensions: 385,
                ..space
            };
            assert!(!space.is_like(wider));
        }
    }

    /// Clients keep it for years.
    #[test]
    fn it_never_changes_from_version_to_version() {
        let told = Space::of(&vectors(model(1, 384))).to_string();
        assert_eq!(told, "384-24c0a447ead2170008da85edb3fee62c");
    }

    #[test]
    fn it_is_written_and_read_in_one_way() {
        let space = Space::of(&vectors(model(1, 4)));
        assert_eq!(space.to_string().parse(), Ok(space));
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            "384".to_owned(),
            format!("-{zeros}"),
            format!("384-{zeros}0"),
            format!("384-+{}", &zeros[1..]),
            format!("+384-{zeros}"),
            format!("99999999999-{zeros}"),
            "384-é".to_owned(),
        ] {
            assert_eq!(bad.parse::<Space>(), Err(BadSpace), "{bad:?}");
        }
    }
}
