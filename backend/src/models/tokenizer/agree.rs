//! What a `tokenizer.json` must have in common with the settings beside it.
//!
//! transformers 4 goes by the one where they differ, 5 builds most tokenizers anew by their class, with
//! no more than the vocabulary of the other. Published folders have both from one source; a folder in
//! which they differ is refused, since its numbers would depend on the version.

use tokenizers::{ModelWrapper, PostProcessor, Tokenizer};

use super::build::SAVED;
use super::config::{Special, Token, TokenizerConfig};
use super::family::{Family, is_general, own_frame, runs_as_saved};
use super::refused;

/// Refuses a class of which it is not known what it makes of a saved tokenizer.
pub(super) fn check_class(class: Option<&str>, family: Option<Family>) -> tokenizers::Result<()> {
    match class {
        Some(class) if family.is_none() && !is_general(class) && !runs_as_saved(class) => {
            let problem = format!("'{class}' is not among the classes that are supported");
            Err(refused(problem))
        }
        _ => Ok(()),
    }
}

/// Refuses a saved tokenizer of which the class would take the vocabulary for one of another kind.
pub(super) fn check_kind(
    tokenizer: &Tokenizer,
    family: Option<Family>,
    config: &TokenizerConfig,
) -> tokenizers::Result<()> {
    let Some(family) = family else { return Ok(()) };
    let saved = match tokenizer.get_model() {
        ModelWrapper::WordPiece(_) => "WordPiece",
        ModelWrapper::BPE(_) => "BPE",
        ModelWrapper::Unigram(_) => "Unigram",
        ModelWrapper::WordLevel(_) => "WordLevel",
    };
    let own = family.model();
    if saved == own {
        return Ok(());
    }
    let class = config.class.as_deref().or(config.model_type.as_deref());
    let class = class.unwrap_or_default();
    Err(refused(format!(
        "{SAVED} has a model of the kind {saved}, but '{class}' takes {own}"
    )))
}

/// Refuses a saved tokenizer that puts more or fewer tokens around a text than its class does.
pub(super) fn check_frame(
    tokenizer: &Tokenizer,
    config: &TokenizerConfig,
) -> tokenizers::Result<()> {
    let class = config.class.as_deref().unwrap_or_default();
    let Some((before, after)) = own_frame(class) else {
        return Ok(());
    };
    let before = config.add_bos.unwrap_or(before);
    let after = config.add_eos.unwrap_or(after);
    let own = usize::from(before) + usize::from(after);
    let saved = tokenizer.get_post_processor();
    let saved = saved.map_or(0, |frame| frame.added_tokens(false));
    if saved == own {
        return Ok(());
    }
    let problem = format!("{SAVED} puts {saved} tokens around a text, but '{class}' puts {own}");
    Err(refused(format!("{problem} (add_bos_token, add_eos_token)")))
}

/// Refuses a saved tokenizer that has other tokens around a text, or for unknown words, than those which
/// the settings name.
pub(super) fn check_marks(
    tokenizer: &Tokenizer,
    family: Option<Family>,
    special: &Special,
) -> tokenizers::Result<()> {
    if !family.is_some_and(Family::takes_marks_from_settings) {
        return Ok(());
    }
    let empty = tokenizer.encode("", true)?;
    let found = |token: Option<&String>| token.cloned();
    let unknown = match tokenizer.get_model() {
        ModelWrapper::WordPiece(pieces) => Some(pieces.unk_token.clone()),
        _ => None,
    };
    for (key, named, saved) in [
        ("cls_token", &special.cls, found(empty.get_tokens().first())),
        ("sep_token", &special.sep, found(empty.get_tokens().last())),
        ("unk_token", &special.unk, unknown),
    ] {
        let named = named.as_ref().map(Token::text);
        if named.is_some_and(|named| saved.is_some_and(|saved| saved != named)) {
            let problem = format!("{SAVED} has another token in the place of the {key}");
            return Err(refused(format!("{problem} of the settings")));
        }
    }
    Ok(())
}
