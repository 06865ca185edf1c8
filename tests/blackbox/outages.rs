//! Hosts come and go, one by one or all at once; requests wait for them.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Answer, Behaviour, Config, Ending, HealthAnswer, Proxy, SimHost, eventually, sim_host,
};

#[tokio::test]
async fn requests_wait_while_all_hosts_are_down_and_are_served_when_they_are_back() {
    let hosts = [sim_host("a").start(), sim_host("b").start()];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    for host in &hosts {
        host.stop();
        proxy.finds_unhealthy(host.name()).await;
    }
    let texts: Vec<_> = (0..10).map(|number| format!("request {number}")).collect();
    let client = proxy.client();
    let waiting: Vec<_> = texts.iter().map(|text| client.start_embed(text)).collect();
    proxy.queues(10).await;

    hosts.iter().for_each(SimHost::restart);

    for (reply, text) in waiting.into_iter().zip(&texts) {
        reply.await.unwrap().assert_embedding_of(text);
    }
}

#[tokio::test]
async fn the_death_of_all_hosts_under_load_costs_no_request() {
    let work = Behaviour::ServeAfter(Duration::from_millis(5));
    let start = |name| sim_host(name).behaving(work.clone()).start();
    let hosts = [start("a"), start("b")];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    // One host at a time: a request that two hosts died under would be taken for the reason.
    let load = Load::on(&proxy);
    for host in &hosts {
        load.is_served_by(host).await;
        host.stop();
        proxy.finds_unhealthy(host.name()).await;
    }
    eventually("requests in the queue", async || {
        proxy.metrics().await.gauge("gpu_bridge_queue_length", &[]) > 0
    })
    .await;

    hosts.iter().for_each(SimHost::restart);

    for host in &hosts {
        load.is_served_by(host).await;
    }
    load.ends().await;
}

#[tokio::test]
async fn a_rolling_restart_of_all_hosts_is_invisible() {
    let work = Behaviour::ServeAfter(Duration::from_millis(5));
    let start = |name| sim_host(name).behaving(work.clone()).start();
    let hosts = [start("a"), start("b"), start("c")];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let load = Load::on(&proxy);

    for host in &hosts {
        load.is_served_by(host).await;
        host.stop();
        proxy.finds_unhealthy(host.name()).await;
        host.restart();
        proxy.finds_healthy(host.name()).await;
        load.is_served_by(host).await;
    }

    load.ends().await;
}

#[tokio::test]
async fn a_proxy_that_starts_before_its_hosts_lets_requests_wait_for_them() {
    let host = sim_host("host").start();
    host.stop();
    let proxy = Proxy::start(&Config::with_hosts(&[&host])).await;
    let waiting = proxy.client().start_embed("early");
    proxy.queues(1).await;

    host.restart();

    waiting.await.unwrap().assert_embedding_of("early");
}

#[tokio::test]
async fn a_request_that_waited_too_long_for_dead_hosts_is_told_when_to_come_again() {
    let host = sim_host("host").start();
    host.stop();
    let config = Config::with_hosts(&[&host]).set("queue", "max_wait", "300ms");
    let proxy = Proxy::start(&config).await;

    proxy.client().embed("too late").await.assert_come_again();
}

#[tokio::test]
async fn a_host_that_hangs_altogether_is_ejected_by_its_checks_and_comes_back() {
    let host = sim_host("host").start();
    let sibling = sim_host("sibling").start();
    let hosts = [&host, &sibling];
    let config = Config::with_hosts(&hosts).set("health", "timeout", "200ms");
    let proxy = Proxy::ready(&config, &hosts).await;

    host.set_health(HealthAnswer::Hang);
    proxy.finds_unhealthy("host").await;
    let before = host.arrivals();
    proxy.client().flood(10, 2).await;
    assert_eq!(host.arrivals(), before, "an ejected host got requests");

    host.set_health(HealthAnswer::Ok);
    proxy.finds_healthy("host").await;
}

#[tokio::test]
async fn requests_on_a_host_that_freezes_move_to_a_sibling_long_before_they_time_out() {
    let frozen = sim_host("frozen").behaving(Behaviour::Hang).start();
    let sibling = sim_host("sibling").start();
    let hosts = [&frozen, &sibling];
    let config = Config::with_hosts(&hosts)
        .set("health", "timeout", "200ms")
        .set("timeouts", "attempt", "10m");
    let proxy = Proxy::ready(&config, &hosts).await;
    let client = proxy.client();
    let texts: Vec<_> = (0..4).map(|number| format!("request {number}")).collect();
    let replies: Vec<_> = texts.iter().map(|text| client.start_embed(text)).collect();
    eventually("a request on the host", async || frozen.arrivals() > 0).await;

    frozen.set_health(HealthAnswer::Hang);

    for (reply, text) in replies.into_iter().zip(&texts) {
        let reply = reply.await.unwrap();
        reply.assert_embedding_of(text);
        assert_eq!(reply.served_by(), "sibling");
    }
    proxy.finds_unhealthy("frozen").await;
}

#[tokio::test]
async fn with_the_default_settings_requests_leave_a_host_that_freezes_before_or_in_an_answer() {
    for freezing in [Behaviour::Hang, Behaviour::DieMidBody(Ending::Silence)] {
        let frozen = sim_host("frozen").behaving(freezing).start();
        let sibling = sim_host("sibling").start();
        let hosts = [&frozen, &sibling];
        let config = Config::with_hosts(&hosts)
            .replace("health", json!({}))
            .replace("timeouts", json!({}));
        let proxy = Proxy::ready(&config, &hosts).await;
        let client = proxy.client();
        let request = || client.start_embed("text");
        let mut requests = vec![request()];
        eventually("a request on the host", async || {
            requests.push(request());
            frozen.arrivals() > 0
        })
        .await;

        frozen.set_health(HealthAnswer::Hang);

        for reply in requests {
            let reply = reply.await.unwrap();
            reply.assert_embedding_of("text");
            assert_eq!(reply.served_by(), "sibling");
        }
        proxy.finds_unhealthy("frozen").await;
    }
}

#[tokio::test]
async fn a_host_whose_health_check_fails_gets_no_requests() {
    let host = sim_host("host").start();
    let sibling = sim_host("sibling").start();
    let proxy = Proxy::in_front_of(&[&host, &sibling]).await;

    host.set_health(HealthAnswer::Answer(Answer::error(500, "GPU lost")));
    proxy.finds_unhealthy("host").await;
    proxy.client().flood(10, 2).await;

    assert_eq!(host.arrivals(), 0);
    assert!(proxy.ejections("host").await >= 1);
}

#[tokio::test]
async fn a_busy_answer_to_a_health_check_is_no_fault() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    host.set_health(HealthAnswer::Answer(Answer::busy(503, 1)));
    eventually("the host is busy", async || {
        proxy.host_metric("busy", "host").await == 1
    })
    .await;

    assert!(proxy.is_healthy("host").await);
    assert_eq!(proxy.ejections("host").await, 0);
}

#[tokio::test]
async fn a_host_stays_in_the_pool_as_long_as_its_faults_are_fewer_than_configured() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("health", "unhealthy_after", 1_000);
    let proxy = Proxy::ready(&config, &[&host]).await;

    host.stop();
    let waiting = proxy.client().start_embed("patience");
    eventually("a failed attempt", async || {
        proxy.failed_attempts("host").await >= 1
    })
    .await;
    assert!(proxy.is_healthy("host").await);
    host.restart();

    waiting.await.unwrap().assert_embedding_of("patience");
    assert_eq!(proxy.ejections("host").await, 0);
}

#[tokio::test]
async fn a_host_may_be_given_by_name() {
    let host = sim_host("a").start();
    let url = host.url().replace("127.0.0.1", "localhost");
    let config = Config::with_hosts(&[&host]).set_host("a", "url", url);
    let proxy = Proxy::ready(&config, &[&host]).await;
    proxy
        .client()
        .embed("hello")
        .await
        .assert_embedding_of("hello");
}

#[tokio::test]
async fn a_host_whose_name_does_not_exist_is_out_and_its_sibling_serves() {
    let host = sim_host("a").start();
    let config = Config::with_hosts(&[&host]).host("b", "http://nowhere.invalid:1", None);
    let proxy = Proxy::start(&config).await;
    proxy.finds_healthy("a").await;
    proxy
        .client()
        .embed("hello")
        .await
        .assert_embedding_of("hello");
    assert!(!proxy.is_healthy("b").await);
}

/// Requests without end, each of which must be answered well.
struct Load {
    clients: Vec<tokio::task::JoinHandle<()>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Load {
    fn on(proxy: &Proxy) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let client = |number| {
            let (client, stopped) = (proxy.client(), stopped.clone());
            tokio::spawn(async move {
                let text = format!("client {number}");
                while !*stopped.borrow() {
                    client.embed(&text).await.assert_embedding_of(&text);
                }
            })
        };
        let clients = (0..8).map(client).collect();
        Self { clients, stop }
    }

    /// Returns once `host` gets some of the load.
    async fn is_served_by(&self, host: &SimHost) {
        let before = host.record().taken_on.len();
        let what = format!("load on {}", host.name());
        eventually(&what, async || host.record().taken_on.len() > before + 4).await;
    }

    async fn ends(self) {
        self.stop.send_replace(true);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}
