//! A new process takes over from the running one, and no client notices.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::header;
use tempfile::{NamedTempFile, TempDir};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{
    Behaviour, Config, HealthAnswer, Process, Proxy, RawConnection, SimHost, Wire, eventually,
    serve, sim_host,
};

/// What the running proxy logs when a successor appears, and when it is gone again.
const ASKED: &str = "another process asks to take over";
const SPARED: &str = "it does not; serving on";

/// A folder for upgrade sockets.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("upgrade.sock")
    }
}

/// A host with one slot, which answers when it is told to, as the whole pool.
fn one_slot() -> (SimHost, Config) {
    let host = sim_host("host")
        .slots(1)
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host]).set_host("host", "max_concurrent", 1);
    (host, config)
}

/// Clients that never stop asking. They retry nothing: one answer that is missing or wrong fails the
/// test.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(proxy: &Proxy, keeping: usize, reconnecting: usize) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            answers: Arc::default(),
            clients: JoinSet::new(),
        };
        for number in 0..keeping + reconnecting {
            let (stop, answers) = (Arc::clone(&load.stop), Arc::clone(&load.answers));
            let (address, keeps) = (proxy.address(), number < keeping);
            load.clients.spawn(async move {
                let mut connection = RawConnection::open(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let text = format!("{number}-{}", answers.fetch_add(1, Ordering::Relaxed));
                    connection.send_embed(&text).await;
                    let reply = connection.reply().await;
                    reply.assert_embedding_of(&text);
                    if !keeps || reply.header(header::CONNECTION.as_str()) == Some("close") {
                        connection = RawConnection::open(address).await;
                    }
                }
            });
        }
        load
    }

    /// Returns once so many requests more have been made.
    async fn goes_on(&self, requests: usize) {
        let until = self.answers.load(Ordering::Relaxed) + requests;
        eventually("more answers", async || {
            self.answers.load(Ordering::Relaxed) >= until
        })
        .await;
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
    }
}

fn write(config: &Config) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), config.to_yaml()).unwrap();
    file
}

/// A successor that is not expected to get far.
fn start_doomed(config: &Path, socket: &Path) -> Process {
    let mut command = serve(config);
    command.arg("--upgrade-socket").arg(socket);
    Process::start("the successor", &mut command)
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_two_upgrades_in_a_row_lose_nothing() {
    let place = Place::new();
    let slow = Behaviour::ServeAfter(Duration::from_millis(5));
    let hosts = ["a", "b"].map(|name| sim_host(name).behaving(slow.clone()).start());
    let config = Config::with_hosts(&[&hosts[0], &hosts[1]]);
    let mut first = Proxy::start_at(&place.socket(), &config).await;
    // More than the four slots, so that requests wait at every moment.
    let load = Load::start(&first, 8, 4);
    load.goes_on(100).await;

    let mut second = Proxy::start_at(&place.socket(), &config).await;
    assert_eq!(second.address(), first.address());
    second.answers().await;
    load.goes_on(100).await;
    let third = Proxy::start_at(&place.socket(), &config).await;
    third.answers().await;
    load.goes_on(100).await;

    assert_eq!(first.ended().await.code(), Some(0));
    assert_eq!(second.ended().await.code(), Some(0));
    load.end().await;
    for log in [first.log(), second.log()] {
        assert!(!log.contains("unfinished"), "{log}");
    }
}

#[tokio::test]
async fn what_runs_and_what_waits_is_finished_by_the_process_that_has_it() {
    let place = Place::new();
    let (host, config) = one_slot();
    let mut old = Proxy::start_at(&place.socket(), &config).await;
    old.finds_healthy("host").await;
    let running = old.client().start_embed("running");
    host.runs(1).await;
    let waiting = old.client().start_embed("waiting");
    old.queues(1).await;

    let new = Proxy::start_at(&place.socket(), &config).await;
    old.logs("another process has taken over").await;
    let later = new.client().start_embed("later");
    host.release_all();

    running.await.unwrap().assert_embedding_of("running");
    waiting.await.unwrap().assert_embedding_of("waiting");
    later.await.unwrap().assert_embedding_of("later");
    assert_eq!(old.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_relieved_process_that_is_told_to_stop_finishes_all_the_same() {
    let place = Place::new();
    let host = sim_host("host")
        .behaving(Behaviour::ServeWhenReleased)
        .start();
    let config = Config::with_hosts(&[&host]);
    let mut old = Proxy::start_at(&place.socket(), &config).await;
    let running = old.client().start_embed("running");
    host.runs(1).await;
    let mut idle = old.connect().await;
    let _new = Proxy::start_at(&place.socket(), &config).await;
    old.logs("another process has taken over").await;

    old.terminate().await;
    assert_eq!(idle.rest().await, "", "idle connections are closed then");
    host.release_all();

    running.await.unwrap().assert_embedding_of("running");
    assert_eq!(old.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_idle_connection_outlives_the_hand_over_by_one_request() {
    let place = Place::new();
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let mut old = Proxy::start_at(&place.socket(), &config).await;
    let mut connection = old.connect().await;
    connection.send_embed("before").await;
    connection.reply().await.assert_embedding_of("before");

    let _new = Proxy::start_at(&place.socket(), &config).await;
    old.logs("another process has taken over").await;
    connection.send_embed("after").await;

    let reply = connection.reply().await;
    reply.assert_embedding_of("after");
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(old.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_connection_of_http2_finishes_its_requests_and_takes_no_more() {
    let place = Place::new();
    let (host, config) = one_slot();
    let mut old = Proxy::start_at(&place.socket(), &config).await;
    let stream = TcpStream::connect(old.address()).await.unwrap();
    let mut wire = Wire::http2(stream).await;
    let Wire::Http2(sender) = &mut wire else {
        unreachable!("asked for")
    };
    let mut clones = [sender.clone(), sender.clone()].map(Wire::Http2);
    let [first, second] = &mut clones;
    let requests = async { tokio::join!(first.embed("running"), second.embed("waiting")) };
    let upgrade = async {
        host.runs(1).await;
        old.queues(1).await;
        let new = Proxy::start_at(&place.socket(), &config).await;
        old.logs("another process has taken over").await;
        host.release_all();
        new
    };

    let ((running, waiting), _new) = tokio::join!(requests, upgrade);

    running.assert_embedding_of("running");
    waiting.assert_embedding_of("waiting");
    assert_eq!(old.ended().await.code(), Some(0));
    let late = wire.embed_request("late");
    assert!(wire.try_send(late).await.is_err(), "it was told to go away");
}

#[tokio::test]
async fn a_successor_with_a_bad_configuration_changes_nothing() {
    let place = Place::new();
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::start_at(&place.socket(), &config).await;
    let bad = write(&config.set("queue", "max_wait", "soon"));

    let ended = start_doomed(bad.path(), &place.socket()).ended().await;

    assert_eq!(ended.code(), Some(2));
    proxy.client().flood(10, 2).await;
}

#[tokio::test]
async fn a_successor_whose_address_is_taken_changes_nothing() {
    let place = Place::new();
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let proxy = Proxy::start_at(&place.socket(), &config).await;
    let taken = host.address().to_string();
    let bad = write(&config.replace("listen", serde_json::json!([{"address": taken}])));

    let mut successor = start_doomed(bad.path(), &place.socket());

    assert_eq!(successor.ended().await.code(), Some(1));
    proxy.logs(SPARED).await;
    proxy.client().flood(10, 2).await;
}

#[tokio::test]
async fn a_successor_that_finds_no_host_changes_nothing() {
    let place = Place::new();
    let host = sim_host("host").start();
    let proxy = Proxy::start_at(&place.socket(), &Config::with_hosts(&[&host])).await;
    proxy.finds_healthy("host").await;
    let wrong = write(&Config::new().host("host", "http://127.0.0.1:1", None));

    let mut successor = start_doomed(wrong.path(), &place.socket());

    assert_eq!(successor.ended().await.code(), Some(1));
    let why = "none of the hosts of this configuration can serve";
    assert!(successor.log().contains(why));
    proxy.client().flood(10, 2).await;
}

#[tokio::test]
async fn a_successor_killed_in_the_hand_over_changes_nothing() {
    let place = Place::new();
    let host = sim_host("host").start();
    let proxy = Proxy::start_at(&place.socket(), &Config::with_hosts(&[&host])).await;
    let hanging = sim_host("hanging").start();
    hanging.set_health(HealthAnswer::Hang);
    let config = write(&Config::with_hosts(&[&hanging]));

    let successor = start_doomed(config.path(), &place.socket());
    proxy.logs(ASKED).await;
    successor.signal("KILL").await;
    proxy.logs(SPARED).await;
    let left = std::fs::read_dir(place.0.path()).unwrap().count();
    assert_eq!(left, 1, "the running process's socket");

    proxy.client().flood(10, 2).await;
    let next = Proxy::start_at(&place.socket(), &Config::with_hosts(&[&host])).await;
    next.client().flood(10, 2).await;
}

#[tokio::test]
async fn a_process_that_waits_for_one_that_is_silent_outlives_a_reload_and_stops_in_order() {
    let place = Place::new();
    let silent = tokio::net::UnixListener::bind(place.socket()).unwrap();
    let config = write(&Config::new().host("host", "http://127.0.0.1:1", None));
    let mut successor = start_doomed(config.path(), &place.socket());
    let _asking = silent.accept().await.unwrap();

    successor.signal("HUP").await;
    successor.terminate().await;

    assert_eq!(successor.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_drained_host_stays_so_in_the_new_process() {
    let place = Place::new();
    let hosts = ["a", "b"].map(|name| sim_host(name).start());
    let config = Config::with_hosts(&[&hosts[0], &hosts[1]]);
    let old = Proxy::start_at(&place.socket(), &config).await;
    old.finds_healthy("b").await;
    let (code, _, errors) = old.command(&["drain", "a"]).await;
    assert_eq!(code, Some(0), "{errors}");

    let new = Proxy::start_at(&place.socket(), &config).await;
    new.client().flood(8, 2).await;

    assert_eq!(hosts[0].arrivals(), 0);
    assert_eq!(hosts[1].arrivals(), 8);
}

#[tokio::test]
async fn a_killed_proxy_leaves_no_obstacle() {
    let place = Place::new();
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let mut killed = Proxy::start_at(&place.socket(), &config).await;
    let pid = killed.id();
    killed.signal("KILL").await;
    killed.ended().await;
    assert!(place.socket().exists(), "nobody tidied up");
    // As if it had been killed while it made its socket.
    let mut unfinished = place.socket().into_os_string();
    unfinished.push(format!(".{pid}"));
    drop(std::os::unix::net::UnixListener::bind(&unfinished).unwrap());

    let next = Proxy::start_at(&place.socket(), &config).await;

    next.client().flood(10, 2).await;
    let left = std::fs::read_dir(place.0.path()).unwrap().count();
    assert_eq!(left, 1, "the new process's socket");
}

#[tokio::test]
async fn a_proxy_that_stops_takes_its_socket_along() {
    let place = Place::new();
    let host = sim_host("host").start();
    let mut proxy = Proxy::start_at(&place.socket(), &Config::with_hosts(&[&host])).await;

    proxy.terminate().await;

    assert_eq!(proxy.ended().await.code(), Some(0));
    assert_eq!(std::fs::read_dir(place.0.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_signal_makes_the_proxy_start_its_own_successor() {
    let place = Place::new();
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let mut old = Proxy::start_at(&place.socket(), &config).await;
    let client = old.client();
    client.flood(3, 1).await;

    old.signal("USR2").await;
    old.logs("another process has taken over").await;
    let successor = Successor::of(&old);

    // On the connection that the old one is about to end, and on the new one's.
    client.flood(3, 1).await;
    client.flood(3, 1).await;
    successor.stop();
    assert_eq!(old.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_successor_serves_though_nobody_reads_its_standard_output() {
    let place = Place::new();
    let host = sim_host("host").start();
    let config = Config::with_hosts(&[&host]);
    let mut old = Proxy::start_at(&place.socket(), &config).await;
    old.close_stdout();

    old.signal("USR2").await;
    old.logs("another process has taken over").await;
    let successor = Successor::of(&old);

    eventually("the old process has ended", async || old.has_ended()).await;
    old.client().flood(10, 2).await;
    successor.stop();
    assert_eq!(old.ended().await.code(), Some(0));
}

/// A process that the proxy started, not the test. It shares the proxy's standard error, whose end
/// shows the end of both.
struct Successor(String);

impl Successor {
    fn of(proxy: &Proxy) -> Self {
        let log = proxy.log();
        let (_, rest) = log.split_once("started a successor").unwrap();
        let digits = |c: char| !c.is_ascii_digit();
        let pid = rest.split(digits).find(|number| !number.is_empty());
        Self(pid.unwrap().to_owned())
    }

    fn stop(&self) {
        let script = format!("kill {}", self.0);
        let sent = std::process::Command::new("sh")
            .args(["-c", &script])
            .status();
        assert!(sent.unwrap().success(), "the successor runs");
    }
}
