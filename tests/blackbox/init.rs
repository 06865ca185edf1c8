//! `gpu-bridge init` writes a configuration that works as it is, but for the keys.

use std::path::Path;

use http::Method;
use serde_json::json;

use crate::harness::{Client, Process, Reply, embed_body, gpu_bridge, sim_host};

const CLIENT_KEY: &str = "what-clients-send";

/// Writes `made.yaml` in `folder`.
async fn init(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = gpu_bridge();
    command
        .current_dir(folder)
        .arg("init")
        .args(["--output", "made.yaml"])
        .args(arguments);
    Process::run(&mut command).await
}

/// On addresses of the system's choice.
fn move_aside(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let text = text
        .replace("0.0.0.0:8765", "127.0.0.1:0")
        .replace("127.0.0.1:9765", "127.0.0.1:0");
    std::fs::write(file, text).unwrap();
}

#[tokio::test]
async fn what_is_made_of_the_plugins_configuration_serves_its_hosts() {
    let (one, two) = (
        sim_host("one").key("key-one").start(),
        sim_host("two").key("key-two").start(),
    );
    let config = json!({"timeout": 30, "loadBalancing": "least-busy", "apiKey": "key-two", "hosts": [
        {"name": "the first", "url": format!("{}/", one.url()), "apiKey": "key-one"}, {"url": two.url()}]});
    let folder = tempfile::tempdir().unwrap();
    let whole = json!({"plugins": {"entries": {"openclaw-gpu-bridge": {"enabled": true, "config": config}}}});
    std::fs::write(folder.path().join("openclaw.json"), whole.to_string()).unwrap();

    let (code, told, errors) = init(folder.path(), &["--from-plugin", "openclaw.json"]).await;

    assert_eq!(code, Some(0), "{errors}");
    assert!(
        told.contains("GPU_KEY_1: the key of the-first") && told.contains("OPENCLAW_KEY"),
        "{told}"
    );
    let made = folder.path().join("made.yaml");
    let text = std::fs::read_to_string(&made).unwrap();
    assert!(
        !text.contains("key-one") && !told.contains("key-one"),
        "{text}"
    );
    assert!(text.contains("max_wait: 20s"), "{text}");

    move_aside(&made);
    let variables = [
        ("OPENCLAW_KEY", CLIENT_KEY),
        ("GPU_KEY_1", "key-one"),
        ("GPU_KEY_2", "key-two"),
    ];
    let mut check = gpu_bridge();
    let checked = Process::run(check.arg("check").arg(&made).envs(variables)).await;
    assert_eq!((checked.0, checked.2.as_str()), (Some(0), ""));
    let mut serve = gpu_bridge();
    serve.args(["serve", "--config"]).arg(&made).envs(variables);
    let mut proxy = Process::start("the proxy", &mut serve);
    let client = Client::new(&proxy.announced("listening on ").await);
    let request = client
        .request(Method::POST, "/embed")
        .header("x-api-key", CLIENT_KEY);
    Reply::to(request.json(&embed_body("x")))
        .await
        .assert_embedding_of("x");
}

#[tokio::test]
async fn nothing_is_overwritten_and_nothing_bad_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made.yaml");
    let one = ["--host", "http://127.0.0.1:1", "http://127.0.0.1:2"];

    for (url, why) in [
        ("http://127.0.0.1:1/v1", "must not end in /v1"),
        ("192.168.1.20:8765", "put http:// before it"),
    ] {
        let (code, _, errors) = init(folder.path(), &["--host", url]).await;
        assert_eq!(code, Some(2));
        let is_told = errors.contains("--host") && errors.contains(why);
        assert!(is_told && !made.exists(), "{errors}");
    }
    let deep = "[".repeat(10_000);
    for (file, why) in [
        ("{", "is not JSON"),
        ("{}", "neither hosts"),
        ("'secret", "is not JSON"),
        (&deep, "nested deeper"),
    ] {
        std::fs::write(folder.path().join("bad.json"), file).unwrap();
        let (code, _, errors) = init(folder.path(), &["--from-plugin", "bad.json"]).await;
        assert_eq!(code, Some(2));
        assert!(
            errors.contains(why) && !errors.contains("secret"),
            "{errors}"
        );
    }

    let (code, _, errors) = init(folder.path(), &one).await;
    assert_eq!(code, Some(0), "{errors}");
    let mut check = gpu_bridge();
    check
        .arg("check")
        .arg(&made)
        .env("OPENCLAW_KEY", CLIENT_KEY);
    let (code, told, errors) = Process::run(&mut check).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(told.contains("good, 2 hosts"), "{told}");

    std::fs::write(&made, "mine").unwrap();
    let (code, _, errors) = init(folder.path(), &one).await;
    assert_eq!(code, Some(2));
    assert!(errors.contains("not overwritten"), "{errors}");
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "mine");
}

#[tokio::test]
async fn what_is_written_to_standard_output_is_a_configuration_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = gpu_bridge();
    command.current_dir(folder.path()).args([
        "init",
        "--output",
        "-",
        "--host",
        "http://127.0.0.1:1",
    ]);

    let (code, text, told) = Process::run(&mut command).await;

    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("GPU_KEY_1: "), "{told}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let made = folder.path().join("made.yaml");
    std::fs::write(&made, &text).unwrap();
    let mut check = gpu_bridge();
    check
        .arg("check")
        .arg(&made)
        .env("OPENCLAW_KEY", CLIENT_KEY);
    let (code, _, errors) = Process::run(&mut check).await;
    assert_eq!(code, Some(0), "{text}{errors}");
}
