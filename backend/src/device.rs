//! Which processor the models run on. The only file that knows what this build can drive.

#[cfg(feature = "cuda")]
mod cuda;
mod facts;
mod flash;
#[cfg(any(feature = "nvml", test))]
mod gpu;
#[cfg(feature = "nvml")]
mod nvml;
mod precision;

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use thiserror::Error;

pub use facts::{DeviceFacts, Facts, Memory};
pub(crate) use flash::Flash;
pub use precision::{Precision, UnknownPrecision};

/// True if this build can compute on NVIDIA GPUs.
pub const HAS_CUDA: bool = cfg!(feature = "cuda");

/// A device as the operator names it: `cpu`, `cuda` (the first GPU) or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor, on all its cores.
    #[default]
    Cpu,
    /// One NVIDIA GPU.
    Cuda {
        /// Its number as CUDA counts them; `None` is what plain `cuda` says, the first.
        ordinal: Option<usize>,
    },
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] if this build or this machine has no such device.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda { ordinal } => {
                open_gpu(ordinal.unwrap_or(0)).map_err(|reason| DeviceError::Unavailable {
                    device: self.to_string(),
                    reason,
                })
            }
        }
    }
}

impl DeviceChoice {
    /// Whether it is a GPU.
    pub fn is_gpu(self) -> bool {
        self != Self::Cpu
    }

    /// The GPU's number; `None`: it is none.
    fn ordinal(self) -> Option<usize> {
        match self {
            Self::Cpu => None,
            Self::Cuda { ordinal } => Some(ordinal.unwrap_or(0)),
        }
    }

    /// What is known of the device; kept up to date.
    pub fn facts(self) -> DeviceFacts {
        match self {
            Self::Cpu => self.name_alone(),
            Self::Cuda { ordinal } => self.gpu_facts(ordinal.unwrap_or(0)),
        }
    }

    #[cfg(feature = "nvml")]
    fn gpu_facts(self, ordinal: usize) -> DeviceFacts {
        let gpu = gpu::Gpu {
            ordinal,
            visible: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
            fallback_name: self.to_string(),
        };
        gpu.watch(nvml::NvidiaDriver::open(), || {
            std::thread::sleep(std::time::Duration::from_secs(1));
        })
    }

    #[cfg(not(feature = "nvml"))]
    fn gpu_facts(self, _: usize) -> DeviceFacts {
        self.name_alone()
    }

    fn name_alone(self) -> DeviceFacts {
        DeviceFacts::new(Facts {
            name: self.to_string(),
            ..Facts::default()
        })
    }
}

#[cfg(feature = "cuda")]
use cuda::{is_out_of_memory as out_of_memory, memory as gpu_memory, open as open_gpu};

#[cfg(not(feature = "cuda"))]
fn open_gpu(_: usize) -> Result<Device, String> {
    Err("this build has no CUDA; build with --features cuda".to_owned())
}

#[cfg(not(feature = "cuda"))]
fn out_of_memory(_: &candle_core::Error) -> bool {
    false
}

#[cfg(not(feature = "cuda"))]
fn gpu_memory(_: &Device) -> Option<u64> {
    None
}

/// All of a GPU's memory, in bytes, if it can be found out.
pub(crate) fn memory(device: &Device) -> Option<u64> {
    gpu_memory(device)
}

/// What went wrong, without the backtrace that candle adds to its errors if `RUST_BACKTRACE` is set: anywhere
/// among the errors that lie in one another.
pub(crate) fn reason(error: &candle_core::Error) -> String {
    use candle_core::Error::{Context, WithBacktrace, WithPath};
    match error {
        WithBacktrace { inner, .. } => reason(inner),
        WithPath { inner, path } => format!("{}: {}", path.display(), reason(inner)),
        Context { inner, context } => format!("{context}: {}", reason(inner)),
        plain => plain.to_string(),
    }
}

/// Whether a device failed because it had no memory left.
pub(crate) fn is_out_of_memory(error: &candle_core::Error) -> bool {
    out_of_memory(error)
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda { ordinal: None } => f.write_str("cuda"),
            Self::Cuda { ordinal: Some(n) } => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda { ordinal: None }),
            Some(("cuda", number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                let ordinal = number.parse().map_err(|_| unknown())?;
                Ok(Self::Cuda {
                    ordinal: Some(ordinal),
                })
            }
            _ => Err(unknown()),
        }
    }
}

/// One device or several, as the operator names them: `cuda:0,cuda:1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceChoices {
    /// The one that the host says it is.
    pub first: DeviceChoice,
    /// Those beside it.
    pub others: Vec<DeviceChoice>,
}

impl DeviceChoices {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = DeviceChoice> {
        [self.first].into_iter().chain(self.others.iter().copied())
    }

    /// Whether any is a GPU.
    pub fn has_gpu(&self) -> bool {
        self.iter().any(DeviceChoice::is_gpu)
    }
}

impl FromStr for DeviceChoices {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let (first, others) = text.split_once(',').unwrap_or((text, ""));
        let others = others.split_terminator(',').map(|name| name.trim().parse());
        let choices = Self {
            first: first.trim().parse()?,
            others: others.collect::<Result<_, _>>()?,
        };
        let gpus: Vec<usize> = choices.iter().filter_map(DeviceChoice::ordinal).collect();
        for (nth, gpu) in gpus.iter().enumerate() {
            if gpus[..nth].contains(gpu) {
                return Err(DeviceError::Twice(*gpu));
            }
        }
        Ok(choices)
    }
}

/// Why a device cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DeviceError {
    /// Not one of the names above.
    #[error("unknown device '{0}'; use cpu, cuda or cuda:N (N counts GPUs from 0)")]
    Unknown(String),
    /// A GPU is named twice.
    #[error("GPU {0} is named twice")]
    Twice(usize),
    /// A good name for something that is not here.
    #[error("device '{device}' cannot be used: {reason}")]
    Unavailable {
        /// The device as the operator named it.
        device: String,
        /// What the library said.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_back() {
        for name in ["cpu", "cuda", "cuda:0", "cuda:7"] {
            let choice: DeviceChoice = name.parse().expect(name);
            assert_eq!(choice.to_string(), name);
        }
    }

    #[test]
    fn a_reason_has_no_backtrace_however_deep() {
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let inner = Box::new(candle_core::Error::Msg("odd".to_owned()));
        let inner = candle_core::Error::WithBacktrace { inner, backtrace };
        let nested = inner.with_path("weights").context("no encoder");
        assert_eq!(reason(&nested), "no encoder: weights: odd");
    }

    #[test]
    fn several_are_named_with_commas_between() {
        let several = |text: &str| text.parse::<DeviceChoices>();
        let two = several("cuda:1, cuda:0").expect("two GPUs");
        let names: Vec<String> = two.iter().map(|device| device.to_string()).collect();
        assert_eq!(names, ["cuda:1", "cuda:0"]);
        assert_eq!(several("cpu,cpu").expect("allowed").iter().count(), 2);
        assert_eq!(several("cuda,cuda:0"), Err(DeviceError::Twice(0)));
        for text in ["", ",", "cpu,,cpu", ",cpu", "cpu,gpu", "cpu;cpu"] {
            assert!(several(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_processor_has_a_name_and_nothing_else() {
        let expected = Facts {
            name: "cpu".to_owned(),
            memory: None,
            cuda_version: None,
        };
        assert_eq!(*DeviceChoice::Cpu.facts().latest(), expected);
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:+1", "cuda:1:2", "mps",
        ] {
            let parsed = name.parse::<DeviceChoice>();
            assert_eq!(
                parsed,
                Err(DeviceError::Unknown(name.to_owned())),
                "{name:?}"
            );
        }
        let too_large = format!("cuda:{}0", usize::MAX);
        assert!(too_large.parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_that_names_it() {
        let choice = DeviceChoice::Cuda { ordinal: Some(999) };
        let error = choice.open().expect_err("no machine has a thousand GPUs");
        assert!(
            error.to_string().contains("'cuda:999' cannot be used"),
            "{error}"
        );
    }
}
