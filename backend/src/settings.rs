//! What flags and environment come to, checked as a whole before anything starts.
//!
//! A wrong value is an error that names the variable and the flag and says what is allowed; all
//! problems are told at once. Nothing falls back silently.

mod downloads;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use gpu_bridge_encoder::Factors;
use gpu_bridge_upkeep::Filter;
use thiserror::Error;

pub use self::downloads::Downloads;

use crate::api::{Limits, Options};
use crate::cli::Cli;
use crate::device::{DeviceChoice, DeviceChoices, HAS_CUDA, Precision};
use crate::models::ModelSources;
use crate::tls::{self, TlsFiles};

/// Each running request keeps one of the runtime's 512 blocking threads busy; half of them stay
/// free for everything else.
const MOST_CONCURRENT: u32 = 256;

/// More than any text of the largest allowed body.
const MOST_TOKENS: usize = 1 << 30;

/// More threads than any machine has processors.
const MOST_THREADS: usize = 1024;

/// More than any process may have open files.
const MOST_CONNECTIONS: usize = 1 << 20;

/// A tebibyte.
const MOST_BUFFERED_MB: usize = 1 << 20;

/// As the Python service counts memory: a megabyte is 2^20 bytes.
const MIB: u64 = 1 << 20;
/// Far more than any machine has: 1 PiB.
const MOST_MEMORY_MB: u64 = 1 << 30;

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Most connections at once.
    pub max_connections: usize,
    /// Of these, what one address may have; `None`: three quarters.
    pub max_connections_per_client: Option<usize>,
    /// HTTPS instead of HTTP.
    pub tls: Option<TlsFiles>,
    /// The HTTP side.
    pub api: Options,
    /// Where the models run.
    pub devices: DeviceChoices,
    /// How precisely.
    pub precision: Precision,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Texts for each step of progress.
    pub embed_batch: NonZeroUsize,
    /// The most tokens of a text.
    pub max_tokens: usize,
    /// Where the models lie.
    pub sources: ModelSources,
    /// What may be downloaded.
    pub downloads: Downloads,
    /// Memory for models in bytes; `None`: a share of what there is.
    pub model_memory: Option<u64>,
    /// Hidden layer for `BERTScore`, by model name.
    pub bertscore_layers: BTreeMap<String, usize>,
    /// What to log.
    pub log: Filter,
}

/// One thing that is wrong.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// The value is none of those allowed.
    #[error("{setting} is {found:?}; allowed: {allowed}")]
    Value {
        /// Variable and flag.
        setting: &'static str,
        /// What was given.
        found: String,
        /// What may be given.
        allowed: String,
    },
    /// The same of a value that is a secret, or may have one in it.
    #[error("{setting} can't be used; allowed: {allowed}")]
    Secret {
        /// Variable and flag.
        setting: &'static str,
        /// What may be given.
        allowed: &'static str,
    },
}

/// All that is wrong, at least one thing.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}error: {problem}")?;
        }
        Ok(())
    }
}

impl Settings {
    /// Checks what the command line and the environment say.
    ///
    /// # Errors
    /// Every wrong value.
    pub fn check(cli: &Cli) -> Result<Self, Problems> {
        let mut check = Check::default();
        let devices = check.devices(cli);
        let settings = Self {
            listen: check.listen(&cli.listen),
            max_connections: check.number(
                "GPU_BRIDGE_MAX_CONNECTIONS (--max-connections)",
                &cli.max_connections,
                1..=MOST_CONNECTIONS,
            ),
            max_connections_per_client: check
                .connections_per_client(&cli.max_connections_per_client),
            tls: check.tls(cli),
            api: check.api(cli, devices.first),
            precision: check.precision(&cli.dtype, &devices),
            devices,
            threads: check.threads(cli.threads.as_deref()),
            embed_batch: check.embed_batch(&cli.embed_batch),
            max_tokens: check.number(
                "GPU_BRIDGE_MAX_TOKENS (--max-tokens)",
                &cli.max_tokens,
                16..=MOST_TOKENS,
            ),
            sources: check.sources(cli),
            downloads: check.downloads(cli),
            model_memory: check.model_memory(&cli.model_memory_mb),
            bertscore_layers: check.layers(&cli.bertscore_layer),
            log: check.log(&cli.log),
        };
        if check.problems.is_empty() {
            Ok(settings)
        } else {
            Err(Problems(check.problems))
        }
    }
}

/// Gathers problems; each method gives a harmless stand-in for a wrong value.
#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn wrong(&mut self, setting: &'static str, found: &str, allowed: impl Into<String>) {
        let (found, allowed) = (found.to_owned(), allowed.into());
        self.problems.push(Problem::Value {
            setting,
            found,
            allowed,
        });
    }

    fn wrong_secret(&mut self, setting: &'static str, allowed: &'static str) {
        self.problems.push(Problem::Secret { setting, allowed });
    }

    fn number<T>(&mut self, setting: &'static str, text: &str, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + fmt::Display + Copy,
    {
        match text.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (least, most) = (range.start(), range.end());
                self.wrong(
                    setting,
                    text,
                    format!("a whole number from {least} to {most}"),
                );
                *least
            }
        }
    }

    fn text(&mut self, setting: &'static str, text: &str) -> String {
        if text.is_empty() {
            self.wrong(setting, text, "a model's name or folder");
        }
        text.to_owned()
    }

    fn listen(&mut self, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| {
            let allowed = "IP:PORT, such as 0.0.0.0:8765 or [::1]:0";
            self.wrong("GPU_BRIDGE_LISTEN (--listen)", text, allowed);
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    fn tls(&mut self, cli: &Cli) -> Option<TlsFiles> {
        let (certificate, key) = (cli.tls_certificate.clone(), cli.tls_key.clone());
        if certificate.is_none() && key.is_none() {
            return None;
        }
        // Empty ones may be meant to be files: without TLS everybody could read along.
        let given = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        let (certificate, key) = (given(certificate), given(key));
        if certificate.is_none() {
            self.wrong(tls::CERTIFICATE, "", "a file with the key's certificate");
        }
        if key.is_none() {
            self.wrong(tls::KEY, "", "a file with the certificate's key");
        }
        let (certificate, key) = (certificate?, key?);
        Some(TlsFiles { certificate, key })
    }

    fn api(&mut self, cli: &Cli, device: DeviceChoice) -> Options {
        let most = u32::MAX as usize;
        let api_key = cli.api_key.clone().filter(|key| !key.is_empty());
        if api_key.as_ref().is_some_and(|key| !key.is_sendable()) {
            let allowed =
                "printable ASCII without spaces around it: not every client can send others";
            self.wrong_secret("API_KEY (--api-key)", allowed);
        }
        Options {
            api_key,
            max_concurrent: self.number(
                "GPU_MAX_CONCURRENT (--max-concurrent)",
                &cli.max_concurrent,
                0..=MOST_CONCURRENT,
            ),
            limits: Limits {
                batch_size: self.number(
                    "GPU_MAX_BATCH_SIZE (--max-batch-size)",
                    &cli.max_batch_size,
                    0..=most,
                ),
                text_length: self.number(
                    "GPU_MAX_TEXT_LENGTH (--max-text-length)",
                    &cli.max_text_length,
                    0..=most,
                ),
            },
            max_buffered: self
                .number(
                    "GPU_BRIDGE_MAX_BUFFERED_MB (--max-buffered-mb)",
                    &cli.max_buffered_mb,
                    1..=MOST_BUFFERED_MB,
                )
                .saturating_mul(1 << 20),
            default_embed: self.text("MODEL_EMBED (--model-embed)", &cli.model_embed),
            default_bertscore: self
                .text("MODEL_BERTSCORE (--model-bertscore)", &cli.model_bertscore),
            device: device.to_string(),
        }
    }

    /// The own name wins; an empty variable says nothing.
    fn devices(&mut self, cli: &Cli) -> DeviceChoices {
        let own = ("GPU_BRIDGE_DEVICE (--device)", cli.device.as_deref());
        let inherited = ("TORCH_DEVICE (--torch-device)", cli.torch_device.as_deref());
        let given = [own, inherited]
            .into_iter()
            .find_map(|(setting, name)| name.filter(|name| !name.is_empty()).map(|n| (setting, n)));
        let Some((setting, names)) = given else {
            return DeviceChoices::default();
        };
        let allowed = match names.parse::<DeviceChoices>() {
            Ok(devices) if HAS_CUDA || !devices.has_gpu() => return devices,
            Err(error) if HAS_CUDA => {
                format!("cpu, cuda, cuda:N, or several with commas between them ({error})")
            }
            _ => "cpu (this build has no CUDA: build with --features cuda)".to_owned(),
        };
        self.wrong(setting, names, allowed);
        DeviceChoices::default()
    }

    /// The processor knows f32 and, where it has instructions for it, bf16.
    fn precision(&mut self, text: &str, devices: &DeviceChoices) -> Precision {
        let on_gpus_only = devices.iter().all(DeviceChoice::is_gpu);
        let bf16 = Factors::Bf16.are_native();
        let allowed = match text.parse() {
            Ok(precision @ (Precision::Auto | Precision::F32)) => return precision,
            Ok(precision) if on_gpus_only => return precision,
            Ok(Precision::Bf16) if bf16 => return Precision::Bf16,
            Ok(_) if bf16 => "auto, f32 or bf16 on the processor",
            Ok(_) => "auto or f32 on this processor, which lacks AVX-512 BF16",
            Err(_) => "auto, f32, f16 or bf16",
        };
        self.wrong("GPU_BRIDGE_DTYPE (--dtype)", text, allowed);
        Precision::Auto
    }

    /// 0 counts as 1, as in the Python service.
    fn threads(&mut self, text: Option<&str>) -> NonZeroUsize {
        let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return all;
        };
        let count = self.number("GPU_BRIDGE_THREADS (--threads)", text, 1..=MOST_THREADS);
        NonZeroUsize::new(count).unwrap_or(all)
    }

    fn embed_batch(&mut self, text: &str) -> NonZeroUsize {
        let range = 0..=u32::MAX as usize;
        let number = self.number("GPU_EMBED_BATCH (--embed-batch)", text, range);
        NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)
    }

    /// An empty one says nothing.
    fn connections_per_client(&mut self, text: &str) -> Option<usize> {
        let setting = "GPU_BRIDGE_MAX_CONNECTIONS_PER_CLIENT (--max-connections-per-client)";
        (!text.is_empty()).then(|| self.number(setting, text, 1..=MOST_CONNECTIONS))
    }

    /// An empty one says nothing, as if it were not given.
    fn model_memory(&mut self, text: &str) -> Option<u64> {
        if text.is_empty() {
            return None;
        }
        let setting = "GPU_MODEL_MEMORY_MB (--model-memory-mb)";
        let megabytes: u64 = self.number(setting, text, 1..=MOST_MEMORY_MB);
        Some(megabytes * MIB)
    }

    fn sources(&mut self, cli: &Cli) -> ModelSources {
        let models_dir = "GPU_BRIDGE_MODELS_DIR (--models-dir)";
        let baselines = "GPU_BRIDGE_BERTSCORE_BASELINES (--bertscore-baselines)";
        for (setting, folder) in [
            (models_dir, &cli.models_dir),
            (baselines, &cli.bertscore_baselines),
        ] {
            if let Some(folder) = folder.as_deref().filter(|folder| !folder.is_dir()) {
                let found = folder.display().to_string();
                self.wrong(setting, &found, "a folder that exists");
            }
        }
        ModelSources {
            models_dir: cli.models_dir.clone(),
            hub_cache: hub_cache(cli.hub_cache.as_deref(), cli.hub_home.as_deref()),
            operator_folders: vec![cli.model_embed.clone(), cli.model_bertscore.clone()],
            baselines: cli.bertscore_baselines.clone(),
        }
    }

    fn layers(&mut self, given: &[String]) -> BTreeMap<String, usize> {
        let mut layers = BTreeMap::new();
        for text in given {
            let layer = text.rsplit_once('=').filter(|(name, _)| !name.is_empty());
            match layer.and_then(|(name, layer)| Some((name, layer.parse().ok()?))) {
                Some((name, layer)) => {
                    let before = layers.insert(name.to_owned(), layer);
                    if before.is_some_and(|before| before != layer) {
                        self.wrong("--bertscore-layer", text, "one layer for each name");
                    }
                }
                None => self.wrong("--bertscore-layer", text, "NAME=N, N a number of a layer"),
            }
        }
        layers
    }

    fn log(&mut self, text: &str) -> Filter {
        Filter::new(text).unwrap_or_else(|_| {
            self.wrong("RUST_LOG (--log)", text, "a filter such as info");
            Filter::default()
        })
    }
}

/// The hub's cache folder, found as its own client finds it.
fn hub_cache(cache: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let given = |folder: &&Path| !folder.as_os_str().is_empty();
    if let Some(cache) = cache.filter(given) {
        return Some(cache.to_owned());
    }
    if let Some(home) = home.filter(given) {
        return Some(home.join("hub"));
    }
    std::env::home_dir().map(|home| home.join(".cache/huggingface/hub"))
}

#[cfg(test)]
mod tests;
