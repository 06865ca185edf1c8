//! What every architecture does: token ids in, one vector for each token out.
//!
//! `checkpoint` brings the tensors of a family of models, under the names that its authors gave
//! them, into the form that encoders take; nothing after it knows which family a model is of. There
//! are two encoders: the processor's own (`gpu_bridge_encoder`) and one on candle's tensors
//! (`tensor`), for GPUs.

mod checkpoint;
mod names;
mod shared;
mod tensor;

#[cfg(test)]
mod tests;

use std::path::Path;

use candle_core::Device;
use gpu_bridge_encoder::{
    EmbeddingWeights, Encoder, Factors, ForwardError, Hidden, LayerWeights, NormWeights, Relation,
    Shape, Stop, Threads,
};
use thiserror::Error;

use super::config::EncoderConfig;
use super::error::LoadError;
use super::{size, weights};
use crate::device::{self, Precision};
use crate::engine::{EngineError, Purpose};
use checkpoint::{Assemble, Checkpoint, CheckpointError};
pub(crate) use shared::{EncoderSource, Encoders, WeightsKey};
use tensor::TensorPlace;

/// A transformer encoder, loaded. How a batch is laid out inside is its own business; a sequence's
/// result must not depend on its neighbours.
pub(crate) trait Encode: Send + Sync {
    /// The last layer's output for each sequence, in order, unless `stop` says true meanwhile.
    ///
    /// # Errors
    /// See [`EncodeError`]; all or nothing.
    fn forward_until(&self, batch: &[&[u32]], stop: &Stop<'_>) -> Result<Hidden, EncodeError>;

    /// The same to the end.
    #[cfg(test)]
    fn forward(&self, batch: &[&[u32]]) -> Result<Hidden, EncodeError> {
        self.forward_until(batch, &|| false)
    }

    /// Length of a token's vector.
    fn width(&self) -> usize;

    /// Memory that the weights take, in bytes.
    fn bytes(&self) -> u64;
}

/// Why a batch was not encoded. The texts go to the log.
#[derive(Clone, Debug, Error)]
pub(crate) enum EncodeError {
    /// The model cannot take a sequence.
    #[error(transparent)]
    Sequence(ForwardError),
    /// Nobody wanted the result any more.
    #[error("stopped on request")]
    Stopped,
    /// The device has no room for the batch.
    #[error("the device is out of memory")]
    OutOfMemory,
    /// Something else is wrong with the device, or with what was asked of it.
    #[error("the device failed: {0}")]
    Device(String),
    /// A defect.
    #[error("the forward pass panicked")]
    Panicked,
}

impl From<ForwardError> for EncodeError {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::Stopped => Self::Stopped,
            other => Self::Sequence(other),
        }
    }
}

impl EncodeError {
    /// The sequence of the batch that is to blame, where that is known.
    pub(crate) fn culprit(&self) -> Option<usize> {
        match self {
            Self::Sequence(error) => error.sequence(),
            _ => None,
        }
    }
}

impl From<candle_core::Error> for EncodeError {
    fn from(error: candle_core::Error) -> Self {
        if device::is_out_of_memory(&error) {
            return Self::OutOfMemory;
        }
        Self::Device(device::reason(&error))
    }
}

impl From<EncodeError> for EngineError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::OutOfMemory => Self::OutOfMemory,
            EncodeError::Stopped => Self::Cancelled,
            EncodeError::Sequence(ForwardError::UnknownToken { id, vocabulary, .. }) => {
                Self::UnknownToken { id, vocabulary }
            }
            other => Self::Inference(other.to_string()),
        }
    }
}

impl Encode for Encoder {
    fn forward_until(&self, batch: &[&[u32]], stop: &Stop<'_>) -> Result<Hidden, EncodeError> {
        Ok(Encoder::forward_until(self, batch, stop)?)
    }

    fn width(&self) -> usize {
        Encoder::width(self)
    }

    fn bytes(&self) -> u64 {
        Encoder::bytes(self) as u64
    }
}

impl Assemble for Encoder {
    type Place = Processor;

    fn start(
        place: &Processor,
        shape: Shape,
        relation: Relation,
        embedding: EmbeddingWeights,
    ) -> Result<Self, CheckpointError> {
        let factors = match place.precision {
            Precision::Bf16 => Factors::Bf16,
            Precision::Auto | Precision::F32 | Precision::F16 => Factors::F32,
        };
        let threads = place.threads.clone();
        Ok(Self::new(shape, relation, embedding, factors, threads)?)
    }

    fn push(&mut self, layer: LayerWeights) -> Result<(), CheckpointError> {
        Ok(Encoder::push(self, layer)?)
    }

    fn set_last_norm(&mut self, norm: NormWeights) -> Result<(), CheckpointError> {
        Ok(Encoder::set_last_norm(self, norm)?)
    }

    fn lower(&self, depth: usize) -> Self {
        Encoder::lower(self, depth)
    }

    fn depth(&self) -> usize {
        Encoder::depth(self)
    }
}

/// The processor.
#[derive(Clone, Debug)]
pub(crate) struct Processor {
    pub(crate) threads: Threads,
    /// bf16, or else 32 bits.
    pub(crate) precision: Precision,
}

/// Where encoders run.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// With our own encoder.
    Processor(Processor),
    /// On a device that candle drives.
    Device(TensorPlace),
}

impl Place {
    /// On `device`, in the given precision; the processor computes on `threads`.
    pub(crate) fn new(device: Device, precision: Precision, threads: Threads) -> Self {
        match device {
            Device::Cpu => Self::Processor(Processor { threads, precision }),
            device => Self::Device(TensorPlace { device, precision }),
        }
    }

    /// The same with the precision that `purpose` asks for.
    pub(crate) fn serving(&self, purpose: Purpose) -> Self {
        match self {
            Self::Processor(Processor { threads, precision }) => Self::Processor(Processor {
                threads: threads.clone(),
                precision: precision.serving(purpose),
            }),
            Self::Device(TensorPlace { device, precision }) => Self::Device(TensorPlace {
                device: device.clone(),
                precision: precision.serving(purpose),
            }),
        }
    }

    /// What weights are kept in; two places on one device that keep theirs alike can have them in common.
    fn keeps(&self) -> Precision {
        match self {
            Self::Processor(place) if place.precision == Precision::Bf16 => Precision::Bf16,
            Self::Processor(_) => Precision::F32,
            Self::Device(place) => place.precision,
        }
    }

    /// Bytes of a weight, at most. (The processor keeps the vectors of words in 32 bits in any case.)
    pub(crate) fn bytes_per_number(&self) -> u64 {
        match self {
            Self::Processor(_) => Precision::F32.bytes(),
            Self::Device(place) => place.precision.bytes(),
        }
    }
}

/// The encoder in `folder`, its first `layers` layers only, on what `known` has of them.
fn assemble<E: Assemble>(
    folder: &Path,
    config: &EncoderConfig,
    layers: usize,
    place: &E::Place,
    known: Option<&E>,
) -> Result<E, LoadError> {
    let lower = match known.map(|known| known.lower(layers)) {
        Some(whole) if whole.depth() == layers => return Ok(whole),
        lower => lower,
    };
    let weights = weights::open(folder, &Device::Cpu)?;
    let all_anew = lower.is_none();
    let encoder = Checkpoint::new(&weights.tensors, config)
        .and_then(|checkpoint| checkpoint.assemble(layers, place, lower));
    // First: numbers of another kind may be why it failed.
    weights.check()?;
    let encoder = encoder.map_err(|error| weights::broken(folder, error.to_string()))?;
    if all_anew {
        weights.settle(|name| size::is_left_out(name, layers..config.layers))?;
    }
    Ok(encoder)
}
