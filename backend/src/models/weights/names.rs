//! Names that tensors had in checkpoints of the first years: a layer norm's `weight` and `bias` were
//! called `gamma` and `beta`, as in TensorFlow.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;

/// Tensors that are found under their names of today, whichever of the two they are stored under.
pub(super) struct OldNames(pub(super) Box<dyn SimpleBackend>);

impl OldNames {
    /// The name under which the tensor called `name` is stored.
    fn stored(&self, name: &str) -> String {
        let old = old_name(name).filter(|old| self.0.contains_tensor(old));
        match old {
            Some(old) if !self.0.contains_tensor(name) => old,
            _ => name.to_owned(),
        }
    }
}

fn old_name(name: &str) -> Option<String> {
    let renamed = |today: &str, old: &str| {
        let norm = name.strip_suffix(today)?;
        Some(format!("{norm}{old}"))
    };
    renamed("LayerNorm.weight", "LayerNorm.gamma").or(renamed("LayerNorm.bias", "LayerNorm.beta"))
}

impl SimpleBackend for OldNames {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        self.0.get(shape, &self.stored(name), init, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.0.get_unchecked(&self.stored(name), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_tensor(&self.stored(name))
    }
}
