//! Clients show their key to the proxy, the proxy shows each host that host's own; no key goes any
//! further than that.

use http::Method;
use serde_json::json;

use crate::harness::{Client, Config, Proxy, Reply, SimHost, embed_body, sim_host};

const CLIENT_KEY: &str = "client-secret-1";
const HOST_KEY: &str = "host-secret-2";

async fn get(client: &Client, path: &str, key: Option<&str>) -> Reply {
    send(client, Method::GET, path, key).await
}

async fn send(client: &Client, method: Method, path: &str, key: Option<&str>) -> Reply {
    let request = client.request(method, path).json(&embed_body("with a key"));
    Reply::to(match key {
        Some(key) => request.header("X-API-Key", key),
        None => request,
    })
    .await
}

async fn locked_proxy(host: &SimHost) -> Proxy {
    let config = Config::with_hosts(&[host]).client_key("somebody", CLIENT_KEY);
    Proxy::ready(&config, &[host]).await
}

#[tokio::test]
async fn who_shows_no_key_or_a_wrong_one_is_refused_before_anything_else() {
    let host = sim_host("host").start();
    let proxy = locked_proxy(&host).await;
    let client = proxy.client();
    let wrong = [
        None,
        Some(""),
        Some("client-secret"),
        Some("CLIENT-SECRET-1"),
    ];
    let requests = [
        (Method::POST, "/embed"),
        (Method::POST, "/bertscore"),
        (Method::GET, "/info"),
        (Method::GET, "/status"),
        (Method::GET, "/nowhere"),
        (Method::GET, "/embed"),
        (Method::GET, "/health/"),
    ];

    for key in wrong {
        for (method, path) in &requests {
            let reply = send(&client, method.clone(), path, key).await;
            assert_eq!(
                reply.assert_error(401),
                "Unauthorized",
                "{method} {path} {key:?}"
            );
        }
    }

    assert_eq!(host.arrivals(), 0);
}

#[tokio::test]
async fn who_shows_the_right_key_is_served() {
    let host = sim_host("host").start();
    let proxy = locked_proxy(&host).await;
    let client = proxy.client();

    let reply = send(&client, Method::POST, "/embed", Some(CLIENT_KEY)).await;
    reply.assert_embedding_of("with a key");
    for path in ["/info", "/status", "/health"] {
        assert_eq!(
            get(&client, path, Some(CLIENT_KEY)).await.status,
            200,
            "{path}"
        );
    }
    get(&client, "/nowhere", Some(CLIENT_KEY))
        .await
        .assert_error(404);
}

#[tokio::test]
async fn each_of_several_keys_opens() {
    let host = sim_host("host").start();
    let keys = json!([{"name": "one", "key": "key-1"}, {"name": "other", "key": "key-2"}]);
    let config = Config::with_hosts(&[&host]).set("auth", "keys", keys);
    let proxy = Proxy::ready(&config, &[&host]).await;

    for key in ["key-1", "key-2"] {
        let reply = send(&proxy.client(), Method::POST, "/embed", Some(key)).await;
        reply.assert_embedding_of("with a key");
    }
}

#[tokio::test]
async fn health_needs_no_key() {
    let host = sim_host("host").start();
    let proxy = locked_proxy(&host).await;

    for key in [None, Some("wrong")] {
        assert_eq!(get(&proxy.client(), "/health", key).await.status, 200);
    }
}

/// Whatever it is that a stranger asks.
#[tokio::test]
async fn who_shows_no_key_learns_nothing_of_the_hosts() {
    let host = sim_host("secret-name").start();
    let proxy = locked_proxy(&host).await;
    let client = proxy.client();
    let address = host.address().to_string();
    for is_up in [true, false] {
        if !is_up {
            host.stop();
            proxy.finds_unhealthy(host.name()).await;
        }
        for path in [
            "/health", "/health/", "//health", "/info", "/status", "/embed", "/x",
        ] {
            for method in [Method::GET, Method::HEAD, Method::POST] {
                let request = client.request(method, path).body("{}");
                let told = format!("{:?}", Reply::to(request).await);
                for secret in ["secret-name", &address] {
                    assert!(!told.contains(secret), "{path}: {told}");
                }
            }
        }
    }
    let down = get(&client, "/health", None).await;
    assert_eq!(down.assert_error(503), "no host can serve");
    let details = get(&client, "/health", Some(CLIENT_KEY))
        .await
        .assert_error(503);
    assert!(details.contains("secret-name"), "{details}");
}

#[tokio::test]
async fn without_keys_in_the_configuration_everybody_is_served_and_the_log_says_so_once() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    proxy
        .client()
        .embed("no key")
        .await
        .assert_embedding_of("no key");
    let reply = send(&proxy.client(), Method::POST, "/embed", Some("any")).await;
    reply.assert_embedding_of("with a key");

    let log = proxy.log();
    let mentions = log
        .lines()
        .filter(|line| line.contains("auth.keys"))
        .count();
    assert_eq!(mentions, 1, "{log}");
}

#[tokio::test]
async fn a_host_sees_its_own_key_only() {
    let locked = sim_host("locked").key(HOST_KEY).start();
    let open = sim_host("open").start();
    let hosts = [&locked, &open];
    let config = Config::with_hosts(&hosts).client_key("somebody", CLIENT_KEY);
    let proxy = Proxy::ready(&config, &hosts).await;

    for _ in 0..4 {
        let reply = send(&proxy.client(), Method::POST, "/embed", Some(CLIENT_KEY)).await;
        reply.assert_embedding_of("with a key");
    }

    assert!(locked.arrivals() > 0 && open.arrivals() > 0);
    for seen in locked.record().requests {
        assert_eq!(seen.headers["x-api-key"], HOST_KEY);
        assert!(!format!("{:?}", seen.headers).contains(CLIENT_KEY));
    }
    for seen in open.record().requests {
        assert!(!seen.headers.contains_key("x-api-key"));
        assert!(!format!("{:?}", seen.headers).contains(CLIENT_KEY));
    }
}

#[tokio::test]
async fn a_key_that_nobody_asked_for_is_not_passed_on() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    send(&proxy.client(), Method::POST, "/embed", Some(CLIENT_KEY)).await;

    assert!(!host.record().requests[0].headers.contains_key("x-api-key"));
}

#[tokio::test]
async fn keys_appear_neither_in_the_log_nor_in_metrics_nor_in_answers() {
    let host = sim_host("host").key(HOST_KEY).start();
    let proxy = locked_proxy(&host).await;
    let client = proxy.client();
    let mut told = Vec::new();

    for key in [CLIENT_KEY, "wrong-secret-3"] {
        for (method, path) in [
            (Method::POST, "/embed"),
            (Method::GET, "/info"),
            (Method::GET, "/status"),
            (Method::GET, "/nowhere"),
        ] {
            let reply = send(&client, method, path, Some(key)).await;
            told.push(format!("{reply:?}"));
        }
    }
    told.push(proxy.metrics_text().await);
    told.push(proxy.log());

    let told = told.join("\n");
    for secret in [CLIENT_KEY, HOST_KEY, "wrong-secret-3"] {
        assert!(!told.contains(secret), "{secret} in:\n{told}");
    }
}
