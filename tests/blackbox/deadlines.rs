//! `X-Request-Timeout` bounds a whole request, from its arrival to the end of its answer.

use http::Method;

use crate::harness::{Behaviour, Config, Proxy, Reply, SimHost, embed_body, eventually, sim_host};

fn one_slot(behaviour: Behaviour) -> SimHost {
    sim_host("host").slots(1).behaving(behaviour).start()
}

/// Nothing but the client's own bound ends anything.
fn config(host: &SimHost) -> Config {
    Config::with_hosts(&[host])
        .set_host("host", "max_concurrent", 1)
        .set("queue", "max_wait", "10m")
        .set("timeouts", "attempt", "10m")
}

async fn ask(proxy: &Proxy, seconds: &str) -> Reply {
    let request = proxy.client().request(Method::POST, "/embed");
    let request = request.header("x-request-timeout", seconds);
    Reply::to(request.json(&embed_body("x"))).await
}

fn assert_too_late(reply: &Reply) {
    reply.assert_come_again();
    let detail = reply.assert_error(503);
    assert!(detail.contains("X-Request-Timeout"), "{detail}");
}

async fn no_slot_in_use(proxy: &Proxy) {
    eventually("the slot is free", async || {
        proxy.host_metric("in_flight", "host").await == 0
    })
    .await;
}

#[tokio::test]
async fn it_ends_an_attempt_whose_slot_goes_to_the_next_and_whose_host_is_not_blamed() {
    let host = one_slot(Behaviour::Hang);
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    for _ in 0..3 {
        assert_too_late(&ask(&proxy, "0.3").await);
        no_slot_in_use(&proxy).await;
    }

    host.set(Behaviour::Serve);

    proxy
        .client()
        .embed("next")
        .await
        .assert_embedding_of("next");
    assert_eq!(proxy.ejections("host").await, 0);
    assert!(proxy.is_healthy("host").await);
}

#[tokio::test]
async fn it_ends_a_wait() {
    let host = one_slot(Behaviour::ServeWhenReleased);
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    let running = proxy.client().start_embed("running");
    host.runs(1).await;

    assert_too_late(&ask(&proxy, "0.2").await);
    proxy.queues(0).await;

    host.release_all();
    running.await.unwrap().assert_embedding_of("running");
}

#[tokio::test]
async fn it_counts_from_the_arrival_of_the_request() {
    let host = one_slot(Behaviour::Serve);
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    let mut slow = proxy.connect().await;
    slow.send(
        "POST /embed HTTP/1.1\r\nHost: p\r\nX-Request-Timeout: 0.3\r\nContent-Length: 9\r\n\r\n{",
    )
    .await;

    assert_too_late(&slow.reply().await);
    assert_eq!(host.arrivals(), 0);
}

#[tokio::test]
async fn it_ends_an_answer_that_is_on_its_way() {
    let host = one_slot(Behaviour::ServePadded(64 << 20));
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    let mut slow = proxy.connect().await;
    let body = embed_body("slow").to_string();
    let head = "POST /embed HTTP/1.1\r\nHost: p\r\nX-Request-Timeout: 1\r\nContent-Length:";
    slow.send(format!("{head} {}\r\n\r\n{body}", body.len()))
        .await;
    // Its client does not read on, so the host can't end it.
    assert_eq!(slow.head().await.0, 200);
    no_slot_in_use(&proxy).await;

    host.set(Behaviour::Serve);
    proxy
        .client()
        .embed("next")
        .await
        .assert_embedding_of("next");
    proxy.logs("X-Request-Timeout").await;
    let rest = slow.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "passed off as whole");
    assert_eq!(proxy.ejections("host").await, 0);
}

#[tokio::test]
async fn it_is_one_number_of_seconds() {
    let host = one_slot(Behaviour::Serve);
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    for good in ["5", " 5 ", "2.5", "1e2", "1e30", "1e400"] {
        ask(&proxy, good).await.assert_embedding_of("x");
    }
    for bad in ["", "soon", "0", "-1", "nan", "inf", "5s", "5, 6"] {
        let detail = ask(&proxy, bad).await.assert_error(400);
        assert!(detail.contains("X-Request-Timeout"), "{bad}: {detail}");
    }
    assert_eq!(host.arrivals(), 6);
}
