//! The keys of `config.json` that nothing reads.

use super::Architecture;
use crate::models::settings_file::Rule::{self, Any, Off};

/// What can stand in the file of each architecture: what training, generation and heads of other
/// tasks want to know, and what the file says of itself.
const COMMON: &[(&str, Rule)] = &[
    ("_attn_implementation", Any),
    ("_attn_implementation_autoset", Any),
    ("_commit_hash", Any),
    ("_name_or_path", Any),
    ("_num_labels", Any),
    ("add_cross_attention", Off),
    ("architectures", Any),
    ("attention_dropout", Any),
    ("attention_probs_dropout_prob", Any),
    ("attn_implementation", Any),
    ("auto_map", Off),
    ("bos_token_id", Any),
    ("chunk_size_feed_forward", Any),
    ("classifier_dropout", Any),
    ("cls_token_id", Any),
    ("compression_config", Off),
    ("cross_attention_hidden_size", Off),
    ("decoder_start_token_id", Any),
    // Whatever the weights are kept in, they are computed with at least as precisely.
    ("dtype", Any),
    ("torch_dtype", Any),
    ("eos_token_id", Any),
    ("finetuning_task", Any),
    ("gradient_checkpointing", Any),
    ("hidden_dropout_prob", Any),
    ("id2label", Any),
    ("initializer_range", Any),
    // Encoders look both ways whatever it says.
    ("is_causal", Any),
    ("is_encoder_decoder", Off),
    ("label2id", Any),
    ("language", Any),
    ("mask_token_id", Any),
    ("max_length", Any),
    ("model_max_length", Any),
    ("name_or_path", Any),
    ("num_labels", Any),
    ("output_attentions", Any),
    ("output_hidden_states", Any),
    ("output_past", Any),
    // Layers with settings of their own.
    ("per_layer_config", Off),
    ("prefix", Any),
    ("problem_type", Any),
    ("pruned_heads", Off),
    ("quantization_config", Off),
    ("return_dict", Any),
    ("sentence_transformers", Any),
    ("sep_token_id", Any),
    ("task_specific_params", Any),
    ("text_config", Off),
    ("tie_encoder_decoder", Any),
    ("tie_last_hidden_states", Any),
    ("tie_word_embeddings", Any),
    // The tokenizer's reader takes it.
    ("tokenizer_class", Any),
    ("torchscript", Any),
    ("transformers_version", Any),
    // Another file with the weights.
    ("transformers_weights", Off),
    ("unk_token_id", Any),
    ("use_bfloat16", Any),
    ("use_cache", Any),
    // Of poolers, which are not loaded.
    ("directionality", Any),
    ("pooler_dropout", Any),
    ("pooler_fc_size", Any),
    ("pooler_hidden_act", Any),
    ("pooler_hidden_size", Any),
    ("pooler_num_attention_heads", Any),
    ("pooler_num_fc_layers", Any),
    ("pooler_size_per_head", Any),
    ("pooler_type", Any),
];

/// What generating texts takes, which transformers wrote into every file until its version 4.
const GENERATION: &str = "bad_words_ids begin_suppress_tokens diversity_penalty do_sample \
    early_stopping encoder_no_repeat_ngram_size eos_token_ids exponential_decay_length_penalty \
    forced_bos_token_id forced_eos_token_id length_penalty min_length no_repeat_ngram_size \
    num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values \
    repetition_penalty return_dict_in_generate suppress_tokens temperature tf_legacy_loss top_k \
    top_p typical_p xla_device";

const DISTILBERT: &[(&str, Rule)] = &[
    ("dropout", Any),
    ("qa_dropout", Any),
    ("seq_classif_dropout", Any),
    // Such positions are among the weights, like those that were learned.
    ("sinusoidal_pos_embds", Any),
];

const DEBERTA: &[(&str, Rule)] = &[
    ("legacy", Any),
    ("padding_idx", Any),
    ("talking_head", Off),
    ("z_steps", Off),
    // Where there is no convolution, or no attention to relative positions.
    ("conv_act", Any),
    ("conv_groups", Any),
    ("conv_kernel_size", Any),
    ("max_relative_positions", Any),
    ("norm_rel_ebd", Any),
    ("position_buckets", Any),
    ("share_att_key", Any),
];

const MODERNBERT: &[(&str, Rule)] = &[
    ("classifier_activation", Any),
    ("classifier_bias", Any),
    ("classifier_pooling", Any),
    ("decoder_bias", Any),
    ("deterministic_flash_attn", Any),
    ("embedding_dropout", Any),
    ("initializer_cutoff_factor", Any),
    ("mlp_dropout", Any),
    ("reference_compile", Any),
    ("repad_logits_with_grad", Any),
    ("rope_scaling", Off),
    ("sliding_window", Off),
    ("sparse_pred_ignore_index", Any),
    ("sparse_prediction", Any),
    // Written with it when it was published; its class has other names for them.
    ("hidden_act", Any),
    ("layer_norm_eps", Any),
    ("position_embedding_type", Any),
];

/// Those for one architecture.
pub(super) fn of(architecture: Architecture) -> Vec<(&'static str, Rule)> {
    let own: &[(&str, Rule)] = match architecture {
        Architecture::DistilBert => DISTILBERT,
        Architecture::DebertaV1 | Architecture::DebertaV2 => DEBERTA,
        Architecture::ModernBert => MODERNBERT,
        Architecture::Bert
        | Architecture::Roberta
        | Architecture::XlmRoberta
        | Architecture::MpNet => &[],
    };
    let generation: Vec<_> = GENERATION.split(' ').map(|key| (key, Any)).collect();
    [COMMON, own, &generation].concat()
}
