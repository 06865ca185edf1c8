//! The real GPU host, with a real model, as a child process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::{Process, eventually, with_open_files};

/// A running backend.
pub(crate) struct Backend {
    process: Process,
    url: String,
}

impl Backend {
    /// The model that `make model` fetches.
    pub(crate) const MODEL: &'static str = "all-MiniLM-L6-v2";

    /// Starts one that admits holders of `api_key` and has one slot; returns once its models are loaded.
    pub(crate) async fn start(name: &str, api_key: &str) -> Self {
        let backend = Self::start_with(name, api_key, &Self::models()).await;
        let url = backend.url();
        eventually("the models are loaded", async || {
            let ready = reqwest::get(format!("{url}/ready")).await;
            ready.is_ok_and(|ready| ready.status().is_success())
        })
        .await;
        backend
    }

    /// The same with this folder of models, whatever is in it.
    pub(crate) async fn start_with(name: &str, api_key: &str, models: &Path) -> Self {
        Self::start_as(name, api_key, models, &[]).await
    }

    /// The same with more variables.
    pub(crate) async fn start_as(
        name: &str,
        api_key: &str,
        models: &Path,
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(Self::program());
        command
            .args(["--listen", "127.0.0.1:0"])
            .arg("--models-dir")
            .arg(models)
            .env("API_KEY", api_key)
            .env("GPU_MAX_CONCURRENT", "1")
            .env("MODEL_EMBED", Self::MODEL)
            .env("MODEL_BERTSCORE", Self::MODEL)
            .env("RUST_LOG", "info")
            .envs(variables.iter().copied());
        let mut process = Process::start(name, &mut command);
        let url = process.announced("listening on ").await;
        Self { process, url }
    }

    /// The same without models, and allowed no more than so many open files.
    pub(crate) async fn start_with_files(name: &str, limit: u32) -> Self {
        let mut command = Command::new(Self::program());
        command.args(["--listen", "127.0.0.1:0"]);
        let mut process = Process::start(name, &mut with_open_files(&command, limit));
        let address = process.announced("listening on http://").await;
        let url = format!("http://{address}");
        Self { process, url }
    }

    /// Cargo builds it into the folder of the proxy, but only when asked.
    pub(crate) fn program() -> PathBuf {
        let proxy = Path::new(env!("CARGO_BIN_EXE_gpu-bridge"));
        let program = proxy.with_file_name("gpu-bridge-backend");
        let shown = program.display();
        assert!(
            program.exists(),
            "{shown} is missing: run `cargo build --workspace --bins`"
        );
        program
    }

    /// Where the model is that `make model` fetches.
    pub(crate) fn models() -> PathBuf {
        let models = std::env::var_os("GPU_BRIDGE_TEST_MODELS").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join(".models"),
            PathBuf::from,
        );
        assert!(
            models.join(Self::MODEL).join("model.safetensors").exists(),
            "{} is not in {}: run `make model`",
            Self::MODEL,
            models.display()
        );
        models
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let (_, address) = self.url.split_once("://").expect("a URL");
        address.parse().unwrap()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}
