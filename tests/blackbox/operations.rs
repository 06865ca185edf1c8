//! What operators can see and order while the proxy runs, and who is not let in.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::harness::{
    Behaviour, Config, HealthAnswer, Process, Proxy, Reply, SimHost, eventually, gpu_bridge,
    sim_host,
};

async fn two_hosts() -> ([SimHost; 2], Proxy) {
    let hosts = ["a", "b"].map(|name| sim_host(name).start());
    let proxy = Proxy::in_front_of(&[&hosts[0], &hosts[1]]).await;
    (hosts, proxy)
}

/// Runs a command that must succeed; returns what it printed.
async fn done(proxy: &Proxy, arguments: &[&str]) -> String {
    let (code, output, errors) = proxy.command(arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {errors}");
    output
}

/// Sends an operation as a program does, with the header that no web page can send.
async fn operate(proxy: &Proxy, path: &str) -> Reply {
    let request = proxy.operator().request(Method::POST, path);
    Reply::to(request.header("X-Gpu-Bridge", "1")).await
}

/// Returns once the status table says `text`.
async fn shows(proxy: &Proxy, text: &str) {
    let what = format!("{text:?} in the status");
    eventually(&what, async || {
        done(proxy, &["status"]).await.contains(text)
    })
    .await;
}

#[tokio::test]
async fn a_drained_host_finishes_what_it_has_and_gets_nothing_new() {
    let (hosts, proxy) = two_hosts().await;
    for host in &hosts {
        host.set(Behaviour::ServeWhenReleased);
    }
    let first = proxy.client().start_embed("first");
    let second = proxy.client().start_embed("second");
    hosts[0].runs(1).await;
    hosts[1].runs(1).await;

    let said = done(&proxy, &["drain", "a"]).await;

    assert!(said.contains("still run there: 1"), "{said}");
    for host in &hosts {
        host.release_all();
    }
    first.await.unwrap().assert_embedding_of("first");
    second.await.unwrap().assert_embedding_of("second");
    proxy.client().flood(10, 4).await;
    assert_eq!((hosts[0].arrivals(), hosts[1].arrivals()), (1, 11));
    shows(&proxy, "drained by an operator").await;

    let said = done(&proxy, &["undrain", "a"]).await;

    assert!(said.contains("may get requests again; it is up"), "{said}");
    proxy.client().flood(10, 1).await;
    assert!(hosts[0].arrivals() > 1, "it is back");
}

#[tokio::test]
async fn requests_wait_rather_than_fail_while_every_host_is_drained() {
    let (_hosts, proxy) = two_hosts().await;
    done(&proxy, &["drain", "a"]).await;
    done(&proxy, &["drain", "b"]).await;
    let waiting = proxy.client().start_embed("patience");
    proxy.queues(1).await;

    done(&proxy, &["undrain", "b"]).await;

    waiting.await.unwrap().assert_embedding_of("patience");
}

#[tokio::test]
async fn an_unknown_host_is_told_apart_from_other_failures() {
    let (_hosts, proxy) = two_hosts().await;

    let (code, _, errors) = proxy.command(&["drain", "c"]).await;

    assert_eq!(code, Some(5), "{errors}");
    assert!(
        errors.contains("\"c\"") && errors.contains("a, b"),
        "{errors}"
    );
    let detail = operate(&proxy, "/api/v1/hosts/c/undrain")
        .await
        .assert_error(404);
    assert!(detail.contains("a, b"), "{detail}");
    let (code, _, errors) = proxy.command(&["undrain", "../pool"]).await;
    assert_eq!(code, Some(5), "{errors}");
}

#[tokio::test]
async fn status_as_json_is_what_the_api_says() {
    let (_hosts, proxy) = two_hosts().await;

    let shown: Value = serde_json::from_str(&done(&proxy, &["status", "--json"]).await).unwrap();

    let reply = proxy.operator().get("/api/v1/pool").await;
    assert_eq!(reply.json(), shown);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(shown["hosts"][0]["name"], "a");
    assert_eq!(shown["hosts"][0]["state"], "up");
    assert_eq!(shown["hosts"][0]["why"], Value::Null);
    assert_eq!(shown["hosts"][0]["capacity"], 2);
    assert_eq!(shown["queue"]["waiting"], 0);
    assert_eq!(shown["ready"], true);
    assert_eq!(done(&proxy, &["hosts"]).await, "a\tup\nb\tup\n");
}

#[tokio::test]
async fn status_says_why_a_host_gets_nothing() {
    let hosts = ["busy", "dead", "locked"].map(|name| sim_host(name).start());
    let config = Config::with_hosts(&[&hosts[0], &hosts[1], &hosts[2]]);
    let proxy = Proxy::ready(&config, &[&hosts[0], &hosts[1], &hosts[2]]).await;
    hosts[0].set(Behaviour::busy(20));
    hosts[1].stop();
    hosts[2].set_key("another key");
    let _waiting = proxy.client().start_embed("waits");

    shows(&proxy, "it said that it is full; it is asked again in").await;
    shows(&proxy, "it does not accept connections").await;
    shows(&proxy, "it refuses the proxy's API key").await;
    shows(&proxy, "queue: 1 waiting").await;

    let table = done(&proxy, &["status"]).await;
    assert!(table.starts_with("HOST    STATE "), "{table}");
    assert!(
        !table.contains('\u{1b}'),
        "no colours where no terminal is: {table}"
    );
}

#[tokio::test]
async fn watching_shows_the_status_again_and_again() {
    let (_hosts, proxy) = two_hosts().await;
    let mut command = gpu_bridge();
    command.args(["status", "--watch", "--json"]);
    command.env("GPU_BRIDGE_ADMIN", format!("http://{}", proxy.admin()));
    let mut watching = Process::start("status --watch", &mut command);

    let first: Value = serde_json::from_str(&watching.line().await.unwrap()).unwrap();
    done(&proxy, &["drain", "a"]).await;
    let mut last = Value::Null;
    eventually("the drained host", async || {
        last = serde_json::from_str(&watching.line().await.unwrap()).unwrap();
        last["hosts"][0]["state"] == "drained"
    })
    .await;

    assert_eq!(first["hosts"][0]["state"], "up");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_unreachable() {
    let mut command = gpu_bridge();
    // Port 9 of this machine: nobody discards there.
    command.args(["status", "--admin", "http://127.0.0.1:9"]);

    let (code, output, errors) = Process::run(&mut command).await;

    assert_eq!((code, output.as_str()), (Some(3), ""), "{errors}");
    assert!(errors.contains("127.0.0.1:9"), "{errors}");
}

#[tokio::test]
async fn wrong_usage_has_a_code_of_its_own() {
    let table: [&[&str]; 4] = [
        &["status", "--admin", "ftp://127.0.0.1:9"],
        &["status", "--config", "/no/such/file"],
        &["status", "--admin-key-file", "/no/such/file"],
        &["drain"],
    ];
    for arguments in table {
        let (code, _, errors) = Process::run(gpu_bridge().args(arguments)).await;
        assert_eq!(code, Some(2), "{arguments:?}: {errors}");
    }
}

#[tokio::test]
async fn with_a_key_nothing_is_shown_or_done_without_it() {
    let host = sim_host("a").start();
    let config = Config::with_hosts(&[&host]).set("admin", "key", "open-sesame");
    let proxy = Proxy::start(&config).await;
    let operator = proxy.operator();
    for path in ["/api/v1/pool", "/metrics"] {
        let reply = operator.get(path).await;
        reply.assert_error(401);
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        let bearer = operator
            .request(Method::GET, path)
            .bearer_auth("open-sesame");
        assert_eq!(Reply::to(bearer).await.status, 200, "{path}");
        let plain = operator
            .request(Method::GET, path)
            .header("X-API-Key", "open-sesame");
        assert_eq!(Reply::to(plain).await.status, 200, "{path}");
    }
    operate(&proxy, "/api/v1/hosts/a/drain")
        .await
        .assert_error(401);
    assert_eq!(operator.get("/healthz").await.status, 200);

    let (code, _, errors) = proxy.command(&["drain", "a"]).await;
    assert_eq!(code, Some(4), "{errors}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "wrong\n").unwrap();
    let key_file = file.path().to_str().unwrap();
    let (code, _, errors) = proxy
        .command(&["status", "--admin-key-file", key_file])
        .await;
    assert_eq!(code, Some(4), "{errors}");
    assert!(
        !errors.contains("wrong\n"),
        "the key is not repeated: {errors}"
    );
    std::fs::write(file.path(), "open-sesame\n").unwrap();
    done(&proxy, &["drain", "a", "--admin-key-file", key_file]).await;
    assert!(!proxy.log().contains("sesame"));
}

#[tokio::test]
async fn the_configuration_tells_commands_the_address_and_the_key() {
    let host = sim_host("a").start();
    let config = Config::with_hosts(&[&host]).set("admin", "key", "open-sesame");
    let proxy = Proxy::start(&config).await;
    // What else stands there is for the proxy, which may have variables that commands have not.
    let unset = |config: Config| config.set("queue", "max_wait", "${UNSET_FOR_COMMANDS}");
    let told = unset(config.clone()).set("admin", "address", proxy.admin());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), told.to_yaml()).unwrap();
    let path = file.path().to_str().unwrap();

    eventually("the host is up", async || {
        let (code, output, errors) =
            Process::run(gpu_bridge().args(["hosts", "--config", path])).await;
        assert_eq!(code, Some(0), "{errors}");
        output == "a\tup\n"
    })
    .await;

    let moved = unset(config).set("admin", "address", "127.0.0.1:9");
    std::fs::write(file.path(), moved.to_yaml()).unwrap();
    let mut reload = gpu_bridge();
    let (code, _, errors) = Process::run(reload.args(["reload", "--config", path])).await;
    assert_eq!(code, Some(3), "{errors}");
    assert!(
        errors.contains("it still listens at the old one"),
        "{errors}"
    );
    for (text, told) in [
        ("admin:\n  address: ::1:9\n", "write [::1]:9"),
        ("admim:\n  address: 127.0.0.1:9\n", "did you mean admin?"),
        ("FOO=bar\n", "must be a mapping"),
    ] {
        std::fs::write(file.path(), text).unwrap();
        let mut reload = gpu_bridge();
        let (code, _, errors) = Process::run(reload.args(["reload", "--config", path])).await;
        assert_eq!(code, Some(2), "{errors}");
        assert!(errors.contains(told), "{errors}");
    }

    let mut elsewhere = gpu_bridge();
    elsewhere.args(["status", "--admin", "no-such-host.invalid"]);
    let (code, _, errors) = Process::run(&mut elsewhere).await;
    assert_eq!(code, Some(3), "{errors}");
    assert!(errors.contains("write HOST:PORT"), "{errors}");
}

#[tokio::test]
async fn a_web_page_can_not_operate_the_proxy() {
    let (_hosts, proxy) = two_hosts().await;
    let operator = proxy.operator();
    let drain = "/api/v1/hosts/a/drain";

    let detail = Reply::to(operator.request(Method::POST, drain))
        .await
        .assert_error(403);
    assert!(detail.contains("X-Gpu-Bridge"), "{detail}");
    let rebound = operator
        .request(Method::POST, drain)
        .header("X-Gpu-Bridge", "1");
    Reply::to(rebound.header("Host", "evil.example"))
        .await
        .assert_error(403);
    let look = operator.request(Method::GET, "/api/v1/pool");
    Reply::to(look.header("Host", "evil.example"))
        .await
        .assert_error(403);
    let asked = operator
        .request(Method::OPTIONS, drain)
        .header("Origin", "http://evil.example");
    let asked = Reply::to(asked).await;
    assert!(asked.header("access-control-allow-origin").is_none());

    let pool = operator.get("/api/v1/pool").await.json();
    assert_eq!(pool["hosts"][0]["state"], "up", "nothing was done");
}

#[tokio::test]
async fn probes_say_whether_requests_would_be_served() {
    let host = sim_host("a").start();
    host.set_health(HealthAnswer::Hang);
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::start(&config).await;
    let operator = proxy.operator();
    assert_eq!(operator.get("/healthz").await.status, 200);
    operator.get("/readyz").await.assert_error(503);

    host.set_health(HealthAnswer::Ok);
    eventually("ready", async || {
        operator.get("/readyz").await.status == 200
    })
    .await;

    done(&proxy, &["drain", "a"]).await;
    operator.get("/readyz").await.assert_error(503);
}

#[tokio::test]
async fn a_stopping_proxy_is_alive_but_not_ready() {
    let host = sim_host("a").behaving(Behaviour::ServeWhenReleased).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let running = proxy.client().start_embed("running");
    host.runs(1).await;

    proxy.terminate().await;

    let operator = proxy.operator();
    eventually("not ready", async || {
        operator.get("/readyz").await.status == 503
    })
    .await;
    assert_eq!(operator.get("/healthz").await.status, 200);
    host.release_all();
    running.await.unwrap().assert_embedding_of("running");
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_usual_form() {
    let (_hosts, proxy) = two_hosts().await;
    proxy
        .operator()
        .get("/no/such/page")
        .await
        .assert_error(404);
    proxy
        .operator()
        .get("/api/v1/hosts/a/drain")
        .await
        .assert_error(405);
}

#[tokio::test]
async fn shells_and_readers_get_their_files() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let (code, output, _) = Process::run(gpu_bridge().args(["completions", shell])).await;
        assert_eq!(code, Some(0));
        assert!(output.contains("undrain"), "{shell}");
    }
    let (code, ..) = Process::run(gpu_bridge().arg("man").arg(folder.path())).await;
    assert_eq!(code, Some(0));
    let page = std::fs::read_to_string(folder.path().join("gpu-bridge-status.1")).unwrap();
    assert!(
        page.contains("can't be reached") || page.contains("can\\*(Aqt be reached"),
        "{page}"
    );
}

/// A host that frees its slots slowly must not keep `status` waiting.
#[tokio::test]
async fn status_is_answered_while_hosts_hang() {
    let host = sim_host("a")
        .behaving(Behaviour::ServeAfter(Duration::from_mins(1)))
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let _running = proxy.client().start_embed("for ever");
    host.runs(1).await;

    let table = done(&proxy, &["status"]).await;

    assert!(table.contains("1/2"), "{table}");
}
