//! BERT, through candle-transformers: a batch is padded to its longest sequence and the padding is
//! masked.
//!
//! Hidden layer L of a BERT is the output of the same BERT with its layers above L left out, so a
//! cut model computes exactly that layer and saves the rest. The pooler is never loaded.

use std::path::Path;

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, HiddenAct, PositionEmbeddingType};

use super::config::{Activation, EncoderConfig};
use super::encoder::Encoder;
use super::error::LoadError;
use super::weights;

/// A checkpoint with a task's head on top has the encoder's tensors under this prefix.
const PREFIX: &str = "bert";
/// A tensor that every BERT has.
const LANDMARK: &str = "embeddings.word_embeddings.weight";

pub(crate) struct BertEncoder {
    model: BertModel,
    vocabulary: usize,
    padding: u32,
}

impl BertEncoder {
    /// Loads the first `layers` layers of the BERT in `folder`.
    pub(crate) fn load(
        folder: &Path,
        config: &EncoderConfig,
        layers: usize,
        device: &Device,
    ) -> std::result::Result<Self, LoadError> {
        let tensors = encoder_tensors(folder, &weights::open(folder, device)?)?;
        let model = BertModel::load(tensors, &candle_config(config, layers))
            .map_err(|error| weights::problem(folder, error.to_string()))?;
        Ok(Self {
            model,
            vocabulary: config.vocabulary,
            padding: config.padding,
        })
    }
}

impl Encoder for BertEncoder {
    fn forward(&self, batch: &[&[u32]]) -> Result<Vec<Tensor>> {
        check_ids(batch, self.vocabulary)?;
        let (ids, mask) = pad(batch, self.padding, &self.model.device)?;
        let types = ids.zeros_like()?;
        let hidden = self.model.forward(&ids, &types, Some(&mask))?; // [batch, longest, hidden]
        let rows = batch.iter().enumerate();
        rows.map(|(row, sequence)| hidden.get(row)?.narrow(0, 0, sequence.len()))
            .collect()
    }
}

/// A tokenizer may know more tokens than the weights. Such an id is an error here, since not every
/// device reports it.
fn check_ids(batch: &[&[u32]], vocabulary: usize) -> Result<()> {
    let known = |id: &u32| usize::try_from(*id).is_ok_and(|id| id < vocabulary);
    match batch.iter().copied().flatten().find(|id| !known(id)) {
        None => Ok(()),
        Some(id) => candle_core::bail!("token {id} is not among the model's {vocabulary} tokens"),
    }
}

/// Ids and mask (1 = a real token), both `[batch, longest]`.
fn pad(batch: &[&[u32]], padding: u32, device: &Device) -> Result<(Tensor, Tensor)> {
    let longest = batch
        .iter()
        .map(|sequence| sequence.len())
        .max()
        .unwrap_or(0);
    let mut ids = Vec::with_capacity(batch.len() * longest);
    let mut mask = Vec::with_capacity(batch.len() * longest);
    for (row, sequence) in batch.iter().enumerate() {
        let end = (row + 1) * longest;
        ids.extend_from_slice(sequence);
        mask.resize(ids.len(), 1_u32);
        ids.resize(end, padding);
        mask.resize(end, 0);
    }
    let shape = (batch.len(), longest);
    Ok((
        Tensor::from_vec(ids, shape, device)?,
        Tensor::from_vec(mask, shape, device)?,
    ))
}

fn encoder_tensors<'a>(
    folder: &Path,
    all: &VarBuilder<'a>,
) -> std::result::Result<VarBuilder<'a>, LoadError> {
    weights::prefixed(all, &[PREFIX], LANDMARK).ok_or_else(|| {
        let message = format!("neither '{LANDMARK}' nor '{PREFIX}.{LANDMARK}' is among them");
        weights::problem(folder, message)
    })
}

/// candle's form of the same facts. The dropout rates and the initialiser matter to training only.
fn candle_config(config: &EncoderConfig, layers: usize) -> Config {
    Config {
        vocab_size: config.vocabulary,
        hidden_size: config.hidden,
        num_hidden_layers: layers,
        num_attention_heads: config.heads,
        intermediate_size: config.intermediate,
        hidden_act: match config.activation {
            Activation::Gelu => HiddenAct::Gelu,
            Activation::GeluNew => HiddenAct::GeluApproximate,
            Activation::Relu => HiddenAct::Relu,
        },
        hidden_dropout_prob: 0.0,
        max_position_embeddings: config.positions,
        type_vocab_size: config.token_types,
        initializer_range: 0.0,
        layer_norm_eps: config.layer_norm_epsilon,
        pad_token_id: 0,
        position_embedding_type: PositionEmbeddingType::Absolute,
        use_cache: false,
        classifier_dropout: None,
        model_type: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde::Deserialize;

    use super::*;
    use crate::models::test_support::{folder_with, golden, golden_json};

    #[derive(Deserialize)]
    struct Reference {
        input_ids: Vec<u32>,
        /// By layer: `[tokens, hidden]`, flat.
        hidden_states: Vec<Vec<f32>>,
    }

    fn references() -> Vec<Reference> {
        let mut file = golden_json("tiny/bert/hidden_states.json");
        serde_json::from_value(file["items"].take()).expect("golden format")
    }

    fn tiny(folder: &Path, layers: usize) -> BertEncoder {
        let config = EncoderConfig::read(&golden("tiny/bert")).expect("config");
        BertEncoder::load(folder, &config, layers, &Device::Cpu).expect("loads")
    }

    fn numbers(hidden: &Tensor) -> Vec<f32> {
        hidden
            .flatten_all()
            .and_then(|flat| flat.to_vec1())
            .expect("numbers")
    }

    fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max)
    }

    #[test]
    fn every_layer_agrees_with_the_reference() {
        let references = references();
        let batch: Vec<&[u32]> = references.iter().map(|r| r.input_ids.as_slice()).collect();
        let mut worst = 0.0_f32;
        for layer in 0..references[0].hidden_states.len() {
            let hidden = tiny(&golden("tiny/bert"), layer)
                .forward(&batch)
                .expect("forward");
            for (hidden, reference) in hidden.iter().zip(&references) {
                let expected = &reference.hidden_states[layer];
                worst = worst.max(largest_difference(&numbers(hidden), expected));
            }
        }
        println!("tiny BERT, all layers, one padded batch: largest difference {worst:e}");
        assert!(worst < 1e-4, "largest difference {worst:e}");
    }

    #[test]
    fn a_sequence_does_not_see_its_neighbours() {
        let encoder = tiny(&golden("tiny/bert"), 5);
        let references = references();
        let batch: Vec<&[u32]> = references.iter().map(|r| r.input_ids.as_slice()).collect();
        let together = encoder.forward(&batch).expect("forward");
        for (ids, row) in batch.iter().zip(&together) {
            let alone = encoder.forward(&[ids]).expect("forward");
            assert!(largest_difference(&numbers(&alone[0]), &numbers(row)) < 1e-5);
        }
    }

    #[test]
    fn a_checkpoint_with_a_prefix_is_the_same_model() {
        let plain = golden("tiny/bert/model.safetensors");
        let tensors = candle_core::safetensors::load(plain, &Device::Cpu).expect("golden weights");
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (format!("bert.{name}"), tensor));
        let folder = folder_with(&[]);
        let file = folder.path().join("model.safetensors");
        let tensors: HashMap<String, Tensor> = tensors.collect();
        candle_core::safetensors::save(&tensors, file).expect("save");

        let ids: &[&[u32]] = &[&[2, 48, 99, 3]];
        let prefixed = tiny(folder.path(), 5).forward(ids).expect("forward");
        let original = tiny(&golden("tiny/bert"), 5).forward(ids).expect("forward");
        assert_eq!(numbers(&prefixed[0]), numbers(&original[0]));
    }

    #[test]
    fn weights_that_do_not_fit_are_errors() {
        let mut config = EncoderConfig::read(&golden("tiny/bert")).expect("config");
        config.layers = 6;
        let error_of = |config: &EncoderConfig| {
            let loaded = BertEncoder::load(&golden("tiny/bert"), config, 6, &Device::Cpu);
            loaded.err().expect("does not fit").to_string()
        };
        let no_sixth_layer = error_of(&config);
        assert!(no_sixth_layer.contains("layer.5"), "{no_sixth_layer}");
        config.hidden = 96;
        let other_shape = error_of(&config);
        assert!(other_shape.contains("shape"), "{other_shape}");
    }

    #[test]
    fn weights_of_something_else_are_an_error() {
        let tensor = Tensor::zeros((1, 1), candle_core::DType::F32, &Device::Cpu).expect("tensor");
        let folder = folder_with(&[]);
        let file = folder.path().join("model.safetensors");
        candle_core::safetensors::save(&HashMap::from([("x", tensor)]), file).expect("save");
        let config = EncoderConfig::read(&golden("tiny/bert")).expect("config");
        let loaded = BertEncoder::load(folder.path(), &config, 5, &Device::Cpu);
        assert!(
            loaded
                .err()
                .expect("not a BERT")
                .to_string()
                .contains("neither 'embeddings.")
        );
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_an_error() {
        let encoder = tiny(&golden("tiny/bert"), 1);
        assert!(encoder.forward(&[&[899]]).is_ok());
        for id in [900, u32::MAX] {
            let error = encoder
                .forward(&[&[2], &[2, id, 3]])
                .expect_err("unknown token");
            assert!(
                error.to_string().contains(&format!("token {id} is not")),
                "{error}"
            );
        }
    }
}
