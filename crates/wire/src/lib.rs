//! The JSON types that GPU hosts answer with, shared by the proxy (which reads and aggregates
//! them) and the backend (which writes them).
//!
//! This crate knows shapes only: no I/O, no policy; [`openai`] turns one shape into another, [`items`] takes
//! bodies apart and puts them together. Field names and their meaning are the
//! wire contract of the existing Python service, so that an unchanged `openclaw-gpu-bridge` plugin
//! understands every answer. When reading, unknown fields are ignored and fields that newer or older
//! hosts may lack have defaults.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod items;
mod limits;
pub mod openai;
mod refusal;
mod text;

pub use limits::most_items;
pub use refusal::of_whole;
pub use text::without_mark;

use std::num::NonZeroU32;

use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize};

/// Header that carries the API key of a client (to the proxy) or of the proxy (to a host).
pub const API_KEY_HEADER: &str = "x-api-key";

/// Port that a GPU host, and the proxy in its place, listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 8765;

/// Answer of `GET /health`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `"ok"` while the host can serve.
    pub status: String,
    /// `"cpu"`, `"cuda"`, …
    #[serde(default, deserialize_with = "if_readable")]
    pub device: String,
    /// Can it serve requests, as far as its models go? A host that doesn't tell counts as one that can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "if_readable")]
    pub ready: Option<bool>,
}

impl Health {
    /// The `status` of a host that can serve.
    pub const OK: &'static str = "ok";
}

/// Answer of `GET /info`: the device and what is loaded on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// `"cpu"`, `"cuda"`, `"cuda:1"`.
    #[serde(default, deserialize_with = "if_readable")]
    pub device: String,
    /// Human name of the device, `"cpu"` on a host without a GPU.
    #[serde(default, deserialize_with = "if_readable")]
    pub device_name: String,
    /// Device memory in MB; `None` without a GPU.
    #[serde(default, deserialize_with = "if_readable")]
    pub vram_total_mb: Option<u64>,
    /// Device memory in use in MB; `None` without a GPU.
    #[serde(default, deserialize_with = "if_readable")]
    pub vram_used_mb: Option<u64>,
    /// Name and version of the engine. The key's name is part of the plugin's type.
    #[serde(default, deserialize_with = "if_readable")]
    pub pytorch_version: String,
    /// CUDA version, `None` without a GPU.
    #[serde(default, deserialize_with = "if_readable")]
    pub cuda_version: Option<String>,
    /// `"bertscore:NAME"` and `"embed:NAME"` for each loaded model.
    #[serde(default, deserialize_with = "those_readable")]
    pub loaded_models: Vec<String>,
    /// All that it can serve, loaded or not, in the same form and under every name by which a request
    /// finds it; `None` if it doesn't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "if_readable")]
    pub available_models: Option<Vec<String>>,
    /// Is the BERTScore of a pair, but for `idf`, the same whatever else is in the request? Not where
    /// shorter texts are padded and the padding is compared, as in the Python service; nor on a host that
    /// doesn't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "if_readable")]
    pub bertscore_batch_independent: Option<bool>,
    /// Texts, or pairs, that it takes in one request; `None` if it doesn't tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(deserialize_with = "if_readable")]
    pub max_batch_size: Option<NonZeroU32>,
}

/// Answer of `GET /status`: how busy the host is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Slots and their use.
    pub queue: QueueStatus,
    /// Requests that run; none that waits.
    #[serde(default)]
    pub active_jobs: Vec<ActiveJob>,
}

/// Slots of a host (or, from the proxy, of the pool) and their use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Requests that may run at once; 0 = always busy.
    pub max_concurrent: u32,
    /// From a host, requests that run; from the proxy, those that wait for a slot too.
    pub in_flight: u32,
    /// Free slots; from the proxy, those that a request would get now.
    pub available_slots: u32,
    /// `max(0, in_flight − max_concurrent)`.
    pub waiting_estimate: u32,
}

impl QueueStatus {
    /// Derives the two dependent counts from the independent ones, as a host does; the proxy knows its
    /// `available_slots` better.
    pub fn new(max_concurrent: u32, in_flight: u32) -> Self {
        Self {
            max_concurrent,
            in_flight,
            available_slots: max_concurrent.saturating_sub(in_flight),
            waiting_estimate: in_flight.saturating_sub(max_concurrent),
        }
    }
}

/// One request that a host is working on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveJob {
    /// Unique on its host.
    pub id: String,
    /// `"embed"` or `"bertscore"`.
    #[serde(rename = "type")]
    pub kind: String,
    /// ISO 8601, UTC.
    pub started_at: String,
    /// Texts, or pairs of texts.
    pub items: u64,
    /// Model that computes.
    pub model: String,
    /// Share of the work that is done, 0 to 1.
    pub progress: f64,
}

/// Body of a refusal: `{"detail": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong and, where that helps, what to do.
    pub detail: String,
}

/// What can be read, or that nothing is told: one odd key must not hide what the others say.
fn if_readable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Perhaps::deserialize(deserializer)?
        .readable()
        .unwrap_or_default())
}

/// The same of each of a list.
fn those_readable<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list: Vec<Perhaps<T>> = if_readable(deserializer)?;
    Ok(list.into_iter().filter_map(Perhaps::readable).collect())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Perhaps<T> {
    Readable(T),
    Other(IgnoredAny),
}

impl<T> Perhaps<T> {
    fn readable(self) -> Option<T> {
        match self {
            Self::Readable(value) => Some(value),
            Self::Other(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependent_queue_counts_never_underflow() {
        let idle = QueueStatus::new(2, 0);
        assert_eq!((idle.available_slots, idle.waiting_estimate), (2, 0));
        let crowded = QueueStatus::new(2, 5);
        assert_eq!((crowded.available_slots, crowded.waiting_estimate), (0, 3));
    }

    #[test]
    fn a_status_of_the_python_service_is_read_and_written_unchanged() -> serde_json::Result<()> {
        let recorded = r#"{"queue":{"max_concurrent":2,"in_flight":1,"available_slots":1,"waiting_estimate":0},"active_jobs":[{"id":"a1","type":"embed","started_at":"2026-11-23T00:00:00+00:00","items":3,"model":"m","progress":0.5}]}"#;
        let status: Status = serde_json::from_str(recorded)?;
        assert_eq!(status.active_jobs[0].kind, "embed");
        assert_eq!(serde_json::to_string(&status)?, recorded);
        Ok(())
    }

    #[test]
    fn an_info_with_missing_and_unknown_fields_is_read() -> serde_json::Result<()> {
        let info: Info = serde_json::from_str(r#"{"device":"cuda","new_field":1}"#)?;
        assert_eq!(info.device, "cuda");
        assert_eq!(info.vram_total_mb, None);
        Ok(())
    }

    #[test]
    fn one_odd_key_hides_nothing_else() -> serde_json::Result<()> {
        for odd in [
            r#""vram_used_mb":100.5"#,
            r#""vram_total_mb":-1"#,
            r#""pytorch_version":null"#,
            r#""device":null,"device_name":7"#,
            r#""cuda_version":12.4"#,
            r#""loaded_models":["embed:m",null,{"name":"x"}]"#,
        ] {
            let plain = r#""available_models":["embed:m"],"max_batch_size":4"#;
            let info: Info = serde_json::from_str(&format!("{{{odd},{plain}}}"))?;
            assert_eq!(
                info.available_models,
                Some(vec!["embed:m".to_owned()]),
                "{odd}"
            );
            assert_eq!(info.max_batch_size, NonZeroU32::new(4), "{odd}");
            assert_eq!(info.vram_used_mb, None, "{odd}");
            let is_listed = info.loaded_models == ["embed:m"];
            assert_eq!(is_listed, odd.contains("loaded"), "{odd}");
        }
        let health: Health = serde_json::from_str(r#"{"status":"ok","device":null}"#)?;
        assert_eq!(health.device, "");
        Ok(())
    }

    #[test]
    fn what_a_host_tells_in_keys_of_ours_counts_only_as_we_mean_it() -> serde_json::Result<()> {
        let table = [
            (r#"{"status":"ok","ready":false}"#, Some(false)),
            (r#"{"status":"ok","ready":null}"#, None),
            (r#"{"status":"ok","ready":"soon"}"#, None),
            (r#"{"status":"ok"}"#, None),
        ];
        for (text, expected) in table {
            let health: Health = serde_json::from_str(text)?;
            assert_eq!(health.ready, expected, "{text}");
        }
        let told: Info = serde_json::from_str(r#"{"available_models":["embed:a"]}"#)?;
        assert_eq!(told.available_models, Some(vec!["embed:a".to_owned()]));
        let other: Info = serde_json::from_str(r#"{"available_models":[{"name":"a"}]}"#)?;
        assert_eq!(other.available_models, None);
        let table = [
            ("true", Some(true)),
            ("false", Some(false)),
            ("\"yes\"", None),
        ];
        for (value, expected) in table {
            let text = format!(r#"{{"bertscore_batch_independent":{value}}}"#);
            let info: Info = serde_json::from_str(&text)?;
            assert_eq!(info.bertscore_batch_independent, expected, "{value}");
        }
        for (value, expected) in [("32", NonZeroU32::new(32)), ("0", None), ("\"all\"", None)] {
            let info: Info = serde_json::from_str(&format!(r#"{{"max_batch_size":{value}}}"#))?;
            assert_eq!(info.max_batch_size, expected, "{value}");
        }
        Ok(())
    }
}
