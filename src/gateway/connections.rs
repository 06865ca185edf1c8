//! A bound on the connections of clients, and the way to know when the last one is done.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, watch};

/// What a client over the limit reads before its connection is closed.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: application/json\r\n\
    Retry-After: 1\r\n\
    Connection: close\r\n\
    Content-Length: 51\r\n\r\n\
    {\"detail\":\"too many open connections; retry later\"}";

/// An application for a bounded number of connections at once.
pub struct ConnectionLimit<A> {
    inner: Arc<A>,
    connections: Connections,
    close_idle: watch::Receiver<bool>,
}

/// Counts the open connections; cheap to clone.
#[derive(Clone)]
pub struct Connections {
    free: Arc<Semaphore>,
    limit: u32,
}

impl Connections {
    /// At most `limit` at once.
    pub fn new(limit: usize) -> Self {
        let limit = u32::try_from(limit.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(limit as usize)),
            limit,
        }
    }

    /// Waits until no connection is open; false if that takes longer than `timeout`.
    pub async fn closed(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.free.acquire_many(self.limit))
            .await
            .is_ok()
    }
}

impl<A> ConnectionLimit<A> {
    /// Bounds the connections to `inner`. Those without a request are closed once nothing is accepted
    /// any more and `close_idle` says so.
    pub fn new(inner: A, connections: Connections, close_idle: watch::Receiver<bool>) -> Self {
        Self {
            inner: Arc::new(inner),
            connections,
            close_idle,
        }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for ConnectionLimit<A> {
    async fn process_new(
        self: &Arc<Self>,
        mut stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let Ok(_connection) = self.connections.free.try_acquire() else {
            tracing::warn!("a connection was refused: limits.max_connections are open");
            // Best effort: a client that is not reading loses nothing it has a right to.
            let _ = stream.write_all(FULL).await;
            let _ = stream.shutdown().await;
            return None;
        };
        let mut reusable = Some(stream);
        while let Some(stream) = reusable {
            reusable = self.inner.process_new(stream, shutdown).await;
        }
        None
    }

    async fn cleanup(&self) {
        // pingora calls this as soon as nothing is accepted any more, and closes idle connections in
        // it, perhaps under a request that is on its way.
        let _ = self.close_idle.clone().wait_for(|close| *close).await;
        self.inner.cleanup().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_well_formed() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{}",
            body.len()
        );
        assert!(serde_json::from_str::<gpu_bridge_wire::ErrorBody>(body).is_ok());
    }
}
