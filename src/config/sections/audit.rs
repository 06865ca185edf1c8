//! Whether hosts answer right: `audit`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::bounds::warn_if_short;
use crate::config::reader::Section;
use crate::embedding::Reference;

/// Section `audit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Whether hosts are audited at all.
    pub enabled: bool,
    /// Time between two audits of a model on a host.
    pub interval: Duration,
    /// What vectors of the same text must have at least to count as the same.
    pub min_cosine: MinCosine,
    /// What is right, if the operator has pinned it.
    pub reference: Option<Pinned>,
}

/// A cosine below which vectors differ; from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MinCosine(f64);

impl Eq for MinCosine {}

impl MinCosine {
    /// `None`: it is none.
    pub fn new(cosine: f64) -> Option<Self> {
        (0.0..=1.0).contains(&cosine).then_some(Self(cosine))
    }

    /// As a number.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// Half the precision leaves more than 0.9999; of eight bits some 0.99.
impl Default for MinCosine {
    fn default() -> Self {
        Self(0.999)
    }
}

impl fmt::Display for MinCosine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The file `audit.reference`.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// Where it was read from.
    pub path: PathBuf,
    /// What it holds.
    pub reference: Arc<Reference>,
}

impl PartialEq for Pinned {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, &self.reference) == (&other.path, &other.reference)
    }
}

impl Eq for Pinned {}

/// Off unless asked for: which hosts serve must not change with a new version of the proxy.
pub(super) fn audit(section: &Section<'_>) -> Option<Audit> {
    let enabled = section.flag("enabled", false);
    let interval = section.duration("interval", Duration::from_mins(10));
    let min_cosine = section.min_cosine("min_cosine");
    let reference = section.reference("reference");
    warn_of_what_pins_nothing(section, reference.as_ref());
    warn_if_short(section, "interval", interval, Duration::from_secs(1));
    if !enabled && reference.is_some() {
        section.warn("reference", "is not used: enabled is not true");
    }
    let is_read = reference.is_some() || !section.has("reference");
    is_read.then_some(Audit {
        enabled,
        interval,
        min_cosine,
        reference,
    })
}

/// Models are pinned as they are called in `/info`.
fn warn_of_what_pins_nothing(section: &Section<'_>, pinned: Option<&Pinned>) {
    let mut names = pinned.iter().flat_map(|it| it.reference.models.keys());
    if names.any(|name| !name.starts_with("embed:")) {
        section.warn(
            "reference",
            "pins a model whose name does not begin with embed:, which is that of none; write embed:NAME",
        );
    }
}
