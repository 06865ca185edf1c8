//! The GPU host speaks HTTPS where it is told to, and follows its certificate.

use serde_json::json;
use tokio::process::Command;

use crate::harness::{Authority, Backend, Config, Process, Proxy, eventually, secure};

const NAME: &str = "gpu.example";
const KEY: &str = "host-key";

/// One with a model, and with these files.
async fn over_tls(certificate: &str, key: &str) -> Backend {
    let models = Backend::models();
    let tls = [
        ("GPU_BRIDGE_TLS_CERTIFICATE", certificate),
        ("GPU_BRIDGE_TLS_KEY", key),
    ];
    Backend::start_as("backend", KEY, &models, &tls).await
}

#[tokio::test]
async fn a_gpu_host_with_a_certificate_serves_the_proxy_and_follows_its_files() {
    let (authority, other) = (Authority::new(), Authority::new());
    let identity = authority.issue(&[NAME]);
    let files = [identity.certificate(), identity.key()].map(|path| path.to_str().unwrap());
    let backend = over_tls(files[0], files[1]).await;
    assert!(backend.url().starts_with("https://"), "{}", backend.url());

    let tls = json!({"ca": authority.path(), "server_name": NAME});
    let config = Config::new()
        .host("gpu", backend.url(), Some(KEY))
        .set_host("gpu", "tls", tls);
    let proxy = Proxy::start(&config).await;
    proxy.finds("gpu", "up").await;
    assert_eq!(
        proxy.client().embed_with(Backend::MODEL, "x").await.status,
        200
    );

    let mut health = Command::new(Backend::program());
    let listen = backend.address().to_string();
    health.args(["health", "--listen", &listen, "--tls-certificate", files[0]]);
    let (code, _, errors) = Process::run(&mut health).await;
    assert_eq!(code, Some(0), "{errors}");

    std::fs::write(identity.key(), "nonsense").unwrap();
    eventually("it is told that the key can't be used", async || {
        backend.log().contains("the certificate stays as it was")
    })
    .await;
    let known = secure(backend.address(), NAME, authority.client(None, &[])).await;
    assert!(known.is_ok(), "{known:?}");

    other.issue(&[NAME]).replace(&identity);
    eventually("the new certificate is used", async || {
        secure(backend.address(), NAME, other.client(None, &[]))
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_told_at_start_and_whenever_it_is_replaced() {
    let authority = Authority::new();
    let ended = authority.issue_until(&["ended.example"], 2020);
    let files = [ended.certificate(), ended.key()].map(|path| path.to_str().unwrap());
    let backend = over_tls(files[0], files[1]).await;
    eventually("it is told at start", async || {
        backend.log().contains("ended on Jan  1")
    })
    .await;

    let early = authority.issue_between(&["early.example"], 2090, 2100);
    early.replace(&ended);
    eventually("it is told of the new one", async || {
        backend.log().contains("is not valid before Jan  1")
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_refuses_the_start() {
    let authority = Authority::new();
    let (own, other) = (authority.issue(&[NAME]), authority.issue(&[NAME]));
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let nothing = "/dev/null".to_owned();
    let held = std::fs::read_to_string(own.key()).unwrap();
    for (certificate, key, why) in [
        (
            path(own.certificate()),
            Some(path(other.key())),
            "holds another key",
        ),
        (
            path(own.key()),
            Some(path(own.key())),
            "holds no certificate",
        ),
        (
            path(own.certificate()),
            Some(nothing),
            "holds no private key",
        ),
        (
            "/no/such/file".to_owned(),
            Some(path(own.key())),
            "GPU_BRIDGE_TLS_CERTIFICATE (--tls-certificate): No such file",
        ),
        (
            path(own.certificate()),
            Some(held.clone()),
            "GPU_BRIDGE_TLS_KEY (--tls-key): No such file",
        ),
        (path(own.certificate()), None, "--tls-key"),
    ] {
        let mut command = Command::new(Backend::program());
        command.args(["--listen=127.0.0.1:0", "--tls-certificate", &certificate]);
        command.envs(key.map(|key| ("GPU_BRIDGE_TLS_KEY", key)));
        let (code, _, errors) = Process::run(&mut command).await;
        assert_eq!(code, Some(2), "as for any other setting: {errors}");
        assert!(errors.contains(why), "{errors}");
        assert!(!errors.contains(held.lines().nth(1).unwrap()), "{errors}");
    }
}
