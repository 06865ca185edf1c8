//! Hosts differ in models: a request goes to those that have its model, and fails for want of it only
//! if no host is left that might have it.

use std::time::Duration;

use futures_util::future::join_all;

use crate::harness::{
    Answer, Behaviour, Client, Config, Proxy, Reply, SimHost, eventually, sim_host,
};

/// So many at once; all must be served.
async fn serves_all(client: &Client, model: &str, requests: usize) -> Vec<Reply> {
    let replies = join_all((0..requests).map(|_| client.embed_with(model, "text"))).await;
    for reply in &replies {
        reply.assert_embedding_of("text");
    }
    replies
}

/// One that works for a moment, so that the other's refusals are quicker.
fn has_both(name: &str) -> SimHost {
    let work = Behaviour::ServeAfter(Duration::from_millis(20));
    sim_host(name)
        .behaving(work)
        .installed(&["sim", "m"])
        .start()
}

#[tokio::test]
async fn a_model_that_one_of_two_hosts_has_is_served_by_that_one() {
    let lacks = sim_host("lacks").installed(&["sim"]).start();
    let has = has_both("has");
    let proxy = Proxy::in_front_of(&[&lacks, &has]).await;
    let client = proxy.client();

    for reply in serves_all(&client, "m", 12).await {
        assert_eq!(reply.served_by(), "has");
    }
    let asked = lacks.arrivals();
    assert!(asked <= 3, "asked {asked} times for what it lacks");
    serves_all(&client, "m", 12).await;
    assert_eq!(lacks.arrivals(), asked, "it is remembered");

    serves_all(&client, "sim", 12).await;
    assert!(lacks.arrivals() > asked, "what it has it still serves");
    assert_eq!(proxy.ejections("lacks").await, 0);
    let pool = proxy.operator().get("/api/v1/pool").await.json();
    assert_eq!(pool["hosts"][0]["attempts"]["failed"], 0.0, "{pool}");
}

#[tokio::test]
async fn a_host_that_tells_what_it_can_serve_is_not_asked_for_anything_else() {
    let lacks = sim_host("lacks")
        .installed(&["sim"])
        .tells_installed()
        .start();
    let has = has_both("has");
    let proxy = Proxy::in_front_of(&[&lacks, &has]).await;

    serves_all(&proxy.client(), "m", 12).await;

    assert_eq!(lacks.arrivals(), 0);
}

#[tokio::test]
async fn an_error_for_a_model_that_a_sibling_has_is_no_fault_and_is_remembered() {
    let crash = Answer::error(500, "Internal Server Error");
    let lacks = sim_host("lacks")
        .installed(&["sim"])
        .unknown_model(crash)
        .start();
    let has = has_both("has");
    let proxy = Proxy::in_front_of(&[&lacks, &has]).await;
    let client = proxy.client();

    serves_all(&client, "m", 12).await;
    let asked = lacks.arrivals();
    serves_all(&client, "m", 12).await;

    assert_eq!(lacks.arrivals(), asked, "it is remembered");
    assert_eq!(proxy.ejections("lacks").await, 0);
    serves_all(&client, "sim", 4).await;
    assert!(lacks.arrivals() > asked, "what it has it still serves");
}

#[tokio::test]
async fn errors_of_many_hosts_that_lack_the_model_do_not_hide_the_one_that_has_it() {
    let start = |name| {
        let crash = Answer::error(500, "Internal Server Error");
        let host = sim_host(name).installed(&["sim"]).unknown_model(crash);
        host.start()
    };
    let lacking = ["a", "b", "c", "d"].map(start);
    let has = has_both("has");
    let mut hosts: Vec<&SimHost> = lacking.iter().collect();
    hosts.push(&has);
    let proxy = Proxy::in_front_of(&hosts).await;

    for _ in 0..4 {
        let reply = proxy.client().embed_with("m", "text").await;
        reply.assert_embedding_of("text");
    }

    let asked = lacking.iter().map(SimHost::arrivals).sum::<usize>();
    assert!(asked <= 4, "asked {asked} times for what they lack");
    for host in ["a", "b", "c", "d"] {
        assert_eq!(proxy.ejections(host).await, 0, "{host}");
    }
}

#[tokio::test]
async fn a_model_that_no_host_has_is_a_404_at_once_with_what_there_is() {
    let start = |name| sim_host(name).installed(&["sim"]).start();
    let hosts = [start("a"), start("b"), start("c")];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let client = proxy.client();
    let asked = || hosts.iter().map(SimHost::arrivals).sum::<usize>();

    let detail = client.embed_with("nope", "text").await.assert_error(404);
    assert!(
        detail.contains("'nope'") && detail.contains("sim"),
        "{detail}"
    );
    assert_eq!(asked(), 3, "each host once");
    client.embed_with("nope", "text").await.assert_error(404);
    assert_eq!(asked(), 3, "it is remembered");
    serves_all(&client, "sim", 6).await;
}

#[tokio::test]
async fn where_all_hosts_tell_what_they_have_one_is_asked_all_the_same() {
    let start = |name| sim_host(name).installed(&["sim"]).tells_installed().start();
    let hosts = [start("a"), start("b"), start("c")];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let client = proxy.client();
    let asked = || hosts.iter().map(SimHost::arrivals).sum::<usize>();

    client.embed_with("nope", "text").await.assert_error(404);
    assert_eq!(asked(), 1);
    client.embed_with("nope", "text").await.assert_error(404);
    assert_eq!(asked(), 1, "it is remembered");
}

#[tokio::test]
async fn a_list_that_lacks_something_fails_no_request() {
    let host = sim_host("host").installed(&[]).tells_installed().start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    eventually("the list is told", async || {
        let info = proxy.client().get("/info").await.json();
        info["hosts"][0]["available_models"].is_array()
    })
    .await;
    host.answer_all_models();

    serves_all(&proxy.client(), "m", 2).await;
}

#[tokio::test]
async fn a_model_that_a_host_gets_later_is_found_as_soon_as_it_tells() {
    let start = |name| sim_host(name).installed(&["sim"]).tells_installed().start();
    let hosts = [start("a"), start("b")];
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let client = proxy.client();
    client.embed_with("m", "text").await.assert_error(404);

    hosts[1].set_installed(&["sim", "m"]);

    eventually("it is served", async || {
        client.embed_with("m", "text").await.status == 200
    })
    .await;
    assert_eq!(client.embed_with("m", "text").await.served_by(), "b");
}

#[tokio::test]
async fn what_a_host_lacked_is_forgotten_when_it_restarts() {
    let lacks = sim_host("lacks").installed(&["sim"]).start();
    let proxy = Proxy::in_front_of(&[&lacks]).await;
    let client = proxy.client();
    client.embed_with("m", "text").await.assert_error(404);

    lacks.stop();
    proxy.finds_unhealthy("lacks").await;
    lacks.set_installed(&["sim", "m"]);
    lacks.restart();
    proxy.finds_healthy("lacks").await;

    serves_all(&client, "m", 2).await;
}

#[tokio::test]
async fn a_model_on_a_host_that_is_out_is_waited_for() {
    let start = |name| sim_host(name).installed(&["sim"]).start();
    let lacking = [start("a"), start("b")];
    let has = sim_host("has")
        .installed(&["sim", "m"])
        .tells_installed()
        .start();
    let proxy = Proxy::in_front_of(&[&lacking[0], &lacking[1], &has]).await;
    has.stop();
    proxy.finds_unhealthy("has").await;
    let waiting = proxy.client().start_embed_with("m", "patience");
    proxy.queues(1).await;

    has.restart();

    waiting.await.unwrap().assert_embedding_of("patience");
}

#[tokio::test]
async fn a_host_that_comes_back_without_the_model_ends_the_wait_for_it() {
    let lacks = sim_host("lacks").installed(&["sim"]).start();
    let had = sim_host("had").installed(&["sim", "m"]).start();
    let proxy = Proxy::in_front_of(&[&lacks, &had]).await;
    serves_all(&proxy.client(), "m", 1).await;
    had.stop();
    proxy.finds_unhealthy("had").await;
    let waiting = proxy.client().start_embed_with("m", "patience");
    proxy.queues(1).await;

    had.set_installed(&["sim"]);
    had.restart();

    waiting.await.unwrap().assert_error(404);
}

#[tokio::test]
async fn hosts_that_are_out_and_were_never_seen_with_the_model_are_not_waited_for() {
    let start = |name| sim_host(name).installed(&["sim"]).start();
    let [serves, down, drained] = ["serves", "down", "drained"].map(start);
    let hosts = [&serves, &down, &drained];
    let config = Config::with_hosts(&hosts).set("queue", "max_wait", "2s");
    let proxy = Proxy::ready(&config, &hosts).await;
    down.stop();
    proxy.finds_unhealthy("down").await;
    let (code, _, error) = proxy.command(&["drain", "drained"]).await;
    assert_eq!(code, Some(0), "{error}");

    for _ in 0..2 {
        let refused = proxy.client().embed_with("nope", "text").await;
        let detail = refused.assert_error(404);
        let unasked = "could not be asked: down, drained";
        assert!(
            detail.contains("'nope'") && detail.contains(unasked),
            "{detail}"
        );
    }
    serves_all(&proxy.client(), "sim", 2).await;
}

#[tokio::test]
async fn a_host_of_which_nothing_was_ever_heard_may_have_any_model() {
    let serves = sim_host("serves").installed(&["sim"]).start();
    let unheard = sim_host("unheard").installed(&["m"]).start();
    unheard.stop();
    let config = Config::with_hosts(&[&serves, &unheard]);
    let proxy = Proxy::ready(&config, &[&serves]).await;
    proxy.finds("unheard", "ejected").await;

    for _ in 0..2 {
        let refused = proxy.client().embed_with("m", "text").await;
        refused.assert_come_again();
        assert!(
            refused.assert_error(503).contains("unheard is ejected"),
            "{refused:?}"
        );
    }
    unheard.restart();
    proxy.finds_healthy("unheard").await;
    serves_all(&proxy.client(), "m", 2).await;
}

#[tokio::test]
async fn a_busy_host_that_has_the_model_is_waited_for() {
    let lacks = sim_host("lacks").installed(&["sim"]).start();
    let has = sim_host("has")
        .behaving(Behaviour::ServeWhenReleased)
        .slots(1)
        .installed(&["sim", "m"])
        .start();
    let proxy = Proxy::in_front_of(&[&lacks, &has]).await;
    let client = proxy.client();
    let first = client.start_embed_with("m", "first");
    has.runs(1).await;
    let second = client.start_embed_with("m", "second");
    proxy.queues(1).await;

    has.release_all();

    first.await.unwrap().assert_embedding_of("first");
    second.await.unwrap().assert_embedding_of("second");
    assert!(lacks.arrivals() <= 1);
}

#[tokio::test]
async fn who_waits_in_vain_is_told_to_come_again_if_the_model_is_known_somewhere() {
    let lacks = sim_host("lacks").installed(&["sim"]).start();
    let had = sim_host("had")
        .installed(&["sim", "m"])
        .tells_installed()
        .start();
    let hosts = [&lacks, &had];
    let config = Config::with_hosts(&hosts).set("queue", "max_wait", "300ms");
    let proxy = Proxy::ready(&config, &hosts).await;
    had.stop();
    proxy.finds_unhealthy("had").await;

    let client = proxy.client();
    client.embed_with("m", "text").await.assert_come_again();
    let detail = client.embed_with("nope", "text").await.assert_error(404);
    assert!(!detail.is_empty());
}

#[tokio::test]
async fn a_host_that_is_not_ready_takes_what_only_it_has() {
    let loading = sim_host("loading")
        .installed(&["sim", "m"])
        .tells_installed()
        .ready(false)
        .start();
    let ready = sim_host("ready")
        .installed(&["sim"])
        .tells_installed()
        .start();
    let proxy = Proxy::ready(&Config::with_hosts(&[&loading, &ready]), &[&ready]).await;
    proxy.finds("loading", "not_ready").await;
    let client = proxy.client();

    for reply in serves_all(&client, "m", 6).await {
        assert_eq!(reply.served_by(), "loading");
    }
    for reply in serves_all(&client, "sim", 6).await {
        assert_eq!(reply.served_by(), "ready");
    }
    assert_eq!(proxy.ejections("loading").await, 0);
}

#[tokio::test]
async fn any_number_of_invented_models_leaves_others_alone() {
    let hosts = ["a", "b"].map(|name| sim_host(name).installed(&["sim"]).start());
    let proxy = Proxy::in_front_of(&hosts.each_ref()).await;
    let client = proxy.client();

    for batch in 0..40 {
        let names = (0..10).map(|number| format!("invented {batch} {number}"));
        let replies = join_all(names.map(|name| {
            let client = client.clone();
            async move { client.embed_with(&name, "text").await }
        }));
        for reply in replies.await {
            reply.assert_error(404);
        }
    }

    serves_all(&client, "sim", 12).await;
    for host in &hosts {
        assert_eq!(proxy.ejections(host.name()).await, 0);
    }
}
