//! Hosts may be reached over TLS; none that can't prove who it is gets a request.

use serde_json::{Value, json};

use crate::harness::{
    Authority, Config, Identity, Proxy, SimHost, eventually, sim_host, without_authorities,
};

const ADDRESS: &str = "127.0.0.1";

fn https(name: &str, identity: &Identity) -> SimHost {
    sim_host(name).tls(identity.server(None)).start()
}

fn trusting(host: &SimHost, tls: impl Into<Value>) -> Config {
    Config::with_hosts(&[host]).set_host(host.name(), "tls", tls)
}

/// Fails the test unless the proxy refuses `host`, says why in its log, and sends nothing there.
async fn assert_refused(host: &SimHost, config: Config, reason: &str) {
    let sibling = sim_host("sibling").start();
    let config = config.host("sibling", &sibling.url(), None);
    let proxy = Proxy::ready(&config, &[&sibling]).await;
    eventually(&format!("{reason} in the log"), async || {
        let log = proxy.log();
        let lines = log.lines().filter(|line| line.contains("health check"));
        lines.clone().any(|line| line.contains(reason))
    })
    .await;
    for _ in 0..4 {
        let reply = proxy.client().embed("x").await;
        assert_eq!(reply.served_by(), "sibling");
    }
    assert!(!proxy.is_healthy(host.name()).await);
    assert_eq!(host.arrivals(), 0);
}

#[tokio::test]
async fn a_host_is_verified_by_address_or_by_name_and_its_connections_are_kept() {
    let authority = Authority::new();
    let by_address = https("address", &authority.issue(&[ADDRESS]));
    let by_name = https("name", &authority.issue(&["gpu.example"]));
    let hosts = [&by_address, &by_name];
    let config = Config::with_hosts(&hosts)
        .set_host("address", "tls", json!({"ca": authority.path()}))
        .set_host(
            "name",
            "tls",
            json!({"ca": authority.path(), "server_name": "gpu.example"}),
        );
    let proxy = Proxy::ready(&config, &hosts).await;

    for number in 0..20 {
        let text = format!("text {number}");
        proxy.client().embed(&text).await.assert_embedding_of(&text);
    }

    for host in hosts {
        let record = host.record();
        assert!(record.requests.len() >= 5, "{}", host.name());
        assert!(record.connections <= 5, "{}: kept alive", host.name());
    }
}

#[tokio::test]
async fn the_wrong_name_is_refused() {
    let authority = Authority::new();
    let host = https("host", &authority.issue(&["other.example", "127.0.0.2"]));

    let config = trusting(&host, json!({"ca": authority.path()}));

    assert_refused(&host, config, "TLS: its certificate is for another name").await;
}

#[tokio::test]
async fn the_wrong_server_name_is_refused() {
    let authority = Authority::new();
    let host = https("host", &authority.issue(&[ADDRESS]));

    let tls = json!({"ca": authority.path(), "server_name": "gpu.example"});

    assert_refused(
        &host,
        trusting(&host, tls),
        "TLS: its certificate is for another name",
    )
    .await;
}

#[tokio::test]
async fn a_problem_is_told_once() {
    let host = https("host", &Authority::new().issue(&[ADDRESS]));
    let sibling = sim_host("sibling").start();
    let config = Config::with_hosts(&[&host, &sibling]);
    let proxy = Proxy::ready(&config, &[&sibling]).await;
    let accepted = host.record().connections;
    eventually("some checks have failed", async || {
        host.record().connections > accepted + 5
    })
    .await;

    assert_eq!(proxy.log().matches("health check failed").count(), 1);
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let host = https("host", &Authority::new().issue(&[ADDRESS]));
    let other = Authority::new();

    let config = trusting(&host, json!({"ca": other.path()}));
    assert_refused(
        &host,
        config,
        "TLS: its certificate is from an authority that is not trusted",
    )
    .await;
}

/// A file that `SSL_CERT_FILE` names in vain is no reason to refuse what needs none.
#[tokio::test]
async fn without_the_system_s_authorities_others_are_trusted() {
    let authority = Authority::new();
    let [named, unnamed] =
        ["named", "unnamed"].map(|name| https(name, &authority.issue(&[ADDRESS])));
    let plain = sim_host("plain").start();
    let config = Config::with_hosts(&[&named, &unnamed, &plain]);
    let config = config.set_host("named", "tls", json!({"ca": authority.path()}));

    let proxy = Proxy::ready_with(&config, &[&named, &plain], without_authorities).await;

    proxy.client().embed("x").await.assert_embedding_of("x");
    assert_eq!(unnamed.arrivals(), 0);
    proxy.logs("the system's authorities can't be used: ").await;
}

#[tokio::test]
async fn the_authorities_of_the_system_are_asked_where_none_is_named() {
    let host = https("host", &Authority::new().issue(&[ADDRESS]));

    assert_refused(
        &host,
        Config::with_hosts(&[&host]),
        "TLS: its certificate is from an authority that is not trusted",
    )
    .await;
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_refused() {
    let authority = Authority::new();
    let host = https("host", &authority.issue_until(&[ADDRESS], 2001));

    let config = trusting(&host, json!({"ca": authority.path()}));

    assert_refused(&host, config, "TLS: its certificate has expired").await;
}

#[tokio::test]
async fn insecure_accepts_any_certificate_and_says_so() {
    let host = https("host", &Authority::new().issue(&["other.example"]));

    let proxy = Proxy::ready(&trusting(&host, json!({"insecure": true})), &[&host]).await;

    proxy.client().embed("x").await.assert_embedding_of("x");
    assert!(proxy.log().contains("tls.insecure"), "{}", proxy.log());
}

#[tokio::test]
async fn what_one_host_trusts_is_not_trusted_for_another_at_the_same_address() {
    let authority = Authority::new();
    let host = https("trusted", &authority.issue(&[ADDRESS, "a.example"]));
    // Not the same URL, but the same address once the name is looked up.
    let url = host.url().replace(ADDRESS, "localhost");
    let trusted = json!({"ca": authority.path()});
    let config = trusting(&host, trusted).host("other", &url, None).set_host(
        "other",
        "tls",
        json!({"server_name": "a.example"}),
    );
    let proxy = Proxy::ready(&config, &[&host]).await;

    for _ in 0..6 {
        let reply = proxy.client().embed("x").await;
        assert_eq!(reply.served_by(), "trusted");
    }
    assert!(!proxy.is_healthy("other").await);
}

#[tokio::test]
async fn a_host_that_asks_for_a_certificate_gets_ours() {
    let authority = Authority::new();
    let server = authority.issue(&[ADDRESS]).server(Some(&authority));
    let host = sim_host("host").tls(server).start();
    let ours = authority.issue(&["gpu-bridge"]);
    let tls = json!({
        "ca": authority.path(), "certificate": ours.certificate(), "key": ours.key(),
    });

    let proxy = Proxy::ready(&trusting(&host, tls), &[&host]).await;
    proxy.client().embed("x").await.assert_embedding_of("x");

    let config = trusting(&host, json!({"ca": authority.path()}));
    let proxy = Proxy::start(&config).await;
    eventually("the refusal is in the log", async || {
        proxy.log().contains("health check failed")
    })
    .await;
}

#[tokio::test]
async fn files_that_can_not_be_used_are_an_error_at_start() {
    let authority = Authority::new();
    let ours = authority.issue(&["gpu-bridge"]);
    let host = https("rtx", &authority.issue(&[ADDRESS]));
    let other = authority.issue(&["gpu-bridge"]);
    let tls = json!({"certificate": ours.certificate(), "key": other.key()});

    let log = Proxy::fails_to_start(&trusting(&host, tls)).await;

    assert!(log.contains("pool.hosts[0].tls.key"), "{log}");
    assert!(log.contains(&other.key().display().to_string()), "{log}");
}
