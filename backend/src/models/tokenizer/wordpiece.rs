//! BERT's tokenizer from `vocab.txt`: one word piece a line, its id the line's number.

use std::path::Path;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NFC, Sequence};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{NormalizerWrapper, Tokenizer};

use super::config::TokenizerConfig;
use super::{bounds, read_file};

/// The tokenizer of `vocab.txt`, with `unk` for words that have no pieces.
pub(super) fn build(
    folder: &Path,
    config: &TokenizerConfig,
    unk: &str,
) -> tokenizers::Result<Tokenizer> {
    let lines = read_file(&folder.join("vocab.txt"))?;
    let count = lines.split(|byte| *byte == b'\n').count();
    bounds::check_count(count)?;
    let pieces = WordPiece::builder()
        .vocab(WordPiece::read_bytes(&lines)?)
        .unk_token(unk.to_owned())
        .build()?;
    let mut tokenizer = Tokenizer::new(pieces);
    tokenizer.with_normalizer(Some(normalizer(config)))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    Ok(tokenizer)
}

/// Has a saved normaliser of BERT's kind follow the folder's settings, as transformers' classes do:
/// where the two differ, `tokenizer_config.json` (or its defaults) wins over `tokenizer.json`.
pub(super) fn align(tokenizer: &mut Tokenizer, config: &TokenizerConfig) -> tokenizers::Result<()> {
    if let Some(NormalizerWrapper::BertNormalizer(saved)) = tokenizer.get_normalizer() {
        let clean_text = saved.clean_text;
        let mut aligned = normalizer(config);
        aligned.clean_text = clean_text;
        tokenizer.with_normalizer(Some(aligned))?;
    }
    Ok(())
}

/// Has the tokenizer bring a text to Unicode's normal form C before anything else.
pub(super) fn compose_first(tokenizer: &mut Tokenizer) -> tokenizers::Result<()> {
    if let Some(NormalizerWrapper::BertNormalizer(own)) = tokenizer.get_normalizer() {
        let steps = vec![NFC.into(), NormalizerWrapper::from(*own)];
        tokenizer.with_normalizer(Some(Sequence::new(steps)))?;
    }
    Ok(())
}

fn normalizer(config: &TokenizerConfig) -> BertNormalizer {
    BertNormalizer::new(
        true,
        config.split_chinese.unwrap_or(true),
        config.strip_accents,
        config.lower_case.unwrap_or(true),
    )
}
