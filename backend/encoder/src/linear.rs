//! A linear layer, packed for multiplication.

use crate::kernels::gemm::{Activation, Epilogue, Product, Rows};
use crate::kernels::panels::Panels;
use crate::weights::{LinearWeights, ShapeError, expect_length};

#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Panels,
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub(crate) fn build(
        what: &'static str,
        weights: LinearWeights,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, ShapeError> {
        weights.weight.expect(what, outputs, inputs)?;
        if let Some(bias) = &weights.bias {
            expect_length(what, bias.len(), outputs)?;
        }
        Ok(Self {
            weight: Panels::from_linear(&weights.weight.data, inputs),
            bias: weights.bias,
        })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weight.columns()
    }

    /// Bytes that this holds.
    pub(crate) fn bytes(&self) -> usize {
        let bias = self.bias.as_ref().map_or(0, Vec::len);
        self.weight.bytes() + size_of::<f32>() * bias
    }

    /// `out` = activation(x W + b) + residual, for each row x of `input`.
    pub(crate) fn apply(
        &self,
        input: &[f32],
        out: &mut [f32],
        activation: Option<Activation>,
        residual: Option<&[f32]>,
    ) {
        let (inputs, outputs) = (self.weight.rows(), self.weight.columns());
        let rows = out.len() / outputs;
        let mut product = Product::new(rows, Rows::new(input, inputs), &self.weight);
        product.epilogue = Epilogue {
            bias: self.bias.as_deref(),
            activation,
            residual: residual.map(|rows| Rows::new(rows, outputs)),
            row_scale: None,
        };
        product.write(out, outputs);
    }
}
