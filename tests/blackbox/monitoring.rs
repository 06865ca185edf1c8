//! What is shipped for monitoring fits the running proxy, and a real Prometheus can make use of it.

use std::collections::BTreeSet;

use http::HeaderValue;
use serde_json::{Value, json};

use crate::harness::{
    Authority, Behaviour, Config, Prometheus, Proxy, SimHost, Wire, eventually, has_prometheus,
    lint, monitoring, promtool, secure, sim_host,
};

const NAME: &str = "proxy.example";
const KEY: &str = "key-of-a-client";
/// Everything that Grafana fills in for itself.
const VARIABLES: [(&str, &str); 2] = [("$__rate_interval", "1m"), ("$instance", ".*")];

/// A proxy to which everything has happened that makes a metric appear.
struct Busy {
    proxy: Proxy,
    _hosts: [SimHost; 2],
}

impl Busy {
    async fn start() -> Self {
        let hosts = ["a", "b"].map(|name| sim_host(name).start());
        let authority = Authority::new();
        let identity = authority.issue(&[NAME]);
        let tls = json!({"certificate": identity.certificate(), "key": identity.key()});
        let config = Config::with_hosts(&[&hosts[0], &hosts[1]])
            .client_keys(json!([{"name": "client", "key": KEY, "max_per_second": 2}]))
            .replace("listen", json!([{"address": "127.0.0.1:0", "tls": tls}]))
            .set("audit", "enabled", true);
        let proxy = Proxy::ready(&config, &[&hosts[0], &hosts[1]]).await;
        eventually("an audit of both", async || {
            let metrics = proxy.metrics_text().await;
            metrics.contains("gpu_bridge_host_audit_cosine{")
        })
        .await;
        // Checks don't see that, so that requests find out.
        hosts[0].set(Behaviour::internal_server_error());
        let stream = secure(proxy.address(), NAME, authority.client(None, &[])).await;
        let mut wire = Wire::over_tls(stream.unwrap()).await;
        eventually("a retry, and a limit that is reached", async || {
            let mut request = wire.embed_request("x");
            let headers = request.headers_mut();
            headers.insert("x-api-key", HeaderValue::from_static(KEY));
            headers.insert("x-request-timeout", HeaderValue::from_static("0.2"));
            wire.send(request).await;
            let metrics = proxy.metrics().await;
            let counted = |name| metrics.count(name, &[]) > 0;
            counted("gpu_bridge_retries_total") && counted("gpu_bridge_client_limit_refusals_total")
        })
        .await;
        Self {
            proxy,
            _hosts: hosts,
        }
    }

    async fn families(&self) -> Vec<Family> {
        families(&self.proxy.metrics_text().await)
    }
}

/// One metric, with all that its samples have in common.
struct Family {
    name: String,
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Those of our own.
fn families(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            families.push(Family {
                name: name.to_owned(),
                kind: String::new(),
                help: help.to_owned(),
                labels: BTreeSet::new(),
            });
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (_, kind) = kind.split_once(' ').unwrap();
            kind.clone_into(&mut families.last_mut().unwrap().kind);
        } else if let Some((_, labels)) = line.split_once('{') {
            let names = labels.split(',').filter_map(|label| label.split_once('='));
            let names = names.map(|(name, _)| name).filter(|name| *name != "le");
            let labels = &mut families.last_mut().unwrap().labels;
            labels.extend(names.map(str::to_owned));
        }
    }
    families.retain(|family| family.name.starts_with("gpu_bridge_"));
    families.sort_by(|one, other| one.name.cmp(&other.name));
    families
}

impl Family {
    /// Its row in the operations guide.
    fn row(&self) -> String {
        let Self {
            name, kind, help, ..
        } = self;
        let labels: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        let labels = labels.join(", ");
        format!("| `{name}` | {kind} | {labels} | {help} |")
    }

    fn has(&self, series: &str) -> bool {
        let suffixes = if self.kind == "histogram" {
            &["_bucket", "_sum", "_count"][..]
        } else {
            &[""]
        };
        let rest = series.strip_prefix(&self.name);
        rest.is_some_and(|rest| suffixes.contains(&rest))
    }
}

/// The names of our series that a query uses.
fn series(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("gpu_bridge_"))
}

fn read(file: &str) -> String {
    std::fs::read_to_string(monitoring(file)).unwrap()
}

fn guide() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    std::fs::read_to_string(path).unwrap()
}

/// What `alerts.yml` says of each alert.
fn alerts() -> Vec<Value> {
    let rules: Value = serde_yaml::from_str(&read("alerts.yml")).unwrap();
    rules["groups"][0]["rules"].as_array().unwrap().clone()
}

/// All queries of the dashboard.
fn dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    targets
        .flatten()
        .map(|target| {
            let query = target["expr"].as_str().unwrap().to_owned();
            let filled = VARIABLES
                .iter()
                .fold(query, |query, (name, value)| query.replace(name, value));
            assert!(!filled.contains('$'), "{filled}");
            filled
        })
        .collect()
}

#[tokio::test]
async fn a_real_prometheus_scrapes_the_proxy_and_answers_for_the_pool() {
    if !has_prometheus() {
        return;
    }
    let hosts = ["a", "b"].map(|name| sim_host(name).start());
    let proxy = Proxy::in_front_of(&[&hosts[0], &hosts[1]]).await;
    let prometheus = Prometheus::watching(&proxy).await;
    prometheus.finds(r#"up{job="gpu-bridge"} == 1"#).await;
    let state =
        |host, state| format!(r#"gpu_bridge_host_state{{host="{host}", state="{state}"}} == 1"#);
    prometheus.finds(&state("a", "up")).await;

    proxy.client().flood(10, 2).await;
    // A rate needs two scrapes, one of them before these.
    prometheus
        .finds("sum(gpu_bridge_requests_total) >= 10")
        .await;
    proxy.client().flood(10, 2).await;
    let rate = r#"sum(rate(gpu_bridge_requests_total{route="embed", code="200"}[1m])) > 0"#;
    prometheus.finds(rate).await;
    hosts[0].stop();
    prometheus.finds(&state("a", "ejected")).await;
    let pending = r#"ALERTS{alertname="GpuBridgeHostDown", host="a", severity="warning"}"#;
    prometheus.finds(pending).await;
    prometheus.finds(&state("b", "up")).await;
    for query in dashboard() {
        prometheus.query(&query).await;
    }
}

#[tokio::test]
async fn the_metrics_pass_the_linter() {
    if !has_prometheus() {
        return;
    }
    lint(&Busy::start().await.proxy.metrics_text().await).await;
}

#[tokio::test]
async fn the_rules_are_valid_and_fire_when_they_should_and_only_then() {
    if !has_prometheus() {
        return;
    }
    promtool(&["check", "config", "prometheus.yml"]).await;
    promtool(&["check", "config", "../compose/prometheus.yml"]).await;
    promtool(&["check", "rules", "alerts.yml"]).await;
    promtool(&["test", "rules", "alerts_test.yml"]).await;
}

#[test]
fn every_alert_is_tested_both_ways_and_says_what_to_do() {
    let tests: Value = serde_yaml::from_str(&read("alerts_test.yml")).unwrap();
    let cases = tests["tests"].as_array().unwrap().iter();
    let cases: Vec<&Value> = cases.map(|test| &test["alert_rule_test"][0]).collect();
    let guide = guide();
    for alert in alerts() {
        let name = &alert["alert"];
        let fires = |fires: bool| {
            let of_this = cases.iter().filter(|case| case["alertname"] == *name);
            let mut firing = of_this.map(|case| case["exp_alerts"] != json!([]));
            firing.any(|firing| firing == fires)
        };
        assert!(
            fires(true) && fires(false),
            "{name} is not tested both ways"
        );
        let severity = &alert["labels"]["severity"];
        assert!(*severity == "warning" || *severity == "critical", "{name}");
        let about = &alert["annotations"];
        assert!(about["summary"].is_string() && about["description"].is_string());
        let runbook = about["runbook_url"].as_str().unwrap();
        let (page, anchor) = runbook.split_once('#').unwrap();
        assert!(page.ends_with("/docs/operations.md"), "{name}");
        let heading = format!("### {}", anchor.replace('-', " "));
        let found = guide.lines().any(|line| line.to_lowercase() == heading);
        assert!(found, "{name}: the guide has no {heading:?}");
    }
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_use_metrics_that_there_are() {
    let families = Busy::start().await.families().await;
    let alerts = alerts();
    let rules = alerts.iter().map(|alert| alert["expr"].as_str().unwrap());
    let queries: Vec<String> = rules.map(str::to_owned).chain(dashboard()).collect();
    let used: BTreeSet<&str> = queries.iter().flat_map(|query| series(query)).collect();
    assert!(used.len() > 30, "{used:?}");
    for name in used {
        let exists = families.iter().any(|family| family.has(name));
        assert!(exists, "there is no metric {name}");
    }
}

#[tokio::test]
async fn the_guide_lists_every_metric_as_it_is() {
    let families = Busy::start().await.families().await;
    let rows: Vec<String> = families.iter().map(Family::row).collect();
    let guide = guide();
    let told: Vec<&str> = guide
        .lines()
        .filter(|line| line.starts_with("| `gpu_bridge_"))
        .collect();
    assert_eq!(told, rows, "put this there:\n{}\n", rows.join("\n"));
}
