//! Results as JSON.
//!
//! Numbers are computed as `f32` and written as Python writes them: widened to `f64`, then in the
//! shortest form that reads back as that `f64` (`0.1` becomes `0.10000000149011612`). NaN is `null`.

use std::num::NonZeroU32;
use std::path::{Component, Path};

use gpu_bridge_wire::openai::{Form, Writer};
use gpu_bridge_wire::{ActiveJob, Health, Info, QueueStatus, Status};
use serde::{Serialize, Serializer};

use crate::device::Facts;
use crate::engine::{Embeddings, ModelState, Readiness, Scores};

/// What computes, as `/info` names it. The key there is called `pytorch_version`.
pub const ENGINE: &str = "candle 0.11.1";

/// The description of this API, for `/openapi.json`.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

type Json = serde_json::Result<Vec<u8>>;

/// What a computation gave.
#[derive(Debug)]
pub(super) enum Outcome {
    Embeddings(Embeddings),
    Scores(Scores),
}

impl Outcome {
    /// Tokens of each text, if they were counted.
    pub(super) fn tokens(&self) -> Option<&[usize]> {
        match self {
            Self::Embeddings(found) => Some(&found.tokens),
            Self::Scores(_) => None,
        }
    }

    /// The body of the response; `model` is the one that computed. `form`: how it is wanted in OpenAI's
    /// dialect, if it is.
    pub(super) fn to_json(&self, model: &str, form: Option<Form>) -> Json {
        match self {
            Self::Embeddings(found) if let Some(form) = form => {
                let mut writer = Writer::new(form.encoding);
                found.rows.iter().for_each(|row| writer.numbers(row));
                Ok(writer.finish(model, found.tokens.iter().sum::<usize>() as u64))
            }
            Self::Embeddings(found) => serde_json::to_vec(&EmbedAnswer {
                embeddings: found.rows.iter().map(|row| Numbers(row)).collect(),
                model,
                dimensions: found.dimensions,
            }),
            Self::Scores(scores) => serde_json::to_vec(&BertscoreAnswer {
                precision: Numbers(&scores.precision),
                recall: Numbers(&scores.recall),
                f1: Numbers(&scores.f1),
                model,
            }),
        }
    }
}

#[derive(Serialize)]
struct EmbedAnswer<'a> {
    embeddings: Vec<Numbers<'a>>,
    model: &'a str,
    dimensions: usize,
}

#[derive(Serialize)]
struct BertscoreAnswer<'a> {
    precision: Numbers<'a>,
    recall: Numbers<'a>,
    f1: Numbers<'a>,
    model: &'a str,
}

struct Numbers<'a>(&'a [f32]);

impl Serialize for Numbers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|&number| f64::from(number)))
    }
}

/// Who reads an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// Nothing about this machine's folders is for them.
    Everybody,
    /// Those who have shown a key.
    Operator,
}

/// Where a default model is at.
#[derive(Serialize)]
struct ModelAnswer<'a> {
    name: &'a str,
    purpose: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// What is known of the models of this host.
pub(super) struct Models<'a> {
    pub(super) loaded: Vec<String>,
    pub(super) available: Option<Vec<String>>,
    pub(super) readiness: &'a Readiness,
    /// Items of one request.
    pub(super) most: usize,
}

/// Why default models cannot be used, each after a semicolon.
pub(super) fn failures(readiness: &Readiness) -> String {
    let mut told = String::new();
    for model in models(readiness, Audience::Everybody) {
        if let Some(reason) = model.reason {
            told = format!("{told}; model '{}': {reason}", model.name);
        }
    }
    told
}

fn models(readiness: &Readiness, audience: Audience) -> Vec<ModelAnswer<'_>> {
    let models = readiness.models.iter().map(|model| {
        let (state, fault) = match &model.state {
            ModelState::Loading => ("loading", None),
            ModelState::Ready => ("ready", None),
            ModelState::Failed(fault) => ("failed", Some(fault)),
            ModelState::Unloaded => ("unloaded", None),
        };
        let purpose = model.purpose.name();
        let (name, reason) = match audience {
            Audience::Operator => (model.name.as_str(), fault.map(|fault| &fault.details)),
            Audience::Everybody => {
                let reason = fault.map(|fault| &fault.reason);
                (without_path(&model.name), reason)
            }
        };
        let reason = reason.map(String::as_str);
        ModelAnswer {
            name,
            purpose,
            state,
            reason,
        }
    });
    models.collect()
}

/// A model's name, `NAME` or `ORG/NAME`; of a folder's path the last part.
fn without_path(name: &str) -> &str {
    let path = Path::new(name);
    let mut parts = path.components();
    let plain = parts.all(|part| matches!(part, Component::Normal(_)));
    if plain && path.components().count() <= 2 {
        return name;
    }
    let last = path.file_name().and_then(|last| last.to_str());
    last.unwrap_or("a folder")
}

/// Body of `GET /health`: what the Python service says, and where the default models are at.
pub(super) fn health(device: &str, readiness: &Readiness) -> Json {
    #[derive(Serialize)]
    struct Answer<'a> {
        #[serde(flatten)]
        health: Health,
        models: Vec<ModelAnswer<'a>>,
    }
    let health = Health {
        status: Health::OK.to_owned(),
        device: device.to_owned(),
        ready: Some(readiness.ready),
    };
    serde_json::to_vec(&Answer {
        health,
        models: models(readiness, Audience::Everybody),
    })
}

/// Body of `GET /ready` on a host that is.
pub(super) fn ready() -> Json {
    #[derive(Serialize)]
    struct Answer {
        ready: bool,
    }
    serde_json::to_vec(&Answer { ready: true })
}

/// Body of `GET /info`: what the Python service says, and where the default models are at. An MB
/// there has 1024 × 1024 bytes, and a part of one doesn't count.
pub(super) fn info(device: &str, facts: &Facts, known: Models<'_>, audience: Audience) -> Json {
    #[derive(Serialize)]
    struct Answer<'a> {
        #[serde(flatten)]
        info: Info,
        models: Vec<ModelAnswer<'a>>,
    }
    let info = Info {
        device: device.to_owned(),
        device_name: facts.name.clone(),
        vram_total_mb: facts.memory.map(|memory| memory.total >> 20),
        vram_used_mb: facts.memory.map(|memory| memory.used >> 20),
        pytorch_version: ENGINE.to_owned(),
        cuda_version: facts.cuda_version.clone(),
        loaded_models: known.loaded,
        available_models: known.available,
        // Padding is never compared here.
        bertscore_batch_independent: Some(true),
        max_batch_size: u32::try_from(known.most).ok().and_then(NonZeroU32::new),
    };
    serde_json::to_vec(&Answer {
        info,
        models: models(known.readiness, audience),
    })
}

/// Body of `GET /status`.
pub(super) fn status(max_concurrent: u32, active_jobs: Vec<ActiveJob>) -> Json {
    let in_flight = u32::try_from(active_jobs.len()).unwrap_or(u32::MAX);
    let queue = QueueStatus::new(max_concurrent, in_flight);
    serde_json::to_vec(&Status { queue, active_jobs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{LoadFault, ModelReadiness, Purpose, Shortening};

    #[test]
    fn the_engine_is_named_with_the_version_that_is_built_in() {
        let lock = include_str!("../../../Cargo.lock");
        let version = ENGINE.strip_prefix("candle ").unwrap();
        assert!(lock.contains(&format!("name = \"candle-core\"\nversion = \"{version}\"")));
    }

    /// Digits as the Python service wrote them.
    #[test]
    fn numbers_are_widened_and_shortest() {
        let scores = Scores {
            precision: vec![0.949_351_9, f32::NAN, 1.0],
            recall: vec![-1.454_315_6e-8, 0.000_700_730_6, 0.0],
            f1: vec![],
        };
        let body = Outcome::Scores(scores).to_json("m", None).unwrap();
        let expected = concat!(
            r#"{"precision":[0.9493519067764282,null,1.0],"#,
            r#""recall":[-1.4543156012791769e-8,0.0007007305976003408,0.0],"#,
            r#""f1":[],"model":"m"}"#
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn embeddings_are_rows_with_their_length() {
        let found = Embeddings {
            rows: vec![vec![0.5, -2.0]],
            dimensions: 2,
            tokens: vec![5],
            shortening: Shortening::No,
        };
        let body = Outcome::Embeddings(found).to_json("m", None).unwrap();
        let expected = r#"{"embeddings":[[0.5,-2.0]],"model":"m","dimensions":2}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    fn failed_folder() -> Readiness {
        let fault = LoadFault {
            reason: "config.json is missing".to_owned(),
            details: "/srv/secret/mini/config.json is missing".to_owned(),
            passing: false,
        };
        let model = ModelReadiness {
            name: "/srv/secret/mini".to_owned(),
            purpose: Purpose::Embed,
            state: ModelState::Failed(fault),
        };
        Readiness {
            ready: false,
            models: vec![model],
        }
    }

    #[test]
    fn health_says_where_models_are_at_and_nothing_of_folders() {
        let body = health("cpu", &failed_folder()).unwrap();
        let expected = concat!(
            r#"{"status":"ok","device":"cpu","ready":false,"#,
            r#""models":[{"name":"mini","purpose":"embed","state":"failed","#,
            r#""reason":"config.json is missing"}]}"#
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn info_names_folders_to_those_with_a_key_only() {
        let told = |audience| {
            let known = Models {
                loaded: Vec::new(),
                available: None,
                readiness: &failed_folder(),
                most: 100,
            };
            let body = info("cpu", &Facts::default(), known, audience).unwrap();
            String::from_utf8(body).unwrap()
        };
        assert!(told(Audience::Operator).contains("/srv/secret/mini/config.json is missing"));
        assert!(!told(Audience::Everybody).contains("/srv"));
    }

    #[test]
    fn only_paths_are_cut() {
        for (name, shown) in [
            ("mini", "mini"),
            ("org/mini", "org/mini"),
            ("/srv/models/mini", "mini"),
            ("/mini", "mini"),
            ("./mini", "mini"),
            ("../org/mini/", "mini"),
            ("/", "a folder"),
        ] {
            assert_eq!(without_path(name), shown, "{name}");
        }
    }

    #[test]
    fn a_gpu_is_described_in_whole_megabytes() {
        let facts = Facts {
            name: "NVIDIA H200".to_owned(),
            memory: Some(crate::device::Memory {
                total: (143_771 << 20) + 1,
                used: (1 << 20) - 1,
            }),
            cuda_version: Some("13.0".to_owned()),
        };
        let readiness = Readiness {
            ready: true,
            models: Vec::new(),
        };
        let known = Models {
            loaded: vec!["embed:m".to_owned()],
            available: Some(vec!["embed:m".to_owned(), "embed:n".to_owned()]),
            readiness: &readiness,
            most: 100,
        };
        let body = info("cuda:1", &facts, known, Audience::Everybody).unwrap();
        let expected = concat!(
            r#"{"device":"cuda:1","device_name":"NVIDIA H200","vram_total_mb":143771,"#,
            r#""vram_used_mb":0,"pytorch_version":"candle 0.11.1","cuda_version":"13.0","#,
            r#""loaded_models":["embed:m"],"available_models":["embed:m","embed:n"],"#,
            r#""bertscore_batch_independent":true,"max_batch_size":100,"models":[]}"#
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn the_api_description_is_json() {
        let description: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        assert_eq!(description["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
