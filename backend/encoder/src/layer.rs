//! One layer of an encoder, in three steps: `project`, `attend`, `finish` (see the crate's chart).
//! The first and the last work on a block of rows and leave everything in one core's cache.

use std::ops::Range;

use crate::attention::Positions;
use crate::kernels::bf16::Pair;
use crate::kernels::gemm::{Activation, Epilogue, Rows};
use crate::kernels::norm::LayerNorm;
use crate::linear::{Factors, Linear};
use crate::ops;
use crate::position::Rotation;
use crate::scratch::{Reusable, bytes_of, sized};
use crate::weights::{LinearWeights, Matrix, NormWeights, Shape, ShapeError};

/// Weights of one layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Queries, keys and values in one: `[3 × hidden, hidden]`. The rows of the queries (and their
    /// biases) are already multiplied by the scale of the scores.
    pub qkv: LinearWeights,
    /// After attention.
    pub output: LinearWeights,
    /// The norm of attention: of its input if the shape says so, else of its sum; `None` leaves it
    /// out.
    pub attention_norm: Option<NormWeights>,
    /// The feed-forward layer's first half; gated: activated outputs first, then those that multiply.
    pub up: LinearWeights,
    /// Its second half.
    pub down: LinearWeights,
    /// The norm of the feed-forward layer.
    pub feed_norm: NormWeights,
    /// For [`Relation::Disentangled`](crate::Relation): a row for each class of distance, as keys
    /// and as queries (these multiplied by the scale of the scores).
    pub positions: Option<(Option<Matrix>, Option<Matrix>)>,
    /// Queries and keys are turned by their position.
    pub rotation: Option<Rotation>,
    /// How far a token looks to either side; `None`: everywhere.
    pub window: Option<usize>,
    /// Added to the layer's output.
    pub convolution: Option<ConvolutionWeights>,
}

/// A convolution over a sequence, of the layer's input, added to its output (`ConvLayer` of DeBERTa
/// v2).
#[derive(Clone, Debug)]
pub struct ConvolutionWeights {
    /// `[hidden, width × hidden]`: for each output, its weights for the token `width / 2` before,
    /// and so on to the one as far behind.
    pub kernel: LinearWeights,
    /// How many tokens it sees; odd.
    pub width: usize,
    /// Of its result.
    pub activation: Activation,
    /// Of the sum.
    pub norm: NormWeights,
}

#[derive(Debug)]
pub(crate) struct Layer {
    qkv: Linear,
    output: Linear,
    attention_norm: Option<LayerNorm>,
    up: Linear,
    down: Linear,
    feed_norm: LayerNorm,
    rotation: Option<Rotation>,
    pub(crate) window: Option<usize>,
    pub(crate) positions: Option<Positions>,
    pub(crate) convolution: Option<Convolution>,
    shape: Shape,
}

/// Buffers of one block of rows.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    context: Vec<f32>,
    sum: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
    narrow: Vec<f32>,
    rounded: Vec<Pair>,
}

impl Reusable for Scratch {
    fn bytes(&self) -> usize {
        let Self {
            context,
            sum,
            normed,
            wide,
            narrow,
            rounded,
        } = self;
        bytes_of(&[context, sum, normed, wide, narrow]) + bytes_of(&[rounded])
    }
}

impl Layer {
    pub(crate) fn build(
        weights: LayerWeights,
        shape: Shape,
        factors: Factors,
    ) -> Result<Self, ShapeError> {
        let head = shape.head();
        if weights.rotation.is_some() && !head.is_multiple_of(2) {
            return Err(ShapeError::Rotation { head });
        }
        let Shape {
            hidden,
            intermediate,
            ..
        } = shape;
        let wide = if shape.gated {
            2 * intermediate
        } else {
            intermediate
        };
        let attention_norm = weights.attention_norm;
        let attention_norm = attention_norm.map(|norm| norm.build("the attention's norm", hidden));
        let convolution = weights
            .convolution
            .map(|weights| Convolution::build(weights, hidden, factors));
        let positions = weights
            .positions
            .map(|(keys, queries)| Positions { keys, queries });
        let linear = |what, weights, sizes| Linear::build(what, weights, sizes, factors);
        let qkv = (hidden, 3 * hidden);
        let down = (intermediate, hidden);
        Ok(Self {
            qkv: linear("queries, keys and values", weights.qkv, qkv)?,
            output: linear("the attention's output", weights.output, (hidden, hidden))?,
            attention_norm: attention_norm.transpose()?,
            up: linear("the feed-forward layer", weights.up, (hidden, wide))?,
            down: linear("the feed-forward output", weights.down, down)?,
            feed_norm: weights.feed_norm.build("the feed-forward norm", hidden)?,
            rotation: weights.rotation,
            window: weights.window,
            positions,
            convolution: convolution.transpose()?,
            shape,
        })
    }

    /// Bytes that this holds.
    pub(crate) fn bytes(&self) -> usize {
        let linear = [&self.qkv, &self.output, &self.up, &self.down];
        let linear: usize = linear.iter().map(|linear| linear.bytes()).sum();
        let norms = self.attention_norm.iter().chain([&self.feed_norm]);
        let norms: usize = norms.map(LayerNorm::bytes).sum();
        let positions = self.positions.as_ref().map_or(0, Positions::bytes);
        let convolution = self.convolution.as_ref().map_or(0, |c| c.kernel.bytes());
        linear + norms + positions + convolution
    }

    /// Queries, keys and values of a block of tokens; `places` are their positions in their sequences.
    pub(crate) fn project(
        &self,
        scratch: &mut Scratch,
        hidden: &[f32],
        places: &[usize],
        qkv: &mut [f32],
    ) {
        let mut input = hidden;
        if let Some(norm) = self
            .attention_norm
            .as_ref()
            .filter(|_| self.shape.norm_first)
        {
            let normed = sized(&mut scratch.normed, hidden.len());
            normed.copy_from_slice(hidden);
            norm.apply(normed);
            input = normed;
        }
        let nothing = Epilogue::default();
        self.qkv.apply(&mut scratch.rounded, input, qkv, nothing);
        if let Some(rotation) = self.rotation {
            self.rotate(rotation, places, qkv);
        }
    }

    fn rotate(&self, rotation: Rotation, places: &[usize], qkv: &mut [f32]) {
        let head = self.shape.head();
        let mut angles = Vec::with_capacity(head / 2);
        for (place, row) in places
            .iter()
            .zip(qkv.chunks_exact_mut(3 * self.shape.hidden))
        {
            rotation.angles(*place, head, &mut angles);
            let (queries_and_keys, _) = row.split_at_mut(2 * self.shape.hidden);
            for vector in queries_and_keys.chunks_exact_mut(head) {
                Rotation::turn(&angles, vector);
            }
        }
    }

    /// Everything after attention, for a block of tokens: `hidden` goes from the layer's input to its
    /// output. `context` gives each token's context.
    pub(crate) fn finish<'a>(
        &self,
        scratch: &mut Scratch,
        context: impl Iterator<Item = &'a [f32]>,
        hidden: &mut [f32],
    ) {
        let gathered = sized(&mut scratch.context, hidden.len());
        for (row, part) in gathered.chunks_exact_mut(self.shape.head()).zip(context) {
            row.copy_from_slice(part);
        }
        let sum = sized(&mut scratch.sum, hidden.len());
        let add = residual(hidden, self.shape.hidden);
        self.output.apply(&mut scratch.rounded, gathered, sum, add);
        let Scratch {
            normed,
            wide,
            narrow,
            rounded,
            ..
        } = scratch;
        if self.shape.norm_first {
            let normed = sized(normed, hidden.len());
            normed.copy_from_slice(sum);
            self.feed_norm.apply(normed);
            self.feed((wide, narrow, rounded), normed, sum, hidden);
            return;
        }
        if let Some(norm) = &self.attention_norm {
            norm.apply(sum);
        }
        self.feed((wide, narrow, rounded), sum, sum, hidden);
        self.feed_norm.apply(hidden);
    }

    /// `out` = the feed-forward layer of `input`, plus `before`.
    fn feed(
        &self,
        (wide, narrow, rounded): (&mut Vec<f32>, &mut Vec<f32>, &mut Vec<Pair>),
        input: &[f32],
        before: &[f32],
        out: &mut [f32],
    ) {
        let rows = input.len() / self.shape.hidden;
        let wide = sized(wide, rows * self.up.outputs());
        let add = residual(before, self.shape.hidden);
        let mut activate = Epilogue::default();
        if !self.shape.gated {
            activate.activation = Some(self.shape.activation);
            self.up.apply(rounded, input, wide, activate);
            self.down.apply(rounded, wide, out, add);
            return;
        }
        self.up.apply(rounded, input, wide, activate);
        let narrow = sized(narrow, rows * self.shape.intermediate);
        ops::gate(self.shape.activation, wide, narrow, self.shape.intermediate);
        self.down.apply(rounded, narrow, out, add);
    }
}

/// Adds `rows`, which have `length` numbers.
fn residual(rows: &[f32], length: usize) -> Epilogue<'_> {
    Epilogue {
        residual: Some(Rows::new(rows, length)),
        ..Epilogue::default()
    }
}

/// See [`ConvolutionWeights`].
#[derive(Debug)]
pub(crate) struct Convolution {
    kernel: Linear,
    width: usize,
    activation: Activation,
    norm: LayerNorm,
}

impl Convolution {
    fn build(
        weights: ConvolutionWeights,
        hidden: usize,
        factors: Factors,
    ) -> Result<Self, ShapeError> {
        let sizes = (weights.width * hidden, hidden);
        Ok(Self {
            kernel: Linear::build("the convolution", weights.kernel, sizes, factors)?,
            width: weights.width,
            activation: weights.activation,
            norm: weights.norm.build("the convolution's norm", hidden)?,
        })
    }

    /// For the rows of a batch from `first` on: `output` becomes the norm of itself plus the
    /// convolution of `input`, which is the whole batch. `sequences` gives, for each row, the rows of
    /// its sequence.
    pub(crate) fn apply(
        &self,
        scratch: &mut Scratch,
        input: &[f32],
        first: usize,
        sequences: &[Range<usize>],
        output: &mut [f32],
    ) {
        let hidden = self.kernel.outputs();
        let seen = sized(&mut scratch.wide, self.width * output.len());
        let rows = seen.chunks_exact_mut(self.width * hidden);
        for (row, (cells, sequence)) in rows.zip(sequences).enumerate() {
            for (nth, cell) in cells.chunks_exact_mut(hidden).enumerate() {
                let other = (first + row + nth).checked_sub(self.width / 2);
                match other.filter(|other| sequence.contains(other)) {
                    Some(other) => cell.copy_from_slice(&input[other * hidden..][..hidden]),
                    None => cell.fill(0.0),
                }
            }
        }
        let sum = sized(&mut scratch.sum, output.len());
        let add_activated = Epilogue {
            activation: Some(self.activation),
            ..residual(output, hidden)
        };
        self.kernel
            .apply(&mut scratch.rounded, seen, sum, add_activated);
        self.norm.apply(sum);
        output.copy_from_slice(sum);
    }
}
