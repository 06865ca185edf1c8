//! Whose fault was it? A request that breaks hosts ends before it has walked through the pool, and no
//! client can empty the pool.

use crate::harness::{Behaviour, Config, Ending, Proxy, SimHost, eventually, sim_host};

fn hosts(names: [&str; 3], behaviour: &Behaviour) -> [SimHost; 3] {
    names.map(|name| sim_host(name).behaving(behaviour.clone()).start())
}

async fn in_front_of(hosts: &[SimHost; 3]) -> Proxy {
    Proxy::in_front_of(&hosts.each_ref()).await
}

/// How many hosts have seen a compute request.
fn reached(hosts: &[SimHost]) -> usize {
    hosts.iter().filter(|host| host.arrivals() > 0).count()
}

#[tokio::test]
async fn a_request_that_every_host_answers_with_500_gets_the_hosts_own_500() {
    let crash = Behaviour::internal_server_error();
    let hosts = hosts(["a", "b", "c"], &crash);
    let proxy = in_front_of(&hosts).await;

    let reply = proxy.client().embed("poison").await;

    assert_eq!(reply.status, 500);
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(reply.body, "Internal Server Error");
    assert!(["a", "b", "c"].contains(&reply.served_by()));
    assert_eq!(reached(&hosts), 2, "hosts that had to deal with it");
}

#[tokio::test]
async fn a_flood_of_requests_that_every_host_answers_with_500_ejects_no_host() {
    let hosts = hosts(["a", "b", "c"], &Behaviour::answer(500, "no such model"));
    let proxy = in_front_of(&hosts).await;
    let client = proxy.client();

    for _ in 0..20 {
        assert_eq!(
            client.embed("poison").await.assert_error(500),
            "no such model"
        );
    }

    for host in &hosts {
        assert!(proxy.is_healthy(host.name()).await, "{}", host.name());
        assert_eq!(proxy.ejections(host.name()).await, 0, "{}", host.name());
    }
    for host in &hosts {
        host.set(Behaviour::Serve);
    }
    client.flood(20, 4).await;
}

#[tokio::test]
async fn a_lone_hosts_500_is_delivered_and_ejects_nobody() {
    let host = sim_host("host")
        .behaving(Behaviour::answer(500, "CUDA error"))
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    for _ in 0..5 {
        let reply = proxy.client().embed("poison").await;
        assert_eq!(reply.assert_error(500), "CUDA error");
    }

    assert!(proxy.is_healthy("host").await);
    assert_eq!(proxy.ejections("host").await, 0);
}

#[tokio::test]
async fn a_request_that_kills_two_hosts_ends_and_spares_the_third() {
    for death in [
        Behaviour::Say("", Ending::Reset),
        Behaviour::DieMidBody(Ending::Close),
    ] {
        let hosts = hosts(["a", "b", "c"], &death);
        let proxy = in_front_of(&hosts).await;

        proxy.client().embed("poison").await.assert_error(502);

        assert_eq!(reached(&hosts), 2, "hosts that had to deal with it");
    }
}

/// Hosts that break what is poison and serve everything else.
fn four_that_poison_breaks() -> [SimHost; 4] {
    let broken = Behaviour::Say("", Ending::Reset).only_for("poison");
    ["a", "b", "c", "d"].map(|name| sim_host(name).behaving(broken.clone()).start())
}

#[tokio::test]
async fn requests_that_break_hosts_eject_none_that_serves_others_meanwhile() {
    let hosts = four_that_poison_breaks();
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let client = proxy.client();

    for _ in 0..10 {
        client.embed("poison").await.assert_error(502);
        client.flood(16, 8).await;
    }

    for host in &hosts {
        assert_eq!(proxy.ejections(host.name()).await, 0, "{}", host.name());
    }
}

#[tokio::test]
async fn a_client_with_nothing_but_poison_leaves_others_a_host() {
    let hosts = four_that_poison_breaks();
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let client = proxy.client();

    let floods = (0..4).map(|_| async {
        for _ in 0..10 {
            assert_ne!(client.embed("poison").await.status, 200);
        }
    });
    futures_util::future::join_all(floods).await;
    client
        .embed("harmless")
        .await
        .assert_embedding_of("harmless");

    eventually("all are back", async || {
        client.flood(16, 8).await;
        let mut serving = 0;
        for host in &hosts {
            serving += usize::from(proxy.is_healthy(host.name()).await);
        }
        serving == 4
    })
    .await;
}

#[tokio::test]
async fn a_request_that_two_hosts_never_answer_ends_and_spares_the_third() {
    let hosts = hosts(["a", "b", "c"], &Behaviour::Hang);
    let config = Config::with_hosts(&hosts.each_ref()).set("timeouts", "attempt", "300ms");
    let proxy = Proxy::ready(&config, &hosts.each_ref()).await;

    proxy.client().embed("poison").await.assert_error(502);

    assert_eq!(reached(&hosts), 2, "hosts that had to deal with it");
}

#[tokio::test]
async fn hosts_that_refuse_connections_do_not_count_as_broken_by_the_request() {
    let [first, second] = ["a", "b"].map(|name| sim_host(name).start());
    let last = sim_host("c").behaving(Behaviour::ServeWhenReleased).start();
    let hosts = [&first, &second, &last];
    // Checks are so rare that only requests find out who is down.
    let config = Config::with_hosts(&hosts)
        .set("health", "interval", "1h")
        .set_host("c", "max_concurrent", 1);
    let proxy = Proxy::ready(&config, &hosts).await;
    let client = proxy.client();
    let occupying: Vec<_> = (0..3).map(|_| client.start_embed("one each")).collect();
    last.runs(1).await;

    // The last host is full, so the next request has to try the others first.
    first.stop();
    second.stop();
    let served = client.start_embed("survives");
    proxy.queues(1).await;
    assert!(proxy.failed_attempts("a").await >= 1);
    assert!(proxy.failed_attempts("b").await >= 1);
    last.release_all();

    served.await.unwrap().assert_embedding_of("survives");
    for reply in occupying {
        reply.await.unwrap().assert_embedding_of("one each");
    }
}

#[tokio::test]
async fn busy_hosts_do_not_count_as_broken_by_the_request() {
    let hosts = hosts(["a", "b", "c"], &Behaviour::busy(600));
    let proxy = in_front_of(&hosts).await;
    let waiting = proxy.client().start_embed("patience");
    proxy.queues(1).await;
    assert_eq!(reached(&hosts), 3);

    hosts[2].set(Behaviour::Serve);

    let reply = waiting.await.unwrap();
    reply.assert_embedding_of("patience");
    assert_eq!(reply.served_by(), "c");
}

#[tokio::test]
async fn what_is_wrong_with_the_request_is_told_by_the_first_host() {
    for (status, detail) in [
        (400, "candidates and references must have equal length"),
        (413, "too large for this host"),
        (422, "texts array length 101 exceeds max batch size of 100"),
    ] {
        let hosts = hosts(["a", "b", "c"], &Behaviour::answer(status, detail));
        let proxy = in_front_of(&hosts).await;

        let reply = proxy.client().embed("wrong").await;

        assert_eq!(reply.assert_error(status), detail);
        let attempts: usize = hosts.iter().map(SimHost::arrivals).sum();
        assert_eq!(attempts, 1, "attempts at a {status}");
        let host = reply.served_by();
        assert_eq!(proxy.ejections(host).await, 0);
    }
}
