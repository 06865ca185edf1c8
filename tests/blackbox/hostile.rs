//! Clients and hosts that mean harm cost a bounded part of the processor, of memory and of files, and everybody else
//! is served meanwhile.

use std::time::Duration;

use crate::harness::{
    Behaviour, Config, Ending, HTTP_2, Proxy, RawConnection, SimHost, embed_body, eventually,
    frame, sim_host,
};

/// MiB that the proxy may take beyond what it takes before.
const MOST_MEMORY: u64 = 64;
/// Of the processor's time, for all cases of one test; a build without optimisation takes a tenth of it.
const MOST_CPU: Duration = Duration::from_mins(1);

/// What the proxy takes, to be held against what it takes later.
pub(crate) struct Bill<'p> {
    proxy: &'p Proxy,
    cpu: Duration,
    memory: u64,
    files: usize,
}

impl<'p> Bill<'p> {
    pub(crate) fn open(proxy: &'p Proxy) -> Self {
        Self {
            proxy,
            cpu: proxy.cpu_time(),
            memory: proxy.peak_memory(),
            files: proxy.open_files(),
        }
    }

    /// Returns once all files are closed but a few that are kept for more of the same.
    pub(crate) async fn is_small(&self, kept: usize) {
        let (cpu, memory) = (
            self.proxy.cpu_time().saturating_sub(self.cpu),
            self.proxy.peak_memory() - self.memory,
        );
        assert!(cpu < MOST_CPU, "{cpu:?} of the processor's time");
        assert!(memory < MOST_MEMORY, "{memory} MiB");
        eventually("files are closed", async || {
            self.proxy.open_files() <= self.files + kept
        })
        .await;
    }
}

/// Answers that are none, by what is wrong with them; of those that go on for long, as much as is ever read.
fn nonsense() -> Vec<(&'static str, String)> {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let chunked = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n");
    let long = "x".repeat(2 << 20);
    vec![
        (
            "headers without end",
            format!("{HEAD}{}", "A: b\r\n".repeat(400_000)),
        ),
        ("a header without end", format!("{HEAD}A: {long}")),
        (
            "headers by the hundred",
            format!("{HEAD}{}\r\n", "A: b\r\n".repeat(300)),
        ),
        (
            "interim answers without end",
            "HTTP/1.1 102 Processing\r\n\r\n".repeat(50_000),
        ),
        (
            "another protocol from now on",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(),
        ),
        (
            "less than is announced",
            format!("{HEAD}Content-Length: 18446744073709551615\r\n\r\n{{}}"),
        ),
        (
            "a length beyond all numbers",
            format!("{HEAD}Content-Length: 18446744073709551616\r\n\r\n{{}}"),
        ),
        (
            "two lengths",
            format!("{HEAD}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"),
        ),
        (
            "a chunk that does not come",
            format!("{chunked}FFFFFFFFFFFFFFF\r\n{{}}"),
        ),
        (
            "a chunk beyond all numbers",
            format!("{chunked}FFFFFFFFFFFFFFFFF\r\n{{}}"),
        ),
        (
            "chunks that say more than they hold",
            format!(
                "{chunked}{}",
                format!("1;{}\r\n \r\n", "a".repeat(90)).repeat(20_000)
            ),
        ),
        (
            "chunks of a byte, and no end",
            format!("{chunked}{}", "1\r\n \r\n".repeat(300_000)),
        ),
        (
            "trailers without end",
            format!("{chunked}2\r\n{{}}\r\n0\r\n{}", "A: b\r\n".repeat(100_000)),
        ),
        (
            "a bare line end in the head",
            format!("{HEAD}A: b\rContent-Length: 2\r\n\r\n{{}}"),
        ),
        (
            "a zero byte in the head",
            format!("{HEAD}A: b\0\r\nContent-Length: 2\r\n\r\n{{}}"),
        ),
        (
            "a status that is none",
            "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        ),
        (
            "HTTP/1.0 and chunks",
            chunked.replace("HTTP/1.1", "HTTP/1.0") + "2\r\n{}\r\n0\r\n\r\n",
        ),
        ("HTTP/0.9", "{\"embeddings\":[[1]]}".to_owned()),
        ("HTTP/2", "\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0d".to_owned()),
        ("TLS", "\x15\x03\x01\0\x02\x02\x46".to_owned()),
    ]
}

#[tokio::test]
async fn hosts_that_talk_nonsense_cost_little_and_every_request_is_served() {
    let evil: Vec<(&str, SimHost)> = nonsense()
        .into_iter()
        .enumerate()
        .map(|(number, (what, said))| {
            let says = Behaviour::Say(said.leak(), Ending::Close);
            (
                what,
                sim_host(&format!("evil-{number}")).behaving(says).start(),
            )
        })
        .collect();
    let good = sim_host("good").slots(8).start();
    let hosts: Vec<&SimHost> = evil.iter().map(|(_, host)| host).chain([&good]).collect();
    // Each request may meet them all.
    let config = Config::with_hosts(&hosts)
        .set("retries", "max_faulted_hosts", 100)
        .set("retries", "budget_percent", 100);
    let proxy = Proxy::ready(&config, &hosts).await;
    let bill = Bill::open(&proxy);
    let client = proxy.client();
    while evil.iter().any(|(_, host)| host.arrivals() == 0) {
        client.embed("x").await.assert_embedding_of("x");
    }
    for (what, host) in &evil {
        assert_eq!(
            proxy.failed_attempts(host.name()).await,
            host.arrivals() as u64,
            "{what}"
        );
    }
    bill.is_small(2 * hosts.len()).await;
}

/// Half heads, nothing at all, half handshakes: whatever it is, nothing is kept of a thousand of them.
#[tokio::test]
async fn a_flood_of_connections_costs_little_and_leaves_nothing() {
    const CONNECTIONS: usize = 600;
    let host = sim_host("host").start();
    let proxy = Proxy::in_front_of(&[&host]).await;
    let bill = Bill::open(&proxy);
    let starts = [
        &b""[..],
        b"POST /embed HTTP/1.1\r\nHost: p\r\nX: ",
        HTTP_2,
        b"\x16\x03\x01\x02\0\x01",
    ];
    let mut held = Vec::new();
    for start in starts.iter().cycle().take(CONNECTIONS) {
        let mut connection: RawConnection = proxy.connect().await;
        // Some are hung up on at once.
        let _ = connection.try_send(start).await;
        held.push(connection);
    }
    proxy.client().embed("x").await.assert_embedding_of("x");
    drop(held);
    bill.is_small(8).await;
}

/// A request of HTTP/2 for an embedding.
fn post(stream: u32) -> Vec<u8> {
    let head = frame(1, 4, stream, b"\x83\x86\x44\x06/embed\x41\x05proxy");
    let body = embed_body("x").to_string();
    [head, frame(0, 1, stream, body.as_bytes())].concat()
}

async fn bytes_held(proxy: &Proxy) -> u64 {
    let metrics = proxy.metrics().await;
    metrics.count("gpu_bridge_buffered_bytes", &[])
}

/// Its windows are wide open, so that all answers are on their way at once.
#[tokio::test]
async fn who_reads_nothing_of_its_connection_has_its_answers_counted_and_is_cut() {
    const WINDOWS: &[u8] = b"\0\x04\x7f\xff\xff\xff";
    const REQUESTS: u32 = 100;
    let host = sim_host("host")
        .slots(100)
        .behaving(Behaviour::ServePadded(300 << 10))
        .start();
    let config = Config::with_hosts(&[&host]).set("timeouts", "client_read", "2s");
    let proxy = Proxy::ready(&config, &[&host]).await;
    let mut client = proxy.connect().await;
    let windows = [frame(4, 0, 0, WINDOWS), frame(8, 0, 0, b"\x3f\xff\xff\xff")];
    let requests = (0..REQUESTS).flat_map(|at| post(2 * at + 1));
    let requests: Vec<u8> = requests.collect();
    client
        .send([HTTP_2, &windows.concat(), &requests].concat())
        .await;
    eventually("all is answered by the host", async || {
        host.arrivals() == REQUESTS as usize
    })
    .await;
    host.runs(0).await;
    eventually("its answers are counted", async || {
        bytes_held(&proxy).await > 16 << 20
    })
    .await;
    eventually("it is cut, and nothing is left", async || {
        let metrics = proxy.metrics().await;
        let open = metrics.count("gpu_bridge_connections_open", &[]);
        open == 0 && bytes_held(&proxy).await == 0
    })
    .await;
}
