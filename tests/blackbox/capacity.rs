//! A host is never sent more than it can take, and its slots are all used.

use std::time::Duration;

use crate::harness::{Behaviour, Config, Proxy, SimHost, StatusAnswer, eventually, sim_host};

const WORK: Behaviour = Behaviour::ServeAfter(Duration::from_millis(5));

/// Returns once the proxy believes that `host` has so many slots.
async fn believes(proxy: &Proxy, host: &SimHost, slots: u64) {
    let what = format!("{} has {slots} slots", host.name());
    eventually(&what, async || {
        proxy.host_metric("capacity", host.name()).await == slots
    })
    .await;
}

#[tokio::test]
async fn a_host_never_gets_more_than_the_slots_that_its_status_shows() {
    let wide = sim_host("wide").slots(3).behaving(WORK).start();
    let narrow = sim_host("narrow").slots(1).behaving(WORK).start();
    let proxy = Proxy::in_front_of(&[&wide, &narrow]).await;
    believes(&proxy, &wide, 3).await;
    believes(&proxy, &narrow, 1).await;

    proxy.client().flood(150, 40).await;

    for (host, slots) in [(&wide, 3), (&narrow, 1)] {
        let record = host.record();
        assert_eq!(record.peak, slots, "on {}", host.name());
        assert_eq!(record.turned_away, 0, "by {}", host.name());
    }
}

#[tokio::test]
async fn a_change_of_a_hosts_slots_is_noticed() {
    let host = sim_host("host").slots(1).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    believes(&proxy, &host, 1).await;

    host.set_slots(4);

    believes(&proxy, &host, 4).await;
}

#[tokio::test]
async fn slots_in_the_configuration_win_over_those_in_the_status() {
    let host = sim_host("host").slots(8).behaving(WORK).start();
    let config = Config::with_hosts(&[&host]).set_host("host", "max_concurrent", 2);
    let proxy = Proxy::ready(&config, &[&host]).await;

    proxy.client().flood(60, 20).await;

    assert_eq!(host.record().peak, 2);
    assert_eq!(proxy.host_metric("capacity", "host").await, 2);
}

#[tokio::test]
async fn a_status_without_what_nobody_needs_counts_and_is_mentioned_once() {
    let host = sim_host("host")
        .slots(3)
        .status(StatusAnswer::NoEstimate)
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    believes(&proxy, &host, 3).await;
    proxy.logs("has no queue.waiting_estimate").await;
    host.is_checked(3).await;
    assert_eq!(proxy.log().matches("waiting_estimate").count(), 1);
}

#[tokio::test]
async fn a_host_that_tells_nothing_is_taken_to_have_two_slots() {
    let host = sim_host("host")
        .slots(8)
        .behaving(WORK)
        .status(StatusAnswer::Missing)
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    proxy.client().flood(60, 20).await;

    assert_eq!(host.record().peak, 2);
}

#[tokio::test]
async fn both_policies_use_all_slots_of_all_hosts() {
    for policy in ["least-busy", "round-robin"] {
        let gated = |name| {
            let host = sim_host(name).slots(2);
            host.behaving(Behaviour::ServeWhenReleased).start()
        };
        let (one, other) = (gated("one"), gated("other"));
        let config = Config::with_hosts(&[&one, &other])
            .set("pool", "policy", policy)
            .set_host("one", "max_concurrent", 2)
            .set_host("other", "max_concurrent", 2);
        let proxy = Proxy::ready(&config, &[&one, &other]).await;

        let replies: Vec<_> = (0..6)
            .map(|number| proxy.client().start_embed(&format!("text {number}")))
            .collect();
        one.runs(2).await;
        other.runs(2).await;
        proxy.queues(2).await;

        one.release_all();
        other.release_all();
        for (number, reply) in replies.into_iter().enumerate() {
            let reply = reply.await.unwrap();
            reply.assert_embedding_of(&format!("text {number}"));
        }
    }
}

#[tokio::test]
async fn connections_to_hosts_are_used_again() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    proxy.client().flood(50, 1).await;

    let connections = host.record().connections;
    assert!(connections <= 5, "{connections} connections");
}
