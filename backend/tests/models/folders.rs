//! Folders in which one setting or another is changed, left out, or written in another version's
//! layout: the numbers of sentence-transformers (`scripts/folder_reference.py`), or a refusal by
//! name. Never other numbers.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use candle_core::{Device, Tensor};
use gpu_bridge_backend::engine::{Engine, EngineError, LoadFault, Shortening};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::support::{Watcher, engine_over, golden, golden_json, strings};

/// Largest difference of a number, whose size is about 1.
const TOLERANCE: f32 = 2e-5;
/// Stands for a key that is left out, as in the script.
const LEFT_OUT: &str = "(left out)";

/// The numbers that the script's `weights` gives.
fn weights(shape: &[usize], salt: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let number = |i: usize| ((i * 31 + salt * 17) % 19) as f32 - 9.0;
    let numbers: Vec<f32> = (0..count).map(|i| number(i) / 16.0).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).expect("tensor")
}

/// Changes keys of a JSON file, which need not exist.
fn change(path: &Path, changes: &Value) {
    let text = fs::read_to_string(path).unwrap_or_else(|_| "{}".to_owned());
    let mut settings: Map<String, Value> = serde_json::from_str(&text).expect("JSON");
    for (key, value) in changes.as_object().expect("an object") {
        settings.insert(key.clone(), value.clone());
    }
    settings.retain(|_, value| value != LEFT_OUT);
    let parent = path.parent().expect("in a folder");
    fs::create_dir_all(parent).expect("create folder");
    if path.exists() {
        fs::remove_file(path).expect("a link");
    }
    fs::write(path, Value::from(settings).to_string()).expect("write");
}

/// The folder of a case, as the script builds it.
fn build(case: &Value, folder: &Path) {
    fs::create_dir(folder).expect("create folder");
    let base = golden("tiny").join(case["base"].as_str().expect("a name"));
    for file in fs::read_dir(base.canonicalize().expect("there")).expect("readable") {
        let file = file.expect("readable");
        symlink(file.path(), folder.join(file.file_name())).expect("link");
    }
    for (file, changes) in case["settings"].as_object().expect("files") {
        change(&folder.join(file), changes);
    }
    if let Some(modules) = case.get("modules") {
        fs::write(folder.join("modules.json"), modules.to_string()).expect("write");
    }
    for (file, own) in case["tensors"].as_object().into_iter().flatten() {
        candle_core::safetensors::save(&tensors(own), folder.join(file)).expect("save");
    }
    if let Some(added) = case.get("added") {
        let file = folder.join("model.safetensors");
        let mut all = candle_core::safetensors::load(&file, &Device::Cpu).expect("weights");
        all.extend(tensors(added));
        fs::remove_file(&file).expect("a link");
        candle_core::safetensors::save(&all, file).expect("save");
    }
}

/// Tensors by name, from their shapes and salts.
fn tensors(described: &Value) -> HashMap<String, Tensor> {
    let described = described.as_object().expect("tensors").iter();
    let tensor = |(name, of): (&String, &Value)| {
        let shape: Vec<usize> = serde_json::from_value(of[0].clone()).expect("a shape");
        let salt = serde_json::from_value(of[1].clone()).expect("a number");
        (name.clone(), weights(&shape, salt))
    };
    described.map(tensor).collect()
}

/// What is wrong with the rows of a model that should give `expected`.
fn wrong(rows: &[Vec<f32>], expected: &[Vec<f32>]) -> Option<String> {
    let lengths = |rows: &[Vec<f32>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
    if lengths(rows) != lengths(expected) {
        return Some(format!(
            "{:?} numbers, not {:?}",
            lengths(rows),
            lengths(expected)
        ));
    }
    let pairs = rows.iter().flatten().zip(expected.iter().flatten());
    let differences = pairs.map(|(x, y)| (x - y).abs() / y.abs().max(1.0));
    let worst = differences.fold(0.0, |worst: f32, difference| {
        if difference.is_nan() {
            f32::INFINITY
        } else {
            worst.max(difference)
        }
    });
    (worst >= TOLERANCE).then(|| format!("{worst:e}"))
}

#[test]
fn every_setting_gives_the_numbers_of_sentence_transformers() {
    let file = golden_json("folders/cases.json");
    let texts: Vec<String> = serde_json::from_value(file["texts"].clone()).expect("texts");
    let cases = file["cases"].as_array().expect("cases");
    let models = TempDir::new().expect("temporary folder");
    let engine = engine_over(models.path().to_owned(), &[]);
    let mut failures = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let name = format!("case-{number}");
        build(case, &models.path().join(&name));
        let expected: Vec<Vec<f32>> =
            serde_json::from_value(case["rows"].clone()).expect("numbers");
        let problem = match engine.embed(&name, &texts, &Watcher::patient()) {
            Ok(embeddings) => wrong(&embeddings.rows, &expected),
            Err(error) => Some(error.to_string()),
        };
        failures.extend(problem.map(|problem| format!("{}: {problem}", case["name"])));
    }
    let count = failures.len();
    assert!(
        failures.is_empty(),
        "{count} of {}:\n{}",
        cases.len(),
        failures.join("\n")
    );
}

fn refusal(model: &str, engine: &impl Engine) -> LoadFault {
    match engine.embed(model, &strings(&["text"]), &Watcher::patient()) {
        Err(EngineError::Load { fault, .. }) => fault,
        other => panic!("{model}: {other:?}"),
    }
}

/// File, key, value, and what the client reads.
const UNSUPPORTED: &[(&str, &str, &str, &str)] = &[
    (
        "config.json",
        "hidden_act",
        r#""quick_gelu""#,
        "'hidden_act' must be gelu",
    ),
    (
        "config.json",
        "position_embedding_type",
        r#""relative_key""#,
        "'position_embedding_type' is 'relative_key'",
    ),
    ("config.json", "is_decoder", "true", "'is_decoder' is set"),
    (
        "config.json",
        "per_layer_config",
        r#"{"0": {"num_attention_heads": 2}}"#,
        "'per_layer_config' is set",
    ),
    (
        "tokenizer_config.json",
        "tokenizer_class",
        r#""BertJapaneseTokenizer""#,
        "'BertJapaneseTokenizer', a tokenizer written in Python,",
    ),
    (
        "tokenizer_config.json",
        "tokenizer_class",
        r#""LlamaTokenizerFast""#,
        "tokenizer.json puts 2 tokens around a text, but 'LlamaTokenizerFast' puts 1 (add_bos_token",
    ),
    (
        "tokenizer_config.json",
        "sep_token",
        r#""value""#,
        "tokenizer.json has another token in the place of the sep_token of the settings",
    ),
    (
        "tokenizer_config.json",
        "unk_token",
        r#""value""#,
        "tokenizer.json has another token in the place of the unk_token of the settings",
    ),
    (
        "tokenizer_config.json",
        "tokenizer_class",
        r#""RobertaTokenizer""#,
        "tokenizer.json has a model of the kind WordPiece, but 'RobertaTokenizer' takes BPE",
    ),
    (
        "tokenizer_config.json",
        "tokenizer_class",
        r#""T5TokenizerFast""#,
        "'T5TokenizerFast' is not among the classes that are supported",
    ),
    (
        "tokenizer_config.json",
        "init_inputs",
        r#"["vocab.txt"]"#,
        "'init_inputs' is set",
    ),
    (
        "sentence_bert_config.json",
        "tokenizer_name_or_path",
        r#""another""#,
        "'tokenizer_name_or_path' is set",
    ),
    (
        "sentence_bert_config.json",
        "model_kwargs",
        r#"{"variant": "fp16"}"#,
        "'variant' is set",
    ),
    (
        "config.json",
        "add_cross_attention",
        "true",
        "'add_cross_attention' is set",
    ),
    (
        "config.json",
        "pruned_heads",
        r#"{"1": [0]}"#,
        "'pruned_heads' is set",
    ),
    (
        "config.json",
        "quantization_config",
        r#"{"bits": 8}"#,
        "'quantization_config' is set",
    ),
    (
        "config.json",
        "auto_map",
        r#"{"AutoModel": "own--code.Model"}"#,
        "'auto_map' is set",
    ),
    (
        "config.json",
        "model_type",
        r#""t5""#,
        "architecture 't5' is not supported",
    ),
    (
        "adapter_config.json",
        "peft_type",
        r#""LORA""#,
        "'peft_type' asks for an adapter",
    ),
    (
        "tokenizer_config.json",
        "split_special_tokens",
        "true",
        "'split_special_tokens' is set",
    ),
    (
        "tokenizer_config.json",
        "truncation_side",
        r#""middle""#,
        "'truncation_side' is 'middle'",
    ),
    (
        "sentence_bert_config.json",
        "tokenizer_args",
        r#"{"use_fast": false}"#,
        "'tokenizer_args' is set",
    ),
    (
        "sentence_bert_config.json",
        "config_args",
        r#"{"hidden_act": "relu"}"#,
        "'config_args' is set",
    ),
    (
        "sentence_bert_config.json",
        "model_args",
        r#"{"load_in_4bit": true}"#,
        "'load_in_4bit' is set",
    ),
    (
        "sentence_bert_config.json",
        "transformer_task",
        r#""fill-mask""#,
        "'transformer_task' is not",
    ),
    (
        "config_sentence_transformers.json",
        "model_type",
        r#""SparseEncoder""#,
        "'model_type' is not 'SentenceTransformer'",
    ),
    (
        "config_sentence_transformers.json",
        "model_type",
        "null",
        "'model_type' is null",
    ),
    (
        "config_sentence_transformers.json",
        "default_prompt_name",
        r#""none""#,
        "'default_prompt_name' is 'none'",
    ),
    (
        "1_Pooling/config.json",
        "pooling_mode",
        r#""attention""#,
        "'pooling_mode' has 'attention'",
    ),
    (
        "2_Normalize/config.json",
        "module_input_name",
        r#""token_embeddings""#,
        "'module_input_name' is not",
    ),
];

#[test]
fn what_is_not_supported_is_refused_by_name_each_time() {
    let models = TempDir::new().expect("temporary folder");
    let folder = models.path().join("m");
    let modules: Vec<Value> = ["Transformer", "Pooling", "Normalize"]
        .iter()
        .enumerate()
        .map(|(number, kind)| {
            let path = if number == 0 {
                String::new()
            } else {
                format!("{number}_{kind}")
            };
            let class = format!("sentence_transformers.models.{kind}");
            json!({"idx": number, "name": number.to_string(), "path": path, "type": class})
        })
        .collect();
    for (file, key, value, expected) in UNSUPPORTED {
        let value: Value = serde_json::from_str(value).expect("JSON");
        let mut settings = json!({"1_Pooling/config.json": {}, "2_Normalize/config.json": {}});
        settings[*file] = json!({ *key: value });
        let case = json!({"base": "bert", "settings": settings, "modules": modules});
        build(&case, &folder);
        let engine = engine_over(models.path().to_owned(), &[]);
        let first = refusal("m", &engine);
        assert!(
            first.reason.contains(expected),
            "{file} {key}: {}",
            first.reason
        );
        assert!(
            !first
                .reason
                .contains(models.path().to_str().expect("UTF-8")),
            "{}",
            first.reason
        );
        assert!(!first.passing);
        assert_eq!(refusal("m", &engine), first, "the second time");
        engine.warm_up();
        let listed = engine.available_models().expect("looked");
        assert!(
            !listed.contains(&"embed:m".to_owned()),
            "{file} {key}: {listed:?}"
        );
        fs::remove_dir_all(&folder).expect("remove");
    }
}

#[test]
fn embeddings_may_be_cut_where_the_folder_says_so() {
    let models = TempDir::new().expect("temporary folder");
    let table = [
        (json!({}), Shortening::No),
        (json!({"is_matryoshka": false}), Shortening::No),
        (json!({"is_matryoshka": true}), Shortening::Any),
        (
            json!({"is_matryoshka": true, "matryoshka_dimensions": [4, 8]}),
            Shortening::To(vec![4, 8]),
        ),
    ];
    for (number, (config, expected)) in table.into_iter().enumerate() {
        let name = format!("model-{number}");
        let case = json!({"base": "bert", "settings": {"config.json": config}});
        build(&case, &models.path().join(&name));
        let engine = engine_over(models.path().to_path_buf(), &[]);
        let texts = strings(&["a", ""]);
        let found = engine
            .embed(&name, &texts, &Watcher::patient())
            .expect("embeds");
        assert_eq!(found.shortening, expected, "{config}");
        assert_eq!(found.tokens, [3, 2], "[CLS] and [SEP] count");
    }
}
