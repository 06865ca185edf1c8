//! Names, broken models, cancellation, many at once. All with the tiny model: no download needed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use candle_core::{Device, Tensor};
use gpu_bridge_backend::engine::{Embeddings, Engine, EngineError, Scoring, Shortening};
use gpu_bridge_backend::models::{CandleEngine, EngineOptions, ModelSources};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{TINY, Watcher, change_setting, copy_of, engine_over, golden, strings, tiny};

fn copy_of_tiny() -> TempDir {
    copy_of(TINY)
}

fn change_config(models_dir: &Path, key: &str, value: Value) {
    change_setting(&models_dir.join(TINY).join("config.json"), key, value);
}

fn embed(engine: &CandleEngine, texts: &[&str]) -> Result<Embeddings, EngineError> {
    engine.embed(TINY, &strings(texts), &Watcher::patient())
}

fn score(engine: &CandleEngine, candidate: &str) -> Result<f32, EngineError> {
    let (candidates, references) = (strings(&[candidate]), strings(&["a reference"]));
    let scores = engine.bertscore(
        TINY,
        &candidates,
        &references,
        &Scoring::default(),
        &Watcher::patient(),
    )?;
    Ok(scores.f1[0])
}

/// The reason of a [`EngineError::Load`].
fn load_error<T>(result: Result<T, EngineError>) -> String {
    match result.map(|_| ()) {
        Err(EngineError::Load { name, fault }) => {
            assert_eq!(name, TINY);
            fault.details
        }
        other => panic!("expected a load error, got {other:?}"),
    }
}

#[test]
fn names_that_are_not_installed_are_refused_with_those_that_are() {
    let folder = copy_of_tiny();
    let engine = engine_over(folder.path().to_owned(), &[]);
    let absolute = folder.path().join(TINY);
    let absolute = absolute.to_str().expect("UTF-8");
    let parent = folder.path().file_name().and_then(OsStr::to_str);
    let around = format!("../{}/{TINY}", parent.expect("UTF-8"));
    for name in [
        "nope", "", absolute, &around, "bert/", "./bert", "a\\b", "bert\0",
    ] {
        let texts = strings(&["text"]);
        let embedded = engine.embed(name, &texts, &Watcher::patient()).map(|_| ());
        let scored = engine
            .bertscore(
                name,
                &texts,
                &texts,
                &Scoring::default(),
                &Watcher::patient(),
            )
            .map(|_| ());
        for result in [embedded, scored] {
            let Err(EngineError::NotInstalled {
                name: refused,
                installed,
            }) = result
            else {
                panic!("{name:?}: {result:?}");
            };
            assert_eq!((refused.as_str(), installed), (name, strings(&[TINY])));
        }
    }
    assert!(engine.loaded_models().is_empty());
}

#[test]
fn a_folder_that_the_operator_named_is_a_model_of_that_name() {
    let folder = golden("tiny")
        .join(TINY)
        .to_str()
        .expect("UTF-8")
        .to_owned();
    let operator_folders = vec![folder.clone()];
    let sources = ModelSources {
        operator_folders,
        ..ModelSources::default()
    };
    let engine = CandleEngine::new(sources, EngineOptions::default()).expect("starts");
    engine
        .embed(&folder, &strings(&["text"]), &Watcher::patient())
        .expect("embeds");
    assert_eq!(engine.loaded_models(), [format!("embed:{folder}")]);
}

#[test]
fn empty_requests_have_empty_answers_but_a_checked_name() {
    let engine = tiny();
    let embeddings = embed(&engine, &[]).expect("nothing to do");
    assert_eq!(
        embeddings,
        Embeddings {
            rows: Vec::new(),
            dimensions: 0,
            tokens: Vec::new(),
            shortening: Shortening::No,
        }
    );
    let scores = engine
        .bertscore(TINY, &[], &[], &Scoring::default(), &Watcher::patient())
        .expect("nothing to do");
    assert!(scores.f1.is_empty());
    assert!(engine.embed("nope", &[], &Watcher::patient()).is_err());
    assert_eq!(engine.loaded_models(), ["bertscore:bert", "embed:bert"]);
}

#[test]
fn rows_keep_the_order_of_the_texts() {
    let engine = tiny();
    let texts = ["a much longer text than the others", "b", "", "a text", "b"];
    let together = embed(&engine, &texts).expect("embeddings").rows;
    for (text, row) in texts.iter().zip(&together) {
        let alone = embed(&engine, &[text]).expect("embedding").rows.remove(0);
        let same = alone.iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(same, "{text:?}");
    }
    assert_ne!(together[1], together[3]);
}

#[test]
fn many_first_requests_at_once_are_all_answered_from_one_model() {
    let engine = tiny();
    let start = Barrier::new(6);
    let rows = thread::scope(|scope| {
        let request = || {
            start.wait();
            embed(&engine, &["the same text"]).expect("embeds").rows
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(request)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect::<Vec<_>>()
    });
    assert!(rows.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(engine.loaded_models(), ["embed:bert"]);
}

#[test]
fn a_request_that_nobody_waits_for_stops_between_batches() {
    let sources = ModelSources {
        models_dir: Some(golden("tiny")),
        ..ModelSources::default()
    };
    let embed_batch = NonZeroUsize::new(2).expect("two");
    let engine = CandleEngine::new(
        sources,
        EngineOptions {
            embed_batch,
            ..Default::default()
        },
    )
    .expect("starts");
    let texts = strings(&["one", "two", "three", "four", "five", "six", "seven"]);

    let impatient = Watcher::until(4);
    let embedded = engine.embed(TINY, &texts, &impatient);
    assert!(
        matches!(embedded, Err(EngineError::Cancelled)),
        "{embedded:?}"
    );
    assert_eq!(impatient.steps(), [2, 4]);

    let impatient = Watcher::until(2);
    let scored = engine.bertscore(TINY, &texts, &texts, &Scoring::default(), &impatient);
    assert!(matches!(scored, Err(EngineError::Cancelled)), "{scored:?}");
    assert_eq!(impatient.steps(), [2]);

    let patient = Watcher::patient();
    engine.embed(TINY, &texts, &patient).expect("embeds");
    assert_eq!(patient.steps(), [2, 4, 6, 7]);
}

#[test]
fn an_unsupported_architecture_is_named() {
    let folder = copy_of_tiny();
    change_config(folder.path(), "model_type", json!("t5"));
    let reason = load_error(embed(
        &engine_over(folder.path().to_owned(), &[]),
        &["text"],
    ));
    assert_eq!(
        reason,
        "architecture 't5' is not supported; supported: bert, roberta, xlm-roberta, distilbert, \
         mpnet, deberta, deberta-v2, modernbert"
    );
}

#[test]
fn a_truncated_weights_file_is_an_error_and_a_repaired_one_is_loaded() {
    let folder = copy_of_tiny();
    let weights = folder.path().join(TINY).join("model.safetensors");
    let whole = std::fs::read(&weights).expect("weights");
    let engine = engine_over(folder.path().to_owned(), &[]);
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&weights, &whole[..length]).expect("write");
        let reason = load_error(embed(&engine, &["text"]));
        assert!(
            reason.starts_with("weights in "),
            "{length} bytes: {reason}"
        );
    }
    assert!(engine.loaded_models().is_empty());
    std::fs::write(&weights, &whole).expect("write");
    embed(&engine, &["text"]).expect("the next request loads it");
}

#[test]
fn a_layer_that_the_model_lacks_is_an_error() {
    let engine = engine_over(golden("tiny"), &[(TINY, 6)]);
    let reason = load_error(score(&engine, "text"));
    assert_eq!(reason, "layer 6 was asked for, but the model has 5");
}

#[test]
fn odd_texts_never_panic() {
    let engine = tiny();
    let long = "word ".repeat(3000);
    for text in [
        long.as_str(),
        "\0",
        "\u{fffd}\u{10ffff}",
        "\u{202e}abc",
        "e\u{301}\u{301}\u{301}",
        "[PAD] [PAD]",
        "[MASK]",
        "🏳️‍🌈",
        "\u{feff}",
        "\r\n\r\n",
    ] {
        let row = embed(&engine, &[text]).expect("embeds").rows.remove(0);
        assert!(row.iter().all(|x| x.is_finite()), "{text:?}");
        score(&engine, text).expect("scores");
    }
}

#[test]
fn what_a_model_makes_nan_of_is_an_error_and_no_answer_with_null() {
    let folder = copy_of_tiny();
    let path = folder.path().join(TINY).join("model.safetensors");
    let mut weights = candle_core::safetensors::load(&path, &Device::Cpu).expect("load");
    let huge = Tensor::full(f32::MAX, 48, &Device::Cpu).expect("tensor");
    weights.insert("embeddings.LayerNorm.weight".to_owned(), huge);
    candle_core::safetensors::save(&weights, path).expect("save");
    let engine = engine_over(folder.path().to_owned(), &[]);
    let embedded = embed(&engine, &["text"]).map(|_| ());
    let scored = score(&engine, "text").map(|_| ());
    for outcome in [embedded, scored] {
        let Err(EngineError::Inference(told)) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(told.contains("NaN or infinity"), "{told}");
    }
}

#[test]
fn what_overflows_after_the_encoder_is_an_error_too() {
    let folder = copy_of_tiny();
    let model = folder.path().join(TINY);
    let dense = json!({"in_features": 48, "out_features": 1, "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity"});
    let class = |name: &str| format!("sentence_transformers.models.{name}");
    let modules = ["Transformer", "Pooling", "Dense"].map(|name| {
        let path = if name == "Transformer" { "" } else { name };
        json!({"name": name, "path": path, "type": class(name)})
    });
    std::fs::write(model.join("modules.json"), json!(modules).to_string()).expect("write");
    for (name, config) in [("Pooling", json!({})), ("Dense", dense)] {
        std::fs::create_dir(model.join(name)).expect("create folder");
        std::fs::write(model.join(name).join("config.json"), config.to_string()).expect("write");
    }
    let path = model.join("Dense/model.safetensors");
    let weight = Tensor::full(f32::MAX, (1, 48), &Device::Cpu).expect("tensor");
    let weights = HashMap::from([("linear.weight", weight)]);
    candle_core::safetensors::save(&weights, path).expect("save");
    let outcome = embed(&engine_over(folder.path().to_owned(), &[]), &["text"]);
    assert!(
        matches!(outcome, Err(EngineError::Inference(_))),
        "{outcome:?}"
    );
}
