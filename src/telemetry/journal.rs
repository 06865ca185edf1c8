//! What happens to one request while it happens: its waits and attempts, each a guard that writes down
//! its end when it is dropped, so that a request that is given up half-way is as well described as one
//! that is answered.
//!
//! Shared: whoever asks sees the story so far. The lock is held for a few copies.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::request_record::{ABANDONED, Attempt, RUNNING, RequestRecord, Wait};
use super::trace::SpanId;

/// Longer texts, such as a chain of errors, are cut.
const MAX_TEXT: usize = 300;
/// Shorter waits are not worth a line in the story.
const NOTEWORTHY: Duration = Duration::from_millis(1);

/// See the module; cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    started: Instant,
    story: Arc<Mutex<Story>>,
}

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Each time in line, however short.
    pub waits: Vec<Wait>,
    /// Each attempt, in order.
    pub attempts: Vec<Attempt>,
}

/// A wait that lasts until this is dropped.
#[derive(Debug)]
pub struct Waiting {
    journal: Journal,
    position: usize,
}

/// An attempt that runs until this is dropped.
#[derive(Debug)]
pub struct Attempting {
    journal: Journal,
    position: usize,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            story: Arc::default(),
        }
    }
}

impl Journal {
    /// When it was begun.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Since it was begun.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Has an attempt been made?
    pub fn is_attempted(&self) -> bool {
        !self.story.lock().attempts.is_empty()
    }

    /// Is it on a host, or was it when it was given up?
    pub fn is_on_host(&self) -> bool {
        let story = self.story.lock();
        let last = story.attempts.last();
        last.is_some_and(|attempt| [RUNNING, ABANDONED].contains(&&*attempt.verdict))
    }

    /// Begins to wait for a host.
    pub fn wait(&self) -> Waiting {
        let waits = &mut self.story.lock().waits;
        waits.push(Wait {
            after: self.elapsed(),
            took: None,
            why: None,
        });
        Waiting {
            journal: self.clone(),
            position: waits.len() - 1,
        }
    }

    /// Begins an attempt.
    pub fn attempt(&self, host: &str, span_id: Option<SpanId>) -> Attempting {
        let attempts = &mut self.story.lock().attempts;
        attempts.push(Attempt {
            host: host.to_owned(),
            after: self.elapsed(),
            took: None,
            verdict: Cow::Borrowed(RUNNING),
            reason: None,
            span_id,
        });
        Attempting {
            journal: self.clone(),
            position: attempts.len() - 1,
        }
    }

    /// Time spent waiting so far.
    pub fn queued(&self) -> Duration {
        self.story.lock().queued(self.elapsed())
    }

    /// Time so far with at least one attempt running.
    pub fn upstream(&self) -> Duration {
        self.story.lock().upstream(self.elapsed())
    }

    /// A copy of what has happened so far.
    pub fn story(&self) -> Story {
        self.story.lock().clone()
    }

    /// Tells the story so far.
    pub fn tell(&self, record: &mut RequestRecord) {
        let now = self.elapsed();
        let story = self.story();
        record.total = now;
        record.queued = story.queued(now);
        record.upstream = story.upstream(now);
        record.attempts = story.attempts;
        record.waits = story.waits;
        let is_noteworthy = |wait: &Wait| wait.took.is_none_or(|took| took >= NOTEWORTHY);
        record.waits.retain(is_noteworthy);
    }
}

impl Story {
    fn queued(&self, now: Duration) -> Duration {
        let waits = self.waits.iter();
        let times = waits.map(|wait| wait.took.unwrap_or(now.saturating_sub(wait.after)));
        times.sum()
    }

    fn upstream(&self, now: Duration) -> Duration {
        let spans = self.attempts.iter().map(|attempt| {
            let end = attempt.took.map_or(now, |took| attempt.after + took);
            (attempt.after, end)
        });
        covered(spans)
    }
}

/// How much time spans cover that may overlap; in the order of their beginnings.
fn covered(spans: impl Iterator<Item = (Duration, Duration)>) -> Duration {
    let mut sum = Duration::ZERO;
    let mut until = Duration::ZERO;
    for (start, end) in spans {
        sum += end.saturating_sub(start.max(until));
        until = until.max(end);
    }
    sum
}

impl Waiting {
    /// When it began.
    pub fn started(&self) -> Instant {
        let story = self.journal.story.lock();
        let after = story.waits.get(self.position).map(|wait| wait.after);
        self.journal.started + after.unwrap_or_default()
    }

    /// Says what is waited for.
    pub fn because(&self, why: String) {
        if let Some(wait) = self.journal.story.lock().waits.get_mut(self.position) {
            wait.why = Some(cut(why));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let now = self.journal.elapsed();
        if let Some(wait) = self.journal.story.lock().waits.get_mut(self.position) {
            wait.took = Some(now.saturating_sub(wait.after));
        }
    }
}

impl Attempting {
    /// The attempt has ended; dropped without it, it was abandoned.
    pub fn end(self, verdict: &'static str, reason: Option<String>) {
        let attempts = &mut self.journal.story.lock().attempts;
        if let Some(attempt) = attempts.get_mut(self.position) {
            attempt.verdict = Cow::Borrowed(verdict);
            attempt.reason = reason.map(cut);
        }
    }
}

impl Drop for Attempting {
    fn drop(&mut self) {
        let now = self.journal.elapsed();
        let attempts = &mut self.journal.story.lock().attempts;
        let Some(attempt) = attempts.get_mut(self.position) else {
            return;
        };
        attempt.took = Some(now.saturating_sub(attempt.after));
        if attempt.verdict == RUNNING {
            attempt.verdict = Cow::Borrowed(ABANDONED);
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_is_dropped_is_written_down() {
        let journal = Journal::default();
        let waiting = journal.wait();
        waiting.because("a: full".to_owned());
        tokio::time::advance(SECOND).await;
        drop(waiting);
        let good = journal.attempt("a", None);
        let lost = journal.attempt("b", None);
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(journal.story().attempts[0].verdict, RUNNING);
        assert_eq!(journal.upstream(), 2 * SECOND);
        good.end("deliver", None);
        tokio::time::advance(SECOND).await;
        drop(lost);

        let mut record = RequestRecord::new(String::new());
        journal.wait();
        journal.tell(&mut record);
        assert_eq!(record.waits.len(), 1, "one that took no time is none");
        assert_eq!(record.waits[0].took, Some(SECOND));
        let told: Vec<_> = record
            .attempts
            .iter()
            .map(|tried| (&*tried.verdict, tried.after, tried.took))
            .collect();
        let expected = [
            ("deliver", SECOND, Some(2 * SECOND)),
            (ABANDONED, SECOND, Some(3 * SECOND)),
        ];
        assert_eq!(told, expected);
        assert_eq!((record.queued, record.upstream), (SECOND, 3 * SECOND));
        assert_eq!(record.total, 4 * SECOND);
    }

    #[test]
    fn overlapping_times_count_once() {
        let covered = |spans: &[(u32, u32)]| {
            let times = spans
                .iter()
                .map(|(from, to)| (SECOND * *from, SECOND * *to));
            covered(times).as_secs()
        };
        assert_eq!(covered(&[]), 0);
        assert_eq!(covered(&[(0, 2), (3, 4)]), 3);
        assert_eq!(covered(&[(0, 4), (1, 2), (3, 6)]), 6);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let cut = cut("é".repeat(MAX_TEXT));
        assert_eq!(cut.chars().count(), MAX_TEXT / 2 + 1);
    }
}
