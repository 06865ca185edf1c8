//! Waiting for something that happens in another process.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Generous: only a failing test takes that long.
const DEADLINE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// Returns as soon as `condition` holds. Fails the test, saying `what` was waited for, if it never
/// does.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        sleep(POLL).await;
    }
}
