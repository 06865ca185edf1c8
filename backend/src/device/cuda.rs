//! What only a build with CUDA can ask or tell.

use std::error::Error as StdError;

use candle_core::cuda_backend::CudaError;
use candle_core::cuda_backend::cudarc::cublas::sys::cublasStatus_t;
use candle_core::cuda_backend::cudarc::driver::sys::CUresult;
use candle_core::{Device, Error};

/// Opens a GPU. The error is for the operator.
pub(super) fn open(ordinal: usize) -> Result<Device, String> {
    Device::new_cuda(ordinal).map_err(|error| super::reason(&error))
}

/// Whether the device had no memory left.
pub(super) fn is_out_of_memory(error: &Error) -> bool {
    match error {
        Error::WithBacktrace { inner, .. }
        | Error::Context { inner, .. }
        | Error::WithPath { inner, .. } => is_out_of_memory(inner),
        Error::Cuda(source) => cause(source.as_ref()),
        _ => false,
    }
}

fn cause(error: &(dyn StdError + Send + Sync + 'static)) -> bool {
    match error.downcast_ref::<CudaError>() {
        Some(CudaError::Cuda(error) | CudaError::Load { cuda: error, .. }) => {
            error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
        }
        Some(CudaError::Cublas(error)) => error.0 == cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED,
        _ => false,
    }
}

/// All of a GPU's memory, in bytes.
pub(super) fn memory(device: &Device) -> Option<u64> {
    let Device::Cuda(device) = device else {
        return None;
    };
    let bytes = device.cuda_stream().context().total_mem().ok()?;
    u64::try_from(bytes).ok()
}

/// Major and minor number of what the GPU can do.
#[cfg(feature = "flash-attn")]
pub(super) fn compute_capability(device: &Device) -> Option<(i32, i32)> {
    let Device::Cuda(device) = device else {
        return None;
    };
    device.cuda_stream().context().compute_capability().ok()
}

#[cfg(test)]
mod tests {
    use candle_core::cuda_backend::cudarc::driver::DriverError;

    use super::*;

    fn driver_says(result: CUresult) -> Error {
        Error::Cuda(Box::new(CudaError::Cuda(DriverError(result)))).bt()
    }

    #[test]
    fn memory_that_ran_out_is_told_from_other_failures() {
        assert!(is_out_of_memory(&driver_says(
            CUresult::CUDA_ERROR_OUT_OF_MEMORY
        )));
        assert!(!is_out_of_memory(&driver_says(
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        )));
        assert!(!is_out_of_memory(&Error::Msg("out of memory".to_owned())));
    }
}
