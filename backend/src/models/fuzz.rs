//! What must hold of any bytes in a model's folder.

#![expect(clippy::expect_used, reason = "compiled for tests and fuzzing only")]

use std::path::Path;

use tempfile::TempDir;

use super::config::EncoderConfig;
use super::pipeline::Pipeline;
use super::tokenizer::{TextTokenizer, TokenizerConfig, Use};
pub(crate) use super::weights::fuzz::{checkpoints, pickles, safetensors};

/// Texts that tokenizers have had trouble with.
const TEXTS: [&str; 6] = [
    "",
    " ",
    "a b",
    "\u{0}\u{ad}e\u{301}\u{1f680}",
    "[CLS] <mask> x</s>",
    "\u{feff}\u{2581}\u{2581}zzz",
];
/// Special tokens included.
const MOST_TOKENS: usize = 12;

/// What `read` makes of a folder with these files, which lie in one folder.
pub(crate) fn in_folder<T>(files: &[(&str, &[u8])], read: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static FOLDER: TempDir = TempDir::new().expect("a folder");
    }
    FOLDER.with(|folder| {
        let path = |name: &str| folder.path().join(name);
        for (name, content) in files {
            std::fs::write(path(name), content).expect("a file");
        }
        let made = super::settings_file::quietly(|| read(folder.path()));
        for (name, _) in files {
            std::fs::remove_file(path(name)).expect("it is there");
        }
        made
    })
}

/// A shape that is taken can be computed with.
pub(crate) fn shapes(bytes: &[u8]) {
    if let Ok(config) = in_folder(&[("config.json", bytes)], EncoderConfig::read) {
        assert!(config.heads > 0 && config.hidden % config.heads == 0);
        assert!(config.hidden <= 1 << 14 && config.layers <= 192 && config.intermediate <= 1 << 16);
        assert!(config.longest.is_none_or(|longest| longest <= 1 << 32));
    }
}

/// Settings of sentence-transformers are read, or refused.
pub(crate) fn pipelines(bytes: &[u8]) {
    const MODULES: &[u8] =
        br#"[{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
        {"idx":1,"name":"1","path":"","type":"sentence_transformers.models.Pooling"}]"#;
    let (choice, text) = bytes.split_first().unwrap_or((&0, &[]));
    let all = [
        "modules.json",
        "config.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
    ];
    let chosen = all[usize::from(*choice) % all.len()];
    let modules = if chosen == "modules.json" {
        text
    } else {
        MODULES
    };
    let mut files = vec![("modules.json", modules)];
    files.extend((chosen != "modules.json").then_some((chosen, text)));
    if let Ok(pipeline) = in_folder(&files, Pipeline::read) {
        assert!(!pipeline.pooling.is_empty());
    }
}

/// Settings of a tokenizer are read, or refused.
pub(crate) fn tokenizer_settings(bytes: &[u8]) {
    let (choice, text) = bytes.split_first().unwrap_or((&0, &[]));
    let all = [
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ];
    let file = all[usize::from(*choice) % all.len()];
    let _ = in_folder(&[(file, text)], TokenizerConfig::read);
}

/// See [`tokenize`].
pub(crate) fn tokenizers(bytes: &[u8]) {
    tokenize(&[("tokenizer.json", bytes)]);
}

/// See [`tokenize`].
pub(crate) fn vocabularies(bytes: &[u8]) {
    let (choice, content) = bytes.split_first().unwrap_or((&0, &[]));
    let kinds: [(&str, &[u8]); 4] = [
        ("vocab.txt", br#"{"tokenizer_class":"BertTokenizer"}"#),
        ("spm.model", br#"{"tokenizer_class":"DebertaV2Tokenizer"}"#),
        (
            "sentencepiece.bpe.model",
            br#"{"tokenizer_class":"XLMRobertaTokenizer"}"#,
        ),
        ("vocab.json", br#"{"tokenizer_class":"RobertaTokenizer"}"#),
    ];
    let (file, settings) = kinds[usize::from(*choice) % kinds.len()];
    let merges: &[u8] = b"#version: 0.2\na b\nab c\n";
    tokenize(&[
        (file, content),
        ("tokenizer_config.json", settings),
        ("merges.txt", merges),
    ]);
}

/// A tokenizer that is taken makes as many tokens of a text as it may, or says why not.
fn tokenize(files: &[(&str, &[u8])]) {
    for purpose in [Use::Embedding { lower_case: true }, Use::BertScore] {
        let load = |folder: &Path| {
            let config = TokenizerConfig::read(folder)?;
            TextTokenizer::load(folder, &config, MOST_TOKENS, purpose)
        };
        let Ok(tokenizer) = in_folder(files, load) else {
            continue;
        };
        for text in TEXTS {
            if let Ok(ids) = tokenizer.ids(text) {
                assert!(
                    (tokenizer.frame()..=MOST_TOKENS).contains(&ids.len()),
                    "{text:?}: {ids:?}"
                );
            }
        }
    }
}
