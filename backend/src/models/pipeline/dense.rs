//! sentence-transformers' Dense module: a linear layer and a non-linearity after pooling, to which
//! the input may be added.

use std::f32::consts::FRAC_1_SQRT_2;
use std::path::{Path, PathBuf};

use candle_core::cpu::erf::erf_f32;
use candle_core::{Device, Tensor};

use super::ABOUT_THE_SENTENCE;
use crate::device::reason;
use crate::models::config::MOST_WIDTH;
use crate::models::error::LoadError;
use crate::models::settings_file::SettingsFile;
use crate::models::weights;

/// The non-linearity at a Dense module's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Identity,
    Tanh,
    Relu,
    Sigmoid,
    Silu,
    /// Exact, with the error function.
    Gelu,
}

impl Activation {
    /// By the last part of the Python class's dotted name, if it is one of torch's own.
    fn named(class: &str) -> Option<Self> {
        let torch = class.strip_prefix("torch.")?;
        match torch.rsplit('.').next() {
            Some("Identity") => Some(Self::Identity),
            Some("Tanh") => Some(Self::Tanh),
            Some("ReLU") => Some(Self::Relu),
            Some("Sigmoid") => Some(Self::Sigmoid),
            Some("SiLU") => Some(Self::Silu),
            Some("GELU") => Some(Self::Gelu),
            _ => None,
        }
    }

    fn apply(self, x: f32) -> f32 {
        match self {
            Self::Tanh => x.tanh(),
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Gelu => 0.5 * x * (1.0 + erf_f32(x * FRAC_1_SQRT_2)),
            // Not `max`, which would drop NaN.
            Self::Relu if x < 0.0 => 0.0,
            Self::Identity | Self::Relu => x,
        }
    }
}

/// The most numbers that go in or come out: as many as the widest encoder gives in all of its modes
/// of pooling, put end to end.
pub(super) const MOST_FEATURES: usize = 6 * MOST_WIDTH;

/// What `config.json` says of a Dense module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DenseSettings {
    folder: PathBuf,
    inputs: usize,
    outputs: usize,
    bias: bool,
    residual: bool,
    activation: Activation,
}

/// A linear layer and a non-linearity.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dense {
    /// `[outputs, inputs]`, flat.
    weight: Vec<f32>,
    /// One number for each output.
    bias: Vec<f32>,
    inputs: usize,
    activation: Activation,
    residual: Option<Residual>,
}

/// How the input is added to the output.
#[derive(Clone, Debug, PartialEq)]
enum Residual {
    AsItIs,
    /// `[outputs, inputs]`, flat.
    Projected(Vec<f32>),
}

impl DenseSettings {
    /// Reads `config.json` in the module's `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self, LoadError> {
        const ACTIVATION: &str = "activation_function";
        let file = SettingsFile::read(folder.join("config.json"))?;
        let inputs = file.require_count("in_features", MOST_FEATURES)?;
        let outputs = file.require_count("out_features", MOST_FEATURES)?;
        let class: Option<String> = file.get(ACTIVATION)?;
        let class = class.unwrap_or_else(|| "torch.nn.modules.activation.Tanh".to_owned());
        let activation = Activation::named(&class).ok_or_else(|| {
            let supported = "torch's Identity, Tanh, ReLU, Sigmoid, SiLU and GELU are supported";
            file.problem(ACTIVATION, format!("is '{class}'; {supported}"))
        })?;
        let residual = file.get("use_residual")?.unwrap_or(false);
        let bias = file.get("bias")?.unwrap_or(true);
        file.settle(ABOUT_THE_SENTENCE)?;
        Ok(Self {
            folder: folder.to_owned(),
            inputs,
            outputs,
            bias,
            residual,
            activation,
        })
    }

    /// Reads the weights.
    pub(super) fn load(&self) -> Result<Dense, LoadError> {
        let Self {
            folder,
            inputs,
            outputs,
            ..
        } = self;
        let (inputs, outputs) = (*inputs, *outputs);
        let all = weights::open(folder, &Device::Cpu)?;
        let tensors = all.tensors.pp("linear");
        let numbers = |tensor: candle_core::Result<Tensor>| {
            let numbers = tensor.and_then(|tensor| tensor.flatten_all()?.to_vec1());
            numbers.map_err(|error| weights::broken(folder, reason(&error)))
        };
        let weight = numbers(tensors.get((outputs, inputs), "weight"))?;
        let residual = match (self.residual, inputs == outputs) {
            (false, _) => None,
            (true, true) => Some(Residual::AsItIs),
            (true, false) => {
                let weight = all.tensors.get((outputs, inputs), "residual.weight");
                Some(Residual::Projected(numbers(weight)?))
            }
        };
        let bias = if self.bias {
            numbers(tensors.get(outputs, "bias"))?
        } else {
            vec![0.0; outputs]
        };
        all.settle(|_| false)?;
        Ok(Dense {
            weight,
            bias,
            inputs,
            activation: self.activation,
            residual,
        })
    }

    /// How many numbers it gives for `inputs` numbers.
    ///
    /// # Errors
    /// It takes another number of them.
    pub(super) fn dimensions(&self, inputs: usize) -> Result<usize, LoadError> {
        if inputs == self.inputs {
            return Ok(self.outputs);
        }
        let problem = format!("the layer takes {} numbers, not {inputs}", self.inputs);
        Err(weights::problem(&self.folder, problem))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many numbers the weights have.
    pub(super) fn numbers(&self) -> u64 {
        let projected = self.residual && self.inputs != self.outputs;
        let matrices = 1 + u64::from(projected);
        // Both are bounded, so that this does not overflow.
        (self.inputs * self.outputs) as u64 * matrices + self.outputs as u64
    }
}

impl Dense {
    /// The outputs for one vector of [inputs](DenseSettings::dimensions).
    pub(crate) fn apply(&self, row: &[f32]) -> Vec<f32> {
        let outputs = self.weight.chunks_exact(self.inputs).zip(&self.bias);
        let mut outputs: Vec<f32> = outputs
            .map(|(weight, bias)| self.activation.apply(dot(weight, row) + bias))
            .collect();
        match &self.residual {
            None => {}
            Some(Residual::AsItIs) => add(&mut outputs, row.iter().copied()),
            Some(Residual::Projected(weight)) => {
                let weights = weight.chunks_exact(self.inputs);
                add(&mut outputs, weights.map(|weight| dot(weight, row)));
            }
        }
        outputs
    }
}

fn add(row: &mut [f32], other: impl Iterator<Item = f32>) {
    row.iter_mut().zip(other).for_each(|(x, y)| *x += y);
}

/// In sixteen sums, which the compiler keeps in vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0.0_f32; 16];
    for (a, b) in a.iter().zip(b) {
        for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
            *sum += x * y;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tempfile::TempDir;

    use super::*;
    use crate::models::test_support::folder_with;

    fn read(folder: &Path) -> Result<Dense, LoadError> {
        DenseSettings::read(folder)?.load()
    }

    #[test]
    fn the_input_is_added_as_it_is_or_through_a_layer() {
        let tensor = |numbers: &[f32], shape: &[usize]| {
            Tensor::from_slice(numbers, shape, &Device::Cpu).expect("tensor")
        };
        let dense = |outputs: usize, more: Option<Tensor>| {
            let config = format!(
                r#"{{"in_features": 2, "out_features": {outputs}, "bias": false,
                "activation_function": "torch.nn.modules.linear.Identity", "use_residual": true}}"#
            );
            let folder = folder_with(&[("config.json", &config)]);
            let weight = tensor(
                &[0.0, 1.0, 1.0, 0.0, 2.0, 2.0][..2 * outputs],
                &[outputs, 2],
            );
            let mut tensors = HashMap::from([("linear.weight", weight)]);
            tensors.extend(more.map(|more| ("residual.weight", more)));
            let path = folder.path().join("model.safetensors");
            candle_core::safetensors::save(&tensors, path).expect("save");
            read(folder.path())
        };
        let same = dense(2, None).expect("reads");
        assert_eq!(same.apply(&[3.0, 5.0]), [8.0, 8.0]);
        let residual = tensor(&[1.0, 0.0, 0.0, 10.0, 0.0, 0.0], &[3, 2]);
        let wider = dense(3, Some(residual)).expect("reads");
        assert_eq!(wider.apply(&[3.0, 5.0]), [8.0, 53.0, 16.0]);
        let error = dense(3, None).expect_err("a tensor is missing").to_string();
        assert!(error.contains("residual.weight"), "{error}");
    }

    fn folder(config: &str, bias: Option<[f32; 2]>) -> TempDir {
        let folder = folder_with(&[("config.json", config)]);
        let tensor = |numbers: &[f32], shape: &[usize]| {
            Tensor::from_slice(numbers, shape, &Device::Cpu).expect("tensor")
        };
        let weight = tensor(&[1.0, 0.0, -1.0, 0.5, 0.5, 0.5], &[2, 3]);
        let mut tensors = HashMap::from([("linear.weight", weight)]);
        if let Some(bias) = bias {
            tensors.insert("linear.bias", tensor(&bias, &[2]));
        }
        let path = folder.path().join("model.safetensors");
        candle_core::safetensors::save(&tensors, path).expect("save");
        folder
    }

    fn config(activation: &str, bias: bool) -> String {
        format!(
            r#"{{"in_features": 3, "out_features": 2, "bias": {bias},
            "activation_function": "torch.nn.modules.{activation}"}}"#
        )
    }

    #[test]
    fn a_layer_is_weight_bias_and_activation() {
        let row = [1.0, 2.0, 3.0];
        for (activation, expected) in [
            ("linear.Identity", [-1.0, 4.0]),
            ("activation.ReLU", [0.0, 4.0]),
            ("activation.Tanh", [(-1.0_f32).tanh(), 4.0_f32.tanh()]),
        ] {
            let folder = folder(&config(activation, true), Some([1.0, 1.0]));
            let dense = read(folder.path()).expect("reads");
            assert_eq!(dense.apply(&row), expected, "{activation}");
        }
        let folder = folder(&config("linear.Identity", false), None);
        let dense = read(folder.path()).expect("reads");
        assert_eq!(dense.apply(&row), [-2.0, 3.0]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let odd = folder(&config("activation.Softsign", true), Some([1.0, 1.0]));
        let error = read(odd.path()).expect_err("activation").to_string();
        assert!(
            error.contains("is 'torch.nn.modules.activation.Softsign'"),
            "{error}"
        );
        let no_bias = folder(&config("activation.Tanh", true), None);
        let error = read(no_bias.path()).expect_err("bias").to_string();
        assert!(error.contains("linear.bias"), "{error}");
        let dense = folder(&config("activation.Tanh", false), None);
        let dense = DenseSettings::read(dense.path()).expect("reads");
        assert_eq!(dense.dimensions(3).expect("fits"), 2);
        let error = dense.dimensions(4).expect_err("width").to_string();
        assert!(error.contains("takes 3 numbers, not 4"), "{error}");
    }

    #[test]
    fn long_rows_are_summed_whole() {
        let numbers: Vec<f32> = (0_u8..35).map(f32::from).collect();
        let expected: f32 = numbers.iter().map(|x| x * x).sum();
        assert!((dot(&numbers, &numbers) - expected).abs() < 1e-3);
    }
}
