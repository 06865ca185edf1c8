//! SIGTERM: nothing new, everything that is there to its end, then exit. Other signals.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::harness::{Behaviour, Config, Proxy, SimHost, Wire, eventually, sim_host};

/// Much more than an idle proxy needs, much less than any timeout in its configuration.
const AT_ONCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_runs_and_what_waits_is_finished_and_nothing_new_is_accepted() {
    let host = sim_host("host")
        .slots(1)
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host]).set_host("host", "max_concurrent", 1);
    let mut proxy = Proxy::ready(&config, &[&host]).await;
    let running = proxy.client().start_embed("running");
    host.runs(1).await;
    let waiting = proxy.client().start_embed("waiting");
    proxy.queues(1).await;

    proxy.terminate().await;
    eventually("new connections are refused", async || {
        TcpStream::connect(proxy.address()).await.is_err()
    })
    .await;
    host.release_all();

    running.await.unwrap().assert_embedding_of("running");
    waiting.await.unwrap().assert_embedding_of("waiting");
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_idle_proxy_ends_at_once_in_spite_of_idle_connections() {
    let host = sim_host("host").start();
    let mut proxy = Proxy::in_front_of(&[&host]).await;
    let mut used = proxy.connect().await;
    used.send_embed("x").await;
    used.reply().await.assert_embedding_of("x");
    let _never_used = proxy.connect().await;

    proxy.terminate().await;

    let status = timeout(AT_ONCE, proxy.ended()).await;
    assert_eq!(status.expect("an end").code(), Some(0));
}

#[tokio::test]
async fn an_answer_given_while_stopping_says_that_the_connection_ends() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut connection = proxy.connect().await;
    connection.send_embed("running").await;
    host.runs(1).await;

    proxy.terminate().await;
    eventually("new connections are refused", async || {
        TcpStream::connect(proxy.address()).await.is_err()
    })
    .await;
    host.release_all();

    let reply = connection.reply().await;
    reply.assert_embedding_of("running");
    assert_eq!(reply.headers[http::header::CONNECTION], "close");
}

#[tokio::test]
async fn a_proxy_that_has_served_nothing_ends_at_once() {
    let host = sim_host("host").start();
    let mut proxy = Proxy::in_front_of(&[&host]).await;

    proxy.terminate().await;

    let status = timeout(AT_ONCE, proxy.ended()).await;
    assert_eq!(status.expect("an end").code(), Some(0));
}

#[tokio::test]
async fn sigquit_stops_in_order_and_sigusr1_changes_nothing() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let mut proxy = Proxy::in_front_of(&[&host]).await;
    let running = proxy.client().start_embed("running");
    host.runs(1).await;

    proxy.signal("USR1").await;
    proxy.logs("SIGUSR1 is ignored").await;
    proxy.signal("QUIT").await;
    eventually("new connections are refused", async || {
        TcpStream::connect(proxy.address()).await.is_err()
    })
    .await;
    host.release_all();

    running.await.unwrap().assert_embedding_of("running");
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_shutdown_timeout_bounds_the_wait_for_a_hanging_host() {
    let host = sim_host("host").behaving(Behaviour::Hang).start();
    let config = Config::with_hosts(&[&host])
        .set("timeouts", "shutdown", "500ms")
        .set("timeouts", "attempt", "10m");
    let mut proxy = Proxy::ready(&config, &[&host]).await;
    let mut connection = proxy.connect().await;
    connection.send_embed("never answered").await;
    eventually("the request runs", async || host.arrivals() == 1).await;

    let asked = Instant::now();
    proxy.terminate().await;

    timeout(AT_ONCE, proxy.ended()).await.expect("an end");
    let waited = asked.elapsed();
    assert!(waited >= Duration::from_millis(500), "only {waited:?}");
}

/// A proxy that stops within `time`, in front of a host that has one slot and answers nothing.
async fn in_front_of_one_that_hangs(time: &str) -> (Proxy, SimHost) {
    let host = sim_host("host").slots(1).behaving(Behaviour::Hang).start();
    let config = Config::with_hosts(&[&host])
        .set_host("host", "max_concurrent", 1)
        .set("timeouts", "shutdown", time)
        .set("timeouts", "attempt", "10m");
    let proxy = Proxy::ready(&config, &[&host]).await;
    (proxy, host)
}

#[tokio::test]
async fn what_has_no_answer_when_the_time_is_over_is_told_to_come_again() {
    let (mut proxy, host) = in_front_of_one_that_hangs("500ms").await;
    let client = proxy.client();
    let running = client.start_embed("running");
    eventually("the request runs", async || host.arrivals() == 1).await;
    let waiting = client.start_embed("waiting");
    let in_openais = tokio::spawn(async move {
        let body = json!({"input": "text", "model": "sim"});
        client.post("/v1/embeddings", &body).await
    });
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    let mut http2 = Wire::http2(stream).await;

    let stop = async {
        proxy.queues(3).await;
        proxy.terminate().await;
    };
    let (over_http2, ()) = tokio::join!(http2.embed("over HTTP/2"), stop);

    over_http2.assert_come_again();
    for reply in [running, waiting] {
        let reply = reply.await.unwrap();
        reply.assert_come_again();
        assert!(reply.assert_error(503).contains("is stopping"), "{reply:?}");
    }
    let reply = in_openais.await.unwrap();
    reply.assert_openai_error(503);
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn after_a_second_signal_too() {
    let (mut proxy, host) = in_front_of_one_that_hangs("10m").await;
    let running = proxy.client().start_embed("running");
    eventually("the request runs", async || host.arrivals() == 1).await;

    proxy.terminate().await;
    eventually("new connections are refused", async || {
        TcpStream::connect(proxy.address()).await.is_err()
    })
    .await;
    proxy.terminate().await;

    running.await.unwrap().assert_come_again();
    assert_eq!(proxy.ended().await.code(), Some(0));
}
