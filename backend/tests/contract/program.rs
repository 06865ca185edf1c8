//! The real program: what it refuses to start with, and the recordings replayed on it with the real
//! all-MiniLM-L6-v2, number by number.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::differences;
use crate::recording::{self, Answer, Case, Numbers};

const EMBED: &str = "all-MiniLM-L6-v2";
const BERTSCORE: &str = "microsoft/deberta-xlarge-mnli";

/// The program with nothing of this environment but what finds libraries.
pub(crate) fn program() -> Command {
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
        ("GPU_MODEL_MEMORY_MB", "half"),
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
async fn what_is_no_text_is_named_and_not_repeated() {
    let bad = OsStr::from_bytes(b"s3cret\xff");
    let mut command = program();
    command.env("API_KEY", bad).env("RUST_LOG", bad);
    command.arg("--bertscore-layer").arg(bad);
    let ended = command.env("HF_HOME", bad).output().await.unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{told}");
    assert_eq!(
        told,
        "error: API_KEY, RUST_LOG, argument 2 must be text in UTF-8\n"
    );
}

#[tokio::test]
async fn variables_of_libraries_keep_it_from_nothing() {
    let models = TempDir::new().unwrap();
    for (variable, value) in [
        ("TOKIO_WORKER_THREADS", "0"),
        ("RAYON_NUM_THREADS", "x"),
        ("RUST_BACKTRACE", "x"),
        ("HF_HUB_CACHE", ""),
        ("HF_HOME", ""),
    ] {
        let mut command = program();
        command
            .args(["--listen=127.0.0.1:0", "--log=error"])
            .arg(format!("--models-dir={}", models.path().display()))
            .env("HOME", models.path())
            .env(variable, value);
        listening(command).await.stop().await;
    }
}

#[tokio::test]
async fn sigquit_stops_in_order_and_sigusr1_changes_nothing() {
    let models = TempDir::new().unwrap();
    let mut command = program();
    command
        .args(["--listen=127.0.0.1:0", "--log=info"])
        .arg(format!("--models-dir={}", models.path().display()))
        .arg(format!("--hub-cache={}", models.path().display()))
        .stderr(Stdio::piped());
    let mut running = listening(command).await;
    let mut log = BufReader::new(running.program.stderr.take().unwrap()).lines();

    running.signal("-USR1").await;
    let told = loop {
        let line = log.next_line().await.unwrap();
        let line = line.expect("it lives and says so");
        if line.contains("SIGUSR1") {
            break line;
        }
    };
    assert!(told.contains("is ignored"), "{told}");
    let health = reqwest::get(format!("{}/health", running.url)).await;
    assert_eq!(health.unwrap().status(), 200);
    running.stop_by("-QUIT").await;
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

#[tokio::test]
async fn while_models_load_the_program_answers_and_ends_when_told_to() {
    let models = TempDir::new().unwrap();
    // Connections are taken by the system, and nobody answers: downloads that never end.
    let hub = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = program();
    command
        .args([
            "--listen=127.0.0.1:0",
            "--log=warn",
            "--api-key=s3cret",
            "--download=1",
        ])
        .arg(format!(
            "--hub-endpoint=http://{}",
            hub.local_addr().unwrap()
        ))
        .arg(format!("--hub-cache={}", models.path().display()));
    let running = listening(command).await;
    let get = |path| reqwest::get(format!("{}{path}", running.url));

    let health: Value = get("/health").await.unwrap().json().await.unwrap();
    let model = |purpose, name| json!({"name": name, "purpose": purpose, "state": "loading"});
    let expected = json!({
        "status": "ok",
        "device": "cpu",
        "ready": false,
        "models": [model("embed", EMBED), model("bertscore", BERTSCORE)],
    });
    assert_eq!(health, expected);
    let ready = get("/ready").await.unwrap();
    assert_eq!(ready.status(), 503);
    assert_eq!(ready.headers()["retry-after"], "5");
    running.stop().await;
}

/// `acme/mini` and `deberta-xlarge-mnli` lead to a tiny model, `odd` to one with a setting that is
/// not supported.
fn models_under_other_names() -> TempDir {
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny/bert");
    let tiny = tiny.canonicalize().unwrap();
    let models = TempDir::new().unwrap();
    for name in ["acme/mini", "deberta-xlarge-mnli"] {
        let link = models.path().join(name);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&tiny, link).unwrap();
    }
    let odd = models.path().join("odd");
    std::fs::create_dir(&odd).unwrap();
    for file in [
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ] {
        symlink(tiny.join(file), odd.join(file)).unwrap();
    }
    let config = std::fs::read_to_string(tiny.join("config.json")).unwrap();
    let config = config.replace("\"gelu\"", "\"quick_gelu\"");
    std::fs::write(odd.join("config.json"), config).unwrap();
    models
}

/// What `/info` tells an operator of the default model, which has a tensor of another shape than it should.
async fn told_of_a_broken_model(backtrace: &str) -> String {
    let models = models_under_other_names();
    let config = models.path().join("odd/config.json");
    let odd = std::fs::read_to_string(&config).unwrap();
    let odd = odd
        .replace("quick_gelu", "gelu")
        .replace("\"intermediate_size\": ", "\"intermediate_size\": 1");
    std::fs::write(config, odd).unwrap();
    let mut command = program();
    command
        .args([
            "--listen=127.0.0.1:0",
            "--model-embed=odd",
            "--api-key=s3cret",
        ])
        .arg(format!("--models-dir={}", models.path().display()))
        .arg(format!("--bertscore-layer={BERTSCORE}=3"))
        .current_dir(models.path())
        .env("RUST_BACKTRACE", backtrace);
    let running = listening(command).await;
    running.until_ready().await;
    let info = reqwest::Client::new().get(format!("{}/info", running.url));
    let info = info.header("x-api-key", "s3cret").send().await.unwrap();
    let info: Value = info.json().await.unwrap();
    running.stop().await;
    let reason = info["models"][0]["reason"].as_str().unwrap();
    reason.replace(&models.path().display().to_string(), "MODELS")
}

#[tokio::test]
async fn answers_are_the_same_with_backtraces() {
    let told = told_of_a_broken_model("0").await;
    assert!(told.contains("shape mismatch"), "{told}");
    assert_eq!(told_of_a_broken_model("full").await, told);
}

async fn embed(running: &Running, body: Value) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("{}/embed", running.url));
    let answer = request.json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn models_are_found_by_either_name_listed_and_refused_with_the_reason() {
    let models = models_under_other_names();
    let mut command = program();
    command
        .args(["--listen=127.0.0.1:0", "--log=warn", "--model-embed=mini"])
        .arg(format!("--models-dir={}", models.path().display()))
        .arg(format!(
            "--hub-cache={}",
            models.path().join("no-hub").display()
        ))
        .arg(format!("--bertscore-layer={BERTSCORE}=3"));
    let running = listening(command).await;
    running.until_ready().await;
    for model in ["", "mini", "acme/mini"] {
        let (status, answer) = embed(&running, json!({"texts": ["x"], "model": model})).await;
        assert_eq!(status, 200, "{model}: {answer}");
    }
    let health = reqwest::get(format!("{}/health", running.url))
        .await
        .unwrap();
    let health: Value = health.json().await.unwrap();
    assert_eq!(health["models"][1]["state"], "ready", "{health}");

    for _ in 0..2 {
        let (status, answer) = embed(&running, json!({"texts": ["x"], "model": "odd"})).await;
        let expected = "model 'odd' cannot be used on this host: config.json: 'hidden_act' must be \
                        gelu, gelu_new, relu or tanh, or another name of one of these";
        assert_eq!((status, &answer["detail"]), (404, &json!(expected)));
    }
    let info = reqwest::get(format!("{}/info", running.url)).await.unwrap();
    let info: Value = info.json().await.unwrap();
    let listed: Vec<&str> = info["available_models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    for name in [
        "embed:mini",
        "embed:acme/mini",
        "bertscore:deberta-xlarge-mnli",
    ] {
        assert!(listed.contains(&name), "{listed:?}");
    }
    assert!(
        listed.contains(&format!("bertscore:{BERTSCORE}").as_str()),
        "{listed:?}"
    );
    assert!(
        !listed
            .iter()
            .any(|name| name.contains("odd") || name.contains("tmp")),
        "{listed:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_host_without_models_says_so_and_is_not_ready() {
    let models = TempDir::new().unwrap();
    let mut command = program();
    command
        .args(["--listen=127.0.0.1:0", "--log=error"])
        .arg(format!("--models-dir={}", models.path().display()))
        .arg(format!(
            "--hub-cache={}",
            models.path().join("no-hub").display()
        ));
    let running = listening(command).await;
    let get = |path| reqwest::get(format!("{}{path}", running.url));
    let told = loop {
        let ready: Value = get("/ready").await.unwrap().json().await.unwrap();
        let told = ready["detail"].as_str().unwrap().to_owned();
        if told.contains(BERTSCORE) {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(
        told.contains(&format!("model '{EMBED}': it is not installed")),
        "{told}"
    );
    let info: Value = get("/info").await.unwrap().json().await.unwrap();
    assert_eq!(info["available_models"], json!([]));
    running.stop().await;
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

pub(crate) struct Running {
    pub(crate) program: Child,
    pub(crate) url: String,
}

/// The program under the circumstances of a recording, with its models loaded.
async fn start(run: &recording::Suite, models: &Path) -> Running {
    let mut command = program();
    command
        .args(["--listen=127.0.0.1:0", "--log=warn"])
        .arg(format!("--models-dir={}", models.display()))
        .arg(format!("--hub-cache={}", models.join("no-hub").display()))
        .arg(format!("--bertscore-layer={BERTSCORE}=6"))
        .arg(format!(
            "--bertscore-layer={}=6",
            models.join(EMBED).display()
        ))
        .envs(&run.env);
    let running = listening(command).await;
    running.until_ready().await;
    running
}

pub(crate) async fn listening(mut command: Command) -> Running {
    let mut program = command.stdout(Stdio::piped()).spawn().unwrap();
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
    /// Asks as an orchestrator does, without a key.
    async fn is_ready(&self) -> bool {
        let ready = reqwest::get(format!("{}/ready", self.url)).await.unwrap();
        ready.status() == 200
    }

    pub(crate) async fn until_ready(&self) {
        while !self.is_ready().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

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
    pub(crate) async fn stop(self) {
        self.stop_by("-TERM").await;
    }

    async fn stop_by(mut self, signal: &str) {
        self.signal(signal).await;
        assert_eq!(self.program.wait().await.unwrap().code(), Some(0));
    }

    async fn signal(&self, signal: &str) {
        let id = self.program.id().unwrap().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().await;
        assert!(sent.unwrap().success());
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
