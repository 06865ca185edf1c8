//! Whether a host answers right, as far as an audit has shown: decided in [`crate::audit`], obeyed here.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::demand::Model;
use crate::embedding::Space;

/// What the last audit of a model on a host has shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Audited {
    /// What follows from it.
    pub trust: Trust,
    /// Where its vectors lie, if they can be relied on.
    pub space: Option<Space>,
    /// Of the angle to what they were compared with, at most 1; `None`: with nothing, or it has no angle.
    pub cosine: Option<f64>,
    /// For people; `None` if nothing is wrong.
    pub why: Option<Arc<str>>,
}

impl Audited {
    /// Does the host get no requests for the model?
    pub fn is_out(&self) -> bool {
        self.trust == Trust::Deviates
    }
}

/// How a host stands with one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// It was asked, but gave no answer that can be judged.
    Unknown,
    /// Nobody else tells.
    Alone,
    /// It says what the reference says, or most hosts.
    Agrees,
    /// Hosts disagree, and nobody knows which is right.
    Disputed,
    /// It says something else: it gets no requests for the model.
    Deviates,
}

impl Trust {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alone => "alone",
            Self::Agrees => "agrees",
            Self::Disputed => "disputed",
            Self::Deviates => "deviates",
        }
    }
}

/// Of one host, by model.
pub type Audits = BTreeMap<Model, Audited>;

/// What can be audited on a host.
#[derive(Clone, Debug)]
pub struct Auditable {
    /// Texts that it takes at once, as far as is known.
    pub most_items: Option<NonZeroU32>,
    /// Grows whenever the host may have restarted, or have other models than before.
    pub generation: u64,
    /// Models of embeddings that it has in memory; `None`: it has not told since.
    pub loaded: Option<Vec<Model>>,
    /// It gets requests.
    pub is_serving: bool,
}
