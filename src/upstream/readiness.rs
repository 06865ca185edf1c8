//! What a host's `/health` says of its models. Pure.

use gpu_bridge_wire::Health;
use serde::Deserialize;
use serde_json::Value;

/// More of a host's models would be no help.
const MAX_MODELS: usize = 4;
/// The longest name that is shown.
const MAX_NAME: usize = 80;

/// The answer of `/health`, from a host of ours with where its default models are at.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Told {
    #[serde(flatten)]
    pub(super) health: Health,
    /// A list of objects with `purpose`, `name` and `state`. Other hosts may have anything there.
    #[serde(default)]
    models: Value,
}

impl Told {
    /// What a host says of which no more is asked than 200. Whether it is ready, one of ours says there too.
    pub(super) fn of_anybody(body: &[u8]) -> Self {
        let mut told: Self = serde_json::from_slice(body).unwrap_or_default();
        Health::OK.clone_into(&mut told.health.status);
        told
    }

    /// Why the host can't use its models, for people; `None` if it doesn't say that it can't.
    pub(super) fn not_ready(&self) -> Option<String> {
        if self.health.ready != Some(false) {
            return None;
        }
        let models = self.models.as_array().into_iter().flatten();
        let models: Vec<String> = models.filter_map(state_of).take(MAX_MODELS).collect();
        let cause = if models.is_empty() {
            String::new()
        } else {
            format!(" ({})", models.join(", "))
        };
        Some(format!(
            "it is up but not ready: no model can be used{cause}"
        ))
    }
}

/// Nothing but what a host of ours may say.
fn state_of(model: &Value) -> Option<String> {
    let text = |key: &str| model[key].as_str();
    let known = |text: &&str, words: &[&str]| words.contains(text);
    let purpose = text("purpose").filter(|it| known(it, &["embed", "bertscore"]))?;
    let state = text("state").filter(|it| known(it, &["loading", "failed", "unloaded"]))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let name = text("name").filter(|it| it.len() <= MAX_NAME && it.chars().all(plain))?;
    Some(format!("{purpose} {name}: {state}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_not_ready_says_of_which_models() {
        let why = "it is up but not ready: no model can be used";
        let table = [
            (r#"{"status":"ok"}"#, None),
            (r#"{"status":"ok","ready":true,"models":[]}"#, None),
            (r#"{"status":"ok","ready":"no"}"#, None),
            (r#"{"status":"ok","ready":false}"#, Some(why.to_owned())),
            (
                r#"{"status":"ok","ready":false,"models":{"a":[1]}}"#,
                Some(why.to_owned()),
            ),
            (
                r#"{"status":"ok","ready":false,"models":[3,
                    {"purpose":"embed","name":"m\u001b","state":"failed"},
                    {"purpose":"embed","name":"m","state":"broken: call 0190"},
                    {"purpose":"embed","name":"o/m-1","state":"failed"},
                    {"purpose":"bertscore","name":"n","state":"loading","reason":"r"}]}"#,
                Some(format!("{why} (embed o/m-1: failed, bertscore n: loading)")),
            ),
        ];
        for (text, expected) in table {
            let told: Told = serde_json::from_str(text).unwrap();
            assert_eq!(told.not_ready(), expected, "{text}");
        }
    }

    #[test]
    fn of_other_hosts_only_a_word_of_ours_counts() {
        let table = [
            ("", None),
            ("Ollama is running", None),
            (r#"{"unix":1.5}"#, None),
            (r#"{"status":"error"}"#, None),
            (r#"{"status":"ok","ready":false}"#, Some(false)),
        ];
        for (body, ready) in table {
            let told = Told::of_anybody(body.as_bytes());
            assert_eq!(
                (told.health.status.as_str(), told.health.ready),
                ("ok", ready)
            );
        }
    }

    #[test]
    fn a_long_list_is_cut_short() {
        let model = format!(
            r#"{{"purpose":"embed","name":"{}","state":"failed"}}"#,
            "n".repeat(MAX_NAME)
        );
        let models = vec![model; 50].join(",");
        let text = format!(r#"{{"status":"ok","ready":false,"models":[{models}]}}"#);
        let told: Told = serde_json::from_str(&text).unwrap();
        assert!(told.not_ready().unwrap().len() < 500);
    }
}
