//! Bodies of any size and framing arrive whole, on whichever host they end up.

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::harness::{
    Answer, Behaviour, Client, Config, Ending, Proxy, Reply, SimHost, embed_body, embed_request,
    eventually, padded, padded_answer, sim_host,
};

const MIB: usize = 1 << 20;

/// A request of at least so many bytes, and its hash.
fn large_body(bytes: usize) -> (Bytes, [u8; 32]) {
    let body = padded(&embed_body("large"), bytes);
    let hash = Sha256::digest(&body).into();
    (body.into(), hash)
}

async fn post(client: &Client, body: impl Into<reqwest::Body>) -> Reply {
    let request = client.request(Method::POST, "/embed");
    let request = request.header("content-type", "application/json");
    Reply::to(request.body(body)).await
}

/// A body whose length is not announced.
fn chunks(body: &Bytes) -> reqwest::Body {
    let chunks: Vec<_> = body
        .chunks(1000)
        .map(|chunk| body.slice_ref(chunk))
        .collect();
    reqwest::Body::wrap_stream(stream::iter(
        chunks.into_iter().map(Ok::<_, std::io::Error>),
    ))
}

/// Hashes of the bodies that `host` has read whole.
fn hashes(host: &SimHost) -> Vec<[u8; 32]> {
    let requests = host.record().requests;
    requests.iter().filter_map(|seen| seen.sha256).collect()
}

/// The promise for an 8 MiB body that meets a host with this misbehaviour.
async fn arrives_whole_at_the_sibling_of_a_host_with(misbehaviour: Behaviour) {
    let bad = sim_host("bad").behaving(misbehaviour).start();
    let good = sim_host("good").start();
    let proxy = Proxy::in_front_of(&[&bad, &good]).await;
    let (body, hash) = large_body(8 * MIB);

    // Two in a row: one of them meets the bad host first.
    for _ in 0..2 {
        let reply = post(&proxy.client(), body.clone()).await;
        reply.assert_embedding_of("large");
        assert_eq!(reply.served_by(), "good");
    }

    assert!(bad.arrivals() > 0, "the bad host was never asked");
    assert_eq!(hashes(&good), [hash, hash]);
}

#[tokio::test]
async fn a_large_body_survives_a_busy_host() {
    arrives_whole_at_the_sibling_of_a_host_with(Behaviour::busy(1)).await;
}

#[tokio::test]
async fn a_large_body_survives_a_host_that_is_busy_before_it_has_read_it() {
    let refusal = Behaviour::AnswerUnread(Answer::busy(503, 1));
    arrives_whole_at_the_sibling_of_a_host_with(refusal).await;
}

#[tokio::test]
async fn a_large_body_survives_a_host_that_dies_reading_it() {
    arrives_whole_at_the_sibling_of_a_host_with(Behaviour::DieReading).await;
}

#[tokio::test]
async fn a_large_body_survives_a_host_that_dies_answering_it() {
    let death = Behaviour::DieMidBody(Ending::Reset);
    arrives_whole_at_the_sibling_of_a_host_with(death).await;
}

#[tokio::test]
async fn a_host_that_is_busy_before_it_has_read_a_large_body_is_not_ejected() {
    let refusal = Behaviour::AnswerUnread(Answer::busy(503, 600));
    let busy = sim_host("busy").behaving(refusal).start();
    let free = sim_host("free").start();
    let proxy = Proxy::in_front_of(&[&busy, &free]).await;
    let (body, _) = large_body(8 * MIB);

    for _ in 0..2 {
        post(&proxy.client(), body.clone())
            .await
            .assert_embedding_of("large");
    }

    assert!(proxy.attempts("busy", "busy").await >= 1);
    assert_eq!(
        proxy.failed_attempts("busy").await,
        proxy.attempts("busy", "busy").await
    );
    assert!(proxy.is_healthy("busy").await);
}

#[tokio::test]
async fn a_chunked_upload_arrives_whole() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let (body, hash) = large_body(MIB);

    let reply = post(&proxy.client(), chunks(&body)).await;

    reply.assert_embedding_of("large");
    let seen = &host.record().requests[0];
    assert_eq!(seen.sha256, Some(hash));
    assert_eq!(seen.headers["content-length"], body.len().to_string());
    assert!(!seen.headers.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn a_chunked_upload_survives_a_busy_host() {
    let busy = sim_host("busy").behaving(Behaviour::busy(1)).start();
    let free = sim_host("free").start();
    let proxy = Proxy::in_front_of(&[&busy, &free]).await;
    let (body, hash) = large_body(MIB);

    for _ in 0..2 {
        post(&proxy.client(), chunks(&body))
            .await
            .assert_embedding_of("large");
    }

    assert!(busy.arrivals() > 0);
    assert_eq!(hashes(&free), [hash, hash]);
}

/// curl sends this with bodies of more than 1 MiB, and waits a second for the answer if none comes.
#[tokio::test]
async fn a_client_that_asks_whether_to_go_on_is_told_so_before_it_sends_the_body() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let (body, hash) = large_body(2 * MIB);
    let mut connection = proxy.connect().await;

    connection
        .send(head(body.len(), "Expect: 100-continue\r\n"))
        .await;
    // The body is not sent before this is read.
    assert_eq!(connection.reply().await.status, 100);
    connection.send(&body).await;

    connection.reply().await.assert_embedding_of("large");
    let seen = &host.record().requests[0];
    assert_eq!(seen.sha256, Some(hash));
    assert!(!seen.headers.contains_key("expect"));
}

#[tokio::test]
async fn a_client_that_asks_whether_to_go_on_with_chunks_is_told_so_too() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut connection = proxy.connect().await;
    let head = "POST /embed HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    connection.send(head).await;
    assert_eq!(connection.reply().await.status, 100);
    let body = embed_body("x").to_string();
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    connection.send(chunks).await;
    connection.reply().await.assert_embedding_of("x");
}

#[tokio::test]
async fn who_sends_ahead_and_reads_nothing_is_cut_and_holds_no_slot() {
    let host = sim_host("host")
        .slots(1)
        .behaving(Behaviour::ServePadded(8 * MIB))
        .start();
    let config = Config::with_hosts(&[&host])
        .set_host("host", "max_concurrent", 1)
        .set("timeouts", "client_read", "1s");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut connection = proxy.connect().await;
    connection.send(embed_request("ahead").repeat(100)).await;
    eventually("the first request is answered", async || {
        host.arrivals() > 0
    })
    .await;
    host.set(Behaviour::Serve);
    let others = proxy.client().embed("other").await;
    others.assert_embedding_of("other");
    eventually("it is cut", async || {
        let open = proxy.metrics().await;
        open.gauge("gpu_bridge_buffered_bytes", &[]) == 0
    })
    .await;
    assert!(host.arrivals() < 5);
}

/// Where nobody waits for a go-ahead, none is given: it would be taken for the answer.
#[tokio::test]
async fn no_go_ahead_is_given_to_http_1_0_nor_for_nothing() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let (body, _) = large_body(1000);
    let with_body = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", body.len());
    let empty = "Content-Length: 0\r\nExpect: 100-Continue\r\n";
    for (head, body, status) in [
        ("POST /embed HTTP/1.0", Some(&body), 200),
        (
            "POST /embed HTTP/1.0\r\nConnection: keep-alive",
            Some(&body),
            200,
        ),
        ("POST /embed HTTP/1.1\r\nHost: p", None, 422),
        ("GET /health HTTP/1.1\r\nHost: p", None, 200),
    ] {
        let mut connection = proxy.connect().await;
        let lines = if body.is_some() { &with_body } else { empty };
        connection.send(format!("{head}\r\n{lines}\r\n")).await;
        connection.send(body.unwrap_or(&Bytes::new())).await;
        assert_eq!(connection.reply().await.status, status, "{head}");
        if head.ends_with("keep-alive") {
            connection.send_embed("after").await;
            connection.reply().await.assert_embedding_of("after");
        }
    }
}

#[tokio::test]
async fn a_client_that_asks_whether_to_go_on_with_too_large_a_body_is_refused_instead() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("limits", "max_body", "1KiB");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut connection = proxy.connect().await;

    connection
        .send(head(1025, "Expect: 100-continue\r\n"))
        .await;

    connection.reply().await.assert_error(413);
    assert_eq!(host.arrivals(), 0);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_however_it_is_framed() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("limits", "max_body", "64KiB");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let (body, _) = large_body(64 << 10);
    let client = proxy.client();

    post(&client, body.clone()).await.assert_error(413);
    post(&client, chunks(&body)).await.assert_error(413);

    assert_eq!(host.arrivals(), 0);
    client.embed("small").await.assert_embedding_of("small");
}

#[tokio::test]
async fn the_limit_of_a_body_is_exact() {
    let host = sim_host("host").start();
    let (body, hash) = large_body(5000);
    let at_most =
        |bytes: usize| Config::with_hosts(&[&host]).set("limits", "max_body", format!("{bytes}B"));

    let proxy = Proxy::ready(&at_most(body.len()), &[&host]).await;
    post(&proxy.client(), body.clone())
        .await
        .assert_embedding_of("large");
    post(&proxy.client(), chunks(&body))
        .await
        .assert_embedding_of("large");
    assert_eq!(hashes(&host), [hash, hash]);

    let proxy = Proxy::ready(&at_most(body.len() - 1), &[&host]).await;
    post(&proxy.client(), body.clone()).await.assert_error(413);
    post(&proxy.client(), chunks(&body)).await.assert_error(413);
}

#[tokio::test]
async fn who_sends_far_too_much_before_reading_can_still_read_why_it_is_refused() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("limits", "max_body", "64KiB");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let body = vec![b'x'; 16 << 20];
    for connection_header in ["keep-alive", "close"] {
        let mut connection = proxy.connect().await;
        let head = format!(
            "POST /embed HTTP/1.1\r\nHost: proxy\r\nConnection: {connection_header}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        connection.send(head).await;
        connection.send(&body).await;
        connection.reply().await.assert_error(413);
    }
}

#[tokio::test]
async fn a_body_in_many_tiny_chunks_arrives_whole() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let (body, hash) = large_body(100_000);
    let mut connection = proxy.connect().await;
    connection
        .send("POST /embed HTTP/1.1\r\nHost: proxy\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let chunks: Vec<u8> = body
        .iter()
        .flat_map(|byte| [b"1\r\n", &[*byte][..], b"\r\n"].concat())
        .collect();
    connection.send([&chunks[..], b"0\r\n\r\n"].concat()).await;
    connection.reply().await.assert_embedding_of("large");
    assert_eq!(hashes(&host), [hash]);
}

#[tokio::test]
async fn a_body_that_never_comes_does_not_reach_a_host() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "client_read", "300ms");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut connection = proxy.connect().await;

    connection.send(head(100, "")).await;
    connection.send("{").await;

    connection.reply().await.assert_error(408);
    assert_eq!(host.arrivals(), 0);
}

#[tokio::test]
async fn a_slow_upload_holds_no_slot() {
    let host = sim_host("host").slots(1).start();
    let config = Config::with_hosts(&[&host]).set_host("host", "max_concurrent", 1);
    let proxy = Proxy::ready(&config, &[&host]).await;
    let (body, hash) = large_body(MIB);
    let mut slow = proxy.connect().await;
    slow.send(head(body.len(), "")).await;
    slow.send(&body[..MIB / 2]).await;

    proxy
        .client()
        .embed("fast")
        .await
        .assert_embedding_of("fast");

    slow.send(&body[MIB / 2..]).await;
    slow.reply().await.assert_embedding_of("large");
    assert_eq!(hashes(&host).last(), Some(&hash));
}

#[tokio::test]
async fn a_slow_download_holds_no_slot() {
    // The larger one is passed on as it comes.
    for bytes in [8 * MIB, 64 * MIB] {
        let host = sim_host("host")
            .slots(1)
            .behaving(Behaviour::ServePadded(bytes))
            .start();
        let config = Config::with_hosts(&[&host]).set_host("host", "max_concurrent", 1);
        let proxy = Proxy::ready(&config, &[&host]).await;
        let mut slow = proxy.connect().await;
        slow.send_embed("slow").await;
        slow.head().await;

        host.set(Behaviour::Serve);
        proxy
            .client()
            .embed("fast")
            .await
            .assert_embedding_of("fast");

        assert_eq!(slow.body(bytes).await.len(), bytes);
    }
}

#[tokio::test]
async fn a_chunked_answer_arrives_whole() {
    let host = sim_host("host").behaving(Behaviour::ServeChunked).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    proxy.client().flood(10, 2).await;
}

#[tokio::test]
async fn a_large_answer_arrives_whole() {
    // The larger one is more than the proxy holds back for a retry.
    for bytes in [4 * MIB, 24 * MIB] {
        let host = sim_host("host")
            .behaving(Behaviour::ServePadded(bytes))
            .start();
        let proxy = Proxy::in_front_of(&[&host]).await;

        let reply = proxy.client().embed("verbose").await;

        assert_eq!(reply.status, 200);
        let whole = reply.body == padded_answer("verbose", bytes);
        assert!(whole, "not the {bytes} bytes that the host sent");
        assert_eq!(proxy.host_metric("in_flight", "host").await, 0);
    }
}

/// Too large to be held back for a retry, so the client has a part of it already.
#[tokio::test]
async fn a_large_answer_that_is_cut_is_not_passed_off_as_whole() {
    let host = sim_host("host")
        .behaving(Behaviour::ServePadded(64 * MIB))
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let mut connection = proxy.connect().await;
    connection.send_embed("verbose").await;
    let (status, headers) = connection.head().await;
    assert_eq!(status, 200);
    assert_eq!(headers["transfer-encoding"], "chunked");

    host.stop();

    let rest = connection.rest().await;
    assert!(rest.len() < 64 * MIB);
    assert!(
        !rest.ends_with(b"\r\n0\r\n\r\n"),
        "ends as if it were whole"
    );
    eventually("the lease is back", async || {
        proxy.host_metric("in_flight", "host").await == 0
    })
    .await;
}

#[tokio::test]
async fn beyond_the_bytes_held_in_all_requests_are_told_to_come_again() {
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host])
        .set("limits", "max_body", "1MiB")
        .set("limits", "max_buffered", "2MiB");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let (body, _) = large_body(900 << 10);
    let client = proxy.client();
    let held = [(); 2].map(|()| {
        let (client, body) = (client.clone(), body.clone());
        tokio::spawn(async move { post(&client, body).await })
    });
    host.runs(2).await;

    post(&client, body.clone()).await.assert_come_again();

    host.release_all();
    for reply in held {
        reply.await.unwrap().assert_embedding_of("large");
    }
    post(&client, body).await.assert_embedding_of("large");
}

#[tokio::test]
async fn a_host_that_dies_in_an_answer_too_large_to_hold_is_not_taken_for_the_client() {
    let host = sim_host("host")
        .behaving(Behaviour::DieAfter(20 * MIB))
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    let request = proxy.client().request(http::Method::POST, "/embed");
    let response = request.json(&embed_body("x")).send().await.unwrap();
    assert!(
        response.bytes().await.is_err(),
        "it is cut off, and looks so"
    );

    eventually("it is counted as the host's failure", async || {
        let failed = [("route", "embed"), ("code", "502")];
        let metrics = proxy.metrics().await;
        metrics.count("gpu_bridge_requests_total", &failed) == 1
    })
    .await;
    assert_eq!(
        proxy.failed_attempts("host").await,
        0,
        "it had answered, as far as it was held"
    );
}

#[tokio::test]
async fn an_old_client_gets_a_large_answer_without_chunks() {
    let host = sim_host("host")
        .behaving(Behaviour::ServePadded(20 * MIB))
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let body = embed_body("x").to_string();
    let mut connection = proxy.connect().await;

    connection
        .send(format!(
            "POST /embed HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;

    let answer = connection.rest().await;
    let end = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .unwrap()
        + 4;
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(answer[end..], *padded_answer("x", 20 * MIB).as_bytes());
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind() {
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host])
        .set("limits", "max_body", "1MiB")
        .set("limits", "max_buffered", "1MiB");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let (body, _) = large_body(900 << 10);

    for _ in 0..3 {
        let mut connection = proxy.connect().await;
        connection.send(head(body.len(), "")).await;
        connection.send(&body[..body.len() - 1]).await;
    }

    // There is no room for it until the others are forgotten.
    eventually("there is room again", async || {
        let reply = post(&proxy.client(), body.clone()).await;
        reply.status == 200
    })
    .await;
    assert_eq!(host.arrivals(), 1);
}

fn head(length: usize, headers: &str) -> String {
    format!(
        "POST /embed HTTP/1.1\r\nHost: proxy\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n{headers}\r\n"
    )
}

/// The items that `host` has computed, as far as the proxy knows.
async fn items(proxy: &Proxy) -> u64 {
    let metrics = proxy.metrics().await;
    metrics.count("gpu_bridge_host_items_total", &[("host", "a")])
}

#[tokio::test]
async fn items_are_counted_whatever_the_size_and_the_pieces_of_a_body() {
    let host = sim_host("a").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let client = proxy.client();
    let mut expected = 0;
    for (count, length) in [(1, 10), (100, 400), (100, 10_000), (3, MIB)] {
        let texts = vec!["\"quoted\", or not] ".repeat(length / 18); count];
        let body = json!({"model": "sim", "texts": texts, "other": {"texts": [1, 2]}});
        let body = Bytes::from(body.to_string());

        assert_eq!(post(&client, body.clone()).await.status, 200);
        assert_eq!(post(&client, chunks(&body)).await.status, 200);

        expected += 2 * count as u64;
        let what = format!("{count} texts of {length} bytes are counted");
        eventually(&what, async || items(&proxy).await == expected).await;
    }
    let pairs = vec!["pair".repeat(200); 64];
    let body = json!({"references": pairs, "candidates": pairs, "model_type": "sim"});
    assert_eq!(client.post("/bertscore", &body).await.status, 200);
    eventually("pairs are counted", async || {
        items(&proxy).await == expected + 64
    })
    .await;
}
