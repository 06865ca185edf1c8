//! Connections to hosts that are kept, and hosts that answer before they have read a request.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::harness::{
    Answer, Authority, Behaviour, Client, Config, Ending, Proxy, Reply, SimHost, embed_body,
    eventually, padded, sim_host,
};

/// What no host ever computes.
const OTHERS: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                      Content-Length: 22\r\n\r\n{\"embeddings\":[[666]]}";
const NOTHING_CAME: &str = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 600\r\n\
                    Content-Length: 2\r\n\r\n{}";

/// More than the buffers between a host and the proxy take.
fn large() -> Bytes {
    padded(&embed_body("large"), 12 << 20).into()
}

async fn post(client: &Client, body: Bytes) -> Reply {
    let request = client.request(Method::POST, "/embed");
    let request = request.header("content-type", "application/json");
    Reply::to(request.body(body)).await
}

/// Behind a proxy that checks them so rarely that only requests use connections.
async fn unchecked(hosts: &[&SimHost]) -> Proxy {
    let config = Config::with_hosts(hosts).set("health", "interval", "1h");
    Proxy::ready(&config, hosts).await
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_given_to_nobody() {
    for later in [0, 20] {
        for words in [OTHERS, NOTHING_CAME] {
            let behaviour = Behaviour::ServeThenSay(Duration::from_millis(later), words);
            let host = sim_host("host").behaving(behaviour).start();
            let proxy = unchecked(&[&host]).await;
            let client = proxy.client();

            for number in 0..4 {
                let text = format!("text {number}");
                client.embed(&text).await.assert_embedding_of(&text);
                tokio::time::sleep(Duration::from_millis(2 * later)).await;
            }

            assert_eq!(proxy.ejections("host").await, 0);
            assert_eq!(proxy.failed_attempts("host").await, 0);
        }
    }
}

/// A host and we might not agree on what comes after it (RFC 9112, section 6.3).
#[tokio::test]
async fn no_connection_is_kept_after_an_answer_whose_end_can_be_read_in_two_ways() {
    const RESULT: &str = "{\"embeddings\":[[1]]}";
    const CHUNKS: &str = "14\r\n{\"embeddings\":[[1]]}\r\n0\r\n\r\n";
    for (headers, body) in [
        (
            "Content-Length: 30\r\nTransfer-Encoding: chunked\r\n",
            CHUNKS,
        ),
        ("Content-Length: 20, 20\r\n", RESULT),
        ("Content-Length: 20\r\nContent-Length: 20\r\n", RESULT),
    ] {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        let answer = format!("{head}{headers}\r\n{body}").leak();
        // It would not answer to another request on the same connection.
        let behaviour = Behaviour::Say(answer, Ending::Silence);
        let host = sim_host("host").behaving(behaviour).start();
        let proxy = unchecked(&[&host]).await;
        for _ in 0..3 {
            let reply = proxy.client().embed("x").await;
            assert_eq!(reply.status, 200, "{headers:?}");
        }
        assert_eq!(host.arrivals(), 3, "{headers:?}");
        assert_eq!(proxy.failed_attempts("host").await, 0, "{headers:?}");
    }
}

#[tokio::test]
async fn last_words_on_a_kept_connection_are_no_answer() {
    // The request reaches the host, which has done with the connection.
    for (words, body) in [
        ("", embed_body("large").to_string().into()),
        (NOTHING_CAME, embed_body("large").to_string().into()),
        ("", large()),
        (NOTHING_CAME, large()),
        (OTHERS, large()),
    ] {
        let behaviour = Behaviour::ServeOncePerConnection(words);
        let host = sim_host("host").behaving(behaviour).start();
        let proxy = unchecked(&[&host]).await;

        for _ in 0..4 {
            let reply = post(&proxy.client(), body.clone()).await;
            reply.assert_embedding_of("large");
        }

        assert_eq!(proxy.failed_attempts("host").await, 0, "{words:?}");
    }
}

/// Sends a request to two hosts that do this to it, on connections that they have kept; returns how
/// often they got it.
async fn sends_of_a_request_that(breaks: Behaviour) -> usize {
    let hosts = ["a", "b"].map(|name| {
        let host = sim_host(name).behaving(breaks.clone().only_for("poison"));
        host.start()
    });
    let proxy = unchecked(&hosts.each_ref()).await;
    eventually("both have kept a connection", async || {
        proxy.client().flood(4, 4).await;
        hosts.iter().all(|host| host.arrivals() > 0)
    })
    .await;
    let arrivals = || hosts.iter().map(SimHost::arrivals).sum::<usize>();
    let before = arrivals();

    proxy.client().embed("poison").await.assert_error(502);

    arrivals() - before
}

#[tokio::test]
async fn what_fails_after_moments_on_a_kept_connection_is_a_fault() {
    let breaks = Behaviour::DieThinking(Duration::from_millis(1500));
    assert_eq!(sends_of_a_request_that(breaks).await, 2);
}

#[tokio::test]
async fn a_request_that_kills_hosts_at_once_gets_one_free_try_and_not_one_on_each() {
    for ending in [Ending::Close, Ending::Reset] {
        let sends = sends_of_a_request_that(Behaviour::Say("", ending)).await;
        assert!((2..=3).contains(&sends), "{sends}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_while_a_body_is_sent_is_seen_then() {
    // In each case the host reads nothing but the head of the request, and keeps the connection.
    for (words, verdict) in [
        (FULL, "busy"),
        (
            "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n{}",
            "server_error",
        ),
        (
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\n{}",
            "front",
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n",
            "busy",
        ),
    ] {
        let bad = sim_host("bad").behaving(Behaviour::SayUnread(words, Ending::Silence));
        let bad = bad.start();
        let good = sim_host("good").start();
        let hosts = [&bad, &good];
        // Less than it took to find out that the host reads no more.
        let config = Config::with_hosts(&hosts).set("timeouts", "attempt", "5s");
        let proxy = Proxy::ready(&config, &hosts).await;

        for _ in 0..2 {
            let reply = post(&proxy.client(), large()).await;
            reply.assert_embedding_of("large");
        }

        assert!(proxy.attempts("bad", verdict).await >= 1, "{verdict}");
        assert_eq!(proxy.attempts("bad", "fault").await, 0, "{verdict}");
    }
}

#[tokio::test]
async fn a_host_that_answers_before_it_has_read_everything_is_believed() {
    let early = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                 Content-Length: 23\r\n\r\n{\"embeddings\":[[1.25]]}";
    let host = sim_host("host").behaving(Behaviour::SayUnread(early, Ending::Silence));
    let host = host.start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "attempt", "5s");
    let proxy = Proxy::ready(&config, &[&host]).await;

    let reply = post(&proxy.client(), large()).await;

    assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "host"));
}

#[tokio::test]
async fn an_early_answer_is_seen_over_tls_too() {
    let authority = Authority::new();
    let bad = sim_host("bad")
        .tls(authority.issue(&["127.0.0.1"]).server(None))
        .behaving(Behaviour::AnswerUnread(Answer::busy(503, 600)))
        .start();
    let good = sim_host("good").start();
    let hosts = [&bad, &good];
    let tls = serde_json::json!({"ca": authority.path()});
    let config = Config::with_hosts(&hosts)
        .set_host("bad", "tls", tls)
        .set("timeouts", "attempt", "5s");
    let proxy = Proxy::ready(&config, &hosts).await;

    for _ in 0..2 {
        let reply = post(&proxy.client(), large()).await;
        reply.assert_embedding_of("large");
    }

    assert_eq!(proxy.attempts("bad", "busy").await, 1);
    assert_eq!(proxy.attempts("bad", "fault").await, 0);
}
