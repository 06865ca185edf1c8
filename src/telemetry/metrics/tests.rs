use std::sync::Arc;
use std::time::{Duration, Instant};

use gpu_bridge_wire::Info;

use super::*;
use crate::config::HostName;
use crate::pool::{Cause, HostView, Phase, Usage};
use crate::telemetry::{Finished, RequestRecord};

fn host(name: &str) -> HostView {
    HostView::for_testing(name.parse().unwrap(), Phase::Up)
}

fn pool(hosts: Vec<HostView>) -> PoolView {
    PoolView::for_testing(hosts)
}

fn render(metrics: &Metrics, pool: &PoolView) -> String {
    metrics.render(pool, &Budget::new(1000)).unwrap()
}

fn finished(refused: Option<Reason>, change: impl FnOnce(&mut RequestRecord)) -> Finished {
    let mut record = RequestRecord::new("id".to_owned());
    record.route = "embed".into();
    record.status = Some(200);
    record.client = Some("openclaw".to_owned());
    record.total = Duration::from_secs(3);
    record.first_byte = Some(Duration::from_secs(2));
    record.request_bytes = 10;
    record.response_bytes = 20;
    change(&mut record);
    Finished {
        record: Arc::new(record),
        refused,
        computes: true,
        queued: refused.is_none(),
    }
}

#[track_caller]
fn assert_has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
}

#[test]
fn requests_are_told_by_route_code_and_client() {
    let metrics = Metrics::new().unwrap();
    metrics.requests.finished(&finished(None, |_| ()));
    let unknown = finished(Some(Reason::Unauthorized), |record| {
        record.status = Some(401);
        record.client = None;
        record.first_byte = None;
    });
    metrics.requests.finished(&unknown);
    let text = render(&metrics, &pool(Vec::new()));
    for line in [
        r#"gpu_bridge_requests_total{client="openclaw",code="200",route="embed"} 1"#,
        r#"gpu_bridge_requests_total{client="",code="401",route="embed"} 1"#,
        r#"gpu_bridge_request_duration_seconds_sum{route="embed"} 6"#,
        r#"gpu_bridge_time_to_first_byte_seconds_sum{route="embed"} 2"#,
        "gpu_bridge_queue_wait_seconds_count 1",
        "gpu_bridge_request_body_bytes_total 20",
        "gpu_bridge_response_body_bytes_total 40",
        r#"gpu_bridge_refusals_total{reason="unauthorized"} 1"#,
        r#"gpu_bridge_refusals_total{reason="queue_full"} 0"#,
    ] {
        assert_has(&text, line);
    }
}

#[test]
fn refusals_for_a_limit_name_whose_it_was() {
    let metrics = Metrics::new().unwrap();
    let limited = finished(Some(Reason::MaxPerSecond), |record| {
        record.status = Some(429);
    });
    metrics.requests.finished(&limited);
    let text = render(&metrics, &pool(Vec::new()));
    let line =
        r#"gpu_bridge_client_limit_refusals_total{client="openclaw",limit="max_per_second"} 1"#;
    assert_has(&text, line);
}

#[test]
fn a_host_is_told_as_the_pool_has_it() {
    let mut host = host("a");
    host.in_flight = 1;
    host.usage = Usage {
        busy: Duration::from_millis(1500),
        leased: Duration::from_secs(2),
        items: 7,
    };
    host.info = Some(Arc::new(Info {
        vram_total_mb: Some(2),
        ..Info::default()
    }));
    let text = render(&Metrics::new().unwrap(), &pool(vec![host]));
    for line in [
        r#"gpu_bridge_host_state{host="a",state="up"} 1"#,
        r#"gpu_bridge_host_state{host="a",state="ejected"} 0"#,
        r#"gpu_bridge_host_in_flight{host="a"} 1"#,
        r#"gpu_bridge_host_info{host="a",found="configuration",pod=""} 1"#,
        r#"gpu_bridge_host_busy_seconds_total{host="a"} 1.5"#,
        r#"gpu_bridge_host_slot_seconds_total{host="a"} 2"#,
        r#"gpu_bridge_host_items_total{host="a"} 7"#,
        r#"gpu_bridge_host_vram_total_bytes{host="a"} 2097152"#,
        r#"gpu_bridge_host_misconfigured{host="a"} 0"#,
        r#"gpu_bridge_host_ejections_total{cause="hung",host="a"} 0"#,
        "gpu_bridge_buffered_limit_bytes 1000",
    ] {
        assert_has(&text, line);
    }
    assert!(!text.contains("vram_used"), "it does not tell:\n{text}");
}

#[test]
fn a_host_without_our_key_is_misconfigured_even_while_drained() {
    let phase = Phase::Ejected {
        cause: Cause::Misconfigured,
        hold_until: Instant::now(),
        good_checks: 0,
    };
    let mut host = HostView::for_testing("a".parse().unwrap(), phase);
    host.draining = true;
    let text = render(&Metrics::new().unwrap(), &pool(vec![host]));
    assert_has(&text, r#"gpu_bridge_host_misconfigured{host="a"} 1"#);
    assert_has(
        &text,
        r#"gpu_bridge_host_state{host="a",state="drained"} 1"#,
    );
}

#[test]
fn series_of_hosts_that_are_gone_end_even_when_an_attempt_ends_later() {
    let metrics = Metrics::new().unwrap();
    let (stays, goes): (HostName, HostName) = ("stays".parse().unwrap(), "goes".parse().unwrap());
    let took = Duration::from_millis(1);
    metrics.hosts.attempted(&stays, "deliver", took);
    metrics.hosts.attempted(&goes, "deliver", took);
    let text = render(&metrics, &pool(vec![host("stays"), host("goes")]));
    assert!(text.contains("\"goes\""));

    let alone = pool(vec![host("stays")]);
    let text = render(&metrics, &alone);
    assert!(!text.contains("\"goes\""), "{text}");
    metrics.hosts.attempted(&goes, "fault", took);
    metrics.hosts.ejected(&goes, Cause::Hung);
    let text = render(&metrics, &alone);
    assert!(!text.contains("\"goes\""), "{text}");

    let kept = r#"gpu_bridge_attempts_total{host="stays",verdict="deliver"} 1"#;
    assert_has(&text, kept);
}

#[test]
fn certificates_are_read_at_each_scrape() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    let metrics = Metrics::new().unwrap();
    let ends = Arc::new(AtomicI64::new(1));
    let read = Arc::clone(&ends);
    metrics.process.watch(Watched {
        address: "[::1]:443".to_owned(),
        not_after: Box::new(move || Some(read.load(Ordering::Relaxed))),
    });
    let line = |ends| {
        let name = "gpu_bridge_certificate_not_after_timestamp_seconds";
        format!("{name}{{address=\"[::1]:443\"}} {ends}")
    };
    assert_has(&render(&metrics, &pool(Vec::new())), &line(1));
    ends.store(2, Ordering::Relaxed);
    assert_has(&render(&metrics, &pool(Vec::new())), &line(2));
}

#[test]
fn connections_count_while_they_are_open() {
    let metrics = Metrics::new().unwrap();
    let open = metrics.process.connected();
    assert_has(
        &render(&metrics, &pool(Vec::new())),
        "gpu_bridge_connections_open 1",
    );
    drop(open);
    assert_has(
        &render(&metrics, &pool(Vec::new())),
        "gpu_bridge_connections_open 0",
    );
}

/// Whether anybody scrapes or not; and what ends on a host that is gone begins no series that stay.
#[test]
fn series_end_with_their_host() {
    let metrics = Metrics::new().unwrap();
    let series = || {
        let families = metrics.registry.gather();
        let all = families
            .iter()
            .flat_map(prometheus::proto::MetricFamily::get_metric);
        let of_b = |metric: &&prometheus::proto::Metric| {
            metric.get_label().iter().any(|label| label.value() == "b")
        };
        all.filter(of_b).count()
    };
    let gone: HostName = "b".parse().unwrap();
    metrics.hosts.follow(&pool(vec![host("a"), host("b")]));
    metrics.hosts.attempted(&gone, "deliver", Duration::ZERO);
    assert!(series() > 0);
    metrics.hosts.follow(&pool(vec![host("a")]));
    assert_eq!(series(), 0);
    metrics.hosts.attempted(&gone, "deliver", Duration::ZERO);
    metrics.hosts.ejected(&gone, Cause::Answers);
    metrics.hosts.follow(&pool(vec![host("a")]));
    assert_eq!(series(), 0, "what ended on it later");
}
