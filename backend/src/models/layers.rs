//! Which hidden layer `BERTScore` compares.
//!
//! `bert_score_model2layers.json` holds the choices that bert-score's authors published: for each
//! model the layer whose scores agree best with people's judgement. They depend on the name alone.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::LoadError;

/// Facts from `model2layers` in bert-score 0.3.13 (`bert_score/utils.py`).
const PUBLISHED: &str = include_str!("bert_score_model2layers.json");

#[derive(Deserialize)]
struct Published {
    model2layers: BTreeMap<String, usize>,
}

/// The layer for the model called `name`, which has `available` of them: the operator's choice,
/// else the published one, else the last.
///
/// 0 is the output of the embeddings, `n` that of the `n`th layer.
///
/// # Errors
/// If the layer that was chosen does not exist in this model.
pub(crate) fn layer_for(
    name: &str,
    overrides: &BTreeMap<String, usize>,
    available: usize,
) -> Result<usize, LoadError> {
    let wanted = match overrides.get(name) {
        Some(layer) => *layer,
        None => published(name)?.unwrap_or(available),
    };
    if wanted > available {
        return Err(LoadError::Layer { wanted, available });
    }
    Ok(wanted)
}

fn published(name: &str) -> Result<Option<usize>, LoadError> {
    let list: Published = serde_json::from_str(PUBLISHED).map_err(LoadError::PublishedLayers)?;
    Ok(list.model2layers.get(name).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_layer_is_taken() {
        let none = BTreeMap::new();
        for (name, layer) in [("microsoft/deberta-xlarge-mnli", 40), ("roberta-large", 17)] {
            assert_eq!(layer_for(name, &none, 48).expect(name), layer);
        }
    }

    #[test]
    fn a_model_without_a_published_layer_gives_its_last() {
        assert_eq!(layer_for("my-own", &BTreeMap::new(), 6).expect("last"), 6);
    }

    #[test]
    fn the_operator_has_the_last_word() {
        let overrides = BTreeMap::from([("roberta-large".to_owned(), 0), ("my-own".to_owned(), 3)]);
        assert_eq!(
            layer_for("roberta-large", &overrides, 24).expect("chosen"),
            0
        );
        assert_eq!(layer_for("my-own", &overrides, 6).expect("chosen"), 3);
    }

    #[test]
    fn a_layer_that_the_model_lacks_is_an_error() {
        let error = layer_for("roberta-large", &BTreeMap::new(), 12).expect_err("too deep");
        assert_eq!(
            error.to_string(),
            "layer 17 was asked for, but the model has 12"
        );
    }
}
