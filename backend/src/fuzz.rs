//! What must hold of any bytes in requests and in models' folders: the targets, which stand beside what they are
//! about.

use crate::{api, models};

/// As `gpu_bridge_fuzz` has them.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("bodies", api::fuzz::bodies),
    ("checkpoints", models::fuzz::checkpoints),
    ("pickles", models::fuzz::pickles),
    ("pipelines", models::fuzz::pipelines),
    ("safetensors", models::fuzz::safetensors),
    ("shapes", models::fuzz::shapes),
    ("tokenizer_settings", models::fuzz::tokenizer_settings),
    ("tokenizers", models::fuzz::tokenizers),
    ("vocabularies", models::fuzz::vocabularies),
];

#[cfg(test)]
mod tests {
    #[test]
    fn whatever_comes() {
        gpu_bridge_fuzz::run(super::TARGETS);
    }
}
