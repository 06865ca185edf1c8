//! Whole configurations: what is taken over of good ones; the files say the rest.

mod examples;
mod problems;
mod schema;
mod secrets;
mod spelling;
mod tls;
mod warnings;

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MINIMAL: &str = "pool: {hosts: [{name: a, url: 'http://10.0.0.1:8765'}]}\n";

fn variable(name: &str) -> Option<String> {
    match name {
        "OPENCLAW_KEY" | "GPU_KEY_1" | "GPU_BRIDGE_ADMIN_KEY" => Some(format!("planted-{name}")),
        "GPU_NET" => Some("192.0.2.0/24".to_owned()),
        "SEVENTY" => Some("70".to_owned()),
        "HALF" => Some("0.5".to_owned()),
        "YES" => Some("true".to_owned()),
        _ => None,
    }
}

/// Good for whatever a file for TLS must hold.
fn pem() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["gpu.example".to_owned()]).unwrap();
    params.self_signed(&key).unwrap().pem() + &key.serialize_pem()
}

fn read(text: &str) -> Result<Config, Vec<String>> {
    read_in(text, Path::new("/nonexistent"))
}

fn read_in(text: &str, folder: &Path) -> Result<Config, Vec<String>> {
    let surroundings = Surroundings {
        variable: &variable,
        folder,
    };
    let shown = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    parse(text, &surroundings).map_err(shown)
}

fn with_minimal(text: &str) -> String {
    format!("{MINIMAL}{text}")
}

/// A pool of these hosts (the list starts in line 3, column 3).
fn with_hosts(hosts: &str) -> String {
    format!("pool:\n  hosts:\n{hosts}")
}

/// What is wrong with the minimal configuration plus `text`.
fn problems(text: &str) -> Vec<String> {
    read(&with_minimal(text)).err().unwrap_or_default()
}

/// What is wrong with a pool of these hosts.
fn host_problems(hosts: &str) -> Vec<String> {
    read(&with_hosts(hosts)).err().unwrap_or_default()
}

#[test]
fn a_variable_may_hold_a_number_or_a_flag() {
    let text = "queue: {max_waiting: \"${SEVENTY}\"}\nbatching:\n  merge: ${YES}\n  max_items: ${SEVENTY}\n\
        audit: {min_cosine: '${HALF}'}\n";
    let config = read(&with_minimal(text)).unwrap();
    assert_eq!(config.queue.max_waiting, 70);
    assert_eq!(config.batching.max_items.get(), 70);
    assert_eq!(config.audit.min_cosine, MinCosine::new(0.5).unwrap());
    assert!(config.batching.merge);
    for (text, expected) in [
        ("${HALF}", "must be a whole number"),
        ("${NONE}", "the environment variable NONE is not set"),
    ] {
        let told = problems(&format!("queue:\n  max_waiting: {text}\n"));
        assert!(told.len() == 1 && told[0].contains(expected), "{told:?}");
    }
}

#[test]
fn every_bound_is_taken_over() {
    let text = "health: {interval: 1m, timeout: 250ms, healthy_after: 3, unhealthy_after: 4}\n\
        queue: {max_waiting: 0, max_bytes: 5MB, max_wait: 1h}\n\
        retries: {max_faulted_hosts: 3, budget_percent: 50}\n\
        batching: {split: false, merge: false, min_gain: 50ms, max_items: 32}\n\
        timeouts: {connect: 2s, attempt: 3s, client_head: 4s, client_read: 5s, client_idle: 6s, shutdown: 7s}\n\
        limits: {max_body: 2048, max_buffered: 10MB, max_connections: 7, max_connections_per_client: 5, max_head: 8KiB, max_headers: 50}\n";
    let config = read(&with_minimal(text)).unwrap();
    let seconds = Duration::from_secs;
    let count = |number| NonZeroU32::new(number).unwrap();
    let health = Health {
        interval: Duration::from_mins(1),
        timeout: Duration::from_millis(250),
        healthy_after: count(3),
        unhealthy_after: count(4),
    };
    let queue = Queue {
        max_waiting: 0,
        max_bytes: 5_000_000,
        max_wait: Duration::from_hours(1),
    };
    let retries = Retries {
        max_faulted_hosts: count(3),
        budget_percent: 50,
    };
    let batching = Batching {
        split: false,
        merge: false,
        min_gain: Duration::from_millis(50),
        max_items: count(32),
    };
    let timeouts = Timeouts {
        connect: seconds(2),
        attempt: seconds(3),
        client_head: seconds(4),
        client_read: seconds(5),
        client_idle: seconds(6),
        shutdown: seconds(7),
    };
    let limits = Limits {
        max_body: 2048,
        max_buffered: 10_000_000,
        max_connections: 7,
        max_connections_per_client: Some(count(5)),
        max_head: 8192,
        max_headers: 50,
    };
    assert_eq!(config.health, health);
    assert_eq!(config.queue, queue);
    assert_eq!(config.retries, retries);
    assert_eq!(config.batching, batching);
    assert_eq!(config.timeouts, timeouts);
    assert_eq!(config.limits, limits);
}

#[test]
fn the_queue_may_fill_half_of_the_memory() {
    let config = read(&with_minimal("limits: {max_buffered: 100MiB}")).unwrap();
    assert_eq!(config.queue.max_bytes, 50 << 20);
}

#[test]
fn every_way_in_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p"), pem()).unwrap();
    let text = "listen:\n\
        - {address: '127.0.0.1:0'}\n\
        - {address: '127.0.0.1:0', tls: {certificate: p, key: p, client_ca: p}}\n\
        - {tls: {certificate: p, key: p}}\n\
        admin: {address: '127.0.0.1:1', key: operator}\n\
        auth: {keys: [{name: a, key: one}, {name: b, key: two, priority: 9, max_concurrent: 2, max_per_second: 3}]}\n\
        headers: {served_by: false, forwarded: true, trusted_proxies: [10.0.0.0/8, '${GPU_NET}']}\n";
    let config = read_in(&with_minimal(text), folder.path()).unwrap();
    let path = folder.path().join("p");
    let files = |listen: &Listen| {
        let tls = listen.tls.clone()?;
        assert_eq!(
            (&tls.identity.certificate, &tls.identity.key),
            (&path, &path)
        );
        Some(tls.client_ca.map(|ca| ca.path))
    };
    let tls: Vec<_> = config.listen.iter().map(files).collect();
    assert_eq!(tls, [None, Some(Some(path.clone())), Some(None)]);
    assert_eq!(config.admin.address.port(), 1);
    assert!(config.admin.key.unwrap().matches(b"operator"));
    let [a, b] = &config.auth.keys[..] else {
        panic!("two keys")
    };
    assert_eq!(
        (a.priority, a.max_concurrent, a.max_per_second),
        (0, None, None)
    );
    let count = NonZeroU32::new;
    assert_eq!(
        (b.priority, b.max_concurrent, b.max_per_second),
        (9, count(2), count(3))
    );
    let headers = config.headers;
    assert_eq!((headers.served_by, headers.forwarded), (false, true));
    assert!(headers.trusted_proxies[1].contains([192, 0, 2, 1].into()));
}

#[test]
fn every_key_of_a_host_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p"), pem()).unwrap();
    let hosts = "  - {name: a, url: 'https://gpu', api_key: k, max_concurrent: 4, weight: 5, max_items: 6, tls: {ca: p, certificate: p, key: p, server_name: b}}\n  \
        - {name: b, url: 'http://gpus', discover: dns, discover_interval: 5s}\n  \
        - {name: c, url: 'http://gpus:9', discover: dns}\n  \
        - {name: k, url: 'http://gpus.ml:9', discover: kubernetes, discover_port: http}\n  \
        - {name: d, url: 'https://gpu:9'}\n  \
        - {name: e, url: 'https://vllm', api: openai, model_alias: {m: org/m}, health_path: /, normalize: true, truncate: true}\n  \
        - {name: f, url: 'http://tei:80', api: openai}\n  policy: round-robin\n";
    let pool = read_in(&with_hosts(hosts), folder.path()).unwrap().pool;
    assert_eq!(pool.policy, Policy::RoundRobin);
    let [a, b, c, pods, d, vllm, tei] = &pool.hosts[..] else {
        panic!("seven hosts")
    };
    let openai = OpenAi {
        model_alias: [("m".to_owned(), "org/m".to_owned())].into(),
        health_path: "/".to_owned(),
        normalize: true,
        truncate: true,
    };
    assert_eq!(vllm.api, Api::OpenAi(openai.into()));
    let plain = OpenAi {
        model_alias: std::collections::BTreeMap::new(),
        health_path: "/health".to_owned(),
        normalize: false,
        truncate: false,
    };
    assert_eq!(tei.api, Api::OpenAi(plain.into()));
    assert_eq!(d.api, Api::GpuBridge);
    let path = folder.path().join("p");
    let tls = &a.tls;
    assert_eq!(
        (tls.server_name.as_deref(), tls.insecure),
        (Some("b"), false)
    );
    assert_eq!(tls.ca.as_ref().unwrap().path, path);
    assert_eq!(tls.identity.as_ref().unwrap().key, path);
    assert_eq!((a.max_concurrent, a.weight.get()), (NonZeroU32::new(4), 5));
    assert_eq!(a.max_items, NonZeroU32::new(6));
    assert!(a.api_key.as_ref().unwrap().matches(b"k"));
    let every = Some(Duration::from_secs(5));
    assert_eq!(b.discover, Some(Discover::Dns { interval: every }));
    assert_eq!(c.discover, Some(Discover::Dns { interval: None }));
    let service = Service {
        name: "gpus".into(),
        namespace: Some("ml".into()),
        port: Some("http".into()),
        number: 9,
    };
    assert_eq!(pods.discover, Some(Discover::Kubernetes(service)));
    assert_eq!(
        (&d.discover, &d.tls, d.weight.get()),
        (&None, &ClientTls::default(), 1)
    );
}

#[test]
fn keys_from_files_are_relative_to_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("k"), "from-file\n").unwrap();
    let path = folder.path().join("c.yaml");
    std::fs::write(
        &path,
        format!("{MINIMAL}auth: {{keys: [{{name: a, key_file: k}}]}}\n"),
    )
    .unwrap();
    assert_eq!(
        load(&path, &variable).unwrap().auth.keys[0].key.expose(),
        "from-file"
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = read(&text);
        let _ = problems(&text);
    }

    #[test]
    fn no_value_makes_it_panic(key in "[a-z_]{1,15}", value in "[-a-z0-9.:\\[\\]{}$ ]{0,20}") {
        for section in ["listen", "auth", "pool", "health", "queue", "retries", "timeouts", "limits", "headers"] {
            let _ = read(&format!("{section}: {{{key}: {value}}}"));
        }
    }
}
