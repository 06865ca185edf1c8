//! With an endpoint in the environment, traces go to a collector of OpenTelemetry.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;

use crate::harness::{Behaviour, Config, Proxy, SimHost, eventually, sim_host};
use crate::traces::{PARENT, TRACE, embed, told};

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/v1/traces", post(take));
        let server = axum::serve(listener, router.with_state(self.clone()));
        tokio::spawn(async move { server.await.unwrap() });
        address
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().clone()
    }
}

async fn take(State(collector): State<Collector>, body: Bytes) -> Vec<u8> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    for resource in request.resource_spans {
        let name = text(&resource.resource.unwrap().attributes, "service.name");
        assert_eq!(name.as_deref(), Some("gpu-bridge"));
        for scope in resource.scope_spans {
            collector.0.lock().unwrap().extend(scope.spans);
        }
    }
    Vec::new()
}

fn text(
    attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue],
    name: &str,
) -> Option<String> {
    let found = attributes.iter().find(|pair| pair.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn hex(id: &[u8]) -> String {
    let digits = id.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
    digits.collect()
}

/// A proxy that exports at once.
async fn exporting(hosts: &[&SimHost], collector: SocketAddr) -> Proxy {
    Proxy::ready_with(&Config::with_hosts(hosts), hosts, |command| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"));
        command.env("OTEL_BSP_SCHEDULE_DELAY", "50");
    })
    .await
}

#[tokio::test]
async fn a_request_is_a_span_with_its_attempts_below_and_the_hosts_below_those() {
    let bad = Behaviour::answer(500, "out of order");
    let hosts = [
        sim_host("bad").behaving(bad).start(),
        sim_host("good").start(),
    ];
    let collector = Collector::default();
    let proxy = exporting(&hosts.each_ref(), collector.start().await).await;

    // At least one of two goes to the failing host first.
    for _ in 0..2 {
        embed(&proxy, &[("traceparent", PARENT), ("tracestate", "a=b")]).await;
    }
    let of_kind = |kind: SpanKind| {
        let spans = collector.spans();
        let same = spans.into_iter().filter(move |span| span.kind() == kind);
        same.collect::<Vec<_>>()
    };
    let tries: usize = hosts.iter().map(SimHost::arrivals).sum();
    eventually("all spans", async || {
        of_kind(SpanKind::Server).len() == 2 && of_kind(SpanKind::Client).len() == tries
    })
    .await;

    for span in of_kind(SpanKind::Server) {
        assert_eq!(span.name, "POST /embed");
        assert_eq!(hex(&span.trace_id), TRACE);
        assert_eq!(hex(&span.parent_span_id), "b7ad6b7169203331");
        let attribute = |name| text(&span.attributes, name);
        assert_eq!(
            attribute("http.response.status_code").as_deref(),
            Some("200")
        );
        assert_eq!(attribute("http.route").as_deref(), Some("/embed"));
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    let servers: Vec<_> = of_kind(SpanKind::Server);
    let attempts = of_kind(SpanKind::Client);
    for attempt in &attempts {
        let is_above = |server: &Span| server.span_id == attempt.parent_span_id;
        assert!(servers.iter().any(is_above), "{attempt:?}");
    }
    let failed = |span: &Span| text(&span.attributes, "error.type");
    let errors: Vec<_> = attempts.iter().filter_map(failed).collect();
    assert_eq!(errors, vec!["server_error"; hosts[0].arrivals()]);
    assert!(!errors.is_empty());

    let seen = hosts.iter().flat_map(|host| host.record().requests);
    for request in seen {
        let parent = told(&request.headers, "traceparent").unwrap().to_owned();
        let below = |span: &Span| parent == format!("00-{TRACE}-{}-01", hex(&span.span_id));
        assert!(attempts.iter().any(below), "{parent}");
        assert_eq!(told(&request.headers, "tracestate"), Some("a=b"));
    }
}

#[tokio::test]
async fn a_request_without_a_trace_gets_one_and_the_last_ones_are_sent_at_the_end() {
    let host = sim_host("host").start();
    let collector = Collector::default();
    let mut proxy = exporting(&[&host], collector.start().await).await;

    embed(
        &proxy,
        &[("traceparent", "nonsense"), ("tracestate", "a=b")],
    )
    .await;
    let unsampled = PARENT.replace("-01", "-00");
    embed(&proxy, &[("traceparent", &unsampled)]).await;
    proxy.terminate().await;
    assert!(proxy.ended().await.success());

    let spans = collector.spans();
    let servers = spans.iter().filter(|span| span.kind() == SpanKind::Server);
    let servers: Vec<_> = servers.collect();
    assert_eq!(
        servers.len(),
        1,
        "the client did not want the other: {spans:?}"
    );
    assert_ne!(hex(&servers[0].trace_id), TRACE);
    assert!(servers[0].parent_span_id.is_empty(), "{servers:?}");
    let headers = &host.record().requests[0].headers;
    let trace = hex(&servers[0].trace_id);
    assert!(told(headers, "traceparent").unwrap().contains(&trace));
    assert_eq!(told(headers, "tracestate"), None, "of another trace");
}

#[tokio::test]
async fn a_collector_that_is_away_costs_nothing_and_is_logged_once() {
    let host = sim_host("host").start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let proxy = exporting(&[&host], nobody).await;
    for _ in 0..3 {
        embed(&proxy, &[]).await;
        proxy.logs("the collector does not take our traces").await;
    }
    let log = proxy.log();
    assert_eq!(log.matches("does not take our traces").count(), 1, "{log}");
}
