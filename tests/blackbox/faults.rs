//! Whatever one of two hosts does, no client notices; the host is ejected for what is its own fault.

use std::time::Duration;

use crate::harness::{Answer, Behaviour, Config, Ending, Proxy, SimHost, eventually, sim_host};

const REQUESTS: usize = 40;

/// A pool of one host that misbehaves and one that does not.
struct Pair {
    bad: SimHost,
    proxy: Proxy,
    _good: SimHost,
}

impl Pair {
    async fn with(misbehaviour: Behaviour) -> Self {
        let bad = sim_host("bad").behaving(misbehaviour).start();
        let good = sim_host("good").start();
        let hosts = [&bad, &good];
        // What is long for a host that answers at once.
        let config = Config::with_hosts(&hosts).set("timeouts", "attempt", "1500ms");
        let proxy = Proxy::ready(&config, &hosts).await;
        Self {
            bad,
            proxy,
            _good: good,
        }
    }

    async fn serves_all_requests(&self) {
        self.proxy.client().flood(REQUESTS, 4).await;
        assert!(self.bad.arrivals() > 0, "the bad host was never asked");
    }

    async fn has_ejected_the_bad_host(&self) {
        assert!(self.proxy.ejections("bad").await >= 1);
        assert_eq!(self.proxy.ejections("good").await, 0);
        assert!(self.proxy.is_healthy("good").await);
        let attempts = self.bad.arrivals();
        assert!(attempts < REQUESTS / 2, "{attempts} attempts on a bad host");
    }
}

/// The promise for a host with this misbehaviour.
async fn is_hidden_and_ejected(misbehaviour: Behaviour) {
    let pair = Pair::with(misbehaviour).await;
    pair.serves_all_requests().await;
    pair.has_ejected_the_bad_host().await;
}

#[tokio::test]
async fn a_host_that_answers_500_in_json_is_hidden() {
    is_hidden_and_ejected(Behaviour::answer(500, "CUDA error")).await;
}

#[tokio::test]
async fn a_host_that_answers_500_in_plain_text_is_hidden() {
    is_hidden_and_ejected(Behaviour::internal_server_error()).await;
}

#[tokio::test]
async fn a_host_that_answers_503_without_retry_after_is_hidden() {
    is_hidden_and_ejected(Behaviour::answer(503, "starting")).await;
}

#[tokio::test]
async fn a_host_that_dies_in_the_middle_of_its_answer_is_hidden() {
    is_hidden_and_ejected(Behaviour::DieMidBody(Ending::Reset)).await;
}

#[tokio::test]
async fn a_host_that_closes_in_the_middle_of_its_answer_is_hidden() {
    is_hidden_and_ejected(Behaviour::DieMidBody(Ending::Close)).await;
}

#[tokio::test]
async fn a_host_that_closes_before_the_last_chunk_is_hidden() {
    is_hidden_and_ejected(Behaviour::DieMidChunks(Ending::Close)).await;
}

#[tokio::test]
async fn a_host_that_resets_after_reading_the_request_is_hidden() {
    is_hidden_and_ejected(Behaviour::Say("", Ending::Reset)).await;
}

#[tokio::test]
async fn a_host_that_hangs_up_without_an_answer_is_hidden() {
    is_hidden_and_ejected(Behaviour::Say("", Ending::Close)).await;
}

#[tokio::test]
async fn a_host_that_resets_while_it_reads_is_hidden() {
    is_hidden_and_ejected(Behaviour::DieReading).await;
}

#[tokio::test]
async fn a_host_that_talks_garbage_is_hidden() {
    is_hidden_and_ejected(Behaviour::Say("what is HTTP?\r\n\r\n", Ending::Close)).await;
}

/// What a lenient reader gets is no answer of the host.
#[tokio::test]
async fn a_host_whose_chunks_can_be_read_in_two_ways_is_hidden() {
    for chunks in [
        ";a\r\n{}\r\n\r\n",
        "2 \r\n{}\r\n0\r\n\r\n",
        "2;a\n\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        let said = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        is_hidden_and_ejected(Behaviour::Say(said.leak(), Ending::Silence)).await;
    }
}

#[tokio::test]
async fn a_host_that_never_answers_is_hidden() {
    let pair = Pair::with(Behaviour::Hang).await;
    pair.serves_all_requests().await;
    pair.has_ejected_the_bad_host().await;
}

#[tokio::test]
async fn a_host_that_wants_another_key_is_hidden_until_the_key_fits() {
    let bad = sim_host("bad").key("its-key").start();
    let good = sim_host("good").start();
    let config = Config::with_hosts(&[&bad, &good]).set_host("bad", "api_key", "our-key");
    let proxy = Proxy::ready(&config, &[&good]).await;

    proxy.client().flood(REQUESTS, 4).await;

    assert!(!proxy.is_healthy("bad").await);
    bad.set_key("our-key");
    proxy.finds_healthy("bad").await;
    is_used_again(&proxy, &bad).await;
    assert!(!proxy.log().contains("our-key"), "the key is in the log");
}

#[tokio::test]
async fn a_host_that_begins_to_refuse_our_key_is_found_out_by_requests() {
    let bad = sim_host("bad").key("our-key").start();
    let good = sim_host("good").start();
    let hosts = [&bad, &good];
    // No check comes in between.
    let config = Config::with_hosts(&hosts).set("health", "interval", "1h");
    let proxy = Proxy::ready(&config, &hosts).await;

    bad.set_key("its-key");
    proxy.client().flood(REQUESTS, 4).await;

    assert!(proxy.attempts("bad", "misconfigured").await >= 1);
    assert!(!proxy.is_healthy("bad").await);
    assert!(proxy.is_healthy("good").await);
}

#[tokio::test]
async fn a_host_that_forbids_what_others_compute_is_hidden_and_its_key_is_not_suspected() {
    let pair = Pair::with(Behaviour::answer(403, "Forbidden")).await;
    pair.serves_all_requests().await;
    pair.has_ejected_the_bad_host().await;
    assert!(pair.proxy.attempts("bad", "forbidden").await >= 1);
    assert_eq!(pair.proxy.attempts("bad", "misconfigured").await, 0);
}

#[tokio::test]
async fn an_ejected_host_comes_back_when_it_is_well_again() {
    let pair = Pair::with(Behaviour::answer(500, "CUDA error")).await;
    pair.serves_all_requests().await;
    pair.has_ejected_the_bad_host().await;

    pair.bad.set(Behaviour::Serve);

    pair.proxy.finds_healthy("bad").await;
    is_used_again(&pair.proxy, &pair.bad).await;
}

/// No fault of the host: servers close idle connections whenever they like.
#[tokio::test]
async fn a_host_that_hangs_up_between_requests_is_neither_noticed_nor_ejected() {
    for manner in [
        Behaviour::ServeThenHangUp,
        Behaviour::ServeOncePerConnection(""),
    ] {
        let host = sim_host("host").behaving(manner).start();
        let proxy = Proxy::in_front_of(&[&host]).await;

        proxy.client().flood(REQUESTS, 1).await;

        assert_eq!(proxy.failed_attempts("host").await, 0);
        assert_eq!(proxy.ejections("host").await, 0);
    }
}

#[tokio::test]
async fn a_host_that_is_killed_under_load_is_hidden() {
    let work = Behaviour::ServeAfter(Duration::from_millis(5));
    let bad = sim_host("bad").behaving(work.clone()).start();
    let good = sim_host("good").behaving(work).start();
    let proxy = Proxy::in_front_of(&[&bad, &good]).await;
    let load = tokio::spawn({
        let client = proxy.client();
        async move { client.flood(200, 8).await }
    });
    eventually("load on the host", async || bad.arrivals() > 10).await;

    bad.stop();

    load.await.unwrap();
    proxy.finds_unhealthy("bad").await;
    assert!(proxy.is_healthy("good").await);
}

#[tokio::test]
async fn a_host_that_refuses_before_reading_the_request_is_hidden() {
    let refusals = [
        Behaviour::AnswerUnread(Answer::busy(503, 1)),
        Behaviour::AnswerUnread(Answer::error(500, "early")),
    ];
    for refusal in refusals {
        let pair = Pair::with(refusal).await;
        pair.serves_all_requests().await;
        assert!(pair.proxy.is_healthy("good").await);
    }
}

async fn is_used_again(proxy: &Proxy, host: &SimHost) {
    let before = host.record().taken_on.len();
    eventually("the host is used again", async || {
        proxy.client().flood(4, 4).await;
        host.record().taken_on.len() > before
    })
    .await;
}
