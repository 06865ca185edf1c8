//! A client that leaves is noticed, and its slot goes to another at once, whatever it sent before.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{
    Authority, Behaviour, Config, Proxy, SimHost, embed_request, eventually, secure, sim_host,
};

/// One slot, whose requests are answered when the test says so.
fn one_slot() -> SimHost {
    sim_host("host")
        .slots(1)
        .behaving(Behaviour::ServeWhenReleased)
        .start()
}

/// What a client may send behind its request while it waits.
fn sent_ahead() -> Vec<(&'static str, Vec<u8>)> {
    let next = embed_request("next");
    vec![
        ("nothing", Vec::new()),
        ("an empty line", b"\r\n".to_vec()),
        ("any byte", b"\0".to_vec()),
        ("half a request", next[..next.len() / 2].to_vec()),
        ("the next request", next.clone()),
        ("many requests", next.repeat(100)),
        ("more than is kept", vec![b'x'; 4 << 20]),
    ]
}

fn config(host: &SimHost) -> Config {
    Config::with_hosts(&[host])
        .set_host("host", "max_concurrent", 1)
        .set("timeouts", "attempt", "10m")
        .set("limits", "max_body", "1MiB")
}

#[tokio::test]
async fn a_client_is_seen_leaving_whatever_it_sent_ahead() {
    let host = one_slot();
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    for reset in [false, true] {
        for (what, ahead) in sent_ahead() {
            println!("{what}, reset: {reset}");
            let mut leaver = proxy.connect().await;
            leaver.send_embed("leaver").await;
            host.runs(1).await;

            leaver.send(ahead).await;
            if reset {
                leaver.reset();
            } else {
                drop(leaver);
            }

            host.runs(0).await;
        }
    }
    assert_eq!(proxy.ejections("host").await, 0, "blamed for its clients");
    host.release_all();
    proxy
        .client()
        .embed("stays")
        .await
        .assert_embedding_of("stays");
}

#[tokio::test]
async fn over_tls_too() {
    let (host, authority) = (one_slot(), Authority::new());
    let identity = authority.issue(&["proxy.example"]);
    let tls = json!({"certificate": identity.certificate(), "key": identity.key()});
    let listen = json!([{"address": "127.0.0.1:0", "tls": tls}]);
    let config = config(&host).replace("listen", listen);
    let proxy = Proxy::ready(&config, &[&host]).await;
    for (what, ahead) in sent_ahead() {
        println!("{what}");
        let tls = authority.client(None, &["http/1.1"]);
        let connection = secure(proxy.address(), "proxy.example", tls).await;
        let mut leaver = connection.unwrap();
        leaver.write_all(&embed_request("leaver")).await.unwrap();
        host.runs(1).await;

        leaver.write_all(&ahead).await.unwrap();
        leaver.flush().await.unwrap();
        drop(leaver);

        host.runs(0).await;
    }
}

/// Those that stay lose nothing of what they sent ahead, in whatever pieces it comes.
#[tokio::test]
async fn requests_sent_ahead_are_answered_in_turn() {
    let host = one_slot();
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    let mut connection = proxy.connect().await;
    connection.send_embed("first").await;
    host.runs(1).await;

    let (second, third) = (embed_request("second"), embed_request("third"));
    let (start, end) = second.split_at(40);
    for part in [&b"\r\n"[..], start, end, &third] {
        connection.send(part).await;
    }
    host.release_all();

    for text in ["first", "second", "third"] {
        connection.reply().await.assert_embedding_of(text);
    }
}

#[tokio::test]
async fn a_client_that_sends_more_ahead_than_is_kept_gets_its_answer_and_no_other() {
    let host = one_slot();
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    let mut connection = proxy.connect().await;
    connection.send_embed("first").await;
    host.runs(1).await;

    // It is taken, but for what the system's buffers hold, so more than is kept has come.
    connection.send(vec![b'x'; 64 << 20]).await;
    host.release_all();

    let reply = connection.reply().await;
    reply.assert_embedding_of("first");
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(connection.rest().await.is_empty());
}

/// A large answer is on its way, and its host has stopped in the middle of it.
#[tokio::test]
async fn a_client_is_seen_leaving_in_the_middle_of_its_answer() {
    let host = sim_host("host")
        .slots(1)
        .behaving(Behaviour::StallAfter(20 << 20))
        .start();
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    let mut leaver = proxy.connect().await;
    leaver.send_embed("leaver").await;
    let (status, _) = leaver.head().await;
    assert_eq!(status, 200);
    // All that the host has sent.
    leaver.body(20 << 20).await;
    let open = async || {
        proxy
            .metrics()
            .await
            .gauge("gpu_bridge_connections_open", &[])
    };
    assert_eq!(open().await, 1);

    leaver.send("\r\n").await;
    drop(leaver);

    eventually("nothing is left of it", async || open().await == 0).await;
}

/// As documented: nothing tells a client that has only stopped sending from one that has gone.
#[tokio::test]
async fn a_client_that_shuts_down_its_sending_side_counts_as_gone() {
    let host = one_slot();
    let proxy = Proxy::ready(&config(&host), &[&host]).await;
    let mut half = proxy.connect().await;
    half.send_embed("half").await;
    host.runs(1).await;

    half.shut_down().await;

    host.runs(0).await;
    assert!(half.rest().await.is_empty());
}
