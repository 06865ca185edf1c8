//! From the vectors of a text's tokens to one vector, as sentence-transformers does it
//! (`models/Pooling.py`).

use gpu_bridge_encoder::ops;

use crate::models::bertscore::larger;

/// How the vectors of a text's tokens, special ones included, become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The first token's.
    Cls,
    /// The largest number in each dimension.
    Max,
    /// Their mean.
    Mean,
    /// Their sum, divided by the square root of their number.
    MeanSqrtLength,
    /// Their mean, in which the nth token weighs n times as much as the first.
    WeightedMean,
    /// The last token's.
    Last,
}

impl Pooling {
    /// In the order in which sentence-transformers puts the results end to end.
    pub(crate) const ALL: [Self; 6] = [
        Self::Cls,
        Self::Max,
        Self::Mean,
        Self::MeanSqrtLength,
        Self::WeightedMean,
        Self::Last,
    ];

    /// As the value of `pooling_mode`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanSqrtLength => "mean_sqrt_len_tokens",
            Self::WeightedMean => "weightedmean",
            Self::Last => "lasttoken",
        }
    }

    /// The key that turns it on.
    pub(super) fn flag(self) -> &'static str {
        match self {
            Self::Cls => "pooling_mode_cls_token",
            Self::Max => "pooling_mode_max_tokens",
            Self::Mean => "pooling_mode_mean_tokens",
            Self::MeanSqrtLength => "pooling_mode_mean_sqrt_len_tokens",
            Self::WeightedMean => "pooling_mode_weightedmean_tokens",
            Self::Last => "pooling_mode_lasttoken",
        }
    }
}

/// The results of `modes`, end to end. `hidden` is `[tokens, width]`; of no token it is zeros.
pub(crate) fn pool(hidden: &[f32], width: usize, modes: &[Pooling]) -> Vec<f32> {
    let mut pooled = vec![0.0; width * modes.len()];
    if hidden.len() >= width && width > 0 {
        for (mode, out) in modes.iter().zip(pooled.chunks_exact_mut(width)) {
            one(hidden, *mode, out);
        }
    }
    pooled
}

/// Of at least one token, as wide as `out`, which is zeros.
fn one(hidden: &[f32], mode: Pooling, out: &mut [f32]) {
    let width = out.len();
    let tokens = hidden.len() / width;
    match mode {
        Pooling::Cls => out.copy_from_slice(&hidden[..width]),
        Pooling::Last => out.copy_from_slice(&hidden[(tokens - 1) * width..tokens * width]),
        Pooling::Max => {
            out.copy_from_slice(&hidden[..width]);
            for row in hidden[width..].chunks_exact(width) {
                let pairs = out.iter_mut().zip(row);
                pairs.for_each(|(x, y)| *x = larger(*x, *y));
            }
        }
        Pooling::Mean => {
            ops::add_rows(hidden, out);
            divide(out, tokens as f32);
        }
        Pooling::MeanSqrtLength => {
            ops::add_rows(hidden, out);
            divide(out, (tokens as f32).sqrt());
        }
        Pooling::WeightedMean => {
            let mut weights = 0.0;
            for (nth, row) in hidden.chunks_exact(width).enumerate() {
                let weight = (nth + 1) as f32;
                weights += weight;
                let pairs = out.iter_mut().zip(row);
                pairs.for_each(|(x, y)| *x += weight * y);
            }
            divide(out, weights);
        }
    }
}

fn divide(row: &mut [f32], divisor: f32) {
    for x in row {
        *x /= divisor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: [f32; 8] = [1.0, -8.0, 3.0, -2.0, 2.0, 0.5, 2.0, 1.5];

    #[test]
    fn each_mode_is_what_it_says() {
        for (mode, expected) in [
            (Pooling::Cls, [1.0, -8.0]),
            (Pooling::Last, [2.0, 1.5]),
            (Pooling::Max, [3.0, 1.5]),
            (Pooling::Mean, [2.0, -2.0]),
            (Pooling::MeanSqrtLength, [4.0, -4.0]),
            (Pooling::WeightedMean, [2.1, -0.45]),
        ] {
            assert_eq!(pool(&HIDDEN, 2, &[mode]), expected, "{mode:?}");
        }
    }

    #[test]
    fn several_modes_are_put_end_to_end() {
        let modes = [Pooling::Cls, Pooling::Mean];
        assert_eq!(pool(&HIDDEN, 2, &modes), [1.0, -8.0, 2.0, -2.0]);
    }

    #[test]
    fn one_token_is_itself_and_none_is_zero() {
        for mode in Pooling::ALL {
            assert_eq!(pool(&[3.0, 4.0], 2, &[mode]), [3.0, 4.0], "{mode:?}");
            assert_eq!(pool(&[], 2, &[mode]), [0.0, 0.0], "{mode:?}");
        }
    }

    #[test]
    fn what_is_no_number_stays_so() {
        let hidden = [1.0, f32::NAN, 2.0];
        for mode in [Pooling::Max, Pooling::Mean, Pooling::WeightedMean] {
            assert!(pool(&hidden, 1, &[mode])[0].is_nan(), "{mode:?}");
        }
    }
}
