//! What operators and scripts see of the program itself.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::harness::{
    Authority, Config, Process, Proxy, gpu_bridge, serve, sim_host, without_authorities,
};

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

async fn check(file: &Path) -> (Option<i32>, String, String) {
    Process::run(gpu_bridge().arg("check").arg(file)).await
}

/// A good configuration, to be spoilt.
fn good() -> Config {
    Config::new().host("a", "http://127.0.0.1:8765", None)
}

/// The names in `${…}`.
fn variables(text: &str) -> BTreeSet<&str> {
    let rests = text.split("${").skip(1);
    rests.filter_map(|rest| rest.split('}').next()).collect()
}

#[tokio::test]
async fn check_accepts_the_example() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gpu-bridge.yaml");
    let text = std::fs::read_to_string(&example).unwrap();
    let mut command = gpu_bridge();
    command.arg("check").arg(&example);
    command.envs(variables(&text).into_iter().map(|name| (name, "something")));

    let (code, _, errors) = Process::run(&mut command).await;

    assert_eq!(code, Some(0), "{errors}");
}

#[tokio::test]
async fn check_accepts_what_the_other_tests_run() {
    let (code, _, errors) = check(file(&good().to_yaml()).path()).await;
    assert_eq!(code, Some(0), "{errors}");
}

#[tokio::test]
async fn check_names_the_line_and_the_likely_meaning_of_an_unknown_key() {
    let yaml = "\
listen:
  - address: 127.0.0.1:0
pool:
  hosts:
    - {name: a, url: 'http://127.0.0.1:1'}
queue:
  max_wiat: 3s
";
    let (code, _, errors) = check(file(yaml).path()).await;

    assert_eq!(code, Some(2), "{errors}");
    assert!(
        errors.contains(":7:") || errors.contains("line 7"),
        "{errors}"
    );
    assert!(errors.contains("max_wiat"), "{errors}");
    assert!(errors.contains("max_wait"), "no suggestion in {errors}");
}

#[tokio::test]
async fn check_names_the_line_of_a_wrong_value() {
    let yaml = "\
listen:
  - address: 127.0.0.1:0
pool:
  hosts:
    - name: a
      url: not a url
";
    let (code, _, errors) = check(file(yaml).path()).await;

    assert_eq!(code, Some(2), "{errors}");
    assert!(
        errors.contains(":6:") || errors.contains("line 6"),
        "{errors}"
    );
}

#[tokio::test]
async fn check_names_the_line_of_broken_yaml() {
    let (code, _, errors) = check(file("listen:\n  - address: [1\npool: {}\n").path()).await;

    assert_eq!(code, Some(2), "{errors}");
    assert!(
        [":2:", ":3:", "line 2", "line 3"]
            .iter()
            .any(|place| errors.contains(place)),
        "{errors}"
    );
}

/// But where a key stands, what should be the name of a variable may be the key, unless it calls itself one.
#[tokio::test]
async fn check_names_a_variable_that_is_not_set() {
    for (key, variable, told) in [
        ("url", "GPU_BRIDGE_TEST_UNSET", "GPU_BRIDGE_TEST_UNSET"),
        (
            "api_key",
            "GPU_BRIDGE_TEST_UNSET",
            "pool.hosts[0].api_key: names",
        ),
        (
            "api_key",
            "GPU_BRIDGE_TEST_KEY_2",
            "pool.hosts[0].api_key: the environment variable GPU_BRIDGE_TEST_KEY_2 is not set",
        ),
    ] {
        let config = good().set_host("a", key, format!("${{{variable}}}"));
        let (code, _, errors) = check(file(&config.to_yaml()).path()).await;

        assert_eq!(code, Some(2), "{errors}");
        assert!(errors.contains(told), "{errors}");
        assert_eq!(
            errors.contains(variable),
            told.contains(variable),
            "{errors}"
        );
    }
}

#[tokio::test]
async fn check_refuses_what_makes_no_sense() {
    let config = good().set_host("a", "discover_interval", "5s");
    let (code, _, errors) = check(file(&config.to_yaml()).path()).await;

    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("discover_interval"), "{errors}");
}

#[tokio::test]
async fn check_warns_of_what_is_open_and_still_calls_it_good() {
    let (code, output, errors) = check(file(&good().to_yaml()).path()).await;

    assert_eq!(code, Some(0), "{errors}");
    assert!(output.ends_with(": good, 1 host\n"), "{output}");
    assert!(errors.starts_with("warning: "), "{errors}");
    assert!(errors.contains("auth.keys"), "{errors}");

    let config = good()
        .client_key("somebody", "secret")
        .set("health", "timeout", "100ms");
    let (code, _, errors) = check(file(&config.to_yaml()).path()).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn check_tells_all_problems_in_the_order_of_the_file() {
    let yaml = "\
queue: {max_wait: soon}
pool:
  hosts:
    - {name: a, url: 'https://127.0.0.1:1', tls: {ca: nowhere.pem}}
limits: {max_body: big}
";
    let file = file(yaml);
    let (code, output, errors) = check(file.path()).await;

    assert_eq!((code, output.as_str()), (Some(2), ""), "{errors}");
    let name = file.path().display();
    let starts = [
        format!("{name}:1:19: queue.max_wait: "),
        format!("{name}:4:55: pool.hosts[0].tls.ca: "),
        format!("{name}:5:20: limits.max_body: "),
    ];
    let lines: Vec<&str> = errors.lines().collect();
    // Below each, its line of the file and carets.
    assert_eq!(lines.len(), 3 * starts.len(), "{errors}");
    for (lines, start) in lines.chunks(3).zip(&starts) {
        assert!(lines[0].starts_with(start), "{errors}");
        assert!(
            lines[1].contains(" | ") && lines[2].contains('^'),
            "{errors}"
        );
    }
}

#[tokio::test]
async fn authorities_are_missed_where_they_are_needed() {
    let run = async |arguments: &[&str]| {
        let mut command = gpu_bridge();
        without_authorities(command.args(arguments));
        let (code, _, errors) = Process::run(&mut command).await;
        let is_missed = errors.contains("the system's authorities can't be used: ");
        (code, is_missed)
    };
    for (url, is_missed, code) in [
        ("https://127.0.0.1:1", true, 2),
        ("http://127.0.0.1:1", false, 1),
    ] {
        let file = file(&Config::new().host("a", url, None).to_yaml());
        let path = file.path().to_str().unwrap();
        assert_eq!(run(&["check", path]).await, (Some(0), is_missed));
        let embed = ["embed", "--in", "/no/input", "--out", "out", "--url", url];
        assert_eq!(run(&embed).await, (Some(code), is_missed));
    }
}

#[tokio::test]
async fn schema_prints_what_editors_and_people_read() {
    let (code, output, _) = Process::run(gpu_bridge().arg("schema")).await;
    assert_eq!(code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(schema["properties"]["pool"]["required"][0], "hosts");

    let (code, output, _) = Process::run(gpu_bridge().args(["schema", "--markdown"])).await;
    assert_eq!(code, Some(0));
    assert!(
        output.contains("| `max_wait` | duration | `30s` |"),
        "{output}"
    );
}

#[tokio::test]
async fn a_configuration_that_is_missing_is_a_bad_one() {
    let (code, _, errors) = check(Path::new("/no/such/file.yaml")).await;

    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("/no/such/file.yaml"), "{errors}");
}

#[tokio::test]
async fn serve_refuses_a_bad_configuration_without_serving() {
    let config = good().set("queue", "max_wait", "soon");
    let file = file(&config.to_yaml());
    let mut command = gpu_bridge();
    command.arg("serve").arg("--config").arg(file.path());

    let (code, output, errors) = Process::run(&mut command).await;

    assert_eq!(code, Some(2), "{errors}");
    assert_eq!(output, "");
    assert!(errors.contains("max_wait"), "{errors}");
}

#[tokio::test]
async fn secrets_come_from_the_environment_and_stay_there() {
    let host = sim_host("host").key("from-the-environment").start();
    let config = Config::with_hosts(&[&host]).set_host("host", "api_key", "${TEST_HOST_KEY}");
    let file = file(&config.to_yaml());
    let mut command = gpu_bridge();
    command
        .arg("serve")
        .arg("--config")
        .arg(file.path())
        .env("TEST_HOST_KEY", "from-the-environment");
    let mut process = Process::start("the proxy", &mut command);

    let url = process.announced("listening on ").await;
    let client = crate::harness::Client::new(&url);

    client.embed("x").await.assert_embedding_of("x");
    assert!(!process.log().contains("from-the-environment"));
}

#[tokio::test]
async fn standard_output_holds_the_addresses_only() {
    let host = sim_host("host").start();
    let file = file(&Config::with_hosts(&[&host]).to_yaml());
    let mut command = gpu_bridge();
    command.arg("serve").arg("--config").arg(file.path());
    let mut process = Process::start("the proxy", &mut command);

    let url = process.announced("listening on ").await;
    process.announced("admin on http://127.0.0.1:").await;
    crate::harness::Client::new(&url).flood(3, 1).await;
    process.terminate().await;

    assert_eq!(process.line().await, None);
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_address_that_is_taken_stops_the_start_with_its_name() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let taken = proxy.address().to_string();
    let listen = serde_json::json!([{"address": taken}]);
    let file = file(&good().replace("listen", listen).to_yaml());
    let mut command = gpu_bridge();
    command.arg("serve").arg("--config").arg(file.path());

    let (code, _, errors) = Process::run(&mut command).await;

    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    assert!(errors.contains(&taken), "{errors}");
    let place = format!("{}:", file.path().display());
    assert!(
        errors.contains(&place) && errors.contains("listen[0].address: can't listen"),
        "{errors}"
    );
    let told = errors.matches("Address already in use").count();
    assert_eq!(told, 1, "the cause, once: {errors}");
}

/// `check` and `serve` in one: same verdict, same words.
#[tokio::test]
async fn what_check_says_of_certificates_serve_says_too() {
    let authority = Authority::new();
    let (own, other) = (authority.issue(&["a"]), authority.issue(&["a"]));
    let ended = authority.issue_until(&["a"], 2020);
    let with = |certificate: &Path, key: &Path| {
        let tls = serde_json::json!({"certificate": certificate, "key": key});
        let listen = serde_json::json!([{"address": "127.0.0.1:0", "tls": tls}]);
        file(&good().replace("listen", listen).to_yaml())
    };

    let mismatched = with(own.certificate(), other.key());
    let (code, output, checked) = check(mismatched.path()).await;
    assert_eq!((code, output.as_str()), (Some(2), ""), "{checked}");
    assert!(checked.contains("holds another key"), "{checked}");
    let (code, _, served) = Process::run(&mut serve(mismatched.path())).await;
    assert_eq!((code, served), (Some(2), checked));

    let (code, _, errors) = check(with(ended.certificate(), ended.key()).path()).await;
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("ended on"), "{errors}");
}

#[tokio::test]
async fn check_reads_its_file_from_wherever_it_is_given() {
    let file = file(&good().to_yaml());
    let mut named = gpu_bridge();
    let (code, output, _) = Process::run(named.arg("check").arg("--config").arg(file.path())).await;
    assert_eq!(code, Some(0), "{output}");

    let text = std::fs::File::open(file.path()).unwrap();
    let mut piped = gpu_bridge();
    piped.args(["check", "-"]).stdin(text);
    let output = piped.output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("standard input: good, 1 host"));

    for arguments in [&["check"][..], &["check", "a", "--config", "b"]] {
        let (code, ..) = Process::run(gpu_bridge().args(arguments)).await;
        assert_eq!(code, Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_number_of_threads_that_is_none_is_passed_over_and_told() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    for (odd, is_told) in [("0", true), ("many", true), ("99999999", true), ("", false)] {
        let set = |command: &mut tokio::process::Command| {
            command.env("TOKIO_WORKER_THREADS", odd);
        };
        let proxy = Proxy::start_with(&config, set).await;
        proxy.finds_healthy("host").await;
        let told = proxy.log().contains("TOKIO_WORKER_THREADS is passed over");
        assert_eq!(told, is_told, "{odd:?}");
    }
}
