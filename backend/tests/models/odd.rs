//! Folders that something has happened to: files that are none, files of odd editors, settings that lead
//! nowhere. Each is refused when the model is loaded, by the file and the key, for both purposes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use gpu_bridge_backend::engine::{Engine, EngineError, LoadFault, Scoring};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{TINY, Watcher, change_setting, copy_of, engine_over, golden, strings};

/// Why the model is refused for embeddings, and for `BERTScore`, if it is.
fn refusals(models: &TempDir, model: &str) -> [Option<LoadFault>; 2] {
    let engine = engine_over(models.path().to_owned(), &[]);
    let (texts, watcher) = (strings(&["text"]), Watcher::patient());
    let embedded = engine.embed(model, &texts, &watcher).map(drop);
    let scored = engine.bertscore(model, &texts, &texts, &Scoring::default(), &watcher);
    [embedded, scored.map(drop)].map(|outcome| match outcome {
        Ok(()) => None,
        Err(EngineError::Load { fault, .. }) => Some(fault),
        Err(other) => panic!("{model}: {other}"),
    })
}

type Make = fn(&Path);

/// What may be there instead of a file, and what is told of it.
const INSTEAD: [(Make, &str); 8] = [
    (
        |path| fs::create_dir(path).expect("folder"),
        "not a regular file",
    ),
    (
        |path| {
            let made = Command::new("mkfifo").arg(path).status();
            assert!(made.expect("mkfifo").success());
        },
        "not a regular file",
    ),
    (
        |path| symlink("../blobs/gone", path).expect("link"),
        "a link that leads to no file",
    ),
    (
        |path| symlink(path.file_name().expect("name"), path).expect("link"),
        "a link that leads to no file",
    ),
    (|path| fs::write(path, "").expect("write"), "it is empty"),
    (
        |path| fs::write(path, "\n\n").expect("write"),
        "it is empty",
    ),
    (
        |path| fs::write(path, "\u{feff}{}").expect("write"),
        "byte order mark; save it as UTF-8",
    ),
    (
        |path| fs::write(path, b"\xff\xfe{\0}\0").expect("write"),
        "byte order mark; save it as UTF-8",
    ),
];

#[test]
fn what_is_no_file_or_of_an_odd_editor_is_refused_by_its_name() {
    for name in [
        "config.json",
        "modules.json",
        "sentence_bert_config.json",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ] {
        for (number, (make, told)) in INSTEAD.iter().enumerate() {
            let models = copy_of(TINY);
            let path = models.path().join(TINY).join(name);
            drop(fs::remove_file(&path));
            make(&path);
            // Of the settings beside it, BERTScore has no use for these; modules.json names the other.
            let for_embeddings = ["modules.json", "sentence_bert_config.json"].contains(&name);
            if name == "sentence_bert_config.json" {
                modules(&models);
            }
            let [embed, bertscore] = refusals(&models, TINY);
            let what = format!("{name} {number}");
            assert_eq!(bertscore.is_none(), for_embeddings, "{what}");
            for fault in embed.iter().chain(&bertscore) {
                assert!(fault.reason.contains(name), "{what}: {fault:?}");
                assert!(fault.reason.contains(told), "{what}: {fault:?}");
                assert!(!fault.passing, "{what}: {fault:?}");
            }
            assert!(embed.is_some(), "{what}");
        }
    }
}

fn modules(models: &TempDir) {
    let class = |name: &str| format!("sentence_transformers.models.{name}");
    let modules = json!([{"path": "", "type": class("Transformer")},
        {"path": "pooling", "type": class("Pooling")}]);
    let folder = models.path().join(TINY);
    fs::write(folder.join("modules.json"), modules.to_string()).expect("write");
    fs::create_dir(folder.join("pooling")).expect("folder");
    fs::write(folder.join("pooling/config.json"), "{}").expect("write");
}

#[test]
fn weights_that_are_no_file_are_refused_though_others_are_there() {
    for (make, told) in &INSTEAD[..4] {
        let models = copy_of(TINY);
        let folder = models.path().join(TINY);
        let path = folder.join("model.safetensors");
        fs::rename(&path, folder.join("pytorch_model.bin")).expect("rename");
        make(&path);
        for fault in refusals(&models, TINY) {
            let reason = fault.expect("no weights").reason;
            assert!(reason.contains("model.safetensors"), "{reason}");
            assert!(reason.contains(told), "{reason}");
        }
    }
}

/// File, key, value, and what is told of it.
fn settings() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    const CONFIG: &str = "config.json";
    const NUMBER: &str = "must be a whole number of 0 or more";
    const ROOM: &str =
        "leaves no room for text, since 2 are special; it is the least of max_seq_length";
    vec![
        (
            CONFIG,
            "num_attention_heads",
            json!(5),
            "'hidden_size' 48 is not a multiple of 5",
        ),
        (CONFIG, "num_attention_heads", json!("4"), NUMBER),
        (CONFIG, "num_attention_heads", json!(4.0), NUMBER),
        (
            CONFIG,
            "max_position_embeddings",
            json!(0),
            "must be at least 1",
        ),
        (CONFIG, "max_position_embeddings", json!(1), ROOM),
        (CONFIG, "max_position_embeddings", json!(2), ROOM),
        (CONFIG, "type_vocab_size", json!(0), "must be at least 1"),
        (CONFIG, "pad_token_id", json!(-1), NUMBER),
        (
            CONFIG,
            "pad_token_id",
            json!(10_000),
            "is not in the vocabulary",
        ),
        (
            CONFIG,
            "hidden_act",
            json!(1),
            "must be gelu, gelu_new, relu or tanh",
        ),
        (
            CONFIG,
            "architectures",
            json!({}),
            "must be a list of texts",
        ),
        (CONFIG, "layer_norm_eps", json!("1e-12"), "must be a number"),
        (CONFIG, "is_decoder", json!(1), "must be true or false"),
        ("tokenizer_config.json", "model_max_length", json!(0), ROOM),
        ("tokenizer_config.json", "model_max_length", json!(2), ROOM),
        (
            "tokenizer_config.json",
            "do_lower_case",
            json!("yes"),
            "must be true or false",
        ),
        (
            "tokenizer_config.json",
            "cls_token",
            json!(101),
            "must be a text, or an object",
        ),
        (
            "tokenizer_config.json",
            "added_tokens_decoder",
            json!({"-1": {"content": "x"}}),
            "must be an object of tokens by",
        ),
    ]
}

#[test]
fn settings_that_lead_nowhere_are_refused_by_their_name() {
    for (file, key, value, told) in settings() {
        let models = copy_of(TINY);
        change_setting(&models.path().join(TINY).join(file), key, value.clone());
        for fault in refusals(&models, TINY) {
            let fault = fault.unwrap_or_else(|| panic!("{file} {key} {value} is taken"));
            let names_it = fault.reason.contains(&format!("{file}: '")) || told.contains("no room");
            assert!(
                names_it && fault.reason.contains(told),
                "{key} {value}: {fault:?}"
            );
        }
    }
}

#[test]
fn what_kind_of_numbers_the_weights_are_said_to_be_changes_nothing() {
    for value in [
        json!(null),
        json!("float64"),
        json!("x"),
        json!(16),
        json!([]),
    ] {
        let models = copy_of(TINY);
        change_setting(
            &models.path().join(TINY).join("config.json"),
            "torch_dtype",
            value,
        );
        assert_eq!(refusals(&models, TINY), [None, None]);
    }
}

#[test]
fn a_tokenizer_whose_marks_have_no_vector_is_refused_and_one_with_other_tokens_is_not() {
    let with_separator_at = |id: u32| {
        let models = copy_of(TINY);
        let path = models.path().join(TINY).join("tokenizer.json");
        let text = fs::read_to_string(&path).expect("tokenizer");
        let mut tokenizer: Value = serde_json::from_str(&text).expect("JSON");
        tokenizer["post_processor"] =
            json!({"type": "BertProcessing", "sep": ["[SEP]", id], "cls": ["[CLS]", 2]});
        tokenizer["model"]["vocab"]["beyond"] = json!(900);
        fs::write(&path, tokenizer.to_string()).expect("write");
        refusals(&models, TINY)
    };
    assert_eq!(with_separator_at(3), [None, None]);
    for fault in with_separator_at(900) {
        let reason = fault.expect("no vector").reason;
        let told =
            "config.json: 'vocab_size' is 900, but the tokenizer gives each text the token 900";
        assert_eq!(reason, told);
    }
}

#[test]
fn a_roberta_counts_its_positions_from_a_padding_that_it_names() {
    let models = copy_of("roberta");
    let config = models.path().join("roberta/config.json");
    assert!(golden("tiny/roberta").is_dir());
    change_setting(&config, "pad_token_id", Value::Null);
    for fault in refusals(&models, "roberta") {
        let reason = fault.expect("no padding").reason;
        assert!(
            reason.contains("config.json: 'pad_token_id' is null"),
            "{reason}"
        );
    }
}

#[test]
fn an_embedding_of_no_numbers_is_refused() {
    for (file, key) in [
        ("config_sentence_transformers.json", "truncate_dim"),
        ("sentence_bert_config.json", "max_seq_length"),
    ] {
        let models = copy_of(TINY);
        modules(&models);
        let path = models.path().join(TINY).join(file);
        fs::write(path, json!({key: 0}).to_string()).expect("write");
        let [embed, _] = refusals(&models, TINY);
        let reason = embed.expect("refused").reason;
        assert_eq!(reason, format!("{file}: '{key}' must be at least 1"));
    }
}
