//! One batch on the device: everything that depends on its tokens and lengths but not on a layer's
//! weights, computed once and used by every layer.

use candle_core::{DType, Device, Result, Tensor};
use gpu_bridge_encoder::{PositionIds, Rotation};

use super::attention::{Attention, PaddedGroup};
use super::plan::numbers;
use crate::device::Flash;

/// A batch, packed by length (see [`Plan`](super::plan::Plan)).
#[derive(Debug)]
pub(super) struct Batch {
    /// Token ids, `[tokens]`.
    pub(super) ids: Tensor,
    pub(super) lengths: Vec<usize>,
    device: Device,
    attention: Way,
    /// Cosine and sine for each token, `[tokens, head / 2]`, by rotation.
    angles: Vec<(Rotation, Tensor, Tensor)>,
}

/// How attention is computed.
#[derive(Debug)]
enum Way {
    /// Group by group, with all scores in memory.
    Padded(Vec<PaddedGroup>),
    /// In one go, without padding.
    Flash {
        kernel: Flash,
        /// Where each sequence begins, and the last ends, in rows.
        bounds: Tensor,
        longest: usize,
    },
}

impl Batch {
    /// `sequences` in the order of the plan.
    pub(super) fn new(
        sequences: &[&[u32]],
        device: &Device,
        flash: Option<Flash>,
        padded: impl FnOnce() -> Result<Vec<PaddedGroup>>,
    ) -> Result<Self> {
        let lengths: Vec<usize> = sequences.iter().map(|ids| ids.len()).collect();
        let attention = match flash {
            None => Way::Padded(padded()?),
            Some(kernel) => Way::Flash {
                kernel,
                bounds: bounds(&lengths, device)?,
                longest: lengths.iter().copied().max().unwrap_or(0),
            },
        };
        Ok(Self {
            ids: index(sequences.concat(), device)?,
            lengths,
            device: device.clone(),
            attention,
            angles: Vec::new(),
        })
    }

    /// Prepares what [`angles`](Self::angles) gives for a rotation of heads of `head` numbers.
    pub(super) fn rotate(&mut self, rotation: Rotation, head: usize, dtype: DType) -> Result<()> {
        if self.angles.iter().any(|(known, ..)| *known == rotation) {
            return Ok(());
        }
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let (mut sines, mut cosines) = (Vec::new(), Vec::new());
        let mut angles = Vec::new();
        for place in 0..longest {
            rotation.angles(place, head, &mut angles);
            sines.extend(angles.iter().map(|(sin, _)| *sin));
            cosines.extend(angles.iter().map(|(_, cos)| *cos));
        }
        let places = self.lengths.iter().flat_map(|length| 0..*length);
        let places = index(numbers(places).collect(), &self.device)?;
        let table = |numbers: Vec<f32>| {
            Tensor::from_vec(numbers, (longest, head / 2), &self.device)?
                .to_dtype(dtype)?
                .index_select(&places, 0)
        };
        self.angles.push((rotation, table(cosines)?, table(sines)?));
        Ok(())
    }

    /// Cosine and sine of each token's angles.
    pub(super) fn angles(&self, rotation: Rotation) -> Result<(&Tensor, &Tensor)> {
        let found = self.angles.iter().find(|(known, ..)| *known == rotation);
        match found {
            Some((_, cos, sin)) => Ok((cos, sin)),
            None => candle_core::bail!("the batch was not prepared for {rotation:?}"),
        }
    }

    /// The row of the position embedding for each token.
    pub(super) fn positions(&self, sequences: &[&[u32]], ids: PositionIds) -> Result<Tensor> {
        let rows = sequences.iter().flat_map(|sequence| ids.rows(sequence));
        index(numbers(rows).collect(), &self.device)
    }

    /// The context of each token: from `[tokens, 3 × hidden]` to `[tokens, hidden]`.
    pub(super) fn attend(&self, attention: &Attention<'_>, qkv: &Tensor) -> Result<Tensor> {
        let (kernel, bounds, longest) = match &self.attention {
            Way::Padded(groups) => return attention.attend(groups, qkv),
            Way::Flash {
                kernel,
                bounds,
                longest,
            } => (kernel, bounds, *longest),
        };
        let shape = attention.shape;
        let qkv = qkv.reshape(((), 3, shape.heads, shape.head()))?;
        let part = |nth| qkv.narrow(1, nth, 1)?.squeeze(1);
        let parts = [part(0)?, part(1)?, part(2)?];
        kernel
            .attend(&parts, bounds, longest, attention.window)?
            .reshape(((), shape.hidden))
    }

    /// For each token, what it and its neighbours have in `rows`, `width` of them in all, one after
    /// the other; zeros where its sequence has no such token.
    pub(super) fn neighbours(&self, rows: &Tensor, width: usize) -> Result<Tensor> {
        let (tokens, hidden) = rows.dims2()?;
        let index = index(neighbours(&self.lengths, width), &self.device)?;
        let nothing = Tensor::zeros((1, hidden), rows.dtype(), &self.device)?;
        Tensor::cat(&[rows, &nothing], 0)?
            .index_select(&index, 0)?
            .reshape((tokens, width * hidden))
    }
}

fn index(rows: Vec<u32>, device: &Device) -> Result<Tensor> {
    let count = rows.len();
    Tensor::from_vec(rows, count, device)
}

fn bounds(lengths: &[usize], device: &Device) -> Result<Tensor> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    index(numbers([0].into_iter().chain(ends)).collect(), device)
}

/// The rows of each token's neighbourhood; the row after the last stands for those that are not
/// there.
fn neighbours(lengths: &[usize], width: usize) -> Vec<u32> {
    let rows: usize = lengths.iter().sum();
    let mut found = Vec::with_capacity(rows * width);
    let mut start = 0;
    for length in lengths {
        for token in 0..*length {
            let seen = (token..token + width).map(|place| place.checked_sub(width / 2));
            let inside = seen.map(|place| place.filter(|place| place < length));
            found.extend(numbers(
                inside.map(|place| place.map_or(rows, |place| start + place)),
            ));
        }
        start += length;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_end_with_the_sequence() {
        assert_eq!(
            neighbours(&[2, 1], 3),
            [3, 0, 1, 0, 1, 3, 3, 2, 3],
            "row 3 is none"
        );
    }
}
