//! Nothing but a result is a success of `/embed` and `/bertscore`: also where an answer is compressed, too long to be
//! held, or comes while there is no memory to hold it.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Behaviour, Client, Config, Ending, Proxy, Reply, Server, SimHost, embedding_of,
    eventually, sim_host,
};

/// More than there is memory for.
const LONG: usize = 300_000;

fn gzip(body: &Value) -> Vec<u8> {
    gzip_of(body.to_string().as_bytes())
}

fn gzip_of(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// What a host does, each with a name.
type Wrong = Vec<(&'static str, Behaviour)>;

/// What hosts of both kinds do that have a result for one text, whatever they are asked for, or none.
pub(crate) fn wrong() -> [(Option<Server>, Wrong); 2] {
    let (own, openai) = (right(&["one"]), of_openai(&["one"]));
    let server = Server {
        most_texts: None,
        ..Server::default()
    };
    [
        (None, wrong_in(&own, &openai)),
        (Some(server), wrong_in(&openai, &own)),
    ]
}

/// The same for one that says `one` of one text, where another kind of host would say `other`.
fn wrong_in(one: &Value, other: &Value) -> Wrong {
    let answer = |status, body: &Value| Answer::json(status, body).with("etag", "\"1\"");
    let say = |heads: &str, body: &Value| {
        let body = body.to_string();
        let length = body.len();
        let text = format!(
            "{heads}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        Behaviour::Say(text.leak(), Ending::Close)
    };
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n";
    vec![
        ("one row", Behaviour::Answer(answer(200, one))),
        ("one row, compressed", coded(200, "gzip", gzip(one))),
        ("unreadable", coded(200, "br", gzip(one))),
        ("half a gzip", coded(200, "gzip", gzip(one)[..40].to_vec())),
        ("a part of it", Behaviour::Answer(answer(206, one))),
        ("what was known", Behaviour::Answer(answer(304, one))),
        ("nothing", Behaviour::Answer(Answer::result(""))),
        ("too early", Behaviour::AnswerUnread(answer(200, one))),
        ("after hints", say(early, one)),
        (
            "two lengths",
            say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n", one),
        ),
        (
            "another protocol",
            say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n", one),
        ),
        ("half of it", Behaviour::DieMidChunks(Ending::Close)),
        (
            "another dialect",
            Behaviour::Answer(Answer::json(200, other)),
        ),
    ]
}

/// `body`, as if compressed by this.
fn coded(status: u16, coding: &str, body: Vec<u8>) -> Behaviour {
    let answer = Answer::error(status, "").with("content-encoding", coding);
    Behaviour::Answer(answer.holding(body))
}

fn right(texts: &[&str]) -> Value {
    let vectors: Vec<_> = texts.iter().map(|text| embedding_of(text)).collect();
    json!({"embeddings": vectors, "model": "sim", "dimensions": vectors[0].len()})
}

/// The same in the words of OpenAI's API.
fn of_openai(texts: &[&str]) -> Value {
    let row =
        |(index, text): (usize, &&str)| json!({"index": index, "embedding": embedding_of(text)});
    let rows: Vec<_> = texts.iter().enumerate().map(row).collect();
    json!({"model": "sim", "data": rows})
}

async fn ask(client: &Client, texts: &[&str]) -> Reply {
    let request = client.request(Method::POST, "/embed");
    let request = request.header("accept-encoding", "gzip, br");
    Reply::to(request.json(&json!({"model": "sim", "texts": texts}))).await
}

#[tokio::test]
async fn a_host_that_compresses_unasked_is_read_and_judged() {
    let texts = ["one", "two"];
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let client = proxy.client();
    let good = gzip(&right(&texts));
    let padded = [&good[..], &[0; 99]].concat();
    let mut bare = DeflateEncoder::new(Vec::new(), Compression::fast());
    bare.write_all(right(&texts).to_string().as_bytes())
        .unwrap();
    for (coding, body) in [
        ("gzip", good.clone()),
        ("identity, X-Gzip", padded),
        ("deflate", bare.finish().unwrap()),
        ("", right(&texts).to_string().into_bytes()),
    ] {
        host.set(coded(200, coding, body));
        let reply = ask(&client, &texts).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json(), right(&texts));
        assert_eq!(reply.header("content-encoding"), None);
    }
    let asked = host.record().requests[0].clone();
    assert!(!asked.headers.contains_key("accept-encoding"), "{asked:?}");

    let fewer = gzip(&right(&["one"]));
    for (wrong, why) in [
        (coded(200, "gzip", fewer), "2 were asked for"),
        (
            coded(200, "gzip", good[..good.len() / 2].to_vec()),
            "it ends early",
        ),
        (coded(200, "br", good.clone()), "can't be read"),
        (coded(200, "gzip", b"[[1],[2]]".to_vec()), "not as its"),
        (
            coded(200, "gzip, gzip, gzip, gzip", good.clone()),
            "more than 3 times",
        ),
    ] {
        host.set(wrong);
        let detail = ask(&client, &texts).await.assert_error(502);
        assert!(detail.contains(why), "{detail}");
    }

    let sibling = sim_host("sibling").start();
    let proxy = Proxy::in_front_of(&[&host, &sibling]).await;
    for _ in 0..4 {
        let reply = ask(&proxy.client(), &texts).await;
        assert_eq!((reply.status.as_u16(), reply.json()), (200, right(&texts)));
    }
    assert!(proxy.attempts("host", "unusable").await >= 1);
}

/// Whatever it holds beside them: a few bytes may become many, and what is translated is held as a whole.
#[tokio::test]
async fn what_is_far_longer_than_any_result_is_asked_for_elsewhere() {
    let long = right(&["one"]).to_string() + &" ".repeat(20 << 20);
    let bomb = gzip_of(long.as_bytes());
    let plain = Behaviour::Answer(Answer::result(&long));
    let once = coded(200, "gzip", bomb.clone());
    let twice = coded(200, "gzip, gzip", gzip_of(&bomb));
    let asked = json!({"model": "sim", "texts": ["one"]});
    let asked_openai = json!({"model": "sim", "input": "one"});
    for (path, body, behaviour) in [
        ("/v1/embeddings", &asked_openai, plain),
        ("/embed", &asked, once.clone()),
        ("/embed", &asked, twice),
    ] {
        let hosts = ["long", "good"].map(|name| sim_host(name).start());
        let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
        hosts[0].set(behaviour);
        for _ in 0..4 {
            let reply = proxy.client().post(path, body).await;
            assert_eq!((reply.status.as_u16(), reply.served_by()), (200, "good"));
        }
        assert!(proxy.failed_attempts("long").await >= 1, "{path}");
    }

    // What has come of it is passed on by then.
    let host = sim_host("host").start();
    let proxy = without_memory(&[&host]).await;
    host.set(once);
    let request = proxy.client().request(Method::POST, "/embed");
    let response = request.json(&asked).send().await.unwrap();
    assert!(response.bytes().await.is_err());
    proxy.logs("and no result for so many items has").await;
}

#[tokio::test]
async fn a_limit_that_a_refusal_tells_is_learned_though_it_is_compressed() {
    let host = sim_host("host").most_items(2).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let texts = ["a", "b", "c"];
    let refusal = json!({"detail": "at most 2 texts per request are supported"});
    host.set(Behaviour::Serve.but_for("c", coded(422, "gzip", gzip(&refusal))));
    let _ = ask(&proxy.client(), &texts).await;
    host.set(Behaviour::Serve);
    let reply = ask(&proxy.client(), &texts).await;
    assert_eq!((reply.status.as_u16(), reply.json()), (200, right(&texts)));
    assert!(host.record().requests.iter().any(|it| it.items == 2));
}

#[tokio::test]
async fn a_server_of_openai_s_api_that_compresses_is_read_too() {
    let host = sim_host("host").openai(Server::default()).start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    host.set(coded(200, "gzip", gzip(&of_openai(&["one", "two"]))));
    let reply = ask(&proxy.client(), &["one", "two"]).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json()["embeddings"],
        right(&["one", "two"])["embeddings"]
    );
}

#[tokio::test]
async fn an_odd_answer_is_a_fault_of_its_host_whichever_api_it_speaks() {
    for (server, table) in wrong() {
        for (what, wrong) in table {
            let hosts = ["odd", "good"].map(|name| match &server {
                Some(server) => sim_host(name).openai(server.clone()).start(),
                None => sim_host(name).start(),
            });
            let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
            hosts[0].set(wrong);
            for _ in 0..4 {
                let reply = ask(&proxy.client(), &["one", "two"]).await;
                assert_eq!(reply.status, 200, "{what}: {reply:?}");
                let rows = &reply.json()["embeddings"];
                assert_eq!(rows, &right(&["one", "two"])["embeddings"], "{what}");
            }
            assert!(proxy.failed_attempts("odd").await >= 1, "{what}");
            assert_eq!(proxy.failed_attempts("good").await, 0, "{what}");
        }
    }
}

/// What is about a host, its address, or a copy that nobody can have, ends at the proxy.
#[tokio::test]
async fn a_result_is_nothing_to_be_kept_and_revalidated() {
    let ends = [
        ("accept-ranges", "bytes"),
        ("alt-svc", "h3=\":443\""),
        ("connection", "x-hop"),
        ("content-range", "bytes 0-1/2"),
        ("etag", "\"1\""),
        ("keep-alive", "timeout=5"),
        ("last-modified", "Mon, 30 Nov 2026 00:00:00 GMT"),
        ("server", "uvicorn"),
        ("strict-transport-security", "max-age=1"),
        ("x-hop", "1"),
    ];
    let goes_on = [
        ("vary", "accept"),
        ("set-cookie", "a=b"),
        ("cache-control", "no-store"),
    ];
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    for (status, is_ours) in [
        (200, false),
        (422, false),
        (304, true),
        (206, true),
        (204, true),
    ] {
        for path in ["/embed", "/v1/embeddings"] {
            let mut answer = Answer::json(status, &right(&["one"]));
            for (name, value) in ends.iter().chain(&goes_on) {
                answer = answer.with(name, value);
            }
            host.set(Behaviour::Answer(answer));
            let request = proxy.client().request(Method::POST, path);
            let conditions = [
                "if-none-match",
                "if-match",
                "range",
                "if-range",
                "te",
                "upgrade",
            ];
            let request = conditions
                .iter()
                .fold(request, |request, name| request.header(*name, "*"));
            let body = json!({"model": "sim", "texts": ["one"]});
            let body = if path == "/embed" {
                body
            } else {
                json!({"model": "sim", "input": "one"})
            };
            let reply = Reply::to(request.json(&body)).await;

            let asked = host.record().requests.pop().unwrap().headers;
            assert!(
                conditions.iter().all(|it| !asked.contains_key(*it)),
                "{asked:?}"
            );
            let expected = match status {
                _ if is_ours => 502,
                422 if path != "/embed" => 400,
                status => status,
            };
            assert_eq!(reply.status, expected, "{path} {status}");
            for (name, _) in ends {
                let is_of_ours = reply
                    .header(name)
                    .is_some_and(|it| it.contains("keep-alive"));
                assert!(
                    reply.header(name).is_none() || is_of_ours,
                    "{path} {status}: {name}"
                );
            }
            let come = goes_on.map(|(name, value)| reply.header(name) == Some(value));
            assert_eq!(come, [!is_ours; 3], "{path} {status}");
        }
    }
}

/// An answer with these rows, each of so many numbers.
fn rows(lengths: &[usize]) -> String {
    let row = |length: &usize| format!("[{}1]", "1,".repeat(*length - 1));
    let rows: Vec<_> = lengths.iter().map(row).collect();
    format!(r#"{{"embeddings":[{}]}}"#, rows.join(","))
}

/// Long answers are passed on as they come.
async fn without_memory(hosts: &[&SimHost]) -> Proxy {
    let config = Config::with_hosts(hosts)
        .set("limits", "max_body", "64KiB")
        .set("limits", "max_buffered", "512KiB");
    Proxy::ready(&config, hosts).await
}

#[tokio::test]
async fn nothing_that_nobody_asked_for_is_a_result() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let client = proxy.client();
    let score = json!({"precision": [1], "recall": [1], "f1": [1]});
    for (path, asked, wrong) in [
        ("/embed", json!({"texts": []}), right(&["a"])),
        (
            "/bertscore",
            json!({"candidates": [], "references": []}),
            score,
        ),
    ] {
        let ask = || Reply::to(client.request(Method::POST, path).json(&asked));
        host.set(Behaviour::Serve);
        assert_eq!(ask().await.status, 200, "{path}");
        host.set(Behaviour::Answer(Answer::result(&wrong.to_string())));
        let detail = ask().await.assert_error(502);
        assert!(detail.contains("0 were asked for"), "{detail}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_never_sees_the_end_of_what_is_no_result() {
    let host = sim_host("host").start();
    let proxy = without_memory(&[&host]).await;
    let asked = json!({"model": "sim", "texts": ["one", "two"]}).to_string();
    for (body, is_right) in [
        (rows(&[LONG, LONG]), true),
        (rows(&[LONG, 1 + LONG]), false),
    ] {
        host.set(Behaviour::Answer(Answer::result(&body)));
        let mut connection = proxy.connect().await;
        let length = asked.len();
        let head = format!("POST /embed HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
        connection.send(head + &asked).await;
        let (status, headers) = connection.head().await;
        assert_eq!(status, 200);
        assert!(!headers.contains_key("content-length"), "{headers:?}");
        assert_eq!(connection.rest().await == body, is_right);
    }
}

#[tokio::test]
async fn what_is_passed_on_as_it_comes_is_cut_off_if_it_is_no_result() {
    let hosts = ["a", "b"].map(|name| sim_host(name).start());
    let proxy = without_memory(&hosts.each_ref()).await;
    let client = proxy.client();
    let whole = async |body: String| {
        for host in &hosts {
            host.set(Behaviour::Answer(Answer::result(&body)));
        }
        let request = client.request(Method::POST, "/embed");
        let request = request.json(&json!({"model": "sim", "texts": ["one", "two"]}));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.bytes().await.is_ok_and(|came| came == body)
    };

    assert!(whole(rows(&[LONG, LONG])).await);
    let compressed = gzip_of(rows(&[LONG, LONG]).as_bytes());
    for host in &hosts {
        host.set(coded(200, "gzip", compressed.clone()));
    }
    let reply = client
        .post("/embed", &json!({"texts": ["one", "two"]}))
        .await;
    assert!(reply.status == 200 && reply.body == rows(&[LONG, LONG]));
    // A null may stand for a number.
    assert!(whole(rows(&[LONG, LONG]).replace("[1,", "[null,1e5,")).await);
    for wrong in [
        rows(&[LONG, LONG]).replacen("[1,", "[null,1e999,", 2),
        rows(&[LONG, LONG]).replacen(",1]", ",+1]", 1),
        rows(&[LONG, LONG]).replacen(",1]", ",01]", 1),
        rows(&[LONG, LONG]).replace("]]}", "]],\"x\":.5}"),
        rows(&[2 * LONG]),
        rows(&[LONG, 1 + LONG]),
        rows(&[LONG, LONG])[..3 * LONG].to_owned(),
        rows(&[LONG, LONG]) + "}",
        rows(&[LONG, LONG]).replacen(",1]", ",NaN]", 1),
    ] {
        assert!(!whole(wrong).await);
    }

    eventually("it is counted as a failure", async || {
        let failed = [("route", "embed"), ("code", "502")];
        let metrics = proxy.metrics().await;
        metrics.count("gpu_bridge_requests_total", &failed) == 9
    })
    .await;
    proxy
        .logs("the host's answer can't be used: it is for 1 items")
        .await;
    let ejections = proxy.ejections("a").await + proxy.ejections("b").await;
    assert!(ejections >= 1, "the hosts are to blame");
}
