//! The shape of an encoder (`config.json`), as typed facts. Where a key is left out, the default of
//! the model's class in transformers counts; they differ from class to class.

mod deberta;
mod rotary;
mod rules;

use std::path::Path;

use gpu_bridge_encoder::{Distances, PositionIds};
use serde::Deserialize;

use super::error::LoadError;
use super::file;
use super::settings_file::{Setting, SettingsFile};
use crate::engine::Shortening;

/// `max_position_embeddings` where a folder does not say.
const POSITIONS: usize = 512;

/// The most of each number: four times what the largest encoder published has (XLM-RoBERTa XXL: 48
/// layers, 4,096 and 16,384 wide; XLM-V: 901,629 tokens). Larger ones could be shapes of nothing, or
/// of tensors that a batch of texts turns into more than any machine has.
const MOST_LAYERS: usize = 192;
/// See [`MOST_LAYERS`].
pub(super) const MOST_WIDTH: usize = 16_384;
/// See [`MOST_LAYERS`].
const MOST_INTERMEDIATE: usize = 65_536;
/// See [`MOST_LAYERS`].
const MOST_TOKENS: usize = 4 << 20;
/// Models say that they take a million tokens, and some "any number" by a power of two.
const MOST_POSITIONS: usize = 1 << 32;

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
    #[serde(alias = "gelu_python")]
    Gelu,
    /// The tanh approximation, under the names that `transformers` has for it.
    #[serde(
        alias = "gelu_pytorch_tanh",
        alias = "gelu_fast",
        alias = "gelu_accurate"
    )]
    GeluNew,
    Relu,
    Tanh,
}

impl Setting for Activation {
    const KIND: &'static str = "gelu, gelu_new, relu or tanh, or another name of one of these";
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
    pub(crate) biases: Biases,
    /// The most tokens of a sequence; `None`: any number.
    pub(crate) longest: Option<usize>,
    /// The scale of scores counts as many terms. A DeBERTa that looks at no positions counts those that
    /// it names all the same.
    pub(crate) score_terms: usize,
    /// At so many tokens texts are cut for embeddings, unless the folder says where.
    pub(crate) most_positions: usize,
    /// Of embeddings.
    pub(crate) shortening: Shortening,
}

/// Which parts have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Biases {
    pub(crate) attention: bool,
    pub(crate) feed: bool,
    pub(crate) norms: bool,
}

impl Biases {
    const ALL: Self = Self {
        attention: true,
        feed: true,
        norms: true,
    };
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

/// `ModernBERT`'s positions and windows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotary {
    pub(crate) global_theta: f32,
    pub(crate) local_theta: f32,
    /// For each layer, whether it looks everywhere.
    pub(crate) global: Vec<bool>,
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
        refuse_adapter(folder)?;
        let file = SettingsFile::read(folder.join("config.json"))?;
        let config = Self::of(&file)?;
        file.settle(&rules::of(config.architecture))?;
        Ok(config)
    }

    fn of(file: &SettingsFile) -> Result<Self, LoadError> {
        let architecture = architecture(file)?;
        let config = match architecture {
            Architecture::Bert | Architecture::Roberta | Architecture::XlmRoberta => {
                Self::read_bert(file, architecture)
            }
            Architecture::MpNet => Self::read_mpnet(file),
            Architecture::DistilBert => Self::read_distilbert(file),
            Architecture::DebertaV1 | Architecture::DebertaV2 => {
                Self::read_deberta(file, architecture)
            }
            Architecture::ModernBert => Self::read_modernbert(file),
        }?;
        config.check(file)?;
        Ok(config)
    }

    fn read_bert(file: &SettingsFile, architecture: Architecture) -> Result<Self, LoadError> {
        const PADDING: &str = "pad_token_id";
        let kind: Option<String> = file.get("position_embedding_type")?;
        if let Some(kind) = kind.filter(|kind| kind != "absolute") {
            let problem = format!("is '{kind}'; only 'absolute' is supported");
            return Err(file.problem("position_embedding_type", problem));
        }
        let ids = match architecture {
            Architecture::Bert => PositionIds::FromZero,
            // Left out, it is 1; the class has no number for null.
            _ if file.is_null(PADDING) => {
                let problem = "is null; positions are counted from it, and it is 1 in most models";
                return Err(file.problem(PADDING, problem.to_owned()));
            }
            _ => PositionIds::AfterPadding {
                padding: file.get(PADDING)?.unwrap_or(1),
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
        if file.count_or("relative_attention_num_buckets", BUCKETS, BUCKETS)? != BUCKETS {
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
        // Its own names for what others call otherwise; the class takes both, and rather the others'.
        let named =
            |own: &'static str, other: &'static str| if file.has(other) { other } else { own };
        let hidden = file.count_or(named("dim", "hidden_size"), 768, MOST_WIDTH)?;
        let config = Self {
            layers: file.count_or(named("n_layers", "num_hidden_layers"), 6, MOST_LAYERS)?,
            heads: file.count_or(named("n_heads", "num_attention_heads"), 12, MOST_WIDTH)?,
            intermediate: file.count_or("hidden_dim", 3072, MOST_INTERMEDIATE)?,
            ..Self::plain(file, Architecture::DistilBert, hidden, "activation")?
        };
        config.with_positions(file, PositionIds::FromZero)
    }

    fn read_deberta(file: &SettingsFile, architecture: Architecture) -> Result<Self, LoadError> {
        let mut config = Self::read_common(file, architecture)?;
        config.embedding_width = file.count_or("embedding_size", config.hidden, MOST_WIDTH)?;
        config.score_terms = deberta::score_terms(file, architecture)?;
        if file.get("position_biased_input")?.unwrap_or(true) {
            config = config.with_positions(file, PositionIds::FromZero)?;
        }
        if file.get("relative_attention")?.unwrap_or(false) {
            config.disentangled = Some(deberta::disentangled(file, architecture)?);
        }
        if architecture == Architecture::DebertaV2 {
            config.convolution = deberta::convolution(file)?;
        }
        config.check_head(file, "attention_head_size")?;
        Ok(config)
    }

    fn read_modernbert(file: &SettingsFile) -> Result<Self, LoadError> {
        let hidden = file.count_or("hidden_size", 768, MOST_WIDTH)?;
        let layers = file.count_or("num_hidden_layers", 22, MOST_LAYERS)?;
        let config = Self {
            layers,
            heads: file.count_or("num_attention_heads", 12, MOST_WIDTH)?,
            intermediate: file.count_or("intermediate_size", 1152, MOST_INTERMEDIATE)?,
            layer_norm_epsilon: file.number("norm_eps", 0.0)?.unwrap_or(1e-5),
            most_positions: file.count_or("max_position_embeddings", 8192, MOST_POSITIONS)?,
            rotary: Some(rotary::read(file, layers)?),
            biases: Biases {
                attention: file.get("attention_bias")?.unwrap_or(false),
                feed: file.get("mlp_bias")?.unwrap_or(false),
                norms: file.get("norm_bias")?.unwrap_or(false),
            },
            ..Self::plain(file, Architecture::ModernBert, hidden, "hidden_activation")?
        };
        config.check_head(file, "head_dim")?;
        Ok(config)
    }

    /// Refuses heads of another size than the hidden size gives them.
    fn check_head(&self, file: &SettingsFile, key: &str) -> Result<(), LoadError> {
        let head: Option<usize> = file.get(key)?;
        if head.is_none_or(|head| head.checked_mul(self.heads) == Some(self.hidden)) {
            return Ok(());
        }
        let problem = "is not hidden_size ÷ num_attention_heads; that is unsupported";
        Err(file.problem(key, problem.to_owned()))
    }

    fn read_common(file: &SettingsFile, architecture: Architecture) -> Result<Self, LoadError> {
        let large = architecture == Architecture::DebertaV2;
        let hidden = file.count_or("hidden_size", if large { 1536 } else { 768 }, MOST_WIDTH)?;
        let blocks = if large { 24 } else { 12 };
        let (types, epsilon) = match architecture {
            Architecture::DebertaV1 | Architecture::DebertaV2 => (0, 1e-7),
            _ => (2, 1e-12),
        };
        Ok(Self {
            layers: file.count_or("num_hidden_layers", blocks, MOST_LAYERS)?,
            heads: file.count_or("num_attention_heads", blocks, MOST_WIDTH)?,
            intermediate: file.count_or(
                "intermediate_size",
                if large { 6144 } else { 3072 },
                MOST_INTERMEDIATE,
            )?,
            token_types: match types {
                // A table that the class makes only then.
                0 => file.get("type_vocab_size")?.unwrap_or(types),
                _ => file.count_or("type_vocab_size", types, MOST_TOKENS)?,
            },
            layer_norm_epsilon: file.number("layer_norm_eps", 0.0)?.unwrap_or(epsilon),
            ..Self::plain(file, architecture, hidden, "hidden_act")?
        })
    }

    /// Without any layer, token type or position yet.
    fn plain(
        file: &SettingsFile,
        architecture: Architecture,
        hidden: usize,
        activation: &str,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            architecture,
            vocabulary: file.count_or("vocab_size", vocabulary(architecture), MOST_TOKENS)?,
            hidden,
            embedding_width: hidden,
            layers: 0,
            heads: 1,
            intermediate: 0,
            activation: file.get(activation)?.unwrap_or(Activation::Gelu),
            token_types: 0,
            layer_norm_epsilon: 1e-12,
            positions: None,
            position_bias: None,
            disentangled: None,
            rotary: None,
            convolution: None,
            biases: Biases::ALL,
            longest: None,
            score_terms: 1,
            most_positions: file.count_or("max_position_embeddings", POSITIONS, MOST_POSITIONS)?,
            shortening: shortening(file)?,
        })
    }

    fn with_positions(self, file: &SettingsFile, ids: PositionIds) -> Result<Self, LoadError> {
        let rows = file.count_or("max_position_embeddings", POSITIONS, MOST_POSITIONS)?;
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

/// Said in the keys that vLLM reads; sentence-transformers has none for it.
fn shortening(file: &SettingsFile) -> Result<Shortening, LoadError> {
    let lengths: Option<Vec<usize>> = file.get("matryoshka_dimensions")?;
    let any = file.get("is_matryoshka")?.unwrap_or(false);
    Ok(match lengths {
        Some(lengths) if lengths.len() > MOST_WIDTH => {
            let problem = format!("has {} lengths, the limit is {MOST_WIDTH}", lengths.len());
            return Err(file.problem("matryoshka_dimensions", problem));
        }
        Some(lengths) => Shortening::To(lengths),
        None if any => Shortening::Any,
        None => Shortening::No,
    })
}

/// The size of the vocabulary where a folder does not say, as in the class in transformers.
fn vocabulary(architecture: Architecture) -> usize {
    match architecture {
        Architecture::Bert | Architecture::XlmRoberta | Architecture::DistilBert => 30_522,
        Architecture::Roberta | Architecture::DebertaV1 => 50_265,
        Architecture::MpNet => 30_527,
        Architecture::DebertaV2 => 128_100,
        Architecture::ModernBert => 50_368,
    }
}

/// The weights of an adapter change those beside them; alone these would be another model.
fn refuse_adapter(folder: &Path) -> Result<(), LoadError> {
    let path = folder.join("adapter_config.json");
    if !file::is_there(&path) {
        return Ok(());
    }
    Err(SettingsFile::read(path)?.problem(
        "peft_type",
        "asks for an adapter; that is unsupported".into(),
    ))
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
mod tests;
