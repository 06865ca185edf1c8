//! The shape of an encoder (`config.json`), as typed facts.

use std::path::Path;

use gpu_bridge_encoder::{Distances, PositionIds};
use serde::Deserialize;

use super::error::LoadError;
use super::settings_file::SettingsFile;

/// A family of encoders that this program can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Bert,
    Roberta,
    XlmRoberta,
    DistilBert,
    MpNet,
    DebertaV1,
    DebertaV2,
    ModernBert,
}

/// What folders call the families: `model_type`, and the beginning of the class for folders from
/// before that key existed.
const ARCHITECTURES: [(&str, &str, Architecture); 8] = [
    ("bert", "Bert", Architecture::Bert),
    ("roberta", "Roberta", Architecture::Roberta),
    ("xlm-roberta", "XLMRoberta", Architecture::XlmRoberta),
    ("distilbert", "DistilBert", Architecture::DistilBert),
    ("mpnet", "MPNet", Architecture::MpNet),
    ("deberta", "DebertaModel", Architecture::DebertaV1),
    ("deberta-v2", "DebertaV2", Architecture::DebertaV2),
    ("modernbert", "ModernBert", Architecture::ModernBert),
];

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
    Tanh,
}

impl From<Activation> for gpu_bridge_encoder::Activation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Gelu => Self::Gelu,
            Activation::GeluNew => Self::GeluTanh,
            Activation::Relu => Self::Relu,
            Activation::Tanh => Self::Tanh,
        }
    }
}

/// What `config.json` says of an encoder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EncoderConfig {
    pub(crate) architecture: Architecture,
    pub(crate) vocabulary: usize,
    /// Length of a token's vector.
    pub(crate) hidden: usize,
    /// Length of a token's embedding, before it is projected to `hidden`.
    pub(crate) embedding_width: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Width of the feed-forward layers.
    pub(crate) intermediate: usize,
    pub(crate) activation: Activation,
    pub(crate) token_types: usize,
    pub(crate) layer_norm_epsilon: f32,
    /// The embedding of positions.
    pub(crate) positions: Option<Positions>,
    /// A bias of the scores by distance.
    pub(crate) position_bias: Option<Distances>,
    pub(crate) disentangled: Option<Disentangled>,
    pub(crate) rotary: Option<Rotary>,
    pub(crate) convolution: Option<Convolution>,
    /// The most tokens of a sequence; `None`: any number.
    pub(crate) longest: Option<usize>,
}

/// A table of vectors by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Positions {
    pub(crate) rows: usize,
    pub(crate) ids: PositionIds,
}

/// DeBERTa's attention to relative positions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Disentangled {
    pub(crate) classes: Distances,
    /// Whether the query's content meets the key's position.
    pub(crate) by_query: bool,
    /// Whether the key's content meets the query's position.
    pub(crate) by_key: bool,
    /// The layers that make keys and queries of the positions.
    pub(crate) projections: (&'static str, &'static str),
    /// Whether the positions are normalised first.
    pub(crate) norm: bool,
}

impl Disentangled {
    /// How many terms a score is the sum of.
    pub(crate) fn terms(&self) -> usize {
        1 + usize::from(self.by_query) + usize::from(self.by_key)
    }
}

/// `ModernBERT`'s positions and windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rotary {
    pub(crate) global_theta: f32,
    pub(crate) local_theta: f32,
    /// Layers 0, n, 2n … look everywhere.
    pub(crate) global_every: usize,
    /// How far the others look, to either side.
    pub(crate) window: usize,
}

/// The convolution after the first layer of some DeBERTa v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Convolution {
    pub(crate) width: usize,
    pub(crate) activation: Activation,
}

impl EncoderConfig {
    /// Reads `folder/config.json`.
    pub(crate) fn read(folder: &Path) -> Result<Self, LoadError> {
        let file = SettingsFile::read(folder.join("config.json"))?;
        let architecture = architecture(&file)?;
        let config = match architecture {
            Architecture::Bert | Architecture::Roberta | Architecture::XlmRoberta => {
                Self::read_bert(&file, architecture)
            }
            Architecture::MpNet => Self::read_mpnet(&file),
            Architecture::DistilBert => Self::read_distilbert(&file),
            Architecture::DebertaV1 | Architecture::DebertaV2 => {
                Self::read_deberta(&file, architecture)
            }
            Architecture::ModernBert => Self::read_modernbert(&file),
        }?;
        config.check(&file)?;
        Ok(config)
    }

    fn read_bert(file: &SettingsFile, architecture: Architecture) -> Result<Self, LoadError> {
        let kind: Option<String> = file.get("position_embedding_type")?;
        if let Some(kind) = kind.filter(|kind| kind != "absolute") {
            let problem = format!("is '{kind}'; only 'absolute' is supported");
            return Err(file.problem("position_embedding_type", problem));
        }
        let ids = match architecture {
            Architecture::Bert => PositionIds::FromZero,
            _ => PositionIds::AfterPadding {
                padding: file.get("pad_token_id")?.unwrap_or(1),
            },
        };
        Self::read_common(file, architecture)?.with_positions(file, ids)
    }

    fn read_mpnet(file: &SettingsFile) -> Result<Self, LoadError> {
        /// The reference has these two fixed, whatever the file says.
        const PADDING: u32 = 1;
        const BUCKETS: usize = 32;
        let ids = PositionIds::AfterPadding { padding: PADDING };
        let config = Self::read_common(file, Architecture::MpNet)?.with_positions(file, ids)?;
        if file
            .get("relative_attention_num_buckets")?
            .unwrap_or(BUCKETS)
            != BUCKETS
        {
            let problem = format!("must be {BUCKETS}");
            return Err(file.problem("relative_attention_num_buckets", problem));
        }
        Ok(Self {
            position_bias: Some(Distances::T5 { buckets: BUCKETS }),
            token_types: 0,
            ..config
        })
    }

    fn read_distilbert(file: &SettingsFile) -> Result<Self, LoadError> {
        let hidden = file.require_count("dim")?;
        let config = Self {
            architecture: Architecture::DistilBert,
            vocabulary: file.require_count("vocab_size")?,
            hidden,
            embedding_width: hidden,
            layers: file.require_count("n_layers")?,
            heads: file.require_count("n_heads")?,
            intermediate: file.require_count("hidden_dim")?,
            activation: file.require("activation")?,
            token_types: 0,
            layer_norm_epsilon: 1e-12,
            positions: None,
            position_bias: None,
            disentangled: None,
            rotary: None,
            convolution: None,
            longest: None,
        };
        config.with_positions(file, PositionIds::FromZero)
    }

    fn read_deberta(file: &SettingsFile, architecture: Architecture) -> Result<Self, LoadError> {
        let mut config = Self::read_common(file, architecture)?;
        config.embedding_width = file.get("embedding_size")?.unwrap_or(config.hidden);
        if file.get("position_biased_input")?.unwrap_or(true) {
            config = config.with_positions(file, PositionIds::FromZero)?;
        }
        if file.get("talking_head")?.unwrap_or(false) {
            return Err(file.problem("talking_head", "is set; that is unsupported".to_owned()));
        }
        if file.get("relative_attention")?.unwrap_or(false) {
            config.disentangled = Some(disentangled(file, architecture)?);
        }
        if architecture == Architecture::DebertaV2 {
            config.convolution = convolution(file)?;
        }
        Ok(config)
    }

    fn read_modernbert(file: &SettingsFile) -> Result<Self, LoadError> {
        let hidden = file.require_count("hidden_size")?;
        let global_theta = file.get("global_rope_theta")?.unwrap_or(160_000.0);
        Ok(Self {
            architecture: Architecture::ModernBert,
            vocabulary: file.require_count("vocab_size")?,
            hidden,
            embedding_width: hidden,
            layers: file.require_count("num_hidden_layers")?,
            heads: file.require_count("num_attention_heads")?,
            intermediate: file.require_count("intermediate_size")?,
            activation: file.get("hidden_activation")?.unwrap_or(Activation::Gelu),
            token_types: 0,
            layer_norm_epsilon: file.get("norm_eps")?.unwrap_or(1e-5),
            positions: None,
            position_bias: None,
            disentangled: None,
            rotary: Some(Rotary {
                global_theta,
                local_theta: file.get("local_rope_theta")?.unwrap_or(global_theta),
                global_every: file.get("global_attn_every_n_layers")?.unwrap_or(3).max(1),
                window: file.get("local_attention")?.unwrap_or(128) / 2,
            }),
            convolution: None,
            longest: Some(file.require_count("max_position_embeddings")?),
        })
    }

    fn read_common(file: &SettingsFile, architecture: Architecture) -> Result<Self, LoadError> {
        let hidden = file.require_count("hidden_size")?;
        Ok(Self {
            architecture,
            vocabulary: file.require_count("vocab_size")?,
            hidden,
            embedding_width: hidden,
            layers: file.require_count("num_hidden_layers")?,
            heads: file.require_count("num_attention_heads")?,
            intermediate: file.require_count("intermediate_size")?,
            activation: file.require("hidden_act")?,
            token_types: file.get("type_vocab_size")?.unwrap_or(0),
            layer_norm_epsilon: file.get("layer_norm_eps")?.unwrap_or(1e-12),
            positions: None,
            position_bias: None,
            disentangled: None,
            rotary: None,
            convolution: None,
            longest: None,
        })
    }

    fn with_positions(self, file: &SettingsFile, ids: PositionIds) -> Result<Self, LoadError> {
        let rows = file.require_count("max_position_embeddings")?;
        Ok(Self {
            positions: Some(Positions { rows, ids }),
            longest: Some(ids.longest(rows)),
            ..self
        })
    }

    /// Refuses what would compute something else than the model's authors meant.
    fn check(&self, file: &SettingsFile) -> Result<(), LoadError> {
        if !self.hidden.is_multiple_of(self.heads) {
            let problem = format!("{} is not a multiple of {} heads", self.hidden, self.heads);
            return Err(file.problem("hidden_size", problem));
        }
        let head = self.hidden / self.heads;
        if self.rotary.is_some() && !head.is_multiple_of(2) {
            let problem = format!("gives each head {head} numbers; rotation needs an even count");
            return Err(file.problem("hidden_size", problem));
        }
        let padding: Option<usize> = file.get("pad_token_id")?;
        if padding.is_some_and(|id| id >= self.vocabulary) {
            return Err(file.problem("pad_token_id", "is not in the vocabulary".to_owned()));
        }
        if file.get("is_decoder")?.unwrap_or(false) {
            return Err(file.problem("is_decoder", "is set; only encoders are supported".into()));
        }
        Ok(())
    }
}

/// How a DeBERTa looks at relative positions.
fn disentangled(
    file: &SettingsFile,
    architecture: Architecture,
) -> Result<Disentangled, LoadError> {
    let span: i64 = file.get("max_relative_positions")?.unwrap_or(-1);
    let span = match usize::try_from(span) {
        Ok(span) if span > 0 => span,
        _ => file.require_count("max_position_embeddings")?,
    };
    let terms = position_terms(file)?;
    let buckets: i64 = file.get("position_buckets")?.unwrap_or(-1);
    let shared = file.get("share_att_key")?.unwrap_or(false);
    let norms: Option<String> = file.get("norm_rel_ebd")?;
    let v2 = architecture == Architecture::DebertaV2;
    Ok(Disentangled {
        classes: match usize::try_from(buckets) {
            Ok(buckets) if v2 && buckets > 0 => Distances::Logarithmic {
                buckets,
                farthest: span,
            },
            _ => Distances::Clamped { span },
        },
        by_query: terms.iter().any(|term| term == "c2p"),
        by_key: terms.iter().any(|term| term == "p2c"),
        projections: match (v2, shared) {
            (false, _) => ("pos_proj", "pos_q_proj"),
            (true, false) => ("pos_key_proj", "pos_query_proj"),
            (true, true) => ("key_proj", "query_proj"),
        },
        norm: v2 && norms.is_some_and(|norms| norms.to_lowercase().contains("layer_norm")),
    })
}

/// `pos_att_type`, which is a list or a text like `c2p|p2c`.
fn position_terms(file: &SettingsFile) -> Result<Vec<String>, LoadError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Terms {
        List(Vec<String>),
        Text(String),
    }
    const KEY: &str = "pos_att_type";
    let terms = match file.get(KEY)? {
        None => Vec::new(),
        Some(Terms::List(terms)) => terms,
        Some(Terms::Text(text)) => text
            .split('|')
            .map(|term| term.trim().to_lowercase())
            .collect(),
    };
    match terms
        .iter()
        .find(|term| !matches!(term.as_str(), "c2p" | "p2c" | ""))
    {
        None => Ok(terms),
        Some(other) => Err(file.problem(KEY, format!("has '{other}'; c2p and p2c are supported"))),
    }
}

fn convolution(file: &SettingsFile) -> Result<Option<Convolution>, LoadError> {
    let width = file.get("conv_kernel_size")?.unwrap_or(0);
    if width == 0 {
        return Ok(None);
    }
    if width % 2 == 0 || file.get("conv_groups")?.unwrap_or(1) != 1 {
        let problem = "must be odd, with 1 conv_groups".to_owned();
        return Err(file.problem("conv_kernel_size", problem));
    }
    let activation = file.get("conv_act")?.unwrap_or(Activation::Tanh);
    Ok(Some(Convolution { width, activation }))
}

/// By `model_type`; folders from before that key existed have only `architectures`.
fn architecture(file: &SettingsFile) -> Result<Architecture, LoadError> {
    let classes: Vec<String> = file.get("architectures")?.unwrap_or_default();
    let model_type: Option<String> = file.get("model_type")?;
    let class = classes.into_iter().next();
    let known = ARCHITECTURES
        .iter()
        .find(|(name, prefix, _)| match &model_type {
            Some(model_type) => model_type == name,
            None => class
                .as_ref()
                .is_some_and(|class| class.starts_with(prefix)),
        });
    known
        .map(|(_, _, architecture)| *architecture)
        .ok_or_else(|| LoadError::Architecture {
            found: model_type.or(class).unwrap_or_else(|| "unnamed".to_owned()),
            supported: ARCHITECTURES.map(|(name, _, _)| name).join(", "),
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;
    use crate::models::test_support::{folder_with, golden};

    fn config_with(key: &str, value: Value) -> TempDir {
        config_of("bert", key, value)
    }

    fn config_of(model: &str, key: &str, value: Value) -> TempDir {
        let file = golden("tiny").join(model).join("config.json");
        let text = std::fs::read(file).expect("golden file");
        let mut config: Value = serde_json::from_slice(&text).expect("JSON");
        config[key] = value;
        folder_with(&[("config.json", &config.to_string())])
    }

    #[test]
    fn a_real_config_is_read() {
        let config = EncoderConfig::read(&golden("tiny/bert")).expect("valid");
        assert_eq!((config.layers, config.hidden, config.heads), (5, 48, 4));
        assert_eq!(
            (config.longest, config.activation),
            (Some(128), Activation::Gelu)
        );
    }

    #[test]
    fn other_architectures_are_refused_by_name() {
        let folder = config_with("model_type", json!("longformer"));
        let error = EncoderConfig::read(folder.path()).expect_err("not supported");
        assert_eq!(
            error.to_string(),
            "architecture 'longformer' is not supported; supported: bert, roberta, xlm-roberta, \
             distilbert, mpnet, deberta, deberta-v2, modernbert"
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

    #[test]
    fn heads_that_are_rotated_have_an_even_size() {
        let heads = |count| {
            let folder = config_of("modernbert", "num_attention_heads", json!(count));
            EncoderConfig::read(folder.path())
        };
        let config = heads(4).expect("valid");
        let error = heads(config.hidden).expect_err("one number for each head");
        assert!(
            error.to_string().contains("gives each head 1 numbers"),
            "{error}"
        );
    }
}
