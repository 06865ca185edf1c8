//! A real Prometheus with the configuration that is shipped, and its tool promtool.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tokio::process::Command;

use super::{Process, Proxy, eventually};

/// Where what is shipped for monitoring is.
pub(crate) fn monitoring(file: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/monitoring");
    folder.join(file)
}

/// Are Prometheus and promtool there? False, loudly, where they are not; in CI that fails the test.
pub(crate) fn has_prometheus() -> bool {
    let runs = |program| {
        let told = std::process::Command::new(program)
            .arg("--version")
            .output();
        told.is_ok()
    };
    if runs("prometheus") && runs("promtool") {
        return true;
    }
    let missing = "Prometheus is not installed (Debian: apt-get install prometheus)";
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
    let mut terminal = std::io::stderr();
    // Unlike what eprintln! says, seen even if the test passes.
    writeln!(terminal, "SKIPPED: {missing}").unwrap();
    false
}

/// Runs promtool on files that are shipped; fails the test with what it says unless it is content.
pub(crate) async fn promtool(arguments: &[&str]) -> String {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(monitoring(""));
    content(&mut command).await
}

/// Has promtool look for mistakes in metrics.
pub(crate) async fn lint(metrics: &str) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(metrics.as_bytes()).unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"exec promtool check metrics < "$0""#])
        .arg(file.path());
    let said = content(&mut command).await;
    assert_eq!(said, "", "promtool has remarks");
}

async fn content(command: &mut Command) -> String {
    let (code, output, errors) = Process::run(command).await;
    assert_eq!(code, Some(0), "{output}\n{errors}");
    output + &errors
}

/// See the module. Ends with the test.
pub(crate) struct Prometheus {
    _process: Process,
    url: String,
    http: reqwest::Client,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `proxy`, five times a second; returns once it answers.
    pub(crate) async fn watching(proxy: &Proxy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = std::fs::read_to_string(monitoring("prometheus.yml")).unwrap();
        assert!(config.contains("127.0.0.1:9765") && config.contains("15s"));
        let config = config
            .replace("127.0.0.1:9765", proxy.admin())
            .replace("15s", "200ms");
        let path = folder.path().join("prometheus.yml");
        std::fs::write(&path, config).unwrap();
        let rules = folder.path().join("alerts.yml");
        std::fs::copy(monitoring("alerts.yml"), rules).unwrap();

        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().display()))
            .arg("--web.listen-address=127.0.0.1:0");
        let process = Process::start("Prometheus", &mut command);
        let url = listening(&process).await;
        let prometheus = Self {
            _process: process,
            url,
            http: super::client::http(),
            _folder: folder,
        };
        prometheus.is_ready().await;
        prometheus
    }

    /// The value of `query`: a list of series and their values.
    pub(crate) async fn query(&self, query: &str) -> Vec<Value> {
        let reply = self
            .http
            .get(format!("{}/api/v1/query", self.url))
            .query(&[("query", query)]);
        let reply: Value = reply.send().await.unwrap().json().await.unwrap();
        assert_eq!(reply["status"], "success", "{query}: {reply}");
        reply["data"]["result"].as_array().unwrap().clone()
    }

    /// Returns once `query` has a value, as one that compares has when it holds.
    pub(crate) async fn finds(&self, query: &str) {
        eventually(query, async || !self.query(query).await.is_empty()).await;
    }

    async fn is_ready(&self) {
        eventually("Prometheus is ready", async || {
            let reply = self.http.get(format!("{}/-/ready", self.url)).send();
            reply.await.is_ok_and(|reply| reply.status().is_success())
        })
        .await;
    }
}

/// It chooses a port and says so in its log only.
async fn listening(process: &Process) -> String {
    let start = r#"msg="Listening on" address="#;
    process.logs(start).await;
    let log = process.log();
    let (_, address) = log.split_once(start).unwrap();
    format!("http://{}", address.split_whitespace().next().unwrap())
}
