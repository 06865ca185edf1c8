//! Whatever becomes of what the program says: it serves.

use std::fs::File;
use std::io::{Read as _, pipe};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Command;

use crate::program::{Running, listening, program};

/// The program with much to say and nothing to load; the folder is to be kept.
fn quick() -> (TempDir, Command) {
    let models = TempDir::new().unwrap();
    let mut command = program();
    command
        .args(["--listen=127.0.0.1:0", "--log=trace"])
        .arg(format!("--models-dir={}", models.path().display()))
        .arg(format!("--hub-cache={}", models.path().display()));
    (models, command)
}

async fn logging_to(stderr: Stdio) -> (TempDir, Running) {
    let (models, mut command) = quick();
    command.stderr(stderr);
    (models, listening(command).await)
}

/// Answers go on, `/health` among them, and the end is in order.
async fn serves_and_stops(running: Running) {
    let client = reqwest::Client::new();
    for _ in 0..300 {
        for path in ["/health", "/no/such/path"] {
            let answer = client.get(format!("{}{path}", running.url)).send().await;
            assert!(answer.is_ok(), "{answer:?}");
        }
    }
    running.stop().await;
}

/// Asks until lines have been dropped; returns how many.
async fn lose_lines(running: &Running) -> u64 {
    let client = reqwest::Client::new();
    loop {
        let metrics = client.get(format!("{}/metrics", running.url)).send();
        let metrics = metrics.await.unwrap().text().await.unwrap();
        let name = "\ngpu_bridge_backend_log_lines_dropped_total ";
        let (_, dropped) = metrics.split_once(name).unwrap();
        let dropped = dropped.lines().next().unwrap().parse().unwrap();
        if dropped > 0 {
            return dropped;
        }
    }
}

#[tokio::test]
async fn a_full_disk_costs_log_lines_and_nothing_else() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (_models, running) = logging_to(full.into()).await;
    lose_lines(&running).await;
    serves_and_stops(running).await;
}

#[tokio::test]
async fn a_pipe_that_is_closed_costs_log_lines_and_nothing_else() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let (_models, running) = logging_to(writer.into()).await;
    lose_lines(&running).await;
    serves_and_stops(running).await;
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_costs_log_lines_and_nothing_else() {
    let (mut reader, writer) = pipe().unwrap();
    let (_models, running) = logging_to(writer.into()).await;
    lose_lines(&running).await;
    serves_and_stops(running).await;
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert!(log.contains("\"message\":\"listening\""), "{log}");
}

#[tokio::test]
async fn a_reader_that_comes_late_is_told_how_much_it_missed() {
    let (mut reader, writer) = pipe().unwrap();
    let (_models, running) = logging_to(writer.into()).await;
    lose_lines(&running).await;
    let log = std::thread::spawn(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).unwrap();
        log
    });
    serves_and_stops(running).await;
    let log = log.join().unwrap();
    assert!(log.contains("log lines were dropped"));
}

#[tokio::test]
async fn standard_output_may_be_closed_and_the_program_still_starts() {
    let (log, stderr) = pipe().unwrap();
    let (reader, stdout) = pipe().unwrap();
    drop(reader);
    let (_models, mut command) = quick();
    command.stdout(stdout).stderr(stderr);
    let program = command.spawn().unwrap();
    drop(command);
    let url = tokio::task::spawn_blocking(move || announced(log)).await;
    let running = Running {
        program,
        url: url.unwrap(),
    };
    serves_and_stops(running).await;
}

/// The address in the log, which is read to its end by a thread.
fn announced(log: std::io::PipeReader) -> String {
    use std::io::BufRead as _;
    let mut lines = std::io::BufReader::new(log).lines();
    let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(&line).ok()?;
        let listens = line["message"] == "listening";
        listens.then(|| line["address"].as_str().map(str::to_owned))?
    });
    std::thread::spawn(move || lines.for_each(drop));
    format!("http://{}", address.expect("it listens"))
}
