//! The head of a request has a size, a time and a form; what exceeds them costs nobody else anything.

use std::time::Duration;

use tokio::time::{interval, timeout};

use crate::harness::{Config, Proxy, eventually, sim_host};

/// Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_however_it_comes() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host])
        .set("limits", "max_head", "2KiB")
        .set("limits", "max_headers", 10);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let start = "GET /health HTTP/1.1\r\nHost: proxy\r\n";
    let padding = |bytes: usize| format!("X-Padding: {}\r\n", "x".repeat(bytes));

    for (head, limit) in [
        (format!("{start}{}\r\n", padding(3 << 10)), "2048"),
        (format!("{start}{}", padding(3 << 10)), "2048"),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(3 << 10)), "2048"),
        (format!("{start}{}", padding(1 << 20)), "2048"),
        (format!("{start}{}\r\n", padding(1).repeat(20)), "10"),
    ] {
        let mut connection = proxy.connect().await;
        // May fail: the proxy need not read it all.
        let _ = connection.try_send(&head).await;
        let reply = connection.reply().await;
        let detail = reply.assert_error(431);
        assert!(detail.contains(limit), "{detail}");
        assert!(reply.header("x-request-id").is_some());
        assert!(connection.rest().await.is_empty());
    }

    let mut connection = proxy.connect().await;
    let head = format!("{start}{}\r\n", padding(1 << 10));
    connection.send(head).await;
    assert_eq!(connection.reply().await.status, 200);
    eventually("each is in the log", async || {
        proxy.log().matches("\"status\":431").count() == 5
    })
    .await;
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "client_head", "1s");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut connection = proxy.connect().await;
    connection
        .send("GET /health HTTP/1.1\r\nHost: proxy\r\n")
        .await;

    let trickle = async {
        let mut ticks = interval(Duration::from_millis(20));
        while connection.try_send("X: 1\r\n").await.is_ok() {
            ticks.tick().await;
        }
    };

    // Fails once the proxy has hung up.
    let cut = timeout(PATIENCE, trickle).await;
    assert!(cut.is_ok(), "the head may trickle in for ever");
    eventually("it is in the log", async || {
        proxy.log().contains("\"status\":408")
    })
    .await;
}

#[tokio::test]
async fn a_head_that_stops_half_way_is_told_and_cut() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "client_head", "1s");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut connection = proxy.connect().await;

    connection.send_embed("first").await;
    connection.reply().await.assert_embedding_of("first");
    connection.send("POST /emb").await;

    let reply = timeout(PATIENCE, connection.reply())
        .await
        .expect("a reply");
    reply.assert_error(408);
    assert!(connection.rest().await.is_empty());
}

#[tokio::test]
async fn silent_connections_are_closed() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host])
        .set("timeouts", "client_head", "1s")
        .set("timeouts", "client_idle", "100ms");
    let proxy = Proxy::ready(&config, &[&host]).await;

    let mut fresh = proxy.connect().await;
    let rest = timeout(PATIENCE, fresh.rest()).await;
    assert!(rest.expect("an end").is_empty());

    let mut idle = proxy.connect().await;
    idle.send_embed("x").await;
    idle.reply().await.assert_embedding_of("x");
    let rest = timeout(PATIENCE, idle.rest()).await;
    assert!(rest.expect("an end").is_empty());
}

#[tokio::test]
async fn a_head_in_single_bytes_is_served() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut connection = proxy.connect().await;

    for byte in b"\r\nGET /health HTTP/1.1\r\nHost: proxy\r\n\r\n" {
        connection.send([*byte]).await;
    }

    assert_eq!(connection.reply().await.status, 200);
}

#[tokio::test]
async fn paths_that_mean_the_same_are_the_same_and_hosts_see_one_of_them() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut connection = proxy.connect().await;
    let body = crate::harness::embed_body("x").to_string();

    for target in [
        "//embed?trace=1",
        "/./embed?trace=1",
        "/x/../embed?trace=1",
        "/%65mbed?trace=1",
        "/x/%2e%2E/embed?trace=1",
        "http://proxy/embed?trace=1",
    ] {
        let length = body.len();
        connection
            .send(format!(
                "POST {target} HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            ))
            .await;
        connection.reply().await.assert_embedding_of("x");
        let seen = host.record().requests.last().unwrap().clone();
        assert_eq!(seen.path_and_query, "/embed?trace=1", "{target}");
    }
    for target in [
        "/%2565mbed",
        "/embed%2f",
        "/embed%00",
        "/x%2f..%2fembed",
        "/embed;x",
    ] {
        connection
            .send(format!(
                "POST {target} HTTP/1.1\r\nHost: proxy\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        connection.reply().await.assert_error(404);
    }
}
