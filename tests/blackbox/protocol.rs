//! What the proxy makes of HTTP: routes, headers, connections.

use std::collections::BTreeSet;

use http::{HeaderMap, Method};
use tokio::net::TcpStream;

use crate::harness::{
    Behaviour, Config, Proxy, RawConnection, Reply, SimHost, Wire, embed_body, embed_request,
    embedding_of, eventually, sim_host,
};

/// The headers that `host` saw last.
fn last_headers(host: &SimHost) -> HeaderMap {
    host.record().requests.last().unwrap().headers.clone()
}

#[tokio::test]
async fn other_paths_are_not_found() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    for path in [
        "/", "/nowhere", "/Embed", "/embed/x", "/metrics", "//", "/docs",
    ] {
        for method in [Method::GET, Method::POST] {
            let reply = Reply::to(proxy.client().request(method, path)).await;
            assert_eq!(reply.assert_error(404), "Not Found", "{path}");
        }
    }
    assert_eq!(host.arrivals(), 0);
}

#[tokio::test]
async fn other_methods_are_told_the_right_one() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    for (path, allowed) in [
        ("/health", "GET"),
        ("/info", "GET"),
        ("/status", "GET"),
        ("/embed", "POST"),
        ("/bertscore", "POST"),
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            if method == allowed {
                continue;
            }
            let request = proxy.client().request(method.parse().unwrap(), path);
            let reply = Reply::to(request).await;
            assert_eq!(
                reply.assert_error(405),
                "Method Not Allowed",
                "{method} {path}"
            );
            assert_eq!(reply.header("allow"), Some(allowed), "{method} {path}");
        }
    }
    assert_eq!(host.arrivals(), 0);
}

/// The same head as for GET, and nothing after it: in HTTP/1 the next answer follows, in HTTP/2 more
/// would break the connection.
#[tokio::test]
async fn head_is_answered_as_get_is_but_for_the_body() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let open = async || TcpStream::connect(proxy.address()).await.unwrap();
    for mut wire in [
        Wire::http1(open().await).await,
        Wire::http2(open().await).await,
    ] {
        for (path, status) in [
            ("/health", 200),
            ("/info", 200),
            ("/status", 200),
            ("/health/", 307),
            ("/nowhere", 404),
            ("/embed", 405),
        ] {
            let method = if status == 405 {
                Method::PUT
            } else {
                Method::GET
            };
            let got = wire.send(wire.request(method, path, "")).await;
            let head = wire.send(wire.request(Method::HEAD, path, "")).await;
            assert_eq!(head.status, status, "{path}");
            assert!(head.body.is_empty(), "{path}");
            assert_eq!(names(&head), names(&got), "{path}");
            let length = got.body.len().to_string();
            if path != "/status" {
                assert_eq!(head.header("content-length"), Some(&*length), "{path}");
            }
            assert_eq!(head.header("allow"), got.header("allow"), "{path}");
        }
        wire.embed("after").await.assert_embedding_of("after");
    }
}

/// A refused one neither.
#[tokio::test]
async fn a_bad_request_for_a_head_gets_no_body() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    for method in ["HEAD", "GET"] {
        let mut connection = proxy.connect().await;
        let request = format!("{method} /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
        connection.send(request).await;
        assert_eq!(connection.head().await.0, 400);
        assert_eq!(connection.rest().await.is_empty(), method == "HEAD");
    }
}

fn names(reply: &Reply) -> BTreeSet<&str> {
    reply.headers.keys().map(http::HeaderName::as_str).collect()
}

/// What would follow the head of such an answer would be taken for the next one.
#[tokio::test]
async fn an_answer_that_has_no_body_is_passed_on_without_one() {
    let open = async |proxy: &Proxy| TcpStream::connect(proxy.address()).await.unwrap();
    for status in [204, 205, 304] {
        let host = sim_host("host").start();
        let proxy = Proxy::in_front_of(&[&host]).await;
        for mut wire in [
            Wire::http1(open(&proxy).await).await,
            Wire::http2(open(&proxy).await).await,
        ] {
            host.set(Behaviour::answer(status, "not for these"));
            let reply = wire.embed("x").await;
            assert!(reply.body.is_empty() || reply.status != status, "{reply:?}");
            host.set(Behaviour::Serve);
            wire.embed("after").await.assert_embedding_of("after");
        }
    }
}

#[tokio::test]
async fn both_compute_routes_and_their_queries_reach_the_host() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let pair = serde_json::json!({"candidates": ["one"], "references": ["other"]});

    let reply = proxy.client().post("/bertscore", &pair).await;
    let score = embedding_of("one")[0];
    assert_eq!(reply.json()["f1"], serde_json::json!([score]));
    let reply = proxy
        .client()
        .post("/embed?trace=1", &embed_body("x"))
        .await;
    reply.assert_embedding_of("x");

    let record = host.record();
    let paths: Vec<_> = record
        .requests
        .iter()
        .map(|seen| &seen.path_and_query)
        .collect();
    assert_eq!(paths, ["/bertscore", "/embed?trace=1"]);
}

#[tokio::test]
async fn a_sane_request_id_is_kept_from_client_to_host_and_back() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    let request = proxy.client().request(Method::POST, "/embed");
    let request = request
        .header("X-Request-Id", "job-42.a_B")
        .json(&embed_body("x"));
    let reply = Reply::to(request).await;

    assert_eq!(reply.header("x-request-id"), Some("job-42.a_B"));
    assert_eq!(last_headers(&host)["x-request-id"], "job-42.a_B");
}

#[tokio::test]
async fn a_request_id_that_could_spoil_a_log_is_replaced() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let long = "x".repeat(1000);

    for odd in ["two words", "quo\"te", "", &long] {
        let request = proxy.client().request(Method::POST, "/embed");
        let request = request.header("X-Request-Id", odd).json(&embed_body("x"));
        let reply = Reply::to(request).await;

        let id = reply.header("x-request-id").expect("an id");
        assert_ne!(id, odd);
        assert!((8..=64).contains(&id.len()), "{id:?}");
        assert_eq!(last_headers(&host)["x-request-id"], id);
    }
}

#[tokio::test]
async fn every_answer_has_a_request_id_of_its_own() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let client = proxy.client();
    let mut ids = Vec::new();

    for path in ["/health", "/info", "/status", "/nowhere", "/embed"] {
        let reply = client.get(path).await;
        ids.push(reply.header("x-request-id").expect(path).to_owned());
    }
    for _ in 0..2 {
        let reply = client.embed("x").await;
        ids.push(reply.header("x-request-id").unwrap().to_owned());
    }

    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 7);
}

#[tokio::test]
async fn a_compute_answer_names_its_host_and_the_time_in_the_queue() {
    let hosts = [sim_host("a").start(), sim_host("b").start()];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;

    for number in 0..4 {
        let text = format!("text {number}");
        let reply = proxy.client().embed(&text).await;
        let host = hosts.iter().find(|host| host.name() == reply.served_by());
        assert!(host.unwrap().record().taken_on.contains(&text));
        let timing = reply.header("server-timing").expect("Server-Timing");
        assert!(timing.contains("queue;dur="), "{timing}");
    }
}

#[tokio::test]
async fn headers_about_the_connection_are_not_passed_on() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let body = embed_body("x").to_string();
    let mut connection = proxy.connect().await;

    let length = body.len();
    connection
        .send(format!(
            "POST /embed HTTP/1.1\r\nHost: proxy.example\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: keep-alive, X-Private\r\nX-Private: 1\r\n\
             Keep-Alive: timeout=5\r\nTE: trailers\r\nProxy-Authorization: Basic eA==\r\n\
             Proxy-Connection: keep-alive\r\nX-Public: 2\r\nAccept: a/b\r\n\r\n{body}"
        ))
        .await;
    let reply = connection.reply().await;

    reply.assert_embedding_of("x");
    let seen = last_headers(&host);
    let private = [
        "x-private",
        "keep-alive",
        "te",
        "proxy-authorization",
        "proxy-connection",
    ];
    for name in private {
        assert!(!seen.contains_key(name), "{name} in {seen:?}");
    }
    assert_eq!(seen["host"], host.address().to_string());
    assert_eq!(seen["x-public"], "2");
    assert_eq!(seen["accept"], "a/b");
    assert_eq!(seen["content-type"], "application/json");
    // And on the way back.
    assert_ne!(reply.header("keep-alive"), Some("timeout=60"));
    assert_eq!(reply.header("x-sim"), Some("end to end"));
}

#[tokio::test]
async fn many_requests_on_one_connection_are_served() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut connection = proxy.connect().await;

    for number in 0..50 {
        let text = format!("text {number}");
        connection.send_embed(&text).await;
        connection.reply().await.assert_embedding_of(&text);
    }
}

#[tokio::test]
async fn requests_sent_ahead_are_served_in_order() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut connection = proxy.connect().await;
    let texts = ["first", "second", "third"];

    connection.send(texts.map(embed_request).concat()).await;

    for text in texts {
        connection.reply().await.assert_embedding_of(text);
    }
}

#[tokio::test]
async fn a_connection_survives_refusals() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut connection = proxy.connect().await;

    for request in ["GET /nowhere", "PUT /embed", "GET /health"] {
        connection
            .send(format!("{request} HTTP/1.1\r\nHost: proxy\r\n\r\n"))
            .await;
        connection.reply().await;
    }
    connection.send_embed("after").await;
    connection.reply().await.assert_embedding_of("after");
}

#[tokio::test]
async fn a_trailing_slash_is_redirected() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    for path in ["/embed", "/health"] {
        let mut connection = proxy.connect().await;
        let request = format!("POST {path}/ HTTP/1.1\r\nHost: proxy\r\nContent-Length: 0\r\n\r\n");
        connection.send(request).await;
        let reply = connection.reply().await;
        assert_eq!(reply.status, 307);
        assert_eq!(reply.header("location"), Some(path));
    }
}

#[tokio::test]
async fn a_connection_too_many_is_told_to_come_again() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host]).set("limits", "max_connections", 1);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut first = proxy.connect().await;
    first.send_embed("first").await;
    host.runs(1).await;

    let mut second = proxy.connect().await;
    second.reply().await.assert_come_again();
    assert!(second.rest().await.is_empty());

    host.release_all();
    first.reply().await.assert_embedding_of("first");
    let mut third = proxy.connect().await;
    third.send_embed("third").await;
    third.reply().await.assert_embedding_of("third");
}

#[tokio::test]
async fn every_request_leaves_a_line_in_the_log() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    let request = proxy.client().request(Method::POST, "/embed");
    let request = request
        .header("X-Request-Id", "find-me")
        .json(&embed_body("text of a client"));
    Reply::to(request)
        .await
        .assert_embedding_of("text of a client");

    eventually("a line in the log", async || {
        proxy.log().contains("find-me")
    })
    .await;
    assert!(!proxy.log().contains("text of a client"));
}

#[tokio::test]
async fn a_client_of_http_1_0_is_served_and_hung_up_on() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let body = embed_body("old").to_string();
    let mut connection = proxy.connect().await;

    let length = body.len();
    connection
        .send(format!(
            "POST /embed HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;

    connection.reply().await.assert_embedding_of("old");
    assert!(connection.rest().await.is_empty());
}

#[tokio::test]
async fn nonsense_does_not_harm() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    for nonsense in [
        "\r\n\r\n",
        "GET\r\n\r\n",
        "\0\0\0\0",
        "POST /embed HTTP/9.9\r\n\r\n",
    ] {
        let mut connection: RawConnection = proxy.connect().await;
        connection.send(nonsense).await;
    }

    proxy
        .client()
        .embed("still there")
        .await
        .assert_embedding_of("still there");
    assert_eq!(host.arrivals(), 1);
}
