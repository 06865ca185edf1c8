//! Clients that take nothing of their answers: what is held for them is bounded, and whoever reads, however slowly,
//! is served beside them.

use std::time::Duration;

use tokio::time::{interval, timeout};

use crate::harness::{
    Behaviour, Config, HTTP_2, Proxy, RawConnection, SimHost, embed_body, eventually, frame,
    sim_host,
};

const MIB: usize = 1 << 20;
/// Of an answer: held as a whole, and more than what the system holds of a connection.
const ANSWER: usize = 12 * MIB;
/// Of a body for which there is no room while nobody reads.
const LARGE: usize = 8 * MIB;
/// Of an answer that is read slowly.
const PIECE: usize = MIB / 2;
/// Connections to the host that stay open for more requests.
const KEPT: usize = 40;
/// Of `limits.max_buffered`.
const HELD: usize = 64 * MIB;
/// Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_mins(1);
/// Much sooner than a client's time for a piece is over.
const SOON: Duration = Duration::from_secs(30);

/// Its client has long for each piece.
async fn scene() -> (SimHost, Proxy) {
    let host = sim_host("host")
        .slots(100)
        .behaving(Behaviour::ServePadded(ANSWER))
        .start();
    let config = Config::with_hosts(&[&host])
        .set("limits", "max_buffered", "64MiB")
        .set("timeouts", "client_read", "10m");
    let proxy = Proxy::ready(&config, &[&host]).await;
    (host, proxy)
}

async fn held(proxy: &Proxy) -> usize {
    let metrics = proxy.metrics().await;
    let held = metrics.count("gpu_bridge_buffered_bytes", &[]);
    usize::try_from(held).unwrap()
}

/// Asks for many answers at once in HTTP/2, and reads none; the windows are wide open.
async fn multiplexed(proxy: &Proxy, requests: u32) -> RawConnection {
    const WINDOWS: &[u8] = b"\0\x04\x7f\xff\xff\xff";
    let body = embed_body("x").to_string();
    let post = |stream| {
        let head = frame(1, 4, stream, b"\x83\x86\x44\x06/embed\x41\x05proxy");
        [head, frame(0, 1, stream, body.as_bytes())].concat()
    };
    let windows = [frame(4, 0, 0, WINDOWS), frame(8, 0, 0, b"\x3f\xff\xff\xff")].concat();
    let requests: Vec<u8> = (0..requests).flat_map(|at| post(2 * at + 1)).collect();
    let mut connection = proxy.connect().await;
    connection
        .send([HTTP_2, &windows, &requests].concat())
        .await;
    connection
}

async fn single(proxy: &Proxy) -> RawConnection {
    let mut connection = proxy.connect().await;
    connection.send_embed("x").await;
    connection
}

/// Reads the body of an answer in pieces, with pauses.
async fn read_slowly(mut connection: RawConnection) {
    let mut pauses = interval(Duration::from_millis(300));
    for _ in 0..ANSWER / PIECE {
        pauses.tick().await;
        connection.body(PIECE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_makes_room_for_those_who_read_however_slowly() {
    let (_host, proxy) = scene().await;
    let (memory, files) = (proxy.peak_memory(), proxy.open_files());
    let mut slow = single(&proxy).await;
    slow.head().await;
    let slow = tokio::spawn(read_slowly(slow));
    let mut stalled = Vec::new();
    for _ in 0..10 {
        stalled.push(single(&proxy).await);
        stalled.push(multiplexed(&proxy, 2).await);
    }
    eventually("there is no room", async || {
        held(&proxy).await > HELD - LARGE / 2
    })
    .await;

    let large = embed_body(&"x".repeat(LARGE));
    let client = proxy.client();
    let served = async {
        let mut refused = 0;
        while client.post("/embed", &large).await.status != 200 {
            refused += 1;
            assert!(held(&proxy).await <= HELD);
        }
        refused
    };
    let refused = timeout(SOON, served).await.expect("there is room soon");
    assert!(refused > 0, "there was room all the time");
    let slow = timeout(PATIENCE, slow).await;
    slow.expect("a slow answer").unwrap();
    let memory = proxy.peak_memory() - memory;
    assert!(memory < 192, "{memory} MiB, of which 64 may be held");
    drop((stalled, client));
    eventually("nothing is left", async || {
        held(&proxy).await == 0 && proxy.open_files() <= files + KEPT
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_stops_waits_for_who_reads_slowly_and_for_nobody_who_says_nothing() {
    let (_host, mut proxy) = scene().await;
    let mut silent = Vec::new();
    for start in [
        &b""[..],
        b"POST /embed HTTP/1.1\r\nHost: p\r\n",
        HTTP_2,
        b"\r\n",
    ] {
        let mut connection = proxy.connect().await;
        connection.send(start).await;
        silent.push(connection);
    }
    let mut slow = single(&proxy).await;
    let mut half_closed = single(&proxy).await;
    half_closed.shut_down().await;
    silent.push(half_closed);
    let (status, _) = slow.head().await;
    assert_eq!(status, 200);

    proxy.terminate().await;

    assert_eq!(slow.body(ANSWER).await.len(), ANSWER);
    let ended = timeout(SOON, proxy.ended()).await;
    assert_eq!(ended.expect("it ends").code(), Some(0));
}
