//! Every family against hidden states of the reference implementation (`tests/golden/tiny`).

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use gpu_bridge_encoder::{Encoder, Threads};
use serde::Deserialize;

use super::checkpoint::Assemble;
use super::tensor::{TensorEncoder, TensorPlace};
use super::{Encode, EncodeError, Processor, assemble};
use crate::device::Precision;
use crate::models::config::EncoderConfig;
use crate::models::error::LoadError;
use crate::models::test_support::{folder_with, golden, golden_json};

/// Largest difference of a hidden state.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Reference {
    input_ids: Vec<u32>,
    /// By layer: `[tokens, hidden]`, flat.
    hidden_states: Vec<Vec<f32>>,
}

fn references(model: &str) -> Vec<Reference> {
    let mut file = golden_json(&format!("tiny/{model}/hidden_states.json"));
    serde_json::from_value(file["items"].take()).expect("golden format")
}

/// An implementation under test.
trait Tested: Assemble + Encode {
    fn place() -> Self::Place;
    fn drop_last_norm(&mut self);
}

impl Tested for Encoder {
    fn place() -> Processor {
        Processor {
            threads: Threads::new(NonZeroUsize::new(3).expect("not 0")).expect("threads"),
            precision: Precision::F32,
        }
    }

    fn drop_last_norm(&mut self) {
        Encoder::drop_last_norm(self);
    }
}

/// On the processor, in 32 bits: the tensors' operations are the same on every device.
impl Tested for TensorEncoder {
    fn place() -> TensorPlace {
        TensorPlace {
            device: Device::Cpu,
            precision: Precision::F32,
        }
    }

    fn drop_last_norm(&mut self) {
        TensorEncoder::drop_last_norm(self);
    }
}

fn load_as<E: Tested>(folder: &Path, layers: usize) -> Result<E, LoadError> {
    let config = EncoderConfig::read(folder)?;
    assemble(folder, &config, layers, &E::place(), None)
}

fn load_layers(folder: &Path, layers: usize) -> Result<Encoder, LoadError> {
    load_as(folder, layers)
}

fn tiny_as<E: Tested>(model: &str, layers: usize) -> E {
    load_as(&golden(&format!("tiny/{model}")), layers).expect(model)
}

fn tiny(model: &str, layers: usize) -> Encoder {
    tiny_as(model, layers)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst, difference| {
        if difference.is_nan() {
            f32::INFINITY
        } else {
            difference.max(worst)
        }
    })
}

/// Each layer of `model`, for all texts in one batch.
fn expect_every_layer<E: Tested>(model: &str) {
    let references = references(model);
    let batch: Vec<&[u32]> = references.iter().map(|r| r.input_ids.as_slice()).collect();
    let layers = references[0].hidden_states.len() - 1;
    let mut worst = 0.0_f32;
    for layer in 0..=layers {
        let mut encoder: E = tiny_as(model, layer);
        encoder.drop_last_norm();
        let hidden = encoder.forward(&batch).expect("forward");
        for (rows, reference) in hidden.sequences().zip(&references) {
            let difference = largest_difference(rows, &reference.hidden_states[layer]);
            assert!(
                difference < TOLERANCE,
                "{model}, layer {layer}: {difference:e}"
            );
            worst = worst.max(difference);
        }
    }
    println!("{model}: {layers} layers, largest difference {worst:e}");
}

macro_rules! every_layer_agrees_with_the_reference {
    ($($model:ident)*) => {
        mod every_layer_agrees_with_the_reference {
            use super::*;

            $(#[test] fn $model() { expect_every_layer::<Encoder>(stringify!($model)); })*

            mod on_tensors {
                use super::*;

                $(#[test] fn $model() { expect_every_layer::<TensorEncoder>(stringify!($model)); })*
            }
        }
    };
}

every_layer_agrees_with_the_reference! {
    bert roberta xlm_roberta deberta_v1 deberta_v1_span24
    distilbert mpnet deberta_v2 deberta_v2_conv modernbert
}

/// What bf16 costs where weights are random, which is worse than where they were trained: the angle
/// between a token's states in both precisions, for all architectures.
#[test]
fn bf16_changes_directions_little_in_every_architecture() {
    let all = "bert roberta xlm_roberta deberta_v1 deberta_v1_span24 distilbert mpnet deberta_v2 \
               deberta_v2_conv modernbert";
    for model in all.split_whitespace() {
        let folder = golden(&format!("tiny/{model}"));
        let config = EncoderConfig::read(&folder).expect(model);
        let place = Processor {
            precision: Precision::Bf16,
            ..Encoder::place()
        };
        let encoder: Encoder =
            assemble(&folder, &config, config.layers, &place, None).expect(model);
        assert!(Encode::bytes(&encoder) < Encode::bytes(&tiny(model, config.layers)));
        let references = references(model);
        let batch: Vec<&[u32]> = references.iter().map(|r| r.input_ids.as_slice()).collect();
        let exact = tiny(model, config.layers).forward(&batch).expect(model);
        let rounded = encoder.forward(&batch).expect(model);
        let width = Encode::width(&encoder);
        let mut least = 1.0_f32;
        for (a, b) in exact.sequences().zip(rounded.sequences()) {
            let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
            least = rows.map(|(a, b)| cosine(a, b)).fold(least, f32::min);
        }
        println!("{model}: least cosine {least}");
        assert!((0.999..0.999_999).contains(&least), "{model}: {least}");
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn a_pass_that_nobody_wants_is_stopped() {
    fn expect_stop<E: Tested>() {
        let encoder: E = tiny_as("bert", 5);
        let asked = AtomicUsize::new(0);
        // The third time, so in the middle.
        let stop = || asked.fetch_add(1, Ordering::SeqCst) >= 2;
        let outcome = encoder.forward_until(&[&[2, 48, 99, 3]], &stop);
        assert!(matches!(outcome, Err(EncodeError::Stopped)), "{outcome:?}");
        assert!(asked.into_inner() <= 10, "ends soon");
    }
    expect_stop::<Encoder>();
    expect_stop::<TensorEncoder>();
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    for model in ["bert", "deberta_v1"] {
        expect_no_influence::<Encoder>(model);
        expect_no_influence::<TensorEncoder>(model);
    }
}

fn expect_no_influence<E: Tested>(model: &str) {
    let encoder: E = tiny_as(model, 5);
    let references = references(model);
    let batch: Vec<&[u32]> = references.iter().map(|r| r.input_ids.as_slice()).collect();
    let together = encoder.forward(&batch).expect("forward");
    for (ids, rows) in batch.iter().zip(together.sequences()) {
        let alone = encoder.forward(&[ids]).expect("forward");
        assert!(
            largest_difference(alone.sequence(0), rows) < 1e-5,
            "{model}"
        );
    }
}

fn bert_tensors() -> HashMap<String, Tensor> {
    let plain = golden("tiny/bert/model.safetensors");
    candle_core::safetensors::load(plain, &Device::Cpu).expect("golden weights")
}

/// The tiny BERT with its tensors changed on the way.
fn changed_bert(change: impl Fn(String, Tensor) -> (String, Tensor)) -> Encoder {
    let tensors = bert_tensors().into_iter();
    let changed = tensors.map(|(name, tensor)| change(name, tensor));
    bert_of(&changed.collect()).expect("loads")
}

fn bert_of(tensors: &HashMap<String, Tensor>) -> Result<Encoder, LoadError> {
    let config = std::fs::read_to_string(golden("tiny/bert/config.json")).expect("golden");
    let folder = folder_with(&[("config.json", &config)]);
    let file = folder.path().join("model.safetensors");
    candle_core::safetensors::save(tensors, file).expect("save");
    load_layers(folder.path(), 5)
}

#[test]
fn two_models_in_one_file_and_numbers_of_another_kind_are_refused() {
    const WORDS: &str = "embeddings.word_embeddings.weight";
    let mut twice = bert_tensors();
    twice.insert(format!("bert.{WORDS}"), twice[WORDS].clone());
    let mut whole = bert_tensors();
    let rounded = whole[WORDS].to_dtype(DType::I64).expect("whole numbers");
    whole.insert(WORDS.to_owned(), rounded);
    for (tensors, told) in [
        (twice, format!("both '{WORDS}' and 'bert.{WORDS}'")),
        (whole, format!("the tensor '{WORDS}' holds I64;")),
    ] {
        let error = bert_of(&tensors).expect_err("refused").to_string();
        assert!(error.contains(&told), "{error}");
    }
}

#[test]
fn other_spellings_of_the_same_weights_are_the_same_model() {
    let ids: &[&[u32]] = &[&[2, 48, 99, 3]];
    let original = tiny("bert", 5).forward(ids).expect("forward");
    let prefixed = changed_bert(|name, tensor| (format!("bert.{name}"), tensor));
    let old_names = changed_bert(|name, tensor| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
        (name.replace("LayerNorm.bias", "LayerNorm.beta"), tensor)
    });
    let doubles = changed_bert(|name, tensor| (name, tensor.to_dtype(DType::F64).expect("f64")));
    for encoder in [prefixed, old_names, doubles] {
        assert_eq!(encoder.forward(ids).expect("forward"), original);
    }
}

fn error_with_config(change: impl Fn(&mut serde_json::Value), layers: usize) -> String {
    let mut config = golden_json("tiny/bert/config.json");
    change(&mut config);
    let folder = folder_with(&[("config.json", &config.to_string())]);
    let weights = folder.path().join("model.safetensors");
    std::fs::copy(golden("tiny/bert/model.safetensors"), weights).expect("copy");
    load_layers(folder.path(), layers)
        .expect_err("does not fit")
        .to_string()
}

#[test]
fn weights_that_do_not_fit_are_errors() {
    let no_sixth_layer = error_with_config(|config| config["num_hidden_layers"] = 6.into(), 6);
    assert!(no_sixth_layer.contains("layer.5"), "{no_sixth_layer}");
    let other_shape = error_with_config(|config| config["hidden_size"] = 96.into(), 5);
    assert!(other_shape.contains("shape"), "{other_shape}");
    // transformers would make them up, as zeros.
    for bias in ["attention.self.key.bias", "output.LayerNorm.bias"] {
        let bias = format!("encoder.layer.1.{bias}");
        let mut tensors = bert_tensors();
        tensors.remove(&bias).expect("there");
        let error = bert_of(&tensors).expect_err("incomplete").to_string();
        assert!(error.contains(&bias), "{error}");
    }
}

#[test]
fn weights_of_something_else_are_an_error() {
    let error = error_with_config(|config| config["model_type"] = "modernbert".into(), 1);
    let expected = "neither 'embeddings.tok_embeddings.weight' nor 'model.embeddings.";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn an_id_outside_the_vocabulary_is_an_error() {
    let error = tiny("bert", 1)
        .forward(&[&[2, 900]])
        .expect_err("no such token");
    assert!(error.to_string().contains("token 900"), "{error}");
}
