//! Texts to token ids.
//!
//! A folder's tokenizer is read from `tokenizer.json` or built from what its authors published
//! instead ([`build`]). Saved truncation and padding are replaced: truncation by the limit that the
//! caller works out, padding by none, since batches are padded by whoever builds them.
//!
//! The two uses of a model tokenize differently ([`Use`]): sentence-transformers takes the
//! tokenizer as it is published, bert-score the original implementation in Python, which for some
//! families gives other ids.

mod agree;
mod bounds;
mod build;
mod byte_level;
mod config;
mod family;
mod saved;
mod sentencepiece;
mod wordpiece;

#[cfg(test)]
mod tests;

use std::path::Path;

use thiserror::Error;
use tokenizers::normalizers::{Lowercase, Sequence};
use tokenizers::{
    NormalizerWrapper, PostProcessor, Tokenizer, TruncationDirection, TruncationParams,
};
use tracing::warn;

use self::build::Built;
pub(crate) use self::config::TokenizerConfig;
use self::family::Family;
use super::error::LoadError;
use super::file;
use crate::engine::EngineError;

/// What the ids are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Embeddings, as sentence-transformers tokenizes for them.
    Embedding {
        /// Texts are lower-cased first, but for special tokens written out.
        lower_case: bool,
    },
    /// `BERTScore`, as bert-score 0.3.13 tokenizes for it: with the tokenizers written in Python,
    /// and for RoBERTa with a space before the text.
    BertScore,
}

/// A model's tokenizer, with the limit of one use of the model.
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    frame: usize,
    /// How many times as long the normaliser could make a text at worst.
    growth: usize,
    /// Whether white space around a text is left out, as bert-score does.
    strips: bool,
    /// Whether a space is put before a text.
    prefix_space: bool,
    cls: Option<u32>,
    sep: Option<u32>,
    /// Bytes of the tree of its pieces.
    tree: u64,
}

impl TextTokenizer {
    /// Loads the tokenizer in `folder`; texts are cut after `max_length` tokens, special ones
    /// included.
    pub(crate) fn load(
        folder: &Path,
        config: &TokenizerConfig,
        max_length: usize,
        purpose: Use,
    ) -> Result<Self, LoadError> {
        let failed = |error| load_error(folder, &error);
        let mut built = build::open(folder, config).map_err(failed)?;
        let prefix_space = match purpose {
            Use::Embedding { lower_case } => {
                if lower_case {
                    lower_first(&mut built.tokenizer).map_err(failed)?;
                }
                false
            }
            Use::BertScore => imitate_python(&mut built, config).map_err(failed)?,
        };
        let mut tokenizer = built.tokenizer;
        let frame = special_tokens(&tokenizer).map_err(failed)?;
        let growth = growth(&tokenizer).map_err(failed)?;
        let cut = match config.cut_left {
            Some(true) => TruncationDirection::Left,
            Some(false) => TruncationDirection::Right,
            None => built.cut.unwrap_or(TruncationDirection::Right),
        };
        limit(&mut tokenizer, (max_length, frame), cut).map_err(failed)?;
        let id = |token: Option<String>| token.and_then(|token| tokenizer.token_to_id(&token));
        let (cls, sep) = (id(built.cls), id(built.sep));
        let tree = bounds::tree_bytes(&tokenizer);
        Ok(Self {
            tokenizer,
            frame,
            growth,
            strips: purpose == Use::BertScore,
            prefix_space,
            cls,
            sep,
            tree,
        })
    }

    /// Refuses a tokenizer of a model with vectors for `vocabulary` tokens, if it puts others around each text, or
    /// makes others of what every text begins with: then no text has an answer. Warns of one that has others.
    pub(crate) fn check_ids(
        &self,
        folder: &Path,
        vocabulary: usize,
        beginning: &str,
    ) -> Result<(), LoadError> {
        let ids = self.ids(beginning);
        let ids = ids.map_err(|error| load_error(folder, &refused(error.to_string())))?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(LoadError::Setting {
                path: folder.join("config.json"),
                key: "vocab_size".to_owned(),
                problem: format!(
                    "is {vocabulary}, but the tokenizer gives each text the token {id}"
                ),
            });
        }
        let tokens = self.tokenizer.get_vocab_size(true);
        if tokens > vocabulary {
            let folder = folder.display();
            warn!(%folder, tokens, vocabulary, "texts with tokens beyond the vocabulary get a 400");
        }
        Ok(())
    }

    /// Bytes of memory that it takes beyond those that its file let expect.
    pub(crate) fn bytes_beyond(&self, expected: u64) -> u64 {
        self.tree.saturating_sub(expected)
    }

    /// Whether the files are there that a tokenizer can be made of.
    pub(crate) fn check(folder: &Path, config: &TokenizerConfig) -> Result<(), LoadError> {
        let checked = build::check(folder, config);
        checked
            .map(drop)
            .map_err(|error| load_error(folder, &error))
    }

    /// The ids of `text`, special tokens included: as many as [`frame`](Self::frame) or more.
    ///
    /// # Errors
    /// [`EngineError::Untokenizable`], in our words: the library's may quote the text.
    pub(crate) fn ids(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.encode(text).map_err(|error| {
            let known = error.downcast_ref().map(Refused::to_string);
            let unknown = "it has no token for a part of it, nor one for what it does not know";
            EngineError::Untokenizable(known.unwrap_or_else(|| unknown.to_owned()))
        })
    }

    fn encode(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let text = if self.strips { strip(text) } else { text };
        bounds::check_text(&self.tokenizer, self.growth, text)?;
        let encoding = if self.prefix_space && !text.is_empty() {
            self.tokenizer.encode_fast(format!(" {text}"), true)?
        } else {
            self.tokenizer.encode_fast(text, true)?
        };
        Ok(encoding.get_ids().to_vec())
    }

    /// How many special tokens every text gets; an empty text has only those.
    pub(crate) fn frame(&self) -> usize {
        self.frame
    }

    /// The id of the token that the folder names as the one before a text (`cls_token`).
    pub(crate) fn cls_id(&self) -> Option<u32> {
        self.cls
    }

    /// The id of the token that the folder names as the one after a text (`sep_token`).
    pub(crate) fn sep_id(&self) -> Option<u32> {
        self.sep
    }
}

/// What we do not support or miss in a tokenizer's files, in our words.
#[derive(Debug, Error)]
#[error("{0}")]
struct Refused(String);

fn load_error(folder: &Path, error: &tokenizers::Error) -> LoadError {
    let (path, problem) = (folder.to_owned(), error.to_string());
    if error.is::<Refused>() {
        LoadError::Tokenizer { path, problem }
    } else {
        LoadError::TokenizerFile { path, problem }
    }
}

/// Bytes of the files that the tokenizer in `folder` is made of.
pub(crate) fn file_bytes(folder: &Path) -> u64 {
    let bytes = |name: &&str| folder.join(name).metadata().map_or(0, |found| found.len());
    match bytes(&build::SAVED) {
        0 => Family::ALL_FILES
            .iter()
            .map(bytes)
            .fold(0, u64::saturating_add),
        saved => saved,
    }
}

/// The content of a file that a tokenizer is made of.
fn read_file(path: &Path) -> tokenizers::Result<Vec<u8>> {
    let content = file::read(path, file::MOST_TOKENIZER);
    content.map_err(|error| about(path, &error))
}

/// The same of one with JSON.
fn read_json(path: &Path) -> tokenizers::Result<Vec<u8>> {
    let text = read_file(path)?;
    let checked = file::check_json(&text, file::MOST_TOKENIZER_VALUES);
    checked.map_err(|error| about(path, &error))?;
    Ok(text)
}

fn about(path: &Path, error: &std::io::Error) -> tokenizers::Error {
    let name = path.file_name().unwrap_or_default().display();
    refused(format!("{name} cannot be read: {error}"))
}

fn refused(problem: impl Into<String>) -> tokenizers::Error {
    Box::new(Refused(problem.into()))
}

/// Makes the tokenizer give the ids of transformers' tokenizer in Python, which bert-score asks for
/// (`use_fast=False`), where the two differ. Returns whether a space goes before each text.
///
/// - Byte pairs: a space is put before the text only, not after special tokens in it too. bert-score
///   asks for it with RoBERTa's class (`sent_encode`); for others the folder's setting counts.
/// - Word pieces: the text is brought to Unicode's normal form C first (`BasicTokenizer.tokenize`),
///   which matters where accents are kept.
///
/// A folder that names a class in Rust (`…Fast`) gets that one from transformers in either case.
fn imitate_python(built: &mut Built, config: &TokenizerConfig) -> tokenizers::Result<bool> {
    let class = config.class.as_deref();
    if class.is_some_and(|class| class.ends_with("Fast")) {
        return Ok(false);
    }
    match built.family {
        Some(Family::Roberta) => {
            byte_level::set_prefix_space(&mut built.tokenizer, false);
            Ok(true)
        }
        Some(Family::Deberta) => {
            byte_level::set_prefix_space(&mut built.tokenizer, false);
            Ok(config.prefix_space.unwrap_or(false))
        }
        Some(Family::Bert | Family::Mpnet) => {
            wordpiece::compose_first(&mut built.tokenizer)?;
            Ok(false)
        }
        _ => Ok(false),
    }
}

/// Has the tokenizer lower-case a text before anything else, unless it does so anyway.
fn lower_first(tokenizer: &mut Tokenizer) -> tokenizers::Result<()> {
    let steps = match tokenizer.get_normalizer().cloned() {
        None => Vec::new(),
        Some(NormalizerWrapper::Sequence(steps)) => steps.as_ref().to_vec(),
        Some(step) => vec![step],
    };
    let lowers = |step: &NormalizerWrapper| matches!(step, NormalizerWrapper::Lowercase(_));
    if !steps.iter().any(lowers) {
        let lower = NormalizerWrapper::from(Lowercase);
        let steps = std::iter::once(lower).chain(steps).collect();
        tokenizer.with_normalizer(Some(Sequence::new(steps)))?;
    }
    Ok(())
}

/// How many of a text's tokens are special.
fn special_tokens(tokenizer: &Tokenizer) -> tokenizers::Result<usize> {
    let processor = tokenizer.get_post_processor();
    let frame = processor.map_or(0, |processor| processor.added_tokens(false));
    if frame == 0 {
        return Err(refused("it puts no special tokens around a text"));
    }
    bounds::check_frame(tokenizer, frame)?;
    Ok(frame)
}

/// See [`bounds::growth`].
fn growth(tokenizer: &Tokenizer) -> tokenizers::Result<usize> {
    match tokenizer.get_normalizer() {
        Some(normalizer) => bounds::growth(&serde_json::to_value(normalizer)?),
        None => Ok(1),
    }
}

/// Has texts cut at `max_length` tokens, of which `frame` are special.
fn limit(
    tokenizer: &mut Tokenizer,
    (max_length, frame): (usize, usize),
    direction: TruncationDirection,
) -> tokenizers::Result<()> {
    if max_length <= frame {
        return Err(refused(format!(
            "a limit of {max_length} tokens leaves no room for text, since {frame} are special; it is the \
             least of max_seq_length (sentence_bert_config.json), model_max_length (tokenizer_config.json), \
             max_position_embeddings (config.json) and --max-tokens"
        )));
    }
    let truncation = TruncationParams {
        max_length,
        direction,
        ..TruncationParams::default()
    };
    tokenizer.with_padding(None);
    tokenizer.with_truncation(Some(truncation))?;
    Ok(())
}

/// `text` without the white space around it, as Python's `str.strip` has it: that counts the four
/// separators U+001C–U+001F, which Unicode's `White_Space` leaves out.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}
