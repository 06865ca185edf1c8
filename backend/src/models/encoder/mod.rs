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

use super::config::EncoderConfig;
use super::error::LoadError;
use super::weights;
use checkpoint::Checkpoint;

/// A transformer encoder, loaded. How a batch is laid out inside is its own business; a sequence's
/// result must not depend on its neighbours.
pub(crate) trait Encode: Send + Sync {
    /// The last layer's output for each sequence, in order.
    ///
    /// # Errors
    /// A sequence is too long or has an id that the model does not know.
    fn forward(&self, batch: &[&[u32]]) -> Result<Hidden, ForwardError>;

    /// Length of a token's vector.
    fn width(&self) -> usize;
}

impl Encode for Encoder {
    fn forward(&self, batch: &[&[u32]]) -> Result<Hidden, ForwardError> {
        Encoder::forward(self, batch)
    }

    fn width(&self) -> usize {
        Encoder::width(self)
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
    let checkpoint = Checkpoint::new(tensors, config).map_err(|error| problem(&error))?;
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
