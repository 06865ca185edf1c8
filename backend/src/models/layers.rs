//! Which hidden layer `BERTScore` compares.
//!
//! `bert_score_model2layers.json` holds the choices that bert-score's authors published: for each
//! model the layer whose scores agree best with people's judgement. They depend on the name alone.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::error::LoadError;
use super::locate::{is_implied, short};

/// Facts from `model2layers` in bert-score 0.3.13 (`bert_score/utils.py`).
const PUBLISHED: &str = include_str!("bert_score_model2layers.json");

#[derive(Deserialize)]
struct Published {
    model2layers: BTreeMap<String, usize>,
}

/// By name.
static LAYERS: LazyLock<BTreeMap<String, usize>> = LazyLock::new(|| {
    let published = serde_json::from_str::<Published>(PUBLISHED);
    // The file is part of the program; a test reads it.
    published.map_or_else(|_| BTreeMap::new(), |list| list.model2layers)
});

/// Names of models for which a layer was published.
pub(crate) fn published_names() -> impl Iterator<Item = &'static str> {
    LAYERS.keys().map(String::as_str)
}

/// Was a layer published for a model of this name?
pub(crate) fn is_published(name: &str) -> bool {
    LAYERS.contains_key(name)
}

/// The layer for the model that goes by `names`, which has `available` of them: the operator's
/// choice, else the published one, else the last.
///
/// 0 is the output of the embeddings, `n` that of the `n`th layer.
///
/// # Errors
/// If the layer that was chosen does not exist in this model.
pub(crate) fn layer_for(
    names: [&str; 2],
    overrides: &BTreeMap<String, usize>,
    available: usize,
) -> Result<usize, LoadError> {
    let mut chosen = [overrides, &LAYERS].into_iter();
    let wanted = chosen.find_map(|layers| of_model(names, layers));
    let wanted = wanted.unwrap_or(available);
    if wanted > available {
        return Err(LoadError::Layer { wanted, available });
    }
    Ok(wanted)
}

/// The layer under one of the names, else under another spelling of one: a model's scores must not
/// depend on whether its organisation is named.
fn of_model(names: [&str; 2], layers: &BTreeMap<String, usize>) -> Option<usize> {
    let exact = names.iter().find_map(|name| layers.get(*name));
    let respelled = || {
        let mut all = layers.iter();
        let layer = all.find(|(known, _)| names.iter().any(|name| respells(known, name)))?;
        Some(layer.1)
    };
    exact.or_else(respelled).copied()
}

/// Whether one of the names is the other with an organisation that goes without saying.
fn respells(a: &str, b: &str) -> bool {
    short(a) == short(b)
        && [a, b]
            .iter()
            .all(|name| !name.contains('/') || is_implied(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_layer_is_taken() {
        let none = BTreeMap::new();
        for (name, layer) in [("microsoft/deberta-xlarge-mnli", 40), ("roberta-large", 17)] {
            assert_eq!(layer_for([name; 2], &none, 48).expect(name), layer);
        }
    }

    #[test]
    fn a_model_without_a_published_layer_gives_its_last() {
        assert_eq!(
            layer_for(["my-own"; 2], &BTreeMap::new(), 6).expect("last"),
            6
        );
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let overrides = BTreeMap::from([("roberta-large".to_owned(), 0), ("my-own".to_owned(), 3)]);
        assert_eq!(
            layer_for(["roberta-large"; 2], &overrides, 24).expect("chosen"),
            0
        );
        assert_eq!(layer_for(["my-own"; 2], &overrides, 6).expect("chosen"), 3);
    }

    #[test]
    fn a_layer_that_the_model_lacks_is_an_error() {
        let error = layer_for(["roberta-large"; 2], &BTreeMap::new(), 12).expect_err("too deep");
        assert_eq!(
            error.to_string(),
            "layer 17 was asked for, but the model has 12"
        );
    }

    #[test]
    fn a_model_has_the_same_layer_under_each_of_its_names() {
        let none = BTreeMap::new();
        for (asked, folder, layer) in [
            ("deberta-xlarge-mnli", "deberta-xlarge-mnli", 40),
            ("deberta-xlarge-mnli", "microsoft/deberta-xlarge-mnli", 40),
            ("microsoft/deberta-xlarge-mnli", "deberta-xlarge-mnli", 40),
            ("FacebookAI/roberta-large", "FacebookAI/roberta-large", 17),
            ("someone/roberta-large", "someone/roberta-large", 24),
        ] {
            let available = layer.max(24);
            let found = layer_for([asked, folder], &none, available).expect(asked);
            assert_eq!(found, layer, "{asked} in {folder}");
        }
        let overrides = BTreeMap::from([("all-MiniLM-L6-v2".to_owned(), 5)]);
        let full = "sentence-transformers/all-MiniLM-L6-v2";
        let found = layer_for([full, full], &overrides, 6).expect("chosen");
        assert_eq!(found, 5);
    }
}
