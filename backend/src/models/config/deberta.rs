//! What only DeBERTa has: attention to relative positions, and a convolution.

use gpu_bridge_encoder::Distances;
use serde::Deserialize;

use super::{
    Activation, Architecture, Convolution, Disentangled, MOST_POSITIONS, MOST_WIDTH, POSITIONS,
};
use crate::models::error::LoadError;
use crate::models::settings_file::{Setting, SettingsFile};

/// How a DeBERTa looks at relative positions.
pub(super) fn disentangled(
    file: &SettingsFile,
    architecture: Architecture,
) -> Result<Disentangled, LoadError> {
    let span: i64 = file.get("max_relative_positions")?.unwrap_or(-1);
    let span = match usize::try_from(span) {
        Ok(span) if span > 0 => span.min(MOST_POSITIONS),
        _ => file.count_or("max_position_embeddings", POSITIONS, MOST_POSITIONS)?,
    };
    let terms = position_terms(file)?;
    let buckets: i64 = file.get("position_buckets")?.unwrap_or(-1);
    let shared = file.get("share_att_key")?.unwrap_or(false);
    let norms: Option<String> = file.get("norm_rel_ebd")?;
    let norms = norms.unwrap_or_else(|| "none".to_owned());
    let v2 = architecture == Architecture::DebertaV2;
    Ok(Disentangled {
        classes: match usize::try_from(buckets) {
            Ok(buckets) if v2 && buckets > 0 => Distances::Logarithmic {
                buckets: buckets.min(MOST_POSITIONS),
                farthest: span,
            },
            _ => Distances::Clamped { span },
        },
        by_query: terms.iter().any(|term| term == "c2p"),
        by_key: terms.iter().any(|term| term == "p2c"),
        projections: match (v2, shared) {
            (false, _) => ("pos_proj", "pos_q_proj"),
            (true, false) => ("pos_key_proj", "pos_query_proj"),
            (true, true) => ("key_proj", "query_proj"),
        },
        norm: v2
            && norms
                .to_lowercase()
                .split('|')
                .any(|norm| norm.trim() == "layer_norm"),
    })
}

/// How many terms a score is taken to be the sum of. v1 counts what is named, v2 what it knows.
pub(super) fn score_terms(
    file: &SettingsFile,
    architecture: Architecture,
) -> Result<usize, LoadError> {
    let terms = position_terms(file)?;
    let known = |known: &str| usize::from(terms.iter().any(|term| term == known));
    Ok(match architecture {
        Architecture::DebertaV1 => 1 + terms.len(),
        _ => 1 + known("c2p") + known("p2c"),
    })
}

/// `pos_att_type`, which is a list or a text like `c2p|p2c`.
fn position_terms(file: &SettingsFile) -> Result<Vec<String>, LoadError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Terms {
        List(Vec<String>),
        Text(String),
    }
    impl Setting for Terms {
        const KIND: &'static str = "a list of c2p and p2c, or a text like c2p|p2c";
    }
    const KEY: &str = "pos_att_type";
    let terms = match file.get(KEY)? {
        None => Vec::new(),
        Some(Terms::List(terms)) => terms,
        Some(Terms::Text(text)) => text
            .split('|')
            .map(|term| term.trim().to_lowercase())
            .collect(),
    };
    match terms
        .iter()
        .find(|term| !matches!(term.as_str(), "c2p" | "p2c" | ""))
    {
        None => Ok(terms),
        Some(other) => Err(file.problem(KEY, format!("has '{other}'; c2p and p2c are supported"))),
    }
}

pub(super) fn convolution(file: &SettingsFile) -> Result<Option<Convolution>, LoadError> {
    let width = file.get("conv_kernel_size")?.unwrap_or(0);
    if width == 0 {
        return Ok(None);
    }
    if width % 2 == 0 || width > MOST_WIDTH || file.get("conv_groups")?.unwrap_or(1_usize) != 1 {
        let problem = "must be odd, with 1 conv_groups".to_owned();
        return Err(file.problem("conv_kernel_size", problem));
    }
    let activation = file.get("conv_act")?.unwrap_or(Activation::Tanh);
    Ok(Some(Convolution { width, activation }))
}
