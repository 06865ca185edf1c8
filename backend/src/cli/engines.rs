//! What computes, as the settings want it.

use tracing::{info, warn};

use crate::device::{DeviceChoice, DeviceFacts};
use crate::engine::Purpose;
use crate::memory;
use crate::metrics::Metrics;
use crate::models::{CandleEngine, DefaultModel, DownloadPlan, EngineOptions, Fleet};
use crate::settings::{Downloads, Settings};

/// An engine on each device. `facts` are the first one's.
pub(super) fn fleet(
    settings: &Settings,
    facts: &DeviceFacts,
    metrics: &Metrics,
) -> anyhow::Result<Fleet> {
    let defaults = [
        (Purpose::Embed, &settings.api.default_embed),
        (Purpose::BertScore, &settings.api.default_bertscore),
    ];
    let common = EngineOptions {
        device: candle_core::Device::Cpu,
        precision: settings.precision,
        threads: settings.threads,
        embed_batch: settings.embed_batch,
        max_tokens: settings.max_tokens,
        bertscore_layers: settings.bertscore_layers.clone(),
        metrics: metrics.engine.clone(),
        model_memory: u64::MAX,
        defaults: defaults.map(DefaultModel::from).to_vec(),
        downloads: downloads(&settings.downloads),
    };
    let others = settings.devices.others.iter();
    let others = others.map(|choice| (*choice, choice.facts()));
    let all = [(settings.devices.first, facts.clone())]
        .into_iter()
        .chain(others);
    let engines = all.map(|(choice, facts)| {
        let options = EngineOptions {
            device: choice.open()?,
            model_memory: model_memory(settings.model_memory, choice, &facts),
            ..common.clone()
        };
        Ok(CandleEngine::new(settings.sources.clone(), options)?)
    });
    Ok(Fleet::new(engines.collect::<anyhow::Result<_>>()?))
}

/// What may be downloaded, if anything.
fn downloads(downloads: &Downloads) -> Option<DownloadPlan> {
    match downloads {
        Downloads::Off => None,
        Downloads::Offline => {
            warn!("nothing is downloaded: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE says so");
            None
        }
        Downloads::On(plan) => Some(plan.clone()),
    }
}

/// Memory for models in bytes: what the operator gave, else a share of the device's.
fn model_memory(given: Option<u64>, device: DeviceChoice, facts: &DeviceFacts) -> u64 {
    let total = match device {
        DeviceChoice::Cpu => memory::of_this_process(),
        DeviceChoice::Cuda { .. } => facts.latest().memory.map(|memory| memory.total),
    };
    let bytes = given.or_else(|| total.map(memory::share_for_models));
    let Some(bytes) = bytes else {
        warn!(%device, "memory for models is not limited: GPU_MODEL_MEMORY_MB is not set");
        return u64::MAX;
    };
    info!(%device, model_memory_mb = bytes >> 20, "memory for models");
    bytes
}
