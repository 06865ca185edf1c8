//! Whatever becomes of what the proxy says: it serves.

use std::fs::File;
use std::io::{BufRead as _, BufReader, PipeReader, Read, Write as _, pipe};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};

use tokio::process::Command;

use crate::harness::{Config, Proxy, SimHost, eventually, gpu_bridge, serve, sim_host};

/// What a pipe holds that nobody reads.
const PIPE: usize = 64 << 10;

/// A pipe for standard error, and its end to read from.
fn stderr() -> (PipeReader, Stdio) {
    let (reader, writer) = pipe().unwrap();
    (reader, writer.into())
}

/// It takes what a pipe takes without a reader, all of it.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(&vec![b'x'; PIPE]).unwrap();
    (reader, writer.into())
}

/// A device that refuses all that is written.
fn full_disk() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

/// `command`, begun with closed files.
fn without(files: &str, command: &Command) -> Command {
    let command = command.as_std();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!(r#"exec "$0" "$@" {files}"#)])
        .arg(command.get_program())
        .args(command.get_args())
        .env("RUST_LOG", "info");
    shell
}

/// More lines than any queue takes, soon.
fn talkative(command: &mut Command) {
    command.env("RUST_LOG", "trace");
}

async fn dropped_lines(proxy: &Proxy) -> u64 {
    let metrics = proxy.metrics().await;
    metrics.count("gpu_bridge_log_lines_dropped_total", &[])
}

/// Makes requests until lines have been dropped.
async fn lose_lines(proxy: &Proxy) {
    let client = proxy.client();
    eventually("lines are dropped", async || {
        client.flood(50, 4).await;
        dropped_lines(proxy).await > 0
    })
    .await;
}

/// Everything that must go on goes on: requests of all kinds, checks of hosts, an orderly end.
async fn serves_and_stops(mut proxy: Proxy, host: &SimHost) {
    let client = proxy.client();
    client.flood(1000, 8).await;
    assert_eq!(client.get("/health").await.status, 200);
    assert_eq!(proxy.operator().get("/readyz").await.status, 200);
    for _ in 0..2 {
        host.stop();
        proxy.finds_unhealthy(host.name()).await;
        host.restart();
        proxy.finds_healthy(host.name()).await;
    }
    client.flood(10, 2).await;
    let drained = proxy.command(&["drain", host.name()]).await;
    assert_eq!(drained.0, Some(0), "{drained:?}");
    proxy.terminate().await;
    assert_eq!(proxy.ended().await.code(), Some(0));
}

/// The numbers of lines that the log says were dropped.
fn told(reader: impl Read + Send + 'static) -> Receiver<u64> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines();
        for line in lines.map_while(Result::ok) {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else {
                continue;
            };
            if let Some(dropped) = line["dropped"].as_u64()
                && tell.send(dropped).is_err()
            {
                return;
            }
        }
    });
    told
}

/// What the log tells comes to what the metrics say.
async fn tells_what_was_dropped(proxy: &Proxy, told: &Receiver<u64>) {
    let mut sum = 0;
    eventually("the loss is told", async || {
        // The next line shows that the sink takes them again.
        proxy.client().flood(1, 1).await;
        sum += told.try_iter().sum::<u64>();
        sum > 0 && sum == dropped_lines(proxy).await
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_costs_log_lines_and_nothing_else() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::start_logging_to(full_disk(), &config, |_| {}).await;
    proxy.finds_healthy("host").await;
    proxy.client().flood(1, 1).await;
    eventually("lines are dropped", async || {
        dropped_lines(&proxy).await > 0
    })
    .await;
    serves_and_stops(proxy, &host).await;
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_costs_log_lines_and_nothing_else() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let (_unread, stderr) = stderr();
    let proxy = Proxy::start_logging_to(stderr, &config, talkative).await;
    proxy.finds_healthy("host").await;
    lose_lines(&proxy).await;
    serves_and_stops(proxy, &host).await;
}

#[tokio::test]
async fn a_pipe_that_is_closed_costs_log_lines_and_nothing_else() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let (reader, stderr) = stderr();
    drop(reader);
    let proxy = Proxy::start_logging_to(stderr, &config, |_| {}).await;
    proxy.finds_healthy("host").await;
    serves_and_stops(proxy, &host).await;
}

#[tokio::test]
async fn without_standard_error_no_connection_takes_its_place() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let proxy =
        Proxy::start_with(&config, |command| *command = without("0<&- 2>&-", command)).await;
    proxy.finds_healthy("host").await;
    for file in [0, 2] {
        let file = format!("/proc/{}/fd/{file}", proxy.id());
        assert_eq!(std::fs::read_link(file).unwrap(), Path::new("/dev/null"));
    }
    serves_and_stops(proxy, &host).await;
}

#[tokio::test]
async fn a_reader_that_comes_late_is_told_how_much_it_missed() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let (reader, stderr) = stderr();
    let proxy = Proxy::start_logging_to(stderr, &config, talkative).await;
    proxy.finds_healthy("host").await;
    lose_lines(&proxy).await;

    let told = told(reader);

    tells_what_was_dropped(&proxy, &told).await;
}

/// A pipe with a name, so that it can have one reader after the other.
struct NamedPipe(tempfile::TempDir);

impl NamedPipe {
    fn new() -> Self {
        let pipe = Self(tempfile::tempdir().unwrap());
        let made = std::process::Command::new("mkfifo")
            .arg(pipe.path())
            .status();
        assert!(made.unwrap().success());
        pipe
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("log")
    }

    /// Both ends; opening either waits for the other.
    fn open(&self) -> (File, File) {
        let path = self.path();
        let reader = std::thread::spawn(move || File::open(path).unwrap());
        let writer = File::options().write(true).open(self.path()).unwrap();
        (reader.join().unwrap(), writer)
    }
}

#[tokio::test]
async fn a_reader_that_is_started_again_is_told_how_much_was_missed() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let pipe = NamedPipe::new();
    let (reader, writer) = pipe.open();
    let proxy = Proxy::start_logging_to(writer.into(), &config, |_| {}).await;
    proxy.finds_healthy("host").await;
    drop(reader);
    lose_lines(&proxy).await;

    let told = told(File::open(pipe.path()).unwrap());

    tells_what_was_dropped(&proxy, &told).await;
}

#[tokio::test]
async fn a_configuration_that_is_refused_ends_the_program_though_nobody_reads_why() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "no: configuration").unwrap();
    for (_unread, stderr) in [stderr(), full_pipe()] {
        let ended = serve(file.path()).stderr(stderr).status().await.unwrap();
        assert_eq!(ended.code(), Some(2));
    }
}

#[tokio::test]
async fn commands_whose_output_nobody_reads_end_quietly() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let admin = format!("--admin=http://{}", proxy.admin());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), Config::with_hosts(&[&host]).to_yaml()).unwrap();
    let file = file.path().to_str().unwrap();
    for arguments in [
        &["check", file][..],
        &["schema"],
        &["schema", "--markdown"],
        &["completions", "bash"],
        &["man"],
        &["status", &admin],
        &["hosts", &admin],
        &["--help"],
    ] {
        for (stdout, codes) in [(closed(), &[0][..]), (full_disk(), &[0, 1])] {
            let mut command = gpu_bridge();
            command
                .args(arguments)
                .stdout(stdout)
                .stderr(Stdio::piped());
            let ended = command.spawn().unwrap().wait_with_output().await.unwrap();
            let said = String::from_utf8(ended.stderr).unwrap();
            let code = ended.status.code().unwrap();
            assert!(codes.contains(&code), "{arguments:?} {code} {said}");
            assert!(!said.contains("panicked"), "{arguments:?} {said}");
        }
    }
}

fn closed() -> Stdio {
    stderr().1
}
