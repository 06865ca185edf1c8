//! From the tensors of a checkpoint to the parts of an encoder.
//!
//! Whatever depends on the weights alone is worked out here, once: queries, keys and values become
//! one matrix, the scale of the scores goes into the queries, the vector of token type 0 into the
//! words, and DeBERTa's positions go through each layer's projections.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use gpu_bridge_encoder::{
    ConvolutionWeights, EmbeddingWeights, LayerWeights, LinearWeights, Matrix, NormWeights,
    Relation, Rotation, Shape, ShapeError,
};
use thiserror::Error;

use super::names::{self, Names, Qkv};
use crate::device::reason;
use crate::models::config::{Architecture, EncoderConfig};

/// Why tensors do not make an encoder.
#[derive(Debug, Error)]
pub(super) enum CheckpointError {
    #[error("{}", reason(.0))]
    Tensor(#[from] candle_core::Error),
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error("both '{landmark}' and '{prefix}.{landmark}' are among them")]
    TwoModels {
        landmark: String,
        prefix: &'static str,
    },
    #[error("neither '{landmark}' nor '{prefix}.{landmark}' is among them")]
    OtherModel {
        landmark: String,
        prefix: &'static str,
    },
}

/// Of the layers that project DeBERTa's positions, the one that has none.
const WITHOUT_BIAS: &str = "pos_proj";

type Result<T> = std::result::Result<T, CheckpointError>;

/// What can be put together from the parts of a checkpoint.
pub(super) trait Assemble: Sized {
    /// Where it will run.
    type Place;

    /// An encoder without layers yet.
    fn start(
        place: &Self::Place,
        shape: Shape,
        relation: Relation,
        embedding: EmbeddingWeights,
    ) -> Result<Self>;

    /// Puts a layer on top.
    fn push(&mut self, layer: LayerWeights) -> Result<()>;

    /// Normalises what the last layer gives.
    fn set_last_norm(&mut self, norm: NormWeights) -> Result<()>;

    /// The same without the layers from `depth` on, from the same weights in memory.
    fn lower(&self, depth: usize) -> Self;

    /// How many layers there are.
    fn depth(&self) -> usize;
}

/// The tensors of one model.
pub(super) struct Checkpoint<'a> {
    tensors: VarBuilder<'static>,
    config: &'a EncoderConfig,
    names: &'static Names,
    /// DeBERTa's positions, `[classes, hidden]`.
    positions: Option<Tensor>,
}

impl<'a> Checkpoint<'a> {
    pub(super) fn new(tensors: &VarBuilder<'static>, config: &'a EncoderConfig) -> Result<Self> {
        let names = names::of(config.architecture);
        let mut checkpoint = Self {
            tensors: root(tensors, names)?,
            config,
            names,
            positions: None,
        };
        checkpoint.positions = checkpoint.read_positions()?;
        Ok(checkpoint)
    }

    /// The encoder with the first `layers` of its layers, on those of `lower` if that is there.
    pub(super) fn assemble<E: Assemble>(
        &self,
        layers: usize,
        place: &E::Place,
        lower: Option<E>,
    ) -> Result<E> {
        let mut encoder = match lower {
            Some(lower) => lower,
            None => E::start(place, self.shape(), self.relation()?, self.embedding()?)?,
        };
        for index in encoder.depth()..layers {
            encoder.push(self.layer(index)?)?;
        }
        if let Some(norm) = self.last_norm()? {
            encoder.set_last_norm(norm)?;
        }
        Ok(encoder)
    }

    /// Layer `index`, counted from 0.
    fn layer(&self, index: usize) -> Result<LayerWeights> {
        let Self { config, names, .. } = self;
        let (hidden, intermediate, biases) = (config.hidden, config.intermediate, config.biases);
        let modern = config.architecture == Architecture::ModernBert;
        let wide = if modern {
            2 * intermediate
        } else {
            intermediate
        };
        let layer = self.tensors.pp(names.layers).pp(index);
        // ModernBERT's first layer gets what the embedding has normalised already.
        let attention_norm = (!modern || index > 0)
            .then(|| self.norm(&layer.pp(names.attention_norm)))
            .transpose()?;
        let rotary = config.rotary.as_ref();
        let local = rotary.filter(|rotary| rotary.global.get(index) == Some(&false));
        Ok(LayerWeights {
            qkv: self.qkv(&layer)?,
            output: linear(&layer.pp(names.output), hidden, hidden, biases.attention)?,
            attention_norm,
            up: linear(&layer.pp(names.up), hidden, wide, biases.feed)?,
            down: linear(&layer.pp(names.down), intermediate, hidden, biases.feed)?,
            feed_norm: self.norm(&layer.pp(names.feed_norm))?,
            positions: self.layer_positions(&layer)?,
            rotation: rotary.map(|rotary| Rotation {
                theta: local.map_or(rotary.global_theta, |rotary| rotary.local_theta),
            }),
            window: local.map(|rotary| rotary.window),
            convolution: self.convolution(index)?,
        })
    }

    /// The norm after the last layer, if the model has one.
    fn last_norm(&self) -> Result<Option<NormWeights>> {
        match self.config.architecture {
            Architecture::ModernBert => Ok(Some(self.norm(&self.tensors.pp("final_norm"))?)),
            _ => Ok(None),
        }
    }

    fn shape(&self) -> Shape {
        let modern = self.config.architecture == Architecture::ModernBert;
        Shape {
            hidden: self.config.hidden,
            heads: self.config.heads,
            intermediate: self.config.intermediate,
            activation: self.config.activation.into(),
            gated: modern,
            norm_first: modern,
        }
    }

    /// Scores are multiplied by this.
    fn scale(&self) -> f64 {
        let terms = self.config.score_terms;
        let head = self.config.hidden / self.config.heads;
        1.0 / ((head * terms) as f64).sqrt()
    }

    fn embedding(&self) -> Result<EmbeddingWeights> {
        let EncoderConfig {
            vocabulary,
            embedding_width: width,
            ..
        } = *self.config;
        let tensors = &self.tensors;
        let mut words =
            tensors.get((vocabulary, width), &format!("{}.weight", self.names.words))?;
        if self.config.token_types > 0 {
            let types = (self.config.token_types, width);
            let types = tensors.get(types, "embeddings.token_type_embeddings.weight")?;
            words = words.broadcast_add(&types.get(0)?)?;
        }
        let positions = self.config.positions.map(|positions| {
            let rows = (positions.rows, width);
            let rows = tensors.get(rows, "embeddings.position_embeddings.weight")?;
            Ok::<_, CheckpointError>((matrix(&rows)?, positions.ids))
        });
        let projection = (width != self.config.hidden).then(|| {
            let tensors = tensors.pp("embeddings.embed_proj");
            linear(&tensors, width, self.config.hidden, true)
        });
        Ok(EmbeddingWeights {
            words: matrix(&words)?,
            positions: positions.transpose()?,
            projection: projection.transpose()?,
            norm: self.norm(&tensors.pp(self.names.embedding_norm))?,
        })
    }

    fn relation(&self) -> Result<Relation> {
        if let Some(disentangled) = &self.config.disentangled {
            return Ok(Relation::Disentangled {
                classes: disentangled.classes,
            });
        }
        let Some(classes) = self.config.position_bias else {
            return Ok(Relation::None);
        };
        let size = (classes.classes(), self.config.heads);
        let table = self
            .tensors
            .get(size, "encoder.relative_attention_bias.weight")?;
        Ok(Relation::Bias {
            table: matrix(&table)?,
            classes,
        })
    }

    /// Weight `[3 × hidden, hidden]`, the queries' part scaled.
    fn qkv(&self, layer: &VarBuilder<'static>) -> Result<LinearWeights> {
        let hidden = self.config.hidden;
        let bias = self.config.biases.attention;
        let mut qkv = match &self.names.qkv {
            Qkv::Together(name) => linear(&layer.pp(name), hidden, 3 * hidden, bias)?,
            Qkv::Apart(names) => {
                let parts = names
                    .iter()
                    .map(|name| linear(&layer.pp(name), hidden, hidden, bias));
                stack(parts.collect::<Result<Vec<_>>>()?)
            }
            Qkv::ByHead {
                weight,
                query_bias,
                value_bias,
            } => {
                let bias =
                    |name: &str| Ok::<_, CheckpointError>(numbers(&layer.get(hidden, name)?)?);
                let no_bias = vec![0.0; hidden];
                LinearWeights {
                    weight: self.head_by_head(&layer.pp(weight))?,
                    bias: Some([bias(query_bias)?, no_bias, bias(value_bias)?].concat()),
                }
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "weights are `f32`")]
        let scale = self.scale() as f32;
        let queries = qkv.weight.data[..hidden * hidden].iter_mut();
        let biases = qkv.bias.iter_mut().flat_map(|bias| &mut bias[..hidden]);
        queries.chain(biases).for_each(|x| *x *= scale);
        Ok(qkv)
    }

    /// A weight stored as `[heads, 3, head, hidden]`.
    fn head_by_head(&self, layer: &VarBuilder<'static>) -> Result<Matrix> {
        let EncoderConfig { hidden, heads, .. } = *self.config;
        let weight = layer.get((3 * hidden, hidden), "weight")?;
        let by_head = weight.reshape((heads, 3, hidden / heads, hidden))?;
        Ok(matrix(
            &by_head.transpose(0, 1)?.reshape((3 * hidden, hidden))?,
        )?)
    }

    fn read_positions(&self) -> Result<Option<Tensor>> {
        let Some(disentangled) = &self.config.disentangled else {
            return Ok(None);
        };
        let encoder = self.tensors.pp("encoder");
        let size = (disentangled.classes.classes(), self.config.hidden);
        let positions = encoder.get(size, "rel_embeddings.weight")?;
        if !disentangled.norm {
            return Ok(Some(positions));
        }
        let norm = encoder.pp("LayerNorm");
        let epsilon = self.config.layer_norm_epsilon;
        let (weight, bias) = norm_tensors(&norm, self.config.hidden, true)?;
        Ok(Some(candle_nn::ops::layer_norm(
            &positions, &weight, &bias, epsilon,
        )?))
    }

    /// The positions as the layer's own keys and (scaled) queries.
    fn layer_positions(
        &self,
        layer: &VarBuilder<'static>,
    ) -> Result<Option<(Option<Matrix>, Option<Matrix>)>> {
        let (Some(disentangled), Some(positions)) = (&self.config.disentangled, &self.positions)
        else {
            return Ok(None);
        };
        let attention = layer.pp("attention.self");
        let project = |name: &str| -> candle_core::Result<Tensor> {
            let hidden = self.config.hidden;
            let layer = attention.pp(name);
            let projected = positions.matmul(&layer.get((hidden, hidden), "weight")?.t()?)?;
            if name == WITHOUT_BIAS {
                return Ok(projected);
            }
            projected.broadcast_add(&layer.get(hidden, "bias")?)
        };
        let (keys, queries) = disentangled.projections;
        let keys = disentangled
            .by_query
            .then(|| matrix(&project(keys)?))
            .transpose()?;
        let queries = disentangled
            .by_key
            .then(|| matrix(&project(queries)?.affine(self.scale(), 0.0)?))
            .transpose()?;
        Ok(Some((keys, queries)))
    }

    /// The convolution follows the first layer.
    fn convolution(&self, index: usize) -> Result<Option<ConvolutionWeights>> {
        let Some(config) = self.config.convolution.filter(|_| index == 0) else {
            return Ok(None);
        };
        let hidden = self.config.hidden;
        let tensors = self.tensors.pp("encoder.conv");
        let kernel = tensors.get((hidden, hidden, config.width), "conv.weight")?;
        // From [out, in, token] to [out, token, in].
        let kernel = kernel
            .transpose(1, 2)?
            .reshape((hidden, config.width * hidden))?;
        Ok(Some(ConvolutionWeights {
            kernel: LinearWeights {
                weight: matrix(&kernel)?,
                bias: Some(numbers(&tensors.get(hidden, "conv.bias")?)?),
            },
            width: config.width,
            activation: config.activation.into(),
            norm: self.norm(&tensors.pp("LayerNorm"))?,
        }))
    }

    fn norm(&self, tensors: &VarBuilder<'static>) -> Result<NormWeights> {
        let (weight, bias) = norm_tensors(tensors, self.config.hidden, self.config.biases.norms)?;
        Ok(NormWeights {
            weight: numbers(&weight)?,
            bias: Some(numbers(&bias)?),
            epsilon: self.config.layer_norm_epsilon,
        })
    }
}

/// The tensors of the encoder, which may be under its family's prefix.
fn root(tensors: &VarBuilder<'static>, names: &Names) -> Result<VarBuilder<'static>> {
    let landmark = format!("{}.weight", names.words);
    let prefix = names.prefix;
    let below = tensors.pp(prefix);
    match [tensors, &below].map(|tensors| tensors.contains_tensor(&landmark)) {
        [true, true] => Err(CheckpointError::TwoModels { landmark, prefix }),
        [true, false] => Ok(tensors.clone()),
        [false, true] => Ok(below),
        [false, false] => Err(CheckpointError::OtherModel { landmark, prefix }),
    }
}

/// Weight and bias of a norm; the latter are zeros if it has none.
fn norm_tensors(
    tensors: &VarBuilder<'static>,
    size: usize,
    biased: bool,
) -> candle_core::Result<(Tensor, Tensor)> {
    let weight = tensors.get(size, "weight")?;
    let bias = if biased {
        tensors.get(size, "bias")?
    } else {
        weight.zeros_like()?
    };
    Ok((weight, bias))
}

/// A linear layer, with a bias if it has one.
fn linear(
    tensors: &VarBuilder<'static>,
    inputs: usize,
    outputs: usize,
    biased: bool,
) -> Result<LinearWeights> {
    let bias = biased.then(|| tensors.get(outputs, "bias"));
    Ok(LinearWeights {
        weight: matrix(&tensors.get((outputs, inputs), "weight")?)?,
        bias: bias.transpose()?.map(|bias| numbers(&bias)).transpose()?,
    })
}

/// One layer from several with the same input, their outputs one after the other.
fn stack(parts: Vec<LinearWeights>) -> LinearWeights {
    let mut stacked = LinearWeights::default();
    for part in parts {
        stacked.weight.rows += part.weight.rows;
        stacked.weight.columns = part.weight.columns;
        stacked.weight.data.extend(part.weight.data);
        if let Some(bias) = part.bias {
            stacked.bias.get_or_insert_default().extend(bias);
        }
    }
    stacked
}

fn matrix(tensor: &Tensor) -> candle_core::Result<Matrix> {
    let (rows, columns) = tensor.dims2()?;
    Ok(Matrix {
        data: numbers(tensor)?,
        rows,
        columns,
    })
}

fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
