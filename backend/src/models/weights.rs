//! A model's weights: `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
//!
//! The files are mapped into memory, so that only the tensors that are asked for are read: a model
//! cut at a lower layer costs no more than its lower part. Everything is computed in 32-bit floats;
//! other precisions are converted on the way.

#![expect(
    unsafe_code,
    reason = "memory-mapped files; see the argument in `open`"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use super::error::LoadError;
use super::settings_file::SettingsFile;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The weights in `folder`, read as they are asked for and put on `device`.
pub(crate) fn open(folder: &Path, device: &Device) -> Result<VarBuilder<'static>, LoadError> {
    let files = files(folder)?;
    // SAFETY: a map is sound as long as nobody changes the file below it. Model folders belong to
    // the operator, who replaces models with the program stopped, or puts new files in place of old
    // ones; the hub's tools do the latter, which leaves an open map as it was. The time at risk is
    // short: a model's tensors are copied out while it loads, and then the map is dropped. A file
    // that was short from the start is found out by its header, before any tensor is read.
    let opened = unsafe { VarBuilder::from_mmaped_safetensors(&files, DType::F32, device) };
    opened.map_err(|error| problem(folder, error.to_string()))
}

/// An error about the weights in `folder`.
pub(crate) fn problem(folder: &Path, problem: String) -> LoadError {
    LoadError::Weights {
        path: folder.to_owned(),
        problem,
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let single = folder.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX);
    if !index.is_file() {
        let message =
            format!("there is neither {SINGLE} nor {INDEX}; other formats are unsupported");
        return Err(problem(folder, message));
    }
    let index = SettingsFile::read(index)?;
    let shard_of: BTreeMap<String, String> = index.require("weight_map")?;
    let shards: BTreeSet<String> = shard_of.into_values().collect();
    if let Some(path) = shards.iter().find(|shard| shard.contains(['/', '\\'])) {
        return Err(index.problem(
            "weight_map",
            format!("names '{path}', which is not a file name"),
        ));
    }
    Ok(shards.into_iter().map(|shard| folder.join(shard)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::test_support::{folder_with, golden};

    fn error_of(folder: &Path) -> String {
        open(folder, &Device::Cpu)
            .err()
            .expect("cannot be opened")
            .to_string()
    }

    #[test]
    fn shards_are_read_through_their_index() {
        let index = r#"{"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}"#;
        let folder = folder_with(&[(INDEX, index)]);
        let shard = folder.path().join("one.safetensors");
        std::fs::copy(golden("tiny/bert/model.safetensors"), shard).expect("copy");
        let weights = open(folder.path(), &Device::Cpu).expect("opens");
        assert!(weights.contains_tensor("embeddings.word_embeddings.weight"));
    }

    #[test]
    fn missing_and_broken_weights_are_errors_that_say_where() {
        let folder = folder_with(&[("pytorch_model.bin", "")]);
        assert!(error_of(folder.path()).contains("neither model.safetensors nor"));
        for content in ["", "short", "\u{10}\0\0\0\0\0\0\0 not a header!!"] {
            let folder = folder_with(&[(SINGLE, content)]);
            assert!(error_of(folder.path()).contains(SINGLE), "{content:?}");
        }
    }

    #[test]
    fn shards_stay_inside_the_folder() {
        let folder = folder_with(&[(INDEX, r#"{"weight_map": {"a": "../other.safetensors"}}"#)]);
        assert!(error_of(folder.path()).contains("names '../other.safetensors'"));
    }
}
