//! Numbers against those of the Python implementations (`tests/golden/README.md` says which).

use gpu_bridge_backend::device::Precision;
use gpu_bridge_backend::engine::{Engine, EngineError, Scores, Scoring};
use gpu_bridge_backend::models::{CandleEngine, EngineOptions, ModelSources};
use serde_json::{Value, json};

use crate::support::{
    MINILM, Watcher, change_setting, copy_of, engine_over, golden, golden_json, minilm, minilm_in,
};

const EMBEDDING_TOLERANCE: f32 = 1e-5;
const SCORE_TOLERANCE: f32 = 1e-4;

fn items(file: &str) -> Vec<Value> {
    golden_json(file)["items"]
        .as_array()
        .expect("items")
        .clone()
}

fn texts(items: &[Value], key: &str) -> Vec<String> {
    items
        .iter()
        .map(|item| item[key].as_str().expect(key).to_owned())
        .collect()
}

/// A number of a golden file; null is NaN there.
fn number(value: &Value) -> f32 {
    serde_json::from_value::<Option<f32>>(value.clone())
        .expect("a number")
        .unwrap_or(f32::NAN)
}

fn difference(ours: f32, theirs: f32) -> f32 {
    if ours.is_nan() && theirs.is_nan() {
        0.0
    } else {
        (ours - theirs).abs()
    }
}

/// The largest of the differences; NaN if one is.
fn largest(differences: impl Iterator<Item = f32>) -> f32 {
    differences.fold(0.0, |a, b| if a.is_nan() || a > b { a } else { b })
}

/// [`expect_scored`] without weights and baseline.
fn expect_scores(engine: &CandleEngine, model: &str, items: &[Value]) {
    expect_scored(engine, model, items, &Scoring::default());
}

/// Scores all pairs of `items` in one request and expects the reference's numbers.
fn expect_scored(engine: &CandleEngine, model: &str, items: &[Value], scoring: &Scoring) {
    let worst = largest_error(engine, model, items, scoring);
    assert!(worst < SCORE_TOLERANCE, "{model}: {worst:e}");
}

/// The largest difference of a score. Where the reference's depend on the rest of the batch, an item has
/// the pair's own as `single`.
fn largest_error(engine: &CandleEngine, model: &str, items: &[Value], scoring: &Scoring) -> f32 {
    let (candidates, references) = (texts(items, "candidate"), texts(items, "reference"));
    let watcher = Watcher::patient();
    let scores = engine
        .bertscore(model, &candidates, &references, scoring, &watcher)
        .expect("scores");
    let Scores {
        precision,
        recall,
        f1,
    } = &scores;
    let differences = items.iter().enumerate().flat_map(|(i, item)| {
        let expected = item.get("single").unwrap_or(item);
        let parts = [("precision", precision), ("recall", recall), ("f1", f1)];
        parts.map(|(part, ours)| difference(ours[i], number(&expected[part])))
    });
    let worst = largest(differences);
    println!(
        "{model}: {} pairs, largest difference {worst:e}",
        items.len()
    );
    worst
}

#[test]
fn embeddings_agree_with_sentence_transformers() {
    let items = items("numerics/embed_minilm_public.json");
    let texts = texts(&items, "text");
    let engine = minilm(6);
    let embeddings = engine
        .embed(MINILM, &texts, &Watcher::patient())
        .expect("embeddings");
    assert_eq!(
        (embeddings.rows.len(), embeddings.dimensions),
        (items.len(), 384)
    );
    let differences = items.iter().zip(&embeddings.rows).flat_map(|(item, row)| {
        let expected = item["embedding"].as_array().expect("embedding");
        assert_eq!(expected.len(), row.len());
        expected
            .iter()
            .zip(row)
            .map(|(theirs, ours)| difference(*ours, number(theirs)))
    });
    let worst = largest(differences);
    println!(
        "embeddings: {} texts, largest difference {worst:e}",
        items.len()
    );
    assert!(worst < EMBEDDING_TOLERANCE, "largest difference {worst:e}");
}

/// What is promised of bf16 on the processor; without the instructions for it the numbers are the same.
#[test]
fn embeddings_in_bf16_keep_their_direction() {
    let items = items("numerics/embed_minilm_public.json");
    let texts = texts(&items, "text");
    let [exact, rounded] = [Precision::F32, Precision::Bf16].map(|precision| {
        let engine = minilm_in(precision, 6);
        let embeddings = engine.embed(MINILM, &texts, &Watcher::patient());
        embeddings.expect("embeddings").rows
    });
    // All have length 1.
    let cosine = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let least = exact.iter().zip(&rounded).map(cosine).fold(1.0, f32::min);
    println!("bf16: {} texts, least cosine {least}", items.len());
    assert!((0.9999..0.999_999).contains(&least), "{least}");
}

#[test]
fn scores_in_bf16_stay_near_those_of_bert_score() {
    for layer in [3, 6] {
        let items = items(&format!("numerics/bertscore_minilm_L{layer}_public.json"));
        let engine = minilm_in(Precision::Bf16, layer);
        let worst = largest_error(&engine, MINILM, &items, &Scoring::default());
        assert!(
            (SCORE_TOLERANCE..2e-3).contains(&worst),
            "layer {layer}: {worst:e}"
        );
    }
}

#[test]
fn scores_of_the_last_layer_agree_with_bert_score() {
    let items = items("numerics/bertscore_minilm_L6_public.json");
    expect_scores(&minilm(6), MINILM, &items);
}

#[test]
fn scores_of_a_lower_layer_agree_with_bert_score() {
    let items = items("numerics/bertscore_minilm_L3_public.json");
    expect_scores(&minilm(3), MINILM, &items);
}

/// The scores of a model in `tests/golden/tiny`, all of which are of layer 3.
fn expect_tiny_scores(model: &str) {
    let items = items(&format!("tiny/{model}/bertscore.json"));
    expect_scores(&engine_over(golden("tiny"), &[(model, 3)]), model, &items);
}

macro_rules! scores_of_every_family_agree_with_bert_score {
    ($($model:ident)*) => {
        mod scores_of_every_family_agree_with_bert_score {
            $(#[test] fn $model() { super::expect_tiny_scores(stringify!($model)); })*
        }
    };
}

scores_of_every_family_agree_with_bert_score! {
    bert roberta xlm_roberta deberta_v1 deberta_v1_span24
    distilbert mpnet deberta_v2 deberta_v2_conv modernbert
}

#[test]
fn a_text_is_cut_after_the_most_tokens_that_the_operator_allows() {
    let engine = |max_tokens| {
        let sources = ModelSources {
            models_dir: Some(golden("tiny")),
            ..ModelSources::default()
        };
        let options = EngineOptions {
            max_tokens,
            ..EngineOptions::default()
        };
        CandleEngine::new(sources, options).expect("starts")
    };
    let embed = |engine: &CandleEngine, words: usize| {
        let text = ["a ".repeat(words)];
        let embeddings = engine.embed("deberta_v1", &text, &Watcher::patient());
        embeddings.expect("embeds").rows
    };
    let (capped, free) = (engine(16), engine(usize::MAX));
    // Start and end take two of the tokens.
    assert_eq!(embed(&capped, 100), embed(&capped, 14));
    assert_ne!(embed(&capped, 14), embed(&capped, 13));
    assert_ne!(embed(&free, 100), embed(&free, 14));
}

#[test]
fn weighted_and_rescaled_scores_agree_with_bert_score() {
    for model in ["bert", "roberta"] {
        let engine = engine_over(golden("tiny"), &[(model, 3)]);
        let file = golden_json(&format!("tiny/{model}/bertscore_idf.json"));
        for request in file["requests"].as_array().expect("requests") {
            for (variant, idf, rescaled) in [
                ("idf", true, false),
                ("rescaled", false, true),
                ("idf_rescaled", true, true),
            ] {
                let pairs = request.as_array().expect("pairs").iter();
                let items: Vec<Value> = pairs
                    .map(|pair| {
                        let mut item = pair[variant].clone();
                        item["candidate"] = pair["candidate"].clone();
                        item["reference"] = pair["reference"].clone();
                        item
                    })
                    .collect();
                let baseline = rescaled.then(|| "en".to_owned());
                expect_scored(&engine, model, &items, &Scoring { idf, baseline });
            }
        }
    }
}

#[test]
fn scores_are_not_rescaled_without_a_baseline() {
    let engine = engine_over(golden("tiny"), &[]);
    for (model, language) in [("bert", "de"), ("mpnet", "en")] {
        let scoring = Scoring {
            idf: false,
            baseline: Some(language.to_owned()),
        };
        let text = ["a text".to_owned()];
        let refused = engine.bertscore(model, &text, &text, &scoring, &Watcher::patient());
        let Err(EngineError::NoBaseline { name, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(name, model);
    }
}

/// The published DeBERTa v1 have no limit, and an encoder without positions of its own needs none.
#[test]
fn a_text_without_limit_is_scored_whole() {
    let file = golden_json("tiny/no_max_length.json");
    for model in ["deberta_v1", "deberta_v1_span24"] {
        let result = &file["tf4"]["result"][model];
        let folder = copy_of(model);
        let settings = folder.path().join(model).join("tokenizer_config.json");
        change_setting(&settings, "model_max_length", Value::Null);
        let engine = engine_over(folder.path().to_owned(), &[(model, 3)]);
        let items = ["short", "long"].map(|length| result[length].clone());
        expect_scores(&engine, model, &items);
    }
}

/// The reference puts a space before a text only if the class is RoBERTa's in Python, which
/// transformers 5 no longer has.
#[test]
fn a_fast_tokenizer_is_asked_for_no_space() {
    let items = items("tiny/roberta/bertscore_tf5.json");
    let folder = copy_of("roberta");
    let settings = folder.path().join("roberta/tokenizer_config.json");
    change_setting(&settings, "tokenizer_class", json!("RobertaTokenizerFast"));
    let engine = engine_over(folder.path().to_owned(), &[("roberta", 3)]);
    expect_scores(&engine, "roberta", &items);
}

#[test]
fn a_row_of_a_batch_is_the_single_result() {
    let texts = texts(&items("numerics/embed_minilm_public.json"), "text");
    let engine = minilm(6);
    let together = engine
        .embed(MINILM, &texts, &Watcher::patient())
        .expect("embeddings");
    let differences = texts.iter().zip(&together.rows).flat_map(|(text, row)| {
        let alone = engine.embed(MINILM, std::slice::from_ref(text), &Watcher::patient());
        let alone = alone.expect("embedding").rows.remove(0);
        alone
            .into_iter()
            .zip(row)
            .map(|(a, b)| difference(a, *b))
            .collect::<Vec<_>>()
    });
    let worst = largest(differences);
    println!("batch and single: largest difference {worst:e}");
    assert!(worst < 1e-6, "largest difference {worst:e}");
}

#[test]
fn a_pair_of_a_batch_is_the_single_result() {
    let items = items("numerics/bertscore_minilm_L6_public.json");
    let (candidates, references) = (texts(&items, "candidate"), texts(&items, "reference"));
    let engine = minilm(6);
    let score = |candidates: &[String], references: &[String]| {
        engine
            .bertscore(
                MINILM,
                candidates,
                references,
                &Scoring::default(),
                &Watcher::patient(),
            )
            .expect("scores")
    };
    let together = score(&candidates, &references);
    let differences = (0..items.len()).flat_map(|i| {
        let alone = score(&candidates[i..=i], &references[i..=i]);
        [
            difference(alone.precision[0], together.precision[i]),
            difference(alone.recall[0], together.recall[i]),
            difference(alone.f1[0], together.f1[i]),
        ]
    });
    let worst = largest(differences);
    println!("batch and single pair: largest difference {worst:e}");
    assert!(worst < 1e-6, "largest difference {worst:e}");
}
