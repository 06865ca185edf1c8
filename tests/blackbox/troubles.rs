//! The proxy's own troubles are not its hosts': it may open few files, names can't be resolved.

use crate::harness::{Config, Proxy, embed_request, eventually, sim_host, with_open_files};

/// Starts it with so many files, in front of `config`.
async fn start_with_files(limit: u32, config: &Config) -> Proxy {
    Proxy::start_with(config, |command| *command = with_open_files(command, limit)).await
}

#[tokio::test]
async fn idle_clients_do_not_use_up_what_hosts_and_operators_need() {
    let hosts = [sim_host("a").start(), sim_host("b").start()];
    let proxy = start_with_files(60, &Config::with_hosts(&hosts.each_ref())).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(proxy.connect().await);
    }

    clients[59].reply().await.assert_come_again();
    for host in &hosts {
        proxy.finds_healthy(host.name()).await;
        host.is_checked(5).await;
    }

    clients[0].send_embed("served").await;
    clients[0].reply().await.assert_embedding_of("served");
    for host in &hosts {
        assert!(proxy.is_healthy(host.name()).await);
        assert_eq!(proxy.ejections(host.name()).await, 0);
    }
    let metrics = proxy.metrics().await;
    let limit = metrics.gauge("gpu_bridge_connections_limit", &[]);
    assert_eq!(limit, metrics.gauge("gpu_bridge_connections_open", &[]));
    proxy.logs("too few open files").await;

    drop(clients);
    eventually("there is room again", async || {
        let mut later = proxy.connect().await;
        let sent = later.try_send(embed_request("later")).await;
        sent.is_ok() && later.head().await.0 == 200
    })
    .await;
}
