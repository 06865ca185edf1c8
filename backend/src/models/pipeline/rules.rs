//! The keys of sentence-transformers' settings files that nothing reads.

use crate::models::settings_file::Rule::{self, Any, Is, Off};

/// An entry of `modules.json`.
pub(super) const MODULE: &[(&str, Rule)] = &[
    // The order is that of the list.
    ("idx", Any),
    // Which arguments of a call are handed on to the module: there are none.
    ("kwargs", Any),
];

/// `config_sentence_transformers.json`.
pub(super) const MODEL: &[(&str, Rule)] = &[
    ("__version__", Any),
    ("model_type", Is("SentenceTransformer")),
    ("requirements", Any),
    // How vectors are to be compared is their reader's business.
    ("similarity_fn_name", Any),
];

/// `sentence_bert_config.json`.
pub(super) const TRANSFORMER: &[(&str, Rule)] = &[
    ("config_args", Off),
    ("config_kwargs", Off),
    // For calls that say what a text is: a query or a document.
    ("document_length", Any),
    ("module_output_name", Is("token_embeddings")),
    ("processing_kwargs", Off),
    ("processor_kwargs", Off),
    ("query_expansion", Any),
    ("query_length", Any),
    ("tokenizer_args", Off),
    ("tokenizer_name_or_path", Off),
    ("transformer_task", Is("feature-extraction")),
    ("unpad_inputs", Any),
];

/// What goes in, by its kind. Where there are messages, texts are put into a chat template.
pub(super) const MODALITIES: &[(&str, Rule)] = &[
    ("audio", Any),
    ("image", Any),
    ("message", Off),
    ("video", Any),
];

/// How a text goes in and what of the encoder's output is used.
pub(super) const TEXT: &[(&str, Rule)] = &[
    ("method", Is("forward")),
    ("method_output_name", Is("last_hidden_state")),
];

/// What that file hands on to the encoder's class.
pub(super) const MODEL_ARGUMENTS: &[(&str, Rule)] = &[
    ("attn_implementation", Any),
    ("dtype", Any),
    ("low_cpu_mem_usage", Any),
    ("torch_dtype", Any),
    ("trust_remote_code", Any),
    ("use_safetensors", Any),
    ("add_pooling_layer", Any),
    ("device_map", Any),
    ("revision", Any),
    // Other weights than those that are read.
    ("gguf_file", Off),
    ("key_mapping", Off),
    ("subfolder", Off),
    ("variant", Off),
    ("quantization_config", Off),
    ("load_in_4bit", Off),
    ("load_in_8bit", Off),
];

/// `config.json` of a Pooling module.
pub(super) const POOLING: &[(&str, Rule)] = &[
    // The encoder's width.
    ("embedding_dimension", Any),
    ("word_embedding_dimension", Any),
    // Matters only with a prompt, and is read then.
    ("include_prompt", Any),
];

/// `config.json` of a module after pooling.
pub(super) const ABOUT_THE_SENTENCE: &[(&str, Rule)] = &[
    ("module_input_name", Is("sentence_embedding")),
    ("module_output_name", Is("sentence_embedding")),
];
