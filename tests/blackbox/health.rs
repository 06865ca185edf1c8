//! Both programs can be asked how they are by a container that holds nothing else.

use std::process::Stdio;

use tokio::process::Command;

use crate::harness::{Backend, Config, Process, Proxy, sim_host};

#[tokio::test]
async fn the_proxy_tells_whether_it_lives_and_whether_it_can_serve() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    for question in [&["health"][..], &["health", "--ready"]] {
        let (code, output, errors) = proxy.command(question).await;
        assert_eq!((code, output.as_str()), (Some(0), ""), "{errors}");
    }

    let gone = sim_host("gone").start();
    gone.stop();
    let proxy = Proxy::start(&Config::with_hosts(&[&gone])).await;
    proxy.finds("gone", "ejected").await;

    assert_eq!(proxy.command(&["health"]).await.0, Some(0));
    let (code, _, errors) = proxy.command(&["health", "--ready"]).await;
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("no host can serve"), "{errors}");
    let (code, _, errors) = proxy.command(&["health", "--admin", "127.0.0.1:1"]).await;
    assert_eq!(code, Some(3), "{errors}");
}

/// Asks the GPU host on `address`.
async fn ask(address: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(Backend::program());
    command
        .arg("health")
        .args(arguments)
        .args(["--listen", address])
        .stdin(Stdio::null());
    let (code, output, errors) = Process::run(&mut command).await;
    assert_eq!(output, "");
    (code, errors)
}

#[tokio::test]
async fn the_gpu_host_tells_whether_it_lives_and_whether_its_models_can_be_used() {
    let models = tempfile::tempdir().unwrap();
    let backend = Backend::start_with("backend", "secret", models.path()).await;
    let address = backend.address();

    for address in [address.to_string(), format!("0.0.0.0:{}", address.port())] {
        assert_eq!(ask(&address, &[]).await, (Some(0), String::new()));
    }
    let (code, errors) = ask(&address.to_string(), &["--ready"]).await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("answers 503"), "{errors}");
    drop(backend);
    let (code, errors) = ask(&address.to_string(), &[]).await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("no answer from"), "{errors}");
}
