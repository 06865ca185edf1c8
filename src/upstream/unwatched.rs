//! Attempts that nobody warns of a host that falls silent: at an address that it has left, or on one that is no
//! longer of the pool, since checks ask only where new requests go. Such an attempt asks for itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::attempt::Attempt;
use super::exchange::{Destination, Exchange};

/// So often, and no sooner than an attempt takes as long: as checks do while one runs.
const ASKED: Duration = Duration::from_millis(500);

impl Attempt<'_> {
    /// Returns once the host leaves unanswered at `address` what no check asks there any more.
    pub(super) async fn falls_silent(&self, address: SocketAddr) {
        loop {
            sleep(ASKED).await;
            if !self.target.is_checked_at(address) && self.is_silent(address).await {
                return;
            }
        }
    }

    async fn is_silent(&self, address: SocketAddr) -> bool {
        let destination = Destination {
            target: Arc::clone(&self.target),
            address,
        };
        let request = self.target.get(self.target.health_path());
        let patience = self.means.config.get().health.timeout;
        let asked = Exchange::start(self.means, destination, request, &[], false);
        match timeout(patience, asked).await {
            Err(_) => true,
            Ok(answered) => answered.is_err_and(|failure| failure.is_silence()),
        }
    }
}
