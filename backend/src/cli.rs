//! The command line, and the composition of the parts that it asks for.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use tracing::{error, info, warn};

use crate::api::{self, ApiKey, Services};
use crate::engine::{Engine, EngineError, Progress};
use crate::metrics::Metrics;
use crate::models::{CandleEngine, EngineOptions};
use crate::server::{self, Server};
use crate::settings::Settings;

/// Exit code for a command line or an environment that cannot be used, as clap has it.
const USAGE: u8 = 2;

/// A GPU host: sentence embeddings and BERTScore over HTTP.
///
/// Where an option names an environment variable, the flag wins over it.
#[derive(Debug, Parser)]
#[command(version, about, long_about, max_term_width = 100)]
pub struct Cli {
    /// IP address and port to listen on; port 0 lets the system choose
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8765")]
    pub(crate) listen: String,

    /// Key that clients must present in X-API-Key; empty or not given: everybody may ask.
    /// Prefer the variable: other users of the machine can read the flags of a process
    #[arg(long, env = "API_KEY", value_name = "KEY", hide_env_values = true)]
    pub(crate) api_key: Option<ApiKey>,

    /// Requests that may compute at once; 0 answers "busy" to all
    #[arg(
        long,
        env = "GPU_MAX_CONCURRENT",
        value_name = "N",
        default_value = "2"
    )]
    pub(crate) max_concurrent: String,

    /// Texts, or pairs of texts, that are computed in one go; progress and cancellation go by it
    /// (0 counts as 1)
    #[arg(long, env = "GPU_EMBED_BATCH", value_name = "N", default_value = "32")]
    pub(crate) embed_batch: String,

    /// Most texts, or pairs of texts, of one request
    #[arg(
        long,
        env = "GPU_MAX_BATCH_SIZE",
        value_name = "N",
        default_value = "100"
    )]
    pub(crate) max_batch_size: String,

    /// Most Unicode code points of one text
    #[arg(
        long,
        env = "GPU_MAX_TEXT_LENGTH",
        value_name = "N",
        default_value = "10000"
    )]
    pub(crate) max_text_length: String,

    /// Memory for requests and answers in transit, in MB of 1024 × 1024 bytes; when it is used up,
    /// requests are told to come back later
    #[arg(
        long,
        env = "GPU_BRIDGE_MAX_BUFFERED_MB",
        value_name = "N",
        default_value = "512"
    )]
    pub(crate) max_buffered_mb: String,

    /// Most connections at once; further ones wait
    #[arg(
        long,
        env = "GPU_BRIDGE_MAX_CONNECTIONS",
        value_name = "N",
        default_value = "1024"
    )]
    pub(crate) max_connections: String,

    /// Model for embeddings where a request names none: a name or a folder
    #[arg(
        long,
        env = "MODEL_EMBED",
        value_name = "MODEL",
        default_value = "all-MiniLM-L6-v2"
    )]
    pub(crate) model_embed: String,

    /// Model for BERTScore where a request names none: a name or a folder
    #[arg(
        long,
        env = "MODEL_BERTSCORE",
        value_name = "MODEL",
        default_value = "microsoft/deberta-xlarge-mnli"
    )]
    pub(crate) model_bertscore: String,

    /// Device to compute on: cpu, or cuda or cuda:N where this build has CUDA
    #[arg(long, env = "GPU_BRIDGE_DEVICE", value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// The same under the name that the Python service knows; --device wins
    #[arg(long, env = "TORCH_DEVICE", value_name = "DEVICE")]
    pub(crate) torch_device: Option<String>,

    /// Threads that compute [default: one for each processor that this process may use]
    #[arg(long, env = "GPU_BRIDGE_THREADS", value_name = "N")]
    pub(crate) threads: Option<String>,

    /// Folder with models, each in a folder NAME or ORG/NAME
    #[arg(long, env = "GPU_BRIDGE_MODELS_DIR", value_name = "DIR")]
    pub(crate) models_dir: Option<PathBuf>,

    /// Cache folder of the model hub, looked in for models that the models folder lacks
    #[arg(long, env = "HF_HUB_CACHE", value_name = "DIR")]
    pub(crate) hub_cache: Option<PathBuf>,

    /// Home folder of the model hub, whose `hub` folder is the cache [default: ~/.cache/huggingface]
    #[arg(long, env = "HF_HOME", value_name = "DIR")]
    pub(crate) hub_home: Option<PathBuf>,

    /// Hidden layer that BERTScore compares for the model NAME (repeatable); else the published
    /// choice, else the model's last layer
    #[arg(long, value_name = "NAME=N")]
    pub(crate) bertscore_layer: Vec<String>,

    /// What to log, such as info, debug or `gpu_bridge_backend=debug,warn`
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
}

/// Runs the program; the exit code is 2 for settings that cannot be used and 1 for other failures.
pub fn main() -> ExitCode {
    let settings = match Settings::check(&Cli::parse()) {
        Ok(settings) => settings,
        Err(problems) => {
            eprintln!("{problems}\n\nFor all settings, try '--help'.");
            return ExitCode::from(USAGE);
        }
    };
    start_log(&settings.log);
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            error!("{fault:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lines for people on a terminal, JSON for everything else.
fn start_log(filter: &str) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).init();
    }
}

fn run(settings: Settings) -> anyhow::Result<()> {
    if settings.api.api_key.is_none() {
        warn!("no API_KEY is set: everybody who can reach this host may use it");
    }
    let options = EngineOptions {
        threads: settings.threads,
        embed_batch: settings.embed_batch,
        bertscore_layers: settings.bertscore_layers,
    };
    let metrics = Arc::new(Metrics::new(api::ENGINE)?);
    let services = Services {
        engine: Arc::new(CandleEngine::new(settings.sources, options)?),
        metrics,
        facts: settings.device.facts(),
    };
    server::allow_open_files(settings.max_connections);
    let server = Server {
        service: api::router(services.clone(), settings.api.clone()),
        connections: settings.max_connections,
        metrics: services.metrics.http.clone(),
    };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let warm_up = move || warm_up(&*services.engine, &settings.api);
    let result = runtime.block_on(run_until_stopped(server, settings.listen, warm_up));
    // A model that is still being loaded is not waited for.
    runtime.shutdown_background();
    result
}

async fn run_until_stopped(
    server: Server,
    listen: SocketAddr,
    warm_up: impl FnOnce() + Send + 'static,
) -> anyhow::Result<()> {
    let mut stop = Box::pin(server::stop_signal()?);
    let listener = server::bind(listen).await?;
    let warm = tokio::task::spawn_blocking(warm_up);
    tokio::select! {
        warm = warm => warm.context("cannot load the default models")?,
        () = &mut stop => return Ok(()),
    }
    announce(&listener)?;
    server.serve(listener, stop).await;
    Ok(())
}

/// Loads the default models, so that the first request does not wait for it. A host without one of
/// them is of use all the same.
fn warm_up(engine: &dyn Engine, options: &api::Options) {
    let text = ["ready".to_owned()];
    let embed = engine
        .embed(&options.default_embed, &text, &Nobody)
        .map(drop);
    let score = engine
        .bertscore(&options.default_bertscore, &text, &text, &Nobody)
        .map(drop);
    for outcome in [embed, score] {
        match outcome {
            Ok(()) => {}
            Err(fault @ EngineError::NotInstalled { .. }) => warn!("default {fault}"),
            Err(fault) => error!("default {fault}"),
        }
    }
}

/// One line on standard output that scripts can wait for.
fn announce(listener: &tokio::net::TcpListener) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on http://{address}")?;
    out.flush()?;
    info!(%address, "listening");
    Ok(())
}

/// Nobody watches the progress.
struct Nobody;

impl Progress for Nobody {
    fn finished(&self, _: usize) {}

    fn is_cancelled(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_variable_of_the_contract_has_a_flag_with_help() {
        let command = Cli::command();
        let variables = [
            "API_KEY",
            "GPU_MAX_CONCURRENT",
            "GPU_EMBED_BATCH",
            "GPU_MAX_BATCH_SIZE",
            "GPU_MAX_TEXT_LENGTH",
            "MODEL_EMBED",
            "MODEL_BERTSCORE",
            "TORCH_DEVICE",
            "GPU_BRIDGE_DEVICE",
        ];
        for variable in variables {
            let argument = command
                .get_arguments()
                .find(|argument| argument.get_env().is_some_and(|env| env == variable))
                .unwrap_or_else(|| panic!("no flag reads {variable}"));
            assert!(
                argument.get_long().is_some() && argument.get_help().is_some(),
                "{variable}"
            );
        }
    }

    #[test]
    fn help_never_shows_the_key() {
        let command = Cli::command();
        let key = command
            .get_arguments()
            .find(|a| a.get_id() == "api_key")
            .unwrap();
        assert!(key.is_hide_env_values_set());
    }
}
