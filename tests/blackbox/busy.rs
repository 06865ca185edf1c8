//! A host that is alive but full is skipped, never ejected, and used again as soon as it may be.

use crate::harness::{Behaviour, Config, Proxy, SimHost, StatusAnswer, eventually, sim_host};

/// A host that is full won't be asked again for this long unless something better is known.
const LONG: u64 = 600;

#[tokio::test]
async fn a_request_behind_others_at_a_host_that_never_gets_to_it_is_moved_to_a_free_slot() {
    let hosts = ["a", "b"].map(|name| sim_host(name).slots(1).behaving(Behaviour::Hang).start());
    for host in &hosts {
        host.set_foreign(1);
    }
    let config = Config::with_hosts(&hosts.each_ref());
    let proxy = Proxy::ready(&config, &hosts.each_ref()).await;
    for host in &hosts {
        host.is_checked(3).await;
    }
    let waiting = proxy.client().start_embed("text");
    eventually("it waits at one of them", async || {
        hosts.iter().map(SimHost::arrivals).sum::<usize>() == 1
    })
    .await;
    let [stuck, free] = if hosts[0].arrivals() == 1 {
        [0, 1]
    } else {
        [1, 0]
    };
    hosts[free].set(Behaviour::Serve);
    hosts[free].set_foreign(0);

    let reply = waiting.await.unwrap();

    reply.assert_embedding_of("text");
    assert_eq!(reply.served_by(), hosts[free].name());
    assert_eq!(proxy.attempts(hosts[stuck].name(), "busy").await, 1);
    assert_eq!(proxy.ejections(hosts[stuck].name()).await, 0);
}

#[tokio::test]
async fn a_busy_host_is_hidden_by_its_sibling_and_used_again_afterwards() {
    let busy = sim_host("busy").behaving(Behaviour::busy(LONG)).start();
    let free = sim_host("free").start();
    // So that each request is an attempt.
    let config = Config::with_hosts(&[&busy, &free]).set("batching", "merge", false);
    let proxy = Proxy::ready(&config, &[&busy, &free]).await;

    proxy.client().flood(200, 8).await;

    assert!(busy.arrivals() > 0, "the busy host was never asked");
    assert!(proxy.attempts("busy", "busy").await > 0);
    assert_eq!(proxy.attempts("free", "deliver").await, 200);
    assert!(proxy.is_healthy("busy").await);
    assert_eq!(proxy.host_metric("busy", "busy").await, 1);
    assert_eq!(proxy.ejections("busy").await, 0);

    busy.set(Behaviour::Serve);
    free.set(Behaviour::busy(LONG));
    let reply = proxy.client().embed("the tables turned").await;
    reply.assert_embedding_of("the tables turned");
    assert_eq!(reply.served_by(), "busy");
}

#[tokio::test]
async fn a_host_that_answers_429_with_retry_after_is_busy_too() {
    let busy = sim_host("busy")
        .behaving(Behaviour::too_many_requests(LONG))
        .start();
    let free = sim_host("free").start();
    let proxy = Proxy::in_front_of(&[&busy, &free]).await;

    proxy.client().flood(20, 4).await;

    assert!(proxy.attempts("busy", "busy").await > 0);
    assert!(proxy.is_healthy("busy").await);
    assert_eq!(proxy.ejections("busy").await, 0);
}

#[tokio::test]
async fn a_busy_host_is_used_again_when_its_time_has_passed() {
    for refusal in [Behaviour::busy(1), Behaviour::too_many_requests(1)] {
        // Its /status gives no reason to come earlier.
        let host = sim_host("host")
            .behaving(refusal)
            .status(StatusAnswer::NoneFree)
            .start();
        let proxy = Proxy::in_front_of(&[&host]).await;
        let waiting = proxy.client().start_embed("patience");
        proxy.queues(1).await;

        host.set(Behaviour::Serve);

        waiting.await.unwrap().assert_embedding_of("patience");
    }
}

#[tokio::test]
async fn a_busy_host_is_used_earlier_when_its_status_shows_a_free_slot() {
    for refusal in [Behaviour::busy(LONG), Behaviour::too_many_requests(LONG)] {
        let host = sim_host("host").behaving(refusal).start();
        let proxy = Proxy::in_front_of(&[&host]).await;
        let waiting = proxy.client().start_embed("patience");
        proxy.queues(1).await;

        host.set(Behaviour::Serve);

        waiting.await.unwrap().assert_embedding_of("patience");
    }
}

#[tokio::test]
async fn a_busy_host_is_used_earlier_when_an_attempt_of_ours_ends_there() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .status(StatusAnswer::NoneFree)
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let first = proxy.client().start_embed("first");
    host.runs(1).await;
    host.set(Behaviour::busy(LONG));
    let second = proxy.client().start_embed("second");
    proxy.queues(1).await;

    host.set(Behaviour::Serve);
    host.release_all();

    first.await.unwrap().assert_embedding_of("first");
    second.await.unwrap().assert_embedding_of("second");
}

#[tokio::test]
async fn requests_wait_in_order_while_all_hosts_are_busy() {
    let host = sim_host("host")
        .slots(1)
        .behaving(Behaviour::busy(LONG))
        .start();
    let other = sim_host("other").behaving(Behaviour::busy(LONG)).start();
    let proxy = Proxy::in_front_of(&[&host, &other]).await;
    let texts: Vec<_> = (0..10).map(|number| format!("request {number}")).collect();
    let mut waiting = Vec::new();
    for (text, length) in texts.iter().zip(1..) {
        waiting.push(proxy.client().start_embed(text));
        proxy.queues(length).await;
    }

    host.set(Behaviour::Serve);

    for (reply, text) in waiting.into_iter().zip(&texts) {
        reply.await.unwrap().assert_embedding_of(text);
    }
    assert_eq!(host.record().taken_on, texts);
    assert!(proxy.is_healthy("other").await);
}

/// One whose free slots belong to somebody else by the time we ask, say.
#[tokio::test]
async fn a_busy_host_that_shows_free_slots_all_the_same_is_not_hammered() {
    let host = sim_host("host")
        .behaving(Behaviour::busy(LONG))
        .status(StatusAnswer::AllFree)
        .start();
    let config = Config::with_hosts(&[&host]).set("queue", "max_wait", "1s");
    let proxy = Proxy::ready(&config, &[&host]).await;

    proxy.client().embed("in vain").await.assert_come_again();

    assert!(host.arrivals() > 0);
    assert!(host.arrivals() <= 40, "{} attempts", host.arrivals());
}

#[tokio::test]
async fn retries_because_of_busy_hosts_are_counted() {
    let busy = sim_host("busy").behaving(Behaviour::busy(LONG)).start();
    let free = sim_host("free").start();
    let proxy = Proxy::in_front_of(&[&busy, &free]).await;

    proxy.client().flood(4, 1).await;

    let busy = proxy.attempts("busy", "busy").await;
    let metrics = proxy.metrics().await;
    let retries = metrics.count("gpu_bridge_retries_total", &[("reason", "busy")]);
    assert!(busy > 0);
    assert_eq!(retries, busy);
}
