//! systemd may open the listening sockets before the proxy starts.

use std::io::Write as _;

use serde_json::json;
use tempfile::NamedTempFile;
use tokio::process::Command;

use crate::harness::{Client, Config, Process, sim_host};

/// What systemd does: opens the sockets, makes the first of them number 3, and becomes the program.
const SYSTEMD: &str = "
import os, socket, sys
listener = socket.create_server(('127.0.0.1', 0))
address = '127.0.0.1:%d' % listener.getsockname()[1]
path = sys.argv[-1]
config = open(path).read().replace('ADDRESS', address)
open(path, 'w').write(config)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
";

#[tokio::test]
async fn a_socket_that_is_open_already_is_taken_over() {
    let host = sim_host("host").start();
    let listen = json!([{"address": "ADDRESS"}]);
    let config = Config::with_hosts(&[&host]).replace("listen", listen);
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(config.to_yaml().as_bytes()).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", SYSTEMD, env!("CARGO_BIN_EXE_gpu-bridge")]);
    command.args(["serve", "--config"]).arg(file.path());
    command.env("RUST_LOG", "info");

    let mut process = Process::start("the proxy", &mut command);

    let url = process.announced("listening on ").await;
    let config = std::fs::read_to_string(file.path()).unwrap();
    assert!(config.contains(url.trim_start_matches("http://")), "{url}");
    Client::new(&url).flood(3, 1).await;
    process.terminate().await;
    assert_eq!(process.ended().await.code(), Some(0));
}
