//! What hangs, hangs alone: files on a mount that does not answer, and a DNS that never does. Named pipes
//! into which nobody writes stand for the former.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::{
    Client, Config, Process, Proxy, Reply, embed_body, eventually, gpu_bridge, serve, sim_host,
};

/// What the log says of a file.
const HANGS: &str = "reading a file hangs";

/// Puts a pipe in the place of whatever is at `path`.
fn hang(path: &Path) {
    let _ = std::fs::remove_file(path);
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

fn pipe() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hangs");
    hang(&path);
    (folder, path)
}

/// The threads of a process with this name, or all.
fn threads(pid: u32, name: Option<&str>) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let named = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    let tasks = tasks.flatten().map(|task| task.path());
    tasks
        .filter(|task| name.is_none_or(|name| named(task).trim() == name))
        .count()
}

/// A configuration with a client's key in a file.
fn with_key_file(config: &Config, key: &Path) -> Config {
    config
        .clone()
        .client_keys(json!([{"name": "client", "key_file": key}]))
}

/// Asks as a client that knows `key`.
async fn embed(proxy: &Proxy, key: &str) -> Reply {
    let request = proxy.client().request(Method::POST, "/embed");
    Reply::to(request.header("X-API-Key", key).json(&embed_body("x"))).await
}

#[tokio::test]
async fn a_file_that_hangs_is_refused_and_all_else_goes_on_until_it_answers() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "first").unwrap();
    let proxy = Proxy::ready(&with_key_file(&config, &key), &[&host]).await;

    hang(&key);
    proxy.has_reloaded("failure", 1).await;

    proxy.logs(HANGS).await;
    let (code, _, errors) = proxy.command(&["reload"]).await;
    assert_eq!(code, Some(2), "{errors}");
    let (_, status, _) = proxy.command(&["status"]).await;
    for told in [&errors, &status] {
        assert!(
            told.contains("key_file: names a file that can't be read: nothing came"),
            "{told}"
        );
    }
    let few = threads(proxy.id(), Some("read-file"));
    assert!((1..5).contains(&few), "{few} threads");
    embed(&proxy, "first").await.assert_embedding_of("x");

    // A configuration that does without the file needs nobody's answer.
    proxy.takes_over(&config).await;
    proxy.client().embed("x").await.assert_embedding_of("x");

    let before = proxy.reloads("success").await;
    proxy.rewrite(&with_key_file(&config, &key).to_yaml());
    proxy.has_reloaded("failure", 3).await;
    let next = folder.path().join("next");
    std::fs::write(&next, "second").unwrap();
    std::fs::rename(&next, &key).unwrap();
    proxy.has_reloaded("success", before + 1).await;
    embed(&proxy, "second").await.assert_embedding_of("x");
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_file_that_hangs() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let (_folder, key) = pipe();
    let mut proxy = Proxy::ready(&config, &[&host]).await;
    proxy.rewrite(&with_key_file(&config, &key).to_yaml());
    eventually("the file is read", async || {
        threads(proxy.id(), Some("read-file")) > 0
    })
    .await;

    proxy.terminate().await;

    assert_eq!(proxy.ended().await.code(), Some(0));
    assert!(!proxy.log().contains(HANGS), "it ended before that");
}

#[tokio::test]
async fn a_configuration_that_hangs_is_told_of_by_whoever_needs_it() {
    let (_folder, file) = pipe();
    let file = file.to_str().unwrap();
    let asking = ["status", "--config", file];
    let key = ["status", "--admin-key-file", file];
    for arguments in [
        &["check", file][..],
        &["serve", "--config", file],
        &asking,
        &key,
    ] {
        // What stands for the file of a key is not repeated.
        let named = if arguments == key { key[1] } else { file };
        let (code, _, errors) = Process::run(gpu_bridge().args(arguments)).await;
        assert_eq!(code, Some(2), "{arguments:?}: {errors}");
        assert!(
            errors.contains(named) && errors.contains("nothing came"),
            "{errors}"
        );
    }
}

#[tokio::test]
async fn a_start_that_hangs_ends_when_it_is_told_to() {
    let (_folder, file) = pipe();
    let mut process = Process::start("the proxy", &mut serve(&file));
    eventually("the file is read", async || {
        threads(process.id(), Some("read-file")) > 0
    })
    .await;
    process.terminate().await;
    process.ended().await;
}

#[tokio::test]
async fn a_successor_whose_configuration_hangs_gives_up_and_the_old_process_serves_on() {
    let host = sim_host("host").start();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    let proxy = Proxy::start_at(&socket, &Config::with_hosts(&[&host])).await;
    hang(proxy.file());

    proxy.signal("USR2").await;
    proxy.logs("started a successor").await;
    proxy.signal("USR2").await;
    proxy.logs("a successor was started already").await;

    proxy.logs("the successor ended").await;
    proxy.client().flood(10, 2).await;
}

/// `command` in a world whose `/etc/resolv.conf` is `file`. `None`, loudly, where that takes rights that
/// this process lacks.
fn with_resolv_conf(command: &Command, file: &Path) -> Option<Command> {
    let may = std::process::Command::new("unshare")
        .args(["--mount", "true"])
        .status();
    if !may.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no mounts of its own for a process (unshare --mount)");
        return None;
    }
    let mut inside = Command::new("unshare");
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    inside.args(["--mount", "sh", "-c", script]).arg(file);
    let command = command.as_std();
    inside.arg(command.get_program()).args(command.get_args());
    inside.env("RUST_LOG", "info");
    Some(inside)
}

#[tokio::test]
async fn a_dns_that_never_answers_holds_up_no_other_host_and_not_the_end() {
    let host = sim_host("host").start();
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    // They only ever take questions.
    let servers = ["127.53.0.1", "127.53.0.2"].map(|ip| (ip, UdpSocket::bind((ip, 53))));
    if servers.iter().any(|(_, socket)| socket.is_err()) {
        eprintln!("SKIPPED: port 53 of 127.53.0.1 is not to be had");
        return;
    }
    let names = (0..200).map(|number| format!("gpu-{number}.silent.example"));
    let config = names.fold(Config::with_hosts(&[&host]), |config, name| {
        let url = format!("http://{name}:8765");
        config.host(name.split('.').next().unwrap(), &url, None)
    });
    for is_silent in [true, false] {
        if is_silent {
            let lines = servers
                .each_ref()
                .map(|(ip, _)| format!("nameserver {ip}\n"));
            std::fs::write(&resolv_conf, lines.concat()).unwrap();
        } else {
            hang(&resolv_conf);
        }
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, config.to_yaml()).unwrap();
        let Some(mut command) = with_resolv_conf(&serve(&file), &resolv_conf) else {
            return;
        };
        let mut process = Process::start("the proxy", &mut command);
        let address = process.announced("listening on ").await;
        process.logs("a name can't be looked up as it should").await;
        process.logs("host is up").await;
        let client = Client::new(&address);
        client.embed("x").await.assert_embedding_of("x");
        let all = threads(process.id(), None);
        assert!(all < 100, "{all} threads");

        process.terminate().await;
        assert_eq!(process.ended().await.code(), Some(0));
    }
}
