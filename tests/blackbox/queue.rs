//! Overload is orderly: first come, first served, up to a length and a time.

use crate::harness::{Behaviour, Config, Proxy, SimHost, sim_host};

/// One slot, whose requests are answered when the test says so.
fn one_slot() -> SimHost {
    sim_host("host")
        .slots(1)
        .behaving(Behaviour::ServeWhenReleased)
        .start()
}

/// Knows from the start that the host has one slot.
fn config(host: &SimHost) -> Config {
    Config::with_hosts(&[host]).set_host("host", "max_concurrent", 1)
}

#[tokio::test]
async fn requests_that_find_no_slot_are_served_in_order_of_arrival() {
    let host = one_slot();
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    let texts: Vec<_> = (0..10).map(|number| format!("request {number}")).collect();
    let mut replies = vec![proxy.client().start_embed(&texts[0])];
    host.runs(1).await;
    for (text, length) in texts[1..].iter().zip(1..) {
        replies.push(proxy.client().start_embed(text));
        proxy.queues(length).await;
    }

    host.release_all();

    for (reply, text) in replies.into_iter().zip(&texts) {
        reply.await.unwrap().assert_embedding_of(text);
    }
    let record = host.record();
    assert_eq!(record.taken_on, texts);
    assert_eq!(record.turned_away, 0);
    proxy.queues(0).await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_again() {
    let host = one_slot();
    let config = config(&host).set("queue", "max_waiting", 2);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let client = proxy.client();
    let running = client.start_embed("running");
    host.runs(1).await;
    let waiting = [client.start_embed("waits"), client.start_embed("waits too")];
    proxy.queues(2).await;

    // Nothing moves meanwhile, so this answer waits for nobody.
    client.embed("one too many").await.assert_come_again();

    host.release_all();
    running.await.unwrap().assert_embedding_of("running");
    for (reply, text) in waiting.into_iter().zip(["waits", "waits too"]) {
        reply.await.unwrap().assert_embedding_of(text);
    }
    assert!(!host.record().taken_on.contains(&"one too many".to_owned()));
}

#[tokio::test]
async fn without_a_queue_free_slots_are_used_and_the_rest_is_refused() {
    let host = one_slot();
    let config = config(&host).set("queue", "max_waiting", 0);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let running = proxy.client().start_embed("running");
    host.runs(1).await;

    proxy
        .client()
        .embed("one too many")
        .await
        .assert_come_again();

    host.release_all();
    running.await.unwrap().assert_embedding_of("running");
}

#[tokio::test]
async fn a_request_that_waited_too_long_is_told_when_to_come_again() {
    let host = one_slot();
    let config = config(&host).set("queue", "max_wait", "300ms");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let running = proxy.client().start_embed("running");
    host.runs(1).await;

    proxy.client().embed("too late").await.assert_come_again();

    host.release_all();
    running.await.unwrap().assert_embedding_of("running");
    proxy.queues(0).await;
    assert_eq!(host.arrivals(), 1, "a refused request reached the host");
}

#[tokio::test]
async fn a_request_that_waited_too_long_for_busy_hosts_is_told_when_to_come_again() {
    let host = sim_host("host").behaving(Behaviour::busy(600)).start();
    let config = Config::with_hosts(&[&host]).set("queue", "max_wait", "300ms");
    let proxy = Proxy::ready(&config, &[&host]).await;

    proxy.client().embed("too late").await.assert_come_again();

    assert!(proxy.is_healthy("host").await);
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_frees_its_place() {
    let host = one_slot();
    let config = config(&host).set("queue", "max_waiting", 1);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let running = proxy.client().start_embed("running");
    host.runs(1).await;
    let mut impatient = proxy.connect().await;
    impatient.send_embed("impatient").await;
    proxy.queues(1).await;

    drop(impatient);

    proxy.queues(0).await;
    let patient = proxy.client().start_embed("patient");
    proxy.queues(1).await;
    host.release_all();
    running.await.unwrap().assert_embedding_of("running");
    patient.await.unwrap().assert_embedding_of("patient");
    assert_eq!(host.record().taken_on, ["running", "patient"]);
}

#[tokio::test]
async fn a_client_that_leaves_while_its_request_runs_gives_the_lease_back() {
    let host = one_slot();
    let config = config(&host).set("timeouts", "attempt", "10m");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut impatient = proxy.connect().await;
    impatient.send_embed("impatient").await;
    host.runs(1).await;
    assert_eq!(proxy.host_metric("in_flight", "host").await, 1);
    let patient = proxy.client().start_embed("patient");
    proxy.queues(1).await;

    drop(impatient);
    host.set(Behaviour::Serve);

    patient.await.unwrap().assert_embedding_of("patient");
    host.runs(0).await;
    assert_eq!(proxy.host_metric("in_flight", "host").await, 0);
    assert_eq!(proxy.ejections("host").await, 0, "blamed for its client");
}
