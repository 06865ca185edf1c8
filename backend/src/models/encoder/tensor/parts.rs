//! Weights on the device, and what a layer is made of.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::Module;
use gpu_bridge_encoder::{Activation, LinearWeights, Matrix, NormWeights};

/// Takes weights to the device, in the precision that it computes in.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    pub(super) device: Device,
    pub(super) dtype: DType,
}

impl Upload {
    pub(super) fn matrix(&self, matrix: Matrix) -> Result<Tensor> {
        let size = (matrix.rows, matrix.columns);
        self.upload(&Tensor::from_vec(matrix.data, size, &Device::Cpu)?)
    }

    pub(super) fn vector(&self, numbers: Vec<f32>) -> Result<Tensor> {
        let count = numbers.len();
        self.upload(&Tensor::from_vec(numbers, count, &Device::Cpu)?)
    }

    pub(super) fn linear(&self, weights: LinearWeights) -> Result<Linear> {
        let bias = weights.bias.map(|bias| self.vector(bias)).transpose()?;
        Ok(Linear(candle_nn::Linear::new(
            self.matrix(weights.weight)?,
            bias,
        )))
    }

    pub(super) fn norm(&self, weights: NormWeights) -> Result<Norm> {
        let bias = weights
            .bias
            .unwrap_or_else(|| vec![0.0; weights.weight.len()]);
        Ok(Norm {
            weight: self.vector(weights.weight)?,
            bias: self.vector(bias)?,
            epsilon: weights.epsilon,
        })
    }

    /// Rounded before it travels: half as many bytes.
    fn upload(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.to_dtype(self.dtype)?.to_device(&self.device)
    }
}

/// Bytes of a tensor's numbers.
pub(super) fn bytes(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

/// y = W x + b, for rows.
#[derive(Debug)]
pub(super) struct Linear(candle_nn::Linear);

impl Linear {
    pub(super) fn apply(&self, rows: &Tensor) -> Result<Tensor> {
        self.0.forward(rows)
    }

    pub(super) fn bytes(&self) -> usize {
        bytes(self.0.weight()) + self.0.bias().map_or(0, bytes)
    }
}

/// Layer normalisation of rows. Mean and variance are computed in 32 bits whatever the rows are in.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl Norm {
    pub(super) fn apply(&self, rows: &Tensor) -> Result<Tensor> {
        candle_nn::ops::layer_norm(rows, &self.weight, &self.bias, self.epsilon)
    }

    pub(super) fn bytes(&self) -> usize {
        bytes(&self.weight) + bytes(&self.bias)
    }
}

/// The activation of each number.
pub(super) fn activate(activation: Activation, rows: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Gelu => rows.gelu_erf(),
        Activation::GeluTanh => rows.gelu(),
        Activation::Relu => rows.relu(),
        Activation::Tanh => rows.tanh(),
    }
}
