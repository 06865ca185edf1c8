//! NVIDIA's management library (NVML), which comes with the driver and is loaded at run time: it
//! tells what CUDA itself does not, such as the memory that other programs use.

use std::ffi::OsStr;

use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};

use super::facts::Memory;
use super::gpu::Driver;

/// The library's name where only a driver is installed and nothing to develop with.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// A driver that may not be there, and then tells nothing.
pub(super) struct NvidiaDriver(Option<Nvml>);

impl NvidiaDriver {
    pub(super) fn open() -> Self {
        let nvml = Nvml::builder()
            .lib_path(OsStr::new(LIBRARY))
            .init()
            .or_else(|_| Nvml::init());
        if let Err(error) = &nvml {
            tracing::warn!(%error, "nothing is known of the GPU: NVML cannot be used");
        }
        Self(nvml.ok())
    }

    fn device(&self, gpu: &str) -> Option<Device<'_>> {
        self.0.as_ref()?.device_by_uuid(gpu).ok()
    }
}

impl Driver for NvidiaDriver {
    fn gpus(&self) -> Vec<String> {
        let Some(nvml) = &self.0 else {
            return Vec::new();
        };
        // One that does not answer keeps its number.
        let id = |index| nvml.device_by_index(index)?.uuid();
        (0..nvml.device_count().unwrap_or(0))
            .map(|index| id(index).unwrap_or_default())
            .collect()
    }

    fn name(&self, gpu: &str) -> Option<String> {
        self.device(gpu)?.name().ok()
    }

    fn memory(&self, gpu: &str) -> Option<Memory> {
        let memory = self.device(gpu)?.memory_info().ok()?;
        Some(Memory {
            total: memory.total,
            used: memory.used,
        })
    }

    fn cuda_version(&self) -> Option<String> {
        let version = self.0.as_ref()?.sys_cuda_driver_version().ok()?;
        let (major, minor) = (
            cuda_driver_version_major(version),
            cuda_driver_version_minor(version),
        );
        Some(format!("{major}.{minor}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_nothing_is_told() {
        let nobody = NvidiaDriver(None);
        assert_eq!(nobody.gpus(), [""; 0]);
        assert_eq!(nobody.name("GPU-1"), None);
        assert_eq!(nobody.memory("GPU-1"), None);
        assert_eq!(nobody.cuda_version(), None);
    }

    #[test]
    fn asking_never_fails_whatever_is_installed() {
        let driver = NvidiaDriver::open();
        assert_eq!(driver.name("no such GPU"), None);
        for gpu in driver.gpus() {
            assert!(
                driver
                    .memory(&gpu)
                    .is_none_or(|memory| memory.used <= memory.total)
            );
        }
    }
}
