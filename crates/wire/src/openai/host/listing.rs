//! A host's list of models, each server's after its own fashion.

use serde::Deserialize;
use serde_json::Value;

/// The names in a list of models that embeddings can be asked of, and who made the server, if it says so.
/// `None`: it is no such list.
pub fn listed_models(body: &[u8]) -> Option<(Vec<String>, Option<String>)> {
    #[derive(Deserialize)]
    struct List {
        /// `null` if there are none (Ollama); never missing.
        #[serde(deserialize_with = "Option::deserialize")]
        data: Option<Vec<Listed>>,
    }
    let list: List = serde_json::from_slice(body).ok()?;
    let models = list.data.unwrap_or_default();
    let owner = models.first().and_then(|model| model.owned_by.as_str());
    let owner = owner.map(str::to_owned);
    Some((models.iter().flat_map(Listed::names).collect(), owner))
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    #[serde(default)]
    owned_by: Value,
    /// Further names that are taken (llama.cpp).
    #[serde(default)]
    aliases: Value,
    /// What it can be used for, in infinity's words.
    #[serde(default)]
    capabilities: Value,
    /// The model that it is an adapter of.
    #[serde(default)]
    parent: Value,
}

impl Listed {
    fn names(&self) -> Vec<String> {
        match (self.owned_by.as_str(), self.parent.as_str()) {
            // It reranks or classifies, say.
            (Some("infinity"), _) if !self.can_embed() => Vec::new(),
            // By its own name alone, the answer would be the parent's.
            (Some("sglang"), Some(parent)) => vec![format!("{parent}:{}", self.id)],
            _ => {
                let aliases = self.aliases.as_array().into_iter().flatten();
                let aliases = aliases.filter_map(Value::as_str).map(str::to_owned);
                std::iter::once(self.id.clone()).chain(aliases).collect()
            }
        }
    }

    fn can_embed(&self) -> bool {
        let told = self.capabilities.as_array();
        told.is_none_or(|told| told.iter().any(|it| it == "embed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_models_are_read() {
        type Names<'a> = &'a [&'a str];
        let table: [(&str, Names<'_>, Option<&str>); 7] = [
            (
                r#"{"object":"list","data":[{"id":"a","owned_by":"vllm"},{"id":"b","parent":"a","root":"/b"}]}"#,
                &["a", "b"],
                Some("vllm"),
            ),
            (r#"{"data":[{"id":"a","owned_by":null}]}"#, &["a"], None),
            (r#"{"data":[]}"#, &[], None),
            (r#"{"object":"list","data":null}"#, &[], None),
            (
                r#"{"models":[],"data":[{"id":"a","aliases":["b","c",1],"owned_by":"llamacpp","capabilities":{}}]}"#,
                &["a", "b", "c"],
                Some("llamacpp"),
            ),
            (
                r#"{"data":[{"id":"a","owned_by":"infinity","capabilities":["image_embed","embed"]},
                    {"id":"b","owned_by":"infinity","capabilities":["rerank"]},{"id":"c","owned_by":"infinity"}]}"#,
                &["a", "c"],
                Some("infinity"),
            ),
            (
                r#"{"data":[{"id":"org/a","owned_by":"sglang"},{"id":"b","parent":"org/a","owned_by":"sglang"}]}"#,
                &["org/a", "org/a:b"],
                Some("sglang"),
            ),
        ];
        for (list, names, owner) in table {
            let (found, maker) = listed_models(list.as_bytes()).unwrap();
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            assert_eq!(
                (found.as_slice(), maker.as_deref()),
                (names, owner),
                "{list}"
            );
        }
        for no_list in ["", "{}", r#"{"data":[{"name":"a"}]}"#, r#"{"data":[1]}"#] {
            assert_eq!(listed_models(no_list.as_bytes()), None, "{no_list}");
        }
    }
}
