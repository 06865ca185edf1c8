//! How much memory a model will take, told from its files without loading it: the headers of
//! weights files list every tensor with its shape. An estimate, for the bookkeeping of memory: what
//! a model turns out to take replaces it.

use std::path::Path;

use super::error::LoadError;
use super::pipeline::Pipeline;
use super::{tokenizer, weights};

/// Bytes of memory for each byte of a tokenizer's file.
const FOR_EACH_BYTE: u64 = 12;
/// Name parts before the number of a layer.
const BEFORE_LAYER: [&str; 3] = ["layer", "layers", "h"];
/// First parts of the names of what sits on top of an encoder in training, and is not loaded.
const HEADS: [&str; 6] = [
    "cls",
    "classifier",
    "lm_head",
    "lm_predictions",
    "pooler",
    "head",
];

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
    let parts: Vec<&str> = name.split('.').collect();
    let of_a_head = parts.first().is_some_and(|first| HEADS.contains(first));
    let layer = parts
        .windows(2)
        .find(|pair| BEFORE_LAYER.contains(&pair[0]))
        .and_then(|pair| pair[1].parse::<usize>().ok());
    let too_high = layer
        .zip(layers)
        .is_some_and(|(layer, layers)| layer >= layers);
    !of_a_head && !too_high && !parts.contains(&"pooler")
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
