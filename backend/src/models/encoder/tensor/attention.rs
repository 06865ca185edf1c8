//! Attention over one group of sequences of about the same length.
//!
//! Heads come first in all shapes, so that positions, which are the same for all sequences, multiply
//! a head of all of them at once. Products are computed in the model's precision, sums of scores and
//! the softmax in 32 bits.

use candle_core::{DType, Device, Result, Tensor};
use gpu_bridge_encoder::Shape;

use super::plan::{Group, Plan};
use super::relation::{Additions, ClassIndex, Positions};

/// A group as attention needs it, on the device.
#[derive(Debug)]
pub(super) struct PaddedGroup {
    start: usize,
    rows: usize,
    sequences: usize,
    /// Of each sequence, padding included.
    tokens: usize,
    /// See [`Group::padded_rows`] and [`Group::places`]; `None` where nothing is padded.
    padding: Option<(Tensor, Tensor)>,
    additions: Additions,
}

/// DeBERTa's positions as a layer's keys and (scaled) queries: `[heads, classes, head]` each.
#[derive(Debug)]
pub(super) struct LayerPositions {
    pub(super) keys: Option<Tensor>,
    pub(super) queries: Option<Tensor>,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention<'a> {
    pub(super) shape: Shape,
    pub(super) positions: Option<&'a LayerPositions>,
    pub(super) window: Option<usize>,
}

impl PaddedGroup {
    /// All groups of a plan.
    pub(super) fn all(
        plan: &Plan,
        positions: &Positions,
        windows: &[usize],
        device: &Device,
    ) -> Result<Vec<Self>> {
        let groups = plan.groups.iter();
        groups
            .map(|group| Self::new(group, positions, windows, device))
            .collect()
    }

    fn new(
        group: &Group,
        positions: &Positions,
        windows: &[usize],
        device: &Device,
    ) -> Result<Self> {
        let index = |rows: Vec<u32>| {
            let count = rows.len();
            Tensor::from_vec(rows, count, device)
        };
        let padding = group.is_padded().then(|| {
            Ok::<_, candle_core::Error>((index(group.padded_rows())?, index(group.places())?))
        });
        Ok(Self {
            start: group.start,
            rows: group.rows(),
            sequences: group.lengths.len(),
            tokens: group.longest(),
            padding: padding.transpose()?,
            additions: Additions::new(group, positions, windows, device)?,
        })
    }

    /// The group's rows of a batch, padded.
    fn take(&self, rows: &Tensor) -> Result<Tensor> {
        match &self.padding {
            None => rows.narrow(0, self.start, self.rows),
            Some((padded_rows, _)) => rows.index_select(padded_rows, 0),
        }
    }

    /// Without padding.
    fn give(&self, rows: Tensor) -> Result<Tensor> {
        match &self.padding {
            None => Ok(rows),
            Some((_, places)) => rows.index_select(places, 0),
        }
    }
}

impl Attention<'_> {
    /// The context of each token: from `[tokens, 3 × hidden]` to `[tokens, hidden]`, packed.
    pub(super) fn attend(&self, groups: &[PaddedGroup], qkv: &Tensor) -> Result<Tensor> {
        let contexts = groups.iter().map(|group| self.attend_group(group, qkv));
        match &contexts.collect::<Result<Vec<_>>>()?[..] {
            [context] => Ok(context.clone()),
            contexts => Tensor::cat(contexts, 0),
        }
    }

    fn attend_group(&self, group: &PaddedGroup, qkv: &Tensor) -> Result<Tensor> {
        let PaddedGroup {
            sequences, tokens, ..
        } = *group;
        let Shape { heads, hidden, .. } = self.shape;
        let head = self.shape.head();
        let qkv = group
            .take(qkv)?
            .reshape((sequences, tokens, 3, heads, head))?
            .permute((2, 3, 0, 1, 4))?
            .contiguous()?;
        let part = |nth| qkv.get(nth)?.reshape((heads * sequences, tokens, head));
        let (queries, keys, values) = (part(0)?, part(1)?, part(2)?);
        let scores = queries.matmul(&keys.transpose(1, 2)?)?;
        let scores = self.add_positions(group, scores.to_dtype(DType::F32)?, &queries, &keys)?;
        let scores = scores.reshape((heads, sequences, tokens, tokens))?;
        let scores = group.additions.add(scores, self.window)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?
            .reshape((heads * sequences, tokens, tokens))?
            .to_dtype(qkv.dtype())?;
        let context = weights
            .matmul(&values)?
            .reshape((heads, sequences * tokens, head))?
            .transpose(0, 1)?
            .reshape((sequences * tokens, hidden))?;
        group.give(context)
    }

    fn add_positions(
        &self,
        group: &PaddedGroup,
        mut scores: Tensor,
        queries: &Tensor,
        keys: &Tensor,
    ) -> Result<Tensor> {
        let (Some(positions), Some(classes)) = (self.positions, &group.additions.classes) else {
            return Ok(scores);
        };
        let pairs = [
            (queries, &positions.keys, &classes.by_query),
            (keys, &positions.queries, &classes.by_key),
        ];
        for (contents, table, index) in pairs {
            let Some(table) = table else { continue };
            let products = self.meet(group, classes, contents, table)?;
            let products = ClassIndex::spread(&products, index)?;
            scores = (scores.flatten_from(1)? + products)?;
        }
        scores.reshape(((), group.tokens, group.tokens))
    }

    /// Contents times positions: `[heads × sequences, tokens × classes]`.
    fn meet(
        &self,
        group: &PaddedGroup,
        classes: &ClassIndex,
        contents: &Tensor,
        table: &Tensor,
    ) -> Result<Tensor> {
        let heads = self.shape.heads;
        let contents = contents.reshape((heads, group.sequences * group.tokens, ()))?;
        let table = table.narrow(1, classes.first, classes.count)?;
        contents
            .matmul(&table.t()?)?
            .reshape((heads * group.sequences, group.tokens * classes.count))
    }
}
