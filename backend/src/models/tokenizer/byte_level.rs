//! GPT-2's byte-level byte pairs from `vocab.json` and `merges.txt`, as RoBERTa, DeBERTa v1 and
//! `ModernBERT` have them. Every byte has a token, so that no text is unknown.

use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{PreTokenizerWrapper, Tokenizer};

use super::config::TokenizerConfig;
use super::family::Family;

/// The tokenizer of `vocab.json` and `merges.txt`.
pub(super) fn build(
    folder: &Path,
    family: Family,
    config: &TokenizerConfig,
) -> tokenizers::Result<Tokenizer> {
    let path = |name: &str| {
        let path = folder.join(name).into_os_string().into_string();
        path.map_err(|path| format!("the path {} is not valid UTF-8", path.display()))
    };
    let pairs = BPE::from_file(&path("vocab.json")?, &path("merges.txt")?).build()?;
    let mut tokenizer = Tokenizer::new(pairs);
    if family == Family::ModernBert {
        tokenizer.with_normalizer(Some(NFC))?;
    }
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(
        config.prefix_space.unwrap_or(false),
        true,
        true,
    )));
    Ok(tokenizer)
}

/// Sets whether each stretch of text gets a space in front, in a tokenizer of this kind.
///
/// transformers goes by `tokenizer_config.json` here (default: no space), whatever `tokenizer.json`
/// says.
pub(super) fn set_prefix_space(tokenizer: &mut Tokenizer, prefix_space: bool) {
    if let Some(PreTokenizerWrapper::ByteLevel(saved)) = tokenizer.get_pre_tokenizer() {
        let aligned = saved.add_prefix_space(prefix_space);
        tokenizer.with_pre_tokenizer(Some(aligned));
    }
}
