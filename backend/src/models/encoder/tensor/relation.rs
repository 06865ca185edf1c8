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
    let device = table.device();
    let by_distance = upload(by_distance(classes, tokens).into_iter(), device)?;
    table
        .index_select(&by_distance, 0)?
        .t()?
        .contiguous()?
        .index_select(&places(tokens, device)?, 1)?
        .reshape(((), 1, tokens, tokens))
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
        let by_distance = by_distance(distances, tokens);
        let first = by_distance.iter().copied().min().unwrap_or(0);
        let last = by_distance.iter().copied().max().unwrap_or(0);
        let count = last + 1 - first;
        if u32::try_from(tokens * count).is_err() {
            candle_core::bail!("{tokens} tokens have too many products with {count} classes");
        }
        let by_distance = upload(by_distance.iter().map(|class| class - first), device)?;
        let classes = by_distance
            .index_select(&places(tokens, device)?, 0)?
            .reshape((tokens, tokens))?;
        let starts = upload((0..tokens).map(|token| token * count), device)?;
        Ok(Self {
            first,
            count,
            by_query: classes
                .broadcast_add(&starts.unsqueeze(1)?)?
                .flatten_all()?,
            by_key: classes
                .broadcast_add(&starts.unsqueeze(0)?)?
                .flatten_all()?,
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

/// The class of each distance of a sequence, from that of its last query and first key down. The
/// classes of a query and all keys in turn are neighbours here, those of the next query begin one
/// before.
fn by_distance(classes: Distances, tokens: usize) -> Vec<usize> {
    let farthest = tokens.cast_signed() - 1;
    let distances = (-farthest..=farthest).rev();
    distances.map(|distance| classes.class(distance)).collect()
}

/// For each query and key, as the scores lie, its place in [`by_distance`]: `[queries × keys]`.
/// Computed on the device, as there are many.
fn places(tokens: usize, device: &Device) -> Result<Tensor> {
    let starts = upload((0..tokens).rev(), device)?.unsqueeze(1)?;
    let keys = upload(0..tokens, device)?.unsqueeze(0)?;
    starts.broadcast_add(&keys)?.flatten_all()
}

fn upload(rows: impl Iterator<Item = usize>, device: &Device) -> Result<Tensor> {
    let rows: Vec<u32> = numbers(rows).collect();
    let count = rows.len();
    Tensor::from_vec(rows, count, device)
}

#[cfg(test)]
mod tests {
    use gpu_bridge_encoder::Matrix;

    use super::*;

    const TOKENS: usize = 23;

    fn all() -> [Distances; 4] {
        [
            Distances::Clamped { span: 9 },
            Distances::Clamped { span: 40 },
            Distances::Logarithmic {
                buckets: 8,
                farthest: 16,
            },
            Distances::T5 { buckets: 32 },
        ]
    }

    /// The class of each query and key, as the scores lie.
    fn pairs(classes: Distances) -> Vec<(usize, usize, usize)> {
        let tokens = 0..TOKENS;
        let pairs = tokens.flat_map(|query| (0..TOKENS).map(move |key| (query, key)));
        let distance = |query: usize, key: usize| query.cast_signed() - key.cast_signed();
        pairs
            .map(|(query, key)| (query, key, classes.class(distance(query, key))))
            .collect()
    }

    #[test]
    fn products_of_content_and_position_are_found_for_every_pair() {
        for classes in all() {
            let index = ClassIndex::new(classes, TOKENS, &Device::Cpu).expect("index");
            let ClassIndex { first, count, .. } = index;
            let by_query: Vec<u32> = index.by_query.to_vec1().expect("numbers");
            let by_key: Vec<u32> = index.by_key.to_vec1().expect("numbers");
            let pairs = pairs(classes);
            let place = |token: usize, class: usize| token * count + class - first;
            let expected = pairs.iter().map(|(query, _, class)| place(*query, *class));
            assert_eq!(by_query, numbers(expected).collect::<Vec<_>>());
            let expected = pairs.iter().map(|(_, key, class)| place(*key, *class));
            assert_eq!(by_key, numbers(expected).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_bias_is_that_of_the_class_of_every_pair() {
        let classes = Distances::T5 { buckets: 32 };
        let table = Matrix {
            data: (0..64_u16).map(f32::from).collect(),
            rows: 32,
            columns: 2,
        };
        let relation = Relation::Bias {
            table: table.clone(),
            classes,
        };
        let positions = Positions::new(relation, &Device::Cpu).expect("table");
        let Positions::Bias { table: device, .. } = positions else {
            panic!("a bias");
        };
        let bias = bias(&device, classes, TOKENS).expect("bias");
        assert_eq!(bias.dims(), [2, 1, TOKENS, TOKENS]);
        let found: Vec<f32> = bias.flatten_all().expect("flat").to_vec1().expect("row");
        let pairs = pairs(classes);
        let expected = (0..2).flat_map(|head| {
            let rows = pairs.iter().map(|(_, _, class)| table.row(*class));
            rows.map(move |row| row[head])
        });
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_long_sequence_has_few_numbers_on_the_host() {
        let classes = by_distance(Distances::T5 { buckets: 32 }, 30_000);
        assert_eq!(classes.len(), 2 * 30_000 - 1);
        assert_eq!((classes[0], classes[29_999]), (15, 0));
    }
}
