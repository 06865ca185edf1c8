//! What every architecture does: token ids in, one vector for each token out.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::bert::BertEncoder;
use super::config::{Architecture, EncoderConfig};
use super::error::LoadError;

/// A transformer encoder, loaded. How a batch is laid out inside (padded, packed) is its own
/// business; a sequence's result must not depend on its neighbours.
pub(crate) trait Encoder: Send + Sync {
    /// The last layer's output for each sequence: `[tokens, hidden]`, in order. No sequence is
    /// empty or longer than the model's positions.
    ///
    /// The results may share memory with each other: keep them no longer than needed.
    fn forward(&self, batch: &[&[u32]]) -> candle_core::Result<Vec<Tensor>>;
}

/// Loads the encoder in `folder`, its first `layers` layers only.
pub(crate) fn load(
    folder: &Path,
    config: &EncoderConfig,
    layers: usize,
    device: &Device,
) -> Result<Box<dyn Encoder>, LoadError> {
    match config.architecture {
        Architecture::Bert => Ok(Box::new(BertEncoder::load(folder, config, layers, device)?)),
    }
}
