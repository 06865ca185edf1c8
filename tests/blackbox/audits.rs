//! Right answers, watched: a host that is well and yet computes something else than it should gets no
//! requests for that model, and everybody is told.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Behaviour, Client, Config, Ending, HealthAnswer, Proxy, Reply, Server, SimHost,
    Vectors, embed_body, eventually, sim_host,
};

/// Of the first of the texts that audits ask for.
const FIRST_TEXT: &str = "The quick brown fox jumps over the lazy dog.";

fn computing(name: &str, vectors: Vectors) -> SimHost {
    sim_host(name).computing(vectors).start()
}

/// Audits often, for tests in which something changes.
fn watching(hosts: &[&SimHost]) -> Config {
    audited(hosts).set("audit", "interval", "1s")
}

fn audited(hosts: &[&SimHost]) -> Config {
    Config::with_hosts(hosts).set("audit", "enabled", true)
}

/// What is shown of the audit of `sim` on a host.
async fn audit_of(proxy: &Proxy, host: &str) -> Value {
    let pool = proxy.operator().get("/api/v1/pool").await.json();
    let hosts = pool["hosts"].as_array().unwrap().iter();
    let host = hosts.into_iter().find(|it| it["name"] == host).unwrap();
    let audits = host["audits"].as_array().unwrap().iter();
    audits
        .into_iter()
        .find(|it| it["model"] == "sim")
        .cloned()
        .unwrap_or_default()
}

async fn trusts(proxy: &Proxy, expected: &[(&SimHost, &str)]) {
    for (host, trust) in expected {
        let what = format!("{}: {trust}", host.name());
        eventually(&what, async || {
            audit_of(proxy, host.name()).await["trust"] == *trust
        })
        .await;
    }
}

/// The hosts that serve so many requests, all of which are served.
async fn serving(client: &Client, requests: usize) -> BTreeSet<String> {
    let replies = join_all((0..requests).map(|_| client.embed("text"))).await;
    let served_by = |reply: &Reply| {
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.served_by().to_owned()
    };
    replies.iter().map(served_by).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn pinned(client: &Client, space: &str) -> Reply {
    let request = client
        .request(Method::POST, "/embed")
        .json(&embed_body("text"));
    Reply::to(request.header("x-embedding-space", space)).await
}

#[tokio::test]
async fn whoever_says_something_else_than_most_gets_no_requests_and_all_are_told() {
    let right = [
        computing("a", Vectors::Right),
        computing("b", Vectors::HalfPrecision),
        computing("c", Vectors::Right),
        computing("d", Vectors::HalfPrecision),
        computing("e", Vectors::Right),
        computing("f", Vectors::HalfPrecision),
        computing("g", Vectors::Right),
    ];
    let wrong = [
        computing("model", Vectors::OtherModel),
        computing("pooling", Vectors::OtherPooling),
        computing("bit", Vectors::FlippedBit),
        computing("length", Vectors::Longer),
        computing("dimensions", Vectors::OtherDimensions),
        computing("nulls", Vectors::Nulls),
    ];
    let hosts: Vec<&SimHost> = wrong.iter().chain(&right).collect();
    let proxy = Proxy::ready(&audited(&hosts), &hosts).await;

    trusts(&proxy, &wrong.each_ref().map(|host| (host, "deviates"))).await;
    trusts(&proxy, &right.each_ref().map(|host| (host, "agrees"))).await;

    let served = serving(&proxy.client(), 70).await;
    assert_eq!(served, names(&["a", "b", "c", "d", "e", "f", "g"]));
    for host in &wrong {
        let deviating = proxy.host_metric("deviating_models", host.name());
        assert!(deviating.await >= 1, "nulls are wrong for each model");
        assert!(
            proxy.is_healthy(host.name()).await,
            "it is well, for other models"
        );
    }
    for host in &right {
        assert_eq!(proxy.host_metric("deviating_models", host.name()).await, 0);
    }
    let metrics = proxy.metrics_text().await;
    assert!(
        metrics.contains(r#"gpu_bridge_host_audit_cosine{host="model",model="sim"} 0."#),
        "{metrics}"
    );
    let (_, status, _) = proxy.command(&["status"]).await;
    assert!(
        status.contains("it answers wrong, so it gets no requests for that (cosine 0."),
        "{status}"
    );
    let pool = proxy.operator().get("/api/v1/pool").await.json();
    let summary = pool["summary"]["text"].as_str().unwrap();
    assert!(
        summary.contains("6 hosts answer wrong with a model"),
        "{summary}"
    );
    proxy.logs("host answers wrong").await;
    proxy
        .logs("5 dimensions against 4 of what most hosts say")
        .await;
    assert!(!proxy.log().contains(FIRST_TEXT), "nobody's text is logged");
}

#[tokio::test]
async fn hosts_that_take_few_texts_at_once_are_asked_in_parts() {
    let few = |name, most| sim_host(name).most_items(most);
    let hosts = [
        sim_host("all").start(),
        few("tells", 3).tells_most().start(),
        few("refuses", 1).start(),
        few("wrong", 5).computing(Vectors::FlippedBit).start(),
    ];
    let [all, tells, refuses, wrong] = &hosts;
    let config = audited(&hosts.each_ref()).set_host("all", "max_items", 2);
    let proxy = Proxy::ready(&config, &hosts.each_ref()).await;
    let right = [all, tells, refuses].map(|host| (host, "agrees"));
    trusts(&proxy, &right).await;
    trusts(&proxy, &[(wrong, "deviates")]).await;
    let largest = |host: &SimHost| host.record().requests.iter().map(|it| it.items).max();
    assert_eq!(largest(all), Some(2), "as its operator says");
    assert_eq!(largest(tells), Some(3));
}

#[tokio::test]
async fn servers_of_openai_s_api_are_audited_with_what_they_have_answered() {
    let plain = ["a", "b"].map(|name| computing(name, Vectors::OtherModel));
    let server = sim_host("server").openai(Server::default()).start();
    let right = ["c", "d", "e"].map(|name| computing(name, Vectors::Right));
    let hosts: Vec<&SimHost> = plain.iter().chain(&right).chain([&server]).collect();
    let proxy = Proxy::ready(&audited(&hosts), &hosts).await;
    let client = proxy.client();
    let answers = async || client.embed("text").await.served_by() == "server";
    eventually("it serves", answers).await;
    trusts(&proxy, &[(&server, "agrees")]).await;
    trusts(&proxy, &plain.each_ref().map(|host| (host, "deviates"))).await;
}

#[tokio::test]
async fn nonsense_deviates_and_whatever_else_can_not_be_judged_is_told() {
    let start = |(name, behaviour): (&str, Behaviour)| {
        let behaviour = behaviour.only_for(FIRST_TEXT);
        sim_host(name).behaving(behaviour).start()
    };
    let result = |json: &str| Behaviour::Answer(Answer::result(json));
    let nonsense = [
        (
            "nan",
            result(r#"{"embeddings":[[NaN,1],[1,2],[1,2],[1,2],[1,2],[1,2],[1,2],[1,2]]}"#),
        ),
        ("strings", result(r#"{"embeddings":[["1","2"]]}"#)),
        ("few", result(r#"{"embeddings":[[1,2]]}"#)),
        ("error", result(r#"{"error":"no"}"#)),
    ]
    .map(start);
    let unknown = [
        ("bad", Behaviour::Answer(Answer::error(422, "texts: no"))),
        ("fails", Behaviour::Answer(Answer::error(500, "no"))),
        ("page", Behaviour::Answer(Answer::html(200))),
        ("dies", Behaviour::DieMidBody(Ending::Close)),
    ]
    .map(start);
    let full = start(("full", Behaviour::busy(1)));
    let right = sim_host("right").start();
    let hosts: Vec<&SimHost> = nonsense
        .iter()
        .chain(&unknown)
        .chain([&full, &right])
        .collect();
    let proxy = Proxy::ready(&watching(&hosts), &hosts).await;

    trusts(&proxy, &nonsense.each_ref().map(|host| (host, "deviates"))).await;
    trusts(&proxy, &unknown.each_ref().map(|host| (host, "unknown"))).await;
    trusts(&proxy, &[(&right, "alone")]).await;
    assert!(audit_of(&proxy, "full").await.is_null(), "it is only full");
    for host in &unknown {
        let unaudited = proxy.host_metric("unaudited_models", host.name());
        assert!(unaudited.await >= 1);
    }
    let served = serving(&proxy.client(), 50).await;
    assert_eq!(
        served,
        names(&["bad", "dies", "fails", "full", "page", "right"])
    );
    let (_, status, _) = proxy.command(&["status"]).await;
    let why = "it can't be audited, so that nobody knows whether it answers right (it answered 422";
    assert!(status.contains(why), "{status}");
    let (_, told, _) = proxy.command(&["audit"]).await;
    assert!(
        told.contains("bad\tsim\tunknown\t-\t-\tit answered 422"),
        "{told}"
    );
    proxy.logs("host can't be audited").await;
}

#[tokio::test]
async fn while_the_first_audit_runs_nobody_is_told_that_audits_are_off() {
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let (_, said, _) = proxy.command(&["audit"]).await;
    assert_eq!(
        said,
        "hosts are not audited; audit.enabled turns audits on\n"
    );

    let hangs = sim_host("hangs").behaving(Behaviour::Hang).start();
    let proxy = Proxy::ready(&audited(&[&hangs]), &[&hangs]).await;
    let (code, said, error) = proxy.command(&["audit"]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(said.starts_with("nothing has been audited yet"), "{said}");
}

#[tokio::test]
async fn with_a_reference_one_right_host_of_four_is_enough() {
    let right = [
        computing("a", Vectors::Right),
        computing("b", Vectors::HalfPrecision),
    ];
    let hosts = right.each_ref();
    let proxy = Proxy::ready(&audited(&hosts), &hosts).await;
    trusts(&proxy, &hosts.map(|host| (host, "agrees"))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reference.json");
    let file = file.to_str().unwrap();
    let (code, said, error) = proxy.command(&["audit", "--write", file]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(said.starts_with(&format!("{file}: embed:sim\n")), "{said}");

    let wrong = [
        computing("model", Vectors::OtherModel),
        computing("twin", Vectors::OtherModel),
        computing("bit", Vectors::FlippedBit),
    ];
    let right = computing("right", Vectors::HalfPrecision);
    let config = |hosts: &[&SimHost]| audited(hosts).set("audit", "reference", file);
    let hosts: Vec<&SimHost> = wrong.iter().chain([&right]).collect();
    let proxy = Proxy::ready(&config(&hosts), &hosts).await;
    trusts(&proxy, &wrong.each_ref().map(|host| (host, "deviates"))).await;
    trusts(&proxy, &[(&right, "agrees")]).await;
    assert_eq!(serving(&proxy.client(), 20).await, names(&["right"]));
    for _ in 0..8 {
        let unnamed = proxy
            .client()
            .post("/embed", &json!({"texts": ["text"]}))
            .await;
        assert_eq!(unnamed.served_by(), "right", "whichever is meant");
    }

    // What nobody can answer right is refused, in words.
    proxy.takes_over(&config(&wrong.each_ref())).await;
    let refused = proxy.client().embed("text").await;
    let detail = refused.assert_error(503);
    assert!(
        detail.contains("the hosts that have the model answer wrong"),
        "{detail}"
    );
    assert!(refused.header("retry-after").is_some());
    assert_eq!(serving_other(&proxy).await, 200, "other models are served");
    // Whoever turns it off gets the hosts back.
    proxy
        .takes_over(&Config::with_hosts(&wrong.each_ref()))
        .await;
    let served = async || proxy.client().embed("text").await.status == 200;
    eventually("all are trusted again", served).await;
    assert_eq!(serving(&proxy.client(), 9).await.len(), 3);
}

/// Of a model that only one host has, as it is called itself.
async fn serving_other(proxy: &Proxy) -> u16 {
    let reply = proxy.client().embed_with("unheard-of", "text").await;
    reply.status.as_u16()
}

#[tokio::test]
async fn a_reference_keeps_what_nothing_new_is_said_of_and_tells_what_is_left_out() {
    let start = |name, models: &[&str]| sim_host(name).models(models).start();
    let hosts = [start("a", &["sim", "old"]), start("b", &["sim", "old"])];
    let [a, b] = &hosts;
    let proxy = Proxy::ready(&watching(&hosts.each_ref()), &hosts.each_ref()).await;
    trusts(&proxy, &[(a, "agrees"), (b, "agrees")]).await;
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (
        folder.path().join("reference.json"),
        folder.path().join("link"),
    );
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let write = async |more: &[&str]| {
        let order = [&["audit", "--write", link.to_str().unwrap()], more].concat();
        proxy.command(&order).await
    };
    let says = async |more: &[&str], expected: &str| {
        eventually(expected, async || {
            let (_, said, _) = write(more).await;
            said.contains(expected)
        })
        .await;
    };
    says(&[], "embed:old, embed:sim\n").await;
    says(&[], "not written: embed:a (only one host tells)").await;
    says(&["--from", "b"], "embed:b").await;
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(&file, mode).unwrap();

    b.set_vectors(Vectors::OtherModel);
    trusts(&proxy, &[(a, "disputed"), (b, "disputed")]).await;
    says(&["--from", "a"], "as they were there: embed:b\n").await;
    let pinned: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let pinned: Vec<&String> = pinned["models"].as_object().unwrap().keys().collect();
    assert_eq!(pinned, ["embed:a", "embed:b", "embed:old", "embed:sim"]);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    let kept = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(kept & 0o777, 0o640);

    let json = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, json.replace("lazy dog", "lazy cat")).unwrap();
    says(
        &["--from", "a"],
        "gone: what it held of another version's texts",
    )
    .await;
    let (_, said, told) = proxy
        .command(&["audit", "--write", "/dev/stdout", "--from", "a"])
        .await;
    assert!(serde_json::from_str::<Value>(&said).is_ok(), "{said}");
    assert!(told.contains("/dev/stdout: embed:"), "{told}");

    std::fs::write(&file, "mine: not a reference\n").unwrap();
    let (code, _, error) = write(&["--from", "a"]).await;
    assert_eq!(code, Some(1));
    assert!(
        error.contains("is no reference, so it is left alone"),
        "{error}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"mine: not a reference\n");
}

#[tokio::test]
async fn of_two_that_disagree_both_are_marked_and_none_is_taken_out() {
    let (a, b) = (
        computing("a", Vectors::Right),
        computing("b", Vectors::OtherModel),
    );
    let proxy = Proxy::ready(&audited(&[&a, &b]), &[&a, &b]).await;
    trusts(&proxy, &[(&a, "disputed"), (&b, "disputed")]).await;
    let client = proxy.client();
    assert_eq!(serving(&client, 20).await, names(&["a", "b"]));
    assert_eq!(proxy.host_metric("disputed_models", "a").await, 1);
    assert_eq!(proxy.host_metric("deviating_models", "b").await, 0);
    proxy.logs("hosts disagree").await;

    // A client that says which it wants gets that.
    for host in ["a", "b"] {
        let space = audit_of(&proxy, host).await["space"]
            .as_str()
            .unwrap()
            .to_owned();
        for _ in 0..10 {
            let reply = pinned(&client, &space).await;
            assert_eq!(reply.served_by(), host);
            assert_eq!(reply.header("x-embedding-space"), Some(space.as_str()));
        }
    }
}

#[tokio::test]
async fn a_host_comes_back_when_it_agrees_again_and_leaves_when_it_does_not() {
    let hosts = ["a", "b", "c"].map(|name| computing(name, Vectors::Right));
    let [_, _, changing] = &hosts;
    let proxy = Proxy::ready(&watching(&hosts.each_ref()), &hosts.each_ref()).await;
    trusts(&proxy, &[(changing, "agrees")]).await;
    changing.set_vectors(Vectors::OtherPooling);
    trusts(&proxy, &[(changing, "deviates")]).await;
    assert_eq!(serving(&proxy.client(), 20).await, names(&["a", "b"]));
    changing.set_vectors(Vectors::HalfPrecision);
    trusts(&proxy, &[(changing, "agrees")]).await;
    assert_eq!(serving(&proxy.client(), 20).await, names(&["a", "b", "c"]));
}

#[tokio::test]
async fn a_host_that_was_restarted_is_audited_at_once() {
    let hosts = ["a", "b", "c"].map(|name| computing(name, Vectors::Right));
    let [_, _, changing] = &hosts;
    let proxy = Proxy::ready(&audited(&hosts.each_ref()), &hosts.each_ref()).await;
    trusts(&proxy, &[(changing, "agrees")]).await;
    changing.stop();
    proxy.finds_unhealthy("c").await;
    changing.set_vectors(Vectors::OtherModel);
    changing.restart();
    trusts(&proxy, &[(changing, "deviates")]).await;
}

#[tokio::test]
async fn a_host_that_was_restarted_behind_a_front_is_audited_at_once() {
    let hosts = ["a", "b", "c"].map(|name| computing(name, Vectors::Right));
    let [_, _, changing] = &hosts;
    let proxy = Proxy::ready(&audited(&hosts.each_ref()), &hosts.each_ref()).await;
    trusts(&proxy, &[(changing, "agrees")]).await;
    changing.set_health(HealthAnswer::Answer(Answer::html(502)));
    proxy.finds_unhealthy("c").await;
    changing.set_vectors(Vectors::OtherModel);
    changing.set_health(HealthAnswer::Ok);
    trusts(&proxy, &[(changing, "deviates")]).await;
}

#[tokio::test]
async fn what_runs_on_a_host_that_is_found_out_is_answered_by_another() {
    let slow = || Behaviour::ServeWhenReleased.only_for("slow");
    let start = |name| sim_host(name).behaving(slow()).start();
    let hosts = ["a", "b", "c"].map(start);
    let proxy = Proxy::ready(&watching(&hosts.each_ref()), &hosts.each_ref()).await;
    let client = proxy.client();
    let running: Vec<_> = (0..3).map(|_| client.start_embed("slow")).collect();
    for host in &hosts {
        let what = format!("a request on {}", host.name());
        let taken = || host.record().taken_on.iter().any(|text| text == "slow");
        eventually(&what, async || taken()).await;
    }
    hosts[2].set_vectors(Vectors::FlippedBit);
    trusts(&proxy, &[(&hosts[2], "deviates")]).await;
    for host in &hosts {
        host.release_all();
    }
    for reply in running {
        let reply = reply.await.unwrap();
        reply.assert_embedding_of("slow");
        assert_ne!(reply.served_by(), "c");
    }
    assert_eq!(proxy.attempts("c", "wrong").await, 1);
    assert_eq!(proxy.ejections("c").await, 0);
}

#[tokio::test]
async fn nothing_is_loaded_for_an_audit_and_none_takes_a_slot_that_is_waited_for() {
    let slow = Behaviour::ServeWhenReleased.only_for("slow");
    let host = sim_host("a").models(&[]).slots(1).behaving(slow).start();
    let proxy = Proxy::ready(&audited(&[&host]), &[&host]).await;
    let audits = || {
        host.record()
            .taken_on
            .iter()
            .filter(|text| *text == FIRST_TEXT)
            .count()
    };
    // The model that is called as the host.
    eventually("the first audit", async || audits() == 1).await;

    let client = proxy.client();
    let slow = client.start_embed("slow");
    host.runs(1).await;
    let waiting: Vec<_> = (0..3).map(|_| client.start_embed("waits")).collect();
    proxy.queues(3).await;
    host.set_models(&["sim"]);
    host.is_checked(20).await;
    assert_eq!(audits(), 1, "all slots are taken");
    host.release_all();
    for reply in waiting.into_iter().chain([slow]) {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    eventually("the audit of the other model", async || audits() == 2).await;
    let order = host.record().taken_on;
    assert_eq!(
        order.last().map(String::as_str),
        Some(FIRST_TEXT),
        "{order:?}"
    );
}

#[tokio::test]
async fn a_host_that_fails_at_audits_is_neither_ejected_nor_taken_out() {
    let crash = Behaviour::internal_server_error().only_for(FIRST_TEXT);
    let c = sim_host("c").behaving(crash).start();
    let (a, b) = (
        computing("a", Vectors::Right),
        computing("b", Vectors::Right),
    );
    let hosts = [&a, &b, &c];
    let proxy = Proxy::ready(&watching(&hosts), &hosts).await;
    trusts(&proxy, &[(&a, "agrees"), (&b, "agrees")]).await;
    let asked = || c.record().requests.len();
    eventually("it was asked several times", async || asked() > 3).await;
    trusts(&proxy, &[(&c, "unknown")]).await;
    assert_eq!(proxy.ejections("c").await, 0);
    assert_eq!(serving(&proxy.client(), 20).await, names(&["a", "b", "c"]));
}

#[tokio::test]
async fn a_space_is_told_and_can_be_pinned() {
    let (a, b) = (
        computing("a", Vectors::Right),
        computing("b", Vectors::HalfPrecision),
    );
    let proxy = Proxy::ready(&audited(&[&a, &b]), &[&a, &b]).await;
    let client = proxy.client();
    trusts(&proxy, &[(&a, "agrees"), (&b, "agrees")]).await;
    let told = client.embed("text").await;
    let space = told
        .header("x-embedding-space")
        .expect("a space")
        .to_owned();
    assert!(space.starts_with("4-"), "{space}");
    let body = json!({"input": "text", "model": "sim"});
    let openai = client.post("/v1/embeddings", &body).await;
    assert_eq!(openai.header("x-embedding-space"), Some(space.as_str()));

    assert_eq!(pinned(&client, &space).await.status, 200);
    let other = format!("4-{}", "0".repeat(32));
    let refused = pinned(&client, &other).await;
    let detail = refused.assert_error(503);
    assert!(detail.contains("X-Embedding-Space"), "{detail}");
    let request = client.request(Method::POST, "/v1/embeddings").json(&body);
    let openai = Reply::to(request.header("x-embedding-space", &other)).await;
    openai.assert_openai_error(503);
    pinned(&client, "all-MiniLM-L6-v2").await.assert_error(400);
    let unnamed = client
        .request(Method::POST, "/embed")
        .json(&json!({"texts": ["text"]}));
    let unnamed = Reply::to(unnamed.header("x-embedding-space", &space)).await;
    unnamed.assert_error(400);

    // Another proxy of the same hosts, or this one after a restart, knows it again.
    let next = Proxy::ready(&audited(&[&b]), &[&b]).await;
    assert_eq!(
        pinned(&next.client(), &space).await.status,
        200,
        "it waits for the first audit"
    );
    let off = Proxy::in_front_of(&[&a]).await;
    let detail = pinned(&off.client(), &space).await.assert_error(503);
    assert!(detail.contains("audit.enabled"), "{detail}");
    assert_eq!(
        off.client().embed("text").await.header("x-embedding-space"),
        None
    );
}

/// That one audit asks for.
const TEXTS: usize = 8;
/// Between two audits of a model on a host; the default.
const INTERVAL: Duration = Duration::from_mins(10);

/// With hosts that take a tenth of a second for a text, one after the other, as processors may.
#[tokio::test]
async fn audits_cost_less_than_half_a_percent_of_what_hosts_can_do() {
    let (fixed, each) = (Duration::from_millis(20), Duration::from_millis(100));
    let slow = |name| {
        let host = sim_host(name).slots(1).models(&["sim"]);
        host.behaving(Behaviour::ServeByItems(fixed, each)).start()
    };
    let hosts = ["a", "b", "c"].map(slow);
    let proxy = Proxy::ready(&audited(&hosts.each_ref()), &hosts.each_ref()).await;
    trusts(&proxy, &hosts.each_ref().map(|host| (host, "agrees"))).await;
    let audits = hosts[0].record().requests;
    assert!(audits.iter().all(|it| it.items == TEXTS), "{audits:?}");
    let busy = "gpu_bridge_host_busy_seconds_total";
    let measured = proxy.metrics().await.seconds(busy);
    // By the clock it may be more, on a machine that does much else.
    let models = proxy.host_metric("loaded_models", "a").await as f64;
    let takes = models * (fixed + each * u32::try_from(TEXTS).unwrap()).as_secs_f64();
    let cost = takes / INTERVAL.as_secs_f64();
    eprintln!(
        "{} audits took {measured:.3} s of a slot; those of {models} models take {takes:.3} s each \
         {INTERVAL:?}: {:.3} % of a host with one slot",
        audits.len(),
        100.0 * cost
    );
    assert!(cost < 0.005, "{cost}");
}
