//! Commands that ask a running proxy: how it may be named, and what is said when something else answers.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use http::Method;
use serde_json::json;

use crate::harness::{
    Authority, Config, Process, Proxy, Reply, embed_body, eventually, gpu_bridge, sim_host,
};

/// Runs a command against `address`: exit code, standard output, standard error.
async fn ask(address: &str, command: &[&str]) -> (Option<i32>, String, String) {
    Process::run(gpu_bridge().args(command).args(["--admin", address])).await
}

#[tokio::test]
async fn the_admin_address_is_taken_as_people_write_it() {
    let host = sim_host("a").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let (_, port) = proxy.admin().rsplit_once(':').unwrap();
    for address in [
        proxy.admin().to_owned(),
        format!("http://{}/", proxy.admin()),
        format!("localhost:{port}"),
        format!(":{port}"),
    ] {
        let (code, output, errors) = ask(&address, &["hosts"]).await;
        assert_eq!(
            (code, output.as_str()),
            (Some(0), "a\tup\n"),
            "{address}: {errors}"
        );
    }
}

#[tokio::test]
async fn a_wrong_port_says_what_answers_there() {
    let (host, authority) = (sim_host("a").start(), Authority::new());
    let identity = authority.issue(&["a"]);
    let tls = json!({"certificate": identity.certificate(), "key": identity.key()});
    let listen = json!([
        {"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0", "tls": tls},
    ]);
    let config = Config::with_hosts(&[&host])
        .replace("listen", listen)
        .client_key("somebody", "secret");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config.to_yaml()).unwrap();
    let mut process = Process::start("the proxy", &mut crate::harness::serve(file.path()));
    let clients = process.announced("listening on http://").await;
    let secure = process.announced("listening on https://").await;
    let gpu_host = host.address().to_string();

    let commands: [&[&str]; 4] = [
        &["status"],
        &["explain", "7f"],
        &["drain", "a"],
        &["reload"],
    ];
    for command in commands {
        for (address, what) in [
            (&*clients, "clients connect there"),
            (&*secure, "perhaps it wants TLS"),
            (&*gpu_host, "it is a GPU host"),
            ("127.0.0.1:9", "nothing listens there"),
        ] {
            let (code, output, errors) = ask(address, command).await;
            assert_eq!((code, output.as_str()), (Some(3), ""), "{errors}");
            assert!(
                errors.contains(address) && errors.contains(what),
                "{command:?}: {errors}"
            );
        }
    }
}

/// Answers each connection with `begin`, then with `again` for ever if it is not empty, and hangs up.
fn answering(begin: &str, again: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (begin, again) = (begin.to_owned(), again.repeat(1000));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // The command may hang up whenever it likes.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(begin.as_bytes());
            while !again.is_empty() && stream.write_all(again.as_bytes()).is_ok() {}
        }
    });
    address
}

#[tokio::test]
async fn an_answer_without_end_is_not_waited_for_and_one_that_ends_the_connection_is_read() {
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let endless = answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        &chunk,
    );
    let detail = json!({"detail": "no host is called \u{1b}[2J"}).to_string();
    let last = answering(
        &format!(
            "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{detail}",
            detail.len()
        ),
        "",
    );
    for (address, expected, what) in [
        (endless, 3, "its answer does not end"),
        (last, 5, "no host is called \\u001b[2J"),
    ] {
        let (code, _, errors) = ask(&address, &["drain", "a"]).await;
        assert_eq!(code, Some(expected), "{errors}");
        assert!(errors.contains(what), "{errors}");
    }
}

#[tokio::test]
async fn a_request_is_explained_by_the_beginning_of_its_id() {
    let host = sim_host("a").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    for id in ["7f3a/one", "7f3b"] {
        let request = proxy.client().request(Method::POST, "/embed");
        let request = request.header("X-Request-Id", id).json(&embed_body("x"));
        assert_eq!(Reply::to(request).await.status, 200);
    }
    eventually("both have ended", async || {
        let listed = proxy.operator().get("/api/v1/requests").await.json();
        listed["requests"].as_array().unwrap().len() == 2
    })
    .await;

    for beginning in ["7f3a", "7f3a/o", "7f3a/one"] {
        let (code, story, errors) = proxy.command(&["explain", beginning]).await;
        assert_eq!(code, Some(0), "{errors}");
        assert!(story.starts_with("request 7f3a/one: POST embed"), "{story}");
    }
    let (code, _, errors) = proxy.command(&["explain", "7f3"]).await;
    assert_eq!(code, Some(5), "{errors}");
    assert!(errors.contains("7f3b, 7f3a/one"), "{errors}");
    let (code, _, errors) = proxy.command(&["explain", "8"]).await;
    assert_eq!(code, Some(5), "{errors}");
}

/// As containers ask: the proxy serves on whatever becomes of its file meanwhile.
#[tokio::test]
async fn health_asks_the_proxy_and_not_its_file() {
    let host = sim_host("a").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let half = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(half.path(), "admin: {addr").unwrap();
    let file = half.path().to_str().unwrap();
    assert_eq!(proxy.command(&["health"]).await.0, Some(0));
    assert_eq!(
        proxy.command(&["health", "--config", file]).await.0,
        Some(2)
    );

    // What the command line says goes before the file, which names another place.
    std::fs::write(half.path(), "admin: {address: '127.0.0.1:9'}").unwrap();
    let admin = proxy.admin().to_string();
    let mut command = gpu_bridge();
    command.args(["drain", "a", "--admin", &admin, "--config", file]);
    let (code, _, errors) = Process::run(&mut command).await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(
        proxy.command(&["health", "--config", file]).await.0,
        Some(3)
    );

    let mut command = gpu_bridge();
    command.args(["embed", "--in", "/none", "--out", "o"]);
    let (code, _, errors) = Process::run(command.env("GPU_BRIDGE_URL", "")).await;
    assert_eq!(code, Some(1), "the usual address is meant: {errors}");
}
