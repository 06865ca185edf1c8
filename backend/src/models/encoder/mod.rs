//! What every architecture does: token ids in, one vector for each token out.
//!
//! `checkpoint` brings the tensors of a family of models, under the names that its authors gave
//! them, into the form that the encoder takes; nothing after it knows which family a model is of.

mod checkpoint;
mod names;

#[cfg(test)]
mod tests;

use std::path::Path;

use candle_core::Device;
use gpu_bridge_encoder::{Encoder, ForwardError, Hidden, Threads};
use thiserror::Error;

use super::config::EncoderConfig;
use super::error::LoadError;
use super::weights;
use crate::engine::EngineError;
use checkpoint::Checkpoint;

/// A transformer encoder, loaded. How a batch is laid out inside is its own business; a sequence's
/// result must not depend on its neighbours.
pub(crate) trait Encode: Send + Sync {
    /// The last layer's output for each sequence, in order.
    ///
    /// # Errors
    /// See [`EncodeError`]; all or nothing.
    fn forward(&self, batch: &[&[u32]]) -> Result<Hidden, EncodeError>;

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
    Sequence(#[from] ForwardError),
    /// The device has no room for the batch.
    #[error("the device is out of memory")]
    #[cfg_attr(not(test), expect(dead_code, reason = "the processor never says so"))]
    OutOfMemory,
    /// A defect.
    #[error("the forward pass panicked")]
    Panicked,
}

impl From<EncodeError> for EngineError {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::OutOfMemory => Self::OutOfMemory,
            other => Self::Inference(other.to_string()),
        }
    }
}

impl Encode for Encoder {
    fn forward(&self, batch: &[&[u32]]) -> Result<Hidden, EncodeError> {
        Ok(Encoder::forward(self, batch)?)
    }

    fn width(&self) -> usize {
        Encoder::width(self)
    }

    fn bytes(&self) -> u64 {
        Encoder::bytes(self) as u64
    }
}

/// Loads the encoder in `folder`, its first `layers` layers only.
///
/// Hidden layer L of a model is the output of the same model with its layers above L left out, so a
/// cut model computes exactly that layer and saves the rest.
pub(crate) fn load(
    folder: &Path,
    config: &EncoderConfig,
    layers: usize,
    threads: &Threads,
) -> Result<Encoder, LoadError> {
    let tensors = weights::open(folder, &Device::Cpu)?;
    let problem = |error: &dyn std::fmt::Display| weights::problem(folder, error.to_string());
    let checkpoint = Checkpoint::new(&tensors, config).map_err(|error| problem(&error))?;
    let build = || -> Result<Encoder, checkpoint::CheckpointError> {
        let mut encoder = checkpoint.start(threads.clone())?;
        for index in 0..layers {
            encoder.push(checkpoint.layer(index)?)?;
        }
        if let Some(norm) = checkpoint.last_norm()? {
            encoder.set_last_norm(norm)?;
        }
        Ok(encoder)
    };
    build().map_err(|error| problem(&error))
}
