//! Notices that the configuration has changed.
//!
//! By looking at what the files hold, again and again, rather than by the system's notifications:
//! those are lost with the file that an editor replaces, never come from some mounts, and have to
//! follow each link that Kubernetes swaps. The files are few and small.
//!
//! A file may be seen half-written, and of several that belong together the first may be there before
//! the last. So nothing is done until they have looked the same twice.

use std::time::Duration;

use super::Reloader;
use crate::config::Sources;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// What was seen last.
#[derive(Default)]
struct Watch(Option<Sources>);

impl Watch {
    /// Is it time to reload? `known`: what the last configuration was made of.
    fn sees(&mut self, now: Sources, known: &Sources) -> bool {
        let settled = self.0.as_ref() == Some(&now);
        let changed = now != *known;
        self.0 = Some(now);
        changed && settled
    }
}

/// Looks and reloads, for ever.
pub(super) async fn run(reloader: &Reloader) {
    let mut watch = Watch::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let known = reloader.sources();
        let files = known.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || files.now()).await else {
            continue;
        };
        if watch.sees(now, &known) {
            // It tells the log and the metrics what is wrong; there is nobody else to tell.
            let _ = reloader.reload().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(text: &str) -> Sources {
        Sources::made_of("file", text)
    }

    #[test]
    fn a_change_counts_once_it_has_settled_and_until_it_is_known() {
        let (old, half, new) = (holding("old"), holding("ha"), holding("new"));
        let mut watch = Watch::default();
        let mut sees = |now: &Sources, known: &Sources| watch.sees(now.clone(), known);
        assert!(!sees(&old, &old));
        assert!(!sees(&old, &old));
        assert!(!sees(&half, &old), "perhaps half-written");
        assert!(!sees(&new, &old), "it was");
        assert!(sees(&new, &old));
        assert!(!sees(&new, &new), "it has been looked into");
        assert!(!sees(&old, &new));
        assert!(sees(&old, &new), "back again");
    }

    #[test]
    fn a_change_that_is_taken_back_before_it_settles_is_none() {
        let (old, new) = (holding("old"), holding("new"));
        let mut watch = Watch::default();
        for now in [&new, &old, &old] {
            assert!(!watch.sees(now.clone(), &old));
        }
    }
}
