//! `discover: dns`: one host for each address behind a name, followed as the answers change.
//!
//! The hosts are on loopback addresses of their own, at one port; the DNS server is a real one.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::harness::{
    Authority, Behaviour, Config, DnsServer, HealthAnswer, Proxy, SimHost, eventually, sim_host,
};

const NAME: &str = "gpus.test";
const FIRST: &str = "127.0.0.2";
const SECOND: &str = "127.0.0.3";

/// Two hosts at one port.
fn two_hosts() -> (SimHost, SimHost) {
    let first = sim_host("gpus-127.0.0.2").at(FIRST, 0).start();
    let port = first.address().port();
    (first, sim_host("gpus-127.0.0.3").at(SECOND, port).start())
}

/// Hosts called `gpus-…` are to be found behind the name, at the port of `host`.
fn discovering(dns: &DnsServer, host: &SimHost) -> Config {
    let url = format!("http://{NAME}:{}", host.address().port());
    Config::new()
        .host("gpus", &url, None)
        .set_host("gpus", "discover", "dns")
        .set("pool", "resolver", dns.address())
}

#[tokio::test]
async fn hosts_appear_and_vanish_with_the_addresses() {
    let Some(dns) = DnsServer::start(1, &[(NAME, FIRST)]).await else {
        return;
    };
    let (first, second) = two_hosts();
    let proxy = Proxy::ready(&discovering(&dns, &first), &[&first]).await;
    proxy.client().embed("x").await.assert_embedding_of("x");
    let seen = &first.record().requests[0];
    let authority = format!("{NAME}:{}", first.address().port());
    assert_eq!(seen.headers["host"], authority, "its name, not its address");

    dns.set(&[(NAME, FIRST), (NAME, SECOND)]).await;
    proxy.finds_healthy(second.name()).await;
    proxy.client().flood(20, 4).await;
    assert!(second.arrivals() > 0);

    let before = first.arrivals();
    dns.set(&[(NAME, SECOND)]).await;
    proxy.has_hosts(&[second.name()]).await;
    proxy.client().flood(20, 4).await;
    assert_eq!(first.arrivals(), before, "nothing new");
}

#[tokio::test]
async fn a_host_whose_address_vanishes_ends_what_it_runs() {
    let Some(dns) = DnsServer::start(1, &[(NAME, FIRST)]).await else {
        return;
    };
    let (first, second) = two_hosts();
    let proxy = Proxy::ready(&discovering(&dns, &first), &[&first]).await;
    first.set(Behaviour::ServeWhenReleased);
    let running = proxy.client().start_embed("running");
    first.runs(1).await;

    dns.set(&[(NAME, SECOND)]).await;
    proxy.finds_healthy(second.name()).await;

    proxy.client().embed("new").await.assert_embedding_of("new");
    assert_eq!((first.arrivals(), second.arrivals()), (1, 1));
    first.release_all();
    let reply = running.await.unwrap();
    reply.assert_embedding_of("running");
    assert_eq!(reply.served_by(), first.name());
    proxy.has_hosts(&[second.name()]).await;
}

/// No check asks there any more.
#[tokio::test]
async fn what_runs_at_an_address_that_was_left_moves_once_that_is_silent() {
    const PATIENCE: Duration = Duration::from_secs(20);
    for is_discovered in [false, true] {
        let Some(dns) = DnsServer::start(1, &[(NAME, FIRST)]).await else {
            return;
        };
        let (first, second) = two_hosts();
        let url = format!("http://{NAME}:{}", first.address().port());
        let config = if is_discovered {
            discovering(&dns, &first)
        } else {
            Config::new().host("gpu", &url, None)
        };
        let config = config
            .set("pool", "resolver", dns.address())
            .set("timeouts", "attempt", "60s");
        let proxy = Proxy::start_with(&config, |_| {}).await;
        proxy
            .finds_healthy(if is_discovered { first.name() } else { "gpu" })
            .await;
        first.set(Behaviour::Hang);
        let running = proxy.client().start_embed("running");
        eventually("it runs", async || first.arrivals() == 1).await;

        dns.set(&[(NAME, SECOND)]).await;
        eventually("the other is used", async || second.record().checks > 0).await;
        first.set_health(HealthAnswer::Hang);

        let reply = timeout(PATIENCE, running).await.expect("it moves");
        reply.unwrap().assert_embedding_of("running");
        assert_eq!(second.arrivals(), 1);
    }
}

#[tokio::test]
async fn hosts_stay_while_the_dns_fails() {
    let records = [(NAME, FIRST), (NAME, SECOND)];
    let Some(mut dns) = DnsServer::start(1, &records).await else {
        return;
    };
    let (first, second) = two_hosts();
    let names = [first.name(), second.name()];
    let proxy = Proxy::ready(&discovering(&dns, &first), &[&first, &second]).await;

    dns.set(&[]).await;
    proxy.logs("the name does not exist").await;
    proxy.has_hosts(&names).await;
    proxy.client().flood(20, 4).await;

    dns.set(&records).await;
    proxy.logs("discovered again").await;
    dns.stop().await;
    let told = proxy.log().matches("hosts can't be discovered").count();
    eventually("it is told that nobody answers", async || {
        let now = proxy.log();
        now.matches("hosts can't be discovered").count() > told
    })
    .await;
    proxy.has_hosts(&names).await;
    proxy.client().flood(20, 4).await;
    assert!(first.arrivals() > 0 && second.arrivals() > 0);
}

#[tokio::test]
async fn over_tls_each_address_must_have_the_certificate_of_the_name() {
    let Some(dns) = DnsServer::start(1, &[(NAME, FIRST), (NAME, SECOND)]).await else {
        return;
    };
    let authority = Authority::new();
    let right = authority.issue(&[NAME]).server(None);
    let right = sim_host("gpus-127.0.0.2").tls(right).at(FIRST, 0).start();
    let wrong = authority.issue(&[SECOND]).server(None);
    let wrong = sim_host("gpus-127.0.0.3").tls(wrong);
    let wrong = wrong.at(SECOND, right.address().port()).start();
    let url = format!("https://{NAME}:{}", right.address().port());
    let config = Config::new()
        .host("gpus", &url, None)
        .set_host("gpus", "tls", json!({"ca": authority.path()}))
        .set_host("gpus", "discover", "dns")
        .set("pool", "resolver", dns.address());

    let proxy = Proxy::ready(&config, &[&right]).await;

    proxy.logs("health check failed").await;
    proxy.client().flood(10, 2).await;
    assert_eq!((right.arrivals(), wrong.arrivals()), (10, 0));
    assert!(!proxy.is_healthy(wrong.name()).await);
}

#[tokio::test]
async fn an_interval_overrides_what_the_answer_says() {
    let Some(dns) = DnsServer::start(300, &[(NAME, FIRST)]).await else {
        return;
    };
    let (first, second) = two_hosts();
    let config = discovering(&dns, &first).set_host("gpus", "discover_interval", "100ms");
    let proxy = Proxy::ready(&config, &[&first]).await;

    dns.set(&[(NAME, SECOND)]).await;

    proxy.has_hosts(&[second.name()]).await;
}

#[tokio::test]
async fn hosts_that_were_discovered_stay_through_a_reload() {
    let Some(mut dns) = DnsServer::start(300, &[(NAME, FIRST)]).await else {
        return;
    };
    let (first, other) = (two_hosts().0, sim_host("other").start());
    let config = discovering(&dns, &first);
    let proxy = Proxy::ready(&config, &[&first]).await;
    dns.stop().await;

    // Another interval makes it ask again, in vain.
    let config =
        config
            .set_host("gpus", "discover_interval", "50ms")
            .host("other", &other.url(), None);
    proxy.takes_over(&config).await;

    proxy.logs("hosts can't be discovered").await;
    proxy.has_hosts(&[first.name(), "other"]).await;
    proxy.client().flood(20, 4).await;
    assert!(first.arrivals() > 0);
}
