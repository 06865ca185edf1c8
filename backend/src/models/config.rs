//! The shape of an encoder (`config.json`), as typed facts.

use std::path::Path;

use serde::Deserialize;

use super::error::LoadError;
use super::settings_file::SettingsFile;

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
}
