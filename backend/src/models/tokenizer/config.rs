//! What a folder's settings say about its tokenizer: `tokenizer_config.json`, and what older folders
//! have beside or instead of it (`special_tokens_map.json`, `added_tokens.json`, `config.json`).
//! A folder may lack all of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use crate::models::error::LoadError;
use crate::models::settings_file::Rule::{self, Any, Off};
use crate::models::settings_file::{Setting, SettingsFile};

/// `transformers` writes 1e30 for "no limit"; anything near that is no limit either.
const NO_LENGTH_LIMIT: f64 = 1e9;

/// A token with a part of its own, as a string or as an object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Token {
    Text(String),
    Object(TokenObject),
}

/// A token written out with its flags.
#[expect(clippy::struct_excessive_bools, reason = "the format's own flags")]
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct TokenObject {
    content: String,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    special: bool,
}

impl Setting for Token {
    const KIND: &'static str = "a text, or an object with its 'content' and flags";
}

impl Setting for Vec<Token> {
    const KIND: &'static str = "a list of tokens";
}

impl Setting for BTreeMap<String, Token> {
    const KIND: &'static str = "an object of tokens";
}

impl Setting for BTreeMap<u32, TokenObject> {
    const KIND: &'static str = "an object of tokens by their ids";
}

impl Token {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Object(object) => &object.content,
        }
    }

    /// The token as a special one; `lstrip` is for a token without flags.
    pub(super) fn special(&self, lstrip: bool) -> AddedToken {
        match self {
            Self::Text(text) => AddedToken::from(text.as_str(), true).lstrip(lstrip),
            Self::Object(object) => object.token(true),
        }
    }
}

impl TokenObject {
    fn token(&self, special: bool) -> AddedToken {
        AddedToken::from(self.content.as_str(), special)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .single_word(self.single_word)
            .normalized(self.normalized)
    }
}

/// The special tokens that a folder names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Special {
    pub(super) cls: Option<Token>,
    pub(super) sep: Option<Token>,
    pub(super) unk: Option<Token>,
    pub(super) pad: Option<Token>,
    pub(super) mask: Option<Token>,
    /// Those around a text under another model's names, and others: found in texts like the rest.
    pub(super) more: Vec<Token>,
}

impl Special {
    fn read(file: &SettingsFile) -> Result<Self, LoadError> {
        Ok(Self {
            cls: file.get("cls_token")?,
            sep: file.get("sep_token")?,
            unk: file.get("unk_token")?,
            pad: file.get("pad_token")?,
            mask: file.get("mask_token")?,
            more: file
                .get("bos_token")?
                .into_iter()
                .chain(file.get("eos_token")?)
                .chain(more_tokens(file)?)
                .collect(),
        })
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Token> {
        let named = [&self.unk, &self.sep, &self.pad, &self.cls, &self.mask];
        named.into_iter().flatten().chain(&self.more)
    }

    /// These tokens, and those of `other` where there are none.
    fn or(self, other: Self) -> Self {
        Self {
            cls: self.cls.or(other.cls),
            sep: self.sep.or(other.sep),
            unk: self.unk.or(other.unk),
            pad: self.pad.or(other.pad),
            mask: self.mask.or(other.mask),
            more: if self.more.is_empty() {
                other.more
            } else {
                self.more
            },
        }
    }
}

/// Special tokens without a part of their own, under the names of transformers 4 and 5. The newer
/// one may be an object of named ones, which version 5 writes under a name of their own.
fn more_tokens(file: &SettingsFile) -> Result<Vec<Token>, LoadError> {
    const NEWER: &str = "extra_special_tokens";
    let named: Option<BTreeMap<String, Token>> = file.get("model_specific_special_tokens")?;
    let named: Vec<Token> = named.unwrap_or_default().into_values().collect();
    let older = |more: Vec<Token>| {
        let listed: Option<Vec<Token>> = file.get("additional_special_tokens")?;
        let listed = listed.into_iter().flatten();
        Ok([named.clone(), more]
            .concat()
            .into_iter()
            .chain(listed)
            .collect())
    };
    match file.get(NEWER)? {
        Some(Value::Array(_)) => {
            let listed: Vec<Token> = file.get(NEWER)?.unwrap_or_default();
            Ok([named, listed].concat())
        }
        Some(Value::Object(_)) => {
            let named: BTreeMap<String, Token> = file.get(NEWER)?.unwrap_or_default();
            older(named.into_values().collect())
        }
        _ => older(Vec::new()),
    }
}

/// The settings of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenizerConfig {
    /// The most tokens a text may have, special ones included; `None`: no limit of its own.
    pub(crate) max_length: Option<usize>,
    /// Whether a text that is too long loses its beginning; `None`: not said.
    pub(super) cut_left: Option<bool>,
    /// Name of the Python class.
    pub(super) class: Option<String>,
    /// The encoder's `model_type`.
    pub(super) model_type: Option<String>,
    pub(super) lower_case: Option<bool>,
    pub(super) strip_accents: Option<bool>,
    pub(super) split_chinese: Option<bool>,
    pub(super) prefix_space: Option<bool>,
    pub(super) split_punctuation: Option<bool>,
    /// Whether a token goes before, and after, each text, in classes that go by these.
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    pub(super) special: Special,
    /// Tokens besides the vocabulary's, by id.
    pub(super) added: BTreeMap<u32, AddedToken>,
    /// Whether it is said how those are found in a text.
    pub(super) added_have_flags: bool,
}

impl TokenizerConfig {
    /// Reads the settings in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadError> {
        let read = |name: &str| SettingsFile::read_or_empty(folder.join(name));
        let (file, model) = (read("tokenizer_config.json")?, read("config.json")?);
        let class: Option<String> = file.get("tokenizer_class")?;
        // Read even where the newer form of the same is there.
        file.get::<Value>("max_len")?;
        let with_flags: Option<BTreeMap<u32, TokenObject>> = file.get("added_tokens_decoder")?;
        let mut special = Special::read(&file)?;
        // Folders that write tokens with their flags need no second list of special tokens.
        if with_flags.is_none() {
            let map = read("special_tokens_map.json")?;
            special = Special::read(&map)?.or(special);
            map.settle(RULES)?;
        }
        let added_have_flags = with_flags.is_some();
        let added = match with_flags {
            Some(tokens) => by_id(&tokens),
            None => bare(&read("added_tokens.json")?)?,
        };
        let config = Self {
            max_length: max_length(&file)?,
            cut_left: cut_left(&file)?,
            class: class.or(model.get("tokenizer_class")?),
            model_type: model.get("model_type")?,
            lower_case: file.get("do_lower_case")?,
            strip_accents: file.get("strip_accents")?,
            split_chinese: file.get("tokenize_chinese_chars")?,
            prefix_space: file.get("add_prefix_space")?,
            split_punctuation: file.get("split_by_punct")?,
            add_bos: file.get("add_bos_token")?,
            add_eos: file.get("add_eos_token")?,
            special,
            added,
            added_have_flags,
        };
        file.settle(RULES)?;
        Ok(config)
    }
}

/// The keys of `tokenizer_config.json` that nothing reads.
const RULES: &[(&str, Rule)] = &[
    ("auto_map", Off),
    ("backend", Any),
    ("chat_template", Any),
    ("clean_up_tokenization_spaces", Any),
    ("cls_token_type_id", Any),
    ("do_basic_tokenize", Any),
    ("errors", Any),
    // Where the newer name of the same is there.
    ("additional_special_tokens", Any),
    ("full_tokenizer_file", Any),
    ("init_inputs", Off),
    ("is_local", Any),
    ("legacy", Any),
    ("local_files_only", Any),
    ("max_len_single_sentence", Any),
    ("max_len_sentences_pair", Any),
    ("max_length", Any),
    ("merges_file", Any),
    ("model_input_names", Any),
    ("name_or_path", Any),
    ("never_split", Off),
    ("pad_to_multiple_of", Any),
    ("pad_token_type_id", Any),
    // Nothing is padded.
    ("padding", Any),
    ("padding_side", Any),
    ("processor_class", Any),
    // Draws pieces at random if its content says so.
    ("sp_model_kwargs", Off),
    ("special_tokens_map_file", Any),
    ("split_special_tokens", Off),
    ("stride", Any),
    ("tokenizer_file", Any),
    ("trim_offsets", Any),
    ("truncation", Any),
    ("truncation_strategy", Any),
    ("unk_id", Any),
    ("use_fast", Any),
    ("vocab_file", Any),
    ("vocab_type", Any),
    ("word_shape", Any),
];

fn cut_left(file: &SettingsFile) -> Result<Option<bool>, LoadError> {
    const KEY: &str = "truncation_side";
    match file.get::<String>(KEY)?.as_deref() {
        None => Ok(None),
        Some("left") => Ok(Some(true)),
        Some("right") => Ok(Some(false)),
        Some(side) => Err(file.problem(KEY, format!("is '{side}', neither 'left' nor 'right'"))),
    }
}

fn by_id(tokens: &BTreeMap<u32, TokenObject>) -> BTreeMap<u32, AddedToken> {
    let token = |(id, token): (&u32, &TokenObject)| (*id, token.token(token.special));
    tokens.iter().map(token).collect()
}

/// The tokens of `added_tokens.json`, which has no flags: found after normalisation, as words are.
fn bare(file: &SettingsFile) -> Result<BTreeMap<u32, AddedToken>, LoadError> {
    let tokens: BTreeMap<String, u32> = file.all()?;
    let token = |(text, id): (String, u32)| (id, AddedToken::from(text, false));
    Ok(tokens.into_iter().map(token).collect())
}

fn max_length(file: &SettingsFile) -> Result<Option<usize>, LoadError> {
    const KEY: &str = "model_max_length";
    const OLD_KEY: &str = "max_len";
    let key = match file.get::<f64>(KEY)? {
        Some(_) => KEY,
        None => OLD_KEY,
    };
    let limit = file.get::<f64>(key)?;
    let Some(length) = limit.filter(|length| *length < NO_LENGTH_LIMIT) else {
        return Ok(None);
    };
    match file.get::<usize>(key) {
        Ok(whole) => Ok(whole),
        Err(_) => Err(file.problem(key, format!("is {length}; it must be a whole number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::test_support::folder_with;

    fn read(files: &[(&str, &str)]) -> Result<TokenizerConfig, LoadError> {
        TokenizerConfig::read(folder_with(files).path())
    }

    fn tokenizer_config(text: &str) -> Result<TokenizerConfig, LoadError> {
        read(&[("tokenizer_config.json", text)])
    }

    #[test]
    fn lengths_that_mean_none_are_none() {
        let length = |text| tokenizer_config(text).expect("valid").max_length;
        assert_eq!(length(r#"{"model_max_length": 512}"#), Some(512));
        assert_eq!(length(r#"{"max_len": 512}"#), Some(512));
        assert_eq!(
            length(r#"{"model_max_length": 1000000000000000019884624838656}"#),
            None
        );
        assert_eq!(length(r#"{"model_max_length": 1e30, "max_len": 5}"#), None);
        assert_eq!(length("{}"), None);
        assert!(tokenizer_config(r#"{"model_max_length": -5}"#).is_err());
        assert!(tokenizer_config(r#"{"model_max_length": 5.5}"#).is_err());
    }

    #[test]
    fn special_tokens_may_be_objects_and_may_be_missing() {
        let config = tokenizer_config(
            r#"{"cls_token": {"content": "<s>", "lstrip": false}, "mask_token": "<m>"}"#,
        );
        let special = config.expect("valid").special;
        assert_eq!(special.cls.as_ref().map(Token::text), Some("<s>"));
        assert_eq!(special.mask, Some(Token::Text("<m>".to_owned())));
        assert_eq!(special.sep, None);
        let more = |text| tokenizer_config(text).expect("valid").special.more;
        let one = vec![Token::Text("<x>".to_owned())];
        assert_eq!(more(r#"{"additional_special_tokens": ["<x>"]}"#), one);
        assert_eq!(more(r#"{"extra_special_tokens": ["<x>"]}"#), one);
        assert_eq!(more(r#"{"extra_special_tokens": {"x": "<x>"}}"#), one);
        assert_eq!(more(r#"{"extra_special_tokens": {}}"#), []);
    }

    #[test]
    fn the_older_files_count_where_the_newer_form_is_not_used() {
        let map = ("special_tokens_map.json", r#"{"cls_token": "<map>"}"#);
        let added = ("added_tokens.json", r#"{"<extra>": 7}"#);
        let old = (
            "tokenizer_config.json",
            r#"{"cls_token": "<config>", "sep_token": "<end>"}"#,
        );
        let new = (
            "tokenizer_config.json",
            r#"{"cls_token": "<config>", "added_tokens_decoder": {"9": {"content": "<new>"}}}"#,
        );
        let old = read(&[map, added, old]).expect("valid");
        assert_eq!(old.special.cls.as_ref().map(Token::text), Some("<map>"));
        assert_eq!(old.special.sep.as_ref().map(Token::text), Some("<end>"));
        assert_eq!(old.added[&7].content, "<extra>");
        let new = read(&[map, added, new]).expect("valid");
        assert_eq!(new.special.cls.as_ref().map(Token::text), Some("<config>"));
        assert_eq!(new.added.keys().collect::<Vec<_>>(), [&9]);
    }

    #[test]
    fn the_class_may_stand_in_either_file() {
        let model = (
            "config.json",
            r#"{"model_type": "bert", "tokenizer_class": "A"}"#,
        );
        let config = read(&[model]).expect("valid");
        assert_eq!(config.class.as_deref(), Some("A"));
        assert_eq!(config.model_type.as_deref(), Some("bert"));
        let own = ("tokenizer_config.json", r#"{"tokenizer_class": "B"}"#);
        assert_eq!(
            read(&[model, own]).expect("valid").class.as_deref(),
            Some("B")
        );
    }

    #[test]
    fn a_folder_without_any_file_has_the_defaults() {
        let config = read(&[]).expect("defaults");
        assert_eq!(
            (config.max_length, config.special),
            (None, Special::default())
        );
    }
}
