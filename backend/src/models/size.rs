//! How much memory a model will take, told from its files without loading it: the headers of
//! weights files list every tensor with its shape. An estimate, for the bookkeeping of memory: what
//! a model turns out to take replaces it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;

use super::weights;

/// The longest header that the format's own library accepts, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;
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
pub(crate) fn encoder_numbers(folder: &Path, layers: Option<usize>) -> io::Result<u64> {
    let mut numbers = 0;
    for file in weights_files(folder)? {
        for (name, count) in tensors(&file)? {
            if is_kept(&name, layers) {
                numbers += count;
            }
        }
    }
    Ok(numbers)
}

/// The files that hold the weights: safetensors where there are any, else what `PyTorch` writes itself.
fn weights_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    for (single, shard, ending) in [
        ("model.safetensors", "model-", ".safetensors"),
        ("pytorch_model.bin", "pytorch_model-", ".bin"),
    ] {
        if folder.join(single).is_file() {
            return Ok(vec![folder.join(single)]);
        }
        let names = fs::read_dir(folder)?
            .flatten()
            .map(|entry| entry.file_name());
        let names = names.filter_map(|name| name.into_string().ok());
        let shards = names.filter(|name| name.starts_with(shard) && name.ends_with(ending));
        let shards: Vec<PathBuf> = shards.map(|name| folder.join(name)).collect();
        if !shards.is_empty() {
            return Ok(shards);
        }
    }
    Ok(Vec::new())
}

/// Each tensor's name and how many numbers it has.
fn tensors(file: &Path) -> io::Result<Vec<(String, u64)>> {
    if file.extension().is_some_and(|ending| ending == "bin") {
        return weights::counts_in_checkpoint(file);
    }
    let metadata: Metadata = serde_json::from_slice(&safetensors_header(file)?)?;
    let tensors = metadata.tensors().into_iter();
    Ok(tensors
        .map(|(name, info)| (name, info.shape.iter().map(|n| *n as u64).product()))
        .collect())
}

/// The header of a safetensors file: JSON, after 8 bytes that tell its length.
fn safetensors_header(file: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(file)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let bytes = u64::from_le_bytes(length);
    if bytes > LONGEST_HEADER {
        return Err(io::Error::other("the header is too long"));
    }
    let mut header = Vec::new();
    file.take(bytes).read_to_end(&mut header)?;
    Ok(header)
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
    fn files_that_are_no_weights_are_errors_and_none_are_nothing() {
        let none = folder_with(&[("config.json", "{}")]);
        assert_eq!(encoder_numbers(none.path(), None).expect("empty"), 0);
        for (name, content) in [
            ("model.safetensors", ""),
            (
                "model.safetensors",
                "\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}{}",
            ),
            ("model-00001-of-00002.safetensors", "\u{2}\0\0\0\0\0\0\0[]"),
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
