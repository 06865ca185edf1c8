//! sentence-transformers' `LayerNorm` module.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::dense::MOST_FEATURES;
use crate::device::reason;
use crate::models::error::LoadError;
use crate::models::settings_file::SettingsFile;
use crate::models::weights;

/// torch's default, which the module has.
const EPSILON: f32 = 1e-5;

/// What `config.json` says of a `LayerNorm` module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerNormSettings {
    folder: PathBuf,
    size: usize,
}

/// Brings a vector to mean 0 and variance 1, then scales and shifts each of its numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl LayerNormSettings {
    /// Reads `config.json` in the module's `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self, LoadError> {
        let file = SettingsFile::read(folder.join("config.json"))?;
        let size = file.require_count("dimension", MOST_FEATURES)?;
        file.settle(&[])?;
        let folder = folder.to_owned();
        Ok(Self { folder, size })
    }

    /// Reads the weights.
    pub(super) fn load(&self) -> Result<LayerNorm, LoadError> {
        let Self { folder, size } = self;
        let all = weights::open(folder, &Device::Cpu)?;
        let tensors = all.tensors.pp("norm");
        let numbers = |name: &str| {
            let numbers = tensors.get(*size, name).and_then(|tensor| tensor.to_vec1());
            numbers.map_err(|error| weights::broken(folder, reason(&error)))
        };
        let norm = LayerNorm {
            weight: numbers("weight")?,
            bias: numbers("bias")?,
        };
        all.settle(|_| false)?;
        Ok(norm)
    }

    /// See [`DenseSettings::dimensions`](super::dense::DenseSettings::dimensions).
    pub(super) fn dimensions(&self, inputs: usize) -> Result<usize, LoadError> {
        let own = self.size;
        if inputs == own {
            return Ok(own);
        }
        let problem = format!("the norm takes {own} numbers, not {inputs}");
        Err(weights::problem(&self.folder, problem))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many numbers the weights have.
    pub(super) fn numbers(&self) -> u64 {
        2 * self.size as u64
    }
}

impl LayerNorm {
    pub(super) fn apply(&self, row: &mut [f32]) {
        let count = row.len() as f32;
        let mean = row.iter().sum::<f32>() / count;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / count;
        let scale = 1.0 / (variance + EPSILON).sqrt();
        let parameters = self.weight.iter().zip(&self.bias);
        for (x, (weight, bias)) in row.iter_mut().zip(parameters) {
            *x = (*x - mean) * scale * weight + bias;
        }
    }
}
