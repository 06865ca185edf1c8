//! What is shipped to run the programs elsewhere (Kubernetes, compose, systemd) fits them.
//!
//! What needs a tool of the place is skipped, and says so, where it is missing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{Backend, Process, Prometheus, Proxy, gpu_bridge, has_prometheus, sim_host};

fn config(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(file)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All documents of a YAML file.
fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text);
    documents
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// Is `program` there? If not, says what is left out.
async fn has(program: &str, what: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("--help")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let found = command.status().await.is_ok();
    if !found {
        eprintln!("SKIPPED: {what}; {program} is not installed");
    }
    found
}

/// All objects below `config/kubernetes`, as kustomize would read them file by file.
fn objects() -> Vec<Value> {
    let folders = ["base", "endpoints", "monitoring", "scaling"];
    let folders = folders.map(|name| config("kubernetes").join(name));
    let files = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let texts = files.map(|file| read(&file.unwrap().path()));
    let documents = texts.flat_map(|text| documents(&text));
    documents
        .filter(|object| object["kind"].is_string())
        .collect()
}

/// The one of this kind and name.
fn object(kind: &str, name: &str) -> Value {
    let objects = objects().into_iter();
    let mut found =
        objects.filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.next().unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[test]
fn pods_are_asked_how_they_are_and_may_do_nothing_else() {
    for (kind, name, ready) in [
        ("Deployment", "gpu-bridge", "/readyz"),
        ("StatefulSet", "gpu-bridge-backend", "/ready"),
    ] {
        let workload = object(kind, name);
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(
            container["securityContext"],
            json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                   "capabilities": {"drop": ["ALL"]}})
        );
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], ready);
        let ports: Vec<&Value> = container["ports"].as_array().unwrap().iter().collect();
        for probe in ["readinessProbe", "livenessProbe"] {
            let asked = &container[probe]["httpGet"]["port"];
            assert!(
                ports.iter().any(|port| port["name"] == *asked),
                "{name}: {probe}"
            );
        }
        // It stays until nobody sends it anything new, and has a minute left for what runs then.
        let leaves = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            .as_u64()
            .unwrap();
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(
            leaves >= 10 && grace >= leaves + 60,
            "{name}: {leaves} of {grace} s"
        );
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        assert_eq!(workload["spec"]["selector"]["matchLabels"], *labels);
        assert_eq!(object("Service", name)["spec"]["selector"], *labels);
    }
    let deployment = object("Deployment", "gpu-bridge");
    assert!(deployment["spec"]["replicas"].as_u64() >= Some(2));
    let budget = object("PodDisruptionBudget", "gpu-bridge");
    assert_eq!(budget["spec"]["selector"], deployment["spec"]["selector"]);
}

#[tokio::test]
async fn the_proxies_in_a_cluster_find_the_hosts_that_are_ready() {
    let made: Value =
        serde_yaml::from_str(&read(&config("kubernetes/base/gpu-bridge.yaml"))).unwrap();
    let service = object("Service", "gpu-bridge-backend");
    assert_eq!(service["spec"]["clusterIP"], "None", "its DNS names pods");
    assert!(
        service["spec"]["publishNotReadyAddresses"].is_null(),
        "and only those that are ready"
    );
    assert_eq!(
        object("StatefulSet", "gpu-bridge-backend")["spec"]["serviceName"],
        "gpu-bridge-backend"
    );
    let host = &made["pool"]["hosts"][0];
    let port = &service["spec"]["ports"][0]["port"];
    assert_eq!(host["url"], format!("http://gpu-bridge-backend:{port}"));
    assert_eq!(host["discover"], "dns");

    is_right(&read(&config("kubernetes/base/gpu-bridge.yaml"))).await;
}

/// Does `gpu-bridge check` say so of a configuration for a cluster?
async fn is_right(text: &str) {
    let folder = tempfile::tempdir().unwrap();
    for key in ["admin", "openclaw", "host"] {
        std::fs::write(folder.path().join(key), format!("key-{key}")).unwrap();
    }
    let text = text.replace("/run/secrets/gpu-bridge", folder.path().to_str().unwrap());
    let file = folder.path().join("gpu-bridge.yaml");
    std::fs::write(&file, text).unwrap();
    let (code, _, errors) = Process::run(gpu_bridge().arg("check").arg(file)).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn with_endpoints_the_proxies_ask_the_api_server_and_may_ask_for_nothing_else() {
    let role = object("Role", "gpu-bridge-endpoints");
    let allowed = json!([{
        "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"],
    }]);
    assert_eq!(role["rules"], allowed);
    let binding = object("RoleBinding", "gpu-bridge-endpoints");
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let account = object("ServiceAccount", "gpu-bridge");
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    let component = &documents(&read(&config("kubernetes/endpoints/kustomization.yaml")))[0];
    let patch = component["patches"][0]["patch"].as_str().unwrap();
    let patch = &documents(patch)[0];
    assert_eq!(patch[0]["value"], account["metadata"]["name"]);
    assert_eq!(patch[1]["value"], true);

    let text = read(&config("kubernetes/endpoints/gpu-bridge.yaml"));
    is_right(&text).await;
    let mut made: Value = serde_yaml::from_str(&text).unwrap();
    let host = &mut made["pool"]["hosts"][0];
    assert_eq!(host["discover"], "kubernetes");
    let service = object("Service", "gpu-bridge-backend");
    assert_eq!(host["discover_port"], service["spec"]["ports"][0]["name"]);
    // All else is as with DNS.
    host.as_object_mut().unwrap().remove("discover_port");
    host["discover"] = json!("dns");
    host["discover_interval"] = json!("5s");
    let base = read(&config("kubernetes/base/gpu-bridge.yaml"));
    assert_eq!(made, serde_yaml::from_str::<Value>(&base).unwrap());
}

/// Queries of what adds hosts.
fn scaling() -> Vec<String> {
    let triggers = object("ScaledObject", "gpu-bridge-backend")["spec"]["triggers"].clone();
    let triggers = triggers.as_array().unwrap().iter();
    triggers
        .map(|trigger| trigger["metadata"]["query"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_real_prometheus_answers_what_adds_hosts() {
    if !has_prometheus() {
        return;
    }
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let prometheus = Prometheus::watching(&proxy).await;
    assert_eq!(scaling().len(), 2);
    for query in scaling() {
        prometheus.finds(&query).await;
    }
    for (monitor, key) in [("gpu-bridge", "admin"), ("gpu-bridge-backend", "http")] {
        let monitor = object("ServiceMonitor", monitor);
        assert_eq!(monitor["spec"]["endpoints"][0]["port"], key);
    }
}

#[tokio::test]
async fn kustomize_builds_what_kubernetes_knows() {
    if !has("kubectl", "building what is for Kubernetes").await {
        return;
    }
    let mut kubectl = Command::new("kubectl");
    let (code, built, errors) =
        Process::run(kubectl.arg("kustomize").arg(config("kubernetes"))).await;
    assert_eq!(code, Some(0), "{errors}");
    let names = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    let built = documents(&built);
    let names_of_all: BTreeSet<_> = built.iter().map(names).collect();
    assert_eq!(
        names_of_all,
        BTreeSet::from(["gpu-bridge".to_owned(), "gpu-bridge-backend".to_owned()])
    );
    if !has("kubernetes-validate", "asking Kubernetes' schemas").await {
        return;
    }
    // Of kinds that others define it has no schema.
    let own = built.iter().filter(|object| {
        let version = object["apiVersion"].as_str().unwrap();
        !version.starts_with("monitoring.coreos.com") && !version.starts_with("keda.sh")
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("built.yaml");
    let own: Vec<String> = own
        .map(|object| serde_yaml::to_string(object).unwrap())
        .collect();
    std::fs::write(&file, own.join("---\n")).unwrap();
    let mut validate = Command::new("kubernetes-validate");
    let (code, told, errors) = Process::run(validate.arg("--strict").arg(file)).await;
    assert_eq!(code, Some(0), "{told}{errors}");
}

#[tokio::test]
async fn compose_starts_what_there_is() {
    let compose: Value = serde_yaml::from_str(&read(&config("compose/compose.yaml"))).unwrap();
    let services = compose["services"].as_object().unwrap();
    for volume in services
        .values()
        .filter_map(|service| service["volumes"].as_array())
        .flatten()
    {
        let (source, _) = volume.as_str().unwrap().split_once(':').unwrap();
        if source.starts_with('.') {
            assert!(config("compose").join(source).exists(), "{source}");
        }
    }
    // So that a reload sees a file that an editor has put in the place of another.
    assert_eq!(
        services["proxy"]["volumes"],
        json!(["./:/etc/gpu-bridge:ro"])
    );
    // Prometheus finds them there as promtool does here.
    let scraping: Value = serde_yaml::from_str(&read(&config("compose/prometheus.yml"))).unwrap();
    assert_eq!(scraping["rule_files"], json!(["../monitoring/alerts.yml"]));
    let mounted = services["prometheus"]["volumes"].as_array().unwrap();
    assert!(mounted.contains(&json!(
        "../monitoring/alerts.yml:/etc/monitoring/alerts.yml:ro"
    )));
    let file = config("compose/gpu-bridge.yaml");
    let made: Value = serde_yaml::from_str(&read(&file)).unwrap();
    for host in made["pool"]["hosts"].as_array().unwrap() {
        let name = host["name"].as_str().unwrap();
        assert!(services.contains_key(name));
        assert_eq!(host["url"], format!("http://{name}:8765"));
    }
    let mut check = gpu_bridge();
    check
        .arg("check")
        .arg(file)
        .env("OPENCLAW_KEY", "one")
        .env("GPU_KEY", "two");
    assert_eq!(Process::run(&mut check).await.0, Some(0));
    if !has("docker-compose", "reading compose.yaml").await {
        return;
    }
    let mut read = Command::new("docker-compose");
    read.arg("-f")
        .arg(config("compose/compose.yaml"))
        .args(["config", "-q"]);
    let (code, _, errors) =
        Process::run(read.env("OPENCLAW_KEY", "one").env("GPU_KEY", "two")).await;
    assert_eq!(code, Some(0), "{errors}");
}

#[tokio::test]
async fn systemd_finds_nothing_wrong_with_the_units() {
    if !has("systemd-analyze", "verifying systemd's units").await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for unit in ["gpu-bridge.service", "gpu-bridge-backend.service"] {
        let text = read(&config(unit));
        let is_told = |setting| text.lines().any(|line| line == setting);
        assert!(is_told("RestartSec=2") && is_told("StartLimitIntervalSec=0"));
        assert!(is_told("RestartPreventExitStatus=2"), "{unit}");
        let backend = Backend::program();
        let text = text.replace(
            "/usr/local/bin/gpu-bridge-backend",
            backend.to_str().unwrap(),
        );
        let text = text.replace(
            "/usr/local/bin/gpu-bridge",
            env!("CARGO_BIN_EXE_gpu-bridge"),
        );
        let file = folder.path().join(unit);
        std::fs::write(&file, text).unwrap();
        let mut verify = Command::new("systemd-analyze");
        let (code, told, errors) =
            Process::run(verify.args(["verify", "--man=no"]).arg(&file)).await;
        assert_eq!((code, told + &errors), (Some(0), String::new()), "{unit}");
        // Tenths: docs/operations.md tells the score.
        let mut score = Command::new("systemd-analyze");
        score
            .args(["security", "--offline=true", "--threshold=20"])
            .arg(&file);
        let (code, told, _) = Process::run(&mut score).await;
        assert_eq!(code, Some(0), "{told}");
    }
}
