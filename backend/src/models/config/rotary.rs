//! `ModernBERT`'s rotation of positions, and which layers look how far, in the layouts of
//! transformers 4 (a key for each number) and 5 (`rope_parameters`, `layer_types`).

use super::{MOST_POSITIONS, Rotary};
use crate::models::error::LoadError;
use crate::models::settings_file::{Rule, SettingsFile};

/// A layer that looks everywhere, and one that looks around itself.
const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// So that the angle of each of [`MOST_POSITIONS`] is finite: that many divided by the base at most.
const LEAST_THETA: f32 = 1e-28;

/// Reads what is said of `layers` layers.
pub(super) fn read(file: &SettingsFile, layers: usize) -> Result<Rotary, LoadError> {
    let global = theta(file, "full_attention", "global_rope_theta")?.unwrap_or(160_000.0);
    // Null stands for "as the others" in transformers 4.
    let as_global = file.has("local_rope_theta").then_some(global);
    let local = theta(file, "sliding_attention", "local_rope_theta")?;
    file.object("rope_parameters")?.settle(&[
        ("full_attention", Rule::Any),
        ("sliding_attention", Rule::Any),
        ("rope_theta", Rule::Off),
        ("rope_type", Rule::Off),
    ])?;
    Ok(Rotary {
        global_theta: global,
        local_theta: local.or(as_global).unwrap_or(10_000.0),
        global: global_layers(file, layers)?,
        window: file.count_or("local_attention", 128, MOST_POSITIONS)? / 2,
    })
}

/// The base of one kind of layers, in either layout; the newer one wins.
fn theta(file: &SettingsFile, kind: &str, old: &str) -> Result<Option<f32>, LoadError> {
    let rope = file.object("rope_parameters")?.object(kind)?;
    let newer = rope.number("rope_theta", LEAST_THETA)?;
    rope.settle(&[
        ("partial_rotary_factor", Rule::Off),
        ("rope_type", Rule::Is("default")),
        ("type", Rule::Is("default")),
    ])?;
    Ok(newer.or(file.number(old, LEAST_THETA)?))
}

fn global_layers(file: &SettingsFile, layers: usize) -> Result<Vec<bool>, LoadError> {
    const KEY: &str = "layer_types";
    let every = file.count_or("global_attn_every_n_layers", 3, usize::MAX)?;
    let Some(kinds) = file.get::<Vec<String>>(KEY)? else {
        return Ok((0..layers)
            .map(|layer| layer.is_multiple_of(every))
            .collect());
    };
    if kinds.len() < layers {
        return Err(file.problem(KEY, format!("names {} layers of {layers}", kinds.len())));
    }
    match kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        Some(kind) => Err(file.problem(
            KEY,
            format!("has '{kind}'; supported: {}", KINDS.join(", ")),
        )),
        None => Ok(kinds.iter().map(|kind| kind == KINDS[0]).collect()),
    }
}
