//! What attention adds to the scores of a group, apart from the products of contents.
//!
//! It depends on the group's lengths (padding), on the layer's window, and on the model's
//! [`Relation`]; what is the same in all layers is computed once for each group. Scores have the
//! shape `[heads, sequences, queries, keys]` and are in 32 bits.

use candle_core::{D, DType, Device, Result, Tensor};
use gpu_bridge_encoder::{Distances, Relation};

use super::plan::{Group, numbers};

/// Added to the score of a key that must not count: far below every score, and finite, so that a
/// query of padding, for which no key counts, gives a number and not NaN.
const MASKED: f32 = f32::MIN / 2.0;

/// A model's relation, on the device.
#[derive(Debug)]
pub(super) enum Positions {
    None,
    /// `[classes, heads]`, in 32 bits.
    Bias {
        table: Tensor,
        classes: Distances,
    },
    Disentangled {
        classes: Distances,
    },
}

impl Positions {
    pub(super) fn new(relation: Relation, device: &Device) -> Result<Self> {
        Ok(match relation {
            Relation::None => Self::None,
            Relation::Bias { table, classes } => {
                let size = (table.rows, table.columns);
                let table = Tensor::from_vec(table.data, size, device)?;
                Self::Bias { table, classes }
            }
            Relation::Disentangled { classes } => Self::Disentangled { classes },
        })
    }
}

/// What is added to a group's scores in every layer.
#[derive(Debug)]
pub(super) struct Additions {
    /// For keys of padding: `[1, sequences, 1, keys]`.
    padding: Option<Tensor>,
    /// For each head and distance: `[heads, 1, queries, keys]`.
    bias: Option<Tensor>,
    /// For each window that some layer has: `[1, 1, queries, keys]`.
    windows: Vec<(usize, Tensor)>,
    /// For disentangled attention.
    pub(super) classes: Option<ClassIndex>,
}

impl Additions {
    pub(super) fn new(
        group: &Group,
        positions: &Positions,
        windows: &[usize],
        device: &Device,
    ) -> Result<Self> {
        let tokens = group.longest();
        let windows = windows.iter().filter(|window| **window + 1 < tokens);
        let windows = windows.map(|window| Ok((*window, outside(*window, tokens, device)?)));
        let (bias, classes) = match positions {
            Positions::None => (None, None),
            Positions::Bias { table, classes } => (Some(bias(table, *classes, tokens)?), None),
            Positions::Disentangled { classes } => {
                (None, Some(ClassIndex::new(*classes, tokens, device)?))
            }
        };
        Ok(Self {
            padding: group
                .is_padded()
                .then(|| padding(group, device))
                .transpose()?,
            bias,
            windows: windows.collect::<Result<_>>()?,
            classes,
        })
    }

    /// Adds what the group and a layer's window say.
    pub(super) fn add(&self, scores: Tensor, window: Option<usize>) -> Result<Tensor> {
        let windows = self.windows.iter();
        let window = windows.filter(|(reach, _)| Some(*reach) == window);
        let window = window.map(|(_, mask)| mask);
        let all = self.padding.iter().chain(&self.bias).chain(window);
        all.into_iter()
            .try_fold(scores, |scores, addition| scores.broadcast_add(addition))
    }
}

fn padding(group: &Group, device: &Device) -> Result<Tensor> {
    let (sequences, keys) = (group.lengths.len(), group.longest());
    let cell = |length: &usize| {
        let length = *length;
        (0..keys).map(move |key| if key < length { 0.0 } else { MASKED })
    };
    let mask: Vec<f32> = group.lengths.iter().flat_map(cell).collect();
    Tensor::from_vec(mask, (1, sequences, 1, keys), device)
}

/// Masks the pairs that stand farther apart than `window`.
fn outside(window: usize, tokens: usize, device: &Device) -> Result<Tensor> {
    let places = Tensor::arange(0.0, tokens as f32, device)?;
    let apart = places
        .unsqueeze(1)?
        .broadcast_sub(&places.unsqueeze(0)?)?
        .abs()?;
    let far = apart.gt(window as f64)?.to_dtype(DType::F32)?;
    far.affine(f64::from(MASKED), 0.0)?
        .reshape((1, 1, tokens, tokens))
}

fn bias(table: &Tensor, classes: Distances, tokens: usize) -> Result<Tensor> {
    let pairs = pairs(tokens).map(|(query, key)| classes.class(distance(query, key)));
    let index: Vec<u32> = numbers(pairs).collect();
    let index = Tensor::from_vec(index, tokens * tokens, table.device())?;
    table
        .index_select(&index, 0)?
        .reshape((tokens, tokens, ()))?
        .permute((2, 0, 1))?
        .contiguous()?
        .unsqueeze(1)
}

/// Where the products of content and position lie that belong to each pair of tokens.
///
/// The products of a sequence's tokens and all classes are `[tokens, classes]`; only the classes
/// `first ..` that occur among its distances are computed. The pairs' numbers are looked up there as
/// in one flat row, which gives them in the order of the scores.
#[derive(Debug)]
pub(super) struct ClassIndex {
    pub(super) first: usize,
    pub(super) count: usize,
    /// By the query's content: `[queries × keys]`.
    pub(super) by_query: Tensor,
    /// By the key's content: likewise.
    pub(super) by_key: Tensor,
}

impl ClassIndex {
    fn new(distances: Distances, tokens: usize, device: &Device) -> Result<Self> {
        let class = |query, key| distances.class(distance(query, key));
        let all = || {
            let by_distance = (0..tokens).map(|key| class(0, key));
            by_distance.chain((0..tokens).map(|query| class(query, 0)))
        };
        let (first, last) = (all().min().unwrap_or(0), all().max().unwrap_or(0));
        let count = last + 1 - first;
        let upload = |index: &mut dyn Iterator<Item = usize>| {
            let index: Vec<u32> = numbers(index).collect();
            Tensor::from_vec(index, tokens * tokens, device)
        };
        let place = |token: usize, class: usize| token * count + class - first;
        Ok(Self {
            first,
            count,
            by_query: upload(&mut pairs(tokens).map(|(q, k)| place(q, class(q, k))))?,
            by_key: upload(&mut pairs(tokens).map(|(q, k)| place(k, class(q, k))))?,
        })
    }

    /// From the products of one sequence and head after the other, `[…, tokens × classes]`, to
    /// those of the pairs, in 32 bits: `[…, queries × keys]`.
    pub(super) fn spread(products: &Tensor, index: &Tensor) -> Result<Tensor> {
        products
            .index_select(index, D::Minus1)?
            .to_dtype(DType::F32)
    }
}

/// Every query with every key, as the scores lie.
fn pairs(tokens: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tokens).flat_map(move |query| (0..tokens).map(move |key| (query, key)))
}

fn distance(query: usize, key: usize) -> isize {
    query.cast_signed() - key.cast_signed()
}
