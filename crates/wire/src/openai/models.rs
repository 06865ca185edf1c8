//! The models that embeddings can be had of, as OpenAI lists them.

use serde::Serialize;

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    /// Nobody knows when; clients expect a number.
    created: u64,
    owned_by: &'static str,
}

impl<'a> Model<'a> {
    fn called(id: &'a str) -> Self {
        Self {
            id,
            object: "model",
            created: 0,
            owned_by: "gpu-bridge",
        }
    }
}

/// Of models as `/info` names them, those for embeddings, each once.
fn names<'a>(told: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    told.into_iter()
        .filter_map(|model| model.strip_prefix("embed:"))
}

/// The list of all. `told`: as `/info` names them, sorted.
pub fn models<'a>(told: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<Model<'a>>,
    }
    let mut ids: Vec<&str> = names(told).collect();
    ids.dedup();
    let list = List {
        object: "list",
        data: ids.into_iter().map(Model::called).collect(),
    };
    // Strings always serialise.
    serde_json::to_vec(&list).unwrap_or_default()
}

/// The one called `id`, if there is one.
pub fn model<'a>(told: impl IntoIterator<Item = &'a str>, id: &str) -> Option<Vec<u8>> {
    let found = names(told).find(|name| *name == id)?;
    serde_json::to_vec(&Model::called(found)).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOLD: [&str; 4] = ["bertscore:b", "embed:a", "embed:a", "embed:org/c"];

    #[test]
    fn models_for_embeddings_are_listed_once() {
        let list: Value = serde_json::from_slice(&models(TOLD)).unwrap();
        let entry =
            |id| json!({"id": id, "object": "model", "created": 0, "owned_by": "gpu-bridge"});
        let expected = json!({"object": "list", "data": [entry("a"), entry("org/c")]});
        assert_eq!(list, expected);
    }

    #[test]
    fn one_is_found_by_its_whole_name() {
        let found: Value = serde_json::from_slice(&model(TOLD, "org/c").unwrap()).unwrap();
        assert_eq!(found["id"], "org/c");
        for id in ["b", "c", "bertscore:b", "embed:a", ""] {
            assert_eq!(model(TOLD, id), None, "{id}");
        }
    }
}
