//! The command line, and the composition of the parts that it asks for.

mod engines;

use std::env;
use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;

use anyhow::Context;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, CommandFactory as _, Parser, Subcommand};
use gpu_bridge_upkeep::{Log, announce};
use tokio::runtime::Runtime;
use tracing::{error, info, warn};

use crate::api::{self, ApiKey, Services};
use crate::hub::Token;
use crate::metrics::Metrics;
use crate::models::Fleet;
use crate::probe::{self, Question};
use crate::server::{self, Server};
use crate::settings::Settings;
use crate::tls::Tls;

/// Exit code for a command line or an environment that cannot be used, as clap has it.
const USAGE: u8 = 2;

/// A path that may be empty, as variables are that say nothing: clap's own parser would refuse it without naming
/// the variable.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

const EXIT_CODES: &str =
    "Exit codes: 0 after a signal to stop; 1 if it can't serve; 2 if a setting can't be used.";

/// A GPU host: sentence embeddings and BERTScore over HTTP.
///
/// Where an option names an environment variable, the flag wins over it.
#[derive(Debug, Parser)]
#[command(version, about, long_about, max_term_width = 100, after_long_help = EXIT_CODES)]
pub struct Cli {
    /// What to do instead of running the host
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// IP address and port to listen on; port 0 lets the system choose
    #[arg(
        long,
        env = "GPU_BRIDGE_LISTEN",
        value_name = "ADDR",
        default_value = "0.0.0.0:8765",
        global = true
    )]
    pub(crate) listen: String,

    /// Serve HTTPS with the certificate in this PEM file, then those that vouch for it. The file is
    /// followed: once it is replaced, new connections get the new one
    #[arg(
        long,
        env = "GPU_BRIDGE_TLS_CERTIFICATE",
        value_name = "FILE",
        value_parser = path(),
        global = true
    )]
    pub(crate) tls_certificate: Option<PathBuf>,

    /// Its key, without a passphrase
    #[arg(long, env = "GPU_BRIDGE_TLS_KEY", value_name = "FILE", value_parser = path())]
    pub(crate) tls_key: Option<PathBuf>,

    /// Key that clients must present in X-API-Key or as a bearer token; empty or not given: everybody may ask.
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

    /// Most tokens of one text; what goes beyond is cut off. Most models have a lower limit of their
    /// own, but some, such as DeBERTa, have none, and the time that a text takes grows with the square
    /// of its length
    #[arg(
        long,
        env = "GPU_BRIDGE_MAX_TOKENS",
        value_name = "N",
        default_value = "8192"
    )]
    pub(crate) max_tokens: String,

    /// Memory for requests and answers in transit, in MB of 1024 × 1024 bytes; when it is used up,
    /// requests are told to come back later
    #[arg(
        long,
        env = "GPU_BRIDGE_MAX_BUFFERED_MB",
        value_name = "N",
        default_value = "512"
    )]
    pub(crate) max_buffered_mb: String,

    /// Most connections at once. When all are taken, the one that has been idle for longest is closed to
    /// make room, those without a key first; if all are in use, further ones are answered 503
    #[arg(
        long,
        env = "GPU_BRIDGE_MAX_CONNECTIONS",
        value_name = "N",
        default_value = "1024"
    )]
    pub(crate) max_connections: String,

    /// Of these, what one address may have (of IPv6: a network of 64 bits), in the same way
    /// [default: three quarters]
    #[arg(
        long,
        env = "GPU_BRIDGE_MAX_CONNECTIONS_PER_CLIENT",
        value_name = "N",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) max_connections_per_client: String,

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

    /// Device to compute on: cpu, or cuda or cuda:N where this build has CUDA; or several of them,
    /// such as cuda:0,cuda:1. Each loads its own models, and a request runs on one of them
    #[arg(long, env = "GPU_BRIDGE_DEVICE", value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// The same under the name that the Python service knows; --device wins
    #[arg(long, env = "TORCH_DEVICE", value_name = "DEVICE")]
    pub(crate) torch_device: Option<String>,

    /// Numbers to compute with: auto, f32, f16 or bf16. On GPUs, auto takes f32 for BERTScore, and for
    /// embeddings f16 unless the model needs the range of f32. On the processor auto is f32; bf16 (not
    /// f16) can be had where it has AVX-512 BF16, and keeps the embeddings of all-MiniLM-L6-v2 at a cosine
    /// above 0.9999 to those in f32
    #[arg(
        long,
        env = "GPU_BRIDGE_DTYPE",
        value_name = "TYPE",
        default_value = "auto"
    )]
    pub(crate) dtype: String,

    /// Threads that compute on the processor [default: one for each processor that this process may use]
    #[arg(long, env = "GPU_BRIDGE_THREADS", value_name = "N")]
    pub(crate) threads: Option<String>,

    /// Folder with models, each in a folder NAME or ORG/NAME
    #[arg(long, env = "GPU_BRIDGE_MODELS_DIR", value_name = "DIR", value_parser = path())]
    pub(crate) models_dir: Option<PathBuf>,

    /// Cache folder of the model hub, looked in for models that the models folder lacks
    #[arg(long, env = "HF_HUB_CACHE", value_name = "DIR", value_parser = path())]
    pub(crate) hub_cache: Option<PathBuf>,

    /// Home folder of the model hub, whose `hub` folder is the cache [default: ~/.cache/huggingface]
    #[arg(long, env = "HF_HOME", value_name = "DIR", value_parser = path())]
    pub(crate) hub_home: Option<PathBuf>,

    /// Memory for models in MB, on each device; those not used for longest make room for others
    /// [default: half of the device's memory]
    #[arg(
        long,
        env = "GPU_MODEL_MEMORY_MB",
        value_name = "MB",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) model_memory_mb: String,

    /// Download the default models, and those of --download-model, at start where they are missing
    /// (1 or 0). Requests never cause a download
    #[arg(
        long,
        env = "GPU_BRIDGE_DOWNLOAD",
        value_name = "1|0",
        default_value = "0",
        default_missing_value = "1",
        num_args = 0..=1,
        require_equals = true
    )]
    pub(crate) download: String,

    /// Another model to download, under its full name on the hub (repeatable); needs --download
    #[arg(long, value_name = "NAME")]
    pub(crate) download_model: Vec<String>,

    /// Download nothing, whatever --download says (1 or 0)
    #[arg(long, env = "HF_HUB_OFFLINE", value_name = "1|0", default_value = "0")]
    pub(crate) offline: String,

    /// The same under the name that an older library knows
    #[arg(
        long,
        env = "TRANSFORMERS_OFFLINE",
        value_name = "1|0",
        default_value = "0"
    )]
    pub(crate) transformers_offline: String,

    /// The hub to download from
    #[arg(
        long,
        env = "HF_ENDPOINT",
        value_name = "URL",
        default_value = "https://huggingface.co"
    )]
    pub(crate) hub_endpoint: String,

    /// Token for private and gated models of the hub. Prefer the variable: other users of the
    /// machine can read the flags of a process
    #[arg(long, env = "HF_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) hub_token: Option<Token>,

    /// Hidden layer that BERTScore compares for the model NAME (repeatable); else the published
    /// choice, else the model's last layer
    #[arg(long, value_name = "NAME=N")]
    pub(crate) bertscore_layer: Vec<String>,

    /// Folder with LANGUAGE/MODEL.tsv files, such as the one in bert-score's package, for
    /// requests that want scores rescaled with a baseline
    #[arg(long, env = "GPU_BRIDGE_BERTSCORE_BASELINES", value_name = "DIR", value_parser = path())]
    pub(crate) bertscore_baselines: Option<PathBuf>,

    /// What to log, such as info, debug or `gpu_bridge_backend::hub=debug,warn`; of libraries, nothing
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
}

/// What can be asked of the program.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask the host that runs here (on --listen) whether it lives: exit code 0 if so. For probes of
    /// containers
    Health {
        /// Ask whether one of its models can be used instead
        #[arg(long)]
        ready: bool,
    },
}

/// Runs the program; the exit code is 2 for settings that cannot be used and 1 for other failures.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.kind() == ErrorKind::InvalidUtf8 => {
            let names = not_text();
            // If standard error is closed, nobody can be told.
            let _ = writeln!(std::io::stderr(), "error: {names} must be text in UTF-8");
            return ExitCode::from(USAGE);
        }
        Err(error) => without_values(error).exit(),
    };
    if let Some(Command::Health { ready }) = cli.command {
        return health(&cli, ready);
    }
    let metrics = match Metrics::new(api::ENGINE) {
        Ok(metrics) => Arc::new(metrics),
        Err(fault) => {
            // If standard error is closed, nobody can be told.
            let _ = writeln!(std::io::stderr(), "{fault}");
            return ExitCode::FAILURE;
        }
    };
    let log = Log::start(&metrics.upkeep);
    let (settings, tls) = match prepare(&cli) {
        Ok(prepared) => prepared,
        Err(problems) => {
            log.say(&format!("{problems}\n\nFor all settings, try '--help'.\n"));
            return ExitCode::from(USAGE);
        }
    };
    // Lines for people on a terminal, JSON for everything else.
    log.listen(settings.log.clone(), std::io::stderr().is_terminal());
    metrics.upkeep.note_panics();
    match run(settings, tls, metrics) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            error!("{fault:#}");
            ExitCode::FAILURE
        }
    }
}

/// Names options, but repeats nothing that may be a key which stands in a wrong place.
fn without_values(mut error: clap::Error) -> clap::Error {
    use ContextKind::{InvalidArg, InvalidSubcommand, InvalidValue};
    let is_option = |text: &str| {
        let is_usual = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        text.starts_with("--") && text.bytes().all(is_usual)
    };
    for kind in [InvalidArg, InvalidSubcommand, InvalidValue] {
        if let Some(ContextValue::String(text)) = error.get(kind)
            && !is_option(text.split(' ').next().unwrap_or_default())
        {
            error.insert(kind, ContextValue::String("***".to_owned()));
        }
    }
    error
}

/// Variables and arguments that are no text, by name or place: clap names none of them.
fn not_text() -> String {
    let command = Cli::command();
    let is_bad = |text: &OsStr| text.to_str().is_none();
    let path = ValueParser::new(path()).type_id();
    let is_text = |argument: &&Arg| argument.get_value_parser().type_id() != path;
    let variables = command.get_arguments().filter(is_text);
    let variables = variables.filter_map(|argument| {
        let name = argument.get_env()?;
        is_bad(&env::var_os(name)?).then(|| name.to_string_lossy().into_owned())
    });
    let places = env::args_os().enumerate().filter(|(_, text)| is_bad(text));
    let places = places.map(|(place, _)| format!("argument {place}"));
    variables.chain(places).collect::<Vec<_>>().join(", ")
}

/// The settings, and what the files with certificate and key hold that they name; or all that is wrong.
fn prepare(cli: &Cli) -> Result<(Settings, Option<Tls>), String> {
    let settings = Settings::check(cli).map_err(|problems| problems.to_string())?;
    let tls = settings.tls.clone().map(Tls::read).transpose();
    let tls = tls.map_err(|problem| format!("error: {problem:#}"))?;
    Ok((settings, tls))
}

fn health(cli: &Cli, ready: bool) -> ExitCode {
    let question = if ready {
        Question::Ready
    } else {
        Question::Health
    };
    let asked = match cli.listen.parse() {
        Ok(listen) => probe::ask(listen, cli.tls_certificate.is_some(), question),
        Err(_) => Err(anyhow::anyhow!("--listen is no IP:PORT")),
    };
    let Err(fault) = asked else {
        return ExitCode::SUCCESS;
    };
    // If standard error is closed, the exit code tells it all the same.
    let _ = writeln!(std::io::stderr(), "{fault:#}");
    ExitCode::FAILURE
}

fn run(settings: Settings, tls: Option<Tls>, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    if settings.api.api_key.is_none() {
        warn!("no API_KEY is set: everybody who can reach this host may use it");
    }
    let facts = settings.devices.first.facts();
    let engine = Arc::new(engines::fleet(&settings, &facts, &metrics)?);
    let services = Services {
        engine: engine.clone(),
        metrics,
        facts,
    };
    let server = Server {
        metrics: services.metrics.http.clone(),
        service: api::router(services, settings.api),
        connections: server::allow_open_files(settings.max_connections),
        connections_per_client: settings.max_connections_per_client,
        tls: tls.map(Tls::acceptor).transpose()?,
    };
    let runtime = runtime().context("cannot start the runtime")?;
    let result = runtime.block_on(serve(server, engine, settings.listen));
    // A model that is still being loaded is not waited for.
    runtime.shutdown_background();
    result
}

/// Threads as many as processors: left to itself, tokio panics over some values of a variable of its own.
fn runtime() -> std::io::Result<Runtime> {
    let threads = available_parallelism().map_or(1, NonZeroUsize::get);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(threads).enable_all().build()
}

/// Listens at once; the default models are loaded meanwhile. Until a stop signal.
async fn serve(server: Server, engine: Arc<Fleet>, listen: SocketAddr) -> anyhow::Result<()> {
    let stop = server::stop_signal()?;
    tokio::spawn(gpu_bridge_upkeep::no_log_files().context("cannot await SIGUSR1")?);
    let listener = server::bind(listen).await?;
    let address = listener.local_addr()?;
    let scheme = if server.tls.is_some() {
        "https"
    } else {
        "http"
    };
    // Scripts can wait for it.
    announce(format!("listening on {scheme}://{address}\n"));
    info!(%address, "listening");
    tokio::task::spawn_blocking(move || engine.warm_up());
    server.serve(listener, stop).await;
    Ok(())
}

#[cfg(test)]
mod tests {
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
            "GPU_BRIDGE_DTYPE",
            "GPU_MODEL_MEMORY_MB",
            "GPU_BRIDGE_DOWNLOAD",
            "HF_HUB_OFFLINE",
            "HF_ENDPOINT",
            "HF_TOKEN",
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
    fn no_value_is_repeated_that_may_be_a_secret() {
        for (arguments, told) in [
            (
                &["--api-key", "a", "s3cret"][..],
                "unrecognized subcommand '***'",
            ),
            (
                &["--api-key", "a", "--api-key", "s3cret"],
                "'--api-key <KEY>' cannot be used multiple times",
            ),
            (
                &["--tls-key", "-----BEGIN s3cret\n"],
                "unexpected argument '***'",
            ),
            (&["--apikey", "s3cret"], "unexpected argument '--apikey'"),
            (
                &["health", "--ready=s3cret"],
                "unexpected value '***' for '--ready'",
            ),
        ] {
            let given = ["gpu-bridge-backend"].iter().chain(arguments);
            let shown = without_values(Cli::try_parse_from(given).unwrap_err()).to_string();
            assert!(shown.contains(told) && !shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn help_never_shows_a_secret() {
        let command = Cli::command();
        for secret in ["api_key", "hub_token"] {
            let argument = command.get_arguments().find(|a| a.get_id() == secret);
            assert!(argument.unwrap().is_hide_env_values_set(), "{secret}");
        }
    }
}
