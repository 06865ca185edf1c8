//! The real program: what it refuses to start with, and the recordings replayed on it with the real
//! all-MiniLM-L6-v2, number by number.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::differences;
use crate::recording::{self, Answer, Case, Numbers};

const EMBED: &str = "all-MiniLM-L6-v2";
const BERTSCORE: &str = "microsoft/deberta-xlarge-mnli";

/// The program with nothing of this environment but what finds libraries.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-bridge-backend"));
    command.env_clear().kill_on_drop(true).stdin(Stdio::null());
    command
}

#[tokio::test]
async fn wrong_settings_end_the_program_with_code_2_and_name_the_variable() {
    let table = [
        ("GPU_EMBED_BATCH", "abc"),
        ("GPU_MAX_CONCURRENT", "-1"),
        ("GPU_MAX_BATCH_SIZE", "1.5"),
        ("GPU_MAX_TEXT_LENGTH", ""),
        ("TORCH_DEVICE", "cuda:x"),
        ("GPU_BRIDGE_DEVICE", "tpu"),
        ("MODEL_EMBED", ""),
        ("API_KEY", "s3cret\n"),
    ];
    for (variable, value) in table {
        let ended = program().env(variable, value).output().await.unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{variable}: {told}");
        assert!(
            told.contains(variable) && !told.contains("s3cret"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn help_shows_every_setting_and_no_key() {
    let ended = program()
        .env("API_KEY", "s3cret")
        .arg("--help")
        .output()
        .await
        .unwrap();
    let help = String::from_utf8(ended.stdout).unwrap();
    assert!(help.contains("--max-concurrent") && help.contains("GPU_MAX_CONCURRENT"));
    assert!(!help.contains("s3cret"));
}

/// A models folder as in the recordings: both default names lead to one model.
fn models_folder() -> TempDir {
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = std::env::var_os("GPU_BRIDGE_TEST_MODELS")
        .map_or_else(|| repository.join(".models"), PathBuf::from);
    let model = folder.join(EMBED);
    assert!(
        model.is_dir(),
        "{} is missing: run `make model`",
        model.display()
    );
    let model = model.canonicalize().unwrap();
    let links = TempDir::new().unwrap();
    for name in [EMBED, BERTSCORE] {
        let link = links.path().join(name);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&model, link).unwrap();
    }
    links
}

struct Running {
    program: Child,
    url: String,
}

async fn start(run: &recording::Suite, models: &Path) -> Running {
    let mut program = program()
        .args(["--listen=127.0.0.1:0", "--log=warn"])
        .arg(format!("--models-dir={}", models.display()))
        .arg(format!("--hub-cache={}", models.join("no-hub").display()))
        .arg(format!("--bertscore-layer={BERTSCORE}=6"))
        .arg(format!(
            "--bertscore-layer={}=6",
            models.join(EMBED).display()
        ))
        .envs(&run.env)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let line = lines
        .next_line()
        .await
        .unwrap()
        .expect("the program ended before it listened");
    let url = line.strip_prefix("listening on ").expect(&line).to_owned();
    Running { program, url }
}

impl Running {
    async fn send(&self, client: &reqwest::Client, case: &Case) -> Answer {
        let url = format!("{}{}", self.url, case.request.path);
        let method = case.request.method.parse().unwrap();
        let mut request = client.request(method, url).body(case.body());
        for (name, value) in case.headers() {
            request = request.header(name, value);
        }
        let response = request.send().await.expect(&case.name);
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer {
            status,
            headers,
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    /// Ends the program as an orchestrator does.
    async fn stop(mut self) {
        let id = self.program.id().unwrap().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .await
                .unwrap()
                .success()
        );
        assert_eq!(self.program.wait().await.unwrap().code(), Some(0));
    }
}

async fn replay(suite: &str) {
    let models = models_folder();
    let run = recording::suite(suite, &format!("{}/", models.path().display()));
    let running = start(&run, models.path()).await;
    let redirects = reqwest::redirect::Policy::none();
    let client = reqwest::Client::builder()
        .redirect(redirects)
        .build()
        .unwrap();
    let default_bertscore = run
        .env
        .get("MODEL_BERTSCORE")
        .map_or(BERTSCORE, String::as_str);
    let mut wrong = Vec::new();
    for case in run
        .cases
        .iter()
        .filter(|case| !bytes_of_a_header_matter(case))
    {
        let answer = running.send(&client, case).await;
        if let Err(what) = differences::check(case, &answer, Numbers::Compared, default_bertscore) {
            wrong.push(format!("{}: {what}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{suite}:\n{}", wrong.join("\n"));
    running.stop().await;
}

/// Spaces around a header's value are no part of it (RFC 9110 §5.5): our HTTP library drops them,
/// the recorded one did not. The router alone is tested with them.
fn bytes_of_a_header_matter(case: &Case) -> bool {
    case.name.ends_with("key=padded")
}

#[tokio::test]
async fn the_recorded_numbers_come_from_the_real_model() {
    replay("main").await;
}

#[tokio::test]
async fn the_recorded_numbers_come_with_other_limits() {
    replay("limits_3_5").await;
}

#[tokio::test]
async fn a_default_model_may_be_a_folder_of_the_operator() {
    replay("env_default_models").await;
}

#[tokio::test]
async fn a_key_is_asked_for_by_the_program() {
    replay("auth").await;
}

#[tokio::test]
async fn a_program_without_slots_is_always_busy() {
    replay("busy_concurrent0").await;
}
