//! The encoder: an embedding and a stack of layers.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use thiserror::Error;

use crate::attention::{self, Head};
use crate::embedding::{Embedding, EmbeddingWeights};
use crate::hidden::Hidden;
use crate::kernels::gemm::TILE;
use crate::kernels::norm::LayerNorm;
use crate::layer::{self, Convolution, Layer, LayerWeights};
use crate::linear::Factors;
use crate::position::Relation;
use crate::scratch::{Reusable, Shelf, bytes_of, sized};
use crate::threads::Threads;
use crate::weights::{NormWeights, Shape, ShapeError};

/// The most rows of one task: their intermediate results should stay in a core's cache.
const MOST_ROWS: usize = 32 * TILE;
/// The least work of one attention task, in scores.
const LEAST_SCORES: usize = 1 << 12;

/// A transformer encoder, ready to run. A clone has its weights and buffers in common with it.
#[derive(Clone, Debug)]
pub struct Encoder {
    shape: Shape,
    relation: Relation,
    embedding: Arc<Embedding>,
    layers: Vec<Arc<Layer>>,
    last_norm: Option<LayerNorm>,
    factors: Factors,
    threads: Threads,
    batch_buffers: Arc<Shelf<Buffers>>,
    row_buffers: Arc<Shelf<layer::Scratch>>,
    attention_buffers: Arc<Shelf<attention::Scratch>>,
}

/// Intermediate results of a batch.
#[derive(Debug, Default)]
struct Buffers {
    qkv: Vec<f32>,
    context: Vec<f32>,
}

impl Reusable for Buffers {
    fn bytes(&self) -> usize {
        bytes_of(&[&self.qkv, &self.context])
    }
}

/// A batch that cannot be encoded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ForwardError {
    /// An id that has no vector.
    #[error("token {id} of sequence {sequence} is not among the model's {vocabulary} tokens")]
    UnknownToken {
        /// Place in the batch.
        sequence: usize,
        /// The id.
        id: u32,
        /// Ids are below this.
        vocabulary: usize,
    },
    /// More tokens than the model has positions.
    #[error("sequence {sequence} has {tokens} tokens; the model takes {longest}")]
    TooLong {
        /// Place in the batch.
        sequence: usize,
        /// Its length.
        tokens: usize,
        /// The most tokens.
        longest: usize,
    },
    /// Nobody wanted the result any more.
    #[error("stopped on request")]
    Stopped,
}

impl ForwardError {
    /// The place in the batch of the sequence that is to blame, if one is.
    pub fn sequence(&self) -> Option<usize> {
        match self {
            Self::UnknownToken { sequence, .. } | Self::TooLong { sequence, .. } => Some(*sequence),
            Self::Stopped => None,
        }
    }
}

/// Whether a forward pass is to end without a result. Asked often, from several threads.
pub type Stop<'a> = dyn Fn() -> bool + Sync + 'a;

impl Encoder {
    /// An encoder without layers yet.
    ///
    /// # Errors
    /// The shape is no shape, or the weights do not fit it.
    pub fn new(
        shape: Shape,
        relation: Relation,
        embedding: EmbeddingWeights,
        factors: Factors,
        threads: Threads,
    ) -> Result<Self, ShapeError> {
        shape.check()?;
        if let Relation::Bias { table, classes } = &relation {
            table.expect("the bias of distances", classes.classes(), shape.heads)?;
        }
        Ok(Self {
            embedding: Arc::new(Embedding::build(embedding, &shape, factors)?),
            shape,
            relation,
            layers: Vec::new(),
            last_norm: None,
            factors,
            threads,
            batch_buffers: Arc::default(),
            row_buffers: Arc::default(),
            attention_buffers: Arc::default(),
        })
    }

    /// Puts a layer on top.
    ///
    /// # Errors
    /// The weights do not fit the shape.
    pub fn push(&mut self, layer: LayerWeights) -> Result<(), ShapeError> {
        if let (Some((keys, queries)), Relation::Disentangled { classes }) =
            (&layer.positions, &self.relation)
        {
            for table in [keys, queries].into_iter().flatten() {
                table.expect("the positions", classes.classes(), self.shape.hidden)?;
            }
        }
        let layer = Layer::build(layer, self.shape, self.factors)?;
        self.layers.push(Arc::new(layer));
        Ok(())
    }

    /// Normalises what the last layer gives.
    ///
    /// # Errors
    /// The weights do not fit the shape.
    pub fn set_last_norm(&mut self, norm: NormWeights) -> Result<(), ShapeError> {
        self.last_norm = Some(norm.build("the last norm", self.shape.hidden)?);
        Ok(())
    }

    /// The same encoder without its layers from `depth` on. Both have the weights in common.
    #[must_use]
    pub fn lower(&self, depth: usize) -> Self {
        let mut lower = self.clone();
        lower.layers.truncate(depth);
        lower
    }

    /// How many layers it has.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// How many of its lowest layers it has in common with `other`.
    pub fn shared_layers(&self, other: &Self) -> usize {
        let pairs = self.layers.iter().zip(&other.layers);
        pairs
            .take_while(|(own, others)| Arc::ptr_eq(own, others))
            .count()
    }

    /// Leaves the states as the last layer gives them.
    pub fn drop_last_norm(&mut self) {
        self.last_norm = None;
    }

    /// Length of a token's vector.
    pub fn width(&self) -> usize {
        self.shape.hidden
    }

    /// The most tokens of a sequence; `None`: no limit.
    pub fn longest(&self) -> Option<usize> {
        self.embedding.longest()
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> usize {
        let layers: usize = self.layers.iter().map(|layer| layer.bytes()).sum();
        self.embedding.bytes() + layers
    }

    /// The hidden states of each sequence's tokens after the last layer. A sequence may be empty; it
    /// has none then. The result for one sequence does not depend on the others.
    ///
    /// # Errors
    /// An id or a length that the model does not have; nothing is computed then.
    pub fn forward(&self, batch: &[&[u32]]) -> Result<Hidden, ForwardError> {
        self.forward_until(batch, &|| false)
    }

    /// The same, unless `stop` says true meanwhile, which is asked many times in each layer.
    ///
    /// # Errors
    /// As of [`forward`](Self::forward), and [`ForwardError::Stopped`].
    pub fn forward_until(&self, batch: &[&[u32]], stop: &Stop<'_>) -> Result<Hidden, ForwardError> {
        self.embedding.check(batch)?;
        self.threads
            .run(|| self.run(batch, stop))
            .ok_or(ForwardError::Stopped)
    }

    /// `None` if it was stopped.
    fn run(&self, batch: &[&[u32]], stop: &Stop<'_>) -> Option<Hidden> {
        let width = self.shape.hidden;
        let places: Vec<usize> = batch.iter().flat_map(|ids| 0..ids.len()).collect();
        let mut hidden = vec![0.0; places.len() * width];
        self.embedding.run(batch, &mut hidden);
        self.batch_buffers.with(|Buffers { qkv, context }| {
            let qkv = sized(qkv, 3 * hidden.len());
            let context = sized(context, hidden.len());
            for layer in &self.layers {
                self.project(layer, &places, &hidden, qkv);
                self.attend(layer, batch, qkv, context, stop);
                if stop() {
                    return None;
                }
                self.finish(layer, batch, context, &mut hidden);
            }
            Some(())
        })?;
        if let Some(norm) = &self.last_norm {
            hidden
                .par_chunks_mut(TILE * width)
                .for_each(|rows| norm.apply(rows));
        }
        let ends = batch.iter().scan(0, |end, ids| {
            *end += ids.len();
            Some(*end)
        });
        Some(Hidden::new(hidden, width, ends.collect()))
    }

    fn project(&self, layer: &Layer, places: &[usize], hidden: &[f32], qkv: &mut [f32]) {
        let width = self.shape.hidden;
        let rows = self.rows_of_a_task(places.len());
        let tasks = qkv.par_chunks_mut(rows * 3 * width);
        let tasks = tasks
            .zip(hidden.par_chunks(rows * width))
            .zip(places.par_chunks(rows));
        tasks.for_each(|((qkv, hidden), places)| {
            self.row_buffers
                .with(|scratch| layer.project(scratch, hidden, places, qkv));
        });
    }

    /// `context` holds, for each sequence, for each head, a row for each token.
    /// Incomplete if `stop` says true meanwhile.
    fn attend(
        &self,
        layer: &Layer,
        batch: &[&[u32]],
        qkv: &[f32],
        context: &mut [f32],
        stop: &Stop<'_>,
    ) {
        let size = self.shape.head();
        let (mut qkv, mut context) = (qkv, context);
        let mut tasks = Vec::with_capacity(batch.len() * self.shape.heads);
        let mut scores = 0;
        for ids in batch.iter().filter(|ids| !ids.is_empty()) {
            let (own, rest) = qkv.split_at(ids.len() * 3 * self.shape.hidden);
            qkv = rest;
            scores += ids.len() * ids.len() * self.shape.heads;
            for index in 0..self.shape.heads {
                let (out, rest) = std::mem::take(&mut context).split_at_mut(ids.len() * size);
                context = rest;
                let head = Head {
                    qkv: own,
                    hidden: self.shape.hidden,
                    size,
                    index,
                    relation: &self.relation,
                    positions: layer.positions.as_ref(),
                    window: layer.window,
                };
                tasks.push((head, out));
            }
        }
        let least = LEAST_SCORES * tasks.len() / scores.max(1);
        tasks
            .into_par_iter()
            .with_min_len(least.max(1))
            .filter(|_| !stop())
            .for_each(|(head, out)| {
                self.attention_buffers
                    .with(|scratch| head.attend(scratch, out));
            });
    }

    fn finish(&self, layer: &Layer, batch: &[&[u32]], context: &[f32], hidden: &mut [f32]) {
        let width = self.shape.hidden;
        let before = layer.convolution.as_ref().map(|_| hidden.to_vec());
        let contexts = self.contexts(batch, context);
        let rows = self.rows_of_a_task(contexts.len());
        let tasks = hidden
            .par_chunks_mut(rows * width)
            .zip(contexts.par_chunks(rows));
        tasks.for_each(|(hidden, contexts)| {
            let size = self.shape.head();
            let parts = contexts.iter().flat_map(|(start, tokens)| {
                (0..self.shape.heads).map(move |head| {
                    let start = start + head * tokens * size;
                    &context[start..start + size]
                })
            });
            self.row_buffers
                .with(|scratch| layer.finish(scratch, parts, hidden));
        });
        if let (Some(convolution), Some(before)) = (&layer.convolution, before) {
            self.convolve(convolution, batch, &before, hidden);
        }
    }

    fn convolve(
        &self,
        convolution: &Convolution,
        batch: &[&[u32]],
        before: &[f32],
        hidden: &mut [f32],
    ) {
        let width = self.shape.hidden;
        let sequences = sequences(batch);
        let rows = self.rows_of_a_task(sequences.len());
        let tasks = hidden
            .par_chunks_mut(rows * width)
            .zip(sequences.par_chunks(rows))
            .enumerate();
        tasks.for_each(|(nth, (hidden, sequences))| {
            self.row_buffers.with(|scratch| {
                convolution.apply(scratch, before, nth * rows, sequences, hidden);
            });
        });
    }

    /// For each token: where its first head's context begins, and how many tokens its sequence has.
    fn contexts(&self, batch: &[&[u32]], context: &[f32]) -> Vec<(usize, usize)> {
        let mut contexts = Vec::with_capacity(context.len() / self.shape.hidden);
        let mut start = 0;
        for ids in batch {
            let tokens = ids.len();
            contexts.extend((0..tokens).map(|token| (start + token * self.shape.head(), tokens)));
            start += tokens * self.shape.hidden;
        }
        contexts
    }

    /// Rows of one task: as many tasks for each thread, none with more than [`MOST_ROWS`].
    fn rows_of_a_task(&self, rows: usize) -> usize {
        let threads = self.threads.count();
        let rounds = rows.div_ceil(threads * MOST_ROWS).max(1);
        rows.div_ceil(threads * rounds)
            .next_multiple_of(TILE)
            .max(TILE)
    }
}

/// For each row of a batch: the rows of its sequence.
fn sequences(batch: &[&[u32]]) -> Vec<Range<usize>> {
    let mut start = 0;
    let ranges = batch.iter().flat_map(|ids| {
        let range = start..start + ids.len();
        start = range.end;
        std::iter::repeat_n(range, ids.len())
    });
    ranges.collect()
}

#[cfg(test)]
mod tests;
