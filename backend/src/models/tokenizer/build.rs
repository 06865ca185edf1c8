//! A folder's tokenizer as it is published: `tokenizer.json`, else built from its family's files.
//!
//! Where a folder has both, the two give the same ids; `tokenizer.json` is read first because it
//! needs no guess about the family.

use std::path::Path;

use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer, TruncationDirection};

use crate::models::file;

use super::config::{Special, Token, TokenizerConfig};
use super::family::{Family, Marks, family, is_general, is_python_only};
use super::{
    agree, bounds, byte_level, lower_first, refused, saved, sentencepiece, special_tokens,
    wordpiece,
};

pub(super) const SAVED: &str = "tokenizer.json";

/// A folder's tokenizer, and the texts of the tokens around each text.
pub(super) struct Built {
    pub(super) tokenizer: Tokenizer,
    /// `None`: an unknown class with a `tokenizer.json` of its own.
    pub(super) family: Option<Family>,
    pub(super) cls: Option<String>,
    pub(super) sep: Option<String>,
    /// At which end it cuts a text, if a saved tokenizer says so.
    pub(super) cut: Option<TruncationDirection>,
}

/// Which files make the tokenizer in `folder`.
pub(super) enum Origin {
    /// `tokenizer.json`, of this family if its class is known.
    Saved(Option<Family>),
    /// The files of this family.
    Files(Family),
}

/// Finds the files, and looks whether they are there.
pub(super) fn check(folder: &Path, config: &TokenizerConfig) -> tokenizers::Result<Origin> {
    let present = |file: &str| file::is_there(&folder.join(file));
    let class = config.class.as_deref();
    if let Some(class) = class.filter(|class| is_python_only(class)) {
        let problem = format!("'{class}', a tokenizer written in Python, is unsupported");
        return Err(refused(problem));
    }
    let family = family(class, config.model_type.as_deref(), present);
    if present(SAVED) {
        agree::check_class(class, family)?;
        return Ok(Origin::Saved(family));
    }
    let family = family.ok_or_else(|| refused(unknown(config)))?;
    match family.files().iter().find(|file| !present(file)) {
        Some(file) => Err(refused(format!("there is neither {SAVED} nor {file}"))),
        None => Ok(Origin::Files(family)),
    }
}

/// Opens the tokenizer in `folder`.
pub(super) fn open(folder: &Path, config: &TokenizerConfig) -> tokenizers::Result<Built> {
    let (tokenizer, family, cut) = match check(folder, config)? {
        Origin::Saved(family) => {
            let (tokenizer, cut) = from_saved(folder, family, config)?;
            (tokenizer, family, cut)
        }
        Origin::Files(family) => (from_files(folder, family, config)?, Some(family), None),
    };
    let text = |named: &Option<Token>, default: fn(Marks) -> &'static str| {
        let named = named.as_ref().map(Token::text);
        named
            .or(family.map(|family| default(family.marks())))
            .map(str::to_owned)
    };
    Ok(Built {
        cls: text(&config.special.cls, |marks| marks.cls),
        sep: text(&config.special.sep, |marks| marks.sep),
        tokenizer,
        family,
        cut,
    })
}

fn unknown(config: &TokenizerConfig) -> String {
    let name = config.class.as_deref().or(config.model_type.as_deref());
    match name {
        Some(name) => format!("there is no {SAVED}, and '{name}' cannot be built without it"),
        None => format!("there is neither {SAVED} nor a vocabulary that is known"),
    }
}

/// `tokenizer.json`, with what transformers takes from the other settings.
fn from_saved(
    folder: &Path,
    family: Option<Family>,
    config: &TokenizerConfig,
) -> tokenizers::Result<(Tokenizer, Option<TruncationDirection>)> {
    let (mut tokenizer, cut) = saved::read(&folder.join(SAVED))?;
    agree::check_frame(&tokenizer, config)?;
    // ModernBERT's has no class of its own, whatever its folder says.
    let general = config.class.as_deref().is_some_and(is_general)
        || config.model_type.as_deref() == Some("modernbert");
    if !general {
        agree::check_kind(&tokenizer, family, config)?;
        align(&mut tokenizer, family, config)?;
    }
    add_missing(&mut tokenizer, config)?;
    // DeBERTa's class lets its own mask alone do so.
    let strips = |family: Family| family != Family::Deberta && family.marks().mask_strips_left;
    let mask_strips = !general && family.is_some_and(strips);
    add_named(&mut tokenizer, config, mask_strips)?;
    if !general {
        // Bounds what is put around a text, before that is looked at.
        special_tokens(&tokenizer)?;
        agree::check_marks(&tokenizer, family, &config.special)?;
    }
    Ok((tokenizer, cut))
}

/// Adds the tokens that the settings list with their ids, with the flags that they have there. A list
/// without flags says nothing new of those that the saved tokenizer has.
fn add_missing(tokenizer: &mut Tokenizer, config: &TokenizerConfig) -> tokenizers::Result<()> {
    let known = tokenizer.get_added_vocabulary().get_vocab();
    let listed = config.added.values();
    let new = listed.filter(|token| config.added_have_flags || !known.contains_key(&token.content));
    let new = new.cloned().collect();
    bounds::add(tokenizer, new)
}

/// Has a saved tokenizer follow the folder's settings as far as the family's class in transformers
/// does.
fn align(
    tokenizer: &mut Tokenizer,
    family: Option<Family>,
    config: &TokenizerConfig,
) -> tokenizers::Result<()> {
    match family {
        Some(Family::Bert | Family::Mpnet) => wordpiece::align(tokenizer, config)?,
        Some(Family::DebertaV2) => {
            if config.lower_case == Some(true) {
                lower_first(tokenizer)?;
            }
            if config.split_punctuation == Some(true) {
                sentencepiece::split_first(tokenizer);
            }
        }
        _ => {}
    }
    byte_level::set_prefix_space(tokenizer, config.prefix_space.unwrap_or(false));
    Ok(())
}

/// Adds the special tokens that the settings name and the saved tokenizer does not have as such.
/// `mask_strips`: a mask without flags takes the space before it.
fn add_named(
    tokenizer: &mut Tokenizer,
    config: &TokenizerConfig,
    mask_strips: bool,
) -> tokenizers::Result<()> {
    let Special { mask, .. } = &config.special;
    let known = tokenizer.get_added_vocabulary().get_vocab();
    let new: Vec<AddedToken> = config
        .special
        .all()
        .filter(|token| !known.contains_key(token.text()))
        .map(|token| token.special(mask_strips && mask.as_ref() == Some(token)))
        .collect();
    bounds::add(tokenizer, new)
}

fn from_files(
    folder: &Path,
    family: Family,
    config: &TokenizerConfig,
) -> tokenizers::Result<Tokenizer> {
    let marks = named(&config.special, family);
    let mut tokenizer = match family {
        Family::Bert | Family::Mpnet => wordpiece::build(folder, config, &marks.unk.content)?,
        Family::Roberta | Family::Deberta | Family::ModernBert => {
            byte_level::build(folder, family, config)?
        }
        Family::XlmRoberta | Family::DebertaV2 => sentencepiece::build(folder, family, config)?,
    };
    add_listed(&mut tokenizer, config)?;
    frame(&mut tokenizer, &marks.cls.content, &marks.sep.content)
        .map_err(|error| refused(format!("{}: {error}", family.files().join(" and "))))?;
    add_special(&mut tokenizer, config, marks)?;
    Ok(tokenizer)
}

/// The special tokens of a tokenizer built from files.
struct Named {
    cls: AddedToken,
    sep: AddedToken,
    unk: AddedToken,
    pad: AddedToken,
    mask: AddedToken,
}

/// What the folder names, else the family's defaults.
fn named(special: &Special, family: Family) -> Named {
    let marks = family.marks();
    let token = |named: &Option<Token>, default: &str, lstrip| match named {
        Some(token) => token.special(lstrip),
        None => AddedToken::from(default, true).lstrip(lstrip),
    };
    // Only this class wants its mark for unknown pieces found after the replacement of characters.
    let unk_normalized = match &special.unk {
        Some(Token::Object(object)) => object.normalized,
        _ => family == Family::DebertaV2,
    };
    Named {
        cls: token(&special.cls, marks.cls, false),
        sep: token(&special.sep, marks.sep, false),
        unk: token(&special.unk, marks.unk, false).normalized(unk_normalized),
        pad: token(&special.pad, marks.pad, false),
        mask: token(&special.mask, marks.mask, marks.mask_strips_left),
    }
}

/// Adds the tokens that the folder lists with their ids.
fn add_listed(tokenizer: &mut Tokenizer, config: &TokenizerConfig) -> tokenizers::Result<()> {
    bounds::add(tokenizer, config.added.values().cloned().collect())?;
    for (id, token) in &config.added {
        if tokenizer.token_to_id(&token.content) != Some(*id) {
            let text = &token.content;
            let problem = format!("the added token '{text}' cannot have the id {id}");
            return Err(refused(problem));
        }
    }
    Ok(())
}

/// Has the tokenizer put `cls` before and `sep` after each text.
fn frame(tokenizer: &mut Tokenizer, cls: &str, sep: &str) -> tokenizers::Result<()> {
    let id = |token: &str| {
        let id = tokenizer.token_to_id(token);
        id.map(|id| (token.to_owned(), id))
            .ok_or_else(|| format!("the vocabulary lacks '{token}'"))
    };
    let template = TemplateProcessing::builder()
        .try_single(format!("{cls} $A {sep}"))?
        .special_tokens(vec![id(cls)?, id(sep)?])
        .build()?;
    tokenizer.with_post_processor(Some(template));
    Ok(())
}

/// Adds the special tokens that are not listed. One that is not in the vocabulary either gets the
/// next free id, in the order in which transformers hands them out.
fn add_special(
    tokenizer: &mut Tokenizer,
    config: &TokenizerConfig,
    named: Named,
) -> tokenizers::Result<()> {
    let listed = |token: &AddedToken| {
        let mut listed = config.added.values();
        listed.any(|listed| listed.content == token.content)
    };
    let Named {
        cls,
        sep,
        unk,
        pad,
        mask,
    } = named;
    let more = config.special.more.iter().map(|token| token.special(false));
    let all = [unk, sep, pad, cls, mask].into_iter().chain(more);
    let new = all.filter(|token| !listed(token)).collect();
    bounds::add(tokenizer, new)
}
