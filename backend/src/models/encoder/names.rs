//! What the authors of each family called their tensors.

use crate::models::config::Architecture;

/// Names of one family. Those of a layer come after `layers` and the layer's number.
pub(super) struct Names {
    /// A checkpoint with a task's head on top has the encoder's tensors under this prefix.
    pub(super) prefix: &'static str,
    pub(super) words: &'static str,
    pub(super) embedding_norm: &'static str,
    pub(super) layers: &'static str,
    pub(super) qkv: Qkv,
    pub(super) output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) feed_norm: &'static str,
}

/// How queries, keys and values are stored.
pub(super) enum Qkv {
    /// Three layers.
    Apart([&'static str; 3]),
    /// One layer: queries, then keys, then values.
    Together(&'static str),
    /// One matrix with the three parts of each head in turn; biases of queries and values apart.
    ByHead {
        weight: &'static str,
        query_bias: &'static str,
        value_bias: &'static str,
    },
}

const BERT: Names = Names {
    prefix: "bert",
    words: "embeddings.word_embeddings",
    embedding_norm: "embeddings.LayerNorm",
    layers: "encoder.layer",
    qkv: Qkv::Apart([
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ]),
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    feed_norm: "output.LayerNorm",
};

const ROBERTA: Names = Names {
    prefix: "roberta",
    ..BERT
};

const DEBERTA_V1: Names = Names {
    prefix: "deberta",
    qkv: Qkv::ByHead {
        weight: "attention.self.in_proj",
        query_bias: "attention.self.q_bias",
        value_bias: "attention.self.v_bias",
    },
    ..BERT
};

const DEBERTA_V2: Names = Names {
    prefix: "deberta",
    qkv: Qkv::Apart([
        "attention.self.query_proj",
        "attention.self.key_proj",
        "attention.self.value_proj",
    ]),
    ..BERT
};

const DISTILBERT: Names = Names {
    prefix: "distilbert",
    layers: "transformer.layer",
    qkv: Qkv::Apart(["attention.q_lin", "attention.k_lin", "attention.v_lin"]),
    output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    feed_norm: "output_layer_norm",
    ..BERT
};

const MPNET: Names = Names {
    prefix: "mpnet",
    qkv: Qkv::Apart(["attention.attn.q", "attention.attn.k", "attention.attn.v"]),
    output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    ..BERT
};

const MODERNBERT: Names = Names {
    prefix: "model",
    words: "embeddings.tok_embeddings",
    embedding_norm: "embeddings.norm",
    layers: "layers",
    qkv: Qkv::Together("attn.Wqkv"),
    output: "attn.Wo",
    attention_norm: "attn_norm",
    up: "mlp.Wi",
    down: "mlp.Wo",
    feed_norm: "mlp_norm",
};

/// The names of `architecture`.
pub(super) fn of(architecture: Architecture) -> &'static Names {
    match architecture {
        Architecture::Bert => &BERT,
        Architecture::Roberta | Architecture::XlmRoberta => &ROBERTA,
        Architecture::DistilBert => &DISTILBERT,
        Architecture::MpNet => &MPNET,
        Architecture::DebertaV1 => &DEBERTA_V1,
        Architecture::DebertaV2 => &DEBERTA_V2,
        Architecture::ModernBert => &MODERNBERT,
    }
}
