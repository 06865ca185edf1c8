//! GPT-2's byte-level byte pairs from `vocab.json` and `merges.txt`, as RoBERTa, DeBERTa v1 and
//! `ModernBERT` have them. Every byte has a token, so that no text is unknown.

use std::path::Path;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{PreTokenizerWrapper, Tokenizer};

use super::config::TokenizerConfig;
use super::family::Family;
use super::{bounds, read_file, read_json, refused};

/// The tokenizer of `vocab.json` and `merges.txt`.
pub(super) fn build(
    folder: &Path,
    family: Family,
    config: &TokenizerConfig,
) -> tokenizers::Result<Tokenizer> {
    let vocabulary = read_json(&folder.join("vocab.json"))?;
    let vocabulary: Vocab =
        serde_json::from_slice(&vocabulary).map_err(|error| format!("vocab.json: {error}"))?;
    let merges = read_file(&folder.join("merges.txt"))?;
    let merges = merges_of(str::from_utf8(&merges)?)?;
    let pairs = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .build()?;
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

/// The pairs in `merges.txt`, one a line with a space between, the first to be merged first.
fn merges_of(text: &str) -> tokenizers::Result<Merges> {
    let lines = text.lines().filter(|line| !line.starts_with("#version"));
    let mut merges = Vec::new();
    for line in lines {
        let pair = line
            .split_once(' ')
            .filter(|(_, second)| !second.contains(' '));
        let number = merges.len() + 1;
        let (first, second) =
            pair.ok_or_else(|| refused(format!("merge {number} of merges.txt is not a pair")))?;
        bounds::check_count(number)?;
        merges.push((first.to_owned(), second.to_owned()));
    }
    Ok(merges)
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
