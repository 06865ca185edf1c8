//! The names of tensors: those of today and of the first years, when a layer norm's `weight` and `bias`
//! were called `gamma` and `beta`, as in TensorFlow; and what is known of those that were read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Storage, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use gpu_bridge_encoder::ops;

/// What is known of the tensors that were read, by the names that they are stored under.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) names: BTreeSet<String>,
    /// One with NaN or infinity among its numbers.
    pub(super) not_finite: Option<String>,
}

/// What loads and those who look at it afterwards have in common.
pub(super) type Shared = Arc<Mutex<Read>>;

/// What is known; a panic under the lock leaves it whole.
pub(super) fn lock(read: &Shared) -> MutexGuard<'_, Read> {
    read.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tensors that are found under their names of today, whichever of the two they are stored under, and
/// noted once they are read.
pub(super) struct Noted {
    pub(super) tensors: Box<dyn SimpleBackend>,
    pub(super) read: Shared,
}

impl Noted {
    /// The name under which the tensor called `name` is stored.
    fn stored(&self, name: &str) -> String {
        let old = old_name(name).filter(|old| self.tensors.contains_tensor(old));
        match old {
            Some(old) if !self.tensors.contains_tensor(name) => old,
            _ => name.to_owned(),
        }
    }

    /// What `read` gives for the stored name of the tensor called `name`.
    fn noted(&self, name: &str, read: impl FnOnce(&str) -> Result<Tensor>) -> Result<Tensor> {
        let stored = self.stored(name);
        lock(&self.read).names.insert(stored.clone());
        let tensor = read(&stored)?;
        if !is_finite(&tensor)? {
            lock(&self.read).not_finite.get_or_insert(stored);
        }
        Ok(tensor)
    }
}

/// Whether all numbers of a tensor are that was just read, into the memory of this machine.
fn is_finite(tensor: &Tensor) -> Result<bool> {
    match &*tensor.storage_and_layout().0 {
        Storage::Cpu(storage) => Ok(ops::are_finite(storage.as_slice()?)),
        _ => Ok(true),
    }
}

fn old_name(name: &str) -> Option<String> {
    let renamed = |today: &str, old: &str| {
        let norm = name.strip_suffix(today)?;
        Some(format!("{norm}{old}"))
    };
    renamed("LayerNorm.weight", "LayerNorm.gamma").or(renamed("LayerNorm.bias", "LayerNorm.beta"))
}

impl SimpleBackend for Noted {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        self.noted(name, |stored| {
            self.tensors.get(shape, stored, init, dtype, device)
        })
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.noted(name, |stored| {
            self.tensors.get_unchecked(stored, dtype, device)
        })
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_tensor(&self.stored(name))
    }
}
