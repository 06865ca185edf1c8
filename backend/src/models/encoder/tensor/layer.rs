//! One layer: attention, then the feed-forward layer, each with its residual and norm. All of it
//! works on packed rows, but for what [`attention`](super::attention) does in between.

use candle_core::{D, Result, Tensor};
use gpu_bridge_encoder::{Activation, ConvolutionWeights, LayerWeights, Matrix, Rotation, Shape};

use super::attention::{Attention, LayerPositions};
use super::batch::Batch;
use super::parts::{Linear, Norm, Upload, activate, bytes};

#[derive(Debug)]
pub(super) struct Layer {
    shape: Shape,
    qkv: Linear,
    output: Linear,
    attention_norm: Option<Norm>,
    up: Linear,
    down: Linear,
    feed_norm: Norm,
    positions: Option<LayerPositions>,
    pub(super) rotation: Option<Rotation>,
    pub(super) window: Option<usize>,
    convolution: Option<Convolution>,
}

impl Layer {
    pub(super) fn new(weights: LayerWeights, shape: Shape, upload: &Upload) -> Result<Self> {
        let positions = weights.positions.map(|(keys, queries)| {
            let by_head = |table: Option<Matrix>| table.map(|table| by_head(table, shape, upload));
            Ok::<_, candle_core::Error>(LayerPositions {
                keys: by_head(keys).transpose()?,
                queries: by_head(queries).transpose()?,
            })
        });
        let attention_norm = weights.attention_norm.map(|norm| upload.norm(norm));
        let convolution = weights
            .convolution
            .map(|weights| Convolution::new(weights, upload));
        Ok(Self {
            shape,
            qkv: upload.linear(weights.qkv)?,
            output: upload.linear(weights.output)?,
            attention_norm: attention_norm.transpose()?,
            up: upload.linear(weights.up)?,
            down: upload.linear(weights.down)?,
            feed_norm: upload.norm(weights.feed_norm)?,
            positions: positions.transpose()?,
            rotation: weights.rotation,
            window: weights.window,
            convolution: convolution.transpose()?,
        })
    }

    /// Bytes that this holds.
    pub(super) fn bytes(&self) -> usize {
        let linear = [&self.qkv, &self.output, &self.up, &self.down];
        let linear: usize = linear.iter().map(|linear| linear.bytes()).sum();
        let norms = self.attention_norm.iter().chain([&self.feed_norm]);
        let norms: usize = norms.map(Norm::bytes).sum();
        let positions = self.positions.iter();
        let tables = positions.flat_map(|tables| tables.keys.iter().chain(&tables.queries));
        let positions: usize = tables.map(bytes).sum();
        let convolution = self.convolution.as_ref().map_or(0, Convolution::bytes);
        linear + norms + positions + convolution
    }

    /// From the layer's input to its output, `[tokens, hidden]`.
    pub(super) fn forward(&self, batch: &Batch, input: &Tensor) -> Result<Tensor> {
        let qkv = self.project(batch, input)?;
        let attention = Attention {
            shape: self.shape,
            positions: self.positions.as_ref(),
            window: self.window,
        };
        let context = batch.attend(&attention, &qkv)?;
        let output = self.finish(&context, input)?;
        match &self.convolution {
            None => Ok(output),
            Some(convolution) => convolution.add(batch, input, &output),
        }
    }

    /// Queries, keys and values: `[tokens, 3 × hidden]`.
    fn project(&self, batch: &Batch, input: &Tensor) -> Result<Tensor> {
        let qkv = match &self.attention_norm {
            Some(norm) if self.shape.norm_first => self.qkv.apply(&norm.apply(input)?)?,
            _ => self.qkv.apply(input)?,
        };
        match self.rotation {
            None => Ok(qkv),
            Some(rotation) => self.rotate(batch, rotation, &qkv),
        }
    }

    fn rotate(&self, batch: &Batch, rotation: Rotation, qkv: &Tensor) -> Result<Tensor> {
        let Shape { heads, hidden, .. } = self.shape;
        let tokens = qkv.dim(0)?;
        let turned = qkv.narrow(1, 0, 2 * hidden)?;
        let turned = turned.reshape((1, tokens, 2 * heads, self.shape.head()))?;
        let (cos, sin) = batch.angles(rotation)?;
        let turned = candle_nn::rotary_emb::rope_thd(&turned, cos, sin)?;
        let values = qkv.narrow(1, 2 * hidden, hidden)?;
        Tensor::cat(&[turned.reshape((tokens, 2 * hidden))?, values], 1)
    }

    fn finish(&self, context: &Tensor, input: &Tensor) -> Result<Tensor> {
        let sum = (self.output.apply(context)? + input)?;
        if self.shape.norm_first {
            return self.feed(&self.feed_norm.apply(&sum)?)? + sum;
        }
        let sum = match &self.attention_norm {
            Some(norm) => norm.apply(&sum)?,
            None => sum,
        };
        self.feed_norm.apply(&(self.feed(&sum)? + &sum)?)
    }

    fn feed(&self, rows: &Tensor) -> Result<Tensor> {
        let wide = self.up.apply(rows)?;
        let activation = self.shape.activation;
        if !self.shape.gated {
            return self.down.apply(&activate(activation, &wide)?);
        }
        let half = |nth| {
            wide.narrow(
                D::Minus1,
                nth * self.shape.intermediate,
                self.shape.intermediate,
            )
        };
        self.down
            .apply(&(activate(activation, &half(0)?)? * half(1)?)?)
    }
}

/// From `[classes, hidden]` to `[heads, classes, head]`.
fn by_head(table: Matrix, shape: Shape, upload: &Upload) -> Result<Tensor> {
    let size = (table.rows, shape.heads, shape.head());
    upload
        .matrix(table)?
        .reshape(size)?
        .transpose(0, 1)?
        .contiguous()
}

/// See [`ConvolutionWeights`].
#[derive(Debug)]
struct Convolution {
    kernel: Linear,
    width: usize,
    activation: Activation,
    norm: Norm,
}

impl Convolution {
    fn new(weights: ConvolutionWeights, upload: &Upload) -> Result<Self> {
        Ok(Self {
            kernel: upload.linear(weights.kernel)?,
            width: weights.width,
            activation: weights.activation,
            norm: upload.norm(weights.norm)?,
        })
    }

    fn bytes(&self) -> usize {
        self.kernel.bytes() + self.norm.bytes()
    }

    /// The norm of `output` plus the convolution of `input`.
    fn add(&self, batch: &Batch, input: &Tensor, output: &Tensor) -> Result<Tensor> {
        let seen = batch.neighbours(input, self.width)?;
        let convolved = activate(self.activation, &self.kernel.apply(&seen)?)?;
        self.norm.apply(&(convolved + output)?)
    }
}
