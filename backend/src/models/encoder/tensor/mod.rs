//! The encoder on candle's tensors, for every device that candle drives: what runs on GPUs.
//!
//! It is built from the same weights as the processor's (`gpu_bridge_encoder`) and computes the
//! same. Rows are packed here, too: no padding but in attention, and there only among sequences of
//! about the same length (`plan`); where flash attention serves, none at all.
//!
//! Precision: products are computed in the encoder's own precision with sums in 32 bits, the scores'
//! sums, the softmax and the norms' statistics in 32 bits. `f16` ends at 65,504. Models with
//! disentangled attention, and those that never normalise the sum that goes through all layers,
//! reach beyond that or need its lower digits; left to ourselves ([`Precision::Auto`]) those compute
//! in `f32`.
//!
//! Without flash attention, the scores of a group are in memory at once, three times over at the
//! peak: a single sequence of 8,192 tokens with 12 heads takes about 10 GB. What does not fit is
//! [`EncodeError::OutOfMemory`]; a sequence that cannot is refused before anything is computed.

mod attention;
mod batch;
mod layer;
mod parts;
mod plan;
mod relation;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use gpu_bridge_encoder::{
    EmbeddingWeights, Hidden, LayerWeights, Limits, NormWeights, PositionIds, Relation, Shape, Stop,
};

use self::attention::PaddedGroup;
use self::batch::Batch;
use self::layer::Layer;
use self::parts::{Linear, Norm, Upload, bytes};
use self::plan::Plan;
use self::relation::Positions;
use super::checkpoint::{Assemble, CheckpointError};
use super::{Encode, EncodeError};
use crate::device::{self, Flash, Precision};

/// A transformer encoder on a device. A clone has its weights in common with it.
#[derive(Clone, Debug)]
pub(super) struct TensorEncoder {
    shape: Shape,
    limits: Limits,
    upload: Upload,
    flash: Option<Flash>,
    /// Bytes that the scores of a sequence may take.
    room: u64,
    relation: Arc<Positions>,
    embedding: Arc<Embedding>,
    layers: Vec<Arc<Layer>>,
    last_norm: Option<Arc<Norm>>,
    /// The reaches of the layers' windows, each once.
    windows: Vec<usize>,
}

/// Where a [`TensorEncoder`] runs.
#[derive(Clone, Debug)]
pub(crate) struct TensorPlace {
    pub(crate) device: Device,
    pub(crate) precision: Precision,
}

#[derive(Debug)]
struct Embedding {
    words: Tensor,
    positions: Option<(Tensor, PositionIds)>,
    projection: Option<Linear>,
    norm: Norm,
}

impl Assemble for TensorEncoder {
    type Place = TensorPlace;

    fn start(
        place: &TensorPlace,
        shape: Shape,
        relation: Relation,
        embedding: EmbeddingWeights,
    ) -> std::result::Result<Self, CheckpointError> {
        let upload = Upload {
            device: place.device.clone(),
            dtype: dtype(place.precision, shape, &relation),
        };
        let related = !matches!(relation, Relation::None);
        let flash = Flash::on(&upload.device, upload.dtype, shape.head());
        Ok(Self {
            shape,
            limits: embedding.limits(),
            relation: Arc::new(Positions::new(relation, &upload.device)?),
            embedding: Arc::new(Embedding::new(embedding, &upload)?),
            flash: flash.filter(|_| !related),
            room: plan::room(device::memory(&upload.device)),
            upload,
            layers: Vec::new(),
            last_norm: None,
            windows: Vec::new(),
        })
    }

    fn push(&mut self, layer: LayerWeights) -> std::result::Result<(), CheckpointError> {
        let known = |window: &usize| !self.windows.contains(window);
        self.windows.extend(layer.window.filter(known));
        let layer = Layer::new(layer, self.shape, &self.upload)?;
        self.layers.push(Arc::new(layer));
        Ok(())
    }

    fn set_last_norm(&mut self, norm: NormWeights) -> std::result::Result<(), CheckpointError> {
        self.last_norm = Some(Arc::new(self.upload.norm(norm)?));
        Ok(())
    }

    fn lower(&self, depth: usize) -> Self {
        let mut lower = self.clone();
        lower.layers.truncate(depth);
        lower
    }

    fn depth(&self) -> usize {
        self.layers.len()
    }
}

/// See the module's head.
fn dtype(precision: Precision, shape: Shape, relation: &Relation) -> DType {
    let wide = shape.norm_first || matches!(relation, Relation::Disentangled { .. });
    match precision {
        Precision::Auto if wide => DType::F32,
        Precision::Auto | Precision::F16 => DType::F16,
        Precision::Bf16 => DType::BF16,
        Precision::F32 => DType::F32,
    }
}

impl Embedding {
    fn new(weights: EmbeddingWeights, upload: &Upload) -> Result<Self> {
        let positions = weights
            .positions
            .map(|(rows, ids)| Ok::<_, candle_core::Error>((upload.matrix(rows)?, ids)));
        let projection = weights.projection.map(|linear| upload.linear(linear));
        Ok(Self {
            words: upload.matrix(weights.words)?,
            positions: positions.transpose()?,
            projection: projection.transpose()?,
            norm: upload.norm(weights.norm)?,
        })
    }

    fn bytes(&self) -> usize {
        let positions = self.positions.as_ref().map_or(0, |(rows, _)| bytes(rows));
        let projection = self.projection.as_ref().map_or(0, Linear::bytes);
        bytes(&self.words) + positions + projection + self.norm.bytes()
    }

    fn forward(&self, batch: &Batch, sequences: &[&[u32]]) -> Result<Tensor> {
        let mut rows = self.words.index_select(&batch.ids, 0)?;
        if let Some((table, ids)) = &self.positions {
            let positions = batch.positions(sequences, *ids)?;
            rows = (rows + table.index_select(&positions, 0)?)?;
        }
        if let Some(projection) = &self.projection {
            rows = projection.apply(&rows)?;
        }
        self.norm.apply(&rows)
    }
}

impl TensorEncoder {
    /// The hidden states of a batch that has been checked.
    fn run(&self, batch: &[&[u32]], stop: &Stop<'_>) -> std::result::Result<Hidden, EncodeError> {
        let width = self.shape.hidden;
        let lengths: Vec<usize> = batch.iter().map(|ids| ids.len()).collect();
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        let ends = ends.collect();
        let plan = Plan::new(&lengths, self.shape.heads);
        if plan.order.is_empty() {
            return Ok(Hidden::new(Vec::new(), width, ends));
        }
        let sequences: Vec<&[u32]> = plan.order.iter().map(|nth| batch[*nth]).collect();
        let mut hidden = self.encode(&sequences, &plan, stop)?;
        if let Some(rows) = plan.unsorted(&lengths) {
            let count = rows.len();
            let rows = Tensor::from_vec(rows, count, &self.upload.device)?;
            hidden = hidden.index_select(&rows, 0)?;
        }
        let rows = hidden.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Hidden::new(rows, width, ends))
    }

    /// Whether there is room for the scores of each sequence.
    fn has_room(&self, batch: &[&[u32]]) -> bool {
        let longest = batch.iter().map(|ids| ids.len()).max().unwrap_or(0);
        self.flash.is_some() || plan::fits(longest, self.shape.heads, self.room)
    }

    /// Leaves the states as the last layer gives them.
    #[cfg(test)]
    pub(super) fn drop_last_norm(&mut self) {
        self.last_norm = None;
    }

    /// `[tokens, hidden]`, in the plan's order, as `sequences` are.
    fn encode(
        &self,
        sequences: &[&[u32]],
        plan: &Plan,
        stop: &Stop<'_>,
    ) -> std::result::Result<Tensor, EncodeError> {
        let Upload { device, dtype } = &self.upload;
        let padded = || PaddedGroup::all(plan, &self.relation, &self.windows, device);
        let mut batch = Batch::new(sequences, device, self.flash, padded)?;
        for rotation in self.layers.iter().filter_map(|layer| layer.rotation) {
            batch.rotate(rotation, self.shape.head(), *dtype)?;
        }
        let mut hidden = self.embedding.forward(&batch, sequences)?;
        for layer in &self.layers {
            if stop() {
                return Err(EncodeError::Stopped);
            }
            hidden = layer.forward(&batch, &hidden)?;
        }
        if let Some(norm) = &self.last_norm {
            hidden = norm.apply(&hidden)?;
        }
        Ok(hidden)
    }
}

impl Encode for TensorEncoder {
    fn forward_until(
        &self,
        batch: &[&[u32]],
        stop: &Stop<'_>,
    ) -> std::result::Result<Hidden, EncodeError> {
        self.limits.check(batch)?;
        if !self.has_room(batch) {
            return Err(EncodeError::OutOfMemory);
        }
        self.run(batch, stop)
    }

    fn width(&self) -> usize {
        self.shape.hidden
    }

    fn bytes(&self) -> u64 {
        let layers: usize = self.layers.iter().map(|layer| layer.bytes()).sum();
        let last_norm = self.last_norm.as_ref().map_or(0, |norm| norm.bytes());
        (self.embedding.bytes() + layers + last_norm) as u64
    }
}

#[cfg(test)]
mod tests;
