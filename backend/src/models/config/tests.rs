use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::models::test_support::{folder_with, golden, golden_json};

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
        ("add_cross_attention", json!(true)),
        ("auto_map", json!({"AutoModel": "own.Code"})),
        ("pruned_heads", json!({"0": [1]})),
        ("per_layer_config", json!({"0": {"num_attention_heads": 2}})),
        ("transformers_weights", json!("other.safetensors")),
        ("quantization_config", json!({"bits": 4})),
        ("pad_token_id", json!(900)),
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("layer_norm_eps", json!(-1e-5)),
        ("layer_norm_eps", json!(1e300)),
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
fn heads_of_another_size_are_refused() {
    let size = |model, key, size: u32| {
        let folder = config_of(model, key, json!(size));
        EncoderConfig::read(folder.path())
    };
    for (model, key) in [
        ("modernbert", "head_dim"),
        ("deberta_v2", "attention_head_size"),
    ] {
        size(model, key, 12).expect("48 numbers for 4 heads");
        let error = size(model, key, 24).expect_err(key).to_string();
        assert!(
            error.contains(&format!("'{key}' is not hidden_size")),
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

/// What transformers fills into an empty file (`scripts/config_reference.py`): we fill in the same, and
/// know each key.
#[test]
fn the_defaults_of_each_class_are_ours_and_all_their_keys_known() {
    let versions = golden_json("config_defaults.json");
    for (version, classes) in versions.as_object().expect("versions") {
        for (name, _, architecture) in ARCHITECTURES {
            let read = |settings: &[&Value]| {
                let objects = settings.iter().map(|all| all.as_object().expect("object"));
                let all: Map<_, _> = objects.flat_map(Map::clone).collect();
                let folder = folder_with(&[("config.json", &Value::from(all).to_string())]);
                let file = SettingsFile::read(folder.path().join("config.json")).expect("JSON");
                (EncoderConfig::of(&file).expect(name), file)
            };
            let (filled, file) = read(&[&classes["common"], &classes[name]]);
            let (empty, _) = read(&[&json!({"model_type": name})]);
            assert_eq!(filled, empty, "{name} {version}");
            let unknown = file.unknown(&rules::of(architecture)).expect(name);
            assert_eq!(unknown, [""; 0], "{name} {version}");
        }
    }
}

#[test]
fn rotation_is_read_in_both_layouts() {
    let rotary = |settings: Value| {
        let mut config = json!({"model_type": "modernbert", "num_hidden_layers": 4});
        let more = settings.as_object().expect("object").clone();
        config.as_object_mut().expect("object").extend(more);
        let folder = folder_with(&[("config.json", &config.to_string())]);
        EncoderConfig::read(folder.path()).map(|config| config.rotary.expect("rotates"))
    };
    let thetas = |settings| {
        let rotary = rotary(settings).expect("valid");
        [rotary.global_theta, rotary.local_theta].map(|theta| theta.to_string())
    };
    assert_eq!(thetas(json!({})), ["160000", "10000"]);
    assert_eq!(
        thetas(json!({"local_rope_theta": null})),
        ["160000", "160000"]
    );
    let old = json!({"global_rope_theta": 500.0, "local_rope_theta": 100.0});
    assert_eq!(thetas(old), ["500", "100"]);
    let rope = json!({
        "full_attention": {"rope_theta": 500.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 100, "rope_type": "default"},
    });
    assert_eq!(thetas(json!({"rope_parameters": rope})), ["500", "100"]);
    let half = json!({"sliding_attention": {"rope_theta": 100}});
    assert_eq!(thetas(json!({"rope_parameters": half})), ["160000", "100"]);

    assert_eq!(
        rotary(json!({})).expect("valid").global,
        [true, false, false, true]
    );
    let types = [
        "sliding_attention",
        "full_attention",
        "full_attention",
        "sliding_attention",
    ];
    let listed = rotary(json!({"layer_types": types})).expect("valid");
    assert_eq!(listed.global, [false, true, true, false]);

    for (settings, told) in [
        (
            json!({"layer_types": ["full_attention"]}),
            "'layer_types' names 1 layers of 4",
        ),
        (
            json!({"layer_types": ["x", "x", "x", "x"]}),
            "'layer_types' has 'x'",
        ),
        (
            json!({"norm_eps": -1}),
            "'norm_eps' must be a number from 0.0",
        ),
        (
            json!({"global_rope_theta": 0}),
            "'global_rope_theta' must be a number from",
        ),
        (
            json!({"rope_scaling": {"factor": 2.0}}),
            "'rope_scaling' is set",
        ),
        (
            json!({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}),
            "'rope_type' is not 'default'",
        ),
    ] {
        let error = rotary(settings).expect_err(told).to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn an_adapter_is_refused() {
    let folder = config_with("model_type", json!("bert"));
    std::fs::write(folder.path().join("adapter_config.json"), "{}").expect("write");
    let error = EncoderConfig::read(folder.path())
        .expect_err("unsupported")
        .to_string();
    assert!(error.contains("asks for an adapter"), "{error}");
}
