//! A batch is run in parts on hosts that would idle, and nobody can tell from its answer.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Behaviour, Config, Proxy, Reply, Server, SimHost, Vectors, embedding_of, sim_host,
};
use crate::results::wrong;

const ITEMS: usize = 100;

fn by_items() -> Behaviour {
    Behaviour::ServeByItems(Duration::from_millis(1), Duration::from_millis(2))
}

fn four() -> [SimHost; 4] {
    ["a", "b", "c", "d"].map(|name| sim_host(name).behaving(by_items()).start())
}

/// A proxy that knows how long these hosts take, while nobody uses them.
async fn acquainted(config: &Config, hosts: &[&SimHost], route: &str) -> Proxy {
    let proxy = Proxy::ready(config, hosts).await;
    let client = proxy.client();
    for number in 0..20 * hosts.len() {
        let (_, body) = job(route, 1 + number % 3);
        assert_eq!(client.post(route, &body).await.status, 200);
    }
    for host in hosts {
        // What they tell may be of a moment at which a request of ours had just begun or ended.
        host.is_checked(3).await;
    }
    proxy
}

fn texts(items: usize) -> Vec<String> {
    (0..items)
        .map(|number| format!("text \"{number}\" é"))
        .collect()
}

/// What to ask for, and the right answer.
fn job(route: &str, items: usize) -> (Value, Value) {
    let texts = texts(items);
    let vectors: Vec<_> = texts.iter().map(|text| embedding_of(text)).collect();
    if route == "/embed" {
        let answer = json!({"embeddings": vectors, "model": "sim", "dimensions": 4});
        return (answer, json!({"texts": texts, "model": "sim"}));
    }
    let references: Vec<_> = texts.iter().map(|text| format!("{text}!")).collect();
    let scores =
        |texts: &[String]| -> Vec<u8> { texts.iter().map(|it| embedding_of(it)[0]).collect() };
    let (precision, recall) = (scores(&texts), scores(&references));
    (
        json!({"precision": precision, "recall": recall, "f1": precision, "model": "sim"}),
        json!({"candidates": texts, "references": references, "model_type": "sim"}),
    )
}

/// Asks for a batch, checks the answer, and returns it.
async fn runs(proxy: &Proxy, route: &str, id: &str) -> Reply {
    let (answer, body) = job(route, ITEMS);
    let request = proxy.client().request(Method::POST, route);
    let reply = Reply::to(request.header("X-Request-Id", id).json(&body)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json(), answer);
    reply
}

/// How many items each request was for that these hosts have seen since they had seen so many.
fn sizes(hosts: &[&SimHost], seen: &[usize]) -> Vec<usize> {
    let hosts = hosts.iter().zip(seen);
    let new = hosts.flat_map(|(host, seen)| host.record().requests.split_off(*seen));
    new.map(|request| request.items).collect()
}

fn seen(hosts: &[&SimHost]) -> Vec<usize> {
    hosts.iter().map(|host| host.arrivals()).collect()
}

#[tokio::test]
async fn a_batch_runs_on_all_hosts_that_idle_and_the_answer_is_in_order() {
    let hosts = four();
    let hosts = hosts.each_ref();
    let proxy = acquainted(&Config::with_hosts(&hosts), &hosts, "/embed").await;
    let before = seen(&hosts);

    let reply = runs(&proxy, "/embed", "batch").await;

    let sizes = sizes(&hosts, &before);
    assert_eq!(
        sizes.iter().sum::<usize>(),
        ITEMS,
        "each item once: {sizes:?}"
    );
    assert!(
        sizes.len() >= 4 && sizes.iter().all(|size| *size < ITEMS / 2),
        "{sizes:?}"
    );
    let mut names: Vec<_> = reply.served_by().split(", ").collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c", "d"]);

    let (_, story, _) = proxy.command(&["explain", "batch"]).await;
    assert_eq!(
        story.matches(" of 100 items): deliver").count(),
        sizes.len(),
        "{story}"
    );
    let metrics = proxy.metrics().await;
    assert_eq!(metrics.count("gpu_bridge_split_requests_total", &[]), 1);
    let parts = metrics.count("gpu_bridge_split_parts_total", &[]);
    assert_eq!(parts, sizes.len() as u64);
    assert!(metrics.seconds("gpu_bridge_split_saved_seconds_total") >= 0.02);
}

#[tokio::test]
async fn a_batch_that_names_no_model_is_cut_too() {
    let hosts = four();
    let hosts = hosts.each_ref();
    let proxy = acquainted(&Config::with_hosts(&hosts), &hosts, "/embed").await;
    let unnamed = |items| {
        let (answer, mut body) = job("/embed", items);
        body.as_object_mut().unwrap().remove("model");
        (answer, body)
    };
    for number in 0..20 {
        let (_, body) = unnamed(1 + number % 3);
        assert_eq!(proxy.client().post("/embed", &body).await.status, 200);
    }
    for host in hosts {
        host.is_checked(3).await;
    }
    let before = seen(&hosts);
    let (answer, body) = unnamed(ITEMS);
    let reply = proxy.client().post("/embed", &body).await;
    assert_eq!(reply.json(), answer);
    let sizes = sizes(&hosts, &before);
    assert!(sizes.iter().all(|size| *size < ITEMS / 2), "{sizes:?}");
}

#[tokio::test]
async fn what_is_switched_off_small_or_more_than_a_host_takes_stays_whole() {
    let hosts = four();
    let hosts = hosts.each_ref();
    let config = |key, value: Value| Config::with_hosts(&hosts).set("batching", key, value);
    for config in [
        config("split", json!(false)),
        config("min_gain", json!("1h")),
        config("max_items", json!(99)),
    ] {
        let proxy = acquainted(&config, &hosts, "/embed").await;
        let before = seen(&hosts);
        runs(&proxy, "/embed", "batch").await;
        assert_eq!(sizes(&hosts, &before), [ITEMS]);
    }
}

#[tokio::test]
async fn an_error_about_a_part_is_that_about_the_whole_request() {
    let hosts = four();
    let hosts = hosts.each_ref();
    let proxy = acquainted(&Config::with_hosts(&hosts), &hosts, "/embed").await;
    let (_, mut body) = job("/embed", ITEMS);
    body["texts"][70] = json!("too long");
    for status in [413, 422] {
        let refusal = Behaviour::Answer(Answer::error(status, "texts[70] is too long"));
        for host in hosts {
            host.set(by_items().but_for("too long", refusal.clone()));
        }
        let before = seen(&hosts);
        let reply = proxy.client().post("/embed", &body).await;
        assert_eq!(reply.assert_error(status), "texts[70] is too long");
        let sizes = sizes(&hosts, &before);
        assert!(sizes.len() > 1, "it was cut: {sizes:?}");
        assert_eq!(
            sizes.iter().filter(|size| **size == ITEMS).count(),
            1,
            "{sizes:?}"
        );
    }
}

#[tokio::test]
async fn a_part_whose_host_fails_is_computed_by_another() {
    let hosts = four();
    let hosts = hosts.each_ref();
    let ways = [
        Behaviour::DieThinking(Duration::from_millis(5)),
        Behaviour::internal_server_error(),
        Behaviour::busy(5),
    ];
    for way in ways {
        let proxy = acquainted(&Config::with_hosts(&hosts), &hosts, "/embed").await;
        hosts[2].set(way);
        let before = seen(&hosts);
        runs(&proxy, "/embed", "batch").await;
        let sizes = sizes(&hosts, &before);
        assert!(
            sizes.iter().all(|size| *size < ITEMS / 2),
            "no part but that: {sizes:?}"
        );
        hosts[2].set(by_items());
    }
}

#[tokio::test]
async fn answers_that_do_not_fit_together_are_asked_for_as_one() {
    let hosts = four();
    let hosts = hosts.each_ref();
    let proxy = acquainted(&Config::with_hosts(&hosts), &hosts, "/embed").await;
    // What an unknown member says of the items, nobody knows.
    hosts[2].set(Behaviour::ServePadded(10));
    let before = seen(&hosts);
    let (answer, body) = job("/embed", ITEMS);
    let reply = proxy.client().post("/embed", &body).await;
    assert_eq!(reply.json()["embeddings"], answer["embeddings"]);
    let sizes = sizes(&hosts, &before);
    assert!(sizes.len() > 1 && sizes.contains(&ITEMS), "{sizes:?}");
    let before = seen(&hosts);
    proxy.client().post("/embed", &body).await;
    assert_eq!(self::sizes(&hosts, &before), [ITEMS], "not tried again");
}

/// Hosts that take 32 items at once, whatever they tell.
fn limited(names: &[&str], tells: bool) -> Vec<SimHost> {
    let host = |name: &&str| {
        let host = sim_host(name).scores_pairs_alone(true).most_items(32);
        let host = if tells { host.tells_most() } else { host };
        host.behaving(by_items()).start()
    };
    names.iter().map(host).collect()
}

#[tokio::test]
async fn a_batch_of_more_than_hosts_take_is_cut_from_the_first_request_on() {
    for names in [&["a"][..], &["a", "b", "c", "d"]] {
        for (route, tells) in [("/embed", true), ("/bertscore", true), ("/embed", false)] {
            let hosts = limited(names, tells);
            let hosts: Vec<&SimHost> = hosts.iter().collect();
            let config = Config::with_hosts(&hosts).set("batching", "split", names.len() > 1);
            let proxy = Proxy::ready(&config, &hosts).await;
            if tells {
                hosts[0].is_checked(3).await;
            }
            for id in ["first", "second"] {
                let before = seen(&hosts);
                runs(&proxy, route, id).await;
                let mut sizes = sizes(&hosts, &before);
                if !tells && id == "first" {
                    let refused = sizes.iter().filter(|size| **size == ITEMS).count();
                    assert!((1..=names.len()).contains(&refused), "{sizes:?}");
                    sizes.retain(|size| *size < ITEMS);
                }
                let is_cut = sizes.iter().all(|size| *size <= 32);
                assert!(tells || names.len() > 1 || is_cut, "{sizes:?}");
                assert_eq!(
                    sizes.iter().filter(|size| **size <= 32).sum::<usize>(),
                    ITEMS
                );
            }
            assert_eq!(proxy.ejections("a").await, 0);
        }
    }
}

#[tokio::test]
async fn a_batch_without_a_model_runs_on_one_host_where_defaults_differ() {
    let hosts = limited(&["a", "b"], true);
    hosts[1].set_vectors(Vectors::OtherDimensions);
    let hosts: Vec<&SimHost> = hosts.iter().collect();
    let proxy = Proxy::ready(&Config::with_hosts(&hosts), &hosts).await;
    for host in &hosts {
        host.is_checked(3).await;
    }
    let (_, mut body) = job("/embed", ITEMS);
    body.as_object_mut().unwrap().remove("model");
    for is_known in [false, true] {
        let before = seen(&hosts);
        let reply = proxy.client().post("/embed", &body).await;
        assert_eq!(reply.status, 200, "{:?}", reply.body);
        let rows = reply.json()["embeddings"].as_array().unwrap().clone();
        let widths = rows.iter().map(|row| row.as_array().unwrap().len());
        let widths: std::collections::BTreeSet<_> = widths.collect();
        assert_eq!((rows.len(), widths.len()), (ITEMS, 1));
        let sizes = sizes(&hosts, &before);
        if is_known {
            assert_eq!(sizes.iter().sum::<usize>(), ITEMS, "{sizes:?}");
        } else {
            assert!(sizes.iter().sum::<usize>() > ITEMS, "{sizes:?}");
        }
    }
}

#[tokio::test]
async fn a_batch_that_cannot_be_cut_is_refused_in_the_host_s_own_words() {
    let hosts = limited(&["a"], true);
    let config = Config::with_hosts(&[&hosts[0]]);
    let proxy = Proxy::ready(&config, &[&hosts[0]]).await;
    hosts[0].is_checked(3).await;
    let (_, mut body) = job("/bertscore", ITEMS);
    body["idf"] = json!(true);
    let reply = proxy.client().post("/bertscore", &body).await;
    assert_eq!(reply.status, 422);
    let told = reply.json()["detail"][0]["msg"].to_string();
    assert!(
        told.contains("array length 100 exceeds max batch size of 32"),
        "{told}"
    );
    assert_eq!(hosts[0].arrivals(), 1);
}

#[tokio::test]
async fn a_host_whose_part_cannot_be_right_is_to_blame() {
    let hosts = four();
    let hosts = hosts.each_ref();
    let proxy = acquainted(&Config::with_hosts(&hosts), &hosts, "/embed").await;
    // One vector, whatever it is asked for.
    let one = json!({"embeddings": [[1, 2, 3, 4]], "model": "sim", "dimensions": 4});
    hosts[2].set(Behaviour::Answer(Answer::json(200, &one)));
    let before = seen(&hosts);
    runs(&proxy, "/embed", "batch").await;
    let sizes = sizes(&hosts, &before);
    assert!(sizes.iter().all(|size| *size < ITEMS / 2), "{sizes:?}");
    assert_eq!(proxy.attempts("c", "unusable").await, 1);
}

#[tokio::test]
async fn a_host_with_an_odd_answer_to_its_part_costs_the_batch_nothing_else() {
    for (server, table) in wrong() {
        for (what, wrong) in table {
            let hosts = ["a", "b"].map(|name| {
                let host = sim_host(name).behaving(by_items());
                match &server {
                    Some(server) => host.openai(server.clone()).start(),
                    None => host.start(),
                }
            });
            let hosts = hosts.each_ref();
            let proxy = acquainted(&Config::with_hosts(&hosts), &hosts, "/embed").await;
            hosts[1].set(wrong);
            let before = seen(&hosts);
            let (answer, body) = job("/embed", ITEMS);
            let reply = proxy.client().post("/embed", &body).await;
            assert_eq!(reply.status, 200, "{what}: {reply:?}");
            assert_eq!(numbers(&reply.json()), numbers(&answer), "{what}");
            let sizes = sizes(&hosts, &before);
            assert!(sizes.iter().all(|size| *size < ITEMS), "{what}: {sizes:?}");
            assert!(proxy.failed_attempts("b").await >= 1, "{what}");
            assert_eq!(proxy.failed_attempts("a").await, 0, "{what}");
        }
    }
}

/// What becomes of the rows of an answer.
type Rows = fn(Vec<Value>) -> Vec<Value>;

#[tokio::test]
async fn a_server_of_openai_s_api_says_which_row_of_a_part_is_which_or_is_to_blame() {
    let table: [(&str, bool, Rows); 6] = [
        ("in any order", true, |rows| rows),
        ("without indexes", true, |mut rows| {
            rows.reverse();
            for row in &mut rows {
                row.as_object_mut().unwrap().remove("index");
            }
            rows
        }),
        ("one twice", false, |mut rows| {
            rows[1]["index"] = rows[0]["index"].clone();
            rows
        }),
        ("from one on", false, |mut rows| {
            let next = |row: &Value| json!(row["index"].as_u64().unwrap() + 1);
            for row in &mut rows {
                row["index"] = next(row);
            }
            rows
        }),
        ("one fewer", false, |mut rows| {
            rows.pop();
            rows
        }),
        ("one more", false, |mut rows| {
            rows.push(rows[0].clone());
            rows
        }),
    ];
    for (at, (what, is_right, rows)) in table.into_iter().enumerate() {
        let server = |rows| Server {
            rows,
            in_base64: at % 2 == 1,
            most_texts: None,
            ..Server::default()
        };
        let hosts = ["a", "b"].map(|name| {
            let host = sim_host(name).openai(server(|rows| rows));
            host.behaving(by_items()).start()
        });
        let hosts = hosts.each_ref();
        let proxy = acquainted(&Config::with_hosts(&hosts), &hosts, "/embed").await;
        hosts[1].set_openai(server(rows));
        let before = seen(&hosts);
        let (answer, body) = job("/embed", ITEMS);
        let reply = proxy.client().post("/embed", &body).await;
        assert_eq!(reply.status, 200, "{what}");
        assert_eq!(numbers(&reply.json()), numbers(&answer), "{what}");
        assert!(sizes(&hosts, &before).len() > 1, "{what}");
        assert_eq!(proxy.failed_attempts("b").await == 0, is_right, "{what}");
        assert_eq!(proxy.failed_attempts("a").await, 0, "{what}");
    }
}

/// Of each row, however they are written.
fn numbers(answer: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(answer["embeddings"].clone()).unwrap()
}

#[tokio::test]
async fn pairs_are_cut_only_where_the_batch_makes_no_difference_to_a_score() {
    let host = |name, alone| {
        let host = sim_host(name).scores_pairs_alone(alone);
        host.behaving(by_items()).start()
    };
    let hosts = [host("a", true), host("b", true), host("c", false)];
    let [a, b, c] = hosts.each_ref();
    for (hosts, parts) in [(vec![a, b], 2), (vec![c], 1)] {
        let proxy = acquainted(&Config::with_hosts(&hosts), &hosts, "/bertscore").await;
        let before = seen(&hosts);
        let reply = runs(&proxy, "/bertscore", "batch").await;
        assert_eq!(reply.served_by().split(", ").count(), parts);
        assert_eq!(sizes(&hosts, &before).iter().sum::<usize>(), ITEMS);
    }
    let proxy = acquainted(&Config::with_hosts(&[b, c]), &[b, c], "/bertscore").await;
    let before = seen(&[b, c]);
    runs(&proxy, "/bertscore", "batch").await;
    assert_eq!(sizes(&[b, c], &before), [ITEMS], "c pads");
}

#[tokio::test]
async fn pairs_of_more_than_hosts_take_go_to_one_where_they_may_be_cut() {
    let host = |name, alone| {
        let host = sim_host(name).scores_pairs_alone(alone);
        let host = host.most_items(32).tells_most();
        host.behaving(by_items()).start()
    };
    let hosts = [host("pads", false), host("cuts", true)];
    let hosts = hosts.each_ref();
    let proxy = Proxy::ready(&Config::with_hosts(&hosts), &hosts).await;
    for host in hosts {
        host.is_checked(3).await;
    }
    for id in ["first", "second", "third", "fourth"] {
        let before = seen(&hosts);
        let reply = runs(&proxy, "/bertscore", id).await;
        assert_eq!(reply.served_by(), "cuts");
        assert!(sizes(&hosts, &before).iter().all(|size| *size <= 32));
    }
}
