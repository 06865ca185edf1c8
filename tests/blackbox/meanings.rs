//! An answer reaches the client only if it says something about the request.

use crate::harness::{
    Answer, Behaviour, Config, Ending, Proxy, SimHost, StatusAnswer, embed_request, eventually,
    sim_host,
};

fn html(status: u16) -> Behaviour {
    Behaviour::Answer(Answer::html(status))
}

fn redirect() -> Answer {
    Answer::html(307).with("location", "http://10.9.8.7/login")
}

/// However many hosts answer like that, each request is served by the one that serves.
async fn are_hidden(behaviours: impl IntoIterator<Item = Behaviour>) {
    let bad = behaviours.into_iter().enumerate();
    let bad: Vec<_> = bad
        .map(|(number, behaviour)| {
            let host = sim_host(&format!("bad-{number}"));
            host.behaving(behaviour).start()
        })
        .collect();
    let good = sim_host("good").slots(16).start();
    let hosts: Vec<_> = bad.iter().chain([&good]).collect();
    let proxy = Proxy::in_front_of(&hosts).await;

    eventually("each has been asked", async || {
        proxy.client().flood(8, 8).await;
        bad.iter().all(|host| host.arrivals() > 0)
    })
    .await;

    assert_eq!(proxy.ejections("good").await, 0);
    for host in &bad {
        assert_eq!(
            proxy.attempts(host.name(), "deliver").await,
            0,
            "{}",
            host.name()
        );
    }
}

#[tokio::test]
async fn what_a_hosts_front_or_version_says_is_never_the_clients() {
    let fronts = [
        200, 201, 204, 206, 299, 301, 302, 304, 308, 402, 405, 406, 407, 408, 410, 411, 414, 417,
        421, 425, 426, 431, 451, 494, 499, 501, 505, 511, 600, 999,
    ];
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n";
    let others = [
        Behaviour::Answer(redirect()),
        Behaviour::answer(405, "Method Not Allowed"),
        Behaviour::Say(switching, Ending::Silence),
    ];
    are_hidden(fronts.map(html).into_iter().chain(others)).await;
}

#[tokio::test]
async fn a_front_that_cannot_read_a_request_or_allows_less_does_not_speak_for_all_hosts() {
    are_hidden([400, 413, 415, 422].map(html)).await;
}

#[tokio::test]
async fn a_model_or_a_path_that_one_host_lacks_is_looked_for_on_another() {
    let ours = Behaviour::answer(404, "model 'sim' is not installed on this host");
    are_hidden([ours, html(404)]).await;
}

#[tokio::test]
async fn a_host_behind_a_front_that_is_in_the_way_does_not_stay_the_first_choice() {
    let bad = sim_host("bad").behaving(html(405)).start();
    let good = sim_host("good").start();
    let proxy = Proxy::in_front_of(&[&bad, &good]).await;

    proxy.client().flood(40, 4).await;

    assert!(proxy.ejections("bad").await >= 1);
    assert_eq!(proxy.ejections("good").await, 0);
    assert!(bad.arrivals() < 20, "{} attempts", bad.arrivals());
}

#[tokio::test]
async fn what_every_hosts_front_says_is_delivered_once_each_was_asked() {
    for (answer, status) in [
        (Answer::html(405), 405),
        // No host's success, and so none for the client.
        (Answer::html(200), 502),
        (Answer::html(204), 502),
        (Answer::html(304), 502),
        (Answer::html(999), 999),
        (redirect(), 307),
        (Answer::html(413), 413),
    ] {
        let hosts = ["a", "b", "c"].map(|name| {
            let answer = Behaviour::Answer(answer.clone());
            sim_host(name).behaving(answer).start()
        });
        let proxy = Proxy::in_front_of(&hosts.each_ref()).await;

        let reply = proxy.client().embed("text").await;

        assert_eq!(reply.status, status);
        assert_eq!(
            reply.header("location"),
            None,
            "it leads to an inner address"
        );
        for host in &hosts {
            assert_eq!(host.arrivals(), 1, "{}", host.name());
            assert_eq!(proxy.ejections(host.name()).await, 0);
        }
    }
}

#[tokio::test]
async fn a_text_that_every_host_forbids_is_forbidden_and_harms_nobody() {
    let forbidden = Behaviour::answer(403, "not this text").only_for("poison");
    let hosts = ["a", "b", "c"].map(|name| {
        let host = sim_host(name).key("key");
        host.behaving(forbidden.clone()).start()
    });
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let client = proxy.client();
    let attempts = || hosts.iter().map(SimHost::arrivals).sum::<usize>();

    let detail = client.embed("poison").await.assert_error(403);

    assert_eq!((detail.as_str(), attempts()), ("not this text", 2));
    for _ in 0..20 {
        client.embed("poison").await.assert_error(403);
    }
    assert_eq!(attempts(), 42, "two each");
    client
        .embed("harmless")
        .await
        .assert_embedding_of("harmless");
    for host in &hosts {
        assert!(proxy.is_healthy(host.name()).await, "{}", host.name());
        assert_eq!(proxy.ejections(host.name()).await, 0, "{}", host.name());
    }
}

#[tokio::test]
async fn a_flood_of_forbidden_texts_makes_no_flood_of_questions() {
    let forbidden = Behaviour::answer(401, "not this text");
    let host = sim_host("host").key("key").behaving(forbidden).start();
    let config = Config::with_hosts(&[&host]).set("health", "interval", "1h");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let before = host.record().status_asked;

    for _ in 0..30 {
        let replies = [(); 4].map(|()| proxy.client().start_embed("poison"));
        for reply in replies {
            assert_eq!(reply.await.unwrap().status, 401);
        }
    }

    let asked = host.record().status_asked - before;
    assert!(
        (1..30).contains(&asked),
        "asked {asked} times for 120 refusals"
    );
}

#[tokio::test]
async fn a_host_that_cannot_say_whether_it_takes_our_key_is_not_taken_out_for_a_text() {
    let host = sim_host("host")
        .status(StatusAnswer::Missing)
        .behaving(Behaviour::answer(403, "not this text").only_for("poison"))
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    proxy.client().embed("poison").await.assert_error(403);

    let reply = proxy.client().embed("harmless").await;
    reply.assert_embedding_of("harmless");
    assert_eq!(proxy.ejections("host").await, 0);
}

#[tokio::test]
async fn a_retry_after_that_is_a_date_counts_by_the_hosts_own_clock() {
    // A clock that is decades behind: by ours the host would be free at once, and asked at once.
    let busy = Answer::busy(503, 0)
        .with("date", "Sun, 06 Nov 1994 08:49:37 GMT")
        .with("retry-after", "Sun, 06 Nov 1994 08:59:37 GMT");
    let busy = Behaviour::Answer(busy);
    let bad = sim_host("bad").behaving(busy).start();
    let good = sim_host("good").start();
    let proxy = Proxy::in_front_of(&[&bad, &good]).await;

    proxy.client().flood(12, 1).await;

    assert_eq!(bad.arrivals(), 1, "left alone for ten minutes");
}

#[tokio::test]
async fn an_answer_without_framing_that_ends_early_is_not_whole() {
    let cut = [
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"embeddings\":[[1,2],[3",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nConnection: close\r\n\r\n\
         {\"embeddings\":[[1,2],[3,4]]",
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"embeddings\":[[1,2],[-0.",
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"embeddings\":[[NaN,2],[3",
        "HTTP/1.0 200 OK\r\n\r\n{\"embeddings\":[[1,2],[3",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: identity\r\n\r\n\
         {\"embeddings\":[[1,2],[3",
    ];
    // Faults end a request after the second, so each has a pool of its own.
    for cut in cut {
        are_hidden([Behaviour::Say(cut, Ending::Close)]).await;
    }
}

#[tokio::test]
async fn a_success_without_a_result_is_not_the_clients() {
    for nothing in [
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nOK",
        "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 5\r\n\r\n<ok/>",
    ] {
        are_hidden([Behaviour::Say(nothing, Ending::Close)]).await;
    }
}

#[tokio::test]
async fn what_cannot_be_a_result_is_not_the_clients() {
    for wrong in [
        r#"{"embeddings":[],"model":"sim","dimensions":4}"#,
        r#"{"embeddings":[[1,2],[3,4]],"model":"sim","dimensions":2}"#,
        r#"{"embeddings":[[1,NaN]],"model":"sim","dimensions":2}"#,
        r#"{"embeddings":[[1,-Infinity]],"model":"sim","dimensions":2}"#,
        r#"{"embeddings":[["a"]],"model":"sim","dimensions":1}"#,
        r#"{"embeddings":[[1,2"#,
        "{}",
        "[]",
        " ",
        r#"{"detail":"no"}"#,
        r#"{"embeddings":null,"model":"sim","dimensions":4}"#,
        r#"{"embeddings":[[]],"model":"sim","dimensions":0}"#,
        r#"{"embeddings":[[1,1e999]],"model":"sim","dimensions":2}"#,
        r#"{"embeddings":[[1]],"model":"sim","dimensions":1}xyz"#,
        r#"{"embeddings":[[1]],"embeddings":[[2]],"dimensions":1}"#,
        r#"{"embeddings":[[1e39,2]],"model":"sim","dimensions":2}"#,
        r#"{"embeddings":[[00.1,2]],"model":"sim","dimensions":2}"#,
    ] {
        are_hidden([Behaviour::Answer(Answer::result(wrong))]).await;
    }
    let nothing = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    are_hidden([Behaviour::Say(nothing, Ending::Close)]).await;
}

/// As programs write numbers, and as they may.
#[tokio::test]
async fn a_result_is_passed_on_however_it_is_written() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    for right in [
        r#"{"embeddings":[[0.5,-1e-7]]}"#,
        r#" {"dimensions":3 , "embeddings" : [ [ -0, 1E5,null ] ],"usage":{"a":[1]}} "#,
        r#"{"embedd\u0069ngs":[[1e38]],"embedding":[]}"#,
    ] {
        host.set(Behaviour::Answer(Answer::result(right)));
        let reply = proxy.client().embed("text").await;
        assert_eq!(
            (reply.status.as_u16(), reply.body.as_ref()),
            (200, right.as_bytes())
        );
    }
}

#[tokio::test]
async fn what_no_host_has_a_result_for_ejects_none() {
    let nothing = || Behaviour::Answer(Answer::result(r#"{"embeddings":[[NaN]]}"#));
    let hosts = ["a", "b", "c"].map(|name| sim_host(name).behaving(nothing()).start());
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;

    for _ in 0..20 {
        let reply = proxy.client().embed("text").await;
        assert_eq!(reply.status, 502);
        let body = String::from_utf8_lossy(&reply.body);
        assert!(body.contains("no number"), "{body}");
    }

    for host in &hosts {
        assert_eq!(proxy.ejections(host.name()).await, 0, "{}", host.name());
    }
}

#[tokio::test]
async fn a_host_that_says_to_go_on_again_and_again_does_not_answer() {
    let mut flood = "HTTP/1.1 100 Continue\r\n\r\n".repeat(200);
    flood += "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

    are_hidden([Behaviour::Say(flood.leak(), Ending::Close)]).await;
}

#[tokio::test]
async fn an_answer_without_framing_that_is_whole_is_delivered() {
    let whole =
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"embeddings\":[[1.5]]}\n";
    let host = sim_host("host")
        .behaving(Behaviour::Say(whole, Ending::Close))
        .start();
    let proxy = Proxy::in_front_of(&[&host]).await;

    let reply = proxy.client().embed("text").await;

    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, "{\"embeddings\":[[1.5]]}\n");
}

#[tokio::test]
async fn a_shortage_of_the_proxys_own_is_waited_out_and_held_against_no_host() {
    let hosts = ["a", "b"].map(|name| {
        let host = sim_host(name).behaving(Behaviour::ServeWhenReleased);
        host.start()
    });
    let config = Config::with_hosts(&hosts.each_ref()).set("health", "interval", "1h");
    let proxy = Proxy::ready(&config, &hosts.each_ref()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = proxy.connect().await;
        client
            .send("GET /health HTTP/1.1\r\nHost: proxy\r\n\r\n")
            .await;
        client.reply().await;
        clients.push(client);
    }

    // Connections to hosts that are open already may still be used.
    proxy.limit_files(0);
    for client in &mut clients {
        client.send(embed_request("patience")).await;
    }
    proxy.logs("out of file descriptors").await;
    proxy.limit_files(1024);
    for host in &hosts {
        host.release_all();
    }

    for client in &mut clients {
        client.reply().await.assert_embedding_of("patience");
    }
    let ours = proxy.attempts("a", "ours").await + proxy.attempts("b", "ours").await;
    assert!((1..100).contains(&ours), "{ours} attempts");
    for host in &hosts {
        assert!(proxy.is_healthy(host.name()).await);
        assert_eq!(proxy.ejections(host.name()).await, 0);
        let ours = proxy.attempts(host.name(), "ours").await;
        assert_eq!(proxy.failed_attempts(host.name()).await, ours);
    }
}
