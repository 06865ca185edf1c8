//! How much memory a model will take, told from its files without loading it: the headers of
//! weights files list every tensor with its shape. An estimate, for the bookkeeping of memory: what
//! a model turns out to take replaces it.

use std::ops::Range;
use std::path::Path;

use super::error::LoadError;
use super::pipeline::Pipeline;
use super::{tokenizer, weights};

/// Bytes of memory for each byte of a tokenizer's file.
const FOR_EACH_BYTE: u64 = 12;
/// Name parts before the number of a layer.
const BEFORE_LAYER: [&str; 3] = ["layer", "layers", "h"];
/// First parts of the names of what sits on top of an encoder in training, and is not loaded.
const HEADS: [&str; 13] = [
    "cls",
    "classifier",
    "decoder",
    "head",
    "lm_head",
    "lm_predictions",
    "mask_predictions",
    "pooler",
    "pre_classifier",
    "qa_outputs",
    "vocab_layer_norm",
    "vocab_projector",
    "vocab_transform",
];
/// Last parts of the names of what is worked out from the configuration, and was saved all the same.
const WORKED_OUT: [&str; 3] = ["inv_freq", "position_ids", "token_type_ids"];

/// How many numbers the encoder in `folder` holds once loaded; `layers` of its layers, or all.
/// What they take in memory depends on the precision that they are kept in, not on the file's.
pub(crate) fn encoder_numbers(folder: &Path, layers: Option<usize>) -> Result<u64, LoadError> {
    let tensors = weights::counts(folder)?.into_iter();
    let kept = tensors.filter(|(name, _)| is_kept(name, layers));
    Ok(kept.fold(0, |sum: u64, (_, count)| sum.saturating_add(count)))
}

/// Bytes of all but the encoder of a model for embeddings.
pub(crate) fn beside(pipeline: &Pipeline) -> u64 {
    let steps = pipeline.numbers() * size_of::<f32>() as u64;
    steps.saturating_add(tokenizer(&pipeline.encoder))
}

/// Bytes of the tokenizer in `folder`: by far the most is its vocabulary, in several tables.
pub(crate) fn tokenizer(folder: &Path) -> u64 {
    tokenizer::file_bytes(folder).saturating_mul(FOR_EACH_BYTE)
}

/// Whether a tensor is part of the encoder's first `layers` layers, or of none in particular.
fn is_kept(name: &str, layers: Option<usize>) -> bool {
    let too_high = layer(name)
        .zip(layers)
        .is_some_and(|(layer, layers)| layer >= layers);
    !is_of_a_head(name) && !too_high
}

/// Whether it is known why an encoder with only the layers below `cut` has no use for a tensor: it is
/// of a head, of one of the layers `cut` that were left out, or can be worked out.
pub(crate) fn is_left_out(name: &str, cut: Range<usize>) -> bool {
    let last = name.rsplit('.').next();
    is_of_a_head(name)
        || layer(name).is_some_and(|layer| cut.contains(&layer))
        || last.is_some_and(|last| WORKED_OUT.contains(&last))
}

fn is_of_a_head(name: &str) -> bool {
    let mut parts = name.split('.');
    let of_a_head = parts.next().is_some_and(|first| HEADS.contains(&first));
    of_a_head || parts.any(|part| part == "pooler")
}

/// The layer that a tensor belongs to.
fn layer(name: &str) -> Option<usize> {
    let mut parts = name.split('.');
    parts.find(|part| BEFORE_LAYER.contains(part))?;
    parts.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::models::test_support::{folder_with, golden};

    #[test]
    fn a_lower_part_takes_less() {
        let folder = golden("tiny/bert");
        let all = 4 * encoder_numbers(&folder, None).expect("readable");
        let file = fs::metadata(folder.join("model.safetensors"))
            .expect("there")
            .len();
        // The file has 32-bit floats already; it has a header and a pooler besides.
        assert!(all < file && all > file * 9 / 10, "{all} of {file}");
        let layer = |n| 4 * encoder_numbers(&folder, Some(n)).expect("readable");
        assert_eq!(layer(5), all);
        assert_eq!(layer(3) - layer(2), layer(1) - layer(0));
        assert!(layer(0) > 0 && layer(1) > layer(0));
    }

    #[test]
    fn names_tell_what_is_loaded() {
        for (name, kept) in [
            ("bert.embeddings.word_embeddings.weight", true),
            ("roberta.encoder.layer.16.output.dense.weight", true),
            ("roberta.encoder.layer.17.output.dense.weight", false),
            ("layers.17.attn.Wqkv.weight", false),
            ("deberta.encoder.rel_embeddings.weight", true),
            ("cls.predictions.decoder.weight", false),
            ("bert.pooler.dense.weight", false),
            ("classifier.weight", false),
        ] {
            assert_eq!(is_kept(name, Some(17)), kept, "{name}");
        }
    }

    #[test]
    fn what_an_encoder_has_no_use_for_is_told_from_what_it_should_have_used() {
        for (name, left_out) in [
            ("bert.pooler.dense.weight", true),
            ("decoder.bias", true),
            ("embeddings.position_ids", true),
            ("encoder.layer.3.output.dense.weight", true),
            ("encoder.layer.2.output.dense.weight", false),
            ("encoder.layer.5.output.dense.weight", false),
            ("encoder.layer.0.output.dense.lora_A", false),
        ] {
            assert_eq!(is_left_out(name, 3..5), left_out, "{name}");
        }
    }

    #[test]
    fn files_that_are_no_weights_are_errors() {
        let none = folder_with(&[("config.json", "{}")]);
        assert!(encoder_numbers(none.path(), None).is_err());
        for (name, content) in [
            ("model.safetensors", ""),
            (
                "model.safetensors",
                "\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}{}",
            ),
            ("model.safetensors", "\u{2}\0\0\0\0\0\0\0[]"),
            ("pytorch_model.bin", "not a zip file"),
        ] {
            let folder = folder_with(&[(name, content)]);
            assert!(
                encoder_numbers(folder.path(), None).is_err(),
                "{name} {content:?}"
            );
        }
    }
}
