//! A linear layer, packed for multiplication.

use crate::kernels::bf16::{self, Pair};
use crate::kernels::gemm::{Epilogue, Product, Rows};
use crate::kernels::panels::Panels;
use crate::scratch::sized;
use crate::weights::{LinearWeights, ShapeError, expect_length};

/// What linear layers multiply: their weights, and their inputs. Sums, and everything else in an
/// encoder, are `f32` in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Factors {
    /// 32 bits.
    #[default]
    F32,
    /// Rounded to 16 bits, 8 of them significant: twice as fast where
    /// [`are_native`](Self::are_native), slower elsewhere.
    Bf16,
}

impl Factors {
    /// Whether this processor has instructions for them.
    pub fn are_native(self) -> bool {
        match self {
            Self::F32 => true,
            Self::Bf16 => bf16::Native::find().is_some(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

#[derive(Clone, Debug)]
enum Weight {
    F32(Panels),
    Bf16(Panels<Pair>),
}

impl Linear {
    pub(crate) fn build(
        what: &'static str,
        weights: LinearWeights,
        (inputs, outputs): (usize, usize),
        factors: Factors,
    ) -> Result<Self, ShapeError> {
        weights.weight.expect(what, outputs, inputs)?;
        if let Some(bias) = &weights.bias {
            expect_length(what, bias.len(), outputs)?;
        }
        let weight = &weights.weight.data;
        Ok(Self {
            weight: match factors {
                Factors::F32 => Weight::F32(Panels::from_linear(weight, inputs)),
                Factors::Bf16 => Weight::Bf16(Panels::from_linear(weight, inputs)),
            },
            bias: weights.bias,
            inputs,
            outputs,
        })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes that this holds.
    pub(crate) fn bytes(&self) -> usize {
        let bias = self.bias.as_ref().map_or(0, Vec::len);
        let weight = match &self.weight {
            Weight::F32(panels) => panels.bytes(),
            Weight::Bf16(panels) => panels.bytes(),
        };
        weight + size_of::<f32>() * bias
    }

    /// `out` = epilogue(x W + b) for each row x of `input`, which may be rounded into `rounded`.
    pub(crate) fn apply<'a>(
        &'a self,
        rounded: &mut Vec<Pair>,
        input: &[f32],
        out: &mut [f32],
        mut epilogue: Epilogue<'a>,
    ) {
        epilogue.bias = self.bias.as_deref();
        let rows = out.len() / self.outputs;
        match &self.weight {
            Weight::F32(weight) => {
                let mut product = Product::new(rows, Rows::new(input, self.inputs), weight);
                product.epilogue = epilogue;
                product.write(out, self.outputs);
            }
            Weight::Bf16(weight) => {
                let rounded = sized(rounded, rows * weight.rows());
                bf16::round_rows(input, self.inputs, rounded);
                let mut product = Product::new(rows, Rows::new(rounded, weight.rows()), weight);
                product.epilogue = epilogue;
                product.write(out, self.outputs);
            }
        }
    }
}
