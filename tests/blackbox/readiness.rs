//! A host that is up but can't use its models gets no requests, and everybody is told.

use futures_util::future::join_all;

use crate::harness::{Config, Proxy, sim_host};

#[tokio::test]
async fn a_host_that_is_not_ready_gets_no_requests() {
    // It would answer fastest of all, and so get all.
    let empty = sim_host("empty").installed(&[]).ready(false).start();
    let good = sim_host("good").slots(1).start();
    let proxy = Proxy::ready(&Config::with_hosts(&[&empty, &good]), &[&good]).await;
    proxy.finds("empty", "not_ready").await;

    let client = proxy.client();
    for reply in join_all((0..20).map(|_| client.embed("text"))).await {
        reply.assert_embedding_of("text");
    }

    assert_eq!(empty.arrivals(), 0);
    assert_eq!(proxy.ejections("empty").await, 0);
    assert!(!proxy.is_healthy("empty").await);
}

#[tokio::test]
async fn a_host_that_is_not_ready_at_the_start_is_told_everywhere() {
    let empty = sim_host("empty").ready(false).start();
    let good = sim_host("good").start();
    let proxy = Proxy::ready(&Config::with_hosts(&[&empty, &good]), &[&good]).await;
    proxy.finds("empty", "not_ready").await;

    let why = "it is up but not ready: no model can be used";
    let (_, status, _) = proxy.command(&["status"]).await;
    assert!(
        status.contains("not_ready") && status.contains(why),
        "{status}"
    );
    let pool = proxy.operator().get("/api/v1/pool").await.json();
    assert_eq!(pool["hosts"][0]["state"], "not_ready");
    assert_eq!(pool["hosts"][0]["why"], why);
    assert_eq!(pool["summary"]["level"], "attention");
    let info = proxy.client().get("/info").await.json();
    assert_eq!(info["hosts"][0]["state"], "not_ready");
    assert!(proxy.log().contains("host is not ready"));

    empty.set_ready(true);

    proxy.finds("empty", "up").await;
    assert!(proxy.log().contains("host is up"));
}

#[tokio::test]
async fn a_host_that_loses_its_models_is_left_alone_without_being_ejected() {
    let host = sim_host("host").ready(true).start();
    let good = sim_host("good").start();
    let proxy = Proxy::in_front_of(&[&host, &good]).await;

    host.set_ready(false);
    proxy.finds("host", "not_ready").await;
    let before = host.arrivals();
    proxy.client().flood(10, 2).await;

    assert_eq!(host.arrivals(), before);
    assert_eq!(proxy.ejections("host").await, 0);
}

#[tokio::test]
async fn requests_wait_for_hosts_that_load_their_models() {
    let hosts = ["a", "b"].map(|name| sim_host(name).ready(false).start());
    let proxy = Proxy::start(&Config::with_hosts(&hosts.each_ref())).await;
    for host in &hosts {
        proxy.finds(host.name(), "not_ready").await;
    }
    proxy.client().get("/health").await.assert_error(503);
    let waiting: Vec<_> = (0..4)
        .map(|_| proxy.client().start_embed("early"))
        .collect();
    proxy.queues(4).await;

    hosts[1].set_ready(true);

    for reply in waiting {
        let reply = reply.await.unwrap();
        reply.assert_embedding_of("early");
        assert_eq!(reply.served_by(), "b");
    }
    assert_eq!(hosts[0].arrivals(), 0);
}

#[tokio::test]
async fn a_host_that_is_not_ready_and_then_dies_is_ejected_and_comes_back() {
    let host = sim_host("host").ready(false).start();
    let proxy = Proxy::start(&Config::with_hosts(&[&host])).await;
    proxy.finds("host", "not_ready").await;

    host.stop();
    proxy.finds("host", "ejected").await;
    host.restart();
    proxy.finds("host", "not_ready").await;
    host.set_ready(true);
    proxy.finds_healthy("host").await;
    proxy
        .client()
        .embed("text")
        .await
        .assert_embedding_of("text");
}
