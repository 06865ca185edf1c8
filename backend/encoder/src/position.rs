//! How a model knows the order of its tokens, apart from what its embeddings say.

/// What attention adds because of where two tokens stand.
#[derive(Clone, Debug)]
pub enum Relation {
    /// Nothing.
    None,
    /// A number for each head and each class of distance, the same in all layers.
    Bias {
        /// `[classes, heads]`.
        table: crate::Matrix,
        /// From a distance to a row of the table.
        classes: Distances,
    },
    /// Products of content and position; each layer has its own
    /// [`positions`](crate::LayerWeights::positions). He et al., "DeBERTa: Decoding-enhanced BERT with
    /// Disentangled Attention", ICLR 2021.
    Disentangled {
        /// From a distance to a row of a layer's positions.
        classes: Distances,
    },
}

/// How distances (where the query stands minus where the key stands) fall into classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distances {
    /// Each distance is a class of its own, up to `span` to either side.
    Clamped {
        /// Half the number of classes.
        span: usize,
    },
    /// Exact near, logarithmic farther away, to either side of the class `buckets`: DeBERTa v2's
    /// `make_log_bucket_position`.
    Logarithmic {
        /// Half the number of classes.
        buckets: usize,
        /// Distances from here on share the last class.
        farthest: usize,
    },
    /// As T5 has it: a half of the classes for each direction, each half exact up to its middle, then
    /// logarithmic up to a distance of 128.
    T5 {
        /// How many classes.
        buckets: usize,
    },
}

impl Distances {
    /// How many classes there are.
    pub fn classes(self) -> usize {
        match self {
            Self::Clamped { span } => 2 * span,
            Self::Logarithmic { buckets, .. } => 2 * buckets,
            Self::T5 { buckets } => buckets,
        }
    }

    /// The class of `distance`.
    pub fn class(self, distance: isize) -> usize {
        match self {
            Self::Clamped { span } => clamped(distance, span),
            Self::Logarithmic { buckets, farthest } => {
                clamped(log_bucket(distance, buckets, farthest), buckets)
            }
            Self::T5 { buckets } => t5_bucket(distance, buckets),
        }
    }
}

fn clamped(distance: isize, span: usize) -> usize {
    distance
        .saturating_add_unsigned(span)
        .clamp(0, 2 * span.cast_signed() - 1)
        .cast_unsigned()
}

/// In `f32`, as the reference computes it: a rounding here moves a token into another class.
#[expect(clippy::cast_possible_truncation, reason = "at most a few hundred")]
fn log_bucket(distance: isize, buckets: usize, farthest: usize) -> isize {
    let middle = (buckets / 2).cast_signed();
    if distance.abs() <= middle {
        return distance;
    }
    let half = middle as f32;
    let span = ((farthest as f32 - 1.0) / half).ln();
    let bucket = ((distance.unsigned_abs() as f32 / half).ln() / span * (half - 1.0)).ceil() + half;
    bucket as isize * distance.signum()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small number that is not negative"
)]
fn t5_bucket(distance: isize, buckets: usize) -> usize {
    const FARTHEST: f32 = 128.0;
    let side = buckets / 2;
    let exact = side / 2;
    let start = if distance < 0 { side } else { 0 };
    let away = distance.unsigned_abs();
    if away < exact {
        return start + away;
    }
    let near = exact as f32;
    // The reference divides by the logarithm in f64 (a Python float), rounded to f32.
    let span = (f64::from(FARTHEST) / exact as f64).ln() as f32;
    let farther = (away as f32 / near).ln() / span * (side - exact) as f32;
    start + (exact + farther as usize).min(side - 1)
}

/// Rotary position embedding of queries and keys. Su et al. (2021), arXiv:2104.09864.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// The base of the wavelengths.
    pub theta: f32,
}

impl Rotation {
    /// Turns one head's vector at `position`: number i of its first half with number i of its second.
    pub(crate) fn turn(angles: &[(f32, f32)], vector: &mut [f32]) {
        let (first, second) = vector.split_at_mut(vector.len() / 2);
        for ((a, b), (sin, cos)) in first.iter_mut().zip(second).zip(angles) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }

    /// Sine and cosine for each number of half a head at `position`.
    pub fn angles(self, position: usize, head: usize, angles: &mut Vec<(f32, f32)>) {
        angles.clear();
        angles.extend((0..head / 2).map(|i| {
            let frequency = 1.0 / self.theta.powf((2 * i) as f32 / head as f32);
            (position as f32 * frequency).sin_cos()
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamped_distances_end_at_the_span() {
        let classes = Distances::Clamped { span: 3 };
        let found: Vec<usize> = (-5..=5).map(|d| classes.class(d)).collect();
        assert_eq!(found, [0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5]);
        assert_eq!(classes.class(isize::MAX), 5);
        assert_eq!(classes.class(isize::MIN + 1), 0);
    }

    /// Values of `make_log_bucket_position` in transformers 4.57 for 256 buckets of 512 positions.
    #[test]
    fn logarithmic_distances_agree_with_the_reference() {
        for (distance, bucket) in LOG_BUCKETS {
            let classes = Distances::Logarithmic {
                buckets: 256,
                farthest: 512,
            };
            assert_eq!(classes.class(distance), 256 + bucket, "{distance}");
            assert_eq!(classes.class(-distance), 256 - bucket, "-{distance}");
        }
    }

    const LOG_BUCKETS: [(isize, usize); 12] = [
        (0, 0),
        (1, 1),
        (127, 127),
        (128, 128),
        (130, 130),
        (135, 133),
        (150, 143),
        (200, 169),
        (256, 192),
        (400, 233),
        (500, 254),
        (511, 255),
    ];

    /// Values of `relative_position_bucket` in `MPNet` in transformers 4.57 (32 buckets).
    #[test]
    fn t5_distances_agree_with_the_reference() {
        for (distance, bucket) in T5_BUCKETS {
            assert_eq!(
                Distances::T5 { buckets: 32 }.class(distance),
                bucket,
                "{distance}"
            );
        }
    }

    const T5_BUCKETS: [(isize, usize); 17] = [
        (-600, 31),
        (-128, 31),
        (-100, 31),
        (-64, 30),
        (-16, 26),
        (-12, 25),
        (-8, 24),
        (-7, 23),
        (-1, 17),
        (0, 0),
        (7, 7),
        (8, 8),
        (12, 9),
        (33, 12),
        (64, 14),
        (127, 15),
        (600, 15),
    ];
}
