//! Connections to hosts that are kept between requests.
//!
//! A kept connection costs nothing but itself: whether it is still good is seen when it is taken, and one
//! that has idled for too long is closed by whoever looks next, once a second at the latest.

use std::net::SocketAddr;
use std::time::Duration;

use foldhash::HashMap;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use pingora::protocols::Stream;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

/// How long a connection is kept. Below uvicorn's 5 s, so that we rather than the Python service end it.
const IDLE: Duration = Duration::from_secs(4);
/// How often those that are kept are gone through.
const SWEEP: Duration = Duration::from_secs(1);

/// Whose connections they are, and to which of its addresses.
pub(super) type Key = (u64, SocketAddr);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Each in the order in which they were put here.
    connections: Mutex<HashMap<Key, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    stream: Stream,
    since: Instant,
}

impl Kept {
    pub(super) fn put(&self, key: Key, stream: Stream) {
        let since = Instant::now();
        let mut connections = self.connections.lock();
        let idle = Idle { stream, since };
        connections.entry(key).or_default().push(idle);
    }

    /// The one that was put here last and is good. A host that speaks unasked, or has hung up, has done with
    /// its connection.
    pub(super) fn take(&self, key: Key) -> Option<Stream> {
        let now = Instant::now();
        let mut connections = self.connections.lock();
        let connections = connections.get_mut(&key)?;
        while let Some(mut idle) = connections.pop() {
            let is_silent = idle.stream.read(&mut [0]).now_or_never().is_none();
            if is_silent && now.duration_since(idle.since) < IDLE {
                return Some(idle.stream);
            }
        }
        None
    }

    /// Closes all, since their descriptors are needed. Were there any?
    pub(super) fn close_all(&self) -> bool {
        let connections = std::mem::take(&mut *self.connections.lock());
        connections
            .values()
            .any(|connections| !connections.is_empty())
    }

    /// Closes those whose time is over, for ever.
    pub(super) async fn keep_time(&self) {
        let mut often = tokio::time::interval(SWEEP);
        loop {
            often.tick().await;
            self.close_old();
        }
    }

    fn close_old(&self) {
        let now = Instant::now();
        self.connections.lock().retain(|_, connections| {
            let is_old = |idle: &Idle| now.duration_since(idle.since) >= IDLE;
            let old = connections.partition_point(is_old);
            connections.drain(..old);
            !connections.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream};

    use super::*;

    fn key(port: u16) -> Key {
        (1, ([127, 0, 0, 1], port).into())
    }

    fn keep(kept: &Kept, port: u16) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(10);
        kept.put(key(port), Box::new(ours));
        theirs
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_one_to_an_address_is_taken() {
        let kept = Kept::default();
        let mut hosts = [1, 1, 2, 1, 1].map(|port| keep(&kept, port));
        hosts[3].write_all(b"last words").await.unwrap();
        hosts[4].shutdown().await.unwrap();
        let mut taken = kept.take(key(1)).unwrap();
        taken.write_all(b"!").await.unwrap();
        assert_eq!(hosts[1].read_u8().await.unwrap(), b'!');
        assert!(kept.take(key(1)).is_some(), "the first");
        assert!(kept.take(key(1)).is_none());
        assert!(kept.take(key(2)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn none_is_kept_for_longer_than_hosts_keep_theirs() {
        let kept = Kept::default();
        let mut old = keep(&kept, 1);
        tokio::time::advance(IDLE / 2).await;
        let _new = keep(&kept, 1);
        tokio::time::advance(IDLE / 2).await;
        kept.close_old();
        assert_eq!(old.read(&mut [0]).await.unwrap(), 0, "closed");
        assert_eq!(kept.connections.lock()[&key(1)].len(), 1);
        tokio::time::advance(IDLE / 2).await;
        assert!(kept.take(key(1)).is_none());
        kept.close_old();
        assert!(!kept.close_all(), "nothing is left");
    }

    #[tokio::test(start_paused = true)]
    async fn all_make_room_at_once() {
        let kept = Kept::default();
        let mut hosts = [1, 2].map(|port| keep(&kept, port));
        assert!(kept.close_all());
        for host in &mut hosts {
            assert_eq!(host.read(&mut [0]).await.unwrap(), 0, "closed");
        }
    }
}
