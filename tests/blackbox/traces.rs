//! A request keeps its place in its client's trace.

use http::{HeaderMap, Method};

use crate::harness::{Proxy, Reply, embed_body, eventually, sim_host};

pub(crate) const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
pub(crate) const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Has a text embedded with these headers.
pub(crate) async fn embed(proxy: &Proxy, headers: &[(&str, &str)]) {
    let mut request = proxy.client().request(Method::POST, "/embed");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let reply = Reply::to(request.json(&embed_body("text"))).await;
    reply.assert_embedding_of("text");
}

/// What a host was told last.
pub(crate) fn told<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn without_an_exporter_hosts_are_told_what_the_client_told() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    embed(&proxy, &[("traceparent", PARENT), ("tracestate", "a=b")]).await;
    embed(&proxy, &[]).await;

    let seen = host.record().requests;
    assert_eq!(told(&seen[0].headers, "traceparent"), Some(PARENT));
    assert_eq!(told(&seen[0].headers, "tracestate"), Some("a=b"));
    assert_eq!(told(&seen[1].headers, "traceparent"), None);
    eventually("the trace in the log", async || {
        let field = format!("\"trace_id\":\"{TRACE}\"");
        proxy.log().matches(&field).count() == 1
    })
    .await;
}
