//! What a host tells of itself, within bounds: whatever it says, the proxy keeps, passes on and draws no
//! more than a host may have.

use std::sync::Arc;

use foldhash::{HashSet, HashSetExt as _};
use gpu_bridge_wire::Info;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::pool::{Model, Slots};

/// Models in each of a host's two lists. A host of ours tells of 2,000 at most; servers of adapters may
/// have some thousand.
const MOST_MODELS: usize = 4096;
/// Characters of the device's and the engine's names: a line for people.
const MAX_NAME: usize = 80;
/// Requests that run at once on one host, and that it may have in all. The largest of those that batch by
/// themselves run some hundred.
const MOST_REQUESTS: u32 = 4096;
/// Device memory in MB: that of a thousand of the largest hosts.
const MOST_MEMORY: u64 = 1 << 32;

/// Its last `/info`.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) info: Arc<Info>,
    /// It named more models than are kept.
    pub(super) too_many: bool,
}

impl Told {
    /// Within bounds. Shares what it can with what was told `before`: most hosts say the same each time.
    pub(super) fn new(mut info: Info, before: Option<Self>) -> Self {
        let too_many = bound(&mut info);
        match before {
            Some(before) if *before.info == info => Self { too_many, ..before },
            _ => Self {
                info: Arc::new(info),
                too_many,
            },
        }
    }
}

/// Returns whether it names too many models.
fn bound(info: &mut Info) -> bool {
    let texts = [
        Some(&mut info.device),
        Some(&mut info.device_name),
        Some(&mut info.pytorch_version),
        info.cuda_version.as_mut(),
    ];
    for text in texts.into_iter().flatten() {
        if let Some((end, _)) = text.char_indices().nth(MAX_NAME) {
            text.truncate(end);
        }
    }
    for memory in [&mut info.vram_total_mb, &mut info.vram_used_mb] {
        *memory = memory.map(|mb| mb.min(MOST_MEMORY));
    }
    keep_names(&mut info.loaded_models);
    let mut too_many = info.loaded_models.len() > MOST_MODELS;
    info.loaded_models.truncate(MOST_MODELS);
    if let Some(all) = &mut info.available_models {
        keep_names(all);
        if all.len() > MOST_MODELS {
            // Part of the list would be taken for all of it.
            info.available_models = None;
            too_many = true;
        }
    }
    too_many
}

/// Those that clients can ask for, each once.
fn keep_names(models: &mut Vec<String>) {
    let mut seen = HashSet::new();
    models.retain(|name| {
        let is_name = !name.is_empty() && name.len() <= Model::MAX_LEN;
        is_name && seen.insert(name.clone())
    });
}

/// The part of a `/status` that matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Load {
    queue: Queue,
}

#[derive(Debug, Deserialize)]
struct Queue {
    max_concurrent: u32,
    in_flight: u32,
    available_slots: u32,
    /// By the contract it is there; nothing here needs it.
    waiting_estimate: Option<IgnoredAny>,
}

impl Load {
    /// Does it lack what a host should tell?
    pub(super) fn is_short(&self) -> bool {
        self.queue.waiting_estimate.is_none()
    }

    /// `ours`: how many of its requests may be ours.
    pub(super) fn slots(&self, ours: u32) -> Slots {
        let within = |told: u32| told.min(MOST_REQUESTS);
        Slots {
            max_concurrent: within(self.queue.max_concurrent),
            available: within(self.queue.available_slots),
            in_flight: within(self.queue.in_flight),
            ours,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("embed:{number}")).collect()
    }

    #[test]
    fn whatever_a_host_tells_little_is_kept() {
        let long = "é".repeat(100_000);
        let wild = json!({
            "device": long, "device_name": long, "pytorch_version": long, "cuda_version": long,
            "vram_total_mb": u64::MAX, "vram_used_mb": u64::MAX,
            "loaded_models": names(50_000), "available_models": names(50_000),
        });
        let wild = serde_json::from_value(wild).unwrap();
        let told = Told::new(wild, None);
        assert!(told.too_many);
        let json = serde_json::to_string(&*told.info).unwrap();
        assert!(json.len() < 20 * MOST_MODELS, "{}", json.len());
        assert_eq!(told.info.loaded_models.len(), MOST_MODELS);
        assert_eq!(told.info.available_models, None, "not a part of it");
        assert_eq!(told.info.vram_total_mb, Some(MOST_MEMORY));

        let info = |loaded_models| Info {
            loaded_models,
            ..Info::default()
        };
        let [empty, a] = ["", "embed:a"].map(str::to_owned);
        let told = Told::new(info(vec![long, a.clone(), empty, a]), None);
        assert_eq!(told.info.loaded_models, ["embed:a"]);
        let all = Told::new(info(names(MOST_MODELS)), None);
        assert!(!all.too_many && all.info.loaded_models.len() == MOST_MODELS);
    }

    #[test]
    fn what_is_told_again_is_shared() {
        let info = || Info {
            loaded_models: names(3),
            ..Info::default()
        };
        let first = Told::new(info(), None);
        let again = Told::new(info(), Some(first.clone()));
        assert!(Arc::ptr_eq(&first.info, &again.info));
        let other = Told::new(Info::default(), Some(again));
        assert!(other.info.loaded_models.is_empty());
    }

    #[test]
    fn billions_of_slots_are_thousands() {
        let status = r#"{"queue":{"max_concurrent":4294967295,"in_flight":4294967295,
            "available_slots":4294967295},"active_jobs":"whatever"}"#;
        let load: Load = serde_json::from_str(status).unwrap();
        let slots = load.slots(3);
        assert!(load.is_short());
        assert_eq!(slots.max_concurrent, MOST_REQUESTS);
        assert_eq!(slots.available, MOST_REQUESTS);
        assert_eq!((slots.in_flight, slots.ours), (MOST_REQUESTS, 3));
    }
}
