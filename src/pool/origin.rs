//! How it came that a host is part of the pool, and whether whoever found it withdraws it.

use std::fmt;
use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// It is in the configuration itself.
    #[default]
    Configured,
    /// The DNS told of it.
    Dns,
    /// Kubernetes told of it.
    Kubernetes {
        /// What runs there, if that was told.
        pod: Option<Arc<str>>,
        /// Why it is to get nothing new, if it is.
        withdrawn: Option<Withdrawn>,
    },
}

/// Why a host gets nothing new, by word of whoever found it: what runs there is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// It says that it is not ready.
    NotReady,
    /// It is being ended.
    Terminating,
}

impl Origin {
    /// In one word, for metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Configured => "configuration",
            Self::Dns => "dns",
            Self::Kubernetes { .. } => "kubernetes",
        }
    }

    /// What runs there, if that was told.
    pub fn pod(&self) -> Option<&Arc<str>> {
        match self {
            Self::Kubernetes { pod, .. } => pod.as_ref(),
            Self::Configured | Self::Dns => None,
        }
    }

    /// Why it is to get nothing new, if it is.
    pub fn withdrawn(&self) -> Option<Withdrawn> {
        match self {
            Self::Kubernetes { withdrawn, .. } => *withdrawn,
            Self::Configured | Self::Dns => None,
        }
    }
}

/// A clause about the host.
impl fmt::Display for Withdrawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReady => "Kubernetes says that it is not ready",
            Self::Terminating => "Kubernetes is terminating it",
        })
    }
}
