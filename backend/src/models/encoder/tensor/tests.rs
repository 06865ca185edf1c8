//! The two implementations against each other, for every architecture, with random weights. Batches
//! are larger and more mixed here than those of the golden files, so that there are several groups,
//! padding, windows, and distances beyond the last class.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;

use candle_core::Shape as TensorShape;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use gpu_bridge_encoder::{Encoder, Threads};
use serde_json::{Value, json};

use super::*;
use crate::models::config::EncoderConfig;
use crate::models::encoder::Processor;
use crate::models::encoder::checkpoint::Checkpoint;
use crate::models::test_support::folder_with;

const LAYERS: usize = 4;
const VOCABULARY: u64 = 97;
/// Lengths of a batch's sequences.
const LENGTHS: [usize; 8] = [5, 0, 150, 1, 17, 140, 64, 17];

/// A number from -1 to 1 that depends on what is given.
fn noise(what: impl Hash) -> f32 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    (hasher.finish() >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// A checkpoint that has every tensor it is asked for.
struct Random;

impl SimpleBackend for Random {
    /// The norms' weights around 1, everything else around 0.
    fn get(
        &self,
        shape: TensorShape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let norm = name.to_lowercase().contains("norm") && name.ends_with("weight");
        let (middle, reach) = if norm { (1.0, 0.2) } else { (0.0, 0.3) };
        let numbers = (0..shape.elem_count()).map(|nth| middle + reach * noise((name, nth)));
        Tensor::from_vec(numbers.collect(), shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("'{name}' is asked for without a shape")
    }

    /// Everything, but not under a prefix.
    fn contains_tensor(&self, name: &str) -> bool {
        let first = name.split('.').next();
        !["bert", "deberta", "distilbert", "model", "mpnet", "roberta"]
            .iter()
            .any(|prefix| first == Some(prefix))
    }
}

/// A small `config.json` of an architecture: what all have, and what it has besides.
fn config(model_type: &str, besides: &Value) -> EncoderConfig {
    let mut config = json!({
        "model_type": model_type, "vocab_size": VOCABULARY, "max_position_embeddings": 512,
        "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "intermediate_size": 48, "hidden_act": "gelu", "layer_norm_eps": 1e-7,
    });
    for (key, value) in besides.as_object().expect("an object") {
        config[key] = value.clone();
    }
    let folder = folder_with(&[("config.json", &config.to_string())]);
    EncoderConfig::read(folder.path()).expect(model_type)
}

fn random<E: Assemble>(config: &EncoderConfig, place: &E::Place) -> E {
    let tensors = VarBuilder::from_backend(Box::new(Random), DType::F32, Device::Cpu);
    let checkpoint = Checkpoint::new(&tensors, config).expect("has all tensors");
    checkpoint.assemble(LAYERS, place, None).expect("fits")
}

fn batch() -> Vec<Vec<u32>> {
    let token = |sequence, place| {
        let id = noise((sequence, place)).abs() * (VOCABULARY - 1) as f32;
        id.floor().to_string().parse().expect("a small number")
    };
    let lengths = LENGTHS.iter().enumerate();
    lengths
        .map(|(sequence, length)| (0..*length).map(|place| token(sequence, place)).collect())
        .collect()
}

/// Our own encoder, in 32 bits.
fn processor(config: &EncoderConfig) -> Encoder {
    let place = Processor {
        threads: Threads::new(NonZeroUsize::MIN).expect("threads"),
        precision: Precision::F32,
    };
    random(config, &place)
}

/// The largest difference between the processor's encoder and the tensors' one in `precision`.
fn difference(config: &EncoderConfig, precision: Precision) -> f32 {
    let device = Device::Cpu;
    let ids = batch();
    let batch: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let one = processor(config).forward(&batch);
    let other = random::<TensorEncoder>(config, &TensorPlace { device, precision });
    let (one, other) = (one.expect("forward"), Encode::forward(&other, &batch));
    let other = other.expect("forward");
    assert_eq!(one.sequences().len(), other.sequences().len());
    let mut largest = 0.0;
    for (one, other) in one.sequences().zip(other.sequences()) {
        assert_eq!(one.len(), other.len());
        for (x, y) in one.iter().zip(other) {
            assert!(x.is_finite() && y.is_finite());
            largest = (x - y).abs().max(largest);
        }
    }
    largest
}

/// Every architecture, under the name of its test.
fn all() -> Vec<(&'static str, EncoderConfig)> {
    let both = json!({"relative_attention": true, "pos_att_type": ["c2p", "p2c"]});
    let with = |more: Value| {
        let mut all = both.clone();
        all.as_object_mut()
            .expect("an object")
            .extend(more.as_object().cloned().expect("an object"));
        all
    };
    let v2 = json!({
        "position_buckets": 32, "share_att_key": true, "norm_rel_ebd": "layer_norm",
        "position_biased_input": false, "embedding_size": 24,
    });
    let conv = json!({"max_relative_positions": 40, "conv_kernel_size": 3, "conv_act": "gelu"});
    vec![
        ("bert", config("bert", &json!({"type_vocab_size": 2}))),
        (
            "roberta",
            config(
                "roberta",
                &json!({"pad_token_id": 1, "hidden_act": "gelu_new"}),
            ),
        ),
        (
            "xlm-roberta",
            config("xlm-roberta", &json!({"pad_token_id": 1})),
        ),
        (
            "distilbert",
            config(
                "distilbert",
                &json!({
                    "dim": 32, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48, "activation": "relu",
                }),
            ),
        ),
        ("mpnet", config("mpnet", &json!({"pad_token_id": 1}))),
        ("deberta v1", config("deberta", &both)),
        (
            "deberta v1, by the key alone",
            config(
                "deberta",
                &json!({
                    "relative_attention": true, "pos_att_type": "p2c", "max_relative_positions": 24,
                }),
            ),
        ),
        ("deberta v2", config("deberta-v2", &with(v2))),
        ("deberta v2, convolution", config("deberta-v2", &with(conv))),
        (
            "modernbert",
            config(
                "modernbert",
                &json!({
                    "local_attention": 16, "global_attn_every_n_layers": 3, "local_rope_theta": 10_000.0,
                }),
            ),
        ),
    ]
}

#[test]
fn both_implementations_agree() {
    for (name, config) in all() {
        let found = difference(&config, Precision::F32);
        println!("{name}: {found:e}");
        assert!(found < 1e-4, "{name}: {found:e}");
    }
}

#[test]
fn sixteen_bits_stay_near() {
    for (name, config) in all() {
        let [f16, bf16] = [Precision::F16, Precision::Bf16].map(|each| difference(&config, each));
        println!("{name}: f16 {f16:e}, bf16 {bf16:e}");
        // Numbers are about 1: three digits of `f16`, two of `bf16`.
        assert!(f16 < 0.05 && bf16 < 0.4, "{name}: {f16:e}, {bf16:e}");
    }
}

#[test]
fn left_to_itself_it_keeps_to_32_bits_where_16_do_not_reach() {
    let place = TensorPlace {
        device: Device::Cpu,
        precision: Precision::Auto,
    };
    for (name, config) in all() {
        let encoder: TensorEncoder = random(&config, &place);
        let expected = match name.split([' ', ',']).next() {
            Some("deberta" | "modernbert") => DType::F32,
            _ => DType::F16,
        };
        assert_eq!(encoder.upload.dtype, expected, "{name}");
    }
}

#[test]
fn bytes_are_those_of_the_precision() {
    let config = config("bert", &json!({}));
    let bytes = |precision| {
        let device = Device::Cpu;
        Encode::bytes(&random::<TensorEncoder>(
            &config,
            &TensorPlace { device, precision },
        ))
    };
    assert_eq!(bytes(Precision::F32), 2 * bytes(Precision::F16));
    // The processor's weights are padded to full panels.
    let processor = Encode::bytes(&processor(&config));
    assert!(bytes(Precision::F32) <= processor);
}

#[test]
fn what_the_model_does_not_take_is_refused() {
    let place = TensorPlace {
        device: Device::Cpu,
        precision: Precision::F32,
    };
    let encoder: TensorEncoder = random(&config("bert", &json!({})), &place);
    let ids = vec![1; 513];
    for wrong in [&ids[..], &[97]] {
        let refused = Encode::forward(&encoder, &[&[1, 2], wrong]);
        assert!(
            matches!(refused, Err(EncodeError::Sequence(_))),
            "{refused:?}"
        );
    }
    let nothing = Encode::forward(&encoder, &[&[], &[]]).expect("nothing to do");
    assert_eq!(nothing.sequences().len(), 2);
}

#[test]
fn a_sequence_whose_scores_no_memory_holds_is_refused_at_once() {
    let place = TensorPlace {
        device: Device::Cpu,
        precision: Precision::F32,
    };
    let longest = json!({"max_position_embeddings": 40_000});
    for model in ["modernbert", "mpnet", "deberta"] {
        let encoder: TensorEncoder = random(&config(model, &longest), &place);
        let ids = vec![2; 30_000];
        let refused = Encode::forward(&encoder, &[&[1, 2], &ids]);
        assert!(
            matches!(refused, Err(EncodeError::OutOfMemory)),
            "{model}: {refused:?}"
        );
    }
}
