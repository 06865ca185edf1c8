//! The names of tensors: those of today and of the first years, when a layer norm's `weight` and `bias`
//! were called `gamma` and `beta`, as in TensorFlow; and which of them were read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;

/// Names under which tensors are stored that were read.
pub(super) type Read = Arc<Mutex<BTreeSet<String>>>;

/// The names; a panic under the lock leaves them whole.
pub(super) fn lock(read: &Read) -> MutexGuard<'_, BTreeSet<String>> {
    read.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tensors that are found under their names of today, whichever of the two they are stored under, and
/// noted once they are read.
pub(super) struct Noted {
    pub(super) tensors: Box<dyn SimpleBackend>,
    pub(super) read: Read,
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

    /// The same of one that is about to be read.
    fn noted(&self, name: &str) -> String {
        let stored = self.stored(name);
        lock(&self.read).insert(stored.clone());
        stored
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
        let stored = self.noted(name);
        self.tensors.get(shape, &stored, init, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let stored = self.noted(name);
        self.tensors.get_unchecked(&stored, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_tensor(&self.stored(name))
    }
}
