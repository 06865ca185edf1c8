//! What is known of the device: its name and memory, for `/info` and the metrics.
//!
//! Asking a driver may take long or fail. Whoever wants the facts reads the latest from memory;
//! whoever learns new ones replaces them. What is not known is `None`, never an error.

use std::sync::{Arc, PoisonError, RwLock};

/// What is known of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What people call it.
    pub name: String,
    /// Its memory, if it has memory of its own.
    pub memory: Option<Memory>,
    /// The latest version of CUDA that its driver speaks, such as `13.0`.
    pub cuda_version: Option<String>,
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What programs use, ours and others.
    pub used: u64,
}

/// The latest facts; clones share them.
#[derive(Clone, Debug)]
pub struct DeviceFacts(pub(super) Arc<RwLock<Arc<Facts>>>);

impl DeviceFacts {
    /// Facts that stay as they are unless somebody replaces them.
    pub fn new(facts: Facts) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(facts))))
    }

    /// The latest facts, from memory.
    pub fn latest(&self) -> Arc<Facts> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}
