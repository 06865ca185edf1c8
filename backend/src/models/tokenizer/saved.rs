//! `tokenizer.json`, part by part. The library would read all of it at once, at many times its size
//! and with whatever stands in it; here each part is looked at first, and what nobody asks for is
//! left out: how many tokens a text may have or gets, and how ids become text again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{
    AddedToken, ModelWrapper, NormalizerWrapper, PaddingParams, PostProcessorWrapper,
    PreTokenizerWrapper, Tokenizer, TruncationDirection, TruncationParams,
};
use tracing::warn;

use super::{bounds, read_json};
use crate::models::file::values;

/// Bytes of a normaliser or a pre-tokenizer: the largest is a table of character replacements, of
/// 0.4 MB with its base64.
const MOST_STEPS: usize = 4 << 20;
/// Bytes of a post-processor, which names the special tokens. Those published have up to 10 KB.
const MOST_FRAME: usize = 256 << 10;

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    truncation: Option<&'a RawValue>,
    #[serde(borrow)]
    padding: Option<&'a RawValue>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    model: &'a RawValue,
}

/// What the file may have, and what its models may have: it is used, or known to change no id.
const PARTS: [&str; 9] = [
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
];
/// See [`PARTS`].
const PARTS_OF_MODELS: [&str; 12] = [
    "type",
    "vocab",
    "merges",
    "unk_token",
    "unk_id",
    "byte_fallback",
    "continuing_subword_prefix",
    "dropout",
    "end_of_word_suffix",
    "fuse_unk",
    "ignore_merges",
    "max_input_chars_per_word",
];

/// Names what else an object has, if it is one.
fn warn_of_others(path: &Path, object: &[u8], known: &[&str]) {
    let parts: BTreeMap<String, &RawValue> = serde_json::from_slice(object).unwrap_or_default();
    for part in parts.keys().filter(|part| !known.contains(&part.as_str())) {
        warn!(file = %path.display(), part, "part not known, not used");
    }
}

/// The tokenizer in the file at `path`, and at which end it cuts a text, if that is said.
pub(super) fn read(path: &Path) -> tokenizers::Result<(Tokenizer, Option<TruncationDirection>)> {
    let text = read_json(path)?;
    let told = |error| format!("tokenizer.json: {error}");
    let saved: Parts<'_> = serde_json::from_slice(&text).map_err(told)?;
    warn_of_others(path, &text, &PARTS);
    warn_of_others(path, saved.model.get().as_bytes(), &PARTS_OF_MODELS);
    let normalizer = steps(saved.normalizer, "normalizer")?;
    let pre_tokenizer = steps(saved.pre_tokenizer, "pre_tokenizer")?;
    let mut tokenizer = Tokenizer::new(model(saved.model.get())?);
    if let Some(normalizer) = normalizer {
        bounds::growth(&normalizer)?;
        let normalizer: NormalizerWrapper = serde_json::from_value(normalizer).map_err(told)?;
        tokenizer.with_normalizer(Some(normalizer))?;
    }
    if let Some(pre_tokenizer) = pre_tokenizer {
        bounds::check_pre_tokenizer(&pre_tokenizer)?;
        let pre_tokenizer: PreTokenizerWrapper =
            serde_json::from_value(pre_tokenizer).map_err(told)?;
        tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    }
    if let Some(frame) = saved.post_processor {
        bounds::check_bytes("post_processor", frame.get().len(), MOST_FRAME)?;
        let frame: PostProcessorWrapper = serde_json::from_str(frame.get()).map_err(told)?;
        check_templates(&serde_json::to_value(&frame)?)?;
        tokenizer.with_post_processor(Some(frame));
    }
    bounds::add(&mut tokenizer, saved.added_tokens)?;
    form::<PaddingParams>("padding", saved.padding)?;
    let cut = form("truncation", saved.truncation)?
        .as_ref()
        .map(cut)
        .transpose()?;
    Ok((tokenizer, cut))
}

/// A part that is replaced, but for what transformers takes from it; like that, it refuses odd ones.
fn form<T: DeserializeOwned>(name: &str, part: Option<&RawValue>) -> tokenizers::Result<Option<T>> {
    let read = part
        .map(|part| serde_json::from_str(part.get()))
        .transpose();
    read.map_err(|_| {
        let expected = "is not as the library of tokenizers writes it; null will do";
        super::refused(format!("tokenizer.json: '{name}' {expected}"))
    })
}

/// At which end a text is cut.
fn cut(truncation: &TruncationParams) -> tokenizers::Result<TruncationDirection> {
    if truncation.stride > truncation.max_length {
        let problem = "tokenizer.json: 'stride' of 'truncation' is above its 'max_length'";
        return Err(super::refused(problem));
    }
    Ok(truncation.direction)
}

/// Refuses a template that names what is not there, at which the library panics. `frame`: a post-processor, or a
/// sequence of them.
fn check_templates(frame: &Value) -> tokenizers::Result<()> {
    let mut inner = frame["processors"].as_array().into_iter().flatten();
    inner.try_for_each(check_templates)?;
    for piece in frame["single"].as_array().into_iter().flatten() {
        let (token, text) = (&piece["SpecialToken"]["id"], &piece["Sequence"]["id"]);
        let is_known = token
            .as_str()
            .is_some_and(|id| !frame["special_tokens"][id].is_null());
        if !is_known && text != "A" {
            return Err(super::refused(
                "post_processor: 'single' names a token or text that there is not",
            ));
        }
    }
    Ok(())
}

fn steps(part: Option<&RawValue>, name: &str) -> tokenizers::Result<Option<Value>> {
    let Some(part) = part else { return Ok(None) };
    bounds::check_bytes(name, part.get().len(), MOST_STEPS)?;
    Ok(serde_json::from_str(part.get())?)
}

/// The model. Files from the library's first years don't say of which kind theirs is.
fn model(text: &str) -> tokenizers::Result<ModelWrapper> {
    let told = |error| format!("tokenizer.json: {error}");
    let keys: Keys<'_> = serde_json::from_str(text).map_err(told)?;
    // A unigram model's pieces are lists themselves, and counted as such.
    let entries = keys.vocab.filter(|vocab| !vocab.get().starts_with('['));
    bounds::check_count(entries.map_or(0, |vocab| values(vocab.get().as_bytes())))?;
    let is_list = keys.vocab.is_some_and(|vocab| vocab.get().starts_with('['));
    let kind = match keys.r#type.as_deref() {
        Some(kind) => kind,
        None if keys.merges.is_some() => "BPE",
        None if keys.max_input_chars_per_word.is_some() => "WordPiece",
        None if is_list => "Unigram",
        None => "WordLevel",
    };
    Ok(match kind {
        // The library cuts pieces at its length unseen, within a character too. None published has one.
        "BPE"
            if keys
                .continuing_subword_prefix
                .is_some_and(|it| !it.is_empty()) =>
        {
            let problem = "'continuing_subword_prefix' is set for byte pairs, which is unsupported";
            return Err(super::refused(problem));
        }
        "BPE" if keys.dropout.is_some_and(|share| share != 0.0) => {
            let problem = "'dropout' is set, by which pieces are drawn at random: unsupported";
            return Err(super::refused(problem));
        }
        "BPE" => serde_json::from_str::<BPE>(text).map_err(told)?.into(),
        "WordPiece" => {
            bounds::check_word(keys.max_input_chars_per_word)?;
            serde_json::from_str::<WordPiece>(text)
                .map_err(told)?
                .into()
        }
        "WordLevel" => serde_json::from_str::<WordLevel>(text)
            .map_err(told)?
            .into(),
        "Unigram" => unigram(text)?.into(),
        other => {
            let kind: String = other.chars().take(40).collect();
            return Err(super::refused(format!(
                "its model is a '{kind}', which is unsupported"
            )));
        }
    })
}

/// What tells kinds of models apart.
#[derive(Deserialize)]
struct Keys<'a> {
    r#type: Option<String>,
    #[serde(borrow)]
    merges: Option<&'a RawValue>,
    #[serde(borrow)]
    vocab: Option<&'a RawValue>,
    max_input_chars_per_word: Option<usize>,
    continuing_subword_prefix: Option<String>,
    dropout: Option<f64>,
}

fn unigram(text: &str) -> tokenizers::Result<Unigram> {
    #[derive(Deserialize)]
    struct Pieces {
        vocab: Vec<(String, f64)>,
        unk_id: Option<usize>,
        #[serde(default)]
        byte_fallback: bool,
    }
    let Pieces {
        vocab,
        unk_id,
        byte_fallback,
    } = serde_json::from_str(text).map_err(|error| format!("tokenizer.json: {error}"))?;
    bounds::check_pieces(&vocab)?;
    Unigram::from(vocab, unk_id, byte_fallback)
}
