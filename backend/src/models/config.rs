//! The shape of an encoder (`config.json`) and the limits of its tokenizer
//! (`tokenizer_config.json`), as typed facts.

use std::path::Path;

use serde::Deserialize;

use super::error::LoadError;
use super::settings_file::SettingsFile;

/// `transformers` writes 1e30 for "no limit"; anything near that is no limit either.
const NO_LENGTH_LIMIT: f64 = 1e9;

/// A family of encoders that this program can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Bert,
}

/// `model_type` of every [`Architecture`], for the message about any other.
const SUPPORTED: &str = "bert";

/// The non-linearity between the two halves of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activation {
    /// Exact, with the error function.
    Gelu,
    /// The tanh approximation, under the names that `transformers` has for it.
    #[serde(alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluNew,
    Relu,
}

/// What `config.json` says of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EncoderConfig {
    pub(crate) architecture: Architecture,
    pub(crate) vocabulary: usize,
    /// Length of a token's vector.
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Width of the feed-forward layers.
    pub(crate) intermediate: usize,
    pub(crate) activation: Activation,
    /// The most tokens a sequence can have.
    pub(crate) positions: usize,
    pub(crate) token_types: usize,
    pub(crate) layer_norm_epsilon: f64,
    /// Fills the end of shorter sequences in a batch; masked, so that any valid id does.
    pub(crate) padding: u32,
}

impl EncoderConfig {
    /// Reads `folder/config.json`.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadError> {
        let file = SettingsFile::read(folder.join("config.json"))?;
        let config = Self {
            architecture: architecture(&file)?,
            vocabulary: file.require_count("vocab_size")?,
            hidden: file.require_count("hidden_size")?,
            layers: file.require_count("num_hidden_layers")?,
            heads: file.require_count("num_attention_heads")?,
            intermediate: file.require_count("intermediate_size")?,
            activation: file.require("hidden_act")?,
            positions: file.require_count("max_position_embeddings")?,
            token_types: file.require_count("type_vocab_size")?,
            layer_norm_epsilon: file.get("layer_norm_eps")?.unwrap_or(1e-12),
            padding: file.get("pad_token_id")?.unwrap_or(0),
        };
        config.check(&file)?;
        Ok(config)
    }

    /// Refuses what would compute something else than the model's authors meant.
    fn check(&self, file: &SettingsFile) -> Result<(), LoadError> {
        if !self.hidden.is_multiple_of(self.heads) {
            let problem = format!("{} is not a multiple of {} heads", self.hidden, self.heads);
            return Err(file.problem("hidden_size", problem));
        }
        if usize::try_from(self.padding).is_ok_and(|id| id >= self.vocabulary) {
            return Err(file.problem("pad_token_id", "is not in the vocabulary".to_owned()));
        }
        let positions: Option<String> = file.get("position_embedding_type")?;
        if let Some(kind) = positions.filter(|kind| kind != "absolute") {
            let problem = format!("is '{kind}'; only 'absolute' is supported");
            return Err(file.problem("position_embedding_type", problem));
        }
        if file.get("is_decoder")?.unwrap_or(false) {
            return Err(file.problem("is_decoder", "is set; only encoders are supported".into()));
        }
        Ok(())
    }
}

/// By `model_type`; folders from before that key existed have only `architectures`.
fn architecture(file: &SettingsFile) -> Result<Architecture, LoadError> {
    let classes: Vec<String> = file.get("architectures")?.unwrap_or_default();
    let model_type: Option<String> = file.get("model_type")?;
    let class = classes.into_iter().next();
    match (model_type.as_deref(), class.as_deref()) {
        (Some("bert"), _) => Ok(Architecture::Bert),
        (None, Some(class)) if class.starts_with("Bert") => Ok(Architecture::Bert),
        _ => Err(LoadError::Architecture {
            found: model_type.or(class).unwrap_or_else(|| "unnamed".to_owned()),
            supported: SUPPORTED,
        }),
    }
}

/// What `tokenizer_config.json` says; a folder may do without that file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenizerConfig {
    /// The most tokens a text may have, special ones included; `None`: no limit of its own.
    pub(crate) max_length: Option<usize>,
    pub(crate) lower_case: bool,
    /// The token before a text.
    pub(crate) start: String,
    /// The token after a text.
    pub(crate) end: String,
}

impl TokenizerConfig {
    /// Reads `folder/tokenizer_config.json`.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadError> {
        let file = SettingsFile::read_or_empty(folder.join("tokenizer_config.json"))?;
        Ok(Self {
            max_length: max_length(&file)?,
            lower_case: file.get("do_lower_case")?.unwrap_or(true),
            start: token(&file, "cls_token", "[CLS]")?,
            end: token(&file, "sep_token", "[SEP]")?,
        })
    }
}

fn max_length(file: &SettingsFile) -> Result<Option<usize>, LoadError> {
    const KEY: &str = "model_max_length";
    let Some(length) = file
        .get::<f64>(KEY)?
        .filter(|length| *length < NO_LENGTH_LIMIT)
    else {
        return Ok(None);
    };
    match file.get::<usize>(KEY) {
        Ok(whole) => Ok(whole),
        Err(_) => Err(file.problem(KEY, format!("is {length}; it must be a whole number"))),
    }
}

/// A special token's text, written as a string or as an object with `content`.
fn token(file: &SettingsFile, key: &'static str, default: &str) -> Result<String, LoadError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Token {
        Text(String),
        Object { content: String },
    }
    Ok(match file.get(key)? {
        Some(Token::Text(text) | Token::Object { content: text }) => text,
        None => default.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;
    use crate::models::test_support::{folder_with, golden};

    fn config_with(key: &str, value: Value) -> TempDir {
        let text = std::fs::read(golden("tiny/bert/config.json")).expect("golden file");
        let mut config: Value = serde_json::from_slice(&text).expect("JSON");
        config[key] = value;
        folder_with(&[("config.json", &config.to_string())])
    }

    #[test]
    fn a_real_config_is_read() {
        let config = EncoderConfig::read(&golden("tiny/bert")).expect("valid");
        assert_eq!((config.layers, config.hidden, config.heads), (5, 48, 4));
        assert_eq!(
            (config.positions, config.activation),
            (128, Activation::Gelu)
        );
    }

    #[test]
    fn other_architectures_are_refused_by_name() {
        let folder = config_with("model_type", json!("deberta"));
        let error = EncoderConfig::read(folder.path()).expect_err("not supported");
        assert_eq!(
            error.to_string(),
            "architecture 'deberta' is not supported; supported: bert"
        );
    }

    #[test]
    fn a_folder_without_model_type_goes_by_its_class() {
        let folder = config_with("model_type", Value::Null);
        assert!(EncoderConfig::read(folder.path()).is_ok());
    }

    #[test]
    fn odd_values_are_errors_that_name_the_key() {
        for (key, value) in [
            ("hidden_act", json!("swish")),
            ("hidden_size", json!(50)),
            ("num_attention_heads", json!(0)),
            ("max_position_embeddings", json!(-1)),
            ("vocab_size", Value::Null),
            ("pad_token_id", json!(900)),
            ("position_embedding_type", json!("relative_key")),
            ("is_decoder", json!(true)),
        ] {
            let folder = config_with(key, value);
            let error = EncoderConfig::read(folder.path()).expect_err(key);
            assert!(
                error
                    .to_string()
                    .contains(&format!("config.json: '{key}' ")),
                "{error}"
            );
        }
    }

    fn tokenizer_config(text: &str) -> Result<TokenizerConfig, LoadError> {
        TokenizerConfig::read(folder_with(&[("tokenizer_config.json", text)]).path())
    }

    #[test]
    fn lengths_that_mean_none_are_none() {
        let length = |text| tokenizer_config(text).expect("valid").max_length;
        assert_eq!(length(r#"{"model_max_length": 512}"#), Some(512));
        assert_eq!(
            length(r#"{"model_max_length": 1000000000000000019884624838656}"#),
            None
        );
        assert_eq!(length(r#"{"model_max_length": 1e30}"#), None);
        assert_eq!(length("{}"), None);
        assert!(tokenizer_config(r#"{"model_max_length": -5}"#).is_err());
        assert!(tokenizer_config(r#"{"model_max_length": 5.5}"#).is_err());
    }

    #[test]
    fn special_tokens_may_be_objects_and_may_be_missing() {
        let read = tokenizer_config(r#"{"cls_token": {"content": "<s>", "lstrip": false}}"#);
        let config = read.expect("valid");
        assert_eq!(
            (config.start.as_str(), config.end.as_str()),
            ("<s>", "[SEP]")
        );
        assert!(config.lower_case);
    }

    #[test]
    fn a_folder_without_the_file_has_the_defaults() {
        let folder = folder_with(&[]);
        let config = TokenizerConfig::read(folder.path()).expect("defaults");
        assert_eq!(config.max_length, None);
    }
}
