//! What must hold of any bytes in files of weights.

use candle_core::Device;

use super::pickle;
use crate::models::fuzz::in_folder;

/// A pickle gives no more than it holds.
pub(crate) fn pickles(bytes: &[u8]) {
    let Ok(tensors) = pickle::tensors(bytes) else {
        return;
    };
    assert!(tensors.len() <= bytes.len());
    for tensor in tensors {
        let names = [&tensor.name, &tensor.storage, &tensor.storage_class];
        assert!(names.iter().all(|name| name.len() <= 512));
        assert!(tensor.shape.len() <= 8 && tensor.strides.len() <= 8);
    }
}

/// See [`weights`].
pub(crate) fn checkpoints(bytes: &[u8]) {
    weights("pytorch_model.bin", bytes);
}

/// See [`weights`].
pub(crate) fn safetensors(bytes: &[u8]) {
    weights("model.safetensors", bytes);
}

/// Tensors are as large as they are said to be, and not larger together than the file allows.
fn weights(file: &'static str, bytes: &[u8]) {
    in_folder(&[(file, bytes)], |folder| {
        let (Ok(counts), Ok(all)) = (super::counts(folder), super::open(folder, &Device::Cpu))
        else {
            return;
        };
        let numbers: u64 = counts.iter().map(|(_, count)| count).sum();
        assert!(numbers <= 2 * bytes.len() as u64, "{numbers} numbers");
        for (name, count) in counts {
            if let Ok(tensor) = all.tensors.get_unchecked(&name) {
                assert_eq!(tensor.elem_count() as u64, count, "{name}");
            }
        }
    });
}
