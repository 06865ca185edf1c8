//! The proxy's own troubles are not its hosts': it may open few files, names can't be resolved.

use serde_json::json;

use crate::harness::{
    Authority, Backend, Config, DnsServer, HTTP_2, HealthAnswer, Proxy, RawConnection, SimHost,
    StatusAnswer, eventually, sim_host, with_open_files,
};

const NAME: &str = "gpu.test";
const FIRST: &str = "127.0.0.2";
const SECOND: &str = "127.0.0.3";

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

    for host in &hosts {
        proxy.finds_healthy(host.name()).await;
        host.is_checked(5).await;
    }

    clients[59].send_embed("served").await;
    clients[59].reply().await.assert_embedding_of("served");
    assert_eq!(clients[0].rest().await, "", "it made room");
    for host in &hosts {
        assert!(proxy.is_healthy(host.name()).await);
        assert_eq!(proxy.ejections(host.name()).await, 0);
    }
    let metrics = proxy.metrics().await;
    let limit = metrics.gauge("gpu_bridge_connections_limit", &[]);
    assert!(metrics.gauge("gpu_bridge_connections_open", &[]) <= limit);
    proxy.logs("too few open files").await;
}

#[tokio::test]
async fn a_burst_of_connections_takes_no_file_that_hosts_need() {
    const FILES: u32 = 128;
    /// By `serve/files`: half of what is left by the proxy itself and its operators.
    const FOR_HOSTS: usize = 24;
    let (host, authority) = (sim_host("host").start(), Authority::new());
    let identity = authority.issue(&["proxy.example"]);
    let tls = json!({"certificate": identity.certificate(), "key": identity.key()});
    let listen = json!([{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0", "tls": tls}]);
    let config = Config::with_hosts(&[&host]).replace("listen", listen);
    let proxy = start_with_files(FILES, &config).await;
    proxy.finds_healthy("host").await;

    let mut burst = Vec::new();
    for number in 0..600 {
        // In the one they speak HTTP/2, in the other they don't begin the handshake.
        let mut connection = RawConnection::open(proxy.address_of(number % 2)).await;
        if number % 2 == 0 {
            let _ = connection.try_send(HTTP_2).await;
        }
        burst.push(connection);
        let open = proxy.open_files();
        assert!(open <= FILES as usize - FOR_HOSTS, "{open} are open");
        if number % 50 == 0 {
            proxy.client().embed("x").await.assert_embedding_of("x");
        }
    }
    assert!(!proxy.log().contains("file descriptors"));
}

#[tokio::test]
async fn too_few_open_files_are_told_with_the_number_that_is_needed() {
    let host = sim_host("a").start();
    let proxy = start_with_files(1000, &Config::with_hosts(&[&host])).await;
    proxy.logs("\"needed\":8384").await;

    // It keeps files for its models, whoever connects.
    let backend = Backend::start_with_files("gpu", 64).await;
    let address = backend.url()["http://".len()..].parse().unwrap();
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(RawConnection::open(address).await);
    }
    drop(idle);
    eventually("it answers", async || {
        let health = reqwest::get(format!("{}/health", backend.url())).await;
        health.is_ok_and(|health| health.status().is_success())
    })
    .await;
    let log = backend.log();
    assert!(log.contains("\"needed\":1088"), "{log}");
    assert!(!log.contains("cannot accept connections"), "{log}");
}

/// In front of a host called `gpu`, by name, at the port of `host`.
fn by_name(dns: &DnsServer, host: &SimHost) -> Config {
    let url = format!("http://{NAME}:{}", host.address().port());
    Config::new()
        .host("gpu", &url, None)
        .set("pool", "resolver", dns.address())
}

#[tokio::test]
async fn a_name_is_looked_up_when_its_answer_ends_and_not_at_each_check() {
    let Some(dns) = DnsServer::start(60, &[(NAME, FIRST)]).await else {
        return;
    };
    let host = sim_host("gpu").at(FIRST, 0).start();
    let _proxy = Proxy::ready(&by_name(&dns, &host), &[&host]).await;
    host.is_checked(10).await;
    assert_eq!(dns.asked_for(NAME), 1);
}

#[tokio::test]
async fn a_host_that_moves_is_followed_within_the_time_to_live_of_its_name() {
    let Some(dns) = DnsServer::start(1, &[(NAME, FIRST)]).await else {
        return;
    };
    let first = sim_host("gpu").at(FIRST, 0).start();
    let second = sim_host("gpu").at(SECOND, first.address().port()).start();
    let proxy = Proxy::ready(&by_name(&dns, &first), &[&first]).await;
    proxy.client().embed("x").await.assert_embedding_of("x");
    assert_eq!((first.arrivals(), second.arrivals()), (1, 0));

    dns.set(&[(NAME, SECOND)]).await;
    second.is_checked(1).await;

    proxy.client().embed("x").await.assert_embedding_of("x");
    assert_eq!((first.arrivals(), second.arrivals()), (1, 1));
    assert_eq!(proxy.ejections("gpu").await, 0);
}

#[tokio::test]
async fn a_host_that_moved_and_is_gone_from_where_it_was_is_looked_for_at_once() {
    let Some(dns) = DnsServer::start(600, &[(NAME, FIRST)]).await else {
        return;
    };
    let first = sim_host("gpu").at(FIRST, 0).start();
    let second = sim_host("gpu").at(SECOND, first.address().port()).start();
    let proxy = Proxy::ready(&by_name(&dns, &first), &[&first]).await;

    dns.set(&[(NAME, SECOND)]).await;
    first.stop();

    second.is_checked(1).await;
    proxy.client().embed("x").await.assert_embedding_of("x");
    assert_eq!(second.arrivals(), 1);
}

#[tokio::test]
async fn a_host_stays_where_it_was_found_while_its_name_can_not_be_looked_up() {
    let Some(mut dns) = DnsServer::start(1, &[(NAME, FIRST)]).await else {
        return;
    };
    let host = sim_host("gpu").at(FIRST, 0).start();
    let proxy = Proxy::ready(&by_name(&dns, &host), &[&host]).await;

    dns.set(&[]).await;
    proxy.logs("the name does not exist").await;
    dns.stop().await;
    host.is_checked(5).await;

    proxy.client().flood(10, 2).await;
    assert!(proxy.is_healthy("gpu").await);
    assert_eq!(proxy.ejections("gpu").await, 0);
}

#[tokio::test]
async fn a_host_whose_name_has_no_address_yet_is_not_at_fault_and_serves_once_it_has() {
    let Some(dns) = DnsServer::start(1, &[]).await else {
        return;
    };
    let host = sim_host("gpu").at(FIRST, 0).start();
    let proxy = Proxy::start(&by_name(&dns, &host)).await;
    let waiting = proxy.client().start_embed("early");
    eventually("the trouble is told", async || {
        proxy.host_metric("unasked", "gpu").await == 1
    })
    .await;
    let (_, status, _) = proxy.command(&["status"]).await;
    assert!(status.contains("its name can't be resolved"), "{status}");
    assert_eq!(proxy.ejections("gpu").await, 0);

    dns.set(&[(NAME, FIRST)]).await;

    waiting.await.unwrap().assert_embedding_of("early");
    assert_eq!(proxy.host_metric("unasked", "gpu").await, 0);
    assert_eq!(proxy.ejections("gpu").await, 0);
}

#[tokio::test]
async fn more_hosts_than_there_are_files_for_are_not_ejected_for_it_and_requests_are_served() {
    let hosts: Vec<_> = (0..30)
        .map(|number| sim_host(&format!("h{number}")).start())
        .collect();
    let config = Config::with_hosts(&hosts.iter().collect::<Vec<_>>());
    let proxy = start_with_files(40, &config).await;
    proxy.logs("short of file descriptors").await;
    let mut clients = [proxy.connect().await, proxy.connect().await];
    for round in 0..40 {
        for client in &mut clients {
            let text = format!("round {round}");
            client.send_embed(&text).await;
            client.reply().await.assert_embedding_of(&text);
        }
    }
    assert!(!proxy.log().contains("host is ejected"));

    // Kept connections have made room. Those in use don't: the shortage lasts.
    for host in &hosts {
        host.set_health(HealthAnswer::Hang);
    }
    eventually("the shortage is told", async || {
        let (code, status, error) = proxy.command(&["status"]).await;
        assert_eq!(code, Some(0), "an operator can't look: {error}");
        status.contains("short of file descriptors")
    })
    .await;
}

#[tokio::test]
async fn a_configuration_that_there_are_no_files_to_read_with_is_not_refused() {
    let host = sim_host("off").start();
    host.stop();
    let config = Config::with_hosts(&[&host]).set("queue", "max_wait", "3s");
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    client
        .send("GET /health HTTP/1.1\r\nHost: proxy\r\n\r\n")
        .await;
    assert_eq!(client.reply().await.status, 503, "it has been accepted");
    proxy.limit_files(5);

    // While this waits, the file is looked at several times.
    client.send_embed("x").await;
    assert_eq!(client.reply().await.status, 503);

    proxy.limit_files(1000);
    proxy
        .takes_over(&config.set("queue", "max_wait", "4s"))
        .await;
    assert_eq!(proxy.reloads("failure").await, 0);
}

#[tokio::test]
async fn what_a_host_told_of_its_load_outlives_a_poll_that_fails() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let foreign = async |load| {
        eventually(&format!("a foreign load of {load}"), async || {
            proxy.host_metric("foreign_in_flight", "host").await == load
        })
        .await;
    };
    for failure in [StatusAnswer::Error, StatusAnswer::Hang] {
        host.set_foreign(2);
        foreign(2).await;
        host.set_status(failure);
        host.is_checked(5).await;
        assert_eq!(proxy.host_metric("foreign_in_flight", "host").await, 2);
        assert!(proxy.is_healthy("host").await);

        host.set_foreign(0);
        host.set_status(StatusAnswer::Truth);
        foreign(0).await;
    }
    host.set_foreign(2);
    foreign(2).await;
    host.set_status(StatusAnswer::Missing);
    foreign(0).await;
}
