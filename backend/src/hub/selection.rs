//! Which of a repository's files make a model: what the loaders read, and nothing else. A
//! repository often has its weights in half a dozen formats.

use std::collections::BTreeMap;

use super::client::RemoteFile;

/// Files beside the weights.
const SETTINGS: [&str; 11] = [
    "added_tokens.json",
    "config.json",
    "config_sentence_transformers.json",
    "merges.txt",
    "modules.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spm.model",
];

/// The files to download; none if they do not make a model. Every path is plain: `NAME`, or
/// `N_NAME/NAME` for the modules of sentence-transformers.
pub(super) fn wanted(files: &[RemoteFile]) -> Vec<RemoteFile> {
    let mut folders: BTreeMap<Option<&str>, Vec<&RemoteFile>> = BTreeMap::new();
    for file in files {
        let (folder, _) = split(&file.path);
        if folder.is_none_or(is_module) {
            folders.entry(folder).or_default().push(file);
        }
    }
    let wanted: Vec<RemoteFile> = folders
        .values()
        .flat_map(|files| of_folder(files))
        .collect();
    let whole = |folder: Option<&str>| {
        let own = wanted.iter().map(|file| split(&file.path));
        let own: Vec<&str> = own
            .filter(|(of, _)| *of == folder)
            .map(|(_, name)| name)
            .collect();
        let weights = |name: &&str| is_safetensors(name) || is_pytorch(name);
        own.contains(&"config.json") && own.iter().any(weights)
    };
    let mut own = folders
        .keys()
        .copied()
        .filter(|folder| may_hold_encoder(*folder));
    if own.any(whole) { wanted } else { Vec::new() }
}

/// The model's own folder, or that of its first module.
fn may_hold_encoder(folder: Option<&str>) -> bool {
    folder.is_none_or(|folder| folder.starts_with("0_"))
}

/// Settings, and the weights in the best format that there is.
fn of_folder(files: &[&RemoteFile]) -> Vec<RemoteFile> {
    let any = |is: fn(&str) -> bool| files.iter().any(|file| is(split(&file.path).1));
    let weights: fn(&str) -> bool = if any(|name| name == "model.safetensors") {
        |name| name == "model.safetensors"
    } else if any(is_safetensors) {
        is_safetensors
    } else if any(|name| name == "pytorch_model.bin") {
        |name| name == "pytorch_model.bin"
    } else {
        is_pytorch
    };
    let wanted = files.iter().filter(|file| {
        let (_, name) = split(&file.path);
        is_setting(name) || weights(name)
    });
    wanted.map(|file| (*file).clone()).collect()
}

/// Folder, if it is in one, and name.
fn split(path: &str) -> (Option<&str>, &str) {
    match path.rsplit_once('/') {
        Some((folder, name)) => (Some(folder), name),
        None => (None, path),
    }
}

/// `1_Pooling` and the like, directly below the model's folder.
fn is_module(folder: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let number = folder.split('_').next().unwrap_or_default();
    let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    numbered && folder.len() > number.len() && folder.chars().all(plain)
}

/// `sentence_bert_config.json` has that first name for each family of encoders.
fn is_setting(name: &str) -> bool {
    let of_encoder = name.starts_with("sentence_") && name.ends_with("_config.json");
    SETTINGS.contains(&name) || name == "sentencepiece.bpe.model" || (of_encoder && is_plain(name))
}

fn is_safetensors(name: &str) -> bool {
    name == "model.safetensors"
        || name == "model.safetensors.index.json"
        || is_shard(name, "model-", ".safetensors")
}

fn is_pytorch(name: &str) -> bool {
    name == "pytorch_model.bin"
        || name == "pytorch_model.bin.index.json"
        || is_shard(name, "pytorch_model-", ".bin")
}

/// `model-00001-of-00002.safetensors`.
fn is_shard(name: &str, before: &str, after: &str) -> bool {
    let number = name
        .strip_prefix(before)
        .and_then(|n| n.strip_suffix(after));
    let digit_or = |c: char| c.is_ascii_digit() || "-of".contains(c);
    number.is_some_and(|number| number.contains("-of-") && number.chars().all(digit_or))
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::checksum::Checksum;

    fn of(paths: &[&str]) -> Vec<String> {
        let checksum = Checksum::git_blob(&"0".repeat(40)).unwrap();
        let file = |path: &&str| RemoteFile {
            path: (*path).to_owned(),
            size: 1,
            checksum: checksum.clone(),
        };
        let files: Vec<RemoteFile> = paths.iter().map(file).collect();
        wanted(&files).into_iter().map(|file| file.path).collect()
    }

    /// The files of sentence-transformers/all-MiniLM-L6-v2, more or less.
    #[test]
    fn of_many_formats_one_is_taken() {
        let wanted = of(&[
            ".gitattributes",
            "1_Pooling/config.json",
            "README.md",
            "config.json",
            "data_config.json",
            "model.safetensors",
            "modules.json",
            "onnx/model.onnx",
            "openvino/config.json",
            "pytorch_model.bin",
            "rust_model.ot",
            "sentence_bert_config.json",
            "tf_model.h5",
            "tokenizer.json",
            "vocab.txt",
        ]);
        let expected = [
            "config.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "tokenizer.json",
            "vocab.txt",
            "1_Pooling/config.json",
        ];
        assert_eq!(wanted, expected);
    }

    #[test]
    fn a_config_and_weights_of_modules_alone_are_no_model() {
        let parts = ["1_Pooling/config.json", "2_Dense/model.safetensors"];
        assert!(of(&parts).is_empty());
        let apart = ["config.json", "2_Dense/model.safetensors"];
        assert!(of(&apart).is_empty());
        let below = [
            "modules.json",
            "0_BERT/config.json",
            "0_BERT/model.safetensors",
        ];
        assert_eq!(of(&below).len(), 3);
    }

    #[test]
    fn shards_come_with_their_index_and_pytorch_s_format_only_alone() {
        let shards = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ];
        let with_others = [
            &shards[..],
            &["pytorch_model.bin", "model-best.safetensors"],
        ]
        .concat();
        assert_eq!(of(&with_others), shards);
        let old = [
            "config.json",
            "merges.txt",
            "pytorch_model.bin",
            "vocab.json",
        ];
        assert_eq!(of(&old), old);
        let modules = [
            "config.json",
            "pytorch_model.bin",
            "2_Dense/model.safetensors",
        ];
        assert_eq!(of(&modules), modules);
    }

    #[test]
    fn what_is_no_model_is_nothing() {
        assert!(of(&["README.md"]).is_empty());
        assert!(of(&["config.json", "model.gguf"]).is_empty());
        assert!(of(&["model.safetensors"]).is_empty());
    }

    #[test]
    fn no_path_leads_out() {
        let odd = [
            "config.json",
            "model.safetensors",
            "../config.json",
            "/config.json",
            "1_/../../config.json",
            "1_a/../config.json",
            "1_\\config.json",
            "1_..\\x/config.json",
            "sentence_/../_config.json",
            "sentence_\\_config.json",
        ];
        assert_eq!(of(&odd), odd[..2]);
    }
}
