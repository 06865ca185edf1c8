use std::collections::BTreeSet;

use super::*;

fn seconds(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds)
}

fn scraped(metrics: &Metrics, state: &State<'_>) -> String {
    String::from_utf8(metrics.render(state).unwrap()).unwrap()
}

/// Metrics of which everything has been counted once.
fn used() -> Metrics {
    let metrics = Metrics::new("candle 1").unwrap();
    metrics.http.request("/embed", 200, seconds(2));
    metrics.http.rejected(Rejection::Slots);
    metrics.http.waited_for_slot(seconds(1));
    metrics.engine.batch(&BatchStats {
        texts: 3,
        tokens: 20,
        padded_tokens: 30,
        took: seconds(1),
    });
    metrics.engine.out_of_memory();
    metrics.engine.model_loaded("embed", seconds(3), true);
    metrics.engine.model_loaded("embed", seconds(3), false);
    metrics
}

const STATE: State<'_> = State {
    device: "cuda:0",
    device_memory: Some(1 << 30),
    device_memory_used: Some(1 << 20),
    in_flight: 4,
    slots: 2,
    buffered: 5,
    models: ModelUsage {
        budget: 1 << 41,
        loaded: 2,
        used: 1 << 40,
        loads: 4,
        failed_loads: 1,
        evictions: 2,
    },
};

/// `(kind, value)` of each name, as the format's comments give them.
fn comments(text: &str, kind: &str) -> BTreeSet<(String, String)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn what_happened_is_what_is_scraped() {
    let text = scraped(&used(), &STATE);
    for line in [
        "requests_total{code=\"200\",route=\"/embed\"} 1",
        "request_duration_seconds_sum{route=\"/embed\"} 2",
        "rejected_requests_total{reason=\"slots\"} 1",
        "slot_wait_seconds_count 1",
        "batch_texts_sum 3",
        "batch_tokens_sum 20",
        "padding_saved_tokens_total 10",
        "inference_duration_seconds_count 1",
        "out_of_memory_total 1",
        "model_loads_total{outcome=\"ok\",purpose=\"embed\"} 1",
        "model_loads_total{outcome=\"failed\",purpose=\"embed\"} 1",
        "model_load_duration_seconds_sum{purpose=\"embed\"} 6",
        "model_evictions_total 2",
        "models_loaded 2",
        "model_memory_bytes 1099511627776",
        "model_memory_budget_bytes 2199023255552",
        "device_memory_bytes{device=\"cuda:0\"} 1073741824",
        "device_memory_used_bytes{device=\"cuda:0\"} 1048576",
        "in_flight_requests 4",
        "slots 2",
        "buffered_bytes 5",
    ] {
        let line = format!("\ngpu_bridge_backend_{line}\n");
        assert!(text.contains(&line), "{line} is not in:\n{text}");
    }
    assert!(text.contains("_build_info{engine=\"candle 1\",version="));
    assert!(cfg!(not(target_os = "linux")) || text.contains("\nprocess_resident_memory_bytes "));
}

#[test]
fn every_metric_has_a_help_text_and_a_name_by_the_rules() {
    let text = scraped(&used(), &STATE);
    let ours = |set: BTreeSet<(String, String)>| -> Vec<(String, String)> {
        let ours = |(name, _): &(String, String)| !name.starts_with("process_");
        set.into_iter().filter(ours).collect()
    };
    let types = ours(comments(&text, "# TYPE "));
    let help = ours(comments(&text, "# HELP "));
    assert_eq!(types.len(), help.len());
    assert!(types.len() >= 20, "{types:?}");
    for ((name, kind), (_, help)) in types.iter().zip(&help) {
        let short = name.strip_prefix("gpu_bridge_backend_").expect(name);
        assert!(short.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        assert!(
            help.ends_with('.') && help.contains(' ') || help.starts_with('1'),
            "{name}: {help}"
        );
        assert_eq!(short.ends_with("_total"), kind == "counter", "{name}");
        let base_unit = ["_seconds", "_bytes", "batch_texts", "batch_tokens"];
        let has_unit = base_unit.iter().any(|unit| short.ends_with(unit));
        assert!(has_unit || kind != "histogram", "{name}");
        assert!(!short.contains("_ms") && !short.contains("_mb"), "{name}");
    }
}

/// Names of labels, by metric.
fn labels(text: &str, name: &str) -> BTreeSet<String> {
    let samples = text.lines().filter_map(|line| line.split_once('{'));
    let suffixes = ["", "_bucket", "_sum", "_count"];
    let of_it = samples.filter(|(of, _)| {
        suffixes
            .map(|it| format!("{name}{it}"))
            .contains(&(*of).to_owned())
    });
    let pairs = of_it.flat_map(|(_, labels)| labels.split(','));
    let names = pairs.filter_map(|pair| pair.split_once('=').map(|(name, _)| name.to_owned()));
    names.filter(|name| name != "le").collect()
}

#[test]
fn the_guide_lists_what_is_scraped() {
    let text = scraped(&used(), &STATE);
    let help = comments(&text, "# HELP ");
    let types = comments(&text, "# TYPE ");
    let rows = types
        .iter()
        .zip(&help)
        .filter_map(|((name, kind), (_, help))| {
            let labels: Vec<_> = labels(&text, name).into_iter().collect();
            let row = format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "));
            name.starts_with("gpu_bridge_").then_some(row)
        });
    let rows: Vec<String> = rows.collect();
    let guide = include_str!("../../../docs/gpu-host.md");
    let told = guide
        .lines()
        .filter(|line| line.starts_with("| `gpu_bridge_backend_"));
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        rows,
        "docs/gpu-host.md should list:\n{}",
        rows.join("\n")
    );
}

#[test]
fn what_waits_is_counted_while_it_waits() {
    let metrics = Metrics::new("x").unwrap();
    let queue = |texts: i64, tokens: i64| {
        let text = scraped(&metrics, &State::default());
        text.contains(&format!("_queue_texts {texts}\n"))
            && text.contains(&format!("_queue_tokens {tokens}\n"))
    };
    let first = metrics.engine.queued(2, 20);
    let second = metrics.engine.clone().queued(3, 30);
    assert!(queue(5, 50));
    drop(second);
    assert!(queue(2, 20));
    drop(first);
    assert!(queue(0, 0));
}

#[test]
fn evictions_only_grow_however_often_they_are_scraped() {
    let metrics = Metrics::new("x").unwrap();
    for _ in 0..2 {
        assert!(scraped(&metrics, &STATE).contains("_model_evictions_total 2\n"));
    }
}

#[test]
fn open_connections_are_counted() {
    let metrics = Metrics::new("x").unwrap();
    let open = metrics.http.connection();
    assert!(scraped(&metrics, &STATE).contains("_connections 1\n"));
    drop(open);
    assert!(scraped(&metrics, &STATE).contains("_connections 0\n"));
}

#[test]
fn what_is_not_known_is_not_told() {
    let metrics = Metrics::new("x").unwrap();
    assert!(scraped(&metrics, &STATE).contains("device_memory_used_bytes{"));
    let unknown = State {
        device_memory: None,
        device_memory_used: None,
        ..STATE
    };
    assert!(!scraped(&metrics, &unknown).contains("device_memory_"));
}

#[test]
fn metrics_that_nobody_reads_cost_nothing_and_fail_never() {
    let nobody = EngineMetrics::default();
    nobody.batch(&BatchStats::default());
    nobody.model_loaded("embed", seconds(1), true);
    drop(nobody.queued(1, 1));
}
